//! The embedded store: what an instance that runs alone keeps on disk (DESIGN, "Alone").
//!
//! It is one SQLite database in the data directory, with the table and view of PROTOCOL 6. A
//! [`Store`] writes, any number of [`Reader`]s read, each on a connection of its own.
//!
//! It is not a thread and knows no queue, no clock and no async: `runtime` owns the thread that
//! calls it and hands in `now`. It does not number publications either (the home shard does);
//! it checks the numbers and refuses what does not follow. No other room imports `rusqlite`.
//!
//! Invariants, for each room and within the epoch of the database:
//!
//! - `offsets.last_offset` = the highest offset ever committed; it never falls, even if retention
//!   has deleted every row;
//! - a commit's offsets are `last_offset + 1, last_offset + 2, …`: no hole, none twice;
//! - after `commit` returned `Ok`, a crash of process or machine loses nothing of it (WAL,
//!   `synchronous=FULL`); after an error, nothing of it is visible to a reader.
//!
//! After an error of the disk itself the outcome is open until the next commit or start: a
//! transaction whose last sync failed may turn up whole if the machine dies just then. It was not
//! acked, its offsets were shown to nobody, and the next start counts on from it.

mod connection;
mod error;
mod lock;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{Cause, CommitError, OpenError, StoreError};
pub use lock::DataDirLock;
pub use reader::{Page, PageEnd, PageLimits, Reader};
pub use writer::{RememberedId, Store};

/// The database's file in the data directory.
pub const DATABASE_FILE: &str = "ringcast.db";
/// The file in the data directory that its one process holds locked.
pub const LOCK_FILE: &str = "lock";
