-- Advances the leases' clock, takes back expired leases, and returns how much of the capacity each fleet occupies.
-- The clock is Redis's made monotone: between two calls it stands still or advances by 5 s at most, whatever the machine's
-- clock is set to. Every gateway calls once a second.
-- KEYS: 1 fleets, 2 leases, 3 lease_remaining, 4 progress, 5 stepped, 6 clock, 7 hungry
-- ARGV: 1 stream prefix, 2 milliseconds to add to Redis's clock
-- Returns {the learner's step, flat list: fleet, groups occupied, 1 if it asked in vain within the last 3 s else 0, ...}.
-- PERSIST changes nothing, and is a first write that passes when memory is full: leases must be taken back then too.
redis.call('PERSIST', KEYS[6])
local time = redis.call('TIME')
local real = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
local clock = redis.call('HMGET', KEYS[6], 'real', 'now')
local now = real
if clock[1] then
  now = clock[2] + math.min(math.max(real - clock[1], 0), 5000)
end
redis.call('HSET', KEYS[6], 'real', string.format('%.0f', real), 'now', string.format('%.0f', now))

for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
end

local occupied = {}
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  occupied[fleet] = redis.call('XLEN', ARGV[1] .. fleet) - (redis.call('HGET', KEYS[5], fleet) or 0)
end
local leases = redis.call('HGETALL', KEYS[3])
for i = 1, #leases, 2 do
  local fleet = string.match(leases[i], '^(.*)/')
  occupied[fleet] = (occupied[fleet] or 0) + leases[i + 1]
end
local reply = {}
for fleet, groups in pairs(occupied) do
  local asked = redis.call('HGET', KEYS[7], fleet)
  reply[#reply + 1] = fleet
  reply[#reply + 1] = groups
  reply[#reply + 1] = (asked and now - asked <= 3000) and 1 or 0
end
return {redis.call('HGET', KEYS[4], 'step') or '0', reply}
