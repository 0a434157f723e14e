-- Writes down a change that an operator requests. A request that is known already changes nothing.
-- KEYS: 1 changes, 2 change_requests, 3 change_pending, 4 change_state, 5 settings, 6 drained, 7 pinned
-- ARGV: 1 request id, 2 the change, serialized without its number, 3 revision of what is in force that it was made for, or "",
--       4 most changes kept, 5 most that wait for the learner, 6 "1" if it waits for the learner, then what it puts in force:
--       command, number of a key, member, value or "", ...
-- Returns the change's number; 0 if the revision is over; -1 if too many wait for the learner.
redis.call('PERSIST', KEYS[4])  -- passes also when memory is full, and so does what follows it (start.lua)
local known = redis.call('ZSCORE', KEYS[2], ARGV[1])
if known then
  return tonumber(known)
end
if ARGV[3] ~= '' and ARGV[3] ~= (redis.call('HGET', KEYS[4], 'revision') or '0') then
  return 0
end
if ARGV[6] == '1' and #redis.call('ZRANGE', KEYS[3], 0, -1) >= tonumber(ARGV[5]) then
  return -1
end
local number = redis.call('HINCRBY', KEYS[4], 'number', 1)
redis.call('HSET', KEYS[1], number, ARGV[2])
redis.call('ZADD', KEYS[2], number, ARGV[1])
if ARGV[6] == '1' then
  redis.call('ZADD', KEYS[3], number, number)
end
for i = 7, #ARGV, 4 do
  redis.call('HINCRBY', KEYS[4], 'revision', 1)
  if ARGV[i] == 'HSET' then
    redis.call(ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2], ARGV[i + 3])
  else
    redis.call(ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2])
  end
end
-- The oldest that does not wait for the learner goes.
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4]) then
  for _, request in ipairs(redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[5]))) do
    local oldest = redis.call('ZSCORE', KEYS[2], request)
    if not redis.call('ZSCORE', KEYS[3], oldest) then
      redis.call('HDEL', KEYS[1], oldest)
      redis.call('ZREM', KEYS[2], request)
      break
    end
  end
end
return number
