-- Gives the messages of one call their offsets, stores them, and tells the channel.
--
-- KEYS  state, stream, ids:0, ids:1
-- ARGV  channel, instance_id as JSON, instance_id, candidate epoch, producer, base, first number,
--       dedupe window in ms, ids a generation; then of each message: room, user_id, username,
--       payload, metadata, id, '1' if the client gave the id, sent_at, head, mid.
-- Reply {epoch, seq, status, text, entry, result...}: seq is the last number given, entry that of
--       the last message stored by this call, or ''; a result a message, until it stopped: the offset
--       where it is stored; minus the offset of what the client published before with that id; 0:
--       that number was taken before. status is 'ok' (text: a warning, or ''), 'behind' (numbers
--       are missing before this call) or 'error' (text: why the next message was not stored).
--       An error reply means that nothing was done.
--
-- Order is what keeps it whole: all is read before anything is written; XADD is the first write,
-- the only one that Redis refuses for want of memory; then one HSET makes the entries count; then
-- the channel is told. If that HSET is refused, the entries are taken back, and nobody saw them.
-- Numbers are whole and below 2^53. Payloads are joined as text and never looked into.

local HEADER, FIELDS, MESSAGES_MAX = 9, 10, 1000
local PRODUCERS_MAX, PRODUCER_SILENT_MS = 1000, 86400000

local pcall, format, ARGV = redis.pcall, string.format, ARGV
local state, stream, channel, producer = KEYS[1], KEYS[2], ARGV[1], ARGV[5]
local base, first = tonumber(ARGV[6]), tonumber(ARGV[7])

local messages = (#ARGV - HEADER) / FIELDS
if messages < 1 or messages > MESSAGES_MAX or messages % 1 ~= 0 then
  return {err = 'ERR publish.lua takes 1 to ' .. MESSAGES_MAX .. ' messages a call'}
end

-- %d is of 64 bits here; '' .. number would be 1e+15 some day.
local function digits(number)
  return format('%d', number)
end

-- An error's text, without the marks of the wire that some versions leave on it.
local function why(failed)
  return (failed.err:gsub('^%-', ''):gsub('%s+$', ''))
end

-- Stores the message behind argument `at`. Returns its entry, or an error.
local function store(at, epoch, offset, seq)
  return pcall('XADD', stream, '*', 'room_name', ARGV[at + 1], 'user_id', ARGV[at + 2],
    'username', ARGV[at + 3], 'payload', ARGV[at + 4], 'metadata', ARGV[at + 5],
    'id', ARGV[at + 6], 'epoch', epoch, 'offset', offset, 'seq', seq, 'sent_at', ARGV[at + 8],
    'instance_id', ARGV[3])
end

-- What the channel is told of it.
local function envelope(at, epoch, offset, seq, entry)
  local metadata = ARGV[at + 5]
  if metadata ~= '' then metadata = ',"metadata":' .. metadata end
  return '{"instance_id":' .. ARGV[2] .. ',"epoch":"' .. epoch .. '","seq":' .. seq
    .. ',"entry":"' .. entry .. '","payload":' .. ARGV[at + 9] .. offset .. ARGV[at + 10]
    .. ARGV[at + 4] .. metadata .. ',"sent_at":"' .. ARGV[at + 8] .. '"}}'
end

-- 0. The usual call: one message without an id of its client's, whose number is the next one of a
--    producer that is known. The same steps as below in the same order, but nothing is put into
--    lists, which is a sixth of the time. Whatever is otherwise goes below, with nothing done.

if messages == 1 and ARGV[HEADER + 7] ~= '1' then
  local number, room = 'p:' .. producer, 'o:' .. ARGV[HEADER + 1]
  local known = pcall('HMGET', state, 'epoch', 'seq', number, room)
  local epoch, seq, offset = known[1], tonumber(known[2]), tonumber(known[4] or 0)
  local last = (known[3] or ''):match('^%d+')
  if epoch and seq and offset and last and math.max(last, base - 1) + 1 == first then
    seq, offset = seq + 1, offset + 1
    local offset_text, seq_text = format('%d', offset), format('%d', seq)
    local entry = store(HEADER, epoch, offset_text, seq_text)
    if type(entry) == 'string' then
      local done = pcall('HSET', state, 'seq', seq_text,
        'place', epoch .. ' ' .. seq_text .. ' ' .. entry,
        number, ARGV[7] .. ' ' .. entry:match('^%d+'), room, offset_text)
      if type(done) == 'table' then
        pcall('XDEL', stream, entry)
        return done
      end
      local told = envelope(HEADER, epoch, offset_text, seq_text, entry)
      told = pcall('PUBLISH', channel, told)
      return {epoch, seq, 'ok', type(told) == 'table' and why(told) or '', entry, offset}
    end
  end
end

local window, ids_max = tonumber(ARGV[8]), tonumber(ARGV[9])

-- What is counted in the state: 0 before the first.
local function count(text)
  if not text then return 0 end
  return tonumber(text) or error('the state holds no number but ' .. text)
end

-- The time in ms, read when it is first asked for: as a rule it isn't.
local now
local function clock()
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return now
end

-- 1. Read.

local fields, offsets, rooms, given = {'epoch', 'seq', 'p:' .. producer}, {}, {}, nil
for at = HEADER + 1, #ARGV, FIELDS do
  local room = ARGV[at]
  if not offsets[room] then
    offsets[room] = 0
    rooms[#rooms + 1] = room
    fields[#rooms + 3] = 'o:' .. room
  end
  if ARGV[at + 6] == '1' then
    given = given or {}
    given[#given + 1] = room .. '\0' .. ARGV[at + 5]
  end
end
local ids_field = #rooms + 4
if given then
  fields[ids_field], fields[ids_field + 1] = 'ids', 'ids_at'
end
local known = pcall('HMGET', state, unpack(fields))
if known.err then return known end

for i = 1, #rooms do offsets[rooms[i]] = count(known[i + 3]) end

local remembered, generation, generation_at, generation_len
if given then
  remembered = {}
  generation = known[ids_field] == '1' and 1 or 0
  generation_at = tonumber(known[ids_field + 1]) or clock()
  for key = 3, 4 do
    local found = pcall('HMGET', KEYS[key], unpack(given))
    if found.err then return found end
    for i, id in ipairs(given) do
      if found[i] then remembered[id] = tonumber(found[i]) end
    end
  end
  generation_len = redis.call('HLEN', KEYS[3 + generation])
end

-- The producers of the last day, read only when this one is new to the state.
local producers, forgotten
if not known[3] then
  local list = pcall('HGET', state, 'producers')
  if type(list) == 'table' then return list end
  local names, at = {}, {}
  for name in (list or ''):gmatch('%S+') do
    if name ~= producer and #names < PRODUCERS_MAX then names[#names + 1] = name end
  end
  if names[1] then
    local numbers = {}
    for i, name in ipairs(names) do numbers[i] = 'p:' .. name end
    numbers = redis.call('HMGET', state, unpack(numbers))
    for i, name in ipairs(names) do
      at[name] = tonumber((numbers[i] or ''):match(' (%d+)$')) or 0
    end
  end
  -- They stand in the order of their first call; when there are too many, those who have been
  -- silent longest go first.
  local excess = #names - (PRODUCERS_MAX - 1)
  if excess > 0 then
    table.sort(names, function(a, b)
      if at[a] == at[b] then return a < b end
      return at[a] < at[b]
    end)
  end
  producers, forgotten = {}, {}
  for _, name in ipairs(names) do
    if clock() - at[name] > PRODUCER_SILENT_MS or excess > 0 then
      forgotten[#forgotten + 1] = 'p:' .. name
      excess = excess - 1
    else
      producers[#producers + 1] = name
    end
  end
  producers[#producers + 1] = producer
end

-- 2. Store. The number that is next: max(last, base - 1) + 1.

local epoch, seq = known[1] or ARGV[4], count(known[2])
if not known[1] then seq = 0 end
local last = known[3] and count(known[3]:match('^%d+')) or 0
local next_number = math.max(last, base - 1) + 1
local last_before = next_number - 1

-- Room for one result from the start: most calls have one message.
local reply = {epoch, 0, 'ok', '', '', 0}
local results, stored, entries, envelopes, changed, new_ids = 5, 0, {}, {}, {}, nil
for number = first, first + messages - 1 do
  local at = HEADER + (number - first) * FIELDS
  local result
  if number > next_number then
    reply[3] = 'behind'
    break
  elseif number < next_number then
    result = 0
  else
    local room, id, is_given = ARGV[at + 1], ARGV[at + 6], ARGV[at + 7] == '1'
    local key = is_given and room .. '\0' .. id
    local repeated = is_given and remembered[key]
    if repeated then
      result = -repeated
    else
      result = offsets[room] + 1
      local offset_text, seq_text = format('%d', result), format('%d', seq + 1)
      local entry = store(at, epoch, offset_text, seq_text)
      if type(entry) == 'table' then
        reply[3], reply[4] = 'error', why(entry)
        break
      end
      stored = stored + 1
      envelopes[stored] = envelope(at, epoch, offset_text, seq_text, entry)
      entries[stored] = entry
      seq = seq + 1
      offsets[room], changed[room] = result, offset_text
      if is_given then
        remembered[key] = result
        new_ids = new_ids or {}
        new_ids[#new_ids + 1] = key
        new_ids[#new_ids + 1] = offset_text
      end
    end
    next_number = next_number + 1
  end
  results = results + 1
  reply[results] = result
end
if results == 5 then reply[6] = nil end
reply[2], reply[5] = seq, entries[stored] or ''

-- 3. Make it count.

local taken = next_number - 1 > last_before
if not taken and (known[1] or reply[3] == 'error') then
  return known[1] and reply or {err = reply[4]}
end
-- Room for the fields of one room from the start.
local written, rotates = {'seq', digits(seq), nil, nil, nil, nil, nil, nil}, false
if not known[1] then
  written[3], written[4] = 'epoch', epoch
end
if stored > 0 then
  local n = #written
  written[n + 1], written[n + 2] = 'place', epoch .. ' ' .. digits(seq) .. ' ' .. entries[stored]
end
if taken then
  -- The entry's id has the time.
  local at = stored > 0 and entries[stored]:match('^%d+') or digits(clock())
  local n = #written
  written[n + 1], written[n + 2] = fields[3], digits(next_number - 1) .. ' ' .. at
  n = n + 2
  if producers then
    written[n + 1], written[n + 2] = 'producers', table.concat(producers, ' ')
    n = n + 2
  end
  for i = 1, #rooms do
    local offset = changed[rooms[i]]
    if offset then
      written[n + 1], written[n + 2] = fields[i + 3], offset
      n = n + 2
    end
  end
  if new_ids then
    rotates = math.abs(clock() - generation_at) > window
      or generation_len + #new_ids / 2 > ids_max
    if rotates then generation, generation_at = 1 - generation, now end
    if rotates or not known[ids_field + 1] then
      written[n + 1], written[n + 2] = 'ids', generation
      written[n + 3], written[n + 4] = 'ids_at', digits(generation_at)
    end
  end
end
local done = pcall('HSET', state, unpack(written))
if type(done) == 'table' then
  if entries[1] then pcall('XDEL', stream, unpack(entries)) end
  return done
end

-- 4. Tell. What fails from here on costs a repair or a memory, not a message.

local function warn(result)
  if type(result) == 'table' and result.err and reply[4] == '' then reply[4] = why(result) end
  return type(result) == 'table' and result.err
end
for i = 1, stored do
  if warn(pcall('PUBLISH', channel, envelopes[i])) then break end
end
if new_ids then
  local key = KEYS[3 + generation]
  if rotates then warn(pcall('UNLINK', key)) end
  warn(pcall('HSET', key, unpack(new_ids)))
  warn(pcall('PEXPIRE', key, digits(2 * window)))
end
if taken and forgotten and forgotten[1] then warn(pcall('HDEL', state, unpack(forgotten))) end
return reply
