//! Redis's half of the worker: its two connections, and what is read. What is acked and set aside
//! is in `commands`.
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

mod commands;

pub(super) use self::commands::Commands;
use super::command::{Ask, Reply};
use super::pipeline::{Effect, Level, Now, Side, Worker};
use super::row::{Refused, Row};
use crate::model::EntryId;
use crate::model::limits::{
    ASIDE_WAITING_MAX, BATCH_BYTES_MAX, CONSUME_BYTES_AIM, CONSUME_ENTRIES_MAX,
    RESP_REPLY_BYTES_MAX, WORKER_SILENCE_MS,
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
            Side::Commands => self.commands.on_up(now),
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
        // Before the group is there, there is nothing to keep up.
        if self.reader.next != Next::Group {
            self.keep(now);
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
}
