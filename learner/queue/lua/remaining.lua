-- How many groups each of some leases still promises, 0 for one that is unknown; changes nothing.
-- KEYS: 1 lease_remaining;  ARGV: the lease members, at least one
local groups = redis.call('HMGET', KEYS[1], unpack(ARGV))
for i = 1, #ARGV do
  groups[i] = tonumber(groups[i] or 0)
end
return groups
