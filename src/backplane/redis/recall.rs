//! Reading the stream for those who come back, once for all who wait.
//!
//! ```text
//!   stream  [ ………… a5 b2 a6 c9 b3 ………… ] partition log …
//!                  ◀── back: looks for the first offset wanted, all rooms at once
//!              bookmark ──▶ forward: a room's next page, all rooms that it comes by
//! ```
//!
//! A client tells an offset, not an entry. So its place is looked for backwards from where the
//! partition log began when the page was wanted; only the oldest page-full of each room is kept
//! on the way. Where a page begins and ends is remembered (bookmarks): the room's next one, and
//! the same again, are read forward from there. So who did not wait for its page, and asks again,
//! does not have the search begin anew. Whoever wants a page while a backward pass is under way
//! joins it; if what it wants turns out to be newer than where it joined, it is read forward from
//! there. While both ways are wanted they take turns. No I/O, and no clock: who has waited too
//! long is the caller's matter.
//!
//! Invariants: one read at a time; at most [`RECALL_WAITING_MAX`] wait; once a page is dealt with
//! the frames collected have at most [`RECALL_BYTES_MAX`] bytes, and one frame a want (who has most
//! gives back, newest first); each want has one [`Recalled`]; its frames begin with the offset
//! wanted and have no holes.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;

use super::Item;
use super::stream_page::{PageSize, StreamPage};
use crate::model::limits::{
    PAGE_BYTES_MAX, PAGE_PUBLICATIONS_MAX, RECALL_BOOKMARKS_MAX, RECALL_BYTES_MAX,
    RECALL_WAITING_MAX,
};
use crate::model::{EntryId, Epoch, RoomName};

/// A read of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRead {
    /// `XREVRANGE stream (before - COUNT count`.
    Back {
        /// From the entry before this one, backwards.
        before: EntryId,
        /// So many entries.
        count: usize,
    },
    /// `XRANGE stream from + COUNT count`.
    Forward {
        /// From this entry on.
        from: EntryId,
        /// So many entries.
        count: usize,
    },
}

/// Why there are no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecallError {
    /// Not in the stream any more: answer `recovered:false`.
    #[error("the stream does not reach back so far")]
    Lost {
        /// The room's first offset that it has, if one was met.
        first: Option<u64>,
    },
    /// The stream can't be read now, or too many wait: answer `unavailable`.
    #[error("the stream can't be read now; try again later")]
    Unavailable,
}

/// What became of a want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// The room.
    pub room: RoomName,
    /// The epoch that was wanted.
    pub epoch: Epoch,
    /// The offset that was wanted.
    pub from: u64,
    /// Offsets and frames, from `from` on.
    pub result: Result<Vec<(u64, Bytes)>, RecallError>,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Seen: all from `joined` down to the pass's cursor; `None`: waits to join.
    Back { joined: Option<EntryId> },
    /// Seen: all below.
    Forward { at: EntryId },
}

#[derive(Debug)]
struct Want {
    epoch: Epoch,
    from: u64,
    newest: u64,
    /// Where the partition log began: what is wanted stands before it.
    before: EntryId,
    /// What stands below it is looked for elsewhere.
    floor: EntryId,
    way: Way,
    /// Takes part in the read under way.
    is_reading: bool,
    /// Offset, entry, frame: without holes.
    frames: VecDeque<(u64, EntryId, Bytes)>,
    bytes: usize,
    /// The lowest offset met that is wanted.
    lowest: Option<u64>,
    done: Option<Result<(), RecallError>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Recall {
    wants: HashMap<RoomName, Vec<Want>>,
    waiting: usize,
    reading: Option<StreamRead>,
    back_cursor: Option<EntryId>,
    forward_cursor: Option<EntryId>,
    bookmarks: HashMap<(RoomName, Epoch, u64), EntryId>,
    bookmarks_order: VecDeque<(RoomName, Epoch, u64)>,
    size: PageSize,
    was_back: bool,
    passes: u64,
}

impl Recall {
    /// Nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// The messages of a room from offset `from` on are wanted; they were not in the partition
    /// log, which began at the entry `before`. `newest` is the room's last offset; nothing need be
    /// looked for below the entry `floor`. False: too many wait. The same page wanted twice comes
    /// once.
    pub fn want(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
        from: u64,
        newest: u64,
        before: EntryId,
        floor: EntryId,
    ) -> bool {
        let same = |want: &Want| (want.epoch, want.from) == (epoch, from);
        if self.wants.get(room).is_some_and(|it| it.iter().any(same)) {
            return true;
        }
        if self.waiting >= RECALL_WAITING_MAX {
            return false;
        }
        let way = match self.bookmarks.get(&(room.clone(), epoch, from)) {
            Some(&at) => Way::Forward { at },
            None => Way::Back { joined: None },
        };
        self.waiting += 1;
        self.wants.entry(room.clone()).or_default().push(Want {
            epoch,
            from,
            newest,
            before,
            floor,
            way,
            is_reading: false,
            frames: VecDeque::new(),
            bytes: 0,
            lowest: None,
            done: None,
        });
        true
    }

    /// Whether it is known where in the stream that page begins.
    pub fn knows_place(&self, room: &RoomName, epoch: Epoch, from: u64) -> bool {
        let key = (room.clone(), epoch, from);
        self.bookmarks.contains_key(&key)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Passes through the stream that were begun.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// What is to be read, if anything. Changes with every other call.
    pub fn poll_read(&mut self) -> Option<StreamRead> {
        if self.reading.is_some() || self.waiting == 0 {
            return None;
        }
        self.reading = if self.was_back {
            self.begin_forward().or_else(|| self.begin_back())
        } else {
            self.begin_back().or_else(|| self.begin_forward())
        };
        self.was_back = matches!(self.reading, Some(StreamRead::Back { .. }));
        self.reading
    }

    /// The page that was to be read.
    pub fn on_page(&mut self, page: &StreamPage, out: &mut Vec<Recalled>) {
        let Some(read) = self.reading.take() else {
            return;
        };
        self.size.learn(&page.items);
        match read {
            StreamRead::Back { before, .. } => {
                for item in page.items.iter().rev() {
                    self.each_of(item, |want| want.meet_back(item));
                }
                self.back_cursor = Some(page.reached.unwrap_or(before));
                let oldest = page.items.first().map(|item| item.place.epoch);
                self.each_reading(|want| {
                    let is_below = page.reached.is_some_and(|reached| reached < want.floor);
                    if page.end || is_below || oldest.is_some_and(|oldest| oldest < want.epoch) {
                        want.begin_reached();
                    }
                });
            }
            StreamRead::Forward { from, .. } => {
                for item in &page.items {
                    self.each_of(item, |want| want.meet_forward(item));
                }
                let next = page.reached.map_or(from, EntryId::next);
                self.forward_cursor = Some(next);
                self.each_reading(|want| {
                    let is_met = matches!(want.way, Way::Forward { at } if at < next);
                    if is_met {
                        want.way = Way::Forward { at: next };
                    }
                    if page.end || is_met && next >= want.before {
                        want.end_reached();
                    }
                });
            }
        }
        self.give_back();
        self.settle(out);
    }

    /// The page could not be read: all who wait are told so.
    pub fn on_failed(&mut self, out: &mut Vec<Recalled>) {
        self.reading = None;
        for want in self.wants.values_mut().flatten() {
            want.done = Some(Err(RecallError::Unavailable));
        }
        self.settle(out);
    }

    /// Goes on backwards, or begins anew with those who have not joined.
    fn begin_back(&mut self) -> Option<StreamRead> {
        let ways = || self.wants.values().flatten();
        let is_under_way = ways().any(|want| matches!(want.way, Way::Back { joined: Some(_) }));
        let newest = ways().filter(|want| matches!(want.way, Way::Back { .. }));
        let newest = newest.map(|want| want.before).max()?;
        let before = match self.back_cursor.filter(|_| is_under_way) {
            Some(cursor) => cursor,
            None => {
                self.passes += 1;
                newest
            }
        };
        for want in self.wants.values_mut().flatten() {
            if let Way::Back { joined } = &mut want.way {
                joined.get_or_insert(before);
                want.is_reading = true;
            }
        }
        let count = self.size.count();
        Some(StreamRead::Back { before, count })
    }

    /// Goes on to who is next ahead, or begins anew with who is furthest behind.
    fn begin_forward(&mut self) -> Option<StreamRead> {
        let at = |want: &Want| match want.way {
            Way::Forward { at } => Some(at),
            Way::Back { .. } => None,
        };
        let all = || self.wants.values().flatten().filter_map(at);
        let ahead = all()
            .filter(|&at| self.forward_cursor.is_some_and(|it| it <= at))
            .min();
        let from = match ahead {
            Some(from) => from,
            None => {
                let from = all().min()?;
                self.passes += 1;
                from
            }
        };
        for want in self.wants.values_mut().flatten() {
            // Those whose place the page may come by; `meet_forward` looks at each entry.
            want.is_reading = at(want) >= Some(from);
        }
        let count = self.size.count();
        Some(StreamRead::Forward { from, count })
    }

    fn each_of(&mut self, item: &Item, mut act: impl FnMut(&mut Want)) {
        let wants = self.wants.get_mut(item.room.as_str());
        for want in wants.into_iter().flatten() {
            if want.is_reading && want.done.is_none() {
                act(want);
            }
        }
    }

    fn each_reading(&mut self, mut act: impl FnMut(&mut Want)) {
        for want in self.wants.values_mut().flatten() {
            if std::mem::take(&mut want.is_reading) && want.done.is_none() {
                act(want);
            }
        }
    }

    /// Keeps what is collected within its bound: whoever has most gives its newest back.
    fn give_back(&mut self) {
        let all = || self.wants.values().flatten();
        let total: usize = all().map(|want| want.bytes).sum();
        if total <= RECALL_BYTES_MAX {
            return;
        }
        let mut share = PAGE_BYTES_MAX;
        while all().map(|want| want.bytes.min(share)).sum::<usize>() > RECALL_BYTES_MAX * 7 / 8 {
            share /= 2;
        }
        for want in self.wants.values_mut().flatten() {
            want.shorten(share);
        }
    }

    /// Tells those who are done, and remembers where their pages end.
    fn settle(&mut self, out: &mut Vec<Recalled>) {
        let mut bookmarks = vec![];
        self.wants.retain(|room, wants| {
            for mut want in wants.extract_if(.., |want| want.done.is_some()) {
                self.waiting -= 1;
                let ended = want.done.take().unwrap_or(Err(RecallError::Unavailable));
                if let (Ok(()), Some(&(_, begin, _)), Some(&(last, end, _))) =
                    (ended, want.frames.front(), want.frames.back())
                {
                    bookmarks.push(((room.clone(), want.epoch, want.from), begin));
                    bookmarks.push(((room.clone(), want.epoch, last + 1), end.next()));
                }
                let frames = want
                    .frames
                    .into_iter()
                    .map(|(offset, _, json)| (offset, json));
                out.push(Recalled {
                    room: room.clone(),
                    epoch: want.epoch,
                    from: want.from,
                    result: ended.map(|()| frames.collect()),
                });
            }
            !wants.is_empty()
        });
        for (key, entry) in bookmarks {
            if self.bookmarks.insert(key.clone(), entry).is_none() {
                self.bookmarks_order.push_back(key);
            }
            if self.bookmarks_order.len() > RECALL_BOOKMARKS_MAX
                && let Some(oldest) = self.bookmarks_order.pop_front()
            {
                self.bookmarks.remove(&oldest);
            }
        }
    }
}

impl Want {
    /// An entry of the room, read backwards.
    fn meet_back(&mut self, item: &Item) {
        if item.place.epoch != self.epoch {
            return;
        }
        if item.offset < self.from {
            self.begin_reached();
            return;
        }
        // A hole ends what goes before it.
        if self.lowest != item.offset.checked_add(1) {
            self.frames.clear();
            self.bytes = 0;
        }
        self.lowest = Some(item.offset);
        let front = self.frames.front().map(|&(offset, ..)| offset);
        debug_assert!(front.is_none_or(|front| front == item.offset + 1));
        self.bytes += item.json.len();
        self.frames
            .push_front((item.offset, item.place.entry, item.json.clone()));
        while self.frames.len() > PAGE_PUBLICATIONS_MAX {
            self.pop_newest();
        }
        self.shorten(PAGE_BYTES_MAX);
        if item.offset == self.from {
            self.done = Some(Ok(()));
        }
    }

    /// Nothing further back is wanted.
    fn begin_reached(&mut self) {
        match (self.lowest, self.way) {
            // All between where it joined and where the log began is still to be looked at.
            (None, Way::Back { joined: Some(at) }) if at < self.before => {
                self.way = Way::Forward { at };
                self.is_reading = false;
            }
            (first, _) => self.done = Some(Err(RecallError::Lost { first })),
        }
    }

    /// An entry of the room, read forward.
    fn meet_forward(&mut self, item: &Item) {
        let Way::Forward { at } = self.way else {
            return;
        };
        if item.place.epoch > self.epoch {
            self.end_reached();
            return;
        }
        let is_older = item.place.epoch < self.epoch || item.offset < self.from;
        if is_older || item.place.entry < at {
            return;
        }
        let next = self.frames.back().map_or(self.from, |last| last.0 + 1);
        self.lowest = self.lowest.or(Some(item.offset));
        if item.offset != next {
            self.end_reached();
            return;
        }
        self.bytes += item.json.len();
        self.frames
            .push_back((item.offset, item.place.entry, item.json.clone()));
        if self.bytes >= PAGE_BYTES_MAX
            || self.frames.len() >= PAGE_PUBLICATIONS_MAX
            || item.offset >= self.newest
        {
            self.done = Some(Ok(()));
        }
    }

    /// Nothing further on is wanted.
    fn end_reached(&mut self) {
        self.done = Some(match self.frames.is_empty() {
            true => Err(RecallError::Lost { first: self.lowest }),
            false => Ok(()),
        });
    }

    /// Gives the newest frames back, but for the last: what is read forward is a page then.
    fn shorten(&mut self, bytes_max: usize) {
        let before = self.frames.len();
        while self.bytes > bytes_max && self.frames.len() > 1 {
            self.pop_newest();
        }
        if self.frames.len() < before && matches!(self.way, Way::Forward { .. }) {
            self.done = Some(Ok(()));
        }
    }

    fn pop_newest(&mut self) {
        if let Some((_, _, json)) = self.frames.pop_back() {
            self.bytes -= json.len();
        }
    }
}

#[cfg(test)]
mod tests;
