-- Accepts a group once: queues its reference, remembers its id, counts it. The payload was SET (NX, with a TTL) before.
-- KEYS: 1 fleets, 2 stream, 3 id, 4 payload, 5 ledger, 6 leases, 7 lease_remaining
-- ARGV: 1 fleet, 2 group id, 3 tokens, 4 generated tokens, 5 responses, 6 payload bytes, 7 lease member or "",
--       8 mean reward of the responses
-- Returns "accepted", "duplicate", or "missing" when the payload is not there (nothing is changed then).
local known = redis.call('GET', KEYS[3])
if known then
  if known ~= 'queued' then
    -- The group has left the queue: the payload that was just SET must not stay behind.
    redis.call('DEL', KEYS[4])
  end
  redis.call('HINCRBY', KEYS[5], 'received', 1)
  redis.call('HINCRBY', KEYS[5], 'duplicate', 1)
  return 'duplicate'
end
if redis.call('EXISTS', KEYS[4]) == 0 then
  return 'missing'
end
-- The first write is one that Redis refuses when memory is full: later ones in a script are not checked any more.
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
redis.call('XADD', KEYS[2], '*', 'id', ARGV[2], 'tokens', ARGV[3], 'generated', ARGV[4], 'responses', ARGV[5],
  'bytes', ARGV[6], 'reward', ARGV[8])
redis.call('SET', KEYS[3], 'queued')
redis.call('PERSIST', KEYS[4])
redis.call('HINCRBY', KEYS[5], 'received', 1)
redis.call('HINCRBY', KEYS[5], 'accepted', 1)
redis.call('HINCRBY', KEYS[5], 'bytes', ARGV[6])
if ARGV[7] ~= '' and redis.call('HEXISTS', KEYS[7], ARGV[7]) == 1 then
  if redis.call('HINCRBY', KEYS[7], ARGV[7], -1) <= 0 then
    redis.call('HDEL', KEYS[7], ARGV[7])
    redis.call('ZREM', KEYS[6], ARGV[7])
  end
end
return 'accepted'
