-- ringcast's schema, version 1. Numbered files after it bring it further: 0002_….sql.
--
-- `ringcast migrate` and every worker's start run what is missing, under an advisory lock. It also
-- runs by itself, once or again: put it into the init directory of a postgres container.
--
-- What others may rely on: the table `messages` and the view `room_stats`. The other tables are
-- the view's and may change.

create table if not exists ringcast_schema (
    version    integer     not null primary key,
    applied_at timestamptz not null default now()
);

-- One row a message. `epoch` and "offset" are null in what foreign writers put into the stream.
-- Names sort by their bytes: the same everywhere, whatever the database's collation, and cheaper.
create table if not exists messages (
    room_name  text collate "C" not null,
    id         uuid             not null,
    epoch      text collate "C",
    "offset"   bigint,
    user_id    text             not null,
    username   text,
    payload    jsonb            not null,
    metadata   jsonb,
    created_at timestamptz      not null,
    stored_at  timestamptz      not null default now(),
    primary key (room_name, id)
);

-- Not unique: what is acked is never dropped. A clash of positions is counted and logged.
create index if not exists messages_by_position on messages (room_name, epoch, "offset");

-- For --retention. Rows lie about in the order of their time, so a block range index will do, which
-- costs an insert next to nothing.
create index if not exists messages_by_time on messages using brin (created_at)
    with (pages_per_range = 32, autosummarize = on);

-- What room_stats sums. A batch appends one row a room, in its own transaction: no row is updated
-- while messages come, so rooms that everybody writes to make nobody wait.
create table if not exists room_deltas (
    room_name        text collate "C" not null,
    message_count    bigint           not null,
    first_message_at timestamptz,
    last_message_at  timestamptz
);

-- What deltas become now and then, and where --retention takes off what it deletes.
create table if not exists room_totals (
    room_name        text collate "C" not null primary key,
    message_count    bigint           not null,
    first_message_at timestamptz,
    last_message_at  timestamptz
);

-- Who has written where. `seen_at` is renewed by the hour, not by the message.
create table if not exists room_users (
    room_name text collate "C" not null,
    user_id   text collate "C" not null,
    seen_at   timestamptz      not null default now(),
    primary key (room_name, user_id)
);

create or replace view room_stats as
select counts.room_name,
       sum(counts.message_count)::bigint as message_count,
       coalesce(users.user_count, 0)     as user_count,
       min(counts.first_message_at)      as first_message_at,
       max(counts.last_message_at)       as last_message_at
from (select room_name, message_count, first_message_at, last_message_at from room_totals
      union all
      select room_name, message_count, first_message_at, last_message_at from room_deltas) counts
left join (select room_name, count(*) as user_count from room_users group by room_name) users
       on users.room_name = counts.room_name
group by counts.room_name, users.user_count
having sum(counts.message_count) > 0;

insert into ringcast_schema (version) values (1) on conflict do nothing;
