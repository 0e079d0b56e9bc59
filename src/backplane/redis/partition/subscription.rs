//! Whether what the channel brings is of the Redis that has answered for what is known.
//!
//! ```text
//!   commands:    ready ───────────────▶ hello asked ─▶ answered
//!   subscriber:        connect ─▶ subscribed ┘             └─▶ proved: what was held counts
//! ```
//!
//! A Redis that comes back with less gives numbers anew, and what the one before had sent may
//! still be on its way. If that moved the known place behind the greeting's back, its loss would
//! never be found, and a message acked by it would be lost within the epoch. So nothing counts that
//! a subscription brings until a question is answered that was asked behind it, by a commands link
//! that has greeted: whoever answers is the same Redis, for the subscription is younger than the
//! link. And a new commands link ends the subscription before it greets.
//!
//! What comes before that is held: it is a cache, as the stream has it too. Which is also why the
//! oldest goes first if it is too much: what comes behind shows the hole.
//!
//! Invariants: what is held is of this subscription, and of no proved one;
//! `held.len() ≤ HELD_ITEMS_MAX`, bytes held `≤ HELD_BYTES_MAX`.

use std::collections::VecDeque;

use crate::backplane::redis::Item;
use crate::model::limits::{HELD_BYTES_MAX, HELD_ITEMS_MAX};

/// A subscription, counted from the start; for who asks something behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscribed(u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    channels: [bool; 2],
    count: u64,
    is_proved: bool,
    held: VecDeque<Item>,
    held_bytes: usize,
}

impl Subscription {
    /// One of the channels is subscribed.
    pub(super) fn on_channel(&mut self, at: usize) {
        self.channels[at] = true;
    }

    /// The subscription, if both channels are.
    pub(super) fn subscribed(&self) -> Option<Subscribed> {
        (self.channels == [true; 2]).then_some(Subscribed(self.count))
    }

    /// Whether what it brings counts.
    pub(super) fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// It is over, and what it brought that did not count yet is forgotten.
    pub(super) fn on_end(&mut self) {
        *self = Self {
            count: self.count + 1,
            ..Self::default()
        };
    }

    /// An item came. Returned: it counts.
    pub(super) fn on_item(&mut self, item: Item) -> Option<Item> {
        if self.is_proved {
            return Some(item);
        }
        self.held_bytes += item.json.len();
        self.held.push_back(item);
        while (self.held.len() > HELD_ITEMS_MAX || self.held_bytes > HELD_BYTES_MAX)
            && let Some(oldest) = self.held.pop_front()
        {
            self.held_bytes -= oldest.json.len();
        }
        None
    }

    /// What was asked behind that subscription is answered. Returned: what was held counts now.
    pub(super) fn on_answered(&mut self, asked_behind: Option<Subscribed>) -> VecDeque<Item> {
        if asked_behind.is_none() || asked_behind != self.subscribed() {
            return VecDeque::new();
        }
        self.is_proved = true;
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backplane::redis::Place;
    use crate::model::{EntryId, Epoch, MessageId, RoomName};

    fn item(seq: u64, bytes: usize) -> Item {
        Item {
            place: Place {
                epoch: Epoch::new(1, 0),
                seq,
                entry: EntryId { ms: seq, n: 0 },
            },
            room: RoomName::parse("r").unwrap(),
            offset: seq,
            id: MessageId::nil(),
            json: Bytes::from(vec![b'1'; bytes]),
        }
    }

    fn subscribe(subscription: &mut Subscription) -> Option<Subscribed> {
        subscription.on_channel(0);
        assert_eq!(subscription.subscribed(), None, "one channel is not enough");
        subscription.on_channel(1);
        subscription.subscribed()
    }

    #[test]
    fn nothing_counts_before_the_answer_to_what_was_asked_behind_it() {
        let mut subscription = Subscription::default();
        let asked_before = subscription.subscribed();
        assert_eq!(subscription.on_item(item(1, 9)), None);
        let subscribed = subscribe(&mut subscription);
        assert_eq!(subscription.on_item(item(2, 9)), None);
        assert_eq!(subscription.on_answered(asked_before), []);
        assert_eq!(subscription.on_item(item(3, 9)), None);
        let counts = subscription.on_answered(subscribed);
        assert_eq!(counts, [item(1, 9), item(2, 9), item(3, 9)]);
        assert_eq!(subscription.on_item(item(4, 9)), Some(item(4, 9)));
        assert_eq!(subscription.on_answered(subscribed), []);
    }

    #[test]
    fn an_answer_proves_no_later_subscription_and_what_an_earlier_one_brought_is_forgotten() {
        let mut subscription = Subscription::default();
        let first = subscribe(&mut subscription);
        assert_eq!(subscription.on_item(item(1, 9)), None);
        subscription.on_end();
        let second = subscribe(&mut subscription);
        assert_eq!(subscription.on_item(item(2, 9)), None);
        assert_eq!(subscription.on_answered(first), []);
        assert!(!subscription.is_proved());
        assert_eq!(subscription.on_answered(second), [item(2, 9)]);
        assert!(subscription.is_proved());
        subscription.on_end();
        assert!(!subscription.is_proved());
    }

    #[test]
    fn what_is_held_has_a_bound_and_the_oldest_goes_first() {
        for (count, bytes) in [(HELD_ITEMS_MAX, 0), (16, HELD_BYTES_MAX / 16)] {
            let mut subscription = Subscription::default();
            let subscribed = subscribe(&mut subscription);
            for seq in 1..=count as u64 + 2 {
                assert_eq!(subscription.on_item(item(seq, bytes)), None);
            }
            let held = subscription.on_answered(subscribed);
            let seqs: Vec<u64> = held.iter().map(|item| item.place.seq).collect();
            assert_eq!(seqs, (3..=count as u64 + 2).collect::<Vec<_>>());
        }
    }
}
