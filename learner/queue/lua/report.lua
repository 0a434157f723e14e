-- Records the learner's progress.
-- KEYS: 1 epoch, 2 progress, 3 stepped
-- ARGV: 1 epoch, 2 step, 3 version, 4 groups that a step was made with and that are not committed, 5 groups that a step
--       consumes or 0, then how many groups of each fleet do not occupy capacity, although they are in the queue: those of
--       steps, and those that the learner trains nothing of (free.lua): fleet, count, ...
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'step', ARGV[2], 'version', ARGV[3], 'uncommitted', ARGV[4],
  'consumed', ARGV[5])
redis.call('DEL', KEYS[3])
for i = 6, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
return redis.status_reply('OK')
