//! When what was published here came: how long it took is known once it is seen in the order.
//!
//! Only for the metrics, and so it may forget: beyond [`ARRIVALS_MAX`], and what was not seen
//! within a minute or two (a repeat, say, never is). What is forgotten counts by its `sent_at`.

use hashbrown::HashMap;

use crate::model::MessageId;

/// Publications that are remembered, in each of two generations.
const ARRIVALS_MAX: usize = 32 * 1024;
/// How long a generation is the young one, in ms.
const GENERATION_MS: u64 = 60_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    young: HashMap<MessageId, u64>,
    old: HashMap<MessageId, u64>,
    turned_ms: u64,
}

impl Arrivals {
    /// One came, so many microseconds after the process began.
    pub(super) fn insert(&mut self, id: MessageId, arrived_us: u64) {
        if self.young.len() < ARRIVALS_MAX {
            self.young.insert(id, arrived_us);
        }
    }

    /// When the one of that id came, if it came here.
    pub(super) fn take(&mut self, id: &MessageId) -> Option<u64> {
        let young = match self.young.is_empty() {
            true => None,
            false => self.young.remove(id),
        };
        match self.old.is_empty() {
            true => young,
            false => young.or_else(|| self.old.remove(id)),
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now_ms: u64) {
        if now_ms >= self.turned_ms + GENERATION_MS {
            self.turned_ms = now_ms;
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_is_forgotten_and_no_more_is_kept_than_may_be() {
        let id = |n: usize| MessageId::from_u128(n as u128);
        let mut arrivals = Arrivals::default();
        for n in 0..2 * ARRIVALS_MAX {
            arrivals.insert(id(n), n as u64);
        }
        assert_eq!(arrivals.take(&id(7)), Some(7));
        assert_eq!(arrivals.take(&id(7)), None);
        assert_eq!(arrivals.take(&id(ARRIVALS_MAX)), None);
        arrivals.tick(GENERATION_MS);
        assert_eq!(
            arrivals.take(&id(8)),
            Some(8),
            "the old ones are there still"
        );
        arrivals.tick(2 * GENERATION_MS - 1);
        assert_eq!(arrivals.take(&id(9)), Some(9));
        arrivals.tick(2 * GENERATION_MS);
        assert_eq!(arrivals.take(&id(10)), None);
    }
}
