-- A learner starts: the epoch grows, and every older learner is fenced from here on.
-- KEYS: 1 epoch
-- Returns the new epoch.
-- PERSIST changes nothing here. A script's first write is checked against maxmemory, and this one always passes: the
-- learner must go on when memory is full, because it alone frees memory. The same in begin, report and publish.
redis.call('PERSIST', KEYS[1])
return redis.call('INCR', KEYS[1])
