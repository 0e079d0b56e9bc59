//! The worker itself: one state machine, events in, effects out. The module above has its shape.
//!
//! [`Worker::handle`] takes what has happened and says what to do; [`Event::Tick`] comes a few
//! times a second at least, and drives all that only time does. Whatever an effect asks for is
//! answered by an event, or by the connection's end.

use std::collections::VecDeque;

use hashbrown::HashSet;

use super::batch::Batch;
use super::command::{Ask, Kept, Reply, Stream};
use super::positions::Positions;
use super::reading::{Commands, Reader};
use super::report::{Counters, Report};
use super::row::Refused;
use super::storing::Store;
use super::trouble::{Line, Trouble};
use crate::model::EntryId;
use crate::pg;
use crate::resp::Refusal;

/// The time, in ms, by a clock that never goes back.
pub type Now = u64;

/// The settings of a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is consumed.
    pub stream: Stream,
    /// Rows of one batch at most.
    pub batch_rows: usize,
    /// Age of a batch's oldest row at most, in ms.
    pub batch_ms: u64,
    /// Age after which rows are deleted, in ms.
    pub retention_ms: Option<u64>,
    /// How long the end may take, in ms.
    pub drain_ms: u64,
}

/// Which connection to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Reads, and waits in it.
    Reader,
    /// All else.
    Commands,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A connection to Redis is there.
    RedisUp(Side),
    /// It is not, or not any more. Why; and whether a reply was larger than may be.
    RedisDown {
        /// Which.
        side: Side,
        /// Why: cause and remedy.
        why: String,
        /// Whether a reply was larger than is taken.
        is_too_large: bool,
    },
    /// What was asked, and what is answered.
    Reply(Ask, Result<Reply, Refusal>),
    /// Of the connection to PostgreSQL, which comes back by itself.
    Pg(pg::Event),
    /// It is to end.
    Stop,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the record.
    Info,
    /// Somebody should look.
    Warn,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Connect to Redis.
    Connect(Side),
    /// Give that connection up.
    Close(Side),
    /// Ask Redis.
    Ask(Side, Ask),
    /// Ask PostgreSQL.
    Pg(pg::Request),
    /// A line for the log.
    Say(Level, String),
    /// A transaction with rows was committed, and nothing is acked yet: for failpoints.
    Committed,
    /// All is done.
    End,
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    pub(super) settings: Settings,
    pub(super) rng: fastrand::Rng,
    pub(super) effects: Vec<Effect>,
    pub(super) reader: Reader,
    pub(super) commands: Commands,
    pub(super) store: Store,
    pub(super) filling: Batch,
    /// Entries read and not yet acked.
    pub(super) held: HashSet<EntryId>,
    /// Stored, and to be acked.
    pub(super) to_ack: Vec<EntryId>,
    /// To be set aside.
    pub(super) aside: VecDeque<Refused>,
    pub(super) redis_trouble: Trouble,
    pub(super) pg_trouble: Trouble,
    pub(super) counters: Counters,
    pub(super) kept: Kept,
    positions: Positions,
    stop_ms: Option<Now>,
    has_ended: bool,
}

impl Worker {
    /// One that has not begun; `seed` is of its chance. PostgreSQL's connection is on its way.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            rng: fastrand::Rng::with_seed(seed),
            effects: Vec::new(),
            reader: Reader::new(),
            commands: Commands::new(),
            store: Store::new(),
            filling: Batch::default(),
            held: HashSet::new(),
            to_ack: Vec::new(),
            aside: VecDeque::new(),
            redis_trouble: Trouble::new("Redis"),
            pg_trouble: Trouble::new("PostgreSQL"),
            counters: Counters::default(),
            kept: Kept::default(),
            positions: Positions::default(),
            stop_ms: None,
            has_ended: false,
        }
    }

    /// Takes what has happened; appends what is to be done.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        if self.has_ended {
            return;
        }
        match event {
            Event::Tick => {}
            Event::RedisUp(side) => self.on_redis_up(now, side),
            Event::RedisDown {
                side,
                why,
                is_too_large,
            } => self.on_redis_down(now, side, &why, is_too_large),
            Event::Reply(ask, reply) => self.on_reply(now, ask, reply),
            Event::Pg(event) => self.on_pg(now, event),
            Event::Stop => {
                self.stop_ms.get_or_insert(now);
            }
        }
        self.keep_up(now);
        // What is stored makes room for what is read.
        self.store(now);
        self.read(now);
        self.ack(now);
        self.end(now);
        #[cfg(debug_assertions)]
        self.invariants();
        effects.append(&mut self.effects);
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        let why = |trouble: &Trouble, is_up: bool| match trouble.why() {
            Some(why) => Some(why.to_owned()),
            None => (!is_up).then(|| "connecting".to_owned()),
        };
        Report {
            counters: self.counters.clone(),
            kept: self.kept,
            held: self.held.len() as u64,
            redis: why(&self.redis_trouble, self.is_redis_up()),
            postgres: why(&self.pg_trouble, self.store.is_ready()),
        }
    }

    /// Whether nothing more is to be read.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop_ms.is_some()
    }

    pub(super) fn say(&mut self, level: Level, text: impl Into<String>) {
        self.effects.push(Effect::Say(level, text.into()));
    }

    pub(super) fn say_line(&mut self, line: Option<Line>) {
        if let Some((level, text)) = line {
            self.say(level, text);
        }
    }

    /// Takes an entry that was read: `is_known`: its row may be in the table.
    pub(super) fn take(&mut self, now: Now, row: super::Row, is_known: bool) {
        let is_behind = self.positions.is_behind(&row);
        self.filling.push(now, row, is_known || is_behind);
    }

    /// An entry that can't be stored.
    pub(super) fn set_aside(&mut self, refused: Refused) {
        self.aside.push_back(refused);
    }

    /// Ends when it is to end and nothing is left to do, or the time for it is over.
    fn end(&mut self, now: Now) {
        let Some(stop_ms) = self.stop_ms else {
            return;
        };
        let is_done = self.held.is_empty() && !self.reader.is_reading();
        let is_over = now >= stop_ms + self.settings.drain_ms;
        if !(is_done || is_over) {
            return;
        }
        if !is_done {
            let left = self.held.len();
            let text = format!(
                "ending with {left} entries that are not stored: they stay pending in Redis, and \
                 this worker's next start or another worker stores them"
            );
            self.say(Level::Warn, text);
        }
        self.has_ended = true;
        self.effects.push(Effect::End);
    }

    /// See the module above.
    #[cfg(debug_assertions)]
    fn invariants(&self) {
        let parts = self.filling.len()
            + self.store.rows()
            + self.to_ack.len()
            + self.commands.acks_in_flight()
            + self.aside.len()
            + self.commands.aside_in_flight();
        assert_eq!(self.held.len(), parts, "what is held is in one place each");
        assert!(self.filling.len() <= self.settings.batch_rows);
    }
}
