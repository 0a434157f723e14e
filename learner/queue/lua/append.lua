-- Accepts groups of one fleet, each once: appends references to the stream, records their ids, counts them. The payloads
-- were SET (NX, with a TTL) before.
-- KEYS: 1 fleets, 2 stream, 3 ledger, 4 leases, 5 lease_remaining, then id and payload of each group
-- ARGV: 1 fleet, then seven values of each group: group id, tokens, generated tokens, responses, payload bytes, mean reward
--       of the responses, lease member or ""
-- Returns a letter per group: "a" accepted, "d" duplicate, "m" missing (it has no payload; nothing is changed for it).
local letters, accepted, bytes, stale, seen = {}, 0, 0, {}, {}
for i = 6, #KEYS, 2 do
  local number = (i - 4) / 2
  local known = redis.call('GET', KEYS[i])
  if known or seen[KEYS[i]] then
    letters[number] = 'd'
    if known and known ~= 'queued' then
      -- The group has left the queue: the payload that was just SET must not stay behind.
      stale[#stale + 1] = KEYS[i + 1]
    end
  elseif redis.call('EXISTS', KEYS[i + 1]) == 0 then
    letters[number] = 'm'
  else
    letters[number], seen[KEYS[i]] = 'a', true
    accepted, bytes = accepted + 1, bytes + ARGV[7 * number - 1]
  end
end
local outcome = table.concat(letters)
local counted = #letters - select(2, string.gsub(outcome, 'm', ''))
if counted == 0 then
  return outcome
end

-- The first write must be one that Redis refuses when memory is full: it does not check the later ones of a script.
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then
  redis.call('XGROUP', 'CREATE', KEYS[2], 'learner', '0', 'MKSTREAM')
end
for _, payload in ipairs(stale) do
  redis.call('DEL', payload)
end
for number, letter in ipairs(letters) do
  if letter == 'a' then
    local a = 7 * number - 5
    redis.call('XADD', KEYS[2], '*', 'id', ARGV[a], 'tokens', ARGV[a + 1], 'generated', ARGV[a + 2],
      'responses', ARGV[a + 3], 'bytes', ARGV[a + 4], 'reward', ARGV[a + 5])
    redis.call('SET', KEYS[2 * number + 4], 'queued')
    redis.call('PERSIST', KEYS[2 * number + 5])
    local lease = ARGV[a + 6]
    if lease ~= '' and redis.call('HEXISTS', KEYS[5], lease) == 1 then
      if redis.call('HINCRBY', KEYS[5], lease, -1) <= 0 then
        redis.call('HDEL', KEYS[5], lease)
        redis.call('ZREM', KEYS[4], lease)
      end
    end
  end
end
redis.call('HINCRBY', KEYS[3], 'received', counted)
if accepted > 0 then
  redis.call('HINCRBY', KEYS[3], 'accepted', accepted)
  redis.call('HINCRBY', KEYS[3], 'bytes', string.format('%.0f', bytes))
end
if counted > accepted then
  redis.call('HINCRBY', KEYS[3], 'duplicate', counted - accepted)
end
return outcome
