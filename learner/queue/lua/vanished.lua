-- Of groups that were acknowledged, notes those whose ids are not known any more.
-- KEYS: 1 fleets, 2 stream, 3 vanished, then the id key of each group;  ARGV: 1 fleet, then each group's id
-- Returns how many were noted now.
local noted = 0
for i = 2, #ARGV do
  if redis.call('EXISTS', KEYS[i + 2]) == 0 then
    noted = noted + redis.call('SADD', KEYS[3], ARGV[i])
  end
end
-- The fleet itself may be forgotten; its account must be seen.
if noted > 0 and redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
return noted
