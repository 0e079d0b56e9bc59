//! Places that Redis has told of and whose items are not passed on yet.
//!
//! ```text
//!   a call's reply, a poll ─ 7 at 5-0 ─▶ told            an item: 7 at 9-0 ─▶ of another line
//! ```
//!
//! A call is answered with the place of its last message, and that is acked; its item may come
//! much later. If Redis has lost it meanwhile and goes on within the epoch, another one's item
//! comes with its number. By then later calls may be answered, whose places are of the other line
//! and show nothing. So each place is remembered until an item with its number, or one behind it,
//! is passed on.
//!
//! Invariants: they rise; `len ≤ TOLD_MAX`.

use std::collections::VecDeque;

use crate::backplane::redis::Place;
use crate::backplane::redis::order::contradict;
use crate::model::EntryId;
use crate::model::limits::TOLD_MAX;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Told {
    places: VecDeque<Place>,
}

impl Told {
    /// Redis says so, and the item is not passed on.
    pub(super) fn insert(&mut self, place: Place) {
        let is_behind = |last: &Place| (last.epoch, last.seq) < (place.epoch, place.seq);
        if place.entry == EntryId::default() || !self.places.back().is_none_or(is_behind) {
            return;
        }
        if self.places.len() == TOLD_MAX {
            // The oldest stays: nothing else shows that it was lost.
            self.places.pop_back();
        }
        self.places.push_back(place);
    }

    /// Whether an item that comes is of another line, as far as the first and the last one show it.
    pub(super) fn contradicts(&self, item: Place) -> bool {
        let mut ends = self.places.front().into_iter().chain(self.places.back());
        ends.any(|&place| contradict(place, item))
    }

    /// An item is passed on. Returned: whether it is of another line.
    pub(super) fn on_passed(&mut self, item: Place) -> bool {
        let mut is_other = self.contradicts(item);
        while let Some(&place) = self.places.front()
            && (place.epoch, place.seq) <= (item.epoch, item.seq)
        {
            is_other |= contradict(place, item);
            self.places.pop_front();
        }
        is_other
    }

    /// What is there from now on is for a greeting to say.
    pub(super) fn clear(&mut self) {
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    fn place(epoch: u64, seq: u64, ms: u64) -> Place {
        Place {
            epoch: Epoch::new(epoch, 0),
            seq,
            entry: EntryId { ms, n: 0 },
        }
    }

    fn told() -> Told {
        let mut told = Told::default();
        for seq in [3, 5, 8] {
            told.insert(place(1, seq, 10 * seq));
        }
        told
    }

    #[test]
    fn each_place_is_held_against_the_item_with_its_number() {
        let mut ours = told();
        for seq in 1..=9 {
            let item = place(1, seq, 10 * seq);
            assert!(!ours.contradicts(item) && !ours.on_passed(item), "{seq}");
        }
        assert!(ours.places.is_empty());
        for (from, found) in [(3, 3), (4, 5), (5, 5), (6, 8), (8, 8)] {
            let mut told = told();
            let item = |seq| match seq < from {
                true => place(1, seq, 10 * seq),
                // Theirs are soon behind all of ours.
                false => place(1, seq, 10 * seq + 1),
            };
            let others: Vec<_> = (1..=9).filter(|&seq| told.on_passed(item(seq))).collect();
            assert_eq!(others.first(), Some(&found), "from {from} on");
        }
        // Later than all of ours: seen at once.
        assert!(told().contradicts(place(1, 4, 99)));
        assert!(!told().contradicts(place(2, 4, 99)), "of another epoch");
        let mut told = told();
        assert!(!told.on_passed(place(2, 1, 99)));
        assert!(told.places.is_empty());
    }

    #[test]
    fn what_is_not_known_or_not_behind_is_not_remembered_and_there_is_a_bound() {
        let mut told = told();
        told.insert(place(1, 8, 99));
        told.insert(place(1, 7, 70));
        told.insert(Place {
            entry: EntryId::default(),
            ..place(1, 9, 0)
        });
        assert_eq!(told.places.len(), 3);
        for seq in 9..TOLD_MAX as u64 + 20 {
            told.insert(place(1, seq, 10 * seq));
        }
        assert_eq!(told.places.len(), TOLD_MAX);
        let last = TOLD_MAX as u64 + 19;
        assert_eq!(told.places[0], place(1, 3, 30));
        assert_eq!(told.places.back(), Some(&place(1, last, 10 * last)));
    }
}
