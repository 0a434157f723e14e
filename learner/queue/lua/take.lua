-- Hands the next entries of one fleet to the learner, with their payloads.
-- KEYS: 1 epoch, 2 stream, then the payloads to return
-- ARGV: 1 epoch, 2 how many new entries to read (the rest of the payloads belong to entries taken before)
-- Returns {new entries, payloads in the order of KEYS}.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
local entries = {}
if tonumber(ARGV[2]) > 0 then
  local reply = redis.call('XREADGROUP', 'GROUP', 'learner', 'learner', 'COUNT', ARGV[2], 'STREAMS', KEYS[2], '>')
  if reply then
    entries = reply[1][2]
  end
end
local payloads = {}
for i = 3, #KEYS do
  payloads[#payloads + 1] = redis.call('GET', KEYS[i])
end
return {entries, payloads}
