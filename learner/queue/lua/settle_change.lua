-- Settles a change that waited for the learner: it is applied or refused from now on, and what it puts in force is in force.
-- KEYS: 1 changes, 2 change_requests, 3 change_pending, 4 change_state, 5 settings, 6 drained, 7 pinned, 8 epoch
-- ARGV: 1 number, 2 the change, serialized without its number, 3 the learner's epoch, or "", then what it puts in force as in
--       request_change.lua
-- Returns 1; 0 if it does not wait any more, and nothing was changed.
if ARGV[3] ~= '' and ARGV[3] ~= redis.call('GET', KEYS[8]) then
  return redis.error_reply('FENCED epoch ' .. ARGV[3] .. ' is over')
end
redis.call('PERSIST', KEYS[4])  -- as in request_change.lua
if redis.call('ZREM', KEYS[3], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = 4, #ARGV, 4 do
  redis.call('HINCRBY', KEYS[4], 'revision', 1)
  if ARGV[i] == 'HSET' then
    redis.call(ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2], ARGV[i + 3])
  else
    redis.call(ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2])
  end
end
return 1
