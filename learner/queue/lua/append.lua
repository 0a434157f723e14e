-- Accepts groups of one fleet, each once: appends references to the stream, records their ids, counts them. The payloads
-- were SET (NX, with a TTL) before.
-- KEYS: 1 fleets, 2 stream, 3 ledger, 4 leases, 5 lease_remaining, 6 clock, 7 nonce, 8 halted, 9 memory, then ids and
--       payload of each group
-- ARGV: 1 fleet, 2 the run's nonce, 3 the least that the clock may say, then ten values of each group: group id, tokens,
--       generated tokens, responses, payload bytes, mean reward of the scored responses or "" without one, the versions of its
--       spans joined by commas, lease member or "", what finish.lua counts it as beside "trained" ("without_contrast",
--       "unscored" or ""), its unscored responses as "reason number reason number ..."
-- Returns a letter per group: "a" accepted, "d" duplicate, "m" missing (it has no payload; nothing is changed for it), "o"
-- too old (its id is not known, and may have been forgotten), "h" halted (this is not the run's newest data; nothing is
-- changed).
local FIRST_KEY, FIRST_VALUE, VALUES = 10, 4, 10
local REASONS = 64  -- of one fleet: what it names in responses must not fill the memory
local now = tonumber(redis.call('HGET', KEYS[6], 'now') or 0)
if redis.call('GET', KEYS[7]) ~= ARGV[2] or now < tonumber(ARGV[3]) or redis.call('EXISTS', KEYS[8]) == 1 then
  return string.rep('h', (#KEYS - FIRST_KEY + 1) / 2)
end
local function made(id)  -- Unix milliseconds in a UUID of version 7
  return tonumber(string.sub(id, 1, 8) .. string.sub(id, 10, 13), 16) or 0
end
local cutoff = tonumber(redis.call('HGET', KEYS[9], 'cutoff') or 0)
local letters, accepted, bytes, stale, seen, buckets = {}, 0, 0, {}, {}, {}
for i = FIRST_KEY, #KEYS, 2 do
  local number = (i - FIRST_KEY) / 2 + 1
  local id = ARGV[FIRST_VALUE + VALUES * (number - 1)]
  local known = redis.call('HGET', KEYS[i], id)
  if known or seen[id] then
    letters[number] = 'd'
    if known and known ~= 'queued' then
      -- The group has left the queue: the payload that was just SET must not stay behind.
      stale[#stale + 1] = KEYS[i + 1]
    end
  elseif made(id) < cutoff then
    letters[number], stale[#stale + 1] = 'o', KEYS[i + 1]
  elseif redis.call('EXISTS', KEYS[i + 1]) == 0 then
    letters[number] = 'm'
  else
    letters[number], seen[id] = 'a', true
    local bucket = string.match(KEYS[i], '%d+$')
    buckets[bucket] = (buckets[bucket] or 0) + 1
    accepted, bytes = accepted + 1, bytes + ARGV[FIRST_VALUE + VALUES * (number - 1) + 4]
  end
end
local outcome = table.concat(letters)
local counted = #letters - select(2, string.gsub(outcome, '[mo]', ''))
local function delete_stale()
  for _, payload in ipairs(stale) do
    redis.call('DEL', payload)
  end
end
if counted == 0 then
  delete_stale()
  return outcome
end

-- The first write must be one that Redis refuses when memory is full: it does not check the later ones of a script.
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
delete_stale()
local function count_unscored(reasons)
  for reason, responses in string.gmatch(reasons, '(%S+) (%d+)') do
    local field = 'unscored:' .. reason
    if reason ~= 'other' and redis.call('HEXISTS', KEYS[3], field) == 0 then
      if tonumber(redis.call('HGET', KEYS[3], 'unscored_reasons') or 0) < REASONS then
        redis.call('HINCRBY', KEYS[3], 'unscored_reasons', 1)
      else
        field = 'unscored:other'
      end
    end
    redis.call('HINCRBY', KEYS[3], field, responses)
  end
end
for number, letter in ipairs(letters) do
  if letter == 'a' then
    local a, k = FIRST_VALUE + VALUES * (number - 1), FIRST_KEY + 2 * (number - 1)
    redis.call('XADD', KEYS[2], '*', 'id', ARGV[a], 'tokens', ARGV[a + 1], 'generated', ARGV[a + 2],
      'responses', ARGV[a + 3], 'bytes', ARGV[a + 4], 'reward', ARGV[a + 5], 'versions', ARGV[a + 6],
      'kind', ARGV[a + 8])
    count_unscored(ARGV[a + 9])
    redis.call('HSET', KEYS[k], ARGV[a], 'queued')
    redis.call('PERSIST', KEYS[k + 1])
    local lease = ARGV[a + 7]
    if lease ~= '' and redis.call('HEXISTS', KEYS[5], lease) == 1 then
      if redis.call('HINCRBY', KEYS[5], lease, -1) <= 0 then
        redis.call('HDEL', KEYS[5], lease)
        redis.call('ZREM', KEYS[4], lease)
      end
    end
  end
end
redis.call('HINCRBY', KEYS[3], 'received', counted)
for bucket, groups in pairs(buckets) do
  redis.call('HINCRBY', KEYS[9], bucket, groups)
end
if accepted > 0 then
  redis.call('HINCRBY', KEYS[3], 'ids', accepted)
  redis.call('HINCRBY', KEYS[3], 'accepted', accepted)
  redis.call('HINCRBY', KEYS[3], 'bytes', string.format('%.0f', bytes))
end
if counted > accepted then
  redis.call('HINCRBY', KEYS[3], 'duplicate', counted - accepted)
end
return outcome
