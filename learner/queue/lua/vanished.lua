-- Records acknowledged groups whose ids Redis no longer knows as vanished.
-- KEYS: 1 fleets, 2 stream, 3 vanished, 4 ledger, 5 memory, then ids of each group;  ARGV: 1 fleet, then each group's id
-- Returns how many were recorded now.
local recorded, cutoff = 0, tonumber(redis.call('HGET', KEYS[5], 'cutoff') or 0)
for i = 2, #ARGV do
  local made = tonumber(string.sub(ARGV[i], 1, 8) .. string.sub(ARGV[i], 10, 13), 16) or 0
  local unknown = made >= cutoff and redis.call('HEXISTS', KEYS[i + 4], ARGV[i]) == 0
  if unknown and redis.call('SADD', KEYS[3], ARGV[i]) == 1 then
    recorded = recorded + 1
    -- The ledger's field counts those that nobody knows by name (accept.lua); this one was among them.
    if tonumber(redis.call('HGET', KEYS[4], 'vanished') or 0) > 0 then
      redis.call('HINCRBY', KEYS[4], 'vanished', -1)
    end
  end
end
-- Redis may have lost the fleet too; its ledger must be listed.
if recorded > 0 and redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
return recorded
