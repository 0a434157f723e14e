-- Records finished groups again that Redis has lost completely in a restart, with their append.
-- Changes nothing for a group whose id is known, or so old that it may have been forgotten when it was time to.
-- KEYS: 1 epoch, 2 fleets, 3 stream, 4 ledger, 5 vanished, 6 memory, then ids of each group
-- ARGV: 1 epoch, 2 outcome, 3 step, 4 fleet, then each group's id
-- What was known of their content is lost with them: they are in no distribution, and neither "without_contrast" nor
-- "unscored".
-- Returns how many were recorded.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
local restored, cutoff = 0, tonumber(redis.call('HGET', KEYS[6], 'cutoff') or 0)
for i = 5, #ARGV do
  local key, id = KEYS[i + 2], ARGV[i]
  local made = tonumber(string.sub(id, 1, 8) .. string.sub(id, 10, 13), 16) or 0
  if redis.call('HEXISTS', key, id) == 0 and made >= cutoff then
    if redis.call('SADD', KEYS[2], ARGV[4]) == 1 then
      redis.call('XGROUP', 'CREATE', KEYS[3], 'learner', '0', 'MKSTREAM')
    end
    redis.call('HSET', key, id, ARGV[2] .. ':' .. ARGV[3])
    redis.call('HINCRBY', KEYS[6], string.match(key, '%d+$'), 0)
    redis.call('HINCRBY', KEYS[4], 'ids', 1)
    redis.call('SREM', KEYS[5], id)
    -- It was among those that an operator has given up as lost.
    if tonumber(redis.call('HGET', KEYS[4], 'vanished') or 0) > 0 then
      redis.call('HINCRBY', KEYS[4], 'vanished', -1)
    end
    for _, field in ipairs({'received', 'accepted', ARGV[2]}) do
      redis.call('HINCRBY', KEYS[4], field, 1)
    end
    restored = restored + 1
  end
end
return restored
