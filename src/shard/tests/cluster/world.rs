//! The whole of a run: instances, clients, Redis and the clock, one step at a time.

use std::collections::BTreeSet;

use fastrand::Rng;

use super::client::Client;
use super::disk::Disk;
use super::instance::Instance;
use super::oracle::Ledger;
use super::redis::Redis;
use super::setup::Setup;
use crate::backplane::Answer;
use crate::backplane::link::Link;
use crate::shard::tests::client::Phase;
use crate::shard::tests::wires::Wire;
use crate::shard::{Arrival, Event};

/// How far time goes in one go while it is calm: as far as a shard that runs may be behind.
const CALM_STEP_MS: u64 = 250;
/// How long everything may take to come to rest.
const REST_MS: u64 = 20_000;
/// Steps without time passing until what is under way must have come.
const ROUNDS: usize = 60;

/// See the module.
pub(super) struct World {
    setup: Setup,
    rng: Rng,
    now_ms: u64,
    instances: Vec<Option<Instance>>,
    /// When an instance that was killed is back.
    back_at_ms: Vec<u64>,
    redis: Redis,
    disks: Vec<Disk>,
    clients: Vec<Client>,
    ledger: Ledger,
    faults: bool,
}

impl World {
    pub(super) fn new(setup: Setup, mut rng: Rng) -> Self {
        Self {
            now_ms: 1,
            instances: (0..setup.instances).map(|_| None).collect(),
            back_at_ms: (0..setup.instances).map(|_| rng.u64(0..500)).collect(),
            redis: Redis::new(&setup, rng.fork()),
            disks: (0..setup.instances).map(|_| Disk::default()).collect(),
            clients: (0..setup.clients).map(Client::new).collect(),
            ledger: Ledger::new(setup.clone()),
            faults: true,
            setup,
            rng,
        }
    }

    /// One whole run.
    pub(super) fn run(mut self) {
        for _ in 0..self.setup.steps {
            self.now_ms += self.rng.u64(0..=self.setup.step_ms);
            self.begin_instances();
            self.act();
            self.redis.act(&self.setup, self.now_ms);
            self.step();
        }
        self.calm();
        self.settle(REST_MS);
        self.check_rest();
        if self.setup.faults.forks > 0 {
            self.take_another_line();
        }
        self.ledger.is_calm = true;
        self.check_members();
        self.come_back();
        self.settle(2_000);
        self.check_rest();
        self.ledger.finish(&mut self.redis);
    }

    fn chance(&mut self, of_1000: u32) -> bool {
        self.rng.u32(..1000) < of_1000
    }

    fn begin_instances(&mut self) {
        for at in 0..self.instances.len() {
            if self.instances[at].is_none() && self.back_at_ms[at] <= self.now_ms {
                let instance = Instance::new(at, &self.setup, self.now_ms, &mut self.rng);
                self.instances[at] = Some(instance);
                self.disks[at].open(self.now_ms, &mut self.rng);
            }
        }
    }

    /// The faults end.
    fn calm(&mut self) {
        self.faults = false;
        self.redis.calm();
        self.back_at_ms.fill(0);
        self.begin_instances();
        for instance in self.instances.iter_mut().flatten() {
            for node in &mut instance.nodes {
                node.wires.faults = false;
                for wire in node.wires.slots.iter_mut().flatten() {
                    wire.capacity = 1 << 30;
                }
            }
        }
    }

    /// All is quiet, and another is in the place of Redis whose line is as long: nothing comes of
    /// it, and it must be found all the same.
    fn take_another_line(&mut self) {
        let Some(missed) = self.redis.missed_by_oldest() else {
            return;
        };
        let mut tail = Vec::new();
        for _ in 0..missed {
            let room = format!("r{}", self.rng.usize(..self.setup.rooms));
            tail.push((room.clone(), self.ledger.attempt_elsewhere(room)));
        }
        self.redis.take_another_line(&tail);
        self.settle(REST_MS);
        self.check_rest();
    }

    /// Time passes, and at each moment everything comes that is under way.
    fn settle(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.now_ms += CALM_STEP_MS;
            for _ in 0..ROUNDS {
                self.step();
                if self.is_at_rest() {
                    break;
                }
            }
        }
    }

    /// Clients come, do something, stop reading, and go; instances are killed.
    fn act(&mut self) {
        let ids: Vec<_> = self
            .clients
            .iter()
            .map(|client| client.id.clone())
            .collect();
        for at in 0..self.clients.len() {
            if self.clients[at].link.is_none() {
                if self.chance(200) {
                    self.connect(at);
                }
                continue;
            }
            if self.chance(self.setup.faults.goes) {
                self.cut(at);
            }
            if self.chance(5) {
                self.clients[at].deaf_until_ms = self.now_ms + self.rng.u64(0..2_000);
            }
            if self.chance(self.setup.acts)
                && let Some(wire) = wire_of(&mut self.instances, &self.clients[at])
            {
                let (ledger, rng) = (&mut self.ledger, &mut self.rng);
                self.clients[at].act(ledger, rng, &ids, &mut wire.inbound);
            }
        }
        if self.chance(self.setup.faults.kills) {
            let at = self.rng.usize(..self.instances.len());
            self.kill(at);
        }
    }

    fn kill(&mut self, at: usize) {
        if self.instances[at].take().is_none() {
            return;
        }
        if self.ledger.trace {
            eprintln!("   {} i{at} is killed", self.now_ms);
        }
        self.back_at_ms[at] = self.now_ms + self.rng.u64(0..=self.setup.fault_ms);
        self.redis.forget(at);
        for client in &mut self.clients {
            if client.link.is_some_and(|(instance, ..)| instance == at) {
                client.on_end();
            }
        }
    }

    fn connect(&mut self, at: usize) {
        let to = self.rng.usize(..self.instances.len());
        let shard = self.rng.u16(..self.setup.shards);
        let Some(instance) = &mut self.instances[to] else {
            return;
        };
        let capacity = match (self.faults, self.rng.u32(..4)) {
            (true, 0) => 1_000,
            _ => 1 << 30,
        };
        let index = instance.nodes[usize::from(shard)].wires.insert(Wire {
            client: at,
            capacity,
            ..Wire::default()
        });
        let accepted = Event::Accepted(index, Arrival::default());
        instance.event(usize::from(shard), self.now_ms, accepted);
        let is_cold = instance.nodes[0].shard.counters().redis.up == 0;
        let head = self.clients[at].connect((to, shard, index), &mut self.rng);
        // Who comes before its instance knows where the partition stands has no claim on what it
        // has not joined.
        self.clients[at].joined_own |= is_cold;
        if let Some(wire) = wire_of(&mut self.instances, &self.clients[at]) {
            wire.inbound = head;
        }
    }

    /// A client goes, with a word or without.
    fn cut(&mut self, at: usize) {
        let Some(wire) = wire_of(&mut self.instances, &self.clients[at]) else {
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
        self.ledger.now_ms = self.now_ms;
        let is_slow = |instance: &Instance| instance.is_login_slow(self.now_ms);
        self.ledger.is_login_slow |= self.instances.iter().flatten().any(is_slow);
        let instances = &self.instances;
        let wants = |at: usize, link: Link| {
            let instance = instances[at].as_ref();
            instance.is_some_and(|instance| instance.nodes[0].shard.wants_link(link))
        };
        let events = self
            .redis
            .step(&self.setup, self.now_ms, self.faults, wants);
        for (at, event) in events {
            if let Some(instance) = &mut self.instances[at] {
                instance.event(0, self.now_ms, Event::Backplane(Answer::Link(event)));
            }
        }
        let mut order: Vec<_> = (0..self.instances.len()).collect();
        self.rng.shuffle(&mut order);
        for number in order {
            let Some(mut instance) = self.instances[number].take() else {
                continue;
            };
            let fails = match self.faults {
                true => self.setup.faults.disk,
                false => 0,
            };
            for event in self.disks[number].run(self.now_ms, fails, &mut self.rng) {
                instance.event(0, self.now_ms, Event::Backplane(Answer::Spool(event)));
            }
            for at in 0..instance.nodes.len() {
                instance.take_mail(at, self.now_ms);
                instance.read_sockets(at, self.now_ms, self.faults, &mut self.rng);
                if !self.faults || self.rng.u32(..5) > 0 {
                    let rng = &mut self.rng;
                    instance.turn(at, &self.setup, self.now_ms, self.faults, rng);
                }
                self.write_clients(&mut instance, at);
            }
            if self.faults {
                instance.check_bounds();
            }
            for wire in std::mem::take(&mut instance.unplugged) {
                self.unplug(&wire);
            }
            let delay_ms = |rng: &mut Rng| match self.faults {
                true => rng.u64(0..=self.setup.link_ms),
                false => 0,
            };
            for ask in std::mem::take(&mut instance.spool_asks) {
                let due_ms = self.now_ms + delay_ms(&mut self.rng);
                self.disks[number].ask(due_ms, ask);
            }
            for ask in std::mem::take(&mut instance.asks) {
                let delay_ms = delay_ms(&mut self.rng);
                self.redis.ask(number, ask, self.now_ms, delay_ms);
            }
            self.instances[number] = Some(instance);
        }
    }

    /// The socket is no more; what was on its way may still be read.
    fn unplug(&mut self, wire: &Wire) {
        let client = &mut self.clients[wire.client];
        if !wire.reset && self.rng.bool() {
            let (rng, mut unheard) = (&mut self.rng, Vec::new());
            client.on_bytes(&wire.outbound, &mut self.ledger, rng, &mut unheard);
        }
        client.on_end();
    }

    /// Clients read what is there for them, unless they don't listen.
    fn write_clients(&mut self, instance: &mut Instance, at: usize) {
        let wires = &mut instance.nodes[at].wires;
        for index in wires.shuffled() {
            let Some(wire) = wires.get(index) else {
                continue;
            };
            let client = &mut self.clients[wire.client];
            if wire.reset || (self.faults && client.deaf_until_ms > self.now_ms) {
                continue;
            }
            let all = wire.outbound.len();
            let some = match self.faults && self.rng.u32(..4) == 0 {
                true => self.rng.usize(0..=all),
                false => all,
            };
            let bytes: Vec<_> = wire.outbound.drain(..some).collect();
            let (ledger, rng) = (&mut self.ledger, &mut self.rng);
            client.on_bytes(&bytes, ledger, rng, &mut wire.inbound);
            if wire.fin && wire.outbound.is_empty() {
                wire.reset = true;
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let disks = self.disks.iter().all(Disk::is_idle);
        disks && self.redis.is_idle() && self.instances.iter().flatten().all(Instance::is_at_rest)
    }

    fn check_rest(&mut self) {
        if !self.is_at_rest() {
            for instance in self.instances.iter().flatten() {
                eprintln!("{}", instance.unrest());
            }
            panic!("it does not come to rest: Redis {}", self.redis.unrest());
        }
        for instance in self.instances.iter().flatten() {
            instance.check_bounds();
            instance.check_rest();
        }
        for disk in &self.disks {
            assert_eq!(disk.left(), 0, "nothing is held");
        }
        let redis = &mut self.redis;
        for client in &mut self.clients {
            if client.phase == Phase::Open {
                client.check_caught_up(&mut self.ledger, |room| redis.newest(room));
            }
        }
    }

    /// Everybody knows who is in each room, on all instances.
    fn check_members(&mut self) {
        let rooms: Vec<_> = (0..self.setup.rooms)
            .map(|room| format!("r{room}"))
            .collect();
        for at in 0..self.clients.len() {
            let Some(wire) = wire_of(&mut self.instances, &self.clients[at]) else {
                continue;
            };
            let client = &mut self.clients[at];
            for room in &rooms {
                let frame = client.ask_members(room.clone());
                client.send(&frame, &mut self.ledger, &mut self.rng, &mut wire.inbound);
            }
        }
        self.settle(500);
        for room in &rooms {
            let joined = self
                .clients
                .iter()
                .filter(|client| client.views.contains_key(room));
            let truth: BTreeSet<_> = joined.map(|client| client.id.clone()).collect();
            for client in self
                .clients
                .iter()
                .filter(|client| client.phase == Phase::Open)
            {
                let (count, ids) = &client.members[room];
                let told = (*count as usize, ids);
                let (number, link) = (client.number, client.link);
                assert_eq!(
                    told,
                    (truth.len(), &truth),
                    "{room}, client {number} at {link:?}"
                );
            }
        }
    }

    /// Everybody goes, and comes back somewhere with what it had: it gets what it has missed, or
    /// all from the beginning.
    fn come_back(&mut self) {
        (0..self.clients.len()).for_each(|at| self.cut(at));
        self.settle(500);
        for at in 0..self.clients.len() {
            assert_eq!(self.clients[at].phase, Phase::Away, "who was cut is gone");
            self.connect(at);
        }
        self.settle(500);
        for at in 0..self.clients.len() {
            let last = self.clients[at].last.clone();
            for (room, (epoch, offset)) in last {
                if room.starts_with('@') {
                    continue;
                }
                let Some(wire) = wire_of(&mut self.instances, &self.clients[at]) else {
                    continue;
                };
                let offset = match self.rng.bool() {
                    true => 0,
                    false => offset,
                };
                let client = &mut self.clients[at];
                let frame = client.join(room, Some((epoch, offset)), &mut self.rng);
                client.send(&frame, &mut self.ledger, &mut self.rng, &mut wire.inbound);
            }
        }
    }
}

fn wire_of<'a>(instances: &'a mut [Option<Instance>], client: &Client) -> Option<&'a mut Wire> {
    let (instance, shard, index) = client.link?;
    let instance = instances[instance].as_mut()?;
    instance.nodes[usize::from(shard)].wires.get(index)
}
