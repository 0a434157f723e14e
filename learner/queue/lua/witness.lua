-- Compares the run's data with what a process has seen of it before, and halts the queue if the data is older, or is not
-- the run's. Otherwise advances the clock, as occupancy.lua does: a clock that follows time shows how old a copy is.
-- KEYS: 1 clock, 2 nonce, 3 halted, 4 replaced, 5 epoch, 6 progress, 7 fleets
-- ARGV: 1 ledger prefix, 2 what the process has seen, as JSON, or "", 3 milliseconds that Redis may have forgotten
-- Returns {what is there now as JSON, why the queue is halted as JSON or "", the decision that replaced the process's nonce
-- as JSON or ""}.
-- PERSIST changes nothing, and is a first write that passes when memory is full.
redis.call('PERSIST', KEYS[1])
local clock = redis.call('HMGET', KEYS[1], 'real', 'now')
local accepted, trained = {}, {}
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[7])) do
  local counts = redis.call('HMGET', ARGV[1] .. fleet, 'accepted', 'trained')
  accepted[fleet], trained[fleet] = tonumber(counts[1] or 0), tonumber(counts[2] or 0)
end
local function here()
  return {
    nonce = redis.call('GET', KEYS[2]) or '', clock = tonumber(redis.call('HGET', KEYS[1], 'now') or 0),
    epoch = tonumber(redis.call('GET', KEYS[5]) or 0), step = tonumber(redis.call('HGET', KEYS[6], 'step') or 0),
    reported = tonumber(redis.call('HGET', KEYS[6], 'epoch') or 0),
    accepted = accepted, trained = trained,
  }
end

local found, decision, reason = here(), '', nil
local known = ARGV[2] ~= '' and cjson.decode(ARGV[2])
if known and known.nonce ~= found.nonce then
  decision = redis.call('HGET', KEYS[4], known.nonce) or ''
  if decision == '' then
    reason = found.nonce == '' and 'empty' or 'another'
  end
elseif known and found.clock < known.clock - ARGV[3] then
  reason = 'older'
end
local halted = redis.call('GET', KEYS[3])
if reason then
  local earlier = halted and cjson.decode(halted)
  -- Whoever has seen the most knows best what is missing.
  if not earlier or earlier.known.clock < known.clock then
    halted = cjson.encode({reason = reason, known = known, found = earlier and earlier.found or found})
    redis.call('SET', KEYS[3], halted)
  end
end
if halted then
  return {cjson.encode(found), halted, ''}
end

local time = redis.call('TIME')
local real = time[1] * 1000 + math.floor(time[2] / 1000)
local now = real
if clock[1] then
  now = clock[2] + math.min(math.max(real - clock[1], 0), 5000)
end
redis.call('HSET', KEYS[1], 'real', string.format('%.0f', real), 'now', string.format('%.0f', now))
return {cjson.encode(here()), '', decision}
