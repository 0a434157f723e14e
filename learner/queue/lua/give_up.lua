-- Compares how many groups the ledgers count as trained with how many the learner's weights contain: the difference is what
-- rollbacks and damaged checkpoints have given up since the run began.
-- Names are derived from the prefix: all keys of a run share a slot.
-- KEYS: 1 epoch, 2 fleets
-- ARGV: 1 epoch, 2 ledger prefix, 3 "1" to record it in the ledgers, then fleet and groups in the weights, ...
-- Returns how many groups that are more than the ledgers said before.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
local contained, more = {}, 0
for i = 4, #ARGV, 2 do
  contained[ARGV[i]] = tonumber(ARGV[i + 1])
end
for _, fleet in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local ledger = ARGV[2] .. fleet
  local counts = redis.call('HMGET', ledger, 'trained', 'given_up')
  local given_up = math.max(0, (counts[1] or 0) - (contained[fleet] or 0))
  more = more + given_up - (counts[2] or 0)
  if ARGV[3] == '1' then
    redis.call('HSET', ledger, 'given_up', string.format('%.0f', given_up))
  end
end
return more
