-- What a worker does every second: it is heard of, takes over what the dead left, trims, and counts.
--
-- KEYS  stream, dead
-- ARGV  group, consumer, ms after which a consumer is dead (0: nobody is), entries taken over at
--       most, retention in ms (0: nothing is trimmed), entries trimmed at most
-- Reply {pending, lag, oldest, now, dead, claimed, trimmed, removed}: entries pending with anybody;
--       entries that nobody has read; when the oldest of both was added, in ms, or 0; the time
--       here; entries set aside; entries taken over, trimmed; consumers removed.
--
-- A consumer is dead when it has not been heard of for so long, whatever its entries' idle time:
-- one that waits for PostgreSQL is heard of by this very script, and keeps what it has. Consumers
-- are removed here only, in the step that sees that nothing is pending with them.
--
-- It trims below the floor, min(oldest pending, last delivered), and only what is older than the
-- retention; src/backplane/redis/trim.lua trims where no group consumes, and nothing else does.
-- Both trim approximately (`~`: whole nodes of the stream).

local stream, dead = KEYS[1], KEYS[2]
local group, consumer = ARGV[1], ARGV[2]
local dead_ms, claim_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local retention, trim_max = tonumber(ARGV[5]), ARGV[6]

-- Claiming what can't be there is how a consumer is heard of without taking anything.
local heard = redis.pcall('XCLAIM', stream, group, consumer, 3600000, '0-1', 'JUSTID')
if heard.err then return heard end

local function pairs_of(flat)
  local named = {}
  for i = 1, #flat, 2 do named[flat[i]] = flat[i + 1] end
  return named
end

local claimed, removed = 0, 0
if dead_ms > 0 then
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local other = pairs_of(flat)
    if other.name ~= consumer and other.idle >= dead_ms then
      if other.pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', stream, group, other.name)
        removed = removed + 1
      elseif claimed < claim_max then
        local ids = {}
        local list = redis.call('XPENDING', stream, group, '-', '+', claim_max - claimed, other.name)
        for i, entry in ipairs(list) do ids[i] = entry[1] end
        ids[#ids + 1] = 'JUSTID'
        local taken = redis.call('XCLAIM', stream, group, consumer, dead_ms, unpack(ids))
        claimed = claimed + #taken
      end
    end
  end
end

local pending = redis.call('XPENDING', stream, group)
local last, lag = '0-0', nil
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local of = pairs_of(flat)
  if of.name == group then last, lag = of['last-delivered-id'], of.lag end
end
local unread = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
-- Redis before 7 does not count them, and later ones can't where entries were deleted.
if type(lag) ~= 'number' then lag = unread and 1 or 0 end

local function ms_of(id) return tonumber(id:match('^%d+')) end

local floor, oldest = last, 0
if pending[1] > 0 then
  floor = pending[2]
  oldest = ms_of(floor)
elseif unread then
  oldest = ms_of(unread[1])
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local trimmed = 0
if retention > 0 then
  local minid = floor
  if now - retention < ms_of(floor) then
    minid = string.format('%.0f', math.max(now - retention, 0))
  end
  local result = redis.pcall('XTRIM', stream, 'MINID', '~', minid, 'LIMIT', trim_max)
  if type(result) == 'table' then return result end
  trimmed = result
end

return {pending[1], lag, string.format('%.0f', oldest), string.format('%.0f', now),
        redis.call('XLEN', dead), claimed, trimmed, removed}
