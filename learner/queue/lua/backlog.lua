-- Size of every fleet's part of the queue; changes nothing.
-- Names are derived from the prefixes: all keys of a run share a slot.
-- KEYS: 1 fleets;  ARGV: 1 stream prefix, 2 ledger prefix
-- Returns a flat list: fleet, queued, in flight, payload bytes of both, remembered ids, fleet, ...
local reply = {}
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local stream = ARGV[1] .. fleet
  local pending = redis.call('XPENDING', stream, 'learner')[1]
  local bytes = redis.call('HMGET', ARGV[2] .. fleet, 'bytes', 'bytes_done', 'ids')
  reply[#reply + 1] = fleet
  reply[#reply + 1] = redis.call('XLEN', stream) - pending
  reply[#reply + 1] = pending
  reply[#reply + 1] = (bytes[1] or 0) - (bytes[2] or 0)
  reply[#reply + 1] = tonumber(bytes[3] or 0)
end
return reply
