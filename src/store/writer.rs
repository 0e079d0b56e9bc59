//! The writer: group commit, the ids to remember, retention.
//!
//! One connection, one caller; every call is one transaction. After any error the connection is
//! as if the call had not been: what was begun is rolled back, and the next call may succeed.

use std::fmt;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, Transaction, TransactionBehavior, params};

use super::reader::{epoch_of, id_of, integer_of, last_offset, room_of, to_integer};
use super::{CommitError, DATABASE_FILE, DataDirLock, OpenError, Reader, StoreError, connection};
use crate::model::{Epoch, MessageId, Publication, RoomName, Timestamp};

const INSERT: &str = r#"insert into messages (room_name, id, epoch, "offset", user_id, username,
    payload, metadata, created_at, stored_at, client_id_given)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
    on conflict (room_name, id) do nothing"#;
const SELECT_EXISTING: &str =
    r#"select "offset", epoch from messages where room_name = ?1 and id = ?2"#;
/// The usual case: the room is known and the first offset is the next one.
const ADVANCE: &str =
    "update offsets set last_offset = ?3 where room_name = ?1 and last_offset = ?2";
const BEGIN_ROOM: &str = "insert into offsets (room_name, last_offset) values (?1, ?2)
    on conflict do nothing";
pub(super) const SELECT_REMEMBERED: &str = r#"
    select room_name, id, "offset", created_at from messages
    where created_at >= ?1 and client_id_given = 1 and epoch = ?2
    order by created_at desc limit ?3"#;
pub(super) const DELETE_OLDEST: &str = "delete from messages where rowid in
    (select rowid from messages where created_at < ?1 order by created_at limit ?2)";

/// The embedded store's one writer. While it lives it holds the data directory's lock.
pub struct Store {
    // Fields are dropped in this order: the database is closed before the lock ends.
    connection: Connection,
    epoch: Epoch,
    file: PathBuf,
    /// The offsets of the latest commit, by room; kept for its memory.
    spans: HashMap<RoomName, Span>,
    _lock: DataDirLock,
}

/// A room's share of one commit: the offsets `first..=last`.
struct Span {
    first: u64,
    last: u64,
    /// Where its first publication stands.
    batch: usize,
    index: usize,
}

/// An id that a client supplied, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedId {
    /// The room.
    pub room: RoomName,
    /// The id.
    pub id: MessageId,
    /// The offset that it was stored at.
    pub offset: u64,
    /// The publication's `sent_at`.
    pub at: Timestamp,
}

impl Store {
    /// Locks the data directory and opens its database; makes both if they are not there.
    /// `fresh_epoch` becomes the epoch of a new database; an old one keeps its own.
    pub fn open(data_dir: &Path, fresh_epoch: Epoch) -> Result<Self, OpenError> {
        let lock = DataDirLock::acquire(data_dir)?;
        let file = data_dir.join(DATABASE_FILE);
        let (connection, epoch) = connection::open_writer(&file, fresh_epoch)?;
        Ok(Self {
            connection,
            epoch,
            file,
            spans: HashMap::new(),
            _lock: lock,
        })
    }

    /// The life of the offsets in this database.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Another connection, to read with, on this thread or another.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Ok(Reader::new(connection::open_reader(&self.file)?))
    }

    /// Stores all batches in one transaction, and nothing of them on an error. When it returns
    /// `Ok` they are on disk. `now` becomes their `stored_at`.
    ///
    /// # Panics
    ///
    /// If a publication is not of this database's epoch: a fault of the caller's.
    pub fn commit(
        &mut self,
        batches: &[&[Publication]],
        now: Timestamp,
    ) -> Result<(), CommitError> {
        self.spans.clear();
        gather_spans(&mut self.spans, self.epoch, batches)?;
        if self.spans.is_empty() {
            return Ok(());
        }
        // Dropped without a commit it rolls back, and so it does if the commit fails.
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        advance_offsets(&transaction, &self.spans)?;
        insert_rows(&transaction, batches, now)?;
        transaction.commit()?;
        Ok(())
    }

    /// The client-supplied ids among what was sent at `since` or later, newest first, at most
    /// `at_most` of them: what a start has to remember again for `--dedupe-window`.
    pub fn recent_client_ids(
        &mut self,
        since: Timestamp,
        at_most: usize,
    ) -> Result<Vec<RememberedId>, StoreError> {
        let mut statement = self.connection.prepare_cached(SELECT_REMEMBERED)?;
        let rows = statement.query_map(
            params![
                to_integer(since.0),
                self.epoch.as_str(),
                to_integer(at_most as u64)
            ],
            |row| {
                Ok(RememberedId {
                    room: room_of(row, 0)?,
                    id: id_of(row, 1)?,
                    offset: integer_of(row, 2)?,
                    at: Timestamp(integer_of(row, 3)?),
                })
            },
        )?;
        rows.collect::<Result<_, _>>().map_err(Into::into)
    }

    /// Deletes what was sent before `cutoff`, oldest first, at most `at_most` rows; says how many.
    /// Fewer than `at_most`: nothing that old is left. The offsets stay, and the file keeps its
    /// size: SQLite fills the freed pages again.
    pub fn delete_before(
        &mut self,
        cutoff: Timestamp,
        at_most: usize,
    ) -> Result<usize, StoreError> {
        let mut statement = self.connection.prepare_cached(DELETE_OLDEST)?;
        Ok(statement.execute(params![to_integer(cutoff.0), to_integer(at_most as u64)])?)
    }
}

#[cfg(test)]
impl Store {
    /// Stands for a full disk: the database can't grow beyond `pages`, nor shrink to fit.
    pub(super) fn limit_pages(&mut self, pages: i64) {
        self.connection
            .pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
            .unwrap();
    }

    pub(super) fn set_busy_timeout(&mut self, timeout: std::time::Duration) {
        self.connection.busy_timeout(timeout).unwrap();
    }

    pub(super) fn pragma(&self, name: &str) -> String {
        let as_text = |row: &rusqlite::Row<'_>| {
            row.get_ref(0).map(|value| match value {
                ValueRef::Integer(number) => number.to_string(),
                text => text.as_str().unwrap().to_owned(),
            })
        };
        self.connection
            .pragma_query_value(None, name, as_text)
            .unwrap()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("file", &self.file)
            .field("epoch", &self.epoch)
            .finish()
    }
}

/// Fills `spans` with the first and last offset of each room; refuses holes within the commit.
fn gather_spans(
    spans: &mut HashMap<RoomName, Span>,
    epoch: Epoch,
    batches: &[&[Publication]],
) -> Result<(), CommitError> {
    for (batch, publications) in batches.iter().enumerate() {
        for (index, publication) in publications.iter().enumerate() {
            assert_eq!(publication.epoch, epoch, "a publication of another epoch");
            let offset = publication.offset;
            match spans.get_mut(&publication.room) {
                Some(span) if offset == span.last + 1 => span.last = offset,
                Some(span) => {
                    let expected = span.last + 1;
                    return Err(CommitError::OutOfOrder {
                        batch,
                        index,
                        expected,
                    });
                }
                None => {
                    let span = Span {
                        first: offset,
                        last: offset,
                        batch,
                        index,
                    };
                    spans.insert(publication.room.clone(), span);
                }
            }
        }
    }
    Ok(())
}

/// Moves each room's last offset on, if the commit's first is the one that follows it.
fn advance_offsets(
    transaction: &Transaction<'_>,
    spans: &HashMap<RoomName, Span>,
) -> Result<(), CommitError> {
    let mut advance = transaction.prepare_cached(ADVANCE)?;
    for (
        room,
        &Span {
            first,
            last,
            batch,
            index,
        },
    ) in spans
    {
        let before = first.checked_sub(1).map(to_integer);
        let mut changed = advance.execute(params![room.as_str(), before, to_integer(last)])?;
        if changed == 0 && first == 1 {
            let mut begin = transaction.prepare_cached(BEGIN_ROOM)?;
            changed = begin.execute(params![room.as_str(), to_integer(last)])?;
        }
        if changed == 0 {
            let expected = last_offset(transaction, room)? + 1;
            return Err(CommitError::OutOfOrder {
                batch,
                index,
                expected,
            });
        }
    }
    Ok(())
}

fn insert_rows(
    transaction: &Transaction<'_>,
    batches: &[&[Publication]],
    now: Timestamp,
) -> Result<(), CommitError> {
    let mut insert = transaction.prepare_cached(INSERT)?;
    for (batch, publications) in batches.iter().enumerate() {
        for (index, publication) in publications.iter().enumerate() {
            let inserted = insert.execute(params![
                publication.room.as_str(),
                publication.id.as_bytes().as_slice(),
                publication.epoch.as_str(),
                to_integer(publication.offset),
                publication.user_id.as_str(),
                publication.username.as_deref(),
                JsonText(&publication.payload),
                publication.metadata.as_deref().map(JsonText),
                to_integer(publication.sent_at.0),
                to_integer(now.0),
                publication.client_id_given,
            ])?;
            if inserted == 0 {
                return Err(clash(transaction, publication, batch, index)?);
            }
        }
    }
    Ok(())
}

/// The error for a publication whose id the room has already.
fn clash(
    transaction: &Transaction<'_>,
    publication: &Publication,
    batch: usize,
    index: usize,
) -> Result<CommitError, StoreError> {
    let (existing_offset, existing_epoch) = transaction.query_row(
        SELECT_EXISTING,
        params![
            publication.room.as_str(),
            publication.id.as_bytes().as_slice()
        ],
        |row| Ok((integer_of(row, 0)?, epoch_of(row, 1)?)),
    )?;
    Ok(CommitError::Clash {
        batch,
        index,
        existing_offset,
        existing_epoch,
    })
}

/// JSON text (UTF-8, checked where it came in), bound as text without another check or copy.
struct JsonText<'a>(&'a [u8]);

impl ToSql for JsonText<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}
