-- Reads keys of any type at one instant. Changes nothing.
-- KEYS: the keys
-- ARGV: for each key "" or, of a hash that has been read before, how many fields it had then
-- Returns {number of the key, its type, its time to live in seconds or a negative number, its content} for each key that is
-- there, the content as the reading command of its type returns it. The type is "same" for a hash that has as many fields as
-- it had: the caller knows that none of them changes.
local READERS = {
  string = function(key) return redis.call('GET', key) end,
  hash = function(key) return redis.call('HGETALL', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  stream = function(key) return redis.call('XRANGE', key, '-', '+') end,
}
local found = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' and ARGV[i] ~= '' and redis.call('HLEN', key) == tonumber(ARGV[i]) then
    found[#found + 1] = {i, 'same', -1, ''}
  elseif READERS[kind] then
    found[#found + 1] = {i, kind, redis.call('TTL', key), READERS[kind](key)}
  elseif kind ~= 'none' then
    return redis.error_reply('DUMP ' .. key .. ' has type ' .. kind .. ', which Leeway does not write')
  end
end
return found
