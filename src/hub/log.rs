//! The room log: a room's recent frames on one shard, encoded once.
//!
//! The centre of the fan-out. Members hold cursors into it, not queues of their own; a sweep sends
//! each member one slice of it. It is bounded from outside: [`crate::hub::Hub`] drops whole chunks
//! from the front, oldest of all rooms first.
//!
//! What was appended since a sweep is sent to nearly every member, so it is kept together in one
//! chunk where it can be: at a chunk's end it moves to the next one. A copy of a turn's frames
//! costs less than one more send, and it would be one more for each member.
//!
//! Not a history: what is dropped is read from the store. Only frames with offsets are in it.
//!
//! Invariants ([`RoomLog::invariants`]): `first ≤ next`; the chunks cover `first .. next` without
//! hole or overlap; none is empty. Every frame before `lost_before` was never here.

use std::collections::VecDeque;

use super::chunk::Chunk;
use crate::model::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};

/// A room's recent frames: `first .. next`.
#[derive(Debug)]
pub struct RoomLog {
    chunks: VecDeque<Chunk>,
    next: u64,
    lost_before: u64,
    /// Nearly all members have what lies before this offset.
    swept: u64,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of memory that the log takes more than before.
    pub grown: usize,
    /// The first offset of a chunk that was begun, if one was.
    pub chunk: Option<u64>,
}

impl RoomLog {
    /// An empty log whose first frame will have the offset `next`.
    pub fn new(next: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            next,
            lost_before: next,
            swept: next,
        }
    }

    /// The offset of the oldest frame kept; `next` where none is.
    pub fn first(&self) -> u64 {
        self.chunks.front().map_or(self.next, Chunk::first)
    }

    /// The offset that the next frame will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Frames below this offset never came here: whoever waits for them lost them through no fault
    /// of its own.
    pub fn lost_before(&self) -> u64 {
        self.lost_before
    }

    /// Whether every frame from `offset` on is here or still to come.
    pub fn reaches_back_to(&self, offset: u64) -> bool {
        offset >= self.first()
    }

    /// Appends the frame at `next`.
    pub fn push(&mut self, frame: &[u8]) -> Pushed {
        let mut pushed = Pushed {
            grown: 0,
            chunk: None,
        };
        if !self
            .chunks
            .back()
            .is_some_and(|chunk| chunk.fits(frame.len()))
        {
            let before = self.chunks.back().map_or(0, Chunk::capacity);
            let capacity = (before * 2)
                .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
                .max(frame.len());
            let chunk = self.begin_chunk(capacity, frame.len());
            pushed.chunk = Some(chunk.first());
            self.chunks.push_back(chunk);
        }
        if let Some(chunk) = self.chunks.back_mut() {
            let before = if pushed.chunk.is_some() {
                0
            } else {
                chunk.footprint()
            };
            chunk.push(frame);
            pushed.grown = chunk.footprint() - before;
        }
        self.next += 1;
        pushed
    }

    /// The next chunk, for a frame of `bytes` and what must stay together with it.
    fn begin_chunk(&mut self, capacity: usize, bytes: usize) -> Chunk {
        match self.chunks.back_mut() {
            // Something stays behind, and all has room.
            Some(last)
                if last.first() < self.swept
                    && last.covers(self.swept)
                    && last.from(self.swept).len() + bytes <= capacity =>
            {
                last.split_off(self.swept, capacity)
            }
            _ => Chunk::with_capacity(self.next, capacity),
        }
    }

    /// All members who take bytes were offered what lies before this offset.
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// All members who take bytes have what lies before `offset`.
    pub fn swept_to(&mut self, offset: u64) {
        self.swept = offset;
    }

    /// Frames up to `next` will never come: drops all and goes on at `next`. Returns bytes freed.
    pub fn skip_to(&mut self, next: u64) -> usize {
        let freed = self.footprint();
        self.chunks.clear();
        self.next = next;
        self.lost_before = next;
        self.swept = next;
        freed
    }

    /// Drops the oldest chunk if it begins at `first`. Returns bytes freed.
    pub fn drop_chunk(&mut self, first: u64) -> usize {
        match self.chunks.front() {
            Some(chunk) if chunk.first() == first => {
                self.chunks.pop_front().map_or(0, |chunk| chunk.footprint())
            }
            _ => 0,
        }
    }

    /// The chunk that holds the frame at `offset`, if it is here.
    pub fn chunk(&self, offset: u64) -> Option<&Chunk> {
        if offset >= self.next {
            return None;
        }
        // Nearly every reader is at the end.
        if let Some(last) = self.chunks.back()
            && last.covers(offset)
        {
            return Some(last);
        }
        let index = self.chunks.partition_point(|chunk| chunk.after() <= offset);
        self.chunks.get(index).filter(|chunk| chunk.covers(offset))
    }

    /// Copies frames from `offset` on into one chunk, `bytes_max` at most but one frame at least;
    /// `None` if that frame is not here.
    pub fn page(&self, offset: u64, bytes_max: usize) -> Option<Chunk> {
        self.chunk(offset)?;
        let mut page = Chunk::with_capacity(offset, bytes_max.min(CHUNK_BYTES_MAX));
        let mut bytes = 0;
        for at in offset..self.next {
            let frame = self.chunk(at)?.frame(at);
            bytes += frame.len();
            if bytes > bytes_max && !page.is_empty() {
                break;
            }
            page.push(frame);
        }
        Some(page)
    }

    /// Bytes of memory.
    pub fn footprint(&self) -> usize {
        self.chunks.iter().map(Chunk::footprint).sum()
    }

    /// Checks what the module's doc says.
    pub fn invariants(&self) {
        let mut at = self.first();
        for chunk in &self.chunks {
            assert!(
                !chunk.is_empty() && chunk.first() == at,
                "chunks are contiguous"
            );
            at = chunk.after();
        }
        assert_eq!(at, self.next, "the chunks end at next");
        assert!(self.lost_before <= self.first(), "nothing lost is kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the naive model: a vector of all frames and the offset of the first kept.
        #[test]
        fn behaves_as_a_list_of_frames(
            start in 1_u64..1000,
            steps in prop::collection::vec((0_usize..3000, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let mut log = RoomLog::new(start);
            let mut model: Vec<Vec<u8>> = Vec::new();
            let mut chunks = VecDeque::new();
            let mut footprint = 0;
            for (i, (len, drop, swept)) in steps.into_iter().enumerate() {
                let frame = vec![i as u8; len];
                let pushed = log.push(&frame);
                footprint += pushed.grown;
                chunks.extend(pushed.chunk);
                model.push(frame);
                if drop && chunks.len() > 1 {
                    footprint -= log.drop_chunk(chunks.pop_front().unwrap_or_default());
                }
                if swept {
                    log.swept_to(log.next());
                }
                log.invariants();
                prop_assert_eq!(log.footprint(), footprint);
                prop_assert_eq!(log.next(), start + model.len() as u64);
                for offset in log.first()..log.next() {
                    let chunk = log.chunk(offset).unwrap();
                    prop_assert_eq!(chunk.frame(offset), &model[(offset - start) as usize][..]);
                }
                prop_assert!(log.chunk(log.next()).is_none());
            }
            let page = log.page(log.first(), 4000).unwrap();
            for offset in page.first()..page.after() {
                prop_assert_eq!(page.frame(offset), &model[(offset - start) as usize][..]);
            }
        }
    }

    #[test]
    fn what_was_not_swept_stays_together() {
        let mut log = RoomLog::new(1);
        let turns = 2_000_u64;
        for turn in 0..turns {
            let from = log.next();
            for _ in 0..16 {
                log.push(&[b'x'; 335]);
            }
            let chunk = log.chunk(from).unwrap();
            // The first chunks are smaller than a turn.
            assert!(turn < 3 || chunk.after() == log.next(), "turn {turn}");
            log.invariants();
            log.swept_to(log.next());
        }
        let bytes = 16 * 335 * turns as usize;
        assert!(log.footprint() < bytes * 5 / 4, "little is left unused");
    }

    #[test]
    fn a_hole_is_remembered_as_lost() {
        let mut log = RoomLog::new(1);
        log.push(b"one");
        log.skip_to(7);
        log.invariants();
        assert_eq!((log.first(), log.next(), log.lost_before()), (7, 7, 7));
        assert!(log.reaches_back_to(7) && !log.reaches_back_to(6));
    }
}
