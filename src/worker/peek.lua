-- The first own pending entry behind one, without what is in it, and how long a reply with it is at
-- most: it may be another one by now than the one that could not be read.
--
-- KEYS  stream
-- ARGV  group, consumer, id behind which
-- Reply {id, bytes}; {}: there is none

local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[3], '+', 1, ARGV[2])
if not pending[1] then return {} end
local id, bytes = pending[1][1], 0
local found = redis.call('XRANGE', KEYS[1], id, id)[1]
if found then
  for _, value in ipairs(found[2]) do bytes = bytes + #value + 32 end
end
return {id, bytes}
