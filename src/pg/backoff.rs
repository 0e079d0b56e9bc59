//! Pauses between two tries: they double up to a bound, and each is a random part of that, so that
//! those who lost the same server do not come back all at once.

use crate::model::limits::PG_PAUSES_MS;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next try, in ms: between a half of what it may be and all of it.
    pub fn next(&mut self, rng: &mut fastrand::Rng) -> u64 {
        let (first, longest) = PG_PAUSES_MS;
        let all = (first << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        rng.u64(all / 2..=all)
    }

    /// It went well: the next pause is short again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Tries that failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        let (first, longest) = PG_PAUSES_MS;
        for failure in 0..100 {
            let pause = backoff.next(&mut rng);
            let all = (first << failure.min(16)).min(longest);
            assert!((all / 2..=all).contains(&pause), "{failure}: {pause}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= first);
        assert_eq!(backoff.failures(), 1);
    }
}
