-- Changes why the queue stands still, if the reason is what the caller has seen.
-- KEYS: 1 halted;  ARGV: 1 the reason that was seen, or "" for none, 2 the new one, or "": the queue goes on
-- Returns 1; 0 if the reason is another one, and nothing was changed.
redis.call('PERSIST', KEYS[1])  -- passes also when memory is full, and so does what follows it (start.lua)
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  -- An earlier attempt may have taken effect, though its reply was lost.
  return (redis.call('GET', KEYS[1]) or '') == ARGV[2] and 1 or 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
