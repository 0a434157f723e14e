-- Records an evaluation. Redis keeps the newest versions' ones, the newest of each name and sampling, and the best value of each
-- metric, which stays when the evaluation itself is forgotten.
-- KEYS: 1 evaluations, 2 evaluation_order, 3 evaluation_newest, 4 evaluation_best
-- ARGV: 1 version, 2 name:sampling, 3 the evaluation as JSON, 4 most evaluations, 5 most pairs of name and sampling, then name and
--       value of each metric
-- Returns 1; 0 if there are too many pairs already.
local version = tonumber(ARGV[1])
local newest = redis.call('HGET', KEYS[3], ARGV[2])
if not newest and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[5]) then
  return 0
end
local field = ARGV[1] .. ':' .. ARGV[2]
redis.call('HSET', KEYS[1], field, ARGV[3])
redis.call('ZADD', KEYS[2], version, field)
while redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4]) do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  redis.call('HDEL', KEYS[1], oldest)
  redis.call('ZREM', KEYS[2], oldest)
end
if not newest or version >= tonumber(string.match(newest, '^%d+')) then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[1] .. ' ' .. ARGV[3])
end
for i = 6, #ARGV, 2 do
  local metric = ARGV[2] .. ':' .. ARGV[i]
  local best = redis.call('HGET', KEYS[4], metric)
  local of, value = string.match(best or '', '^(%d+) (.*)$')
  -- Equal values: the newer version.
  local better = not of or tonumber(ARGV[i + 1]) > tonumber(value)
    or (tonumber(ARGV[i + 1]) == tonumber(value) and version > tonumber(of))
  if better or of == ARGV[1] then
    redis.call('HSET', KEYS[4], metric, ARGV[1] .. ' ' .. ARGV[i + 1])
  end
end
return 1
