-- Grants a lease: at most what the learner can train within its staleness bound, minus what is queued and what is leased;
-- to one fleet no more than its share. occupancy.lua takes back expired leases just before.
-- KEYS: 1 fleets, 2 stream, 3 leases, 4 lease_remaining, 5 progress, 6 running, 7 stepped, 8 clock, 9 hungry
-- ARGV: 1 fleet, 2 lease member, 3 groups asked for, 4 lifetime in ms, 5 bound, 6 share, 7 worker,
--       8 running version or "", 9 stream prefix, then the lease members that the worker gives back
-- Returns the groups granted, 0 or more.
local fleet = ARGV[1]
local time = redis.call('TIME')
local now = redis.call('HGET', KEYS[8], 'now') or time[1] * 1000
if redis.call('SADD', KEYS[1], fleet) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
-- A fleet that invents worker names must not fill the memory.
if ARGV[8] ~= '' and (redis.call('HEXISTS', KEYS[6], ARGV[7]) == 1 or redis.call('HLEN', KEYS[6]) < 4096) then
  redis.call('HSET', KEYS[6], ARGV[7], ARGV[8] .. ':' .. time[1] .. '000')
end
for i = 10, #ARGV do
  redis.call('ZREM', KEYS[3], ARGV[i])
  redis.call('HDEL', KEYS[4], ARGV[i])
end

-- Groups that a step was made with, and that wait for a durable checkpoint, make no later group stale: they do not count.
local occupied = -(redis.call('HGET', KEYS[5], 'uncommitted') or 0)
local own = redis.call('XLEN', KEYS[2]) - (redis.call('HGET', KEYS[7], fleet) or 0)
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  occupied = occupied + redis.call('XLEN', ARGV[9] .. name)
end
local leases = redis.call('HGETALL', KEYS[4])
for i = 1, #leases, 2 do
  occupied = occupied + leases[i + 1]
  if string.sub(leases[i], 1, #fleet + 1) == fleet .. '/' then
    own = own + leases[i + 1]
  end
end
local asked = tonumber(ARGV[3])
local granted = math.max(0, math.min(asked, ARGV[5] - occupied, ARGV[6] - own))
if granted < asked then
  redis.call('HSET', KEYS[9], fleet, now)
end
if granted > 0 then
  redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[2])
  redis.call('HSET', KEYS[4], ARGV[2], granted)
end
return granted
