-- Reads the oldest entries that the learner has not taken, by fleet; changes nothing.
-- KEYS: 1 fleets;  ARGV: 1 stream prefix, 2 the most entries per fleet
-- Returns a flat list: fleet, entries, fleet, ...
local reply = {}
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local stream = ARGV[1] .. fleet
  local info = redis.call('XINFO', 'GROUPS', stream)[1]
  for i = 1, #info, 2 do
    if info[i] == 'last-delivered-id' then
      reply[#reply + 1] = fleet
      reply[#reply + 1] = redis.call('XRANGE', stream, '(' .. info[i + 1], '+', 'COUNT', ARGV[2])
    end
  end
end
return reply
