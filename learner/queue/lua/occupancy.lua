-- Looks at the clock, takes back the promises that are over, and says who holds how much of the capacity.
-- The clock of leases is Redis's made monotone: between two looks it stands still or advances by 5 s at most, whatever
-- the machine's clock is set to. A gateway looks once a second.
-- KEYS: 1 fleets, 2 leases, 3 lease_remaining, 4 progress, 5 stepped, 6 clock, 7 hungry
-- ARGV: 1 stream prefix, 2 milliseconds to add to Redis's clock
-- Returns {the learner's step, flat list: fleet, groups held, 1 when hungry, ...}.
-- Changes nothing, and passes when memory is full: promises that are over must be taken back then too.
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

local held = {}
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  held[fleet] = redis.call('XLEN', ARGV[1] .. fleet) - (redis.call('HGET', KEYS[5], fleet) or 0)
end
local promises = redis.call('HGETALL', KEYS[3])
for i = 1, #promises, 2 do
  local fleet = string.match(promises[i], '^(.*)/')
  held[fleet] = (held[fleet] or 0) + promises[i + 1]
end
local reply = {}
for fleet, groups in pairs(held) do
  local asked = redis.call('HGET', KEYS[7], fleet)
  reply[#reply + 1] = fleet
  reply[#reply + 1] = groups
  reply[#reply + 1] = (asked and now - asked <= 3000) and 1 or 0
end
return {redis.call('HGET', KEYS[4], 'step') or '0', reply}
