-- One fleet's ledger at one instant: its counters, and queued and in flight from the stream itself. Changes nothing.
-- KEYS: 1 ledger, 2 stream, 3 vanished
-- Returns {flat fields and values, queued, in flight, vanished}.
local counts, vanished = redis.call('HGETALL', KEYS[1]), redis.call('SCARD', KEYS[3])
if redis.call('EXISTS', KEYS[2]) == 0 then
  return {counts, 0, 0, vanished}
end
local pending = redis.call('XPENDING', KEYS[2], 'learner')[1]
return {counts, redis.call('XLEN', KEYS[2]) - pending, pending, vanished}
