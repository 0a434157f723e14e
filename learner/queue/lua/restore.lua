-- Records finished groups again that Redis has lost completely in a restart, with their append.
-- Changes nothing for a group whose id is known.
-- KEYS: 1 epoch, 2 fleets, 3 stream, 4 ledger, 5 vanished, then the id key of each group
-- ARGV: 1 epoch, 2 outcome, 3 step, 4 seconds to remember ids for, 5 fleet, then each group's id
-- Returns how many were recorded.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
local restored = 0
for i = 6, #ARGV do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    if redis.call('SADD', KEYS[2], ARGV[5]) == 1 then
      redis.call('XGROUP', 'CREATE', KEYS[3], 'learner', '0', 'MKSTREAM')
    end
    redis.call('SET', KEYS[i], ARGV[2] .. ':' .. ARGV[3], 'EX', ARGV[4])
    redis.call('SREM', KEYS[5], ARGV[i])
    for _, field in ipairs({'received', 'accepted', ARGV[2]}) do
      redis.call('HINCRBY', KEYS[4], field, 1)
    end
    restored = restored + 1
  end
end
return restored
