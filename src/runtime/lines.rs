//! What a shard logs of its connections, so many lines of a kind a second.
//!
//! Addresses and words of strangers only here, the words cut: [`telemetry::log::cut`]. Never a
//! token, a payload or a query.
//!
//! [`telemetry::log::cut`]: crate::telemetry::log::cut

use std::net::IpAddr;

use crate::model::ClientId;
use crate::shard::ShardId;
use crate::telemetry::log::cut;
use crate::telemetry::quota::Quota;

/// Lines of one kind that a shard logs in a second.
const LINES_MAX: u32 = 10;

/// See the module.
pub(super) struct Lines {
    shard: ShardId,
    instance: String,
    connected: Quota,
    refused: Quota,
}

impl Lines {
    pub(super) fn new(shard: ShardId, instance: String) -> Self {
        Self {
            shard,
            instance,
            connected: Quota::new(LINES_MAX),
            refused: Quota::new(LINES_MAX),
        }
    }

    /// A client has opened a WebSocket.
    pub(super) fn connected(&mut self, now_ms: u64, client: ClientId, address: IpAddr) {
        if self.connected.admits(now_ms) {
            let (instance, shard, client) = (&self.instance, self.shard, client.as_str());
            tracing::info!(instance, shard, client, %address, "client connected");
        }
    }

    /// A connection was ended for what came by it: once for each.
    pub(super) fn refused(&mut self, now_ms: u64, address: Option<IpAddr>, why: &str) {
        if self.refused.admits(now_ms) {
            let shard = self.shard;
            let address = address.map_or_else(|| "gone".to_owned(), |address| address.to_string());
            tracing::info!(shard, address, why = cut(why), "a connection was refused");
        }
    }

    /// Says how many lines there were besides.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let kinds = [
            ("client connected", &mut self.connected),
            ("a connection was refused", &mut self.refused),
        ];
        for (kind, quota) in kinds {
            if let Some(left_out) = quota.take_left_out(now_ms) {
                let shard = self.shard;
                tracing::info!(shard, kind, left_out, "more such lines were left out");
            }
        }
    }
}
