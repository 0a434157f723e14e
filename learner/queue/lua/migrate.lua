-- Brings a run from schema 1 to schema 2, whole: a script that Redis did not survive has not happened. Schema 2 counts
-- the payload bytes that have left the queue, and the reasons for RETRY. Entries stay as they are, and say less.
-- KEYS: 1 epoch, 2 schema, 3 fleets;  ARGV: 1 epoch, 2 stream prefix, 3 ledger prefix, 4 payload prefix
-- Returns how many fleets were changed.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('PERSIST', KEYS[1])
if redis.call('GET', KEYS[2]) ~= '1' then
  return 0
end

-- Pages: the whole stream at once would be held twice in memory.
local function present_bytes(fleet)
  local bytes, after = 0, '-'
  while true do
    local page = redis.call('XRANGE', ARGV[2] .. fleet, after, '+', 'COUNT', 1000)
    for _, entry in ipairs(page) do
      for i = 1, #entry[2], 2 do
        if entry[2][i] == 'id' then
          bytes = bytes + redis.call('STRLEN', ARGV[4] .. fleet .. ':' .. entry[2][i + 1])
        end
      end
    end
    if #page < 1000 then
      return bytes
    end
    after = '(' .. page[#page][1]
  end
end

local fleets = redis.call('SMEMBERS', KEYS[3])
for _, fleet in ipairs(fleets) do
  local ledger = ARGV[3] .. fleet
  local counts = redis.call('HMGET', ledger, 'bytes', 'retried')
  redis.call('HSET', ledger, 'bytes_done', string.format('%.0f', (counts[1] or 0) - present_bytes(fleet)))
  if tonumber(counts[2] or 0) > 0 then
    redis.call('HSET', ledger, 'retried:not_recorded', counts[2])
  end
end
redis.call('SET', KEYS[2], '2')
return #fleets
