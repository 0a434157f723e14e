-- Ends a halt as its operator decided: the data that is there is the run's from now on.
-- KEYS: 1 halted, 2 nonce, 3 replaced, 4 schema, 5 fleets
-- ARGV: 1 why the queue is halted, as the operator saw it, 2 the new nonce, 3 the decision as JSON, 4 the layout's number,
--       5 stream prefix, 6 ledger prefix, 7 memory prefix, 8 Unix milliseconds before which ids are not remembered, 9 how
--       many nonces are replaced, then these, then for each fleet: its name, groups that are missing, and groups that were
--       trained and are too old to be remembered by name
-- Returns 1; 0 if the halt is not the one that the operator saw, and nothing was changed.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[4], ARGV[4])
redis.call('SET', KEYS[2], ARGV[2])
local last = 9 + ARGV[9]
for i = 10, last do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[3])
end
for i = last + 1, #ARGV, 3 do
  local fleet, ledger, memory = ARGV[i], ARGV[6] .. ARGV[i], ARGV[7] .. ARGV[i]
  if redis.call('SADD', KEYS[5], fleet) == 1 then
    redis.call('XGROUP', 'CREATE', ARGV[5] .. fleet, 'learner', '0', 'MKSTREAM')
  end
  redis.call('HINCRBY', ledger, 'vanished', ARGV[i + 1])
  for _, field in ipairs({'received', 'accepted', 'trained'}) do
    redis.call('HINCRBY', ledger, field, ARGV[i + 2])
  end
  if tonumber(redis.call('HGET', memory, 'cutoff') or 0) < tonumber(ARGV[8]) then
    redis.call('HSET', memory, 'cutoff', ARGV[8])
  end
end
redis.call('DEL', KEYS[1])
return 1
