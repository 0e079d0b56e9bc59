-- Sets entries aside that can't be stored: into the stream of the dead and out of what is pending,
-- each in one step. The original is copied here and goes over no wire, however large it is.
--
-- KEYS  stream, dead
-- ARGV  group; then of each entry: its id, SQLSTATE, error
-- Reply how many were added to the dead.
--
-- What is not pending any more was set aside or stored before: it is passed over, so this may be
-- sent again. An entry of the dead has three fields of ours, then those of the original.

local stream, dead, group = KEYS[1], KEYS[2], ARGV[1]
-- Lua spreads 8000 values at most; of an entry with more fields the first are kept.
local VALUES_MAX = 7000

local added = 0
for at = 2, #ARGV, 3 do
  local id, sqlstate, why = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local pending = redis.call('XPENDING', stream, group, id, id, 1)
  if pending[1] then
    local found = redis.call('XRANGE', stream, id, id)[1]
    if found then
      local fields = found[2]
      for i = #fields, VALUES_MAX + 1, -1 do fields[i] = nil end
      local result = redis.pcall('XADD', dead, '*', 'entry', id, 'sqlstate', sqlstate,
        'error', why, unpack(fields))
      if type(result) == 'table' then return result end
      added = added + 1
    end
    redis.call('XACK', stream, group, id)
  end
end
return added
