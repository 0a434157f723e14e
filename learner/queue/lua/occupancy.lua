-- Advances the leases' clock, takes back expired leases, and returns how much of the capacity each fleet occupies, with what.
-- The clock is Redis's made monotone: between two calls it stands still or advances by 5 s at most, whatever the machine's
-- clock is set to. Every gateway calls once a second.
-- KEYS: 1 fleets, 2 leases, 3 lease_remaining, 4 progress, 5 stepped, 6 clock, 7 hungry, 8 lease_terms, 9 lease_account
-- ARGV: 1 stream prefix, 2 milliseconds to add to Redis's clock, 3 ledger prefix
-- Returns {the learner's step, the groups that a step consumes or 0 if it has not said, flat list of seven values for each fleet: its name, groups occupied, 1 if it asked in vain
-- within the last 3 s else 0, queued groups that came without a lease, groups promised by leases never renewed, groups
-- promised by renewed leases, fraction of its promises that it uses or "" if none has been used or wasted}.
-- PERSIST changes nothing, and is a first write that passes when memory is full: leases must be taken back then too.
redis.call('PERSIST', KEYS[6])
local time = redis.call('TIME')
local real = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
local clock = redis.call('HMGET', KEYS[6], 'real', 'now')
local now = real
if clock[1] then
  now = clock[2] + math.min(math.max(real - clock[1], 0), 5000)
end
redis.call('HSET', KEYS[6], 'real', string.format('%.0f', real), 'now', string.format('%.0f', now))

local function map(flat)
  local made = {}
  for i = 1, #flat, 2 do
    made[flat[i]] = flat[i + 1]
  end
  return made
end
local function add(sums, member, groups)
  local fleet = string.match(member, '^(.*)/')
  sums[fleet] = (sums[fleet] or 0) + groups
end

local remaining = map(redis.call('HGETALL', KEYS[3]))
local open, wasted, fresh, renewed = {}, {}, {}, {}
for member, groups in pairs(remaining) do
  add(open, member, groups)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  add(wasted, member, remaining[member] or 0)
  remaining[member] = nil
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
end
local terms = map(redis.call('HGETALL', KEYS[8]))
for member in pairs(terms) do
  if not remaining[member] then
    redis.call('HDEL', KEYS[8], member)
  end
end
for member, groups in pairs(remaining) do
  add(string.find(terms[member] or '', 'renewed', 1, true) and renewed or fresh, member, groups)
end

-- What became of each fleet's promises since the last call. `open` counts those that were granted and not accounted for yet:
-- what has gone from it and did not expire was used. The fraction is a mean whose memory is half the bound, in groups.
local account = map(redis.call('HGETALL', KEYS[9]))
local memory = math.max(1, (account['bound'] or 0) / 2)
local function note(field, value)
  if account[field] ~= value then
    redis.call('HSET', KEYS[9], field, value)
  end
end
local reply = {}
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local queued = redis.call('XLEN', ARGV[1] .. fleet) - (redis.call('HGET', KEYS[5], fleet) or 0)
  local gone = wasted[fleet] or 0
  local used = math.max(0, (account['open:' .. fleet] or 0) - (open[fleet] or 0))
  local use = account['use:' .. fleet] or ''
  if used + gone > 0 then
    local keep = math.exp(-(used + gone) / memory)
    use = string.format('%.4f', (tonumber(use) or 1) * keep + (1 - keep) * used / (used + gone))
  end
  -- Of a queue with both, those with a lease are taken to leave first: for a fleet that has leases for all it is exact.
  local accepted = redis.call('HGET', ARGV[3] .. fleet, 'accepted') or 0
  local unleased = (account['unleased:' .. fleet] or 0) + math.max(0, accepted - (account['accepted:' .. fleet] or 0) - used)
  unleased = math.max(0, math.min(unleased, queued))
  note('open:' .. fleet, string.format('%.0f', (open[fleet] or 0) - gone))
  note('accepted:' .. fleet, string.format('%.0f', accepted))
  note('unleased:' .. fleet, string.format('%.0f', unleased))
  if use ~= '' then
    note('use:' .. fleet, use)
  end
  local asked = redis.call('HGET', KEYS[7], fleet)
  local values = {fleet, queued + (open[fleet] or 0) - gone, (asked and now - asked <= 3000) and 1 or 0, unleased,
    fresh[fleet] or 0, renewed[fleet] or 0, use}
  for _, value in ipairs(values) do
    reply[#reply + 1] = value
  end
end
local progress = redis.call('HMGET', KEYS[4], 'step', 'consumed')
return {progress[1] or '0', progress[2] or '0', reply}
