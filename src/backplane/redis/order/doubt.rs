//! Whether what comes is of the line that was passed on.
//!
//! ```text
//!   ours    … 7 8 9 10            known: (E, 10, entry of 10)
//!   theirs  … 7 8'9'10'11'        8' contradicts; without it 11' is next
//!                                 ▼
//!   doubt ─▶ a greeting says: ours was trimmed ─▶ on it goes
//!                             it is gone       ─▶ what is left of E is passed over; the next epoch
//! ```
//!
//! A Redis may lose its tail and go on within the epoch, though no connection breaks: a replica
//! takes over behind one and the same address. Then numbers are given twice, and what is next by
//! its number may be of the other line, behind some that were never here. So an item that
//! contradicts what was passed on (its number is not above ours and its entry is, or the other way
//! round; or it has our number, and another entry), and a page from the last entry known that does
//! not begin with it, are a doubt: nothing is passed on or read until [`Order::on_greeted`] says
//! whose line that Redis has.
//!
//! What shows that a line is another:
//!
//! | their line, by its length | by what |
//! |---|---|
//! | shorter than ours | the poll of each second, and each call: so little can't be |
//! | as long, and silent | the poll: the state has the place of the last one, with its entry |
//! | longer | an item of it with a number of ours; a page that is read to mend what is missing |
//!
//! So much for what was delivered; what was acked and is not yet: see `partition/told`.
//!
//! One case shows nothing: unheard, and since the last poll, their line has become exactly as long
//! as ours, and then an item of it comes. That is next by its number and by its entry, and no page
//! is read.

use super::{Item, Order, Ordered, Place, Reading};
use crate::model::{EntryId, Epoch};

/// What a doubt is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The last entry known is not there: it was trimmed, or the line is another.
    Missing,
    /// Numbers were given twice: the line is another, or there are two in one stream.
    Contradicted,
}

impl Order {
    /// Whether a greeting is to say whose line that Redis has, of what [`Order::position`] says.
    /// Ends with [`Order::on_greeted`].
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether numbers were given twice for sure: if what was passed on is there all the same, so
    /// is another line behind it, and this epoch must end.
    pub fn is_contradicted(&self) -> bool {
        self.doubt == Some(Doubt::Contradicted)
    }

    /// A reply says that so much is stored.
    pub fn on_stored(&mut self, place: Place) {
        if self.is_start(place) && place.entry != EntryId::default() {
            // It is known now which entry the last one has that was there before.
            (self.exact, self.is_exact_start) = (Some(place), false);
        } else if self.contradicts(place) {
            self.begin_doubt(Doubt::Contradicted);
        }
    }

    /// A greeting was answered: so much exists. `is_lost`: what was known is there no more, and
    /// this epoch was begun for that.
    pub fn on_greeted(&mut self, epoch: Epoch, seq: u64, is_lost: bool, out: &mut Vec<Ordered>) {
        let Some(current) = self.current else { return };
        let doubt = self.doubt.take();
        let is_older = current.epoch < epoch;
        if is_lost || (is_older && doubt == Some(Doubt::Contradicted)) {
            self.is_line_over = true;
            self.forget_held_to((current.epoch, u64::MAX));
            self.known = self.known.filter(|known| known.key.0 > current.epoch);
            self.seen = self.seen.filter(|(known, _)| known.key.0 > current.epoch);
        } else if doubt.is_some() {
            self.excused = Some(current.entry);
        }
        self.on_resubscribed(epoch, seq);
        self.release(out);
        self.end_repair();
    }

    /// Whether an item is not of the line that was passed on; if that is new, it is a doubt.
    pub(super) fn is_of_another_line(&mut self, item: &Item) -> bool {
        let is_of_epoch = |current: Place| current.epoch == item.place.epoch;
        if self.current.is_some_and(is_of_epoch) && self.is_line_over {
            return true;
        }
        let is_fork = self.contradicts(item.place);
        if is_fork {
            self.gaps.forked += 1;
            self.begin_doubt(Doubt::Contradicted);
        }
        is_fork
    }

    /// Whether that can't be of one line with the last one whose own entry was seen. Of an epoch
    /// that is over nothing is asked any more.
    fn contradicts(&self, place: Place) -> bool {
        let is_of_epoch = |current: Place| current.epoch == place.epoch;
        self.current.is_some_and(is_of_epoch)
            && self.exact.is_some_and(|exact| {
                let is_before = self.is_start(place) && place.entry < exact.entry;
                contradict(exact, place) && !is_before
            })
    }

    /// Whether that is the last one there was when it was started.
    fn is_start(&self, place: Place) -> bool {
        let is_it = |exact: Place| (exact.epoch, exact.seq) == (place.epoch, place.seq);
        self.is_exact_start && self.exact.is_some_and(is_it)
    }

    /// Whether a page that was to begin with the last entry known does not, and is of its epoch:
    /// it was trimmed, or the line is another.
    pub(super) fn begins_elsewhere(&self, reading: &Reading, first: Option<&Item>) -> bool {
        let (Some(passed), Some(first)) = (self.passed(), first) else {
            return false;
        };
        let is_told = passed.seq > 0 && passed.entry != EntryId::default();
        is_told
            && reading.at == passed.entry
            && first.place.epoch == passed.epoch
            && first.place.entry != passed.entry
            && self.excused != Some(passed.entry)
            && !self.is_line_over
    }

    pub(super) fn begin_doubt(&mut self, doubt: Doubt) {
        self.doubt = Some(doubt);
        if let Some(reading) = &mut self.reading {
            reading.is_stale = true;
        }
    }
}

/// Whether both can't be of one line: within an epoch numbers and entries rise together, and each
/// number has one entry. An entry that isn't known is 0-0.
pub(in crate::backplane::redis) fn contradict(known: Place, other: Place) -> bool {
    let is_told = known.entry != EntryId::default() && other.entry != EntryId::default();
    let is_other = known.seq.cmp(&other.seq) != known.entry.cmp(&other.entry);
    is_told && known.epoch == other.epoch && is_other
}
