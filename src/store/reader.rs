//! Reading what is stored: a room's last offset, and its publications in pages.
//!
//! A [`Reader`] has a connection of its own and sees only what is committed; it neither waits for
//! the writer nor holds it up. It may move to another thread. It is no cache: the room log is.
//!
//! A page says how it ended ([`PageEnd`]), so that a resume can tell "all of it" from "some can no
//! longer be had", and a history request can read on behind the hole.

use bytes::Bytes;
use rusqlite::types::{FromSqlError, Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::StoreError;
use crate::model::{Epoch, MessageId, Name, Publication, RoomName, Timestamp};

const SELECT_NEWEST: &str = r#"
    select max("offset") from messages where room_name = ?1 and epoch = ?2"#;
pub(super) const SELECT_OFFSETS: &str = r#"
    select "offset" from messages
    where room_name = ?1 and epoch = ?2 and "offset" >= ?3 and "offset" < ?4
    order by "offset""#;
const SELECT_PREVIOUS: &str = r#"
    select epoch from messages where room_name = ?1 and epoch < ?2
    order by epoch desc limit 1"#;
const SELECT_ROOMS: &str = "
    select room_name, last_offset from offsets
    where room_name > ?1 and room_name >= ?2 order by room_name";
const SELECT_LAST: &str = "select last_offset from offsets where room_name = ?1";
pub(super) const SELECT_PAGE: &str = r#"
    select "offset", id, client_id_given, user_id, username, payload,
    metadata, created_at from messages
    where room_name = ?1 and epoch = ?2 and "offset" > ?3 and "offset" <= ?4
    order by "offset""#;

/// How much one page may hold. Both count at least one publication, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Publications.
    pub publications_max: usize,
    /// Bytes of payloads, metadata and names together.
    pub bytes_max: usize,
}

/// Publications of one room, consecutive, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Their offsets are `after + 1, after + 2, …` without a hole.
    pub publications: Vec<Publication>,
    /// What comes behind the last of them.
    pub end: PageEnd,
}

/// Why a page holds no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// All up to `up_to` is there.
    Reached,
    /// The limits were met: the next page begins after the last publication of this one.
    More,
    /// The offsets `from..=to` are not stored: deleted by retention, or never published. A page
    /// after `to` gives what is there behind them.
    Missing {
        /// The first offset that is missing.
        from: u64,
        /// The last one, at most `up_to`.
        to: u64,
    },
}

/// A connection that reads.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

impl Reader {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The newest offset committed in the room, in the database's epoch; 0 for a room that it
    /// does not know. It is not lowered by retention.
    pub fn last_offset(&mut self, room: &RoomName) -> Result<u64, StoreError> {
        last_offset(&self.connection, room).map_err(Into::into)
    }

    /// The newest offset of an epoch that is stored in the room, 0 if none is, and the newest epoch
    /// before it that has something.
    pub fn ends(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
    ) -> Result<(u64, Option<Epoch>), StoreError> {
        let names = [room.as_str(), epoch.as_str()];
        let mut statement = self.connection.prepare_cached(SELECT_NEWEST)?;
        let newest: Option<i64> = statement.query_row(names, |row| row.get(0))?;
        let mut statement = self.connection.prepare_cached(SELECT_PREVIOUS)?;
        let previous = statement.query_row(names, |row| epoch_of(row, 0));
        let newest = newest.and_then(|newest| newest.try_into().ok());
        Ok((newest.unwrap_or(0), previous.optional()?))
    }

    /// Rooms whose names begin with `prefix` and sort behind `after`, in the order of their bytes,
    /// each with its last offset. Personal rooms are left out.
    pub fn rooms(
        &mut self,
        prefix: &str,
        after: &str,
        count_max: usize,
    ) -> Result<Vec<(RoomName, u64)>, StoreError> {
        let mut statement = self.connection.prepare_cached(SELECT_ROOMS)?;
        let mut rows = statement.query([after, prefix])?;
        let mut rooms = Vec::new();
        while rooms.len() < count_max
            && let Some(row) = rows.next()?
        {
            let room = room_of(row, 0)?;
            if !room.as_str().starts_with(prefix) {
                break;
            }
            if room.personal_user().is_none() {
                rooms.push((room, integer_of(row, 1)?));
            }
        }
        Ok(rooms)
    }

    /// The first of the offsets from `from` up to and without `until` that is not stored, if one is
    /// not.
    pub fn missing(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
        from: u64,
        until: u64,
    ) -> Result<Option<u64>, StoreError> {
        let mut statement = self.connection.prepare_cached(SELECT_OFFSETS)?;
        let mut rows = statement.query(params![
            room.as_str(),
            epoch.as_str(),
            to_integer(from),
            to_integer(until),
        ])?;
        let mut next = from;
        while let Some(row) = rows.next()? {
            if integer_of(row, 0)? != next {
                break;
            }
            next += 1;
        }
        Ok(Some(next).filter(|&next| next < until))
    }

    /// What stands in `room` after the offset `after`, up to and with `up_to`.
    pub fn page(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
        after: u64,
        up_to: u64,
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        let mut statement = self.connection.prepare_cached(SELECT_PAGE)?;
        let mut rows = statement.query(params![
            room.as_str(),
            epoch.as_str(),
            to_integer(after),
            to_integer(up_to),
        ])?;
        let mut publications = Vec::new();
        let mut bytes = 0;
        let mut last = after;
        while let Some(row) = rows.next()? {
            let offset = integer_of(row, 0)?;
            if offset != last + 1 {
                let end = PageEnd::Missing {
                    from: last + 1,
                    to: offset - 1,
                };
                return Ok(Page { publications, end });
            }
            let publication = publication_of(row, room, epoch, offset)?;
            bytes += bytes_of(&publication);
            let full = publications.len() >= limits.publications_max || bytes > limits.bytes_max;
            if full && !publications.is_empty() {
                return Ok(Page {
                    publications,
                    end: PageEnd::More,
                });
            }
            publications.push(publication);
            last = offset;
        }
        let end = if last >= up_to {
            PageEnd::Reached
        } else {
            PageEnd::Missing {
                from: last + 1,
                to: up_to,
            }
        };
        Ok(Page { publications, end })
    }
}

/// See [`Reader::last_offset`].
pub(super) fn last_offset(connection: &Connection, room: &RoomName) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(SELECT_LAST)?;
    let found = statement
        .query_row([room.as_str()], |row| integer_of(row, 0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// What a publication counts against [`PageLimits::bytes_max`].
fn bytes_of(publication: &Publication) -> usize {
    publication.payload.len()
        + publication.metadata.as_ref().map_or(0, Bytes::len)
        + publication.user_id.len()
        + publication.username.as_ref().map_or(0, |name| name.len())
}

fn publication_of(
    row: &Row<'_>,
    room: &RoomName,
    epoch: Epoch,
    offset: u64,
) -> rusqlite::Result<Publication> {
    Ok(Publication {
        room: room.clone(),
        epoch,
        offset,
        id: id_of(row, 1)?,
        client_id_given: row.get(2)?,
        user_id: Name::from(
            row.get_ref(3)?
                .as_str()
                .map_err(|error| undecodable(3, error))?,
        ),
        username: match row.get_ref(4)? {
            ValueRef::Null => None,
            text => Some(Name::from(
                text.as_str().map_err(|error| undecodable(4, error))?,
            )),
        },
        payload: text_of(row, 5)?.ok_or_else(|| undecodable(5, FromSqlError::InvalidType))?,
        metadata: text_of(row, 6)?,
        sent_at: Timestamp(integer_of(row, 7)?),
    })
}

/// JSON text as it was stored; `None` for null.
fn text_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
        _ => Err(undecodable(column, FromSqlError::InvalidType)),
    }
}

pub(super) fn id_of(row: &Row<'_>, column: usize) -> rusqlite::Result<MessageId> {
    let bytes = row
        .get_ref(column)?
        .as_blob()
        .map_err(|error| undecodable(column, error))?;
    MessageId::from_slice(bytes).map_err(|_| undecodable(column, FromSqlError::InvalidType))
}

pub(super) fn epoch_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Epoch> {
    let text = row
        .get_ref(column)?
        .as_str()
        .map_err(|error| undecodable(column, error))?;
    Epoch::parse(text).ok_or_else(|| undecodable(column, FromSqlError::InvalidType))
}

pub(super) fn room_of(row: &Row<'_>, column: usize) -> rusqlite::Result<RoomName> {
    let text = row
        .get_ref(column)?
        .as_str()
        .map_err(|error| undecodable(column, error))?;
    RoomName::parse(text).map_err(|_| undecodable(column, FromSqlError::InvalidType))
}

/// An offset or a time: never negative.
pub(super) fn integer_of(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// SQLite's integers end at 2^63 - 1; no offset or time comes near, a bound such as `u64::MAX`
/// means the same when it is cut there.
pub(super) fn to_integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A column that we did not write like that: the file is damaged.
fn undecodable(column: usize, error: FromSqlError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Null, Box::new(error))
}
