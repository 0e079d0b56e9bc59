-- Sums some of the deltas up. Answers how many went. One worker at a time is enough: the lock makes
-- others pass by; without it the result would be the same.
with turn as materialized (
    select pg_try_advisory_xact_lock(8243108, 2) as is_ours
), gone as (
    delete from room_deltas where ctid = any (array(
        select d.ctid from room_deltas d, turn where turn.is_ours limit 20000
    ))
    returning room_name, message_count, first_message_at, last_message_at
), summed as (
    insert into room_totals as t (room_name, message_count, first_message_at, last_message_at)
    select room_name, sum(message_count), min(first_message_at), max(last_message_at)
    from gone
    group by room_name
    order by room_name
    on conflict (room_name) do update set
        message_count = t.message_count + excluded.message_count,
        first_message_at = least(t.first_message_at, excluded.first_message_at),
        last_message_at = greatest(t.last_message_at, excluded.last_message_at)
)
select count(*) from gone
