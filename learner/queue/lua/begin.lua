-- Records the step at which this epoch's timeline branches off. Once per epoch, however often it is called.
-- An epoch below ours means that Redis lost our start in a restart: it is set again.
-- KEYS: 1 epoch, 2 timelines, 3 progress, 4 stepped;  ARGV: 1 epoch, 2 resumed step, 3 the timeline as JSON
local current = redis.call('GET', KEYS[1])
redis.call('PERSIST', KEYS[1])
if not current or tonumber(current) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
elseif current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
if redis.call('HGET', KEYS[3], 'epoch') ~= ARGV[1] then
  redis.call('RPUSH', KEYS[2], ARGV[3])
  redis.call('DEL', KEYS[4])
  redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'step', ARGV[2], 'uncommitted', 0)
  redis.call('HDEL', KEYS[3], 'finished')
end
return redis.status_reply('OK')
