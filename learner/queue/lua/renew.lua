-- Renews leases whose groups are still being made: each then expires after one more lifetime, but no later than the longest
-- time after its grant.
-- KEYS: 1 leases, 2 lease_terms, 3 clock
-- ARGV: 1 lifetime in ms, 2 longest time after the grant in ms, then the lease members
-- Returns the numbers, from 1, of the members that were not renewed: gone, or as old as a lease may become.
-- PERSIST changes nothing, and is a first write that passes when memory is full: leases must not be lost because of that.
redis.call('PERSIST', KEYS[3])
local time = redis.call('TIME')
local now = redis.call('HGET', KEYS[3], 'now') or time[1] * 1000
local lost = {}
for i = 3, #ARGV do
  local expiry = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or nil)
  local granted = string.match(redis.call('HGET', KEYS[2], ARGV[i]) or '', '^%d+')
  if expiry and granted and granted + ARGV[2] > expiry then
    redis.call('ZADD', KEYS[1], math.max(expiry, math.min(now + ARGV[1], granted + ARGV[2])), ARGV[i])
    redis.call('HSET', KEYS[2], ARGV[i], granted .. ' renewed')
  else
    lost[#lost + 1] = i - 2
  end
end
return lost
