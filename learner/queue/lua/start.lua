-- Starts a learner: the epoch grows, which fences every older learner.
-- KEYS: 1 epoch;  ARGV: 1 an epoch that the new one must be above (from disk, in case Redis has lost its own)
-- Returns the new epoch.
-- PERSIST changes nothing here. Redis checks a script's first write against maxmemory, and PERSIST always passes: the
-- learner must continue when memory is full, because it alone frees memory. begin, recover and report do this too.
redis.call('PERSIST', KEYS[1])
if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
end
return redis.call('INCR', KEYS[1])
