//! The recent items of a partition, by room and offset.
//!
//! ```text
//!   items   [ a1 b7 a2 c4 a3 … ]      in the order of seq; oldest out first
//!   rooms   a -> (1, 0) (2, 2) (3, 4)   offset, place among the items
//! ```
//!
//! All items of the partition, whether the room has members here or not: so a client that comes
//! back to this instance is answered from memory. It does not read the stream; what is older is
//! [`super::recall`]'s.
//!
//! Invariants ([`PartitionLog::invariants`]): one epoch; seq rises from item to item, by one but
//! where the stream lost something; every item is in its room's index once; `bytes ≤ bytes_max`
//! unless there is a single item, where bytes count the index too.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;

use super::{Item, Place};
use crate::model::{EntryId, Epoch, RoomName};

/// Bytes that an item takes beyond its JSON: itself and its place in the index.
const ITEM_BYTES: usize = size_of::<Kept>() + size_of::<(u64, u64)>();
/// Bytes that a room takes beyond its name.
const ROOM_BYTES: usize = size_of::<(RoomName, VecDeque<(u64, u64)>)>() + 2 * size_of::<usize>();

/// Messages of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// The offsets from the one asked for on, without holes, each with its frame; as many as the
    /// page may have. None: there is no such message yet.
    Frames(Vec<(u64, Bytes)>),
    /// The first one asked for isn't here: it is to be read from the stream.
    Older,
}

#[derive(Debug)]
struct Kept {
    seq: u64,
    entry: EntryId,
    room: RoomName,
    json: Bytes,
}

/// See the module.
#[derive(Debug)]
pub struct PartitionLog {
    /// What the log begins behind, as long as it is empty; its epoch.
    origin: Option<Place>,
    items: VecDeque<Kept>,
    /// The place of `items[0]`: places stay what they are when items come or go at either end.
    front: u64,
    rooms: HashMap<RoomName, VecDeque<(u64, u64)>>,
    bytes: usize,
    bytes_max: usize,
}

impl PartitionLog {
    /// An empty log of at most `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            origin: None,
            items: VecDeque::new(),
            front: u64::MAX / 2,
            rooms: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Forgets all: what comes next is behind this.
    pub fn reset(&mut self, epoch: Epoch, seq: u64, entry: EntryId) {
        *self = Self::new(self.bytes_max);
        self.origin = Some(Place { epoch, seq, entry });
    }

    /// Takes the next item. One of a newer epoch begins the log anew; one that isn't behind the
    /// last is left out.
    pub fn push(&mut self, item: &Item) {
        let Place { epoch, seq, entry } = item.place;
        match self.origin {
            Some(origin) if origin.epoch > epoch => return,
            Some(origin) if origin.epoch == epoch => {
                if seq <= self.items.back().map_or(origin.seq, |last| last.seq) {
                    return;
                }
            }
            _ => self.reset(epoch, seq.saturating_sub(1), entry),
        }
        let place = self.front + self.items.len() as u64;
        let room = self.index(item, |offsets| offsets.push_back((item.offset, place)));
        self.items.push_back(kept(item, room));
        while self.bytes > self.bytes_max && self.items.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Takes a page of the stream, oldest first, whose last item stands just before the log's
    /// first: as many of the newest as there is room for. What does not join on is left out.
    pub fn push_front_page(&mut self, items: &[Item]) {
        let Some(epoch) = self.origin.map(|origin| origin.epoch) else {
            return;
        };
        for item in items.iter().rev() {
            let next = self.first().map_or(0, |(_, seq, _)| seq);
            let is_new_room = !self.rooms.contains_key(item.room.as_str());
            let grown = bytes_of(item, is_new_room);
            if item.place.epoch != epoch || item.place.seq.checked_add(1) != Some(next) {
                return;
            }
            if self.bytes + grown > self.bytes_max {
                return;
            }
            self.front -= 1;
            let place = self.front;
            let room = self.index(item, |offsets| offsets.push_front((item.offset, place)));
            self.items.push_front(kept(item, room));
        }
    }

    /// Where the log begins: its first item, or what the first will at least be. `None`: nothing
    /// is known yet.
    pub fn first(&self) -> Option<(Epoch, u64, EntryId)> {
        let origin = self.origin?;
        Some(match self.items.front() {
            Some(first) => (origin.epoch, first.seq, first.entry),
            None => (
                origin.epoch,
                origin.seq.saturating_add(1),
                origin.entry.next(),
            ),
        })
    }

    /// Bytes of the items and their index.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The messages of a room from offset `from` on, if they are here; `newest` is the room's last
    /// offset. A page ends with the frame that takes it to `bytes_max`.
    pub fn page(
        &self,
        room: &str,
        epoch: Epoch,
        from: u64,
        newest: u64,
        bytes_max: usize,
        count_max: usize,
    ) -> Page {
        if self.origin.is_none_or(|origin| origin.epoch != epoch) {
            return Page::Older;
        }
        let none = VecDeque::new();
        let offsets = self.rooms.get(room).unwrap_or(&none);
        let at = offsets.partition_point(|&(offset, _)| offset < from);
        let (mut frames, mut bytes) = (vec![], 0);
        for &(offset, place) in offsets.range(at..).take(count_max) {
            let Some(kept) = self.items.get((place - self.front) as usize) else {
                break;
            };
            if offset != from + frames.len() as u64 || bytes >= bytes_max {
                break;
            }
            bytes += kept.json.len();
            frames.push((offset, kept.json.clone()));
        }
        if frames.is_empty() && from <= newest {
            return Page::Older;
        }
        Page::Frames(frames)
    }

    /// From which offset on all messages of a room are here, up to `newest`, its last: the one
    /// behind that if none is.
    pub fn whole_from(&self, room: &str, epoch: Epoch, newest: u64) -> u64 {
        let is_its = self.origin.is_some_and(|origin| origin.epoch == epoch);
        let offsets = self.rooms.get(room).filter(|_| is_its);
        let last = offsets.and_then(|offsets| offsets.back());
        let (Some(offsets), Some(&(last, _))) = (offsets, last) else {
            return newest + 1;
        };
        if last < newest {
            return newest + 1;
        }
        // Behind the last hole there are as many items as offsets.
        let (mut low, mut high) = (0, offsets.len() - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match last - offsets[middle].0 == (offsets.len() - 1 - middle) as u64 {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        offsets[high].0
    }

    /// Puts an item into its room's index; returns the room's name, one allocation for all its
    /// items.
    fn index(&mut self, item: &Item, put: impl FnOnce(&mut VecDeque<(u64, u64)>)) -> RoomName {
        let known = self.rooms.get_key_value(item.room.as_str());
        let known = known.map(|(name, _)| name.clone());
        self.bytes += bytes_of(item, known.is_none());
        let room = known.unwrap_or_else(|| item.room.clone());
        put(self.rooms.entry(room.clone()).or_default());
        room
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.items.pop_front() else {
            return;
        };
        self.front += 1;
        self.bytes -= ITEM_BYTES + oldest.json.len();
        if let Some(offsets) = self.rooms.get_mut(&oldest.room) {
            offsets.pop_front();
            if offsets.is_empty() {
                self.rooms.remove(&oldest.room);
                self.bytes -= ROOM_BYTES + oldest.room.as_str().len();
            } else if offsets.len() < offsets.capacity() / 4 {
                offsets.shrink_to(offsets.len() * 2);
            }
        }
    }

    /// Checks what must hold between calls; for tests.
    pub fn invariants(&self) {
        assert!(self.bytes <= self.bytes_max || self.items.len() == 1);
        let indexed: usize = self.rooms.values().map(VecDeque::len).sum();
        assert_eq!(indexed, self.items.len());
        let mut bytes = 0;
        for (room, offsets) in &self.rooms {
            bytes += ROOM_BYTES + room.as_str().len();
            assert!(offsets.iter().is_sorted());
            for &(_, place) in offsets {
                let kept = &self.items[(place - self.front) as usize];
                assert_eq!(&kept.room, room);
                bytes += ITEM_BYTES + kept.json.len();
            }
        }
        assert_eq!(bytes, self.bytes);
        assert!(self.items.iter().map(|kept| kept.seq).is_sorted());
    }
}

fn bytes_of(item: &Item, is_new_room: bool) -> usize {
    let room = if is_new_room {
        ROOM_BYTES + item.room.as_str().len()
    } else {
        0
    };
    ITEM_BYTES + item.json.len() + room
}

fn kept(item: &Item, room: RoomName) -> Kept {
    Kept {
        seq: item.place.seq,
        entry: item.place.entry,
        room,
        json: item.json.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::MessageId;

    /// Items of four rooms, `lost` of them left out.
    fn items(count: u64, lost: &[u64]) -> Vec<Item> {
        let mut offsets = [0; 4];
        let item = |seq: u64| {
            let room = (seq * seq + seq / 3) as usize % 4;
            offsets[room] += 1;
            Item {
                place: Place {
                    epoch: Epoch::new(1, 0),
                    seq,
                    entry: EntryId { ms: seq, n: 0 },
                },
                room: RoomName::parse(["a", "b", "c", "d"][room]).unwrap(),
                offset: offsets[room],
                id: MessageId::nil(),
                json: Bytes::from(vec![b'1'; seq as usize % 50]),
            }
        };
        let items: Vec<_> = (1..=count).map(item).collect();
        let kept = |item: &Item| !lost.contains(&item.place.seq);
        items.into_iter().filter(kept).collect()
    }

    /// The page as a look at every item gives it.
    fn naive(log: &[Item], room: &str, from: u64, newest: u64, bounds: (usize, usize)) -> Page {
        let (mut frames, mut bytes) = (vec![], 0);
        for item in log.iter().filter(|item| item.room.as_str() == room) {
            let is_next = item.offset == from + frames.len() as u64;
            if is_next && bytes < bounds.0 && frames.len() < bounds.1 {
                bytes += item.json.len();
                frames.push((item.offset, item.json.clone()));
            }
        }
        match frames.is_empty() && from <= newest {
            true => Page::Older,
            false => Page::Frames(frames),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn pages_are_what_a_look_at_every_item_gives(
            (count, start) in (1..80_u64, 0..80_u64),
            bytes_max in 1..8000_usize,
            lost in proptest::collection::vec(1..80_u64, 0..3),
            pages in proptest::collection::vec(1..30_usize, 0..6),
            (from, bounds) in (1..12_u64, (1..200_usize, 1..9_usize)),
        ) {
            let (items, epoch) = (items(count, &lost), Epoch::new(1, 0));
            let split = items.partition_point(|item| item.place.seq <= start);
            let mut log = PartitionLog::new(bytes_max);
            log.reset(epoch, start, EntryId { ms: start, n: 0 });
            let mut kept: Vec<Item> = vec![];
            for item in &items[split..] {
                log.push(item);
                log.push(item);
                log.invariants();
                kept.push(item.clone());
            }
            kept.drain(..kept.len() - log.items.len());
            let mut end = items.len() - kept.len();
            for len in pages {
                let page = &items[end.saturating_sub(len)..end];
                let before = log.items.len();
                log.push_front_page(page);
                log.invariants();
                let grown = log.items.len() - before;
                let joined = &page[page.len() - grown..];
                kept.splice(0..0, joined.iter().cloned());
                if grown < page.len() {
                    break;
                }
                end -= grown;
            }
            let seqs: Vec<_> = kept.iter().map(|item| item.place.seq).collect();
            prop_assert_eq!(log.items.iter().map(|kept| kept.seq).collect::<Vec<_>>(), seqs);
            let first = log.first().unwrap().1;
            prop_assert_eq!(first, kept.first().map_or(start + 1, |item| item.place.seq));
            for room in ["a", "b", "c", "d"] {
                let of_room = items.iter().filter(|item| item.room.as_str() == room);
                let newest = of_room.last().map_or(0, |item| item.offset);
                let page = log.page(room, epoch, from, newest, bounds.0, bounds.1);
                prop_assert_eq!(page, naive(&kept, room, from, newest, bounds));
                let mut whole_from = newest + 1;
                for item in kept.iter().rev().filter(|item| item.room.as_str() == room) {
                    whole_from -= u64::from(item.offset + 1 == whole_from);
                }
                prop_assert_eq!(log.whole_from(room, epoch, newest), whole_from);
            }
        }
    }

    #[test]
    fn an_epoch_begins_the_log_anew() {
        let mut log = PartitionLog::new(1 << 20);
        assert_eq!(log.first(), None);
        assert_eq!(log.page("a", Epoch::new(1, 0), 1, 0, 9, 9), Page::Older);
        let mut items = items(9, &[]);
        items.iter().for_each(|item| log.push(item));
        items[8].place = Place {
            epoch: Epoch::new(2, 0),
            seq: 1,
            entry: EntryId { ms: 3, n: 0 },
        };
        log.push(&items[8]);
        log.push(&items[5]);
        log.push_front_page(&items[..8]);
        log.invariants();
        assert_eq!((log.items.len(), log.first().unwrap().1), (1, 1));
        let room = items[8].room.as_str();
        let page = |epoch, from| log.page(room, Epoch::new(epoch, 0), from, 9, 9, 9);
        assert_eq!(page(1, items[8].offset), Page::Older);
        assert!(matches!(page(2, items[8].offset), Page::Frames(it) if it.len() == 1));
        let whole_from = |epoch, newest| log.whole_from(room, Epoch::new(epoch, 0), newest);
        let offset = items[8].offset;
        assert_eq!(whole_from(2, offset), offset);
        assert_eq!(
            whole_from(2, offset + 1),
            offset + 2,
            "the last is not here"
        );
        assert_eq!(whole_from(1, offset), offset + 1, "another epoch");
    }
}
