//! What one run is: drawn from its seed, so that a seed is all that is needed to see it again.

use std::sync::Arc;

use fastrand::Rng;

use crate::net::{Networks, OriginPolicy};
use crate::shard::{Keeping, Options, Rates, SlowConsumer};

/// The shape of one run.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) shards: u16,
    pub(super) clients: usize,
    pub(super) rooms: usize,
    pub(super) stored: bool,
    pub(super) steps: usize,
    pub(super) step_ms: u64,
    pub(super) log_bytes_max: usize,
    /// Bytes of deliveries in a lane.
    pub(super) lane_bytes_max: usize,
    pub(super) linger_ms: u64,
    pub(super) dedupe_ms: u64,
    pub(super) rooms_max: usize,
    pub(super) rooms_per_connection_max: usize,
    pub(super) slow_consumer: SlowConsumer,
    /// Bytes that a socket takes ahead of its reader.
    pub(super) socket_bytes: usize,
    pub(super) payload_bytes: usize,
    /// How long mail and the store take at most.
    pub(super) mail_ms: u64,
    pub(super) store_ms: u64,
    /// Of a thousand: commits that fail, other questions to the store that fail.
    pub(super) commits_fail: u32,
    pub(super) reads_fail: u32,
    /// Rows that the store keeps of a room; 0: all.
    pub(super) retained: u64,
    /// Of a thousand: a mailbox is full for a while; a client acts; it is cut; it stops reading.
    pub(super) mailboxes_full: u32,
    pub(super) acts: u32,
    pub(super) cuts: u32,
    pub(super) deaf: u32,
    pub(super) deaf_ms: u64,
    /// Publishes of one burst, 0: none.
    pub(super) burst: usize,
    pub(super) personal: bool,
    pub(super) drain: bool,
    /// Whether clients that offer it get their rooms deflated.
    pub(super) deflate: bool,
    /// Whether addresses are counted; never so that anything is refused.
    pub(super) addresses: bool,
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

impl Setup {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let rng = &mut *rng;
        let faulty = rng.u32(..4) > 0;
        let few = |rng: &mut Rng, of: &[u32]| if faulty { one_of(rng, of) } else { 0 };
        let mut setup = Self {
            shards: rng.u16(1..=4),
            clients: rng.usize(2..=7),
            rooms: rng.usize(1..=4),
            stored: rng.u32(..3) > 0,
            steps: rng.usize(60..220),
            step_ms: one_of(rng, &[2, 10, 60]),
            log_bytes_max: one_of(rng, &[1_000, 6_000, 40_000, 8 << 20, 8 << 20, 8 << 20]),
            lane_bytes_max: one_of(rng, &[5_000, 20_000, 4 << 20, 4 << 20]),
            linger_ms: one_of(rng, &[20, 300, 5_000]),
            dedupe_ms: one_of(rng, &[50, 600_000, 600_000]),
            rooms_max: one_of(rng, &[2, 100, 100, 100]),
            rooms_per_connection_max: one_of(rng, &[2, 128, 128]),
            slow_consumer: one_of(
                rng,
                &[
                    SlowConsumer::Gap,
                    SlowConsumer::Gap,
                    SlowConsumer::Disconnect,
                ],
            ),
            socket_bytes: one_of(rng, &[300, 3_000, 60_000, 1 << 20]),
            payload_bytes: one_of(rng, &[10, 100, 3_000]),
            mail_ms: one_of(rng, &[0, 5, 100]),
            store_ms: one_of(rng, &[0, 5, 100]),
            commits_fail: few(rng, &[0, 0, 30, 200]),
            reads_fail: few(rng, &[0, 0, 30, 200]),
            retained: u64::from(few(rng, &[0, 0, 0, 3, 20])),
            mailboxes_full: few(rng, &[0, 20, 100]),
            acts: one_of(rng, &[100, 400, 800]),
            cuts: few(rng, &[0, 5, 30]),
            deaf: few(rng, &[0, 5, 30]),
            deaf_ms: one_of(rng, &[50, 1_000, 15_000]),
            burst: 0,
            personal: rng.bool(),
            drain: rng.u32(..4) == 0,
            deflate: rng.bool(),
            addresses: false,
        };
        // Not drawn: seeds stay what they were.
        setup.addresses = setup.clients.is_multiple_of(2);
        if rng.u32(..40) == 0 {
            setup.burst = 1_400;
            setup.clients = 2;
            setup.steps = 40;
            setup.payload_bytes = 10;
        }
        if !setup.stored {
            (setup.commits_fail, setup.reads_fail, setup.retained) = (0, 0, 0);
        }
        if setup.retained > 0 || !setup.stored {
            // What is deleted, or was never stored, no longer clashes.
            setup.dedupe_ms = 600_000;
        }
        setup
    }

    /// Whether anything may be skipped for a member: a lane that is behind is no reason, as long as
    /// the log goes back to where it is.
    pub(super) fn may_gap(&self) -> bool {
        self.log_bytes_max < 1 << 20 || self.retained > 0 || self.reads_fail > 0
    }

    pub(super) fn options(&self) -> Options {
        Options {
            instance_id: "sim".into(),
            shards: self.shards,
            keeping: match self.stored {
                true => Keeping::Store,
                false => Keeping::Memory,
            },
            message_bytes_max: 64 * 1024,
            echo_message_bytes_max: 0,
            deflate: self.deflate,
            fragments_max: 0,
            rooms_max: self.rooms_max,
            rooms_per_connection_max: self.rooms_per_connection_max,
            log_bytes_max: self.log_bytes_max,
            linger_ms: self.linger_ms,
            slow_consumer: self.slow_consumer,
            handshake_ms: 5_000,
            heartbeat_ms: 25_000,
            idle_ms: 60_000,
            dedupe_ms: self.dedupe_ms,
            rates: match self.addresses {
                true => Rates {
                    messages: 1_000_000,
                    bytes: 1 << 40,
                    address_messages: 10_000_000,
                    address_connections: 1_000,
                },
                false => Rates::default(),
            },
            origins: OriginPolicy::SameHost,
            access: Arc::default(),
            trusted_proxies: Networks::default(),
        }
    }
}
