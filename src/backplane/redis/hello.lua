-- Who comes to a partition, or comes back to it: is what it knows still there? If not, the tail
-- of the stream was lost, and a new epoch begins.
--
-- KEYS  state, stream
-- ARGV  candidate epoch, partitions, known epoch or '', known seq, known entry or '', and a room
--       ('' if none) with the offset that it is said to have reached in the known epoch
-- Reply {epoch, seq, newest entry or '', first entry or '', made, server time in ms}
--       made: 1 this call began the epoch; 0 the epoch goes on; -1 it must not go on, but the
--       candidate is not above it: ask again with a later one.
--       The error `PARTITIONS n`: the state is recorded as one of n partitions.
--
-- What is known must be of the state's own epoch. An older one has been followed by another
-- already; a newer one says that this Redis is older than what was seen of it: that is lost too.
-- The new epoch is written before the old offsets are dropped: the other way round they could be
-- given again within an epoch.

local state, stream = KEYS[1], KEYS[2]
local candidate, partitions, known_epoch = ARGV[1], ARGV[2], ARGV[3]
local known_seq, known_entry = tonumber(ARGV[4]), ARGV[5]
local room, reached = ARGV[6], tonumber(ARGV[7])

local had = redis.pcall('HMGET', state, 'epoch', 'seq', 'partitions', 'o:' .. room)
if had.err then return had end
local newest = redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', '1')
if newest.err then return newest end
local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', '1')

local epoch, seq, made = had[1], tonumber(had[2] or 0) or 0, 0
if had[3] and had[3] ~= partitions then
  return {err = 'PARTITIONS ' .. had[3]}
end

local function fields(found)
  local value = {}
  for i = 1, #found[2], 2 do value[found[2][i]] = found[2][i + 1] end
  return value
end

-- Whether the entry is gone though older ones are there: trimming takes the oldest first. If it is
-- older than all there is, trimming may have taken it, or all was lost and others have gone on
-- since: then numbers that were given already are there again.
local function entry_is_lost()
  if known_entry == '' then return false end
  local found = redis.call('XREVRANGE', stream, known_entry, '-', 'COUNT', '1')[1]
  if not found then
    -- Entries of somebody else's have no number: behind how many is looked.
    for _, first in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', '100')) do
      local value = fields(first)
      if value.epoch then
        return value.epoch == known_epoch and tonumber(value.seq) <= known_seq
      end
    end
    return false
  end
  if found[1] ~= known_entry then return true end
  local value = fields(found)
  -- One of somebody else's has none: where it is there, nothing before it is lost.
  if not value.epoch then return false end
  return value.epoch ~= known_epoch or tonumber(value.seq) ~= known_seq
end

local is_lost = false
if epoch == known_epoch then
  is_lost = seq < known_seq or entry_is_lost()
    or (room ~= '' and (tonumber(had[4] or 0) or 0) < reached)
elseif epoch then
  is_lost = epoch < known_epoch
end

local function drop_offsets()
  local cursor = '0'
  repeat
    local page = redis.call('HSCAN', state, cursor, 'MATCH', 'o:*', 'COUNT', '1000')
    cursor = page[1]
    local dropped = {}
    for i = 1, #page[2], 2 do
      dropped[#dropped + 1] = page[2][i]
      if #dropped == 1000 or i + 2 > #page[2] then
        redis.call('HDEL', state, unpack(dropped))
        dropped = {}
      end
    end
  until cursor == '0'
end

if is_lost and (candidate <= epoch or candidate <= known_epoch) then
  made = -1
elseif is_lost or not epoch then
  local done = redis.pcall('HSET', state, 'epoch', candidate, 'seq', '0', 'partitions', partitions)
  if type(done) == 'table' then return done end
  drop_offsets()
  epoch, seq, made = candidate, 0, 1
elseif not had[3] then
  local done = redis.pcall('HSET', state, 'partitions', partitions)
  if type(done) == 'table' then return done end
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {
  epoch, seq, newest[1] and newest[1][1] or '', oldest[1] and oldest[1][1] or '', made, now,
}
