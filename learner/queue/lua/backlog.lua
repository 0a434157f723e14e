-- What waits, by fleet. Stream names are derived from the prefix: all keys of a run share a slot.
-- KEYS: 1 fleets;  ARGV: 1 stream prefix
-- Returns a flat list: fleet, queued, in flight, fleet, ...
local reply = {}
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local stream = ARGV[1] .. fleet
  local pending = redis.call('XPENDING', stream, 'learner')[1]
  reply[#reply + 1] = fleet
  reply[#reply + 1] = redis.call('XLEN', stream) - pending
  reply[#reply + 1] = pending
end
return reply
