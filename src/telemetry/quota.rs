//! How many lines of a kind may be logged: what strangers can cause must not fill a disk, nor cost
//! more than what caused it.
//!
//! So many a second, and behind a second in which there were more, how many were left out.

/// How long a window is, in ms.
const WINDOW_MS: u64 = 1_000;

/// See the module. `now_ms` never falls.
#[derive(Debug)]
pub struct Quota {
    lines_max: u32,
    lines: u32,
    began_ms: u64,
    left_out: u64,
}

impl Quota {
    /// So many lines a second.
    pub fn new(lines_max: u32) -> Self {
        Self {
            lines_max,
            lines: 0,
            began_ms: 0,
            left_out: 0,
        }
    }

    /// Whether one more may be logged now; if not it counts as left out.
    pub fn admits(&mut self, now_ms: u64) -> bool {
        if now_ms >= self.began_ms + WINDOW_MS {
            (self.began_ms, self.lines) = (now_ms, 0);
        }
        let admits = self.lines < self.lines_max;
        self.lines += u32::from(admits);
        self.left_out += u64::from(!admits);
        admits
    }

    /// How many were left out, once that second is over; then they are told.
    pub fn take_left_out(&mut self, now_ms: u64) -> Option<u64> {
        let is_over = now_ms >= self.began_ms + WINDOW_MS;
        (is_over && self.left_out > 0).then(|| std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_then_how_many_there_were() {
        let mut quota = Quota::new(3);
        let admitted = (0..100).filter(|_| quota.admits(5_000)).count();
        assert_eq!(admitted, 3);
        assert_eq!(quota.take_left_out(5_999), None, "not while it goes on");
        assert_eq!(quota.take_left_out(6_000), Some(97));
        assert_eq!(quota.take_left_out(7_000), None, "once");
        assert!(quota.admits(7_000) && quota.admits(7_001) && quota.admits(7_999));
        assert!(!quota.admits(7_999) && quota.admits(8_000));
        assert_eq!(quota.take_left_out(9_000), Some(1));
    }
}
