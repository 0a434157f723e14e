-- Takes groups of one fleet out of the queue for good: counts them, forgets payloads, remembers ids for a while.
-- An entry that is not in the stream any more was finished before: nothing changes for it.
-- KEYS: 1 epoch, 2 stream, 3 ledger, then id and payload of each group
-- ARGV: 1 epoch, 2 outcome ("trained", "expired" or "lost"), 3 step, 4 seconds to remember ids, then the entry ids
-- Returns how many were finished now.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
local finished = 0
for i = 5, #ARGV do
  local entry = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  redis.call('XACK', KEYS[2], 'learner', ARGV[i])
  if redis.call('XDEL', KEYS[2], ARGV[i]) == 1 then
    local id, payload = KEYS[2 * i - 6], KEYS[2 * i - 5]
    redis.call('DEL', payload)
    redis.call('SET', id, ARGV[2] .. ':' .. ARGV[3], 'EX', ARGV[4])
    redis.call('HINCRBY', KEYS[3], ARGV[2], 1)
    -- Mean response length, rounded up to a power of two: dropping old groups must not hide a bias against long ones.
    local fields = {}
    for j = 1, #entry[2], 2 do
      fields[entry[2][j]] = tonumber(entry[2][j + 1])
    end
    local bucket, length = 1, fields.generated / fields.responses
    while bucket < length do
      bucket = bucket * 2
    end
    redis.call('HINCRBY', KEYS[3], 'length:' .. ARGV[2] .. ':' .. bucket, 1)
    finished = finished + 1
  end
end
return finished
