-- Announces a version. It must be above all earlier ones; announcing the newest one again, unchanged, does nothing.
-- KEYS: 1 epoch, 2 versions;  ARGV: 1 epoch, 2 version, 3 policy as JSON, 4 how many versions to keep
-- Returns 1 if it was announced now, 0 if it was the newest one already.
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is over, the current one is ' .. tostring(current))
end
redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[4] - 1)
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if newest then
  local version, json = newest[2][2], newest[2][4]
  if version == ARGV[2] and json == ARGV[3] then
    return 0
  end
  if tonumber(version) >= tonumber(ARGV[2]) then
    return redis.error_reply('VERSION ' .. ARGV[2] .. ' is not above the newest one, ' .. version)
  end
end
redis.call('XADD', KEYS[2], '*', 'version', ARGV[2], 'json', ARGV[3])
return 1
