-- Lets groups of one fleet pass at the rates of its quota, for all gateways together: a token bucket of groups and one of
-- bytes, by Redis's clock. A full bucket contains one second's worth, and at least one group. A group larger than the bucket
-- passes when the bucket is full, which then owes the rest: over any time t at most rate * t + max(bucket, largest group)
-- passes. A clock that is set back refills nothing; one that is set forward fills the bucket once.
-- KEYS: 1 bucket
-- ARGV: 1 groups per second or 0 (no limit), 2 bytes per second or 0, then the payload bytes of each group, in order
-- Returns {how many of the first groups pass, ms until the next one may}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.call('HMGET', KEYS[1], 'at', 'groups', 'bytes')
local elapsed = math.max(0, now - (kept[1] or now)) / 1000000

local function filled(rate, most, level)
  return math.min(most, level and level + elapsed * rate or most)
end

local group_rate, byte_rate = tonumber(ARGV[1]), tonumber(ARGV[2])
local groups = filled(group_rate, math.max(1, group_rate), kept[2])
local bytes = filled(byte_rate, byte_rate, kept[3])
local passed, wait = 0, 0
for i = 3, #ARGV do
  if group_rate > 0 and groups < 1 then
    wait = (1 - groups) / group_rate
  end
  local needed = math.min(ARGV[i], byte_rate)
  if byte_rate > 0 and bytes < needed then
    wait = math.max(wait, (needed - bytes) / byte_rate)
  end
  if wait > 0 then
    break
  end
  groups, bytes, passed = groups - 1, bytes - ARGV[i], passed + 1
end
-- Without a limit nothing is owed, should there be one later.
redis.call('HSET', KEYS[1], 'at', string.format('%.0f', now),
  'groups', string.format('%.17g', group_rate > 0 and groups or 0),
  'bytes', string.format('%.17g', byte_rate > 0 and bytes or 0))
return {passed, math.ceil(wait * 1000)}
