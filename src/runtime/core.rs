//! One shard and all it touches: its sockets, its mailbox, the buffer it reads into.
//!
//! ```text
//! tasks of connections: readable ─▶ Core::read ─▶ Shard::handle   (as many as are ready)
//! pump:  Core::turn = mail ─▶ Shard::turn_end ─▶ effects ─▶ mail out ─▶ sweep ─▶ effects
//! ```
//!
//! The pump runs behind all that was ready, so a turn takes what has come and sends once. Nothing
//! here is held across an `await`: tasks borrow the core for one synchronous call.

use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use rustix::net::Shutdown;

use super::clock::{Busy, Clock};
use super::history;
use super::lines::Lines;
use super::mailbox::{Letter, Mailbox, Post};
use super::outbox::Outbox;
use super::redis::{Links, Target};
use super::sockets::{Received, Sealed, Sockets};
use super::spool::SpoolHandle;
use super::stats::Stats;
use super::store::StoreHandle;
use super::tls::server::Acceptor;
use crate::backplane::link::{Link, LinkEvent};
use crate::backplane::{Answer, Ask};
use crate::hub::ConnIndex;
use crate::model::limits::READ_BYTES_MAX;
use crate::shard::{Arrival, Effect, Event, Shard, ShardId};

/// Shared by the tasks of one thread.
pub(super) type Shared = Rc<RefCell<Core>>;

/// See the module.
pub(super) struct Core {
    pub(super) id: ShardId,
    shard: Shard,
    pub(super) sockets: Sockets,
    mailbox: Mailbox,
    outbox: Outbox,
    shards: u16,
    store: Option<StoreHandle>,
    links: Option<Links>,
    spool: Option<SpoolHandle>,
    history: Option<history::Pool>,
    pub(super) stats: Arc<Stats>,
    lines: Lines,
    effects: Vec<Effect>,
    /// Empty; its room is used again.
    performed: Vec<Effect>,
    buffer: Vec<u8>,
    clock: Clock,
    /// Whether the pump has something to do.
    kicked: bool,
    pump: Option<Waker>,
    flush_interval: Duration,
    swept_at: Instant,
    /// Sockets to await writability of, and pauses to make, by the pump.
    pub(super) writables: Vec<ConnIndex>,
    published_ms: u64,
    drain_deadline_ms: Option<u64>,
    counted_drained: bool,
    /// When it was done, and Redis was told.
    ended_ms: Option<u64>,
    busy: Busy,
}

/// What a shard takes to begin.
pub(super) struct Seed {
    pub(super) shard: Shard,
    pub(super) id: ShardId,
    pub(super) shards: u16,
    pub(super) mailbox: Mailbox,
    pub(super) post: Post,
    pub(super) store: Option<StoreHandle>,
    pub(super) stats: Arc<Stats>,
    pub(super) flush_interval: Duration,
    pub(super) began: Instant,
    /// Where its links to Redis go, if it has any, and what holds publications meanwhile.
    pub(super) redis: Option<Target>,
    /// See `redis`.
    pub(super) spool: Option<SpoolHandle>,
    /// How it reads what a worker has stored, if it does.
    pub(super) history: Option<HistorySeed>,
    /// What certificate it shows, if it speaks TLS.
    pub(super) tls: Option<Arc<Acceptor>>,
    /// Where it answers for the metrics, if they have an address of their own.
    pub(super) metrics: Option<TcpListener>,
}

/// How a pool of links to PostgreSQL is opened.
#[derive(Clone)]
pub(super) struct HistorySeed {
    pub(super) target: super::pg::Target,
    pub(super) name: String,
    pub(super) links_max: usize,
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to do at once.
    More,
    /// There is more to do after a pause.
    Pause(Duration),
    /// Nothing is to be done until something comes.
    Idle,
    /// The shard is done for good.
    Done,
}

/// What became of a read.
pub(super) enum Read {
    Again,
    Paused,
    Ended,
}

impl Core {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            id: seed.id,
            shard: seed.shard,
            sockets: Sockets::new(seed.tls.map(Sealed::new)),
            mailbox: seed.mailbox,
            outbox: Outbox::new(seed.id, seed.shards, seed.post),
            shards: seed.shards,
            store: seed.store,
            links: None,
            spool: seed.spool,
            history: None,
            lines: Lines::new(seed.id, seed.stats.instance_id.clone()),
            stats: seed.stats,
            effects: Vec::new(),
            performed: Vec::new(),
            buffer: vec![0; READ_BYTES_MAX],
            clock: Clock::new(seed.began),
            kicked: true,
            pump: None,
            flush_interval: seed.flush_interval,
            swept_at: Instant::now(),
            writables: Vec::new(),
            published_ms: 0,
            drain_deadline_ms: None,
            counted_drained: false,
            ended_ms: None,
            busy: Busy::new(),
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        self.shard
            .handle(self.clock.now(), event, &mut self.effects);
        self.kick();
    }

    /// Lets the pump run.
    fn kick(&mut self) {
        self.kicked = true;
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }

    /// Takes a new connection; returns its number and serial.
    pub(super) fn accept(&mut self, stream: Rc<TcpStream>, arrival: Arrival) -> (ConnIndex, u64) {
        let (index, serial) = self.sockets.insert(stream);
        self.handle(Event::Accepted(index, arrival));
        (index, serial)
    }

    /// Reads a connection that is readable.
    pub(super) fn read(&mut self, index: ConnIndex, serial: u64) -> Read {
        match self.sockets.get(index, serial) {
            Some(slot) if !slot.closed => {}
            _ => return Read::Ended,
        }
        match self.sockets.receive(index, &mut self.buffer) {
            Received::Bytes(bytes) => {
                let now = self.clock.now();
                let event = Event::Bytes(index, &mut self.buffer[..bytes]);
                self.shard.handle(now, event, &mut self.effects);
                self.kick();
                if self.shard.wants_read(index) {
                    Read::Again
                } else {
                    Read::Paused
                }
            }
            Received::Nothing => Read::Again,
            Received::HalfClosed => {
                self.handle(Event::HalfClosed(index));
                // If nothing is to be said any more, `Effect::Close` comes: its number is not free
                // before, and its peer is told of the end.
                Read::Paused
            }
            Received::Ended => self.end(index, serial),
            Received::Broken(why) => {
                // The socket knows its peer no more, if that is gone.
                let (now_ms, address) = (self.clock.now().ms, self.shard.address(index));
                self.lines.refused(now_ms, address, &why);
                self.end(index, serial)
            }
        }
    }

    /// Nothing more comes by a connection.
    fn end(&mut self, index: ConnIndex, serial: u64) -> Read {
        if let Some(slot) = self.sockets.get(index, serial) {
            slot.closed = true;
        }
        self.handle(Event::Ended(index));
        Read::Ended
    }

    /// Whether a paused connection is to be read again (or has ended); else `waker` is told.
    pub(super) fn poll_gate(&mut self, index: ConnIndex, serial: u64, waker: &Waker) -> Poll<()> {
        let wants = self.shard.wants_read(index);
        match self.sockets.get(index, serial) {
            Some(slot) if !slot.closed && !wants => {
                self.sockets.shut_gate(index, waker);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The task of a connection has ended.
    pub(super) fn release(&mut self, index: ConnIndex, serial: u64) {
        if self
            .sockets
            .get(index, serial)
            .is_some_and(|slot| !slot.closed)
        {
            self.handle(Event::Ended(index));
        }
        self.sockets.remove(index, serial);
    }

    /// A socket takes bytes again.
    pub(super) fn writable(&mut self, index: ConnIndex, serial: u64) {
        if self
            .sockets
            .get(index, serial)
            .is_some_and(|slot| !slot.closed)
        {
            self.sockets.flush(index);
            self.handle(Event::Writable(index));
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self) {
        self.clock.adjust();
        self.lines.tick(self.clock.now().ms);
        self.handle(Event::Tick);
        if let Some(permille) = self.busy.measure() {
            self.stats.set_busy(usize::from(self.id), permille);
        }
    }

    /// Whether the pump has something to do; else `waker` is woken when it has.
    pub(super) fn poll_work(&mut self, waker: &Waker) -> Poll<()> {
        if std::mem::take(&mut self.kicked) || !self.mailbox.sleep(waker) {
            self.pump = None;
            return Poll::Ready(());
        }
        self.pump = Some(waker.clone());
        Poll::Pending
    }

    /// Does what there is to do.
    pub(super) fn turn(&mut self) -> Turn {
        self.kicked = false;
        while !self.shard.is_pressed()
            && let Some(letter) = self.mailbox.take()
        {
            self.open_letter(letter);
        }
        let now = self.clock.now();
        self.shard.turn_end(now, &mut self.effects);
        self.perform();
        if let Some(links) = &mut self.links {
            links.flush();
        }
        let mut more = self.outbox.carry(&mut self.shard);
        let pause = match self.flush_interval {
            Duration::ZERO => Duration::ZERO,
            interval => interval.saturating_sub(self.swept_at.elapsed()),
        };
        if pause.is_zero() {
            more |= self.shard.sweep(now, &mut self.sockets, &mut self.effects);
            if self.shard.is_timing() {
                self.shard.on_swept(self.clock.now());
            }
            if self.sockets.take_sends() >= SENDS_BEFORE_YIELD {
                rustix::thread::sched_yield();
            }
            if !self.flush_interval.is_zero() {
                self.swept_at = Instant::now();
            }
        }
        self.perform();
        self.writables.extend(self.sockets.take_backlogged());
        self.pace_links();
        more |= self.outbox.carry(&mut self.shard) | self.shard.wants_turn();
        self.publish_stats(now.ms);
        if !self.is_done(now.ms) {
            self.ended_ms = None;
        } else if self.ended_ms.is_none() && self.links.is_some() {
            self.ended_ms = Some(now.ms);
            self.shard.bye(now, &mut self.effects);
            self.perform();
        }
        if self.ended_ms.is_some_and(|at_ms| now.ms < at_ms + BYE_MS) {
            Turn::Pause(Duration::from_millis(BYE_MS))
        } else if self.is_done(now.ms) {
            // The store's threads end when no shard can ask them any more.
            self.store = None;
            self.spool = None;
            Turn::Done
        } else if more || self.kicked {
            Turn::More
        } else if !pause.is_zero() {
            Turn::Pause(pause)
        } else {
            Turn::Idle
        }
    }

    fn open_letter(&mut self, letter: Letter) {
        let now = self.clock.now();
        match letter {
            Letter::Mail(from, mail) => {
                for mail in mail {
                    self.shard
                        .handle(now, Event::Mail(from, mail), &mut self.effects);
                }
            }
            Letter::Answer(answer) => {
                self.shard
                    .handle(now, Event::Backplane(answer), &mut self.effects);
            }
            Letter::Access(access) => {
                self.shard
                    .handle(now, Event::Access(access), &mut self.effects);
            }
            Letter::Drain(window_ms) => {
                if self.drain_deadline_ms.is_none() {
                    self.drain_deadline_ms = Some(now.ms + window_ms + DRAIN_GRACE_MS);
                }
                self.shard
                    .handle(now, Event::Drain(window_ms), &mut self.effects);
            }
        }
    }

    /// Performs what the shard has asked for, until it asks for nothing more.
    fn perform(&mut self) {
        let mut effects = std::mem::take(&mut self.performed);
        while !self.effects.is_empty() {
            std::mem::swap(&mut effects, &mut self.effects);
            for effect in effects.drain(..) {
                self.perform_one(effect);
            }
            effects.shrink_to(EFFECTS_READY);
        }
        self.performed = effects;
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::AwaitWritable(index) => self.writables.push(index),
            Effect::ResumeRead(index) => self.sockets.open_gate(index),
            Effect::ShutdownWrite(index) => self.sockets.shutdown(index, Shutdown::Write),
            Effect::Close(index) => {
                // Its reader wakes by this, ends, and frees the number.
                self.sockets.shutdown(index, Shutdown::Both);
                if let Some(slot) = self.sockets.slot(index) {
                    slot.closed = true;
                }
                self.sockets.open_gate(index);
            }
            Effect::Answer(id, page) => {
                let answer = self.stats.answer(page);
                self.handle(Event::Answered(id, answer));
            }
            Effect::Limited(address) => {
                tracing::warn!(
                    %address,
                    "messages are refused: its connections are over --rate-limit-address; if it is \
                     a proxy, --trusted-proxies counts its clients apart"
                );
            }
            Effect::Opened(client, address) => {
                self.lines.connected(self.clock.now().ms, client, address);
            }
            Effect::Refused(address, why) => {
                self.lines.refused(self.clock.now().ms, Some(address), &why);
            }
            Effect::Backplane(ask) => self.perform_ask(ask),
        }
    }

    fn perform_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Store(request) => {
                if let Some(store) = &self.store {
                    store.ask(self.id, request);
                }
            }
            Ask::Link(ask) => {
                if let Some(links) = &mut self.links {
                    links.ask(ask);
                }
            }
            Ask::Spool(ask) => {
                if let Some(spool) = &self.spool {
                    spool.ask(ask);
                }
            }
            Ask::History(ask) => {
                if let Some(pool) = &self.history {
                    pool.ask(ask);
                }
            }
            Ask::Warn(why) => tracing::warn!("{why}"),
            Ask::Note(what) => tracing::info!("{what}"),
            Ask::End(why) => {
                tracing::error!("{why}");
                std::process::exit(1);
            }
        }
    }

    /// Reads the links as long as the shard can use what they bring.
    fn pace_links(&mut self) {
        if let Some(links) = &mut self.links {
            links.set_paused(Link::Subscriber, !self.shard.wants_link(Link::Subscriber));
        }
    }

    /// Opens the shard's links to Redis.
    pub(super) fn open_links(core: &Shared, target: Target) {
        let weak = Rc::downgrade(core);
        let on_event = Rc::new(move |event: LinkEvent| {
            if let Some(core) = weak.upgrade() {
                let mut core = core.borrow_mut();
                core.handle(Event::Backplane(Answer::Link(event)));
                core.pace_links();
            }
        });
        core.borrow_mut().links = Some(Links::new(target, on_event));
    }

    /// Opens its links to the PostgreSQL that a worker stores in.
    pub(super) fn open_history(core: &Shared, history: HistorySeed) {
        let weak = Rc::downgrade(core);
        let on_reply = Rc::new(move |reply| {
            if let Some(core) = weak.upgrade() {
                let mut core = core.borrow_mut();
                core.handle(Event::Backplane(Answer::History(reply)));
            }
        });
        let HistorySeed {
            target,
            name,
            links_max,
        } = history;
        let pool = history::Pool::open(target, name, links_max, on_reply);
        core.borrow_mut().history = Some(pool);
    }

    fn publish_stats(&mut self, now_ms: u64) {
        if now_ms >= self.published_ms + STATS_MS {
            self.published_ms = now_ms;
            let mut counters = self.shard.counters();
            counters.panics += self.sockets.panics();
            self.stats.publish(usize::from(self.id), &counters);
            if let Some(history) = &self.history {
                self.stats.set_postgres(history.is_up());
            }
        }
    }

    /// Whether the shard has drained, and so have all others, which may need it until then.
    fn is_done(&mut self, now_ms: u64) -> bool {
        let Some(deadline_ms) = self.drain_deadline_ms else {
            return false;
        };
        if self.shard.is_empty() && !self.counted_drained {
            self.counted_drained = true;
            self.stats.drained.fetch_add(1, Ordering::AcqRel);
        }
        now_ms >= deadline_ms
            || self.stats.drained.load(Ordering::Acquire) >= usize::from(self.shards)
    }
}

/// Sends of a sweep, behind which whoever else waits for this core may run: another instance,
/// Redis.
/// Without it each uses up its slice of time, sweep by sweep of a message each, while the others
/// wait for it: three instances on one core had a third more P99. Alone on its core it costs a
/// system call that returns at once.
const SENDS_BEFORE_YIELD: usize = 16;
/// Effects for which there stays room.
const EFFECTS_READY: usize = 1024;
/// How long the last words to Redis may take, in ms.
const BYE_MS: u64 = 50;
/// How long after the window the last connections may take.
const DRAIN_GRACE_MS: u64 = 1_500;
/// How old the numbers of `/metrics` may be while there is traffic, in ms.
const STATS_MS: u64 = 20;
