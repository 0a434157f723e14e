-- Notes which version a worker evaluates, so that it is kept on disk.
-- KEYS: 1 evaluating
-- ARGV: 1 "fleet/worker", 2 version
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 or redis.call('HLEN', KEYS[1]) < 64 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. redis.call('TIME')[1] .. '000')
end
return 0
