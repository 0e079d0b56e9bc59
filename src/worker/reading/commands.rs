//! The connection for all that is not read: acks, what is set aside, and what is due every second.
//!
//! Invariants: an entry waits (in `to_ack` or `aside`) or is asked for, never both; what was asked
//! on a connection that ended waits again, since both XACK and `set_aside.lua` may be sent twice;
//! at most one request to set aside, and one to keep up, is under way; `asked_ms` is there while
//! any is.

use super::State;
use crate::model::EntryId;
use crate::model::limits::{ASIDE_ENTRIES_MAX, CLAIM_IDLE_MS, KEEP_MS, TROUBLE_AGAIN_MS};
use crate::resp::{Cause, Refusal};
use crate::worker::command::{Ask, Kept, Reply};
use crate::worker::pipeline::{Effect, Level, Now, Side, Worker};
use crate::worker::row::Refused;

/// See the module.
#[derive(Debug)]
pub(in crate::worker) struct Commands {
    pub(super) state: State,
    up_ms: Now,
    /// Asks without a reply, and since when there are any.
    acking: Vec<Vec<EntryId>>,
    setting_aside: Vec<Refused>,
    is_keeping: bool,
    pub(super) asked_ms: Option<Now>,
    keep_at_ms: Now,
    /// When to ask again after a refusal.
    at_ms: Now,
    /// Entries that were set aside and not told of, why the last one was, and when it was told.
    unsaid: u64,
    unsaid_why: String,
    said_ms: Option<Now>,
}

impl Commands {
    pub(in crate::worker) fn new() -> Self {
        Self {
            state: State::Down(0),
            up_ms: 0,
            acking: Vec::new(),
            setting_aside: Vec::new(),
            is_keeping: false,
            asked_ms: None,
            keep_at_ms: 0,
            at_ms: 0,
            unsaid: 0,
            unsaid_why: String::new(),
            said_ms: None,
        }
    }

    #[cfg(debug_assertions)]
    pub(in crate::worker) fn acks_in_flight(&self) -> usize {
        self.acking.iter().map(Vec::len).sum()
    }

    #[cfg(debug_assertions)]
    pub(in crate::worker) fn aside_in_flight(&self) -> usize {
        self.setting_aside.len()
    }

    pub(super) fn on_up(&mut self, now: Now) {
        self.state = State::Up;
        self.up_ms = now;
        (self.keep_at_ms, self.at_ms) = (now, now);
    }

    fn is_asking(&self) -> bool {
        self.is_keeping || !self.acking.is_empty() || !self.setting_aside.is_empty()
    }
}

impl Worker {
    /// What was asked may be done or not: both XACK and set_aside.lua may be sent again.
    pub(super) fn lose_asks(&mut self) {
        let commands = &mut self.commands;
        self.to_ack.extend(commands.acking.drain(..).flatten());
        let again = commands.setting_aside.drain(..);
        again
            .rev()
            .for_each(|refused| self.aside.push_front(refused));
        (commands.is_keeping, commands.asked_ms) = (false, None);
    }

    /// Does what is due every second.
    pub(super) fn keep(&mut self, now: Now) {
        let commands = &mut self.commands;
        let is_free = commands.state == State::Up && !commands.is_keeping;
        if is_free && commands.keep_at_ms <= now && commands.at_ms <= now {
            // Others may be connecting again like this one.
            let may_claim = now >= commands.up_ms + CLAIM_IDLE_MS;
            commands.is_keeping = true;
            commands.asked_ms.get_or_insert(now);
            let ask = Ask::Keep { may_claim };
            self.effects.push(Effect::Ask(Side::Commands, ask));
        }
    }

    /// Acks what is stored, and sets aside what can't be.
    pub(in crate::worker) fn ack(&mut self, now: Now) {
        let commands = &mut self.commands;
        if commands.state != State::Up || commands.at_ms > now {
            return;
        }
        if !self.to_ack.is_empty() {
            let entries = std::mem::take(&mut self.to_ack);
            commands.acking.push(entries.clone());
            self.effects
                .push(Effect::Ask(Side::Commands, Ask::Ack(entries)));
        }
        if !self.aside.is_empty() && commands.setting_aside.is_empty() {
            let count = self.aside.len().min(ASIDE_ENTRIES_MAX);
            commands.setting_aside = self.aside.drain(..count).collect();
            let ask = Ask::SetAside(commands.setting_aside.clone());
            self.effects.push(Effect::Ask(Side::Commands, ask));
        }
        if commands.is_asking() {
            commands.asked_ms.get_or_insert(now);
        }
    }

    pub(super) fn on_done(&mut self, now: Now, ask: Ask, reply: Result<Reply, Refusal>) {
        let refused = match (ask, reply) {
            (Ask::Keep { .. }, reply) => {
                self.commands.is_keeping = false;
                self.commands.keep_at_ms = now + KEEP_MS;
                match reply {
                    Ok(Reply::Kept(kept)) => {
                        self.on_kept(kept);
                        None
                    }
                    Ok(_) => None,
                    // The reader sees it too, and says so.
                    Err(refusal) if refusal.cause == Cause::NoGroup => None,
                    Err(refusal) => Some(refusal),
                }
            }
            (Ask::Ack(_), reply) if !self.commands.acking.is_empty() => {
                let entries = self.commands.acking.remove(0);
                match reply {
                    Ok(_) => {
                        self.let_go(&entries);
                        None
                    }
                    Err(refusal) => {
                        self.to_ack.extend(entries);
                        Some(refusal)
                    }
                }
            }
            (Ask::SetAside(_), reply) => {
                let entries = std::mem::take(&mut self.commands.setting_aside);
                match reply {
                    Ok(Reply::Done(count)) => {
                        self.on_set_aside(&entries, count);
                        None
                    }
                    Ok(_) => None,
                    Err(refusal) => {
                        entries
                            .into_iter()
                            .rev()
                            .for_each(|one| self.aside.push_front(one));
                        Some(refusal)
                    }
                }
            }
            _ => None,
        };
        self.commands.asked_ms = self.commands.is_asking().then_some(now);
        match refused {
            Some(refusal) => {
                let pause = self.redis_failed(now, &refusal.explain());
                self.commands.at_ms = now + pause;
            }
            None => {
                let line = self.redis_trouble.ended(now);
                self.say_line(line);
            }
        }
    }

    fn let_go(&mut self, entries: &[EntryId]) {
        for entry in entries {
            self.held.remove(entry);
        }
    }

    fn on_set_aside(&mut self, entries: &[Refused], count: u64) {
        self.counters.dead += count;
        for refused in entries {
            self.held.remove(&refused.entry);
        }
        if let Some(last) = entries.last() {
            self.commands.unsaid += count;
            // What PostgreSQL says of the row's own texts is not for the log.
            let why = last.reason.split(';').next().unwrap_or_default();
            self.commands.unsaid_why = format!("{}: {why}", last.entry);
        }
    }

    /// Tells of what was set aside, now and then.
    pub(super) fn say_set_aside(&mut self, now: Now) {
        let commands = &mut self.commands;
        let is_due = commands
            .said_ms
            .is_none_or(|at| at + TROUBLE_AGAIN_MS.1 <= now);
        if commands.unsaid == 0 || !is_due {
            return;
        }
        commands.said_ms = Some(now);
        let (count, why) = (std::mem::take(&mut commands.unsaid), &commands.unsaid_why);
        let dead = &self.settings.stream.dead;
        let text = format!(
            "{count} entries that can't be stored are set aside in {dead}, such as {why}; \
             `ringcast dead list` shows them"
        );
        self.say(Level::Warn, text);
    }

    fn on_kept(&mut self, kept: Kept) {
        self.counters.claimed += kept.claimed;
        self.counters.trimmed += kept.trimmed;
        self.kept = kept;
        if kept.claimed > 0 {
            let text = format!(
                "took over {} entries of workers that were not heard of for {} s",
                kept.claimed,
                CLAIM_IDLE_MS / 1000
            );
            self.say(Level::Info, text);
            self.reader.has_more = true;
        }
        if kept.removed > 0 {
            let text = format!("removed {} consumers with nothing pending", kept.removed);
            self.say(Level::Info, text);
        }
    }
}
