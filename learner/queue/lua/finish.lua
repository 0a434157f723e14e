-- Takes groups of one fleet out of the queue for good: counts them, deletes payloads, remembers ids for a while.
-- An entry that is no longer in the stream was finished before: nothing changes for it.
-- KEYS: 1 epoch, 2 stream, 3 ledger, 4 vanished, 5 progress, 6 stepped, 7 memory, then ids and payload of each group
-- ARGV: 1 epoch, 2 outcome ("trained", "expired", "quarantined" or "lost"), 3 step, 4 fleet, then entry id and group id of
--       each group
-- Returns how many were finished now.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end

-- Mean response length, rounded up to a power of two. The histogram shows whether expiry hits long responses more.
local function length_bucket(length)
  local bucket = 1
  while bucket < length and bucket < 2^52 do  -- bounded, because doubling never reaches infinity
    bucket = bucket * 2
  end
  return bucket
end

-- The lower end of the reward's interval: tenths in [-1, 1), octaves outside.
local function reward_bucket(reward)
  if reward >= -1 and reward < 1 then
    return string.format('%.1f', math.floor(reward * 10) / 10 + 0)  -- + 0: no minus zero
  end
  local size = 1
  while size < 2^62 and (size * 2 <= reward or size * 2 < -reward) do
    size = size * 2
  end
  return string.format('%.0f', reward < 0 and -2 * size or size)
end

-- Ledger field -> amount. Added up first, because each command of a script is also one in the append-only file.
local counts, order = {}, {}
local function count(field, amount)
  if not counts[field] then
    counts[field], order[#order + 1] = 0, field
  end
  counts[field] = counts[field] + amount
end

-- Everything is read before anything is written: an entry that append.lua did not make fails before anything has changed.
local all, entries, ids, payloads, groups, seen = {}, {}, {}, {}, {}, {}
for i = 5, #ARGV, 2 do
  local entry = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  all[#all + 1] = ARGV[i]
  if entry and not seen[ARGV[i]] then
    seen[ARGV[i]] = true
    local n, fields = #entries + 1, {}
    entries[n], ids[n], payloads[n], groups[n] = ARGV[i], KEYS[i + 3], KEYS[i + 4], ARGV[i + 1]
    for j = 1, #entry[2], 2 do
      fields[entry[2][j]] = entry[2][j + 1]
    end
    count('bytes_done', tonumber(fields.bytes))
    count(ARGV[2], 1)
    count('length:' .. ARGV[2] .. ':' .. length_bucket(fields.generated / fields.responses), 1)
    if fields.reward ~= '' then  -- of its scored responses; it has none
      count('reward:' .. ARGV[2] .. ':' .. reward_bucket(tonumber(fields.reward)), 1)
    end
    if ARGV[2] == 'trained' and fields.kind ~= '' then
      count(fields.kind, 1)
    end
  end
end

local finished = #entries
if #all > 0 then
  redis.call('XACK', KEYS[2], 'learner', unpack(all))
end
if finished > 0 then
  redis.call('XDEL', KEYS[2], unpack(entries))
  redis.call('DEL', unpack(payloads))
  redis.call('SREM', KEYS[4], unpack(groups))
end
local buckets = {}
for n, key in ipairs(ids) do
  if redis.call('HSET', key, groups[n], ARGV[2] .. ':' .. ARGV[3]) == 0 then
    local bucket = string.match(key, '%d+$')
    buckets[bucket] = (buckets[bucket] or 0) + 1
  else
    count('ids', 1)  -- something had deleted it
  end
end
for bucket, left in pairs(buckets) do
  redis.call('HINCRBY', KEYS[7], bucket, -left)
end
for _, field in ipairs(order) do
  redis.call('HINCRBY', KEYS[3], field, string.format('%.0f', counts[field]))
end
-- Trained groups left the admission bound when the step was made: leases may not grow by their leaving the queue too.
local function decrease(key, field)
  local count = tonumber(redis.call('HGET', key, field) or 0)
  -- Not with 0: Lua writes its negative as "-0", which Redis does not accept as an integer.
  if count > 0 and finished > 0 then
    redis.call('HINCRBY', key, field, -math.min(count, finished))
  end
end
if ARGV[2] == 'trained' then
  decrease(KEYS[5], 'uncommitted')
  decrease(KEYS[6], ARGV[4])
end
return finished
