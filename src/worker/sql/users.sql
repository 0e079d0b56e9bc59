-- The pairs of a batch that were copied into `seen_users`; in the order of the key, as in stage.sql.
insert into room_users (room_name, user_id)
select room_name, user_id from seen_users order by room_name, user_id
on conflict (room_name, user_id) do update set seen_at = excluded.seen_at
