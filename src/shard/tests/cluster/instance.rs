//! One instance: its shards, their sockets and the mail between them, driven as `runtime/` drives
//! them. What it asks of the world outside is noted, and the world does it.

use std::collections::VecDeque;

use fastrand::Rng;

use super::setup::Setup;
use crate::backplane::Ask;
use crate::backplane::link::LinkAsk;
use crate::backplane::redis::spool::SpoolAsk;
use crate::hub::ConnIndex;
use crate::model::Timestamp;
use crate::model::limits::{BREAKER_AWAY_MS, CHUNK_BYTES_MAX, OUTBOX_BYTES_MAX};
use crate::shard::home::HomeRoom;
use crate::shard::tests::wires::{Wire, Wires};
use crate::shard::tests::world::ANSWERS_BYTES;
use crate::shard::{Effect, Event, Mail, Now, Shard, ShardId};

/// Mail on its way from one shard to another, and when it comes.
type Lane = VecDeque<(u64, Vec<Mail>)>;

/// Letters in a mailbox of one shard to another.
const MAILBOX: usize = 4;
const TICK_MS: u64 = 100;
const WALL_MS: u64 = 1_700_000_000_000;

/// A shard and its sockets.
pub(super) struct Node {
    pub(super) shard: Shard,
    pub(super) wires: Wires,
    effects: Vec<Effect>,
    tick_ms: u64,
}

/// See the module.
pub(super) struct Instance {
    pub(super) number: usize,
    /// When it began: its own clock begins there.
    began_ms: u64,
    skew_ms: u64,
    pub(super) nodes: Vec<Node>,
    /// Mail from one shard to another, and when it arrives.
    lanes: Vec<Vec<Lane>>,
    /// What it asks of its links to Redis.
    pub(super) asks: Vec<LinkAsk>,
    /// What it asks of its spool.
    pub(super) spool_asks: Vec<SpoolAsk>,
    /// Sockets that it has closed.
    pub(super) unplugged: Vec<Wire>,
    /// Whether every effect is printed.
    trace: bool,
}

impl Instance {
    pub(super) fn new(number: usize, setup: &Setup, now_ms: u64, rng: &mut Rng) -> Self {
        let options = setup.options(number);
        let shards = usize::from(setup.shards);
        let nodes = (0..setup.shards).map(|id| Node {
            shard: Shard::new(id, options.clone(), rng.u64(..)),
            wires: Wires {
                slots: Vec::new(),
                rng: rng.fork(),
                faults: true,
            },
            effects: Vec::new(),
            tick_ms: 0,
        });
        let nodes: Vec<_> = nodes.collect();
        Self {
            number,
            began_ms: now_ms,
            skew_ms: rng.u64(0..=setup.skew_ms),
            nodes,
            lanes: (0..shards)
                .map(|_| (0..shards).map(|_| VecDeque::new()).collect())
                .collect(),
            asks: Vec::new(),
            spool_asks: Vec::new(),
            unplugged: Vec::new(),
            trace: std::env::var_os("RINGCAST_SIM_TRACE").is_some(),
        }
    }

    fn now(&self, now_ms: u64) -> Now {
        Now {
            ms: now_ms - self.began_ms,
            us: (now_ms - self.began_ms) * 1000,
            wall: Timestamp(WALL_MS + now_ms + self.skew_ms),
        }
    }

    /// Whether it has waited for its first login for as long as the breaker does. With steps of up
    /// to 200 ms, each of which brings a part of a reply, six are enough for that, however fast the
    /// links are (seed 35810).
    pub(super) fn is_login_slow(&self, now_ms: u64) -> bool {
        let has_waited = self.began_ms + BREAKER_AWAY_MS <= now_ms;
        has_waited && self.nodes[0].shard.counters().redis.connects == 0
    }

    pub(super) fn event(&mut self, at: usize, now_ms: u64, event: Event<'_>) {
        let now = self.now(now_ms);
        if self.trace && matches!(event, Event::Backplane(_)) {
            eprintln!("   {now_ms} i{}/{at} {event:?}", self.number);
        }
        let node = &mut self.nodes[at];
        node.shard.handle(now, event, &mut node.effects);
    }

    /// Mail that has come, and the tick.
    pub(super) fn take_mail(&mut self, to: usize, now_ms: u64) {
        for from in 0..self.nodes.len() {
            while let Some(&(due_ms, _)) = self.lanes[from][to].front()
                && due_ms <= now_ms
                && let Some((_, mail)) = self.lanes[from][to].pop_front()
            {
                for mail in mail {
                    self.event(to, now_ms, Event::Mail(from as ShardId, mail));
                }
            }
        }
        if now_ms >= self.nodes[to].tick_ms {
            self.nodes[to].tick_ms = now_ms + TICK_MS;
            self.event(to, now_ms, Event::Tick);
        }
    }

    pub(super) fn read_sockets(&mut self, at: usize, now_ms: u64, faults: bool, rng: &mut Rng) {
        for index in self.nodes[at].wires.shuffled() {
            let Some(wire) = self.nodes[at].wires.get(index) else {
                continue;
            };
            if wire.reset {
                if !wire.paused && (!faults || rng.bool()) {
                    self.event(at, now_ms, Event::Ended(index));
                    self.unplug(at, index);
                }
                continue;
            }
            if wire.awaiting && wire.outbound.len() < wire.capacity && (!faults || rng.bool()) {
                (wire.awaiting, wire.full) = (false, false);
                self.event(at, now_ms, Event::Writable(index));
            }
            let Some(wire) = self.nodes[at].wires.get(index) else {
                continue;
            };
            if wire.paused || wire.inbound.is_empty() || (faults && rng.u32(..4) == 0) {
                continue;
            }
            let mut bytes = std::mem::take(&mut wire.inbound);
            self.event(at, now_ms, Event::Bytes(index, &mut bytes));
            let node = &mut self.nodes[at];
            let wants = node.shard.wants_read(index);
            if let Some(wire) = node.wires.get(index) {
                wire.paused = !wants;
            }
        }
    }

    /// A turn, or several: until nothing is left to do.
    pub(super) fn turn(
        &mut self,
        at: usize,
        setup: &Setup,
        now_ms: u64,
        faults: bool,
        rng: &mut Rng,
    ) {
        let now = self.now(now_ms);
        for round in 0.. {
            assert!(round < 10_000, "shard {at} of {} spins", self.number);
            let node = &mut self.nodes[at];
            node.shard.turn_end(now, &mut node.effects);
            self.perform(at);
            self.carry(at, setup, now_ms, faults, rng);
            let node = &mut self.nodes[at];
            let more = node.shard.sweep(now, &mut node.wires, &mut node.effects);
            self.perform(at);
            self.carry(at, setup, now_ms, faults, rng);
            let shard = &self.nodes[at].shard;
            if !more && (!shard.wants_turn() || shard.lanes.is_any_behind()) {
                let waits = shard.stalled.iter().find(|&&index| shard.may_take(index));
                assert!(waits.is_none(), "who has credit again waits for a tick");
                return;
            }
            if faults && rng.u32(..4) == 0 {
                return;
            }
        }
    }

    fn perform(&mut self, at: usize) {
        for effect in std::mem::take(&mut self.nodes[at].effects) {
            let wires = &mut self.nodes[at].wires;
            match effect {
                Effect::AwaitWritable(index) => wires.with(index, |wire| wire.awaiting = true),
                Effect::ResumeRead(index) => wires.with(index, |wire| wire.paused = false),
                Effect::ShutdownWrite(index) => wires.with(index, |wire| wire.fin = true),
                Effect::Close(index) => self.unplug(at, index),
                Effect::Backplane(Ask::Link(ask)) => {
                    assert_eq!(at, 0, "the home of the partition");
                    if self.trace {
                        eprintln!("   i{} asks {ask:?} {}", self.number, text_of(&ask));
                    }
                    self.asks.push(ask);
                }
                Effect::Backplane(Ask::Spool(ask)) => {
                    if self.trace {
                        eprintln!("   i{} asks {ask:?}", self.number);
                    }
                    self.spool_asks.push(ask);
                }
                Effect::Backplane(Ask::Warn(why) | Ask::Note(why)) => {
                    if self.trace {
                        eprintln!("   i{} warns: {why}", self.number);
                    }
                }
                Effect::Backplane(Ask::End(why)) => panic!("i{} ends: {why}", self.number),
                Effect::Backplane(Ask::Store(_) | Ask::History(_)) => panic!("there is no store"),
                Effect::Answer(..) => panic!("no page was asked for"),
                Effect::Opened(..) | Effect::Refused(..) | Effect::Limited(_) => {}
            }
        }
    }

    fn carry(&mut self, from: usize, setup: &Setup, now_ms: u64, faults: bool, rng: &mut Rng) {
        for to in 0..self.nodes.len() {
            let letters = &mut self.lanes[from][to];
            let shard = &mut self.nodes[from].shard;
            if (faults && letters.len() >= MAILBOX) || !shard.has_mail(to as ShardId) {
                continue;
            }
            let mail = shard.carry(to as ShardId);
            let delay_ms = if faults {
                rng.u64(0..=setup.mail_ms)
            } else {
                0
            };
            let last_ms = letters.back().map_or(0, |&(due_ms, _)| due_ms);
            letters.push_back((last_ms.max(now_ms + delay_ms), mail));
        }
    }

    fn unplug(&mut self, at: usize, index: ConnIndex) {
        self.unplugged.extend(self.nodes[at].wires.take(index));
    }

    pub(super) fn check_bounds(&self) {
        for node in &self.nodes {
            let shard = &node.shard;
            shard.invariants();
            for room in shard.home.rooms.values() {
                check_room(shard, room);
            }
            let log_bytes_max = shard.options.log_bytes_max + 2 * CHUNK_BYTES_MAX;
            assert!(
                shard.hub.log_bytes() <= log_bytes_max,
                "the logs are within their budget"
            );
            for conn in shard.conns.iter().flatten() {
                let bytes = conn.outbox.as_ref().map_or(0, |outbox| outbox.bytes.len());
                assert!(
                    bytes <= 2 * (OUTBOX_BYTES_MAX + ANSWERS_BYTES),
                    "an outbox of {bytes} bytes"
                );
            }
        }
    }

    /// Whether nothing moves any more, Redis aside.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_quiet = |wire: &Wire| wire.inbound.is_empty() && wire.outbound.is_empty();
        self.lanes.iter().flatten().all(VecDeque::is_empty)
            && self.nodes.iter().all(|node| {
                let shards = 0..self.nodes.len() as ShardId;
                node.wires.slots.iter().flatten().all(is_quiet)
                    && !node.shard.hub.is_dirty()
                    && node.shard.stalled.is_empty()
                    && !node.shard.wants_turn()
                    && !shards.into_iter().any(|to| node.shard.has_mail(to))
                    && node.shard.conns.iter().flatten().all(|conn| {
                        conn.in_flight == 0 && conn.outbox.is_none() && conn.phase_is_lasting()
                    })
            })
    }

    /// Why it is not at rest, as far as it can be said in a line.
    pub(super) fn unrest(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let shard = &node.shard;
            let conns = shard.conns.iter().flatten();
            let conns = conns.map(|conn| (conn.in_flight, conn.phase, conn.outbox.is_some()));
            format!(
                "wants a turn {}, dirty {}, stalled {:?}, conns {:?}, degraded {:?}, {:?}",
                shard.wants_turn(),
                shard.hub.is_dirty(),
                shard.stalled,
                conns.collect::<Vec<_>>(),
                shard.degraded,
                shard.counters(),
            )
        });
        format!("i{}: {:#?}", self.number, nodes.collect::<Vec<_>>())
    }

    /// What must hold when it is at rest.
    pub(super) fn check_rest(&self) {
        let number = self.number;
        for node in &self.nodes {
            for out in &node.shard.outstanding {
                let left = (out.requests, out.bytes);
                assert_eq!(left, (0, 0), "i{number}: all requests are answered");
            }
            for conn in node.shard.conns.iter().flatten() {
                let is_free = !conn.paused && conn.credit_used == 0;
                assert!(is_free, "i{number}: all credit is back: {conn:?}");
            }
            let home = &node.shard.home;
            let is_read = home.reads.is_empty() && home.resuming.is_empty();
            assert!(is_read, "i{number}: nobody reads");
            assert_eq!(node.shard.degraded, None, "i{number} is degraded");
            for room in node.shard.home.rooms.values() {
                let is_open = room.opening.is_none() && room.publishing == 0;
                assert!(is_open, "i{number}: nothing waits: {room:?}");
            }
        }
    }
}

/// A room that is open is not being opened, and counts who is elsewhere only.
fn check_room(shard: &Shard, room: &HomeRoom) {
    if room.position.is_none() {
        return;
    }
    assert!(room.opening.is_none(), "{room:?}");
    let elsewhere = shard.home.backplane.users_elsewhere(&room.name);
    let is_here = |user_id: &str| room.users.contains(user_id);
    let elsewhere = elsewhere.filter(|(user_id, ..)| !is_here(user_id)).count();
    assert_eq!(room.users_elsewhere, elsewhere as u64, "{room:?}");
}

/// What is sent, as far as it is text.
fn text_of(ask: &LinkAsk) -> String {
    match ask {
        LinkAsk::Send(_, bytes) => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
            text.replace("\r\n", " ")
        }
        _ => String::new(),
    }
}
