-- Takes a lease, or renews one's own.
--
-- KEYS  lease
-- ARGV  nonce, time to live in ms
-- Reply {'held', '', ttl}, or {'other', the holder's nonce, its ttl in ms}

local holder = redis.pcall('GET', KEYS[1])
if type(holder) == 'table' then return holder end
if holder and holder ~= ARGV[1] then
  return {'other', holder, redis.call('PTTL', KEYS[1])}
end
local done = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if done.err then return done end
return {'held', '', tonumber(ARGV[2])}
