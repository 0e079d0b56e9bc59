//! One page of the stream, read by [`super::order`] or [`super::recall`], and how many entries the
//! next one is to have.

use super::Item;
use crate::model::EntryId;
use crate::model::limits::{READ_BYTES_AIM, READ_ENTRIES_MAX};

/// What a read of the stream gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPage {
    /// The items in stream order, oldest first, whichever way was read. Entries of foreign writers
    /// and damaged ones are left out.
    pub items: Vec<Item>,
    /// The entry at which reading goes on: the page's last, or its first when read backwards.
    /// Whoever wrote it, so that a page of foreign entries only is got past.
    pub reached: Option<EntryId>,
    /// The page has fewer entries than were asked for, so there is nothing beyond it.
    pub end: bool,
}

/// How many entries to ask for, so that a page has about [`READ_BYTES_AIM`] bytes however long the
/// entries are.
#[derive(Clone, Copy, Debug)]
pub struct PageSize(usize);

impl PageSize {
    /// As long as nothing is known of the entries.
    pub fn new() -> Self {
        Self(READ_ENTRIES_MAX / 10)
    }

    /// Entries to ask for: 1 to [`READ_ENTRIES_MAX`].
    pub fn count(self) -> usize {
        self.0
    }

    /// Learns from a page: at most twice as many the next time, as few as need be at once.
    pub fn learn(&mut self, items: &[Item]) {
        let bytes: usize = items.iter().map(|item| item.json.len()).sum();
        if !items.is_empty() {
            let fitting = READ_BYTES_AIM / (bytes / items.len()).max(1);
            self.0 = fitting.clamp(1, READ_ENTRIES_MAX.min(self.0 * 2));
        }
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backplane::redis::Place;
    use crate::model::{Epoch, MessageId, RoomName};

    #[test]
    fn pages_are_as_long_as_their_entries_are_short() {
        let items = |bytes: usize| {
            let item = Item {
                place: Place {
                    epoch: Epoch::new(1, 1),
                    seq: 1,
                    entry: EntryId::default(),
                },
                room: RoomName::parse("a").unwrap(),
                offset: 1,
                id: MessageId::nil(),
                json: Bytes::from(vec![b'1'; bytes]),
            };
            vec![item; 10]
        };
        let mut size = PageSize::new();
        let mut counts = vec![];
        for bytes in [100, 100, 100, 100, 100, READ_BYTES_AIM * 2, 1, 1] {
            size.learn(&items(bytes));
            counts.push(size.count());
        }
        assert_eq!(counts, [200, 400, 800, 1000, 1000, 1, 2, 4]);
    }
}
