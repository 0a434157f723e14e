-- Makes the versions that operators keep those that the learner has found marked on disk.
-- KEYS: 1 pinned, 2 epoch;  ARGV: 1 the learner's epoch, then the versions
-- Returns how many versions are pinned now and were not, or were and are not.
local current = redis.call('GET', KEYS[2])
if ARGV[1] ~= current then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[1])  -- passes also when memory is full, and so does what follows it (start.lua)
local wanted, changed = {}, 0
for i = 2, #ARGV do
  wanted[ARGV[i]] = true
  changed = changed + redis.call('SADD', KEYS[1], ARGV[i])
end
for _, version in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if not wanted[version] then
    changed = changed + redis.call('SREM', KEYS[1], version)
  end
end
return changed
