//! The worker: takes the stream into PostgreSQL, every row exactly once. No I/O.
//!
//! ```text
//!            ┌────────── reader ──────────┐   ┌────────────── PostgreSQL ──────────────┐
//! XREADGROUP ▶ rows ▶ filling ══ swap ══▶ storing: COPY messages; COPY room_deltas ▶ commit
//!    own pending first, then new ones     │     was it delivered before, or is a key taken:
//!                                         │       COPY staged ▶ INSERT … ON CONFLICT DO NOTHING
//!                                         │     is a row refused: halves, until it stands alone
//!            ┌────────── commands ────────┴──▶ XACK;  or …:dead and XACK in one step
//! keep.lua ◀─┘ every second: heard of, take over from the dead, trim, count
//! ```
//!
//! | file | what |
//! |---|---|
//! | `pipeline` | the worker itself: events in, effects out |
//! | `reading`, `storing` | its two halves: Redis's and PostgreSQL's |
//! | `row` | an entry of the stream as a row, or why it can't be one |
//! | `batch` | rows on their way, and how they are split |
//! | `copy` | rows as a request to PostgreSQL |
//! | `seen` | which users are known to be counted |
//! | `positions` | positions that come again |
//! | `command` | what is asked of Redis, and what it answers |
//! | `dead` | entries that were set aside |
//! | [`schema`] | bringing the tables up to date |
//! | `trouble` | what is said of a failure, once |
//! | `report` | counters |
//!
//! # Why every row is there exactly once
//!
//! - An entry stays pending in Redis until its row is committed, or it is in the stream of the
//!   dead: XACK comes after either, so whatever ends in between, it is delivered again.
//! - The key (room_name, id) takes a row once. An entry's id is its own, or made of where it stands
//!   in the stream, so it is the same each time. What is stored again goes through a staging table,
//!   which passes over what is there; a plain COPY that meets a key fails as a whole, and its rows
//!   go that way too.
//! - Counts of rooms are written in the transaction of the rows, and count what was added.
//!
//! # Invariants
//!
//! - `held` = entries read and not yet acked = filling + storing + committed + to be set aside; no
//!   entry is in two of them. What is held is passed over when the own pending entries are read.
//! - filling has at most `BATCH_SIZE` rows, and no more than `BATCH_BYTES_MAX` but for the last
//!   read's; storing is one batch, and one more that is sent behind it if both together are no
//!   larger than that. So the memory of two batches bounds it.
//! - At most one read, one keep, and one request to PostgreSQL, or two with rows, are under way.
//! - What is below the floor, min(oldest pending, last delivered), is committed or set aside;
//!   trimming stays below it.

mod batch;
mod command;
mod copy;
pub mod dead;
mod pipeline;
mod positions;
mod reading;
mod report;
mod row;
pub mod schema;
mod seen;
mod storing;
#[cfg(test)]
mod tests;
mod trouble;

pub use command::{Ask, Kept, Reply, Stream, decode, encode};
pub use copy::staged;
pub use pipeline::{Effect, Event, Level, Now, Settings, Side, Worker};
pub use report::{BATCH_BOUNDS, Counters, Report};
pub use row::{Refused, Row};
pub use storing::SESSION;
