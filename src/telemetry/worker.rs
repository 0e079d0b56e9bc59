//! What a worker tells: `/health`, and its metrics (PROTOCOL 7).

use super::metrics::{Histogram, Kind, Labels, Page};
use crate::worker::{BATCH_BOUNDS, Counters, Kept, Report};

/// How a worker stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    worker_id: String,
    /// What it last said.
    pub report: Report,
}

impl Status {
    /// Of one that has not begun.
    pub fn new(worker_id: String) -> Self {
        let starting = || Some("starting".to_owned());
        Self {
            worker_id,
            report: Report {
                counters: Counters::default(),
                kept: Kept::default(),
                held: 0,
                redis: starting(),
                postgres: starting(),
            },
        }
    }

    /// The answer to `GET /health`. The reasons name no address and no user: they are the log's.
    pub fn health(&self) -> String {
        let Report {
            kept,
            redis,
            postgres,
            ..
        } = &self.report;
        let up = |why: &Option<String>| if why.is_some() { "down" } else { "up" };
        let is_well = redis.is_none() && postgres.is_none();
        serde_json::json!({
            "status": if is_well { "ok" } else { "degraded" },
            "worker_id": self.worker_id,
            "redis": up(redis),
            "postgres": up(postgres),
            "lag": kept.lag + kept.pending,
            "lag_seconds": kept.oldest_ms / 1000,
            "dead": kept.dead,
        })
        .to_string()
    }

    /// The answer to `GET /metrics`.
    pub fn metrics(&self) -> String {
        use Kind::{Counter, Gauge};
        const NONE: Labels<'static> = &[];
        let Report {
            counters,
            kept,
            held,
            redis,
            postgres,
        } = &self.report;
        let mut page = Page::default();
        #[rustfmt::skip]
        let families = [
            (Gauge, "redis_up", u64::from(redis.is_none()), "1: Redis answers."),
            (Gauge, "postgres_up", u64::from(postgres.is_none()), "1: PostgreSQL takes rows."),
            (Counter, "worker_entries_total", counters.entries, "Entries read."),
            (Counter, "worker_rows_total", counters.rows, "Rows added to the table."),
            (Counter, "worker_rows_repeated_total", counters.repeated, "Rows that were there."),
            (Counter, "worker_spare_ids_total", counters.spare_ids, "Rows whose id another had."),
            (Counter, "worker_clashes_total", counters.clashes, "Rows at another's position."),
            (Counter, "worker_batches_total", counters.batches, "Batches stored."),
            (Counter, "worker_retries_total", counters.retries, "Transactions tried again."),
            (Counter, "worker_dead_total", counters.dead, "Entries set aside."),
            (Counter, "worker_gone_total", counters.gone, "Pending entries that were deleted."),
            (Counter, "worker_claimed_total", counters.claimed, "Entries taken over."),
            (Counter, "worker_trimmed_total", counters.trimmed, "Entries trimmed."),
            (Counter, "worker_deleted_total", counters.deleted, "Rows deleted by --retention."),
            (Gauge, "worker_held_entries", *held, "Entries read and not yet acked."),
            (Gauge, "worker_dead_entries", kept.dead, "Entries in the stream of the dead."),
            (Gauge, "worker_pending_entries", kept.pending, "Entries pending with any worker."),
            (Gauge, "worker_lag_entries", kept.lag + kept.pending, "Entries not stored yet."),
        ];
        for (kind, name, value, help) in families {
            page.family(&format!("ringcast_{name}"), kind, help, [(NONE, value)]);
        }
        let seconds = kept.oldest_ms as f64 / 1000.0;
        let help = "Age of the oldest entry that is not stored yet.";
        page.family(
            "ringcast_worker_lag_seconds",
            Gauge,
            help,
            [(NONE, seconds)],
        );
        let mut histogram = Histogram::new(BATCH_BOUNDS);
        histogram.counts.copy_from_slice(&counters.batch_buckets);
        histogram.sum = counters.batch_ms as f64 / 1000.0;
        let help = "From the first request for a batch to its last commit.";
        page.histograms("ringcast_worker_batch_seconds", help, [(NONE, &histogram)]);
        page.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::{lint, read};
    use super::*;

    #[test]
    fn a_page_is_well_formed_and_health_says_what_is_down() {
        let mut status = Status::new("w".into());
        read(&status.metrics());
        let health: serde_json::Value = serde_json::from_str(&status.health()).unwrap();
        assert_eq!(health["status"], "degraded");
        (status.report.redis, status.report.postgres) = (None, None);
        status.report.counters.batch_buckets[2] = 4;
        status.report.kept.oldest_ms = 2_500;
        let samples = read(&status.metrics());
        let value = |name: &str| &samples.iter().find(|s| s.0 == name).unwrap().2;
        assert_eq!(value("ringcast_worker_batch_seconds_count"), "4");
        assert_eq!(value("ringcast_worker_lag_seconds"), "2.5");
        lint(&samples);
        // What is promised (PROTOCOL 7).
        for name in [
            "rows_total",
            "batches_total",
            "retries_total",
            "dead_total",
            "lag_entries",
        ] {
            value(&format!("ringcast_worker_{name}"));
        }
        assert_eq!(value("ringcast_postgres_up"), "1");
        let health: serde_json::Value = serde_json::from_str(&status.health()).unwrap();
        assert_eq!(
            (&health["status"], &health["redis"]),
            (&"ok".into(), &"up".into())
        );
    }
}
