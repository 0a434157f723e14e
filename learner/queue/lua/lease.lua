-- Promises capacity: what the learner can train within its staleness bound, less what waits and what is promised.
-- KEYS: 1 fleets, 2 stream, 3 leases, 4 lease_remaining, 5 progress, 6 running
-- ARGV: 1 fleet, 2 lease member, 3 groups asked for, 4 lifetime in ms, 5 bound, 6 worker, 7 running version or "",
--       8 stream prefix, then the lease members that are given back
-- Returns the groups granted, 0 or more.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
-- A fleet that invents worker names must not fill the memory.
if ARGV[7] ~= '' and (redis.call('HEXISTS', KEYS[6], ARGV[6]) == 1 or redis.call('HLEN', KEYS[6]) < 4096) then
  redis.call('HSET', KEYS[6], ARGV[6], ARGV[7] .. ':' .. string.format('%.0f', now))
end
local over = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)
for i = 9, #ARGV do
  over[#over + 1] = ARGV[i]
end
for _, member in ipairs(over) do
  redis.call('ZREM', KEYS[3], member)
  redis.call('HDEL', KEYS[4], member)
end
local taken = 0
for _, remaining in ipairs(redis.call('HVALS', KEYS[4])) do
  taken = taken + remaining
end
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  taken = taken + redis.call('XLEN', ARGV[8] .. fleet)
end
-- Groups that were stepped on but wait for a durable checkpoint no longer make anything stale.
taken = taken - (redis.call('HGET', KEYS[5], 'uncommitted') or 0)
local granted = math.min(tonumber(ARGV[3]), tonumber(ARGV[5]) - taken)
if granted < 1 then
  return 0
end
redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[2])
redis.call('HSET', KEYS[4], ARGV[2], granted)
return granted
