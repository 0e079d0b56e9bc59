//! The machine room of a simulation: shards, their sockets and mail, the store, the clock.
//!
//! Driven as `runtime/` drives them, but one step at a time and in a random order. While there are
//! faults, mailboxes fill, sockets stall and break, and the store is slow and fails; in the calm
//! everything flows, and then everything must come to rest.

use std::collections::VecDeque;
use std::sync::Arc;

use fastrand::Rng;

use super::client::{Client, Phase};
use super::oracle::Ledger;
use super::setup::Setup;
use super::store::Store;
use super::wires::{Wire, Wires};
use crate::backplane::{Answer, Ask};
use crate::hub::ConnIndex;
use crate::model::limits::{CHUNK_BYTES_MAX, OUTBOX_BYTES_MAX};
use crate::model::{RoomName, Timestamp};
use crate::shard::{Arrival, Effect, Event, Mail, Now, Shard, ShardId};

/// Letters in a mailbox of one shard to another.
const MAILBOX: usize = 4;
/// What an outbox may hold beyond its maximum: answers to what credits let in.
pub(super) const ANSWERS_BYTES: usize = 1024 * 512 + 128 * 1024;
const TICK_MS: u64 = 100;

struct Node {
    shard: Shard,
    wires: Wires,
    effects: Vec<Effect>,
    tick_ms: u64,
}

/// Mail from one shard to another.
#[derive(Default)]
struct Lane {
    letters: VecDeque<(u64, Vec<Mail>)>,
    full_until_ms: u64,
}

/// See the module.
pub(super) struct World {
    setup: Setup,
    rng: Rng,
    now_ms: u64,
    nodes: Vec<Node>,
    lanes: Vec<Vec<Lane>>,
    store: Store,
    clients: Vec<Client>,
    deaf_until_ms: Vec<u64>,
    ledger: Ledger,
    faults: bool,
}

impl World {
    pub(super) fn new(setup: Setup, mut rng: Rng) -> Self {
        let options = Arc::new(setup.options());
        let shards = usize::from(setup.shards);
        let nodes = (0..setup.shards).map(|id| {
            let mut shard = Shard::new(id, options.clone(), rng.u64(..));
            shard.lanes.set_bytes_max(setup.lane_bytes_max);
            let wires = Wires {
                slots: Vec::new(),
                rng: rng.fork(),
                faults: true,
            };
            Node {
                shard,
                wires,
                effects: Vec::new(),
                tick_ms: 0,
            }
        });
        Self {
            nodes: nodes.collect(),
            lanes: (0..shards)
                .map(|_| (0..shards).map(|_| Lane::default()).collect())
                .collect(),
            store: Store::new(),
            clients: (0..setup.clients).map(Client::new).collect(),
            deaf_until_ms: vec![0; setup.clients],
            ledger: Ledger::new(setup.clone()),
            now_ms: 1,
            faults: true,
            setup,
            rng,
        }
    }

    /// One whole run.
    pub(super) fn run(mut self) {
        for _ in 0..self.setup.steps {
            self.now_ms += self.rng.u64(0..=self.setup.step_ms);
            self.act();
            self.step();
        }
        self.calm();
        for _ in 0..5_000 {
            self.now_ms += 5;
            self.step();
            if self.is_at_rest() {
                break;
            }
        }
        self.check_rest();
        self.ledger.finish(&self.store);
        self.leave();
    }

    fn now(&self) -> Now {
        Now {
            ms: self.now_ms,
            us: self.now_ms * 1000,
            wall: Timestamp(1_700_000_000_000 + self.now_ms),
        }
    }

    fn chance(&mut self, of_1000: u32) -> bool {
        self.rng.u32(..1000) < of_1000
    }

    /// The faults end.
    fn calm(&mut self) {
        self.faults = false;
        for node in &mut self.nodes {
            node.wires.faults = false;
            for wire in node.wires.slots.iter_mut().flatten() {
                wire.capacity = 1 << 30;
            }
        }
    }

    /// Clients come, do something, stop reading, and go.
    fn act(&mut self) {
        let ids: Vec<_> = self
            .clients
            .iter()
            .map(|client| client.id.clone())
            .collect();
        for at in 0..self.clients.len() {
            if self.clients[at].phase == Phase::Away && self.clients[at].link.is_none() {
                if self.chance(200) {
                    self.connect(at);
                }
                continue;
            }
            if self.chance(self.setup.deaf) {
                self.deaf_until_ms[at] = self.now_ms + self.rng.u64(0..=self.setup.deaf_ms);
            }
            if self.chance(self.setup.cuts) {
                self.cut(at);
            }
            if self.chance(self.setup.acts) {
                let Some((shard, index)) = self.clients[at].link else {
                    continue;
                };
                let Some(wire) = self.nodes[usize::from(shard)].wires.get(index) else {
                    continue;
                };
                let out = &mut wire.inbound;
                self.clients[at].act(&mut self.ledger, &mut self.rng, &ids, out);
            }
        }
        for lane in self.lanes.iter_mut().flatten() {
            if self.rng.u32(..1000) < self.setup.mailboxes_full {
                lane.full_until_ms = self.now_ms + self.rng.u64(0..500);
            }
        }
    }

    fn connect(&mut self, at: usize) {
        let shard = self.rng.u16(..self.setup.shards);
        let now = self.now();
        let node = &mut self.nodes[usize::from(shard)];
        let capacity = self.setup.socket_bytes;
        let index = node.wires.insert(Wire {
            client: at,
            capacity,
            ..Wire::default()
        });
        node.shard.handle(
            now,
            Event::Accepted(index, Arrival::default()),
            &mut node.effects,
        );
        let head = self.clients[at].connect((shard, index), &mut self.rng);
        if let Some(wire) = node.wires.get(index) {
            wire.inbound = head;
        }
    }

    /// A client goes, with a word or without.
    fn cut(&mut self, at: usize) {
        let Some((shard, index)) = self.clients[at].link else {
            return;
        };
        let Some(wire) = self.nodes[usize::from(shard)].wires.get(index) else {
            return;
        };
        if self.rng.bool() {
            self.clients[at].close(&mut self.rng, &mut wire.inbound);
        } else {
            wire.reset = true;
        }
    }

    /// Everybody gets a turn, in a random order.
    fn step(&mut self) {
        let store = self
            .store
            .run(self.now_ms, &self.setup, self.faults, &mut self.rng);
        let now = self.now();
        for (shard, reply) in store {
            let node = &mut self.nodes[usize::from(shard)];
            node.shard.handle(
                now,
                Event::Backplane(Answer::Store(reply)),
                &mut node.effects,
            );
        }
        let mut order: Vec<_> = (0..self.nodes.len()).collect();
        self.rng.shuffle(&mut order);
        for at in order {
            self.take_mail(at);
            self.read_sockets(at);
            if self.now_ms >= self.nodes[at].tick_ms {
                self.nodes[at].tick_ms = self.now_ms + TICK_MS;
                self.event(at, Event::Tick);
            }
            if !self.faults || self.rng.u32(..5) > 0 {
                self.turn(at);
            }
            self.check_bounds(at);
            self.write_clients(at);
        }
    }

    fn event(&mut self, at: usize, event: Event<'_>) {
        let now = self.now();
        let node = &mut self.nodes[at];
        node.shard.handle(now, event, &mut node.effects);
    }

    fn take_mail(&mut self, to: usize) {
        for from in 0..self.nodes.len() {
            while let Some(&(due_ms, _)) = self.lanes[from][to].letters.front()
                && due_ms <= self.now_ms
                && let Some((_, mail)) = self.lanes[from][to].letters.pop_front()
            {
                for mail in mail {
                    self.event(to, Event::Mail(from as ShardId, mail));
                }
            }
        }
    }

    fn read_sockets(&mut self, at: usize) {
        for index in self.nodes[at].wires.shuffled() {
            let (faults, now) = (self.faults, self.now());
            let node = &mut self.nodes[at];
            let Some(wire) = node.wires.get(index) else {
                continue;
            };
            if wire.reset {
                if !wire.paused && (!faults || self.rng.bool()) {
                    self.event(at, Event::Ended(index));
                    self.unplug(at, index);
                }
                continue;
            }
            if wire.awaiting && wire.outbound.len() < wire.capacity && (!faults || self.rng.bool())
            {
                (wire.awaiting, wire.full) = (false, false);
                node.shard
                    .handle(now, Event::Writable(index), &mut node.effects);
            }
            let Some(wire) = node.wires.get(index) else {
                continue;
            };
            if wire.paused || wire.inbound.is_empty() || (faults && self.rng.u32(..4) == 0) {
                continue;
            }
            let all = wire.inbound.len().min(64 * 1024);
            let some = if faults && self.rng.bool() {
                self.rng.usize(1..=all)
            } else {
                all
            };
            let mut bytes: Vec<_> = wire.inbound.drain(..some).collect();
            node.shard
                .handle(now, Event::Bytes(index, &mut bytes), &mut node.effects);
            wire_pause(node, index);
        }
    }

    fn turn(&mut self, at: usize) {
        let now = self.now();
        for round in 0.. {
            assert!(round < 10_000, "shard {at} spins");
            let node = &mut self.nodes[at];
            node.shard.turn_end(now, &mut node.effects);
            self.perform(at);
            self.carry(at);
            let node = &mut self.nodes[at];
            let more = node.shard.sweep(now, &mut node.wires, &mut node.effects);
            self.perform(at);
            self.carry(at);
            // While a mailbox is full nothing is handed over: the carrier comes again.
            let shard = &self.nodes[at].shard;
            if !more && (!shard.wants_turn() || shard.lanes.is_any_behind()) {
                let shard = &self.nodes[at].shard;
                let waits = shard.stalled.iter().find(|&&index| shard.may_take(index));
                assert!(waits.is_none(), "who has credit again waits for a tick");
                return;
            }
            if self.faults && self.rng.u32(..4) == 0 {
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
                Effect::Answer(..) => panic!("no page was asked for"),
                Effect::Opened(..) | Effect::Refused(..) | Effect::Limited(_) => {}
                Effect::Backplane(Ask::Store(request)) => {
                    assert!(self.setup.stored, "there is no store");
                    let delay_ms = if self.faults { self.setup.store_ms } else { 0 };
                    let due_ms = self.now_ms + self.rng.u64(0..=delay_ms);
                    self.store.ask(due_ms, at as ShardId, request);
                }
                Effect::Backplane(other) => panic!("there is no Redis: {other:?}"),
            }
        }
    }

    /// The socket is no more; what was on its way may still be read.
    fn unplug(&mut self, at: usize, index: ConnIndex) {
        let Some(wire) = self.nodes[at].wires.take(index) else {
            return;
        };
        let client = &mut self.clients[wire.client];
        if !wire.reset && self.rng.bool() {
            let (rng, mut unheard) = (&mut self.rng, Vec::new());
            client.on_bytes(&wire.outbound, &mut self.ledger, rng, &mut unheard);
        }
        client.on_end(&self.ledger);
    }

    fn carry(&mut self, from: usize) {
        for to in 0..self.nodes.len() {
            let lane = &mut self.lanes[from][to];
            let full = lane.letters.len() >= MAILBOX || lane.full_until_ms > self.now_ms;
            let shard = &mut self.nodes[from].shard;
            if (self.faults && full) || !shard.has_mail(to as ShardId) {
                continue;
            }
            let mail = shard.carry(to as ShardId);
            let delay_ms = if self.faults {
                self.rng.u64(0..=self.setup.mail_ms)
            } else {
                0
            };
            let last_ms = lane.letters.back().map_or(0, |&(due_ms, _)| due_ms);
            lane.letters
                .push_back((last_ms.max(self.now_ms + delay_ms), mail));
        }
    }

    /// Clients read what is there for them, unless they don't listen.
    fn write_clients(&mut self, at: usize) {
        for index in self.nodes[at].wires.shuffled() {
            let Some(wire) = self.nodes[at].wires.get(index) else {
                continue;
            };
            let client = wire.client;
            if wire.reset || (self.faults && self.deaf_until_ms[client] > self.now_ms) {
                continue;
            }
            let all = wire.outbound.len();
            let some = if self.faults && self.rng.bool() {
                self.rng.usize(0..=all)
            } else {
                all
            };
            let bytes: Vec<_> = wire.outbound.drain(..some).collect();
            let (ledger, rng) = (&mut self.ledger, &mut self.rng);
            self.clients[client].on_bytes(&bytes, ledger, rng, &mut wire.inbound);
            if wire.fin && wire.outbound.is_empty() {
                wire.reset = true;
            }
        }
    }

    fn check_bounds(&self, at: usize) {
        let shard = &self.nodes[at].shard;
        shard.invariants();
        let log_bytes_max = self.setup.log_bytes_max + 2 * CHUNK_BYTES_MAX;
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

    /// Whether nothing moves any more.
    fn is_at_rest(&self) -> bool {
        let wires = self
            .nodes
            .iter()
            .flat_map(|node| node.wires.slots.iter().flatten());
        let mut wires = wires.map(|wire| wire.inbound.len() + wire.outbound.len());
        let no_mail = self
            .lanes
            .iter()
            .flatten()
            .all(|lane| lane.letters.is_empty());
        no_mail
            && self.store.is_idle()
            && wires.all(|waiting| waiting == 0)
            && self.nodes.iter().all(|node| {
                let shards = 0..self.nodes.len() as ShardId;
                !node.shard.hub.is_dirty()
                    && node.shard.stalled.is_empty()
                    // A page that could not be read is read again, which may take a while.
                    && node.shard.home.late_pages.is_empty()
                    && !shards.into_iter().any(|to| node.shard.has_mail(to))
                    && node.shard.conns.iter().flatten().all(|conn| {
                        conn.in_flight == 0 && conn.outbox.is_none() && conn.phase_is_lasting()
                    })
            })
    }

    fn check_rest(&mut self) {
        assert!(self.is_at_rest(), "it does not come to rest");
        for node in &self.nodes {
            for out in &node.shard.outstanding {
                assert_eq!(
                    (out.requests, out.bytes),
                    (0, 0),
                    "all requests are answered"
                );
            }
            for conn in node.shard.conns.iter().flatten() {
                assert!(
                    !conn.paused && conn.credit_used == 0,
                    "all credit is back: {conn:?}"
                );
            }
        }
        let (nodes, shards) = (&self.nodes, usize::from(self.setup.shards));
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.phase == Phase::Open)
        {
            client.check_caught_up(&self.ledger, |room| {
                let room = RoomName::parse(room).expect("a room's name");
                let shard = &nodes[room.home(shards)].shard;
                let position = shard.position_of(shard.hub.find(room.as_str())?)?;
                Some((position.epoch.as_str().into(), position.offset))
            });
        }
    }

    /// All clients go, rooms linger, and then nothing is left.
    fn leave(&mut self) {
        if self.setup.drain {
            for at in 0..self.nodes.len() {
                self.event(at, Event::Drain(1_000));
            }
        } else {
            (0..self.clients.len()).for_each(|at| self.cut(at));
        }
        let wait_ms = self.setup.linger_ms * 2 + 12_000;
        for _ in 0..wait_ms / 50 {
            self.now_ms += 50;
            self.step();
        }
        for node in &self.nodes {
            let (shard, counters) = (&node.shard, node.shard.counters());
            let now = (
                counters.connections,
                counters.clients,
                counters.members,
                counters.rooms,
            );
            assert_eq!(
                now,
                (0, 0, 0, 0),
                "connections, clients, members, rooms: {:?}",
                shard.home.rooms
            );
            assert!(shard.hub.is_empty(), "rooms are left: {:?}", shard.hub);
            assert_eq!(shard.hub.log_bytes(), 0);
            assert!(shard.stalled.is_empty() && shard.flush.is_empty() && shard.users.is_empty());
            assert!(shard.home.reads.is_empty() && shard.home.resuming.is_empty());
        }
    }
}

/// Notes whether the shard wants to read on.
fn wire_pause(node: &mut Node, index: ConnIndex) {
    let wants = node.shard.wants_read(index);
    if let Some(wire) = node.wires.get(index) {
        wire.paused = !wants;
    }
}

impl super::super::connection::Conn {
    /// Whether it stays as it is until something comes.
    pub(super) fn phase_is_lasting(&self) -> bool {
        use super::super::connection::Phase;
        matches!(self.phase, Phase::Open | Phase::Head)
    }
}
