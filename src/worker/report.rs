//! What a worker has counted, for whoever asks.

use super::command::Kept;

/// The upper bounds of the buckets of a batch's time, in seconds.
pub const BATCH_BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What only grows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Entries read, each time that it was.
    pub entries: u64,
    /// Rows added to the table.
    pub rows: u64,
    /// Rows that were there already.
    pub repeated: u64,
    /// Of the added ones, those whose id another message had.
    pub spare_ids: u64,
    /// Of the added ones, those at whose position another message stands.
    pub clashes: u64,
    /// Batches stored.
    pub batches: u64,
    /// How long they took, by bucket; the last has no bound.
    pub batch_buckets: [u64; BATCH_BOUNDS.len() + 1],
    /// The sum of it, in ms.
    pub batch_ms: u64,
    /// Transactions that failed and were tried again.
    pub retries: u64,
    /// Entries that were set aside.
    pub dead: u64,
    /// Entries that were pending and are gone from the stream.
    pub gone: u64,
    /// Entries taken over.
    pub claimed: u64,
    /// Entries trimmed.
    pub trimmed: u64,
    /// Rows deleted by --retention.
    pub deleted: u64,
}

impl Counters {
    /// A batch took so long.
    pub(super) fn batch(&mut self, ms: u64) {
        let seconds = ms as f64 / 1000.0;
        let bucket = BATCH_BOUNDS.partition_point(|&bound| bound < seconds);
        self.batch_buckets[bucket] += 1;
        self.batches += 1;
        self.batch_ms += ms;
    }
}

/// How it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// See [`Counters`].
    pub counters: Counters,
    /// What Redis says of the group.
    pub kept: Kept,
    /// Entries read and not acked by this worker.
    pub held: u64,
    /// Why Redis is not to be had, if so.
    pub redis: Option<String>,
    /// Why PostgreSQL takes nothing, if so.
    pub postgres: Option<String>,
}
