-- Delivers the next entries of one fleet to the learner. MGET reads the payloads separately: a script would copy them.
-- KEYS: 1 epoch, 2 stream
-- ARGV: 1 epoch, 2 how many new entries to read
-- Returns the ids of the new entries.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
local ids = {}
if tonumber(ARGV[2]) > 0 then
  local reply = redis.call('XREADGROUP', 'GROUP', 'learner', 'learner', 'COUNT', ARGV[2], 'STREAMS', KEYS[2], '>')
  for i, entry in ipairs(reply and reply[1][2] or {}) do
    ids[i] = entry[1]
  end
end
return ids
