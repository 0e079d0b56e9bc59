//! How long things took, counted by size: the buckets of a histogram, without a name.
//!
//! Plain numbers of whoever counts; what a page makes of them is `telemetry`'s. A measure costs a
//! search among fifteen bounds and two additions, a few nanoseconds.

/// The upper bounds of the buckets, in microseconds, rising; behind them is one without a bound.
pub const LATENCY_BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// Whether the program measures latencies at all: built with `RINGCAST_UNMEASURED` set it does not,
/// so that what measuring costs can be measured.
pub const IS_MEASURED: bool = option_env!("RINGCAST_UNMEASURED").is_none();

/// See the module. All its numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// What fell into each bucket, the last one included; not summed up.
    pub buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// The sum of all that was measured, in microseconds.
    pub sum_us: u64,
}

/// How many numbers a [`Latency`] is.
pub const LATENCY_CELLS: usize = LATENCY_BOUNDS_US.len() + 2;

impl Latency {
    /// Counts one measure.
    pub fn record(&mut self, us: u64) {
        if IS_MEASURED {
            self.buckets[LATENCY_BOUNDS_US.partition_point(|&bound| bound < us)] += 1;
            self.sum_us += us;
        }
    }

    /// All its numbers: the buckets, then the sum.
    pub fn numbers(&mut self) -> impl Iterator<Item = &mut u64> {
        self.buckets.iter_mut().chain([&mut self.sum_us])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_falls_into_the_first_bucket_that_holds_it() {
        let mut latency = Latency::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX / 2] {
            latency.record(us);
        }
        let counts = [0, 1, 14, 15].map(|at| latency.buckets[at]);
        assert_eq!(counts, [2, 1, 1, 2]);
        assert_eq!(latency.buckets.iter().sum::<u64>(), 6);
        assert!(LATENCY_BOUNDS_US.is_sorted());
        assert_eq!(latency.numbers().count(), LATENCY_CELLS);
    }
}
