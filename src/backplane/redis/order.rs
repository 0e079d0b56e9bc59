//! The sequencer of one partition: which item is next; holes, repair and epochs.
//!
//! ```text
//!   channel ── on_live ──▶ next? ── yes ──▶ out, and what was held behind it
//!                            └── no ──▶ held (a cache; the stream has it too)
//!   poll, replies ── on_seen, on_resubscribed ──▶ known: so much exists
//!   stream  ── on_page ──▶ merged with held, from `current` on ──▶ out
//! ```
//!
//! While `known` is above `current` the stream is read from `current` on, a page at a time. What a
//! page leaves out, or what its end does not reach to, the stream does not have: that is a final
//! [`Ordered::Hole`], unless the channel brought it. A page's end speaks only for what was known
//! when the page was asked for (`goal`): what came later may be behind it.
//!
//! In the stream entry ids, epochs and numbers all rise together; so all that is new stands behind
//! what was passed on, unless Redis lost that: then a newer epoch may begin at an entry below ours
//! (its clock may be behind, the stream may be new). So each page begins with the last entry known,
//! and a page is *anchored* if its first item is of no newer epoch: nothing newer stands before it.
//! From a page that is not, nothing of a newer epoch is taken; reading steps back
//! (`STEPS_BACK_MS`, then the stream's beginning) until one is. The steps cost about what was
//! lost, not the whole stream.
//!
//! Numbers may be given twice within an epoch: see `doubt`.
//!
//! It does not read, wait or ask: what is to be read is told by [`Order::poll_read`].
//!
//! Invariants ([`Order::invariants`]), with `key = (epoch, seq)`:
//! - output has rising keys; within an epoch each is one more than the last, or a hole says which
//!   are left out; an [`Ordered::Epoch`] stands before the first item of each epoch;
//! - `current.key < k ≤ known.key` for the key `k` of each item held;
//! - `held.len() ≤ HELD_ITEMS_MAX`, bytes held `≤ HELD_BYTES_MAX`;
//! - at most one read is under way.

mod doubt;

use std::collections::BTreeMap;

use self::doubt::Doubt;
pub(in crate::backplane::redis) use self::doubt::contradict;
use super::stream_page::{PageSize, StreamPage};
use super::{Item, Place};
use crate::model::limits::{
    HELD_BYTES_MAX, HELD_ITEMS_MAX, READ_RETRY_MS_MAX, READ_RETRY_MS_MIN, REPAIR_GRACE_MS,
};
use crate::model::{EntryId, Epoch};

/// What stands in the partition's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// The next item.
    Item(Item),
    /// From now on items are of this epoch, from its number 1 on.
    Epoch(Epoch),
    /// The stream does not have these any more; final.
    Hole {
        /// The epoch: the current one.
        epoch: Epoch,
        /// The first that is lost.
        from_seq: u64,
        /// The last that is lost.
        to_seq: u64,
    },
}

/// A read of the stream: `XRANGE stream (after + COUNT count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// From the entry behind this one: as a rule the last one known, which is read once more.
    pub after: EntryId,
    /// So many entries.
    pub count: usize,
}

/// What became of gaps, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Times that a repair began.
    pub seen: u64,
    /// Repairs that ended with nothing lost.
    pub mended: u64,
    /// Items that the stream did not have any more.
    pub lost: u64,
    /// Items whose number was given to another one before, as it seemed: see `doubt`.
    pub forked: u64,
}

type Key = (Epoch, u64);

/// How far before our own entry a page is looked for that is anchored, in ms.
const STEPS_BACK_MS: [u64; 4] = [1_000, 8_000, 64_000, 512_000];

/// That so much exists.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: Key,
    /// The stream's last entry then, if it was told.
    entry: Option<EntryId>,
}

/// The read that is under way.
#[derive(Clone, Copy, Debug)]
struct Reading {
    goal: Known,
    /// The entry that it begins at.
    at: EntryId,
    /// `start` was called since: its page is about what isn't wanted any more.
    is_stale: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Order {
    current: Option<Place>,
    held: BTreeMap<Key, Item>,
    held_bytes: usize,
    known: Option<Known>,
    /// What was seen and isn't here, the oldest of it, and since when.
    seen: Option<(Known, u64)>,
    reading: Option<Reading>,
    /// Where the repair has come in the stream; 0-0 when there is none.
    cursor: EntryId,
    /// How many steps reading has gone back.
    steps_back: usize,
    /// The epoch for which the stream is being read from its beginning.
    scanned_for: Option<Epoch>,
    failures: u32,
    retry_at_ms: u64,
    size: PageSize,
    gaps: Gaps,
    /// `gaps.lost` when the repair began; `None`: none is under way.
    lost_before_repair: Option<u64>,
    /// The entry of `current` is another one's about there: its own was never seen.
    is_entry_inexact: bool,
    /// The last one whose own entry was seen; behind it there may be holes.
    exact: Option<Place>,
    /// `exact` is where it was started, with the stream's newest entry: which may be another's.
    is_exact_start: bool,
    /// It is not known whether what comes is of the line that was passed on, and why.
    doubt: Option<Doubt>,
    /// The last entry known, once a greeting has said that it was rightly missing.
    excused: Option<EntryId>,
    /// What comes of the current epoch is not of our line.
    is_line_over: bool,
}

impl Order {
    /// An order that has not been started: it holds what comes by the channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// A cold start, or one anew: everything up to here isn't wanted. What is held behind it is
    /// passed on, as far as it goes.
    pub fn start(&mut self, epoch: Epoch, seq: u64, entry: EntryId, out: &mut Vec<Ordered>) {
        self.current = Some(Place { epoch, seq, entry });
        self.exact = self.current;
        self.is_exact_start = true;
        (self.is_entry_inexact, self.doubt, self.is_line_over) = (false, None, false);
        self.forget_repair();
        self.known = None;
        self.seen = None;
        if let Some(reading) = &mut self.reading {
            reading.is_stale = true;
        }
        self.forget_held_to((epoch, seq));
        if let Some((&key, _)) = self.held.last_key_value() {
            self.know(Known { key, entry: None });
        }
        self.release(out);
    }

    /// The last that was passed on, or that isn't wanted; its entry is 0-0 if it was never seen.
    pub fn position(&self) -> Option<(Epoch, u64, EntryId)> {
        let Place { epoch, seq, entry } = self.passed()?;
        Some((epoch, seq, entry))
    }

    /// See [`Order::position`].
    fn passed(&self) -> Option<Place> {
        let current = self.current?;
        let entry = match self.is_entry_inexact {
            true => EntryId::default(),
            false => current.entry,
        };
        Some(Place { entry, ..current })
    }

    /// An item came by the channel.
    pub fn on_live(&mut self, item: Item, out: &mut Vec<Ordered>) {
        let key = key_of(&item);
        if let Some(current) = self.current {
            if self.is_of_another_line(&item) || key <= (current.epoch, current.seq) {
                return;
            }
            if key == (current.epoch, next(current.seq)) && self.doubt.is_none() {
                self.pass(item, out);
                self.release(out);
                self.end_repair();
                return;
            }
            let entry = Some(item.place.entry);
            self.know(Known { key, entry });
        }
        self.hold(key, item);
    }

    /// The poll of each second, or a script's reply, says that so much exists: `entry` is the
    /// stream's last one. What isn't here [`REPAIR_GRACE_MS`] later is a hole too.
    pub fn on_seen(&mut self, now_ms: u64, epoch: Epoch, seq: u64, entry: EntryId) {
        let known = Known {
            key: (epoch, seq),
            entry: Some(entry),
        };
        self.promote_seen(now_ms);
        // The oldest stays: a later one must not put off when it is due.
        if self.is_beyond(known.key) && self.seen.is_none() {
            self.seen = Some((known, now_ms));
        }
    }

    /// The channel was subscribed to, anew or not: so much existed before. What isn't here is
    /// repaired at once.
    pub fn on_resubscribed(&mut self, epoch: Epoch, seq: u64) {
        let key = (epoch, seq);
        if self.is_beyond(key) {
            self.know(Known { key, entry: None });
        }
    }

    /// What comes next is of a Redis that may be another: what was heard of and not passed on
    /// counts no more. What that one says to exist is repaired from the last that was passed on.
    pub fn forget_heard(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        (self.known, self.seen) = (None, None);
        self.cursor = EntryId::default();
        (self.steps_back, self.scanned_for) = (0, None);
        if let Some(reading) = &mut self.reading {
            reading.is_stale = true;
        }
    }

    /// What is to be read, if anything. Changes with every other call, and by itself at
    /// [`Order::wake_at`].
    pub fn poll_read(&mut self, now_ms: u64) -> Option<Read> {
        self.promote_seen(now_ms);
        let current = self.current?;
        let goal = self.known.filter(|known| self.is_beyond(known.key))?;
        if self.reading.is_some() || self.doubt.is_some() || now_ms < self.retry_at_ms {
            return None;
        }
        if self.lost_before_repair.is_none() {
            self.lost_before_repair = Some(self.gaps.lost);
            self.gaps.seen += 1;
        }
        if self.steps_back == 0 {
            self.cursor = self.cursor.max(current.entry);
        }
        self.reading = Some(Reading {
            goal,
            at: self.cursor,
            is_stale: false,
        });
        Some(Read {
            after: entry_before(self.cursor),
            count: self.size.count() + 1,
        })
    }

    /// When [`Order::poll_read`] may say something else though nothing has come.
    pub fn wake_at(&self) -> Option<u64> {
        if self.reading.is_some() || self.doubt.is_some() || self.current.is_none() {
            return None;
        }
        if self.needs_repair() {
            return Some(self.retry_at_ms);
        }
        let beyond = self.seen.filter(|(known, _)| self.is_beyond(known.key));
        beyond.map(|(_, at_ms)| (at_ms + REPAIR_GRACE_MS).max(self.retry_at_ms))
    }

    /// The page that was to be read.
    pub fn on_page(&mut self, page: StreamPage, out: &mut Vec<Ordered>) {
        (self.failures, self.retry_at_ms) = (0, 0);
        self.size.learn(&page.items);
        let Some(reading) = self.reading.take().filter(|reading| !reading.is_stale) else {
            return;
        };
        if self.begins_elsewhere(&reading, page.items.first()) {
            self.begin_doubt(Doubt::Missing);
            return;
        }
        let is_anchored = self.is_anchored(&reading, page.items.first());
        if let Some(at) = page.items.last().map(|item| item.place.entry) {
            // A page of one entry, the last one known, does not get on.
            let moves = at > reading.at;
            self.cursor = page.reached.filter(|_| !moves).unwrap_or(at);
        } else if let Some(reached) = page.reached {
            self.cursor = reached;
        }
        for item in page.items {
            let Some(current) = self.current else { return };
            let key = key_of(&item);
            let is_other = self.is_of_another_line(&item);
            if self.doubt.is_some() {
                return;
            }
            if is_other || key <= (current.epoch, current.seq) {
                continue;
            }
            if key.0 > current.epoch {
                if !is_anchored {
                    let entry = Some(item.place.entry);
                    self.know(Known { key, entry });
                    self.step_back(current, key.0);
                    return;
                }
                (self.steps_back, self.scanned_for) = (0, None);
            }
            self.pass_held_before(key, out);
            self.forget_held_to(key);
            self.pass(item, out);
        }
        if page.end && self.is_beyond(reading.goal.key) {
            match self.current {
                Some(current) if current.epoch < reading.goal.key.0 && !is_anchored => {
                    self.step_back(current, reading.goal.key.0);
                }
                _ => self.settle(reading.goal, out),
            }
        }
        self.release(out);
        self.end_repair();
    }

    /// The page could not be read.
    pub fn on_read_failed(&mut self, now_ms: u64) {
        self.reading = None;
        let wait_ms = READ_RETRY_MS_MIN << self.failures.min(16);
        self.retry_at_ms = now_ms + wait_ms.min(READ_RETRY_MS_MAX);
        self.failures += 1;
    }

    /// Whether a read is under way.
    pub fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Whether something is known to exist that isn't passed on yet, and its grace is over.
    pub fn is_repairing(&self) -> bool {
        self.needs_repair()
    }

    /// What became of gaps.
    pub fn gaps(&self) -> Gaps {
        self.gaps
    }

    fn needs_repair(&self) -> bool {
        self.known.is_some_and(|known| self.is_beyond(known.key))
    }

    fn is_beyond(&self, key: Key) -> bool {
        self.current
            .is_some_and(|current| key > (current.epoch, current.seq))
    }

    /// So much exists, and is to be had at once.
    fn know(&mut self, known: Known) {
        if self.known.is_none_or(|before| before.key < known.key) {
            self.known = Some(known);
        }
    }

    /// What was seen long enough ago is known; what has come meanwhile is forgotten.
    fn promote_seen(&mut self, now_ms: u64) {
        let Some((known, at_ms)) = self.seen else {
            return;
        };
        if !self.is_beyond(known.key) {
            self.seen = None;
        } else if now_ms >= at_ms + REPAIR_GRACE_MS {
            self.know(known);
            self.seen = None;
        }
    }

    fn hold(&mut self, key: Key, item: Item) {
        let bytes = item.json.len();
        if self.held.contains_key(&key) {
            return;
        }
        self.held.insert(key, item);
        self.held_bytes += bytes;
        while self.held.len() > HELD_ITEMS_MAX || self.held_bytes > HELD_BYTES_MAX {
            let Some((_, oldest)) = self.held.pop_first() else {
                return;
            };
            self.held_bytes -= oldest.json.len();
        }
    }

    fn take_held(&mut self, key: Key) -> Option<Item> {
        let item = self.held.remove(&key)?;
        self.held_bytes -= item.json.len();
        Some(item)
    }

    fn forget_held_to(&mut self, key: Key) {
        while let Some((&first, _)) = self.held.first_key_value().filter(|(it, _)| **it <= key) {
            self.take_held(first);
        }
    }

    /// Passes on what is held and next.
    fn release(&mut self, out: &mut Vec<Ordered>) {
        while let Some(current) = self.current
            && self.doubt.is_none()
            && let Some(item) = self.take_held((current.epoch, next(current.seq)))
        {
            if !self.is_of_another_line(&item) {
                self.pass(item, out);
            }
        }
    }

    /// Passes on what is held below `key`: the stream has nothing else below it.
    fn pass_held_before(&mut self, key: Key, out: &mut Vec<Ordered>) {
        while let Some((&first, _)) = self.held.first_key_value().filter(|(it, _)| **it < key) {
            if let Some(item) = self.take_held(first) {
                self.pass(item, out);
            }
        }
    }

    /// The stream was read to its end: what of `goal` isn't here is lost.
    fn settle(&mut self, goal: Known, out: &mut Vec<Ordered>) {
        self.pass_held_before((goal.key.0, next(goal.key.1)), out);
        if !self.is_beyond(goal.key) {
            return;
        }
        let (epoch, seq) = goal.key;
        let is_newer = self.current.is_some_and(|current| current.epoch < epoch);
        self.advance(epoch, next(seq), out);
        if let Some(current) = &mut self.current {
            current.seq = seq;
            self.is_entry_inexact = true;
            // Lower is always safe: more is read. After a change of epoch our own entry isn't.
            current.entry = match goal.entry {
                Some(entry) if is_newer => entry,
                None if is_newer => EntryId::default(),
                _ => current.entry,
            };
            if is_newer {
                self.cursor = current.entry;
                self.steps_back = 0;
            }
        }
    }

    /// Passes on the next item, with what must be told before it.
    fn pass(&mut self, item: Item, out: &mut Vec<Ordered>) {
        debug_assert!(self.is_beyond(key_of(&item)), "none twice, none late");
        self.advance(item.place.epoch, item.place.seq, out);
        (self.current, self.exact) = (Some(item.place), Some(item.place));
        (self.is_entry_inexact, self.is_exact_start) = (false, false);
        out.push(Ordered::Item(item));
    }

    /// Tells of a new epoch, and of what is missing before `seq`.
    fn advance(&mut self, epoch: Epoch, seq: u64, out: &mut Vec<Ordered>) {
        let Some(current) = &mut self.current else {
            return;
        };
        if current.epoch < epoch {
            (current.epoch, current.seq) = (epoch, 0);
            self.is_line_over = false;
            out.push(Ordered::Epoch(epoch));
        }
        if next(current.seq) < seq {
            let (from_seq, to_seq) = (next(current.seq), seq - 1);
            self.gaps.lost += to_seq - current.seq;
            out.push(Ordered::Hole {
                epoch,
                from_seq,
                to_seq,
            });
        }
    }

    /// Whether nothing of a newer epoch stands before the page that begins with `first`.
    fn is_anchored(&self, reading: &Reading, first: Option<&Item>) -> bool {
        let newest = reading
            .goal
            .key
            .0
            .max(first.map_or(reading.goal.key.0, |it| it.place.epoch));
        let begins_in = |current: Place| first.is_some_and(|it| it.place.epoch <= current.epoch);
        reading.at == EntryId::default()
            || self.scanned_for >= Some(newest)
            || self.current.is_some_and(begins_in)
    }

    /// Reading goes on further back, so as to find where `epoch` begins.
    fn step_back(&mut self, current: Place, epoch: Epoch) {
        let step_ms = STEPS_BACK_MS.get(self.steps_back).copied();
        let ms = step_ms.and_then(|step_ms| current.entry.ms.checked_sub(step_ms));
        self.steps_back += 1;
        match ms {
            Some(ms) => self.cursor = EntryId { ms, n: 0 },
            None => {
                self.cursor = EntryId::default();
                self.scanned_for = Some(epoch);
            }
        }
    }

    fn end_repair(&mut self) {
        if !self.needs_repair() {
            let lost_before = self.lost_before_repair;
            self.gaps.mended += u64::from(lost_before == Some(self.gaps.lost));
            self.forget_repair();
        }
    }

    fn forget_repair(&mut self) {
        self.lost_before_repair = None;
        self.cursor = EntryId::default();
        self.steps_back = 0;
        self.scanned_for = None;
    }

    /// Checks what must hold between calls; for tests.
    pub fn invariants(&self) {
        let bytes: usize = self.held.values().map(|item| item.json.len()).sum();
        assert_eq!(bytes, self.held_bytes, "bytes held");
        assert!(bytes <= HELD_BYTES_MAX && self.held.len() <= HELD_ITEMS_MAX);
        if self.current.is_some() {
            for &key in self.held.keys() {
                assert!(self.is_beyond(key), "held is ahead");
                assert!(self.known.is_some_and(|known| key <= known.key));
            }
            let next = self.current.map(|it| (it.epoch, next(it.seq)));
            let is_held = next.is_some_and(|next| self.held.contains_key(&next));
            assert!(!is_held || self.doubt.is_some());
        }
    }
}

/// The largest id below this one.
fn entry_before(id: EntryId) -> EntryId {
    match (id.n.checked_sub(1), id.ms.checked_sub(1)) {
        (Some(n), _) => EntryId { ms: id.ms, n },
        (None, Some(ms)) => EntryId { ms, n: u64::MAX },
        (None, None) => id,
    }
}

/// The number behind this one; what a peer sent may be any number.
fn next(seq: u64) -> u64 {
    seq.saturating_add(1)
}

fn key_of(item: &Item) -> Key {
    (item.place.epoch, item.place.seq)
}

#[cfg(test)]
mod tests;
