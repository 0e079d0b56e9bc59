-- The embedded store's schema, version 1 (`PRAGMA user_version`). The columns of `messages` and
-- `room_stats` are those of PROTOCOL 6; where SQLite has no such type:
--
--   id          16 bytes, the UUID: it stands in the row and again in the key, and 36 characters
--               twice would cost more than a small payload. To read it: lower(hex(id)), or the
--               view `messages_text`.
--   created_at, stored_at
--               integers, milliseconds since 1970-01-01T00:00:00Z: compared, and indexed, as
--               numbers. The views show them as RFC 3339 text.
--   payload, metadata
--               text, byte for byte as they were sent; SQLite's JSON functions read them.
--
-- The rowid rises with every commit, so rows lie on disk in the order of their offsets.

create table messages (
    room_name       text    not null,
    id              blob    not null,
    epoch           text    not null,
    "offset"        integer not null,
    user_id         text    not null,
    username        text,
    payload         text    not null,
    metadata        text,
    created_at      integer not null,
    stored_at       integer not null,
    -- 1: the id is the client's own, and remembered for --dedupe-window.
    client_id_given integer not null,
    primary key (room_name, id)
);

-- Unlike in PostgreSQL it can be unique: the offsets are counted in this very database.
create unique index messages_by_position on messages (room_name, epoch, "offset");

-- For retention (oldest first) and for the ids to remember (newest first); the second column
-- lets the latter pass by the other rows without reading them.
create index messages_by_time on messages (created_at, client_id_given);

-- The newest offset of each room in the epoch of `state`. It is written along with the messages
-- and outlives them: an offset that was seen never comes again.
create table offsets (
    room_name   text    not null primary key,
    last_offset integer not null
) without rowid;

create table state (
    only_row integer not null primary key check (only_row = 1),
    epoch    text    not null
);

create view room_stats as
select room_name,
       count(*) as message_count,
       count(distinct user_id) as user_count,
       strftime('%Y-%m-%dT%H:%M:%fZ', min(created_at) / 1000.0, 'unixepoch') as first_message_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', max(created_at) / 1000.0, 'unixepoch') as last_message_at
from messages
group by room_name;

-- The rows as PostgreSQL would show them: to read, and to export.
create view messages_text as
select room_name,
       lower(substr(hex(id), 1, 8) || '-' || substr(hex(id), 9, 4) || '-' || substr(hex(id), 13, 4)
             || '-' || substr(hex(id), 17, 4) || '-' || substr(hex(id), 21)) as id,
       epoch,
       "offset",
       user_id,
       username,
       payload,
       metadata,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') as created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', stored_at / 1000.0, 'unixepoch') as stored_at
from messages;
