//! What one run is: drawn from its seed, so that a seed is all that is needed to see it again.

use std::sync::Arc;

use fastrand::Rng;

use crate::backplane::redis::Settings;
use crate::model::Name;
use crate::net::{Networks, OriginPolicy};
use crate::resp::Login;
use crate::shard::{Keeping, Options, Rates, SlowConsumer};

/// First part of every name in Redis.
pub(super) const PREFIX: &str = "s";

/// How often, of a thousand steps, a fault begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// A connection to Redis is cut; it hangs for a while; it never says anything again.
    pub(super) cuts: u32,
    pub(super) hangs: u32,
    pub(super) holes: u32,
    /// Connects are refused for a while.
    pub(super) refusals: u32,
    /// Redis stops for a while; restarts with all it had; with less; is emptied; takes no writes.
    pub(super) stops: u32,
    pub(super) restarts: u32,
    pub(super) losses: u32,
    pub(super) flushes: u32,
    pub(super) full: u32,
    /// Another takes its place that has less, and no connection breaks.
    pub(super) forks: u32,
    /// Of a thousand messages of a channel: lost on the way to one subscriber.
    pub(super) drops: u32,
    /// Of a thousand writes to a spool, and reads: fail.
    pub(super) disk: u32,
    /// An instance is killed; a client is cut.
    pub(super) kills: u32,
    pub(super) goes: u32,
    /// Somebody else writes.
    pub(super) foreign: u32,
}

/// The shape of one run.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) instances: usize,
    pub(super) shards: u16,
    pub(super) clients: usize,
    pub(super) rooms: usize,
    pub(super) personal: bool,
    pub(super) steps: usize,
    pub(super) step_ms: u64,
    /// Of a thousand: a client acts.
    pub(super) acts: u32,
    /// Mail and links take so long at most.
    pub(super) mail_ms: u64,
    pub(super) link_ms: u64,
    /// How long a fault lasts at most.
    pub(super) fault_ms: u64,
    pub(super) log_bytes_max: usize,
    pub(super) partition_log_bytes_max: usize,
    pub(super) turn_bytes_max: usize,
    pub(super) ready_bytes_max: usize,
    pub(super) pubsub_output_max: usize,
    pub(super) spool_bytes_max: u64,
    /// Whether acks wait for a replica.
    pub(super) ack_replicas: u32,
    pub(super) linger_ms: u64,
    pub(super) payload_bytes: usize,
    /// The clocks of the instances and of Redis differ by so much at most.
    pub(super) skew_ms: u64,
    pub(super) faults: Faults,
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

impl Faults {
    /// One or two kinds, so that a failure is easily read; sometimes all.
    fn draw(rng: &mut Rng) -> Self {
        let mut faults = Self::default();
        let kinds: [(&mut u32, u32); 14] = [
            (&mut faults.cuts, 25),
            (&mut faults.hangs, 15),
            (&mut faults.holes, 15),
            (&mut faults.refusals, 15),
            (&mut faults.stops, 15),
            (&mut faults.restarts, 15),
            (&mut faults.losses, 15),
            (&mut faults.flushes, 15),
            (&mut faults.full, 15),
            (&mut faults.drops, 100),
            (&mut faults.disk, 200),
            (&mut faults.kills, 10),
            (&mut faults.goes, 20),
            (&mut faults.foreign, 30),
        ];
        let of_1000 = one_of(rng, &[0, 100, 200, 500]);
        for (kind, rate) in kinds {
            if rng.u32(..1000) < of_1000 {
                *kind = rate;
            }
        }
        // Of a copy, as below.
        if rng.clone().u32(..8) == 0 {
            faults.forks = 15;
        }
        if faults.kills > 0 {
            // What only the dead have seen can be lost without a trace.
            (faults.losses, faults.flushes, faults.forks) = (0, 0, 0);
        }
        faults
    }
}

impl Setup {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        Self {
            instances: rng.usize(1..=3),
            shards: rng.u16(1..=2),
            clients: rng.usize(2..=6),
            rooms: rng.usize(1..=3),
            personal: rng.u32(..4) == 0,
            steps: rng.usize(60..200),
            step_ms: one_of(rng, &[10, 60, 60, 200]),
            acts: one_of(rng, &[100, 300, 600]),
            mail_ms: one_of(rng, &[0, 5, 50]),
            link_ms: one_of(rng, &[0, 5, 100]),
            fault_ms: one_of(rng, &[50, 1_000, 6_000]),
            log_bytes_max: one_of(rng, &[3_000, 8 << 20, 8 << 20, 8 << 20]),
            partition_log_bytes_max: one_of(rng, &[0, 2_000, 1 << 20]),
            turn_bytes_max: one_of(rng, &[500, 1 << 20]),
            pubsub_output_max: one_of(rng, &[2_000, 32 << 20, 32 << 20]),
            spool_bytes_max: one_of(rng, &[2_000, 1 << 30, 1 << 30]),
            ack_replicas: one_of(rng, &[0, 0, 0, 1]),
            linger_ms: one_of(rng, &[20, 1_000, 60_000]),
            payload_bytes: one_of(rng, &[10, 300]),
            skew_ms: one_of(rng, &[0, 0, 5_000]),
            faults: Faults::draw(rng),
            // Of a copy: a seed that is written down somewhere means what it did.
            ready_bytes_max: one_of(&mut rng.clone(), &[500, 8 << 20, 8 << 20]),
        }
    }

    /// Whether members may be told that they miss something: they were slow, or Redis lost it.
    pub(super) fn may_gap(&self) -> bool {
        self.log_bytes_max < 1 << 20 || self.loses()
    }

    /// Whether Redis may lose what it had.
    pub(super) fn loses(&self) -> bool {
        self.faults.losses + self.faults.flushes + self.faults.forks > 0
    }

    /// Whether Redis may be away, or seem so.
    pub(super) fn is_faulty(&self) -> bool {
        let Faults {
            cuts,
            hangs,
            holes,
            refusals,
            stops,
            restarts,
            losses,
            flushes,
            full,
            ..
        } = self.faults;
        // A login and a subscription of so many steps may take longer than the breaker waits (seeds
        // 3597, 20556); the first login alone may wherever steps are long: see `is_login_slow`.
        let is_slow = self.step_ms >= 200 && self.link_ms >= 100;
        // A subscriber whose output is full is cut, but the commands go on.
        is_slow || cuts + hangs + holes + refusals + stops + restarts + losses + flushes + full > 0
    }

    pub(super) fn options(&self, instance: usize) -> Arc<Options> {
        let id = format!("i{instance}");
        let settings = Settings {
            prefix: PREFIX.into(),
            partition: 0,
            partitions: 1,
            instance_id: Name::new(&id),
            nonce: format!("nonce-{instance}"),
            login: Login {
                user: None,
                password: None,
                database: 0,
                name: "sim".into(),
            },
            dedupe_ms: 600_000,
            retention_ms: 3_600_000,
            stream_bytes_max: 1 << 30,
            spool_bytes_max: self.spool_bytes_max,
            ack_replicas: self.ack_replicas,
            log_bytes_max: self.partition_log_bytes_max,
            turn_bytes_max: self.turn_bytes_max,
            ready_bytes_max: self.ready_bytes_max,
            has_store: false,
        };
        Arc::new(Options {
            instance_id: id,
            shards: self.shards,
            keeping: Keeping::Redis(vec![settings]),
            message_bytes_max: 64 * 1024,
            echo_message_bytes_max: 0,
            deflate: false,
            fragments_max: 0,
            rooms_max: 100,
            rooms_per_connection_max: 100,
            log_bytes_max: self.log_bytes_max,
            linger_ms: self.linger_ms,
            slow_consumer: SlowConsumer::Gap,
            handshake_ms: 5_000,
            heartbeat_ms: 25_000,
            idle_ms: 60_000,
            dedupe_ms: 600_000,
            rates: Rates::default(),
            origins: OriginPolicy::SameHost,
            access: Arc::default(),
            trusted_proxies: Networks::default(),
        })
    }
}
