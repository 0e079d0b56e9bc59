-- A page of the entries that were set aside, their values cut: one may be larger than a reply.
--
-- KEYS  dead
-- ARGV  the id behind which it begins, entries at most, bytes of a value at most
-- Reply a list an entry: {id, name, value, bytes of the value, name, …}

local cut = tonumber(ARGV[3])
local page = {}
-- One by one: all at once would be all of them in memory.
local after = ARGV[1]
for i = 1, tonumber(ARGV[2]) do
  local found = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 1)[1]
  if not found then break end
  after = found[1]
  local one = {after}
  for at = 1, #found[2], 2 do
    local value = found[2][at + 1]
    one[#one + 1] = found[2][at]
    one[#one + 1] = value:sub(1, cut)
    one[#one + 1] = #value
  end
  page[i] = one
end
return page
