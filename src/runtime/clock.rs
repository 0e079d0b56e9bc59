//! The clocks of a shard: what time it is, and how busy its thread was.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::store::wall_clock;
use crate::model::Timestamp;
use crate::shard::Now;

/// A clock that asks the system once where it can. It never goes back but for `wall`, which may be
/// set.
pub(super) struct Clock {
    began: Instant,
    wall_at_begin: u64,
}

impl Clock {
    /// One that counts from `began`.
    pub(super) fn new(began: Instant) -> Self {
        let mut clock = Self {
            began,
            wall_at_begin: 0,
        };
        clock.adjust();
        clock
    }

    pub(super) fn now(&self) -> Now {
        let elapsed = self.began.elapsed();
        let us = elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros());
        let ms = us / 1000;
        Now {
            ms,
            us,
            wall: Timestamp(self.wall_at_begin + ms),
        }
    }

    /// Follows the wall clock.
    pub(super) fn adjust(&mut self) {
        let ms = self.began.elapsed().as_millis() as u64;
        self.wall_at_begin = wall_clock().0.saturating_sub(ms);
    }
}

/// The share of a core that this thread uses, measured over a second or more.
pub(super) struct Busy {
    /// The thread's CPU time when it was measured last.
    cpu: Duration,
    at: Instant,
}

impl Busy {
    pub(super) fn new() -> Self {
        Self {
            cpu: Duration::ZERO,
            at: Instant::now(),
        }
    }

    /// In thousandths, if a second is over since it was measured last.
    pub(super) fn measure(&mut self) -> Option<u64> {
        let wall = self.at.elapsed();
        if wall < Duration::from_secs(1) {
            return None;
        }
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        let cpu = Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32);
        let busy = (cpu - self.cpu).as_secs_f64() / wall.as_secs_f64();
        (self.cpu, self.at) = (cpu, Instant::now());
        Some((busy * 1000.0) as u64)
    }
}
