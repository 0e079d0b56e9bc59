-- Pages of several rooms: $1 their names, $2 epochs, $3 first offsets; $4 rows and $5 bytes of a
-- page at most (the row that goes beyond is the last).
select want.n, page."offset", page.id, page.user_id, page.username, page.payload, page.metadata,
       page.created_at
from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as want(room, epoch, start, n)
cross join lateral (
    select rows.*,
           sum(octet_length(payload) + octet_length(coalesce(metadata, '')))
               over (order by "offset", id rows between unbounded preceding and 1 preceding)
               as bytes_before
    from (select "offset", id, user_id, username, payload::text as payload,
                 metadata::text as metadata, created_at
          from messages
          where room_name = want.room and epoch = want.epoch and "offset" >= want.start
          order by "offset", id
          limit $4) rows
) page
where coalesce(page.bytes_before, 0) < $5
order by want.n, page."offset", page.id
