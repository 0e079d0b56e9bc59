//! The metrics of a server (PROTOCOL 7): their names, and the values that `runtime` fills in.
//!
//! No label takes a user's input: not a room, not a name, not an address. A worker's are in
//! [`super::worker`].

use std::collections::BTreeMap;

use super::metrics::{Histogram, Kind, Labels, Page, Value};
use crate::backplane::Report;
use crate::model::Latency;

/// The upper bounds of the latencies' buckets, in seconds: those of [`Latency`].
pub const DELIVERY_BOUNDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// All values at one moment, summed over the shards but for [`Snapshot::shards`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Open connections.
    pub connections: u64,
    /// Connections that were accepted, ever.
    pub connections_accepted: u64,
    /// Connections that were turned away because there were too many.
    pub connections_refused: u64,
    /// Rooms with members or a log.
    pub rooms: u64,
    /// Members of all rooms.
    pub members: u64,
    /// Publications that were accepted.
    pub accepted: u64,
    /// Publications that the store has.
    pub stored: u64,
    /// Publishes answered with the offset of an earlier one of the same id.
    pub repeated: u64,
    /// Calls that wrote to sockets.
    pub sends: u64,
    /// Messages written to members.
    pub delivered: u64,
    /// Messages written to members who came back for them.
    pub replayed: u64,
    /// Signals and presence that were dropped for who was behind.
    pub signals_dropped: u64,
    /// Bytes read from sockets.
    pub bytes_in: u64,
    /// Bytes written to sockets.
    pub bytes_out: u64,
    /// From a publish's arrival to its home shard.
    pub to_home: Latency,
    /// From its arrival till it is stored.
    pub to_stored: Latency,
    /// From its arrival till it is back from Redis.
    pub to_envelope: Latency,
    /// From its arrival to the write of its frame, for publishes that came in here.
    pub delivery_local: Latency,
    /// The same for those that came in elsewhere.
    pub delivery_remote: Latency,
    /// Gaps that members were told of.
    pub gaps_told: u64,
    /// Slow consumers that were told with `gap`.
    pub slow_told: u64,
    /// Slow consumers that were closed.
    pub slow_closed: u64,
    /// Closes by WebSocket close code.
    pub closes: BTreeMap<u16, u64>,
    /// `error` frames by code.
    pub errors: BTreeMap<&'static str, u64>,
    /// Messages and WebSockets over a limit, by which.
    pub limited: BTreeMap<&'static str, u64>,
    /// Connections closed because they went on.
    pub limited_closed: u64,
    /// Panics that ended one connection.
    pub panics: u64,
    /// Bytes that the room logs hold.
    pub room_log_bytes: u64,
    /// Commits to the embedded store.
    pub commits: u64,
    /// Commits that failed.
    pub commits_failed: u64,
    /// Publishes held because Redis was away.
    pub held: u64,
    /// How it stands with Redis.
    pub redis: Report,
    /// Whether the PostgreSQL with the history answers; `None`: there is none.
    pub postgres_up: Option<bool>,
    /// Each shard.
    pub shards: Vec<ShardSnapshot>,
}

/// One shard's own values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ShardSnapshot {
    /// Its open connections.
    pub connections: u64,
    /// The share of the time since the last snapshot in which its loop was not asleep.
    pub busy_ratio: f64,
}

impl Snapshot {
    /// The answer to `GET /metrics`.
    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.plain(&mut page);
        if self.redis.partitions > 0 {
            self.of_redis(&mut page);
        }
        if let Some(is_up) = self.postgres_up {
            let help = "1: PostgreSQL answers; history comes from it.";
            let samples = [(NONE, u64::from(is_up))];
            page.family("ringcast_postgres_up", Kind::Gauge, help, samples);
        }
        self.labelled(&mut page);
        self.latencies(&mut page);
        page.finish()
    }

    /// How long publications take.
    fn latencies(&self, page: &mut Page) {
        let local = histogram(&self.delivery_local);
        let remote = histogram(&self.delivery_remote);
        page.histograms(
            "ringcast_delivery_seconds",
            "From a publish's arrival to the write of its frame, by where it arrived.",
            [
                (&[("origin", "local")][..], &local),
                (&[("origin", "remote")][..], &remote),
            ],
        );
        let hops = [&self.to_home, &self.to_stored, &self.to_envelope].map(histogram);
        let samples = [
            (&[("hop", "home")][..], &hops[0]),
            (&[("hop", "stored")][..], &hops[1]),
            (&[("hop", "envelope")][..], &hops[2]),
        ];
        // Alone nothing comes back from Redis.
        let count = if self.redis.partitions > 0 { 3 } else { 2 };
        let help = "From a publish's arrival till it was so far; the last hop is the delivery.";
        let samples = samples.into_iter().take(count);
        page.histograms("ringcast_hop_seconds", help, samples);
    }

    /// Families of one sample that an instance alone does not have.
    fn of_redis(&self, page: &mut Page) {
        use Kind::{Counter, Gauge};
        let Report { up, partitions, .. } = self.redis;
        let families = [
            (
                Gauge,
                "redis_up",
                u64::from(up == partitions),
                "1: Redis takes what is published at once.",
            ),
            (
                Gauge,
                "redis_breakers_open",
                self.redis.breakers_open,
                "Partitions whose Redis counts as away.",
            ),
            (
                Gauge,
                "redis_breakers_half_open",
                self.redis.breakers_half_open,
                "Of these, where one probe asks whether it is back.",
            ),
            (
                Counter,
                "redis_commands_total",
                self.redis.commands,
                "Commands sent to Redis.",
            ),
            (
                Gauge,
                "redis_pipeline_depth",
                self.redis.pipeline,
                "Commands without a reply.",
            ),
            (
                Counter,
                "redis_connects_total",
                self.redis.connects,
                "Connections made to Redis.",
            ),
            (
                Counter,
                "redis_gaps_seen_total",
                self.redis.gaps_seen,
                "Gaps in what Pub/Sub brought.",
            ),
            (
                Counter,
                "redis_gaps_mended_total",
                self.redis.gaps_mended,
                "Of these, mended from the stream.",
            ),
            (
                Counter,
                "redis_messages_lost_total",
                self.redis.items_lost,
                "Messages that the stream did not have any more.",
            ),
            (
                Counter,
                "redis_epochs_total",
                self.redis.epochs,
                "Epochs that were seen to begin.",
            ),
            (
                Counter,
                "redis_unreadable_total",
                self.redis.unreadable,
                "Envelopes and entries that could not be read.",
            ),
            (
                Counter,
                "messages_held_total",
                self.held,
                "Publishes held because Redis was away.",
            ),
            (
                Gauge,
                "spool_entries",
                self.redis.spool_entries,
                "Messages held in the spool.",
            ),
            (
                Gauge,
                "spool_bytes",
                self.redis.spool_bytes,
                "Bytes held in the spool.",
            ),
            (
                Gauge,
                "instances_known",
                self.redis.instances,
                "Other instances of the cluster.",
            ),
        ];
        for (kind, name, value, help) in families {
            page.family(&format!("ringcast_{name}"), kind, help, [(NONE, value)]);
        }
    }

    /// Families of one sample.
    fn plain(&self, page: &mut Page) {
        use Kind::{Counter, Gauge};
        let families = [
            (Gauge, "connections", self.connections, "Open connections."),
            (
                Counter,
                "connections_accepted_total",
                self.connections_accepted,
                "Connections taken.",
            ),
            (
                Counter,
                "connections_refused_total",
                self.connections_refused,
                "Connections over a limit.",
            ),
            (Gauge, "rooms", self.rooms, "Rooms with members or a log."),
            (Gauge, "members", self.members, "Members of all rooms."),
            (
                Counter,
                "messages_accepted_total",
                self.accepted,
                "Publications accepted.",
            ),
            (
                Counter,
                "messages_stored_total",
                self.stored,
                "Publications stored.",
            ),
            (
                Counter,
                "messages_repeated_total",
                self.repeated,
                "Publishes of an id that was there already.",
            ),
            (
                Counter,
                "sends_total",
                self.sends,
                "Calls that wrote to sockets.",
            ),
            (
                Counter,
                "messages_delivered_total",
                self.delivered,
                "Messages written to members.",
            ),
            (
                Counter,
                "messages_replayed_total",
                self.replayed,
                "Messages written on a resume.",
            ),
            (
                Counter,
                "signals_dropped_total",
                self.signals_dropped,
                "Signals and presence dropped.",
            ),
            (
                Counter,
                "received_bytes_total",
                self.bytes_in,
                "Bytes read from sockets.",
            ),
            (
                Counter,
                "sent_bytes_total",
                self.bytes_out,
                "Bytes written to sockets.",
            ),
            (
                Counter,
                "gaps_told_total",
                self.gaps_told,
                "Gaps that members were told of.",
            ),
            (
                Counter,
                "rate_limited_closes_total",
                self.limited_closed,
                "Connections closed for going on beyond the limit.",
            ),
            (
                Counter,
                "panics_total",
                self.panics,
                "Panics that ended one connection.",
            ),
            (
                Gauge,
                "room_log_bytes",
                self.room_log_bytes,
                "Bytes held by the room logs.",
            ),
            (
                Counter,
                "store_commits_total",
                self.commits,
                "Commits to the embedded store.",
            ),
            (
                Counter,
                "store_commits_failed_total",
                self.commits_failed,
                "Commits that failed.",
            ),
        ];
        for (kind, name, value, help) in families {
            page.family(&format!("ringcast_{name}"), kind, help, [(NONE, value)]);
        }
    }

    /// Families with a label.
    fn labelled(&self, page: &mut Page) {
        let version = [(env!("CARGO_PKG_VERSION").to_owned(), 1_u64)];
        let help = "1: this version runs.";
        by_label(page, "build_info", Kind::Gauge, help, "version", version);
        let slow = [("gap", self.slow_told), ("disconnect", self.slow_closed)];
        let slow = slow.map(|(action, n)| (action.to_owned(), n));
        let help = "Slow consumers by what was done.";
        by_label(
            page,
            "slow_consumers_total",
            Kind::Counter,
            help,
            "action",
            slow,
        );
        let closes = self.closes.iter().map(|(code, n)| (code.to_string(), *n));
        let help = "WebSockets closed, by close code; 1006: without one, 0: by another.";
        by_label(page, "closes_total", Kind::Counter, help, "code", closes);
        let errors = self.errors.iter().map(|(code, n)| (code.to_string(), *n));
        let help = "Error frames by code.";
        by_label(page, "errors_total", Kind::Counter, help, "code", errors);
        let limited = self.limited.iter();
        let limited = limited.map(|(limit, n)| ((*limit).to_owned(), *n));
        let help = "Messages not taken, and connections refused, by the limit they are over.";
        let name = "rate_limited_total";
        by_label(page, name, Kind::Counter, help, "limit", limited);

        let shards = || self.shards.iter().enumerate();
        let connections = shards().map(|(i, shard)| (i.to_string(), shard.connections));
        let help = "Open connections of each shard.";
        by_label(
            page,
            "shard_connections",
            Kind::Gauge,
            help,
            "shard",
            connections,
        );
        let busy = shards().map(|(i, shard)| (i.to_string(), shard.busy_ratio));
        let help = "Share of the time in which a shard's loop is not asleep.";
        by_label(page, "shard_busy_ratio", Kind::Gauge, help, "shard", busy);
    }
}

const NONE: Labels<'static> = &[];

fn histogram(latency: &Latency) -> Histogram {
    Histogram {
        bounds: DELIVERY_BOUNDS,
        counts: latency.buckets.to_vec(),
        sum: latency.sum_us as f64 / 1e6,
    }
}

fn by_label<V: Into<Value>>(
    page: &mut Page,
    name: &str,
    kind: Kind,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = (String, V)>,
) {
    let values: Vec<_> = values
        .into_iter()
        .map(|(text, v)| (text, v.into()))
        .collect();
    let labels: Vec<_> = values
        .iter()
        .map(|(text, v)| ([(label, text.as_str())], *v))
        .collect();
    let samples = labels.iter().map(|(labels, value)| (&labels[..], *value));
    page.family(&format!("ringcast_{name}"), kind, help, samples);
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::{lint, read};
    use super::*;
    use crate::model::latency::LATENCY_BOUNDS_US;

    #[test]
    fn a_page_is_well_formed_and_has_what_was_filled_in() {
        let mut snapshot = Snapshot {
            connections: 3,
            slow_closed: 2,
            ..Snapshot::default()
        };
        read(&snapshot.render());
        snapshot.closes.insert(1001, 5);
        snapshot.errors.insert("bad_json", 6);
        snapshot.limited.insert("address", 1);
        snapshot.delivery_local.record(2_000);
        snapshot.to_stored.record(700);
        snapshot.shards = vec![ShardSnapshot::default(); 2];
        snapshot.shards[1].busy_ratio = 0.5;
        snapshot.redis.partitions = 1;
        snapshot.redis.spool_bytes = 7;
        snapshot.postgres_up = Some(true);
        let samples = read(&snapshot.render());
        let value = |name: &str, label: &str| {
            let has = |labels: &BTreeMap<String, String>| labels.values().any(|v| v == label);
            let found = samples
                .iter()
                .find(|(n, labels, _)| n == name && (label.is_empty() || has(labels)));
            found.unwrap_or_else(|| panic!("{name} {label}")).2.as_str()
        };
        assert_eq!(value("ringcast_connections", ""), "3");
        assert_eq!(value("ringcast_slow_consumers_total", "disconnect"), "2");
        assert_eq!(value("ringcast_closes_total", "1001"), "5");
        assert_eq!(value("ringcast_redis_up", ""), "0");
        assert_eq!(value("ringcast_spool_bytes", ""), "7");
        assert_eq!(value("ringcast_postgres_up", ""), "1");
        assert_eq!(value("ringcast_errors_total", "bad_json"), "6");
        assert_eq!(value("ringcast_shard_busy_ratio", "1"), "0.5");
        assert_eq!(value("ringcast_delivery_seconds_count", "local"), "1");
        assert_eq!(value("ringcast_hop_seconds_sum", "stored"), "0.0007");
        lint(&samples);
        // What is promised (PROTOCOL 7).
        let promised = "connections rooms members messages_accepted_total messages_stored_total \
            messages_delivered_total messages_replayed_total received_bytes_total sent_bytes_total \
            delivery_seconds_bucket redis_gaps_seen_total redis_gaps_mended_total \
            slow_consumers_total rate_limited_total closes_total redis_up redis_commands_total \
            redis_pipeline_depth redis_breakers_open spool_bytes spool_entries shard_busy_ratio";
        for name in promised.split_whitespace() {
            let name = format!("ringcast_{name}");
            assert!(samples.iter().any(|sample| sample.0 == name), "{name}");
        }
        assert!(
            DELIVERY_BOUNDS
                .iter()
                .zip(LATENCY_BOUNDS_US)
                .all(|(s, us)| { (s * 1e6 - us as f64).abs() < 1e-6 })
        );
        assert_eq!(DELIVERY_BOUNDS.len(), LATENCY_BOUNDS_US.len());
        assert!(
            samples
                .iter()
                .all(|(name, ..)| name.starts_with("ringcast_"))
        );
    }
}
