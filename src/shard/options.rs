//! What a shard can be set to. Checked by whoever makes it.

use std::sync::Arc;

use crate::access::Access;
use crate::backplane::redis;
use crate::net::{Networks, OriginPolicy};

use super::allowance::Rates;

/// What happens to a member whose cursor fell off the room log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// It is told with a `gap` and goes on.
    Gap,
    /// It is closed with 4002.
    Disconnect,
}

/// What orders and keeps publications.
#[derive(Clone, Debug)]
pub enum Keeping {
    /// This process, in the room logs alone.
    Memory,
    /// This process, in the embedded store.
    Store,
    /// Redis: how each partition is set up.
    Redis(Vec<redis::Settings>),
}

impl Keeping {
    /// Partitions; alone there is none.
    pub(super) fn partitions(&self) -> u16 {
        match self {
            Self::Memory | Self::Store => 0,
            Self::Redis(partitions) => partitions.len() as u16,
        }
    }
}

/// A shard's settings; the same on all shards of an instance.
#[derive(Clone, Debug)]
pub struct Options {
    /// This instance's name.
    pub instance_id: String,
    /// How many shards there are.
    pub shards: u16,
    /// What orders and keeps publications.
    pub keeping: Keeping,
    /// Bytes of a message on `/ws`.
    pub message_bytes_max: usize,
    /// Bytes of a message on `/echo`; 0: there is no such route.
    pub echo_message_bytes_max: usize,
    /// Whether permessage-deflate is agreed to.
    pub deflate: bool,
    /// Fragments of a message; 0: no cap.
    pub fragments_max: u32,
    /// Rooms that this shard may be home of.
    pub rooms_max: usize,
    /// Rooms of one connection.
    pub rooms_per_connection_max: usize,
    /// Bytes of this shard's room logs.
    pub log_bytes_max: usize,
    /// How long an empty room keeps its log, in ms.
    pub linger_ms: u64,
    /// What happens to slow consumers.
    pub slow_consumer: SlowConsumer,
    /// How long a connection may take to send its request head, in ms.
    pub handshake_ms: u64,
    /// After so many ms without a byte from the peer it is pinged.
    pub heartbeat_ms: u64,
    /// After so many it is closed.
    pub idle_ms: u64,
    /// How long client-supplied ids are remembered, in ms.
    pub dedupe_ms: u64,
    /// How much may come in.
    pub rates: Rates,
    /// Which web pages may connect.
    pub origins: OriginPolicy,
    /// What is taken as proof of who somebody is, until [`Event::Access`](super::Event::Access)
    /// says otherwise.
    pub access: Arc<Access>,
    /// Proxies whose X-Forwarded-For counts.
    pub trusted_proxies: Networks,
}
