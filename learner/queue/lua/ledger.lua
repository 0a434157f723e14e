-- One fleet's account at one instant: counters from the ledger, queued and in flight from the stream itself.
-- KEYS: 1 ledger, 2 stream
-- Returns {flat fields and values, queued, in flight}.
if redis.call('EXISTS', KEYS[2]) == 0 then
  return {redis.call('HGETALL', KEYS[1]), 0, 0}
end
local pending = redis.call('XPENDING', KEYS[2], 'learner')[1]
return {redis.call('HGETALL', KEYS[1]), redis.call('XLEN', KEYS[2]) - pending, pending}
