-- Makes a new run's data: the number of its layout and its nonce, which every copy of the data has.
-- KEYS: 1 schema, 2 nonce
-- ARGV: 1 the layout's number, 2 a new nonce; "" for a process that knows the run's nonce: then nothing is made
-- Returns {layout's number or "", nonce or ""}.
if ARGV[2] ~= '' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[1], ARGV[1])
  redis.call('SET', KEYS[2], ARGV[2])
end
return {redis.call('GET', KEYS[1]) or '', redis.call('GET', KEYS[2]) or ''}
