//! Redis's half of the worker: what is read, acked and set aside.
//!
//! ```text
//! reader:    up ─▶ Group ─▶ Own after 0-0, … until none ─▶ New, New, … (waits in Redis)
//!                    ▲                ▲                       │
//!                    │                └── entries taken over ─┤
//!                    └── NOGROUP; a new connection ───────────┘
//! commands:  up ─▶ Keep every second; Ack, SetAside as they come
//! ```
//!
//! A reply larger than may be ends its connection and says nothing of what was in it. Then the own
//! pending entries are read one by one from the last that was seen; the one at which it happens
//! again is set aside unseen, by its id and its size.

use super::command::{Ask, Kept, Reply};
use super::pipeline::{Effect, Level, Now, Side, Worker};
use super::row::{Refused, Row};
use crate::model::EntryId;
use crate::model::limits::{
    ASIDE_ENTRIES_MAX, ASIDE_WAITING_MAX, BATCH_BYTES_MAX, CLAIM_IDLE_MS, CONSUME_BYTES_AIM,
    CONSUME_ENTRIES_MAX, KEEP_MS, RESP_REPLY_BYTES_MAX, TROUBLE_AGAIN_MS, WORKER_SILENCE_MS,
};
use crate::resp::{Cause, Refusal};

/// Bytes of a reply around its entry, and more.
const REPLY_HEAD_BYTES: u64 = 4096;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be connected then.
    Down(Now),
    Connecting,
    Up,
}

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Group,
    Own,
    /// The entry behind the last one is too large to be read: which is it?
    Peek,
    New,
}

/// The connection that reads.
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    next: Next,
    /// The last own pending entry that was read.
    after: EntryId,
    /// Since when a read is under way, and how many entries it asked for.
    asked: Option<(Now, usize)>,
    /// Entries of one read.
    page: usize,
    /// When to ask again after a refusal.
    at_ms: Now,
    /// Whether there are own pending entries before `after`, taken over from others.
    has_more: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            state: State::Down(0),
            next: Next::Group,
            after: EntryId::default(),
            asked: None,
            page: CONSUME_ENTRIES_MAX / 10,
            at_ms: 0,
            has_more: false,
        }
    }

    /// Whether a read is under way.
    pub(super) fn is_reading(&self) -> bool {
        self.asked.is_some()
    }

    /// At most twice as many the next time, as few as need be at once.
    fn learn(&mut self, entries: usize, bytes: usize) {
        if let Some(average) = bytes.checked_div(entries) {
            let fitting = CONSUME_BYTES_AIM / average.max(1);
            self.page = fitting.clamp(1, CONSUME_ENTRIES_MAX.min(self.page * 2));
        }
    }
}

/// The connection for all else.
#[derive(Debug)]
pub(super) struct Commands {
    state: State,
    up_ms: Now,
    /// Asks without a reply, and since when there are any.
    acking: Vec<Vec<EntryId>>,
    setting_aside: Vec<Refused>,
    is_keeping: bool,
    asked_ms: Option<Now>,
    keep_at_ms: Now,
    /// When to ask again after a refusal.
    at_ms: Now,
    /// Entries that were set aside and not told of, why the last one was, and when it was told.
    unsaid: u64,
    unsaid_why: String,
    said_ms: Option<Now>,
}

impl Commands {
    pub(super) fn new() -> Self {
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
    pub(super) fn acks_in_flight(&self) -> usize {
        self.acking.iter().map(Vec::len).sum()
    }

    #[cfg(debug_assertions)]
    pub(super) fn aside_in_flight(&self) -> usize {
        self.setting_aside.len()
    }

    fn is_asking(&self) -> bool {
        self.is_keeping || !self.acking.is_empty() || !self.setting_aside.is_empty()
    }
}

impl Worker {
    /// Whether both connections are there.
    pub(super) fn is_redis_up(&self) -> bool {
        self.reader.state == State::Up && self.commands.state == State::Up
    }

    pub(super) fn on_redis_up(&mut self, now: Now, side: Side) {
        match side {
            Side::Reader => {
                self.reader.state = State::Up;
                self.reader.asked = None;
                self.reader.at_ms = now;
                if self.reader.next == Next::New {
                    self.reader.next = Next::Group;
                }
            }
            Side::Commands => {
                self.commands.state = State::Up;
                self.commands.up_ms = now;
                (self.commands.keep_at_ms, self.commands.at_ms) = (now, now);
            }
        }
    }

    pub(super) fn on_redis_down(&mut self, now: Now, side: Side, why: &str, is_too_large: bool) {
        let mut pause = 0;
        if is_too_large && side == Side::Reader {
            self.on_too_large();
        } else {
            pause = self.redis_failed(now, why);
        }
        match side {
            Side::Reader => {
                self.reader.state = State::Down(now + pause);
                self.reader.asked = None;
                if !is_too_large {
                    self.begin_anew();
                }
            }
            Side::Commands => {
                self.commands.state = State::Down(now + pause);
                self.lose_asks();
            }
        }
    }

    /// What was asked may be done or not: both XACK and set_aside.lua may be sent again.
    fn lose_asks(&mut self) {
        let commands = &mut self.commands;
        self.to_ack.extend(commands.acking.drain(..).flatten());
        let again = commands.setting_aside.drain(..);
        again
            .rev()
            .for_each(|refused| self.aside.push_front(refused));
        (commands.is_keeping, commands.asked_ms) = (false, None);
    }

    /// What may have been delivered and not come is read again: all that is pending here.
    fn begin_anew(&mut self) {
        self.reader.after = EntryId::default();
        self.reader.next = Next::Group;
    }

    fn redis_failed(&mut self, now: Now, why: &str) -> u64 {
        let random = self.rng.f64();
        let (pause, line) = self.redis_trouble.failed(now, why, random);
        self.say_line(line);
        pause
    }

    /// A reply was larger than may be: closer and closer to what it was.
    fn on_too_large(&mut self) {
        let count = self.reader.asked.map_or(0, |(_, count)| count);
        self.reader.page = 1;
        self.reader.next = match self.reader.next {
            Next::Own if count == 1 => Next::Peek,
            Next::Own => Next::Own,
            _ => {
                self.reader.after = EntryId::default();
                Next::Own
            }
        };
    }

    /// Connects, gives up who is silent, and does what is due every second.
    pub(super) fn keep_up(&mut self, now: Now) {
        let reader_since = self.reader.asked.map(|(since, _)| since);
        let sinces = [
            (Side::Reader, reader_since),
            (Side::Commands, self.commands.asked_ms),
        ];
        for (side, since) in sinces {
            if since.is_some_and(|since| since + WORKER_SILENCE_MS <= now) {
                self.effects.push(Effect::Close(side));
                let why = format!("it has not answered for {} s", WORKER_SILENCE_MS / 1000);
                self.on_redis_down(now, side, &why, false);
            }
        }
        for (side, state) in [
            (Side::Reader, &mut self.reader.state),
            (Side::Commands, &mut self.commands.state),
        ] {
            if matches!(*state, State::Down(at) if at <= now) {
                *state = State::Connecting;
                self.effects.push(Effect::Connect(side));
            }
        }
        self.say_set_aside(now);
        let commands = &mut self.commands;
        let is_free = commands.state == State::Up && !commands.is_keeping;
        // Before the group is there, there is nothing to keep up.
        let is_due = commands.keep_at_ms <= now && self.reader.next != Next::Group;
        if is_free && is_due && commands.at_ms <= now {
            // Others may be connecting again like this one.
            let may_claim = now >= commands.up_ms + CLAIM_IDLE_MS;
            commands.is_keeping = true;
            commands.asked_ms.get_or_insert(now);
            let ask = Ask::Keep { may_claim };
            self.effects.push(Effect::Ask(Side::Commands, ask));
        }
    }

    /// Reads on, if there is room for it.
    pub(super) fn read(&mut self, now: Now) {
        let reader = &self.reader;
        let is_free = reader.state == State::Up && !reader.is_reading() && reader.at_ms <= now;
        if !is_free || self.is_stopping() {
            return;
        }
        let room = self.settings.batch_rows.saturating_sub(self.filling.len());
        let has_room = room > 0
            && self.filling.bytes() < BATCH_BYTES_MAX
            && self.aside.len() < ASIDE_WAITING_MAX;
        if self.reader.next == Next::New && std::mem::take(&mut self.reader.has_more) {
            self.reader.after = EntryId::default();
            self.reader.next = Next::Own;
        }
        let Reader {
            after, next, page, ..
        } = self.reader;
        let count = room.min(page);
        let ask = match next {
            Next::Group => Ask::Group,
            Next::Peek => Ask::Peek { after },
            _ if !has_room => return,
            Next::Own => Ask::Own { after, count },
            Next::New => Ask::New { count },
        };
        self.reader.asked = Some((now, count));
        self.effects.push(Effect::Ask(Side::Reader, ask));
    }

    /// Acks what is stored, and sets aside what can't be.
    pub(super) fn ack(&mut self, now: Now) {
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

    pub(super) fn on_reply(&mut self, now: Now, ask: Ask, reply: Result<Reply, Refusal>) {
        match ask {
            Ask::Group | Ask::Own { .. } | Ask::New { .. } | Ask::Peek { .. } => {
                if self.reader.asked.take().is_none() {
                    return;
                }
                match reply {
                    Ok(reply) => self.on_read(now, &ask, reply),
                    Err(refusal) => self.on_read_refused(now, &refusal),
                }
            }
            Ask::Keep { .. } | Ask::Ack(_) | Ask::SetAside(_) => self.on_done(now, ask, reply),
        }
    }

    fn on_read(&mut self, now: Now, ask: &Ask, reply: Reply) {
        let line = self.redis_trouble.ended(now);
        self.say_line(line);
        match (ask, reply) {
            (Ask::Group, Reply::Group(_)) => self.reader.next = Next::Own,
            (Ask::Own { .. }, Reply::Entries(entries)) => {
                match entries.last() {
                    Some((last, _)) => self.reader.after = *last,
                    None => self.reader.next = Next::New,
                }
                self.on_entries(now, entries, true);
            }
            (Ask::New { .. }, Reply::Entries(entries)) => {
                // Of a group that was made anew they may be known: the key says so.
                self.on_entries(now, entries, false);
            }
            (Ask::Peek { .. }, Reply::Peeked(found)) => {
                self.reader.next = Next::Own;
                // That one may be gone meanwhile, and another one be the first.
                if let Some((entry, bytes)) = found
                    && bytes + REPLY_HEAD_BYTES >= RESP_REPLY_BYTES_MAX as u64
                {
                    self.reader.after = entry;
                    self.on_unreadable(entry);
                }
            }
            _ => {}
        }
    }

    fn on_entries(
        &mut self,
        now: Now,
        entries: Vec<(EntryId, Option<Result<Row, Refused>>)>,
        is_known: bool,
    ) {
        let (mut bytes, count, mut gone) = (0, entries.len(), 0);
        for (id, entry) in entries {
            if let Some(Ok(row)) = &entry {
                bytes += row.bytes();
            }
            if !self.held.insert(id) {
                continue;
            }
            self.counters.entries += 1;
            match entry {
                Some(Ok(row)) => self.take(now, row, is_known),
                Some(Err(refused)) => self.set_aside(refused),
                None => {
                    gone += 1;
                    self.to_ack.push(id);
                }
            }
        }
        self.reader.learn(count, bytes);
        if gone > 0 {
            self.counters.gone += gone;
            let text = format!(
                "{gone} entries were pending and are gone from the stream: somebody deleted or \
                 trimmed them before they were stored"
            );
            self.say(Level::Warn, text);
        }
    }

    /// An entry that no reply can bring.
    fn on_unreadable(&mut self, entry: EntryId) {
        if self.held.insert(entry) {
            let mib = RESP_REPLY_BYTES_MAX >> 20;
            let reason = format!("the entry is larger than the {mib} MiB that a worker reads");
            // What PostgreSQL says of what is too much for it: program_limit_exceeded.
            let sqlstate = "54000".into();
            self.counters.entries += 1;
            self.set_aside(Refused {
                entry,
                sqlstate,
                reason,
            });
        }
    }

    fn on_read_refused(&mut self, now: Now, refusal: &Refusal) {
        if refusal.cause == Cause::NoGroup {
            self.say(
                Level::Warn,
                "the stream's consumer group is gone, with the stream or alone: it is made again \
                 at the beginning of the stream. If nobody removed it, Redis has lost data",
            );
            self.begin_anew();
            return;
        }
        let pause = self.redis_failed(now, &refusal.explain());
        self.reader.at_ms = now + pause;
        self.begin_anew();
    }

    fn on_done(&mut self, now: Now, ask: Ask, reply: Result<Reply, Refusal>) {
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
    fn say_set_aside(&mut self, now: Now) {
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
