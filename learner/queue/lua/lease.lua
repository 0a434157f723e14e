-- Grants a lease: at most what the learner can train within its staleness bound, minus what is queued and what is leased;
-- to one fleet no more than its share. occupancy.lua takes back expired leases just before.
-- KEYS: 1 fleets, 2 stream, 3 leases, 4 lease_remaining, 5 stepped, 6 running, 7 clock, 8 hungry, 9 lease_terms,
--       10 lease_account
-- ARGV: 1 fleet, 2 lease member, 3 groups asked for (0: none, it only reports), 4 lifetime in ms, 5 bound, 6 share, 7 worker,
--       8 running version or "", 9 version being fetched or "", 10 stream prefix, 11 the run's bound, of which 5 is less for a
--       worker with old weights, 12 number of lease members that the worker gives back, then those members, then name and
--       most groups of each fleet that occupies more than counts against the bound
-- Returns the groups granted, 0 or more.
local fleet = ARGV[1]
local time = redis.call('TIME')
local now = redis.call('HGET', KEYS[7], 'now') or time[1] * 1000
if redis.call('SADD', KEYS[1], fleet) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
-- A fleet that invents worker names must not fill the memory.
for name, version in pairs({[ARGV[7]] = ARGV[8], [ARGV[7] .. '/fetching'] = ARGV[9]}) do
  if version ~= '' and (redis.call('HEXISTS', KEYS[6], name) == 1 or redis.call('HLEN', KEYS[6]) < 4096) then
    redis.call('HSET', KEYS[6], name, version .. ':' .. time[1] .. '000')
  end
end
local last_returned = 12 + ARGV[12]
for i = 13, last_returned do
  local unused = redis.call('HGET', KEYS[4], ARGV[i])
  if unused then
    -- Given back, it is neither used nor wasted.
    redis.call('HINCRBY', KEYS[10], 'open:' .. fleet, -unused)
    redis.call('ZREM', KEYS[3], ARGV[i])
    redis.call('HDEL', KEYS[4], ARGV[i])
    redis.call('HDEL', KEYS[9], ARGV[i])
  end
end

local most = {}
for i = last_returned + 1, #ARGV, 2 do
  most[ARGV[i]] = tonumber(ARGV[i + 1])
end
-- Groups that a step was made with, and that wait for a durable checkpoint, make no later group stale: they do not count.
local occupied = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  occupied[name] = redis.call('XLEN', ARGV[10] .. name) - (redis.call('HGET', KEYS[5], name) or 0)
end
local leases = redis.call('HGETALL', KEYS[4])
for i = 1, #leases, 2 do
  local name = string.match(leases[i], '^(.*)/')
  occupied[name] = (occupied[name] or 0) + leases[i + 1]
end
local counted = 0
for name, groups in pairs(occupied) do
  counted = counted + math.min(groups, most[name] or groups)
end
local asked = tonumber(ARGV[3])
local granted = math.max(0, math.min(asked, ARGV[5] - counted, ARGV[6] - occupied[fleet]))
-- What a worker is refused for its old weights does not make its fleet hungry.
local wanted = ARGV[5] == ARGV[11] and asked or math.min(asked, math.max(0, ARGV[5] - counted))
if granted < wanted then
  redis.call('HSET', KEYS[8], fleet, now)
end
if granted > 0 then
  redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[2])
  redis.call('HSET', KEYS[4], ARGV[2], granted)
  redis.call('HSET', KEYS[9], ARGV[2], now)
  redis.call('HINCRBY', KEYS[10], 'open:' .. fleet, granted)
  redis.call('HSET', KEYS[10], 'bound', ARGV[11])
end
return granted
