-- A learner starts: the epoch grows, and every older learner is fenced from here on.
-- KEYS: 1 epoch;  ARGV: 1 an epoch that ours must be above (what disks remember of a Redis that has forgotten)
-- Returns the new epoch.
-- PERSIST changes nothing here. A script's first write is checked against maxmemory, and this one always passes: the
-- learner must go on when memory is full, because it alone frees memory. The same in begin, report and publish.
redis.call('PERSIST', KEYS[1])
if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
end
return redis.call('INCR', KEYS[1])
