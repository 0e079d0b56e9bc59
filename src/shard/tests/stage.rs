//! A stage for tests without chance: shards, sockets and mail that move when a test says so, and a
//! store that answers when it does.

use std::sync::Arc;

use crate::backplane::{Answer, Ask, StoreReply, StoreRequest};
use crate::hub::ConnIndex;
use crate::model::Timestamp;
use crate::net::{Networks, OriginPolicy};
use crate::shard::{
    Arrival, Effect, Event, Gone, Keeping, Mail, Now, Options, Rates, Shard, ShardId, SlowConsumer,
    Socket,
};

/// Sockets that take so many bytes at once.
pub(super) struct Sinks {
    pub(super) received: Vec<Vec<u8>>,
    pub(super) limit: usize,
    pub(super) holds_back: bool,
}

impl Socket for Sinks {
    fn send(&mut self, index: ConnIndex, bytes: &[u8]) -> Result<usize, Gone> {
        let taken = bytes.len().min(self.limit);
        self.received[index as usize].extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn holds_back(&mut self, _: ConnIndex) -> bool {
        self.holds_back
    }
}

/// Shards, and mail that is carried when a test says so.
pub(super) struct Stage {
    pub(super) shards: Vec<(Shard, Sinks)>,
    pub(super) asked: Vec<(ShardId, StoreRequest)>,
    /// Connections that are to be closed.
    pub(super) closed: Vec<Peer>,
    effects: Vec<Effect>,
    pub(super) now: Now,
}

/// A connection: its shard and number.
pub(super) type Peer = (usize, ConnIndex);

pub(super) fn options(shards: u16, stored: bool) -> Options {
    Options {
        instance_id: "stage".into(),
        shards,
        keeping: match stored {
            true => Keeping::Store,
            false => Keeping::Memory,
        },
        message_bytes_max: 64 * 1024,
        echo_message_bytes_max: 1 << 20,
        deflate: false,
        fragments_max: 0,
        rooms_max: 100,
        rooms_per_connection_max: 100,
        log_bytes_max: 1 << 20,
        linger_ms: 1_000,
        slow_consumer: SlowConsumer::Gap,
        handshake_ms: 5_000,
        heartbeat_ms: 25_000,
        idle_ms: 60_000,
        dedupe_ms: 60_000,
        rates: Rates::default(),
        origins: OriginPolicy::SameHost,
        access: Arc::default(),
        trusted_proxies: Networks::default(),
    }
}

pub(super) fn sinks() -> Sinks {
    Sinks {
        received: Vec::new(),
        limit: usize::MAX,
        holds_back: false,
    }
}

impl Stage {
    pub(super) fn new(options: Options) -> Self {
        let options = Arc::new(options);
        let shard = |id| (Shard::new(id, options.clone(), 1 + u64::from(id)), sinks());
        let now = Now {
            ms: 1,
            us: 1000,
            wall: Timestamp(1_700_000_000_000),
        };
        let shards = (0..options.shards).map(shard).collect();
        Self {
            shards,
            asked: Vec::new(),
            closed: Vec::new(),
            effects: Vec::new(),
            now,
        }
    }

    pub(super) fn event(&mut self, at: usize, event: Event<'_>) {
        self.shards[at].0.handle(self.now, event, &mut self.effects);
        self.note(at);
    }

    pub(super) fn note(&mut self, at: usize) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Backplane(Ask::Store(request)) => {
                    self.asked.push((at as ShardId, request));
                }
                Effect::Close(index) => self.closed.push((at, index)),
                _ => {}
            }
        }
    }

    pub(super) fn connect(&mut self, at: usize, path: &str) -> Peer {
        let index = self.shards[at].1.received.len() as ConnIndex;
        self.shards[at].1.received.push(Vec::new());
        self.event(at, Event::Accepted(index, Arrival::default()));
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        self.event(at, Event::Bytes(index, &mut head.into_bytes()));
        self.pump();
        (at, index)
    }

    /// Sends a frame, without a turn.
    pub(super) fn say(&mut self, (at, index): Peer, frame: &str) {
        let mut bytes = Vec::new();
        super::frames::push(
            &mut bytes,
            &mut fastrand::Rng::with_seed(1),
            1,
            frame.as_bytes(),
        );
        self.event(at, Event::Bytes(index, &mut bytes));
    }

    pub(super) fn turn(&mut self, at: usize) -> bool {
        let (shard, sinks) = &mut self.shards[at];
        shard.turn_end(self.now, &mut self.effects);
        let more = shard.sweep(self.now, sinks, &mut self.effects);
        shard.invariants();
        self.note(at);
        more
    }

    /// Takes the mail from one shard to another.
    pub(super) fn carry(&mut self, from: usize, to: usize) -> Vec<Mail> {
        self.shards[from].0.carry(to as ShardId)
    }

    pub(super) fn give(&mut self, from: usize, to: usize, mail: Vec<Mail>) {
        for mail in mail {
            self.event(to, Event::Mail(from as ShardId, mail));
        }
    }

    /// Turns and mail until nothing moves; what the store is asked waits.
    pub(super) fn pump(&mut self) {
        for _ in 0..100 {
            for at in 0..self.shards.len() {
                while self.turn(at) {}
                for to in (0..self.shards.len()).filter(|&to| to != at) {
                    let mail = self.carry(at, to);
                    self.give(at, to, mail);
                }
            }
        }
    }

    pub(super) fn answer(&mut self, reply: StoreReply) {
        let (shard, _) = self.asked.remove(0);
        self.event(usize::from(shard), Event::Backplane(Answer::Store(reply)));
        self.pump();
    }

    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now.ms += 100;
            (0..self.shards.len()).for_each(|at| self.event(at, Event::Tick));
            self.pump();
        }
    }

    /// What a connection was sent since the last call, as text.
    pub(super) fn heard(&mut self, (at, index): Peer) -> String {
        let received = std::mem::take(&mut self.shards[at].1.received[index as usize]);
        String::from_utf8_lossy(&received).into_owned()
    }

    pub(super) fn id_of(&mut self, peer: Peer) -> String {
        let heard = self.heard(peer);
        let (_, rest) = heard.split_once("\"client_id\":\"").expect("a welcome");
        rest[..16].to_owned()
    }
}

/// A room whose home is that of two shards.
pub(super) fn room_of(home: usize) -> String {
    let name = |n| format!("r{n}");
    let is_there = |name: &String| crate::model::RoomName::parse(name).unwrap().home(2) == home;
    (0..).map(name).find(is_there).expect("some are")
}
