-- Records the learner's progress.
-- KEYS: 1 epoch, 2 progress, 3 stepped, 4 change_pending
-- ARGV: 1 epoch, 2 step, 3 version, 4 groups that a step was made with and that are not committed, 5 groups that a step
--       consumes or 0, 6 numbers of the step as a JSON object or "" (they stay what they are), then how many groups of each
--       fleet do not occupy capacity, although they are in the queue: those of steps, and those that the learner trains
--       nothing of (free.lua): fleet, count, ...
-- Returns 1 if operators' changes wait for the learner, else 0.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'step', ARGV[2], 'version', ARGV[3], 'uncommitted', ARGV[4],
  'consumed', ARGV[5])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[2], 'numbers', ARGV[6], 'reported', redis.call('TIME')[1])
end
redis.call('DEL', KEYS[3])
for i = 7, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
end
return redis.call('EXISTS', KEYS[4])
