-- Frees the capacity of groups that the learner has taken and trains nothing of: with those that a step was made with, they
-- no longer count as occupying it.
-- KEYS: 1 epoch, 2 stepped
-- ARGV: 1 epoch, then how many such groups each fleet has in all, those of steps included: fleet, count, ...
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[2])
redis.call('DEL', KEYS[2])
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return redis.status_reply('OK')
