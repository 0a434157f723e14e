-- Records that the run has made all its steps. begin.lua takes it back: a later learner has more steps to make.
-- KEYS: 1 epoch, 2 progress;  ARGV: 1 epoch
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[2], 'finished', ARGV[1])
return redis.status_reply('OK')
