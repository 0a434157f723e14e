-- Writes one identity that an operator has added, or removes it, if nobody has changed any since they were read.
-- KEYS: 1 identities, 2 their revision;  ARGV: 1 the revision that was read, or "", 2 the next one, 3 name, 4 JSON or "" to remove it
-- Returns 1, or 0 if the revision is another one: read again, decide again.
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[1] then
  return 0
end
-- The first write must be one that Redis refuses when memory is full: it does not check the later ones of a script.
redis.call('SET', KEYS[2], ARGV[2])
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[3])
else
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
end
return 1
