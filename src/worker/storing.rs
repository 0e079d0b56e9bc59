//! PostgreSQL's half of the worker: batches, and the care of the tables.
//!
//! ```text
//! Up ─▶ Migrate ─▶ Prepare ─▶ Check ─▶ Ready: piece, piece, …; between batches compact, retain
//!                                ▲        │
//!                                └────────┘ every few seconds, and before a row is condemned
//! ```
//!
//! While one batch is stored the next one is sent already, so that PostgreSQL waits for nobody: two
//! transactions, one behind the other, each by itself. Only while all is well: neither may have
//! been there before, nothing is split, and no care of the tables is due.
//!
//! | a piece is answered | then |
//! |---|---|
//! | well | its entries are to be acked |
//! | not at all: the connection ended | it may be there: again, through the staging table |
//! | a key is there | again, through the staging table |
//! | a row can't be stored | in parts, until it stands alone; then it is set aside |
//! | anything else | again, after a pause, as long as it takes |
//!
//! What is asked is here, what is answered in `answers`.
//!
//! Not here: connecting, and pauses between that; the link does it by itself.

mod answers;

use std::collections::VecDeque;

use super::batch::{BatchId, Piece};
use super::copy;
use super::pipeline::{Effect, Level, Now, Worker};
use super::row::Refused;
use super::schema::Migration;
use super::seen::{Pair, Seen};
use crate::model::limits::{BATCH_BYTES_MAX, SCHEMA_CHECK_MS};
use crate::pg::{Answer, Request};

/// What a connection is told before it stores anything.
pub const SESSION: &str = include_str!("sql/session.sql");
const CHECK: &str = include_str!("sql/check.sql");
const COMPACT: &str = include_str!("sql/compact.sql");
const RETAIN: &str = include_str!("sql/retain.sql");
const FORGET: &str = include_str!("sql/forget.sql");
/// How many deltas compact.sql takes, and how many rows retain.sql.
const COMPACT_ROWS: i64 = 20_000;
/// See [`COMPACT_ROWS`].
const RETAIN_ROWS: i64 = 5_000;
/// Requests without an answer: what is stored, and what comes next.
const REQUESTS_MAX: usize = 2;
/// Pieces without a row that was there, after which the staging table is left again.
const CLEAN_PIECES: u32 = 8;

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down,
    Migrate,
    Prepare,
    Check,
    Ready,
}

/// What is being answered.
#[derive(Debug)]
enum Running {
    RollBack,
    Migrate,
    Prepare,
    Check,
    Piece {
        piece: Piece,
        is_staged: bool,
        users: Vec<Pair>,
    },
    Care(Care),
}

/// What the tables need now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    Compact,
    Retain,
    Forget,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    phase: Phase,
    /// What was asked, in order; several only if they are pieces.
    running: VecDeque<Running>,
    migration: Migration,
    /// The answer to its last request.
    migrated: Answer,
    needs_rollback: bool,
    /// What is left to be sent of the batches that are being stored.
    pieces: VecDeque<Piece>,
    /// Batches that were begun.
    batches: u64,
    /// When to ask again after a failure.
    at_ms: Now,
    checked_ms: Option<Now>,
    /// The only row of a piece was refused: it is to blame if the tables are as they should be.
    accused: Option<(Piece, Refused)>,
    compact_ms: Now,
    retain_ms: Now,
    forget_ms: Now,
    /// Pieces that go through the staging table yet, because rows were there already.
    staged_left: u32,
    seen: Seen,
    buffer: Vec<u8>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Down,
            running: VecDeque::new(),
            migration: Migration::new(),
            migrated: Answer::default(),
            needs_rollback: false,
            pieces: VecDeque::new(),
            batches: 0,
            at_ms: 0,
            checked_ms: None,
            accused: None,
            compact_ms: 0,
            retain_ms: 0,
            forget_ms: 0,
            staged_left: 0,
            seen: Seen::default(),
            buffer: Vec::new(),
        }
    }

    /// Whether it takes rows.
    pub(super) fn is_ready(&self) -> bool {
        match self.phase {
            Phase::Ready => true,
            Phase::Check => self.checked_ms.is_some(),
            Phase::Down | Phase::Migrate | Phase::Prepare => false,
        }
    }

    /// The pieces that are being stored, sent or not.
    fn unstored(&self) -> impl Iterator<Item = &Piece> {
        let sent = self.running.iter().filter_map(|running| match running {
            Running::Piece { piece, .. } => Some(piece),
            _ => None,
        });
        let accused = self.accused.iter().map(|(piece, _)| piece);
        accused.chain(sent).chain(&self.pieces)
    }

    /// Their rows.
    #[cfg(debug_assertions)]
    pub(super) fn rows(&self) -> usize {
        self.unstored().map(|piece| piece.rows.len()).sum()
    }

    fn is_checked(&self, now: Now) -> bool {
        let at = self.checked_ms;
        at.is_some_and(|at| now < at + SCHEMA_CHECK_MS)
    }
}

impl Worker {
    /// Asks PostgreSQL for what is next.
    pub(super) fn store(&mut self, now: Now) {
        while self.store.at_ms <= now && self.has_room(now) {
            let next = match self.store.phase {
                Phase::Down => return,
                _ if self.store.needs_rollback => {
                    Some((Running::RollBack, Request::simple("rollback")))
                }
                Phase::Migrate => self.migrate(),
                Phase::Prepare => Some((Running::Prepare, Request::simple(SESSION))),
                Phase::Check => Some((Running::Check, Request::simple(copy::plain_sql(CHECK)))),
                Phase::Ready => match self.work(now) {
                    Some(next) => Some(next),
                    None if self.store.phase == Phase::Ready => return,
                    None => None,
                },
            };
            if let Some((running, request)) = next {
                self.store.running.push_back(running);
                self.effects.push(Effect::Pg(request));
            }
        }
    }

    /// Whether one more request may be sent.
    fn has_room(&self, now: Now) -> bool {
        let (store, filling) = (&self.store, &self.filling);
        match store.running.front() {
            None => true,
            Some(Running::Piece {
                piece,
                is_staged: false,
                ..
            }) => {
                store.running.len() < REQUESTS_MAX
                    && store.phase == Phase::Ready
                    && store.is_checked(now)
                    && store.staged_left == 0
                    && store.pieces.is_empty()
                    && store.accused.is_none()
                    && self.due_care(now).is_none()
                    && !filling.is_known()
                    && self.is_due(now)
                    && piece.bytes() + filling.bytes() <= BATCH_BYTES_MAX
            }
            Some(_) => false,
        }
    }

    /// The next step of the migration; `None`: it is done.
    fn migrate(&mut self) -> Option<(Running, Request)> {
        let answer = std::mem::take(&mut self.store.migrated);
        if let Some(request) = self.store.migration.next(&answer) {
            return Some((Running::Migrate, request));
        }
        if let Some(version) = self.store.migration.applied().last() {
            let text = format!("the tables are at version {version} now");
            self.say(Level::Info, text);
        }
        self.store.phase = Phase::Prepare;
        None
    }

    /// What is next when all is well; `None`: nothing, or the phase has changed.
    fn work(&mut self, now: Now) -> Option<(Running, Request)> {
        if self.store.pieces.is_empty() && self.store.accused.is_none() {
            if let Some(care) = self.due_care(now) {
                return Some(self.care(care));
            }
            if !self.is_due(now) {
                return None;
            }
            self.store.batches += 1;
            self.store.pieces = self.filling.take(BatchId {
                n: self.store.batches,
                began_ms: now,
            });
        }
        if !self.store.is_checked(now) {
            self.store.phase = Phase::Check;
            return None;
        }
        let store = &mut self.store;
        let piece = store.pieces.pop_front()?;
        let buffer = std::mem::take(&mut store.buffer);
        let is_staged = piece.is_known || store.staged_left > 0;
        let (users, request) = if is_staged {
            let namespace = self.settings.stream.namespace();
            (Vec::new(), copy::staged(namespace, &piece.rows, buffer))
        } else {
            let users = store.seen.new_ones(now, &piece.rows);
            let request = copy::plain(&piece.rows, &users, buffer);
            (users, request)
        };
        let running = Running::Piece {
            piece,
            is_staged,
            users,
        };
        Some((running, request))
    }

    fn is_due(&self, now: Now) -> bool {
        let filling = &self.filling;
        let is_old = |since| now >= since + self.settings.batch_ms;
        filling.len() >= self.settings.batch_rows
            || filling.bytes() >= BATCH_BYTES_MAX
            || filling.since_ms().is_some_and(is_old)
            || (self.is_stopping() && !filling.is_empty() && !self.reader.is_reading())
    }

    /// What the tables need now.
    fn due_care(&self, now: Now) -> Option<Care> {
        if self.is_stopping() {
            return None;
        }
        let store = &self.store;
        let retains = self.settings.retention_ms.is_some();
        [
            (Care::Compact, store.compact_ms <= now),
            (Care::Retain, retains && store.retain_ms <= now),
            (Care::Forget, retains && store.forget_ms <= now),
        ]
        .into_iter()
        .find_map(|(care, is_due)| is_due.then_some(care))
    }

    fn care(&self, care: Care) -> (Running, Request) {
        let sql = match care {
            Care::Compact => COMPACT,
            Care::Retain => RETAIN,
            Care::Forget => FORGET,
        };
        let retention_ms = self.settings.retention_ms.unwrap_or(u64::MAX);
        let sql = copy::plain_sql(sql).replace(":retention_ms", &retention_ms.to_string());
        (Running::Care(care), Request::simple(sql))
    }
}
