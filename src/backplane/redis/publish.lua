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

local state, stream = KEYS[1], KEYS[2]
local channel, instance_json, instance, producer = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local base, first = tonumber(ARGV[6]), tonumber(ARGV[7])
local window, ids_max = tonumber(ARGV[8]), tonumber(ARGV[9])
local pcall, format, ARGV = redis.pcall, string.format, ARGV

local messages = (#ARGV - HEADER) / FIELDS
if messages < 1 or messages > MESSAGES_MAX or messages % 1 ~= 0 then
  return {err = 'ERR publish.lua takes 1 to ' .. MESSAGES_MAX .. ' messages a call'}
end

-- %d is of 64 bits here; '' .. number would be 1e+15 some day.
local function digits(number)
  return format('%d', number)
end

-- What is counted in the state: 0 before the first.
local function count(text)
  if not text then return 0 end
  return tonumber(text) or error('the state holds no number but ' .. text)
end

-- An error's text, without the marks of the wire that some versions leave on it.
local function why(failed)
  return (failed.err:gsub('^%-', ''):gsub('%s+$', ''))
end

-- 1. Read.

local fields = {'epoch', 'seq', 'p:' .. producer}
local field_of, given = {}, {}
for at = HEADER + 1, #ARGV, FIELDS do
  local room = ARGV[at]
  if not field_of[room] then
    fields[#fields + 1] = 'o:' .. room
    field_of[room] = #fields
  end
  if ARGV[at + 6] == '1' then given[#given + 1] = room .. '\0' .. ARGV[at + 5] end
end
local ids_field = #fields + 1
if given[1] then
  fields[ids_field], fields[ids_field + 1] = 'ids', 'ids_at'
end
local known = pcall('HMGET', state, unpack(fields))
if known.err then return known end

local offsets = {}
for room, field in pairs(field_of) do offsets[room] = count(known[field]) end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local remembered, generation, generation_at, generation_len = {}, 0, now, 0
if given[1] then
  generation = known[ids_field] == '1' and 1 or 0
  generation_at = tonumber(known[ids_field + 1]) or now
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
local producers, forgotten = nil, {}
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
  producers = {}
  for _, name in ipairs(names) do
    if now - at[name] > PRODUCER_SILENT_MS or excess > 0 then
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

local reply = {epoch, 0, 'ok', '', ''}
local entries, envelopes, changed, new_ids = {}, {}, {}, {}
for i = 0, messages - 1 do
  local number, at = first + i, HEADER + i * FIELDS
  if number > next_number then
    reply[3] = 'behind'
    break
  elseif number < next_number then
    reply[#reply + 1] = 0
  else
    local room, id, is_given = ARGV[at + 1], ARGV[at + 6], ARGV[at + 7] == '1'
    local key = is_given and room .. '\0' .. id
    local repeated = is_given and remembered[key]
    if repeated then
      reply[#reply + 1] = -repeated
    else
      local payload, metadata, sent_at = ARGV[at + 4], ARGV[at + 5], ARGV[at + 8]
      local offset_text, seq_text = digits(offsets[room] + 1), digits(seq + 1)
      local entry = pcall('XADD', stream, '*', 'room_name', room, 'user_id', ARGV[at + 2],
        'username', ARGV[at + 3], 'payload', payload, 'metadata', metadata, 'id', id,
        'epoch', epoch, 'offset', offset_text, 'seq', seq_text, 'sent_at', sent_at,
        'instance_id', instance)
      if type(entry) == 'table' then
        reply[3], reply[4] = 'error', why(entry)
        break
      end
      if metadata ~= '' then metadata = ',"metadata":' .. metadata end
      envelopes[#envelopes + 1] = '{"instance_id":' .. instance_json .. ',"epoch":"' .. epoch
        .. '","seq":' .. seq_text .. ',"entry":"' .. entry .. '","payload":' .. ARGV[at + 9]
        .. offset_text .. ARGV[at + 10] .. payload .. metadata .. ',"sent_at":"' .. sent_at
        .. '"}}'
      entries[#entries + 1] = entry
      seq = seq + 1
      offsets[room] = offsets[room] + 1
      changed[room] = offset_text
      reply[#reply + 1] = offsets[room]
      if is_given then
        remembered[key] = offsets[room]
        new_ids[#new_ids + 1] = key
        new_ids[#new_ids + 1] = offset_text
      end
    end
    next_number = next_number + 1
  end
end
reply[2], reply[5] = seq, entries[#entries] or ''

-- 3. Make it count.

local taken = next_number - 1 > last_before
if not taken and (known[1] or reply[3] == 'error') then
  return known[1] and reply or {err = reply[4]}
end
local written = {'seq', digits(seq)}
local function write(field, value)
  written[#written + 1] = field
  written[#written + 1] = value
end
local rotates = false
if not known[1] then write('epoch', epoch) end
if taken then
  write('p:' .. producer, digits(next_number - 1) .. ' ' .. digits(now))
  if producers then write('producers', table.concat(producers, ' ')) end
  for room, offset in pairs(changed) do write('o:' .. room, offset) end
  if new_ids[1] then
    rotates = math.abs(now - generation_at) > window
      or generation_len + #new_ids / 2 > ids_max
    if rotates then generation, generation_at = 1 - generation, now end
    if rotates or not known[ids_field + 1] then
      write('ids', generation)
      write('ids_at', digits(generation_at))
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
for _, envelope in ipairs(envelopes) do
  if warn(pcall('PUBLISH', channel, envelope)) then break end
end
if new_ids[1] then
  local key = KEYS[3 + generation]
  if rotates then warn(pcall('UNLINK', key)) end
  warn(pcall('HSET', key, unpack(new_ids)))
  warn(pcall('PEXPIRE', key, digits(2 * window)))
end
if taken and forgotten[1] then warn(pcall('HDEL', state, unpack(forgotten))) end
return reply
