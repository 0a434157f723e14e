-- Forgets the ids of groups that have left the queue and were made before the memory of ids begins. Before that, the cutoff of
-- their fleet is set: append.lua refuses unknown groups that were made before it, so that none is accepted a second time,
-- whatever any clock says. Names are derived from the prefixes: all keys of a run share a slot.
-- KEYS: 1 epoch, 2 clock, 3 fleets
-- ARGV: 1 epoch, 2 milliseconds of the memory, 3 milliseconds of a bucket, 4 memory prefix, 5 ids prefix, 6 ledger prefix
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[2])
local now, size = tonumber(redis.call('HGET', KEYS[2], 'now') or 0), tonumber(ARGV[3])
local first = math.floor((now - ARGV[2]) / size)  -- the first bucket that is remembered
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  local memory = ARGV[4] .. fleet
  if tonumber(redis.call('HGET', memory, 'cutoff') or 0) < first * size then
    redis.call('HSET', memory, 'cutoff', string.format('%.0f', first * size))
  end
  local buckets = redis.call('HGETALL', memory)
  for i = 1, #buckets, 2 do
    -- A group that is still in the queue keeps its bucket, and is a duplicate when it comes again.
    if buckets[i] ~= 'cutoff' and tonumber(buckets[i]) < first and tonumber(buckets[i + 1]) <= 0 then
      local ids = ARGV[5] .. fleet .. ':' .. buckets[i]
      local count = redis.call('HLEN', ids)
      if count > 0 then  -- Lua writes a negative 0 as "-0", which Redis does not accept as an integer
        redis.call('HINCRBY', ARGV[6] .. fleet, 'ids', -count)
        redis.call('DEL', ids)
      end
      redis.call('HDEL', memory, buckets[i])
    end
  end
end
return redis.status_reply('OK')
