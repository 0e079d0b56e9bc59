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
//! Not here: connecting, and pauses between that; the link does it by itself.

use std::collections::VecDeque;

use super::batch::{BatchId, Piece};
use super::copy;
use super::pipeline::{Effect, Level, Now, Worker};
use super::row::Refused;
use super::schema::Migration;
use super::seen::{Pair, Seen};
use crate::model::limits::{
    ASIDE_REASON_BYTES_MAX, BATCH_BYTES_MAX, COMPACT_MS, FORGET_MS, RETAIN_MS, SCHEMA_CHECK_MS,
};
use crate::pg::{Answer, Cause, Event, Refusal, Remedy, Request};

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

    pub(super) fn on_pg(&mut self, now: Now, event: Event) {
        match event {
            Event::Up(info) => {
                self.say(
                    Level::Info,
                    format!("PostgreSQL {} at {}", info.version, info.place),
                );
                self.store.phase = Phase::Migrate;
                self.store.migration = Migration::new();
                self.store.migrated = Answer::default();
                self.store.needs_rollback = false;
                self.store.checked_ms = None;
                self.store.at_ms = now;
                // It may be another one by the same name.
                self.store.seen.forget();
            }
            Event::Down { why, .. } => self.on_pg_down(now, &why),
            Event::Answer(answer) => {
                if let Some(running) = self.store.running.pop_front() {
                    match answer {
                        Ok(answer) => self.on_answer(now, running, answer),
                        Err(refusal) => self.on_refusal(now, running, &refusal),
                    }
                }
            }
            Event::Notice(notice) if notice.severity == "WARNING" => {
                self.say(Level::Warn, format!("PostgreSQL says: {}", notice.message));
            }
            Event::Notice(_) => {}
            Event::Returned(buffer) => self.store.buffer = buffer,
        }
    }

    /// What was under way may be committed or not.
    fn on_pg_down(&mut self, now: Now, why: &Refusal) {
        self.store.phase = Phase::Down;
        self.acquit();
        for running in std::mem::take(&mut self.store.running).into_iter().rev() {
            if let Running::Piece { mut piece, .. } = running {
                self.counters.retries += 1;
                piece.is_known = true;
                self.store.pieces.push_front(piece);
            }
        }
        self.pg_failed(now, &why.explain());
    }

    fn pg_failed(&mut self, now: Now, why: &str) {
        let random = self.rng.f64();
        let (pause, line) = self.pg_trouble.failed(now, why, random);
        self.say_line(line);
        self.store.at_ms = now + pause;
    }

    fn pg_is_well(&mut self, now: Now) {
        let line = self.pg_trouble.ended(now);
        self.say_line(line);
    }

    fn on_answer(&mut self, now: Now, running: Running, answer: Answer) {
        let count = answer.rows.first().and_then(|row| row.int(0)).unwrap_or(0);
        match running {
            Running::RollBack => self.store.needs_rollback = false,
            Running::Migrate => self.store.migrated = answer,
            Running::Prepare => self.store.phase = Phase::Check,
            Running::Check => self.on_checked(now, &answer),
            Running::Piece {
                piece,
                is_staged,
                users,
            } => {
                self.on_stored(now, &piece, is_staged, &answer);
                self.store.seen.remember(now, users);
            }
            Running::Care(Care::Compact) if count >= COMPACT_ROWS => {}
            Running::Care(Care::Compact) => self.store.compact_ms = now + COMPACT_MS,
            Running::Care(Care::Retain) => {
                self.counters.deleted += count.unsigned_abs();
                if count < RETAIN_ROWS {
                    let retention_ms = self.settings.retention_ms.unwrap_or(RETAIN_MS);
                    self.store.retain_ms = now + (retention_ms / 4).clamp(500, RETAIN_MS);
                }
            }
            Running::Care(Care::Forget) => self.store.forget_ms = now + FORGET_MS,
        }
    }

    fn on_checked(&mut self, now: Now, answer: &Answer) {
        let problems = answer.rows.iter().filter_map(|row| row.text(0));
        let problems: Vec<_> = problems.collect();
        if problems.is_empty() {
            self.store.checked_ms = Some(now);
            self.store.phase = Phase::Ready;
            self.condemn(now);
            if self.store.pieces.is_empty() {
                self.pg_is_well(now);
            }
            return;
        }
        self.acquit();
        let why = format!(
            "{}: undo what was changed by hand, or run `ringcast migrate`; nothing is stored until \
             then",
            problems.join("; ")
        );
        self.pg_failed(now, &why);
    }

    /// A piece is committed.
    fn on_stored(&mut self, now: Now, piece: &Piece, is_staged: bool, answer: &Answer) {
        let count = piece.rows.len() as u64;
        let number = |row: usize| {
            let number = answer.rows.get(row).and_then(|row| row.int(0));
            number.unwrap_or(0).unsigned_abs()
        };
        let (by_id, by_spare_id, clashes) = match is_staged {
            true => (number(0), number(1), number(2)),
            false => (answer.affected(0), 0, 0),
        };
        let added = by_id + by_spare_id;
        self.counters.rows += added;
        self.counters.repeated += count.saturating_sub(added);
        self.counters.spare_ids += by_spare_id;
        self.say_clashes(clashes.min(added));
        if by_spare_id > 0 {
            let text = format!(
                "{by_spare_id} messages have the id of an earlier one (a client has used it again \
                 after --dedupe-window): they are stored by ids of their own"
            );
            self.say(Level::Warn, text);
        }
        if is_staged && added == count {
            self.store.staged_left = self.store.staged_left.saturating_sub(1);
        }
        self.to_ack.extend(piece.rows.iter().map(|row| row.entry));
        self.effects.push(Effect::Committed);
        self.count_batch(now, piece.batch);
        self.pg_is_well(now);
    }

    /// A piece of that batch is done: was it the last one?
    fn count_batch(&mut self, now: Now, batch: BatchId) {
        let is_left = self.store.unstored().any(|piece| piece.batch.n == batch.n);
        if !is_left {
            self.counters.batch(now.saturating_sub(batch.began_ms));
        }
    }

    /// Messages at positions that others have.
    fn say_clashes(&mut self, clashes: u64) {
        if clashes > 0 {
            self.counters.clashes += clashes;
            let text = format!(
                "{clashes} messages stand at an epoch and offset where others stand: Redis has \
                 come back with less than it had given out, or something else writes entries. All \
                 are stored"
            );
            self.say(Level::Warn, text);
        }
    }

    fn on_refusal(&mut self, now: Now, running: Running, refusal: &Refusal) {
        let (mut piece, is_staged) = match running {
            Running::Piece {
                piece, is_staged, ..
            } => (piece, is_staged),
            Running::Care(care) => return self.on_care_refused(now, care, refusal),
            Running::RollBack => {
                self.store.needs_rollback = false;
                return;
            }
            Running::Migrate | Running::Prepare | Running::Check => {
                // What was done of it is undone, and all of it is begun anew.
                self.store.migration = Migration::new();
                self.store.migrated = Answer::default();
                self.store.needs_rollback = matches!(running, Running::Migrate);
                return self.pg_failed(now, &refusal.explain());
            }
        };
        match refusal.cause.remedy() {
            Remedy::Known if !is_staged => {
                self.store.staged_left = CLEAN_PIECES;
                piece.is_known = true;
                self.store.pieces.push_front(piece);
            }
            Remedy::Known | Remedy::SetAside => self.on_bad_row(piece, refusal),
            Remedy::RetryNow => {
                self.counters.retries += 1;
                self.store.pieces.push_front(piece);
                self.store.at_ms = now + self.rng.u64(1..20);
            }
            _ => {
                self.counters.retries += 1;
                self.store.pieces.push_front(piece);
                if refusal.cause == Cause::Schema {
                    self.store.phase = Phase::Prepare;
                }
                self.pg_failed(now, &refusal.explain());
            }
        }
    }

    /// A row of the piece can't be stored.
    fn on_bad_row(&mut self, piece: Piece, refusal: &Refusal) {
        let of_rows = refusal.context.as_deref().is_some_and(|context| {
            context.starts_with("COPY messages,") || context.starts_with("COPY staged,")
        });
        let line = refusal.copy_line().filter(|_| of_rows);
        match piece.split(line) {
            Ok(parts) => {
                let parts = parts.into_iter().rev();
                parts.for_each(|part| self.store.pieces.push_front(part));
            }
            // One after the other.
            Err(piece) if self.store.accused.is_some() => self.store.pieces.push_front(piece),
            Err(piece) => {
                // Is it the row, or have the tables changed?
                self.store.checked_ms = None;
                let refused = Refused {
                    entry: piece.rows[0].entry,
                    sqlstate: refusal.sqlstate.clone(),
                    reason: reason(refusal),
                };
                self.store.accused = Some((piece, refused));
            }
        }
    }

    /// It may not have been the row.
    fn acquit(&mut self) {
        if let Some((piece, _)) = self.store.accused.take() {
            self.store.pieces.push_front(piece);
        }
    }

    /// The tables are as they should be: it was the row.
    fn condemn(&mut self, now: Now) {
        let Some((piece, refused)) = self.store.accused.take() else {
            return;
        };
        self.set_aside(refused);
        self.count_batch(now, piece.batch);
    }

    fn on_care_refused(&mut self, now: Now, care: Care, refusal: &Refusal) {
        let (of, again_ms, ms) = match care {
            Care::Compact => (
                "summing up room_stats",
                &mut self.store.compact_ms,
                COMPACT_MS,
            ),
            Care::Retain => ("--retention", &mut self.store.retain_ms, RETAIN_MS),
            Care::Forget => ("forgetting users", &mut self.store.forget_ms, FORGET_MS),
        };
        *again_ms = now + ms;
        if refusal.cause == Cause::Schema {
            self.store.phase = Phase::Prepare;
        }
        self.say(
            Level::Warn,
            format!("{of} has failed: {}", refusal.explain()),
        );
    }
}

/// Why a row is set aside, within bounds.
fn reason(refusal: &Refusal) -> String {
    let mut reason = refusal.message.clone();
    for more in [&refusal.detail, &refusal.column].into_iter().flatten() {
        reason.push_str("; ");
        reason.push_str(more);
    }
    let end = (0..=ASIDE_REASON_BYTES_MAX.min(reason.len()))
        .rev()
        .find(|&end| reason.is_char_boundary(end));
    reason.truncate(end.unwrap_or(0));
    reason
}
