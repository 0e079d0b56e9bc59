-- What is not as init.sql has it and would keep rows out: a line each. Nothing: all is well.
with wanted (table_name, column_name, type_name) as (
    values ('messages', 'room_name', 'text'), ('messages', 'id', 'uuid'),
           ('messages', 'epoch', 'text'), ('messages', 'offset', 'bigint'),
           ('messages', 'user_id', 'text'), ('messages', 'username', 'text'),
           ('messages', 'payload', 'jsonb'), ('messages', 'metadata', 'jsonb'),
           ('messages', 'created_at', 'timestamp with time zone'),
           ('room_deltas', 'room_name', 'text'), ('room_deltas', 'message_count', 'bigint'),
           ('room_deltas', 'first_message_at', 'timestamp with time zone'),
           ('room_deltas', 'last_message_at', 'timestamp with time zone'),
           ('room_totals', 'room_name', 'text'), ('room_totals', 'message_count', 'bigint'),
           ('room_users', 'room_name', 'text'), ('room_users', 'user_id', 'text'),
           ('room_users', 'seen_at', 'timestamp with time zone')
), found as (
    select w.table_name, w.column_name, w.type_name, a.attname,
           format_type(a.atttypid, null) as is_type
    from wanted w
    left join pg_attribute a
           on a.attrelid = to_regclass(w.table_name) and a.attname = w.column_name
          and a.attnum > 0 and not a.attisdropped
)
select 'the table ' || table_name || ' is missing' from wanted
where to_regclass(table_name) is null group by table_name
union all
select 'the column ' || table_name || '.' || column_name || ' is missing' from found
where attname is null and to_regclass(table_name) is not null
union all
select 'the column ' || table_name || '.' || column_name || ' is of type ' || is_type
       || ' and should be ' || type_name
from found where is_type <> type_name
union all
select 'the column messages.' || a.attname || ' must have a value and has no default'
from pg_attribute a
where a.attrelid = to_regclass('messages') and a.attnum > 0 and not a.attisdropped
  and a.attnotnull and not a.atthasdef and a.attidentity = ''
  and a.attname not in (select column_name from wanted where table_name = 'messages')
