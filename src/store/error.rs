//! What can go wrong in the store. Each variant is another way to recover, so callers match on
//! variants and never on SQLite's codes; each text says the cause and the remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::model::Epoch;

/// SQLite's own words on an error: for the log, not to be matched on.
#[derive(Debug)]
pub struct Cause(rusqlite::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.sqlite_extended_error_code() {
            Some(code) => write!(f, "{}, SQLite code {code}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The database could not do what was asked. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room on the disk. Wait: the store works again once there is.
    #[error("the disk of the data directory is full ({0}): free some room, it then goes on")]
    Full(Cause),
    /// Another process (an `sqlite3` shell, a backup) holds the database for longer than the
    /// store waits. Try again.
    #[error("another program holds the database ({0}): end its transaction, it then goes on")]
    Busy(Cause),
    /// The files may not be opened or written. An operator must act.
    #[error(
        "the database may not be opened or written ({0}): \
         check owner, mode and mount of the data directory and of the files in it"
    )]
    ReadOnly(Cause),
    /// The file is damaged. An operator must act.
    #[error(
        "the database is damaged ({0}): \
         stop ringcast and mend it (sqlite3 ringcast.db .recover), or restore a backup"
    )]
    Corrupt(Cause),
    /// Anything else, a failing disk among it. Try again later.
    #[error("the database failed ({0}): see the system's log for errors of the disk")]
    Other(Cause),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        // Growing the shared-memory index fails with a code of its own when the disk is full.
        if error.sqlite_extended_error_code() == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
            return Self::Full(Cause(error));
        }
        let undecodable = matches!(
            error,
            E::FromSqlConversionFailure(..)
                | E::IntegralValueOutOfRange(..)
                | E::InvalidColumnType(..)
                | E::QueryReturnedNoRows
                | E::Utf8Error(..)
        );
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(Cause(error)),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(Cause(error)),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::ReadOnly(Cause(error))
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt(Cause(error))
            }
            None if undecodable => Self::Corrupt(Cause(error)),
            _ => Self::Other(Cause(error)),
        }
    }
}

/// Why a commit wrote nothing. `batch` and `index` name the publication, as in the argument:
/// `batches[batch][index]`.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The room has a message with this id already, most likely the client's earlier try that
    /// fell out of the dedupe window. Answer the existing offset for this one, renumber what
    /// follows in its room, and commit again.
    ///
    /// The other may stand earlier in the same commit: its offset holds, but is stored only when
    /// the rest is committed.
    #[error("publication {index} of batch {batch} is stored already, at offset {existing_offset}")]
    Clash {
        /// Index into the batches.
        batch: usize,
        /// Index into the batch.
        index: usize,
        /// Where the message with this id stands.
        existing_offset: u64,
        /// The epoch of that offset.
        existing_epoch: Epoch,
    },
    /// The offset does not follow the room's last one. So it is after a commit that failed, for
    /// batches that were numbered behind it: refuse them too and number on from `expected`.
    #[error("publication {index} of batch {batch} must have the offset {expected} in its room")]
    OutOfOrder {
        /// Index into the batches.
        batch: usize,
        /// Index into the batch.
        index: usize,
        /// The offset that comes next in the room.
        expected: u64,
    },
    /// The database is not able to. All of the commit may be tried again, as it is.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Why the store can't be opened: all of them end the start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the data directory.
    #[error(
        "the data directory {} is in use by another ringcast{}: \
         stop that one, or give this one a directory of its own with --data-dir",
        dir.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The other process, if it could be read.
        pid: Option<u32>,
    },
    /// The directory or its lock can't be made.
    #[error(
        "the data directory {} can't be used ({source}): \
         let this user write to it, or name another with --data-dir",
        dir.display()
    )]
    Directory {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A newer ringcast wrote it.
    #[error(
        "{} was written by a newer ringcast (schema {found}, this one knows up to {known}): \
         start that version, or name another directory with --data-dir",
        file.display()
    )]
    Newer {
        /// The database.
        file: PathBuf,
        /// Its schema's version.
        found: i64,
        /// The version this program writes.
        known: i64,
    },
    /// An SQLite database, but not of ringcast's.
    #[error(
        "{} is not a database of ringcast's: move it away, or name another --data-dir",
        file.display()
    )]
    Foreign {
        /// The database.
        file: PathBuf,
    },
    /// The file system can't do write-ahead logging: a network mount, as a rule.
    #[error(
        "{} can't be written ahead (journal mode {mode:?} instead of wal): \
         put the data directory on a local disk with --data-dir",
        file.display()
    )]
    NoWal {
        /// The database.
        file: PathBuf,
        /// The journal mode that SQLite fell back to.
        mode: String,
    },
    /// The database itself fails.
    #[error("{}: {source}", file.display())]
    Database {
        /// The database.
        file: PathBuf,
        /// What failed.
        source: StoreError,
    },
}
