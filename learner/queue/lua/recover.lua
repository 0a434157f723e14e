-- Counts the groups that this epoch takes over from a dead learner: delivered, and not finished. Once per epoch, however
-- often it is called. Names are derived from the prefixes: all keys of a run share a slot.
-- KEYS: 1 epoch, 2 progress, 3 fleets;  ARGV: 1 epoch, 2 stream prefix, 3 ledger prefix
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[2])
if redis.call('HGET', KEYS[2], 'recovered') ~= ARGV[1] then
  for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    redis.call('HINCRBY', ARGV[3] .. fleet, 'redelivered', redis.call('XPENDING', ARGV[2] .. fleet, 'learner')[1])
  end
  redis.call('HSET', KEYS[2], 'recovered', ARGV[1])
end
return redis.status_reply('OK')
