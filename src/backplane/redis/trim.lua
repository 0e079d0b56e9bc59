-- Trims a stream that no group consumes: by age, then by size, both within bounds a call.
--
-- KEYS  stream
-- ARGV  retention in ms, bytes at most (each 0: no limit), entries at most a call
-- Reply how many entries went; -1: a group consumes the stream, and trimming is its workers'.
--
-- It trims approximately (`~`: whole nodes of the stream), which costs next to nothing, and so
-- keeps up to a node more than asked. The size is Redis' own estimate, and the share of entries
-- beyond it is taken for the share of bytes: calls that follow come closer.

local stream = KEYS[1]
local retention, bytes_max, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

if redis.call('EXISTS', stream) == 0 then return 0 end
local groups = redis.pcall('XINFO', 'GROUPS', stream)
if groups.err then return groups end
if groups[1] then return -1 end

local removed = 0
local function trim(...)
  local result = redis.pcall('XTRIM', stream, ...)
  if type(result) == 'table' then return result end
  removed = removed + result
end

local failed
if retention > 0 then
  local time = redis.call('TIME')
  local oldest = time[1] * 1000 + math.floor(time[2] / 1000) - retention
  failed = trim('MINID', '~', string.format('%.0f', math.max(oldest, 0)), 'LIMIT', limit)
end
if bytes_max > 0 and not failed then
  local bytes = redis.call('MEMORY', 'USAGE', stream)
  if bytes and bytes > bytes_max then
    local kept = math.floor(redis.call('XLEN', stream) * bytes_max / bytes)
    failed = trim('MAXLEN', '~', string.format('%.0f', kept), 'LIMIT', limit)
  end
end
return failed or removed
