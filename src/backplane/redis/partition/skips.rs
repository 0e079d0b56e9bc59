//! Whose messages are not to be delivered to themselves, until they are delivered.
//!
//! What Redis has lost is never delivered, and what was refused may be, as nobody knows whether it
//! was stored. So who is no longer waited for is looked at now and then, and forgotten if it was
//! already so the last time.

use hashbrown::{HashMap, HashSet};

use crate::model::MessageId;

/// How long who is not waited for is remembered at least, in ms, and half of how long at most. A
/// message comes a moment after its ack; one of a gap as soon as that is mended.
const LOOK_MS: u64 = 60_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Skips<T> {
    /// With whether it was not waited for when it was looked at.
    all: HashMap<MessageId, (T, bool)>,
    looked_ms: u64,
}

impl<T> Default for Skips<T> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            looked_ms: 0,
        }
    }
}

impl<T> Skips<T> {
    /// It is not to be delivered to its publisher.
    pub(super) fn insert(&mut self, id: MessageId, publisher: T) {
        self.all.insert(id, (publisher, false));
    }

    /// It is delivered, or never will be: to whom not.
    pub(super) fn take(&mut self, id: &MessageId) -> Option<T> {
        match self.all.is_empty() {
            true => None,
            false => self.all.remove(id).map(|(publisher, _)| publisher),
        }
    }

    /// Time has passed, in which nothing was late. `waiting`: which are not settled.
    pub(super) fn tick<'a>(&mut self, now_ms: u64, waiting: impl Iterator<Item = &'a MessageId>) {
        if self.all.is_empty() || now_ms < self.looked_ms + LOOK_MS {
            return;
        }
        self.looked_ms = now_ms;
        let waiting: HashSet<&MessageId> = waiting.collect();
        self.all.retain(|id, (_, was_gone)| {
            let is_gone = !waiting.contains(id);
            let is_forgotten = is_gone && *was_gone;
            *was_gone = is_gone;
            !is_forgotten
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_delivered_is_forgotten_and_what_is_waited_for_is_not() {
        let id = |n: u128| MessageId::from_u128(n);
        let mut skips = Skips::default();
        for n in 1..=3 {
            skips.insert(id(n), n);
        }
        assert_eq!((skips.take(&id(1)), skips.take(&id(1))), (Some(1), None));
        skips.tick(LOOK_MS, [id(2)].iter());
        skips.tick(LOOK_MS + 1, [].iter());
        skips.insert(id(4), 4);
        assert_eq!(skips.all.len(), 3);
        skips.tick(2 * LOOK_MS, [id(2)].iter());
        assert_eq!(skips.take(&id(3)), None, "it was lost");
        assert_eq!(skips.take(&id(2)), Some(2), "it is held for long");
        assert_eq!(skips.take(&id(4)), Some(4), "it has just come");
    }
}
