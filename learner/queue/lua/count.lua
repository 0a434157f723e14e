-- Counts groups that were not accepted (rejected, retried) in a fleet's ledger, all fields at once.
-- KEYS: 1 fleets, 2 stream, 3 ledger
-- ARGV: 1 fleet, then field, amount, field, amount, ...
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
for i = 2, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1])
end
return redis.status_reply('OK')
