//! What the shards have counted, where whoever asks can read it, and the answers to those who ask.
//!
//! Each shard copies its counters out after a turn, number by number, without a lock; a reader may
//! see a turn half copied, and the whole of it a moment later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::net::{Response, response};
use crate::shard::{CELLS, CLOSE_CODES, Counters, ERROR_CODES, Page};
use crate::telemetry::families::{ShardSnapshot, Snapshot};
use crate::telemetry::metrics::CONTENT_TYPE;
use crate::web;

/// One shard's numbers.
pub(super) struct ShardStats {
    cells: [AtomicU64; CELLS],
    busy_permille: AtomicU64,
}

/// All that is known of the instance.
pub(super) struct Stats {
    pub(super) instance_id: String,
    pub(super) driver: &'static str,
    pub(super) connections_max: usize,
    /// Whether the metrics are on the port of all else, and not on one of their own.
    pub(super) has_metrics: bool,
    pub(super) shards: Vec<ShardStats>,
    /// Sockets open now.
    pub(super) open: AtomicUsize,
    /// Connections turned away unheard because there were far too many.
    pub(super) turned_away: AtomicU64,
    /// Whether all shards listen.
    pub(super) serving: AtomicBool,
    pub(super) draining: AtomicBool,
    /// Shards that have no connection left while draining.
    pub(super) drained: AtomicUsize,
    /// Whether the store took the last commit.
    pub(super) store_fails: AtomicBool,
    /// What `history` knows of PostgreSQL: 0: there is none, 1: away, 2: up.
    postgres: AtomicU8,
    pub(super) commits: AtomicU64,
    pub(super) commits_failed: AtomicU64,
}

impl Stats {
    pub(super) fn new(
        instance_id: String,
        driver: &'static str,
        connections_max: usize,
        shards: usize,
    ) -> Self {
        let shard = || ShardStats {
            cells: std::array::from_fn(|_| AtomicU64::new(0)),
            busy_permille: AtomicU64::new(0),
        };
        Self {
            instance_id,
            driver,
            connections_max,
            has_metrics: true,
            shards: (0..shards).map(|_| shard()).collect(),
            open: AtomicUsize::new(0),
            turned_away: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drained: AtomicUsize::new(0),
            store_fails: AtomicBool::new(false),
            postgres: AtomicU8::new(0),
            commits: AtomicU64::new(0),
            commits_failed: AtomicU64::new(0),
        }
    }

    /// Copies a shard's counters out.
    pub(super) fn publish(&self, shard: usize, counters: &Counters) {
        for (cell, number) in self.shards[shard].cells.iter().zip(counters.cells()) {
            cell.store(number, Ordering::Relaxed);
        }
    }

    /// The share of its time in which a shard was busy lately.
    pub(super) fn set_busy(&self, shard: usize, permille: u64) {
        self.shards[shard]
            .busy_permille
            .store(permille, Ordering::Relaxed);
    }

    /// Whether the PostgreSQL with the history is there.
    pub(super) fn set_postgres(&self, is_up: bool) {
        self.postgres.store(1 + u8::from(is_up), Ordering::Relaxed);
    }

    fn counters(&self, shard: &ShardStats) -> Counters {
        Counters::from_cells(std::array::from_fn(|at| {
            shard.cells[at].load(Ordering::Relaxed)
        }))
    }

    /// The HTTP answer to a page that was asked for.
    pub(super) fn answer(&self, page: Page) -> Response {
        match page {
            Page::File { path, known } => match web::asset(path) {
                Some(asset) => file(asset, known.as_deref()),
                None => response::error(404, "not_found", "there is nothing here", &[]),
            },
            Page::Health => response::build(200, response::JSON, &[], self.health().as_bytes()),
            Page::Ready => self.ready(),
            Page::Metrics if self.has_metrics => self.metrics(),
            Page::Metrics => response::error(404, "not_found", "there is nothing here", &[]),
        }
    }

    /// The metrics.
    pub(super) fn metrics(&self) -> Response {
        response::build(200, CONTENT_TYPE, &[], self.snapshot().render().as_bytes())
    }

    fn total(&self) -> Counters {
        let mut total = Counters::default();
        for shard in &self.shards {
            total.add(&self.counters(shard));
        }
        total
    }

    fn health(&self) -> String {
        let total = self.total();
        let is_down = total.redis.up < total.redis.partitions;
        let failing = is_down || self.store_fails.load(Ordering::Relaxed);
        let redis = match total.redis.partitions {
            0 => "off",
            _ if is_down => "down",
            _ => "up",
        };
        serde_json::json!({
            "status": if failing { "degraded" } else { "ok" },
            "instance_id": self.instance_id,
            "redis": redis,
            "connections": self.open.load(Ordering::Relaxed),
            "shards": self.shards.len(),
            "driver": self.driver,
        })
        .to_string()
    }

    fn ready(&self) -> Response {
        let why = if self.draining.load(Ordering::Relaxed) {
            "draining"
        } else if !self.serving.load(Ordering::Relaxed) {
            "starting"
        } else if self.open.load(Ordering::Relaxed) > self.connections_max {
            "as many connections as --max-connections allows"
        } else if self.total().redis.refusing > 0 {
            "Redis is away, and the spool takes no more"
        } else {
            return response::build(200, response::TEXT, &[], b"ready\n");
        };
        response::error(503, "unavailable", why, &[("Retry-After", "1")])
    }

    fn snapshot(&self) -> Snapshot {
        let mut total = Counters::default();
        let mut shards = Vec::new();
        for shard in &self.shards {
            let counters = self.counters(shard);
            total.add(&counters);
            shards.push(ShardSnapshot {
                connections: counters.connections,
                busy_ratio: shard.busy_permille.load(Ordering::Relaxed) as f64 / 1000.0,
            });
        }
        let errors = ERROR_CODES
            .iter()
            .map(|code| code.as_str())
            .zip(total.errors);
        Snapshot {
            connections: total.connections,
            connections_accepted: total.accepted,
            connections_refused: self.turned_away.load(Ordering::Relaxed)
                + total.turned_away
                + total.address_full,
            rooms: total.rooms,
            members: total.members,
            accepted: total.published,
            stored: total.stored,
            delivered: total.delivered,
            replayed: total.replayed,
            bytes_in: total.bytes_in,
            bytes_out: total.bytes_out,
            gaps_told: total.gaps_lost + total.gaps_slow,
            slow_told: total.gaps_slow,
            slow_closed: total.slow_closed,
            closes: CLOSE_CODES
                .iter()
                .copied()
                .zip(total.closes)
                .collect::<BTreeMap<_, _>>(),
            errors: errors.collect(),
            limited: ["messages", "bytes", "address"]
                .into_iter()
                .zip(total.limited)
                .chain([("connections", total.address_full)])
                .collect(),
            limited_closed: total.limited_closed,
            panics: total.panics,
            room_log_bytes: total.log_bytes,
            commits: self.commits.load(Ordering::Relaxed),
            commits_failed: self.commits_failed.load(Ordering::Relaxed),
            shards,
            sends: total.sends,
            repeated: total.repeated,
            held: total.held,
            redis: total.redis,
            postgres_up: match self.postgres.load(Ordering::Relaxed) {
                0 => None,
                known => Some(known == 2),
            },
            signals_dropped: total.signals_dropped,
            to_home: total.to_home,
            to_stored: total.to_stored,
            to_envelope: total.to_envelope,
            delivery_local: total.local,
            delivery_remote: total.remote,
        }
    }
}

/// A file of the page, or that what the client has of it is still good.
fn file(asset: &web::Asset, known: Option<&str>) -> Response {
    let etag = asset.etag();
    let headers: Vec<_> = web::HEADERS
        .iter()
        .copied()
        .chain([("ETag", etag.as_str())])
        .collect();
    if known.is_some_and(|known| web::is_known(known, &etag)) {
        return response::without_body(304, &headers);
    }
    response::build(200, asset.content_type, &headers, asset.body.as_bytes())
}
