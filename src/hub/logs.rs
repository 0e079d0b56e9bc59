//! All logs of one room: the plain one, and one for each other form that a member takes.
//!
//! Invariants ([`Logs::invariants`]): all logs end at the same offset; none begins before the
//! plain one did when the room's offsets began.

use super::chunk::Chunk;
use super::encoding::{Encoding, OTHERS};
use super::log::{Pushed, RoomLog};
use crate::model::Epoch;

/// See the module.
#[derive(Debug)]
pub(super) struct Logs {
    pub(super) epoch: Epoch,
    pub(super) plain: RoomLog,
    others: Option<Box<[Option<RoomLog>; OTHERS]>>,
}

impl Logs {
    /// Empty logs whose first frame will have the offset `next`.
    pub(super) fn new(epoch: Epoch, next: u64) -> Self {
        Self {
            epoch,
            plain: RoomLog::new(next),
            others: None,
        }
    }

    /// The log of that form, if there is one.
    pub(super) fn of(&self, encoding: Encoding) -> Option<&RoomLog> {
        match encoding.other() {
            None => Some(&self.plain),
            Some(at) => self.others.as_deref()?[at].as_ref(),
        }
    }

    pub(super) fn of_mut(&mut self, encoding: Encoding) -> Option<&mut RoomLog> {
        match encoding.other() {
            None => Some(&mut self.plain),
            Some(at) => self.others.as_deref_mut()?[at].as_mut(),
        }
    }

    /// Makes sure that there is a log of that form; what came before is not in it.
    pub(super) fn want(&mut self, encoding: Encoding) {
        let next = self.plain.next();
        if let Some(at) = encoding.other() {
            let others = self.others.get_or_insert_default();
            others[at].get_or_insert_with(|| RoomLog::new(next));
        }
    }

    /// Whether there is any log but the plain one.
    pub(super) fn has_others(&self) -> bool {
        self.others.is_some()
    }

    /// Drops the log of that form. Returns bytes freed.
    pub(super) fn drop_other(&mut self, encoding: Encoding) -> usize {
        let (Some(at), Some(others)) = (encoding.other(), &mut self.others) else {
            return 0;
        };
        let freed = others[at].take().map_or(0, |log| log.footprint());
        if others.iter().all(Option::is_none) {
            self.others = None;
        }
        freed
    }

    pub(super) fn push(&mut self, encoding: Encoding, frame: &[u8]) -> Option<Pushed> {
        Some(self.of_mut(encoding)?.push(frame))
    }

    /// Frames up to `next` will never come. Returns bytes freed.
    pub(super) fn skip_to(&mut self, next: u64) -> usize {
        self.all_mut().map(|log| log.skip_to(next)).sum()
    }

    /// All members who take bytes have what lies before `offset`.
    pub(super) fn swept_to(&mut self, offset: u64) {
        self.all_mut().for_each(|log| log.swept_to(offset));
    }

    /// The chunk that holds the frame at `offset` as a member of that form takes it.
    pub(super) fn chunk(&self, encoding: Encoding, offset: u64) -> Option<&Chunk> {
        let own = self.of(encoding).and_then(|log| log.chunk(offset));
        own.or_else(|| {
            let plain = encoding.takes_plain().then_some(&self.plain);
            plain.and_then(|log| log.chunk(offset))
        })
    }

    /// The oldest offset from which on a member of that form gets everything here.
    pub(super) fn first(&self, encoding: Encoding) -> u64 {
        let own = self.of(encoding).map(RoomLog::first);
        let plain = encoding.takes_plain().then(|| self.plain.first());
        let first = own.into_iter().chain(plain).min();
        first.unwrap_or(self.plain.next())
    }

    /// Bytes of memory.
    pub(super) fn footprint(&self) -> usize {
        self.all().map(RoomLog::footprint).sum()
    }

    fn all(&self) -> impl Iterator<Item = &RoomLog> {
        let others = self
            .others
            .iter()
            .flat_map(|others| others.iter().flatten());
        std::iter::once(&self.plain).chain(others)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut RoomLog> {
        let others = self.others.iter_mut();
        let others = others.flat_map(|others| others.iter_mut().flatten());
        std::iter::once(&mut self.plain).chain(others)
    }

    /// Checks what the module's doc says.
    pub(super) fn invariants(&self) {
        for log in self.all() {
            log.invariants();
            assert_eq!(log.next(), self.plain.next(), "all end at the same offset");
        }
    }
}
