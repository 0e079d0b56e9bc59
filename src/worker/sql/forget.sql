-- Forgets users who have not written for longer than :retention_ms and the hour by which they are
-- renewed, and rooms without messages. Answers how many users went.
with users as (
    delete from room_users
    where seen_at < now() - interval '1 millisecond' * :retention_ms - interval '2 hours'
    returning 1
), rooms as (
    delete from room_totals where message_count = 0
)
select count(*) from users
