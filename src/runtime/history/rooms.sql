-- Rooms whose names begin with $1 and sort behind $2, $3 at most, with their newest position. One
-- look into the index a room, not one a message.
with recursive names(room_name) as (
    (select room_name from messages
     where room_name > $2 collate "C" and room_name >= $1 collate "C"
     order by room_name limit 1)
    union all
    select (select later.room_name from messages later
            where later.room_name > names.room_name
            order by later.room_name limit 1)
    from names
    where starts_with(names.room_name, $1)
)
select names.room_name, newest.epoch, newest."offset"
from names
cross join lateral (
    select epoch, "offset" from messages
    where room_name = names.room_name and epoch is not null and "offset" is not null
    order by epoch desc, "offset" desc limit 1
) newest
where starts_with(names.room_name, $1) and not starts_with(names.room_name, '@')
limit $3
