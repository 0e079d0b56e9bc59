-- What a worker's connection is before it stores anything.
--
-- Nothing may wait for ever: what is given up is tried again, so these only bound how long a batch
-- stands still before that is told.
set statement_timeout = '10s';
set lock_timeout = '5s';
set idle_in_transaction_session_timeout = '30s';
set client_min_messages = warning;
-- What is looked up in `messages` is looked up by its keys, a few rows in however many: a plan that
-- reads the whole table for a batch, as is chosen for want of statistics, must not be.
set enable_seqscan = off;
set enable_hashjoin = off;
set enable_mergejoin = off;

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
