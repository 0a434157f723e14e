-- Reads one page of a fleet's stream, what belongs to its entries, and the counters, at one instant. Changes nothing.
-- KEYS: 1 stream, 2 ledger;  ARGV: 1 ids prefix, 2 payload prefix, 3 entry id to begin after, or "-", 4 entries per page,
--       5 milliseconds of a bucket of ids
-- Returns {counters, length, pending, entries, pending ids in the page's range}; counters are accepted, finished, bytes,
-- bytes_done; an entry is {entry id, group id, its bytes field, payload's length or -1, state of the group's id or ""}.
local fields = redis.call('HMGET', KEYS[2], 'accepted', 'trained', 'expired', 'quarantined', 'lost', 'bytes', 'bytes_done')
for i = 1, 7 do
  fields[i] = tonumber(fields[i] or 0)
end
local counters = {fields[1], fields[2] + fields[3] + fields[4] + fields[5], fields[6], fields[7]}
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {counters, 0, 0, {}, {}}
end
local from = ARGV[3] == '-' and '-' or '(' .. ARGV[3]
local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[4])
local entries = {}
for _, entry in ipairs(page) do
  local declared, id = '', ''
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'id' then
      id = entry[2][i + 1]
    elseif entry[2][i] == 'bytes' then
      declared = entry[2][i + 1]
    end
  end
  local payload = ARGV[2] .. id
  local length = redis.call('EXISTS', payload) == 1 and redis.call('STRLEN', payload) or -1
  local made = tonumber(string.sub(id, 1, 8) .. string.sub(id, 10, 13), 16) or 0
  local ids = ARGV[1] .. string.format('%.0f', math.floor(made / ARGV[5]))
  entries[#entries + 1] = {entry[1], id, declared, length, redis.call('HGET', ids, id) or ''}
end
local to = #page == tonumber(ARGV[4]) and page[#page][1] or '+'
local pending = {}
for _, item in ipairs(redis.call('XPENDING', KEYS[1], 'learner', from, to, 2 * ARGV[4])) do
  pending[#pending + 1] = item[1]
end
local total = redis.call('XPENDING', KEYS[1], 'learner')[1]
return {counters, redis.call('XLEN', KEYS[1]), total, entries, pending}
