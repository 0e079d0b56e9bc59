-- From `staged` into `messages`, but what is there already; in one transaction with the COPY that
-- filled it. Answers three rows: how many were added by their own id, how many by a spare one, and at
-- how many positions of these rows other messages stand.
--
-- What is looked up in `messages` is looked up row by row, by subqueries and no joins: without
-- statistics of `staged` a join may read the whole table.
--
-- 1. By its own id. A row that another worker inserts at this moment is waited for. In the order of
--    the key, so that two workers with the same rows wait for each other in one direction only.
with added as (
    insert into messages
        (room_name, id, epoch, "offset", user_id, username, payload, metadata, created_at)
    select room_name, id, epoch, "offset", user_id, username, payload, metadata, created_at
    from staged
    order by room_name, id
    on conflict (room_name, id) do nothing
    returning room_name, user_id, created_at
), counted as (
    insert into room_deltas (room_name, message_count, first_message_at, last_message_at)
    select room_name, count(*), min(created_at), max(created_at) from added group by room_name
), seen as (
    insert into room_users (room_name, user_id)
    select distinct room_name, user_id from added order by room_name, user_id
    on conflict (room_name, user_id) do update set seen_at = excluded.seen_at
)
select count(*) from added;

-- 2. What was not added because another message, at another position, has its id: a client has
--    used it again after --dedupe-window. It is acked, so it is stored, by an id of its own. The
--    snapshot of this statement has whatever the first one met.
with added as (
    insert into messages
        (room_name, id, epoch, "offset", user_id, username, payload, metadata, created_at)
    select s.room_name, s.spare_id, s.epoch, s."offset", s.user_id, s.username, s.payload,
           s.metadata, s.created_at
    from staged s
    where (
        select (m.epoch, m."offset") is distinct from (s.epoch, s."offset")
        from messages m
        where m.room_name = s.room_name and m.id = s.id
    )
    order by s.room_name, s.spare_id
    on conflict (room_name, id) do nothing
    returning room_name, user_id, created_at
), counted as (
    insert into room_deltas (room_name, message_count, first_message_at, last_message_at)
    select room_name, count(*), min(created_at), max(created_at) from added group by room_name
), seen as (
    insert into room_users (room_name, user_id)
    select distinct room_name, user_id from added order by room_name, user_id
    on conflict (room_name, user_id) do update set seen_at = excluded.seen_at
)
select count(*) from added;

-- 3. What is acked is never dropped, so positions may clash: it is counted and told.
select count(*)
from staged s
where (
    select count(*) from messages m
    where m.room_name = s.room_name and m.epoch = s.epoch and m."offset" = s."offset"
      and m.id not in (s.id, s.spare_id)
) > 0
