//! What PostgreSQL answers, and what follows from it: see the table of the module above.

use super::super::batch::{BatchId, Piece};
use super::super::pipeline::{Effect, Level, Now, Worker};
use super::super::row::Refused;
use super::super::schema::Migration;
use super::{CLEAN_PIECES, COMPACT_ROWS, Care, Phase, RETAIN_ROWS, Running};
use crate::model::limits::{ASIDE_REASON_BYTES_MAX, COMPACT_MS, FORGET_MS, RETAIN_MS};
use crate::pg::{Answer, Cause, Event, Refusal, Remedy};

impl Worker {
    pub(in crate::worker) fn on_pg(&mut self, now: Now, event: Event) {
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
