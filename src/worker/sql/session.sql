-- What a worker's connection is before it stores anything.
--
-- Nothing may wait for ever: what is given up is tried again, so these only bound how long a batch
-- stands still before that is told.
set statement_timeout = '10s';
set lock_timeout = '5s';
set idle_in_transaction_session_timeout = '30s';
set client_min_messages = warning;
-- Keys are there to be used, also while the table is small or has no statistics. What is off counts
-- as dear, and what is dear would be compiled: for a second, each time.
set enable_seqscan = off;
set jit = off;

-- Where rows go that may be in the table already; see stage.sql.
create temp table if not exists staged (
    room_name  text collate "C" not null,
    id         uuid             not null,
    epoch      text collate "C",
    "offset"   bigint,
    user_id    text             not null,
    username   text,
    payload    jsonb            not null,
    metadata   jsonb,
    created_at timestamptz      not null,
    -- The id under which it is stored if another message bears its own one.
    spare_id   uuid             not null
) on commit delete rows;

-- Pairs that are new, or were not seen for an hour.
create temp table if not exists seen_users (
    room_name text collate "C" not null,
    user_id   text collate "C" not null
) on commit delete rows;
