-- Deletes some of the messages that are older than :retention_ms, and takes them off the counts.
-- Answers how many went. A room's first message is then the first by position.
with turn as materialized (
    select pg_try_advisory_xact_lock(8243108, 2) as is_ours,
           now() - interval '1 millisecond' * :retention_ms as oldest
), gone as (
    delete from messages where ctid = any (array(
        select m.ctid from messages m, turn where turn.is_ours and m.created_at < turn.oldest
        limit 5000
    ))
    returning room_name
), counted as (
    insert into room_totals as t (room_name, message_count)
    select room_name, -count(*) from gone group by room_name order by room_name
    on conflict (room_name) do update set
        message_count = t.message_count + excluded.message_count,
        first_message_at = (
            select m.created_at from messages m, turn
            where m.room_name = t.room_name and m.created_at >= turn.oldest
            order by m.epoch, m."offset"
            limit 1
        )
)
select count(*) from gone
