//! Redis and the network around it: links that delay, cut, hang and lose; a Redis that stops,
//! restarts, forgets and refuses.
//!
//! ```text
//! shard ─ask─▶ life: to_redis ─▶ FakeRedis ─▶ from_redis ─▶ LinkEvent ─▶ shard
//! ```
//!
//! A life that its instance has closed, or that died with it, goes on here until what it had sent
//! has run: it may run late, between two commands of the next life.

mod line;

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use fastrand::Rng;

use super::setup::{PREFIX, Setup};
use crate::backplane::link::{Link, LinkAsk, LinkEvent, LinkId};
use crate::backplane::redis::fake::{FakeRedis, Snapshot};
use crate::model::EntryId;
use crate::resp::push_command;

/// Bytes that a socket holds; what is over stays in Redis' output buffer.
const SOCKET_BYTES: usize = 2_000;
const WALL_MS: u64 = 1_700_000_000_000;
const NEVER: u64 = u64::MAX;

/// Bytes on their way, and when they arrive.
type Pipe = VecDeque<(u64, Vec<u8>)>;

/// An entry of the stream, as far as the oracle cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) room: String,
    pub(super) epoch: String,
    pub(super) offset: u64,
    pub(super) id: String,
    pub(super) payload: String,
}

/// One life of a link.
struct Life {
    instance: usize,
    id: LinkId,
    /// When a connect that is under way is answered.
    connects_at_ms: Option<u64>,
    conn: Option<u32>,
    to_redis: Pipe,
    from_redis: Pipe,
    hangs_until_ms: u64,
    /// The instance does not listen any more.
    closed: bool,
    /// It is cut: told, behind what had come before.
    broken: bool,
}

/// See the module.
pub(super) struct Redis {
    pub(super) fake: FakeRedis,
    rng: Rng,
    lives: Vec<Life>,
    stopped_until_ms: u64,
    down_until_ms: u64,
    refuses_until_ms: u64,
    connects_refused_until_ms: u64,
    snapshots: VecDeque<Snapshot>,
    skew_ms: u64,
    /// What Redis had and has no more, and by which loss.
    pub(super) lost: Vec<(u32, Stored)>,
    /// How often it lost something, or began anew.
    pub(super) losses: u32,
}

impl Redis {
    pub(super) fn new(setup: &Setup, mut rng: Rng) -> Self {
        let mut fake = FakeRedis::new();
        fake.set_pubsub_output_max(setup.pubsub_output_max);
        fake.set_replicas(1);
        let skew_ms = rng.u64(0..=setup.skew_ms);
        Self {
            fake,
            rng,
            lives: Vec::new(),
            stopped_until_ms: 0,
            down_until_ms: 0,
            refuses_until_ms: 0,
            connects_refused_until_ms: 0,
            snapshots: VecDeque::new(),
            skew_ms,
            lost: Vec::new(),
            losses: 0,
        }
    }

    fn delay(&mut self, setup: &Setup, faults: bool) -> u64 {
        if faults {
            self.rng.u64(0..=setup.link_ms)
        } else {
            0
        }
    }

    /// An instance asks for something.
    pub(super) fn ask(&mut self, instance: usize, ask: LinkAsk, now_ms: u64, delay_ms: u64) {
        match ask {
            LinkAsk::Connect(id) => {
                self.close(instance, id.link);
                self.lives.push(Life {
                    instance,
                    id,
                    connects_at_ms: Some(now_ms + delay_ms),
                    conn: None,
                    to_redis: Pipe::new(),
                    from_redis: Pipe::new(),
                    hangs_until_ms: 0,
                    closed: false,
                    broken: false,
                });
            }
            LinkAsk::Send(id, bytes) => {
                let is_it = |life: &&mut Life| life.instance == instance && life.id == id;
                if let Some(life) = self.lives.iter_mut().rfind(is_it)
                    && !life.closed
                    && !life.broken
                {
                    assert!(
                        life.connects_at_ms.is_none(),
                        "nothing is sent before it is connected"
                    );
                    push_pipe(&mut life.to_redis, now_ms + delay_ms, bytes);
                }
            }
            LinkAsk::Close(id) => {
                let is_it = |life: &Life| life.instance == instance && life.id == id;
                if self.lives.iter().any(|life| is_it(life) && !life.closed) {
                    self.close(instance, id.link);
                }
            }
        }
    }

    /// Nobody at this end any more; what was sent may arrive, or a part of it.
    fn close(&mut self, instance: usize, link: Link) {
        for life in &mut self.lives {
            if (life.instance, life.id.link) == (instance, link) && !life.closed {
                life.closed = true;
                if self.rng.bool() {
                    cut_tail(&mut life.to_redis, &mut self.rng);
                }
            }
        }
    }

    /// An instance is killed.
    pub(super) fn forget(&mut self, instance: usize) {
        self.close(instance, Link::Commands);
        self.close(instance, Link::Subscriber);
        for life in &mut self.lives {
            // Its numbers begin anew.
            if life.instance == instance {
                life.id.life = u32::MAX;
            }
        }
    }

    /// Time passes; what comes of it for the instances. `wants`: who reads which link.
    pub(super) fn step(
        &mut self,
        setup: &Setup,
        now_ms: u64,
        faults: bool,
        wants: impl Fn(usize, Link) -> bool,
    ) -> Vec<(usize, LinkEvent)> {
        let mut events = Vec::new();
        self.fake.set_now(WALL_MS + now_ms + self.skew_ms);
        if self.refuses_until_ms <= now_ms {
            self.fake.refuse_writes(None);
            self.fake.set_replicas(1);
        }
        self.rng.shuffle(&mut self.lives);
        self.lives.sort_by_key(|life| life.id.life);
        if faults {
            self.rng.shuffle(&mut self.lives);
        }
        for at in 0..self.lives.len() {
            self.connect(at, now_ms, &mut events);
        }
        if self.stopped_until_ms <= now_ms {
            for at in 0..self.lives.len() {
                self.feed(at, now_ms, faults);
            }
            for at in 0..self.lives.len() {
                let delay_ms = self.delay(setup, faults);
                self.drain(at, setup, now_ms + delay_ms, faults);
            }
        }
        for at in 0..self.lives.len() {
            self.tell(at, now_ms, faults, &wants, &mut events);
        }
        let fake = &mut self.fake;
        self.lives.retain(|life| {
            let is_silent = life.to_redis.is_empty() || life.hangs_until_ms == NEVER;
            let is_over = life.closed && is_silent;
            if let Some(conn) = life.conn.filter(|_| is_over) {
                fake.kill(conn);
            }
            !is_over
        });
        events
    }

    fn connect(&mut self, at: usize, now_ms: u64, events: &mut Vec<(usize, LinkEvent)>) {
        let life = &mut self.lives[at];
        if life.closed || life.connects_at_ms.is_none_or(|due_ms| due_ms > now_ms) {
            return;
        }
        if self.down_until_ms > now_ms || self.connects_refused_until_ms > now_ms {
            life.broken = true;
        } else {
            life.conn = Some(self.fake.connect());
            events.push((life.instance, LinkEvent::Connected(life.id)));
        }
        life.connects_at_ms = None;
    }

    /// What was sent arrives.
    fn feed(&mut self, at: usize, now_ms: u64, faults: bool) {
        let life = &mut self.lives[at];
        let Some(conn) = life.conn else { return };
        if !self.fake.is_open(conn) {
            life.to_redis.clear();
            life.broken = true;
            return;
        }
        while life.hangs_until_ms <= now_ms
            && let Some(bytes) = pull_pipe(&mut life.to_redis, now_ms, faults, &mut self.rng)
        {
            self.fake.on_bytes(conn, &bytes);
            if faults && self.rng.u32(..4) == 0 {
                break;
            }
        }
    }

    /// What Redis says sets off.
    fn drain(&mut self, at: usize, setup: &Setup, due_ms: u64, faults: bool) {
        let life = &mut self.lives[at];
        let waiting: usize = life.from_redis.iter().map(|(_, bytes)| bytes.len()).sum();
        let Some(conn) = life.conn.filter(|_| waiting < SOCKET_BYTES) else {
            return;
        };
        let mut bytes = self.fake.take(conn);
        if faults && life.id.link == Link::Subscriber && setup.faults.drops > 0 {
            bytes = drop_messages(&bytes, setup.faults.drops, &mut self.rng);
        }
        if !bytes.is_empty() && !life.closed {
            push_pipe(&mut life.from_redis, due_ms, bytes);
        }
    }

    /// What has arrived is told.
    fn tell(
        &mut self,
        at: usize,
        now_ms: u64,
        faults: bool,
        wants: &impl Fn(usize, Link) -> bool,
        events: &mut Vec<(usize, LinkEvent)>,
    ) {
        let life = &mut self.lives[at];
        if life.closed {
            return;
        }
        while life.hangs_until_ms <= now_ms
            && wants(life.instance, life.id.link)
            && let Some(bytes) = pull_pipe(&mut life.from_redis, now_ms, faults, &mut self.rng)
        {
            let event = LinkEvent::Bytes(life.id, BytesMut::from(&bytes[..]));
            events.push((life.instance, event));
            if faults {
                break;
            }
        }
        if life.broken && (life.from_redis.is_empty() || self.rng.bool()) {
            let why = "the simulator cut it".to_owned();
            events.push((life.instance, LinkEvent::Broken(life.id, why)));
            life.closed = true;
            life.to_redis.clear();
        }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        let idle = |life: &Life| {
            let is_quiet = life.to_redis.is_empty() && life.from_redis.is_empty();
            is_quiet && !life.broken && life.connects_at_ms.is_none()
        };
        self.lives.iter().all(idle)
    }

    /// What is on its way.
    pub(super) fn unrest(&self) -> String {
        let lives = self.lives.iter().map(|life| {
            let pipes = (life.to_redis.len(), life.from_redis.len());
            format!(
                "i{} {:?} {pipes:?} closed {} broken {} connects {:?}",
                life.instance, life.id, life.closed, life.broken, life.connects_at_ms
            )
        });
        lives.collect::<Vec<_>>().join("; ")
    }

    /// Faults begin.
    pub(super) fn act(&mut self, setup: &Setup, now_ms: u64) {
        let faults = setup.faults;
        let until_ms = now_ms + self.rng.u64(0..=setup.fault_ms);
        let mut hit = |of_1000: u32| self.rng.u32(..1000) < of_1000;
        let (cut, hang, hole) = (hit(faults.cuts), hit(faults.hangs), hit(faults.holes));
        let (refuse, stop, full) = (hit(faults.refusals), hit(faults.stops), hit(faults.full));
        let (restart, lose, flush) = (
            hit(faults.restarts),
            hit(faults.losses),
            hit(faults.flushes),
        );
        let foreign = hit(faults.foreign);
        // Without the fault no chance is taken: the runs of the other seeds stay what they were.
        let fork = faults.forks > 0 && hit(faults.forks);
        if hit(200) && self.stopped_until_ms <= now_ms {
            self.snapshots.push_back(self.fake.snapshot());
            self.snapshots.truncate(4);
            if self.snapshots.len() == 4 && self.rng.bool() {
                self.snapshots.pop_front();
            }
        }
        if !self.lives.is_empty() {
            let at = self.rng.usize(..self.lives.len());
            let life = &mut self.lives[at];
            if cut {
                cut_tail(&mut life.to_redis, &mut self.rng);
                life.broken = true;
            }
            if hang {
                life.hangs_until_ms = until_ms;
            }
            if hole {
                life.hangs_until_ms = NEVER;
            }
        }
        if refuse {
            self.connects_refused_until_ms = until_ms;
        }
        if stop {
            self.stopped_until_ms = until_ms;
        }
        if full {
            let why = [
                "OOM command not allowed when used memory > 'maxmemory'.",
                "READONLY You can't write against a read only replica.",
                "LOADING Redis is loading the dataset in memory",
                "MISCONF Redis is configured to save RDB snapshots, but it can't",
            ];
            match setup.ack_replicas > 0 && self.rng.bool() {
                true => self.fake.set_replicas(0),
                false => self
                    .fake
                    .refuse_writes(Some(why[self.rng.usize(..why.len())])),
            }
            self.refuses_until_ms = until_ms;
        }
        if restart {
            let snapshot = self.fake.snapshot();
            self.restart(&snapshot, until_ms);
        }
        if lose && !self.snapshots.is_empty() {
            let at = self.rng.usize(..self.snapshots.len());
            let snapshot = self.snapshots[at].clone();
            let before = self.stored();
            self.restart(&snapshot, until_ms);
            self.note_loss(before);
        }
        if fork && !self.snapshots.is_empty() {
            let at = self.rng.usize(..self.snapshots.len());
            let snapshot = self.snapshots[at].clone();
            let before = self.stored();
            self.fake.replace(&snapshot);
            self.note_loss(before);
        }
        if flush {
            let before = self.stored();
            self.fake.flush();
            self.note_loss(before);
        }
        if foreign && self.stopped_until_ms <= now_ms {
            self.write_foreign();
        }
    }

    fn restart(&mut self, snapshot: &Snapshot, until_ms: u64) {
        self.fake.restore(snapshot);
        self.down_until_ms = until_ms;
        // Later snapshots are of another life.
        self.snapshots.clear();
    }

    fn note_loss(&mut self, before: BTreeMap<EntryId, Stored>) {
        let after = self.stored();
        let lost = before
            .into_iter()
            .filter(|(id, it)| after.get(id) != Some(it));
        let losses = self.losses;
        self.lost.extend(lost.map(|(_, stored)| (losses, stored)));
        self.losses += 1;
        self.snapshots.clear();
    }

    /// Somebody writes who is not ringcast.
    fn write_foreign(&mut self) {
        let conn = self.fake.connect();
        let mut out = Vec::new();
        let channel = format!("{PREFIX}:broadcast");
        let stream = format!("{PREFIX}:messages:stream");
        let envelope: &[u8] = match self.rng.u32(..5) {
            0 => br#"{"instance_id":"x","payload":{"type":"foreign","room":"r0"}}"#,
            1 => br#"{"instance_id":"x","payload":{"type":"foreign"}}"#,
            2 => br#"{"instance_id":"x","payload":[}"#,
            3 => b"",
            _ => {
                let fields: [&[u8]; 10] = [
                    b"room_name",
                    b"r0",
                    b"user_id",
                    b"u",
                    b"username",
                    b"",
                    b"payload",
                    b"1",
                    b"metadata",
                    b"",
                ];
                let head: [&[u8]; 3] = [b"XADD", stream.as_bytes(), b"*"];
                push_command(&mut out, &[&head[..], &fields[..]].concat());
                b"x"
            }
        };
        push_command(&mut out, &[b"PUBLISH", channel.as_bytes(), envelope]);
        self.fake.on_bytes(conn, &out);
        self.fake.kill(conn);
    }

    /// The faults end.
    pub(super) fn calm(&mut self) {
        self.stopped_until_ms = 0;
        self.down_until_ms = 0;
        self.refuses_until_ms = 0;
        self.connects_refused_until_ms = 0;
        for life in &mut self.lives {
            if life.hangs_until_ms != NEVER {
                life.hangs_until_ms = 0;
            }
        }
    }

    /// What the stream holds of ringcast's.
    pub(super) fn stored(&mut self) -> BTreeMap<EntryId, Stored> {
        let stream = format!("{PREFIX}:messages:stream");
        let stream = self.fake.data().stream(stream.as_bytes());
        let Ok(Some(stream)) = stream else {
            return BTreeMap::new();
        };
        let entries = stream.entries.iter().filter_map(|(id, fields)| {
            let field = |name: &str| {
                let found = fields.iter().find(|(field, _)| field == name.as_bytes());
                found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            };
            let stored = Stored {
                room: field("room_name")?,
                epoch: field("epoch")?,
                offset: field("offset")?.parse().expect("an offset"),
                id: field("id")?,
                payload: field("payload")?,
            };
            Some((*id, stored))
        });
        entries.collect()
    }

    /// Where a room stands: epoch and last offset.
    pub(super) fn newest(&mut self, room: &str) -> Option<(String, u64)> {
        let state = format!("{PREFIX}:state");
        let hash = self.fake.data().hash(state.as_bytes()).ok()??;
        let text = |field: &str| {
            let value = hash.get(field.as_bytes());
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let offset =
            text(&format!("o:{room}")).map_or(0, |offset| offset.parse().expect("a number"));
        Some((text("epoch")?, offset))
    }
}

fn push_pipe(pipe: &mut Pipe, due_ms: u64, bytes: Vec<u8>) {
    let last_ms = pipe.back().map_or(0, |&(due_ms, _)| due_ms);
    pipe.push_back((due_ms.max(last_ms), bytes));
}

/// What has arrived: sometimes less than was sent in one go.
fn pull_pipe(pipe: &mut Pipe, now_ms: u64, faults: bool, rng: &mut Rng) -> Option<Vec<u8>> {
    let (due_ms, bytes) = pipe.front_mut()?;
    if *due_ms > now_ms {
        return None;
    }
    if faults && rng.u32(..4) == 0 && bytes.len() > 1 {
        let rest = bytes.split_off(rng.usize(1..bytes.len()));
        return Some(std::mem::replace(bytes, rest));
    }
    pipe.pop_front().map(|(_, bytes)| bytes)
}

/// Of what is on its way only the beginning arrives, in the midst of a command as a rule.
fn cut_tail(pipe: &mut Pipe, rng: &mut Rng) {
    let all: usize = pipe.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut left = rng.usize(0..=all);
    for (_, bytes) in &mut *pipe {
        bytes.truncate(left);
        left -= bytes.len();
    }
    pipe.retain(|(_, bytes)| !bytes.is_empty());
}

/// Leaves out some of the messages of channels (RESP3 pushes, or arrays of RESP2).
fn drop_messages(bytes: &[u8], of_1000: u32, rng: &mut Rng) -> Vec<u8> {
    let (mut kept, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while !rest.is_empty() {
        let (value, after) = rest.split_at(value_len(rest));
        let is_message =
            value.starts_with(b">3\r\n$7\r\nmessage") || value.starts_with(b"*3\r\n$7\r\nmessage");
        if !is_message || rng.u32(..1000) >= of_1000 {
            kept.extend_from_slice(value);
        }
        rest = after;
    }
    kept
}

/// The length of the first value.
fn value_len(bytes: &[u8]) -> usize {
    let line = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .expect("a line")
        + 1;
    let number = || {
        let text = std::str::from_utf8(&bytes[1..line - 2]).expect("a number");
        text.parse::<i64>().expect("a number").max(0) as usize
    };
    match bytes[0] {
        b'$' if bytes[1] == b'-' => line,
        b'$' => line + number() + 2,
        b'*' | b'>' | b'%' => {
            let values = number() * if bytes[0] == b'%' { 2 } else { 1 };
            (0..values).fold(line, |at, _| at + value_len(&bytes[at..]))
        }
        _ => line,
    }
}
