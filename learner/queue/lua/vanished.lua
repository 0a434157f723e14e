-- Records acknowledged groups whose ids Redis no longer knows as vanished.
-- KEYS: 1 fleets, 2 stream, 3 vanished, then the id key of each group;  ARGV: 1 fleet, then each group's id
-- Returns how many were recorded now.
local recorded = 0
for i = 2, #ARGV do
  if redis.call('EXISTS', KEYS[i + 2]) == 0 then
    recorded = recorded + redis.call('SADD', KEYS[3], ARGV[i])
  end
end
-- Redis may have lost the fleet too; its ledger must be listed.
if recorded > 0 and redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
return recorded
