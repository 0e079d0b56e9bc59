-- Stretches of several rooms: $1 their names, $2 epochs, $3 first offsets, $4 the ones behind the
-- last. Of each the first offset that is not stored; $4 or more: all are. Nothing but the index
-- need be read.
select want.n,
       coalesce((select rows.before + 1
                 from (select "offset",
                              lag("offset", 1, want.start - 1) over (order by "offset") as before
                       from messages
                       where room_name = want.room and epoch = want.epoch
                         and "offset" >= want.start and "offset" < want.until) rows
                 where rows."offset" > rows.before + 1
                 order by rows."offset"
                 limit 1),
                (select max("offset") + 1 from messages
                 where room_name = want.room and epoch = want.epoch
                   and "offset" >= want.start and "offset" < want.until),
                want.start)
from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
     with ordinality as want(room, epoch, start, until, n)
