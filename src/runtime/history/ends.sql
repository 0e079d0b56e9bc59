-- How far an epoch ($2) of a room ($1) goes, and which was before it.
select (select "offset" from messages
        where room_name = $1 and epoch = $2 and "offset" is not null
        order by "offset" desc limit 1),
       (select epoch from messages
        where room_name = $1 and epoch < $2
        order by epoch desc limit 1)
