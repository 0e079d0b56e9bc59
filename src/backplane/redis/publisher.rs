//! Publications on their way into Redis, of one producer and one partition.
//!
//! ```text
//! publish ─▶ queue: numbered ─poll_call─▶ in flight ─on_reply─▶ settled
//!               │  ▲                        │  on_disconnected: again, in order
//!               │  └── hand_over ◀── spool  └─ on_own: our own item was seen
//!               └─ take_for_spool ─▶ spool
//! ```
//!
//! Messages are numbered 1, 2, 3, … in the order in which they are taken, and go in that order. The
//! script takes number `max(last, base - 1) + 1` and no other, so to send again is always harmless:
//! what was taken is skipped (result 0), what comes too early is refused (`behind`). An old call
//! that a closed connection left behind may run at any time, between two of ours too.
//!
//! After a call that was not taken whole nothing more goes out until all calls in flight are
//! answered; then it goes on from the first message that is not taken. Nor does a call go past
//! a hole in the numbers (messages that were given up, or were seen to be stored already) while
//! anything before it is in flight: `base` then makes the script pass over it.
//!
//! What it is not: it knows nothing of Redis's wire, of the script's text or of the disk. Whether
//! Redis is to be asked is [`super::breaker`]'s. A call that ends in an error is sent again as soon
//! as it is polled for, so don't poll while the breaker is not closed.
//!
//! # Invariants
//!
//! - `queue` rises by number, and holds each message that is not known to be taken, but for those
//!   that are in the spool; its front is never taken; `base() <= ` every number in it.
//! - Numbers in flight < `next` <= numbers still to be sent; a call's numbers have no hole.
//! - One [`Settled`] for each `publish`.
//! - `waiting` and `by_id` have the same messages.
//!
//! Memory is bounded by whoever publishes: a message in `queue` that did not come from the spool,
//! and an entry of `waiting`, hold the credits of the connection they came by until they are
//! settled. What comes back from the spool is bounded by `SPOOL_HANDED_BYTES_MAX`.

mod outgoing;

use std::collections::{VecDeque, vec_deque};

use hashbrown::HashMap;

pub use self::outgoing::{Outgoing, Settled, Status, Taken};
use crate::model::limits::{
    CALL_BYTES_MAX, CALL_MESSAGES_MAX, CALLS_IN_FLIGHT_MAX, UNKNOWN_LATE_MS, UNKNOWN_MS,
};
use crate::model::{MessageId, RoomName};

/// A call of the script that is to be sent.
#[derive(Debug)]
pub struct Call<'a> {
    /// What [`Publisher::on_reply`] knows it by.
    pub call: u64,
    /// Every number below it is taken, or will never come.
    pub base: u64,
    /// The number of the first message; the others follow without a hole.
    pub first_number: u64,
    messages: vec_deque::Iter<'a, Queued>,
}

impl<'a> Call<'a> {
    /// The messages, rising by number.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &'a Outgoing> + use<'a> {
        self.messages.clone().map(|queued| &queued.message)
    }
}

/// A message that is not known to be taken, or waits behind one.
#[derive(Debug)]
struct Queued {
    message: Outgoing,
    /// It is in the spool as well.
    spooled: bool,
    /// Redis has it.
    taken: bool,
}

impl Queued {
    fn new(message: Outgoing) -> Self {
        Self {
            message,
            spooled: false,
            taken: false,
        }
    }
}

/// A call that is not answered.
#[derive(Debug)]
struct Flight {
    call: u64,
    first: u64,
    count: u64,
}

/// A publish that is not settled.
#[derive(Debug)]
struct Waiting<T> {
    room: RoomName,
    id: MessageId,
    origin: T,
    joined: Vec<T>,
    /// It was answered 0: it waits for its own item.
    answered: bool,
    /// Where its own item stands that came before the answer, if that does not count by itself.
    seen: Option<u64>,
}

/// What is known of a message's end.
#[derive(Clone, Copy)]
enum End {
    Stored(u64),
    Repeated(u64),
    Unknown,
}

/// See the module. `T` is what the one who published is found by.
#[derive(Debug)]
pub struct Publisher<T> {
    queue: VecDeque<Queued>,
    /// What was published while spooling, and was not taken for the spool yet.
    for_spool: Vec<Outgoing>,
    waiting: HashMap<u64, Waiting<T>>,
    by_id: HashMap<(RoomName, MessageId), u64>,
    /// Numbers that were answered 0, and since when, once that is known.
    answered: VecDeque<(u64, Option<u64>)>,
    flights: VecDeque<Flight>,
    /// Calls that were in flight when the breaker opened: an answer may come, but is not awaited.
    left_behind: VecDeque<Flight>,
    /// The last number given, or handed over.
    last: u64,
    /// The number that goes out next, while calls are in flight.
    next: u64,
    last_call: u64,
    /// A call was not taken whole: nothing goes out until none is in flight.
    stalled: bool,
    /// What is published goes to the spool.
    spooling: bool,
    /// When own items were last said to be late.
    behind_ms: u64,
    /// Only an answer settles.
    withholds: bool,
}

impl<T> Default for Publisher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Publisher<T> {
    /// A producer that has published nothing. For the records of an earlier run's producer it is
    /// the same, and only [`Publisher::hand_over`] feeds it.
    pub fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            for_spool: Vec::new(),
            waiting: HashMap::new(),
            by_id: HashMap::new(),
            answered: VecDeque::new(),
            flights: VecDeque::new(),
            left_behind: VecDeque::new(),
            last: 0,
            next: 1,
            last_call: 0,
            stalled: false,
            spooling: false,
            behind_ms: 0,
            withholds: false,
        }
    }

    /// One for which only the answer to a call settles its messages: whoever gives it has made sure
    /// of more than that Redis has them. That an own item was seen is remembered till then.
    pub fn withholding() -> Self {
        Self {
            withholds: true,
            ..Self::new()
        }
    }

    /// Takes a message and numbers it.
    pub fn publish(&mut self, mut message: Outgoing, origin: T) -> Taken {
        let key = (message.room.clone(), message.id);
        if let Some(number) = self.by_id.get(&key)
            && let Some(waiting) = self.waiting.get_mut(number)
        {
            waiting.joined.push(origin);
            return Taken::Joined;
        }
        self.last += 1;
        message.number = self.last;
        let waiting = Waiting {
            room: key.0.clone(),
            id: key.1,
            origin,
            joined: Vec::new(),
            answered: false,
            seen: None,
        };
        self.waiting.insert(message.number, waiting);
        self.by_id.insert(key, message.number);
        if self.spooling {
            self.for_spool.push(message);
        } else {
            self.queue.push_back(Queued::new(message));
        }
        Taken::Queued
    }

    /// The next call, if one is to go out now: after [`Publisher::publish`],
    /// [`Publisher::on_reply`], [`Publisher::on_disconnected`], [`Publisher::hand_over`] and
    /// [`Publisher::end_spooling`].
    pub fn poll_call(&mut self) -> Option<Call<'_>> {
        if self.flights.is_empty() {
            self.stalled = false;
            self.next = self.queue.front()?.message.number;
        }
        if self.stalled || self.flights.len() >= CALLS_IN_FLIGHT_MAX {
            return None;
        }
        let start = self.index(self.next)?;
        let mut bytes = 0;
        let fits = |(i, queued): &(usize, &Queued)| {
            bytes += queued.message.bytes();
            let follows = queued.message.number == self.next + *i as u64;
            follows && !queued.taken && (*i == 0 || bytes <= CALL_BYTES_MAX)
        };
        let candidates = self.queue.range(start..).take(CALL_MESSAGES_MAX);
        let count = candidates.enumerate().take_while(fits).count();
        if count == 0 {
            return None;
        }
        let first_number = self.next;
        self.next += count as u64;
        self.last_call += 1;
        self.flights.push_back(Flight {
            call: self.last_call,
            first: first_number,
            count: count as u64,
        });
        Some(Call {
            call: self.last_call,
            base: self.base(),
            first_number,
            messages: self.queue.range(start..start + count),
        })
    }

    /// A call was answered: `results` has a number for each message that was looked at: its offset,
    /// or that of the first one with its id negated, or 0 if it was taken before.
    pub fn on_reply(
        &mut self,
        call: u64,
        status: Status,
        results: &[i64],
        settled: &mut Vec<Settled<T>>,
    ) {
        let flight = if let Some(at) = self.flights.iter().position(|flight| flight.call == call) {
            let flight = self.flights.remove(at);
            let whole = flight
                .as_ref()
                .is_some_and(|flight| results.len() as u64 >= flight.count);
            self.stalled |= !whole || status != Status::Ok;
            flight
        } else {
            let at = self.left_behind.iter().position(|old| old.call == call);
            at.and_then(|at| self.left_behind.remove(at))
        };
        let Some(flight) = flight else { return };
        for (number, &result) in (flight.first..flight.first + flight.count).zip(results) {
            self.mark_taken(number);
            match result {
                1.. => self.settle(number, End::Stored(result.unsigned_abs()), settled),
                ..0 => self.settle(number, End::Repeated(result.unsigned_abs()), settled),
                0 => self.expect_item(number, settled),
            }
        }
        self.drop_taken();
    }

    /// An item of our own was seen in the partition's order: it is stored, whatever became of its
    /// call; but see [`Publisher::withholding`].
    pub fn on_own(
        &mut self,
        room: &RoomName,
        id: MessageId,
        offset: u64,
        settled: &mut Vec<Settled<T>>,
    ) {
        if let Some(&number) = self.by_id.get(&(room.clone(), id)) {
            if self.withholds
                && let Some(waiting) = self.waiting.get_mut(&number)
                && !waiting.answered
            {
                waiting.seen = Some(offset);
                return;
            }
            self.mark_taken(number);
            self.settle(number, End::Stored(offset), settled);
            self.drop_taken();
        }
    }

    /// The connection is gone: the calls in flight are sent again, in order, before anything else.
    pub fn on_disconnected(&mut self) {
        self.flights.clear();
        self.left_behind.clear();
    }

    /// Time goes by: settles as unknown what was answered 0 and whose own item did not come.
    /// `is_behind`: it may still be on its way, and has longer.
    pub fn expire(&mut self, now_ms: u64, is_behind: bool, settled: &mut Vec<Settled<T>>) {
        if is_behind {
            self.behind_ms = now_ms;
        }
        while let Some(&(number, Some(since))) = self.answered.front() {
            let due_ms = since.max(self.behind_ms) + UNKNOWN_MS;
            if now_ms < due_ms.min(since + UNKNOWN_LATE_MS) {
                break;
            }
            self.answered.pop_front();
            self.settle(number, End::Unknown, settled);
        }
        let fresh = self.answered.iter_mut().rev();
        for (_, since) in fresh.take_while(|(_, since)| since.is_none()) {
            *since = Some(now_ms);
        }
    }

    /// Redis is away: from now on everything goes to the spool, what is not settled first. To be
    /// asked when the breaker opens, and again whenever something was published since: yields, in
    /// order of number, what the spool was not given yet. What was read back from the spool is
    /// dropped here, and is to be read again. Whose the messages are stays here.
    pub fn take_for_spool(&mut self) -> Vec<Outgoing> {
        self.spooling = true;
        self.left_behind.append(&mut self.flights);
        let over = self.left_behind.len().saturating_sub(CALLS_IN_FLIGHT_MAX);
        self.left_behind.drain(..over);
        let left = self.queue.drain(..);
        let left = left.filter(|queued| !queued.spooled && !queued.taken);
        let left = left.map(|queued| queued.message);
        left.chain(self.for_spool.drain(..)).collect()
    }

    /// What was published since the last [`Publisher::take_for_spool`], while what is handed over
    /// stays in flight.
    pub fn take_new_for_spool(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.for_spool)
    }

    /// A message comes back from the spool, in order of number. `spooled`: it stays in the spool
    /// until it is released there, and need not go in again.
    pub fn hand_over(&mut self, message: Outgoing, spooled: bool) {
        let number = message.number;
        let last = self.queue.back().map(|queued| queued.message.number);
        debug_assert!(last < Some(number), "records come back in order of number");
        self.last = self.last.max(number);
        self.queue.push_back(Queued {
            spooled,
            ..Queued::new(message)
        });
    }

    /// All that was in the spool was handed over: what is published goes to Redis again, behind it.
    pub fn end_spooling(&mut self) {
        self.spooling = false;
        let new = self.for_spool.drain(..);
        self.queue.extend(new.map(Queued::new));
    }

    /// These could not be spooled: they are settled as unknown (a call that was in flight when
    /// Redis went away may yet store them), and their numbers will never come.
    pub fn give_up(
        &mut self,
        numbers: impl IntoIterator<Item = u64>,
        settled: &mut Vec<Settled<T>>,
    ) {
        for number in numbers {
            self.settle(number, End::Unknown, settled);
        }
    }

    /// Every number below it is taken, or will never come, or is in the spool and was not handed
    /// over yet.
    pub fn base(&self) -> u64 {
        let front = self.queue.front().map(|queued| queued.message.number);
        front.unwrap_or(self.last + 1)
    }

    /// Whether [`Publisher::poll_call`] has something.
    pub fn has_call(&self) -> bool {
        let next = match self.flights.is_empty() {
            true => self.queue.front().map(|queued| queued.message.number),
            false if self.stalled => None,
            false => Some(self.next),
        };
        let room = self.flights.len() < CALLS_IN_FLIGHT_MAX;
        let next = next.and_then(|next| self.index(next));
        room && next.is_some_and(|at| !self.queue[at].taken)
    }

    /// What is not settled, with whose it is, rising by number.
    pub fn unsettled_publishes(&mut self) -> impl Iterator<Item = (&Outgoing, &mut T)> {
        let mut waiting: Vec<_> = self.waiting.iter_mut().collect();
        waiting.sort_unstable_by_key(|&(&number, _)| number);
        let queue: HashMap<u64, &Outgoing> = self
            .queue
            .iter()
            .filter(|queued| !queued.taken)
            .map(|queued| (queued.message.number, &queued.message))
            .collect();
        let both = waiting.into_iter();
        both.filter_map(move |(number, waiting)| Some((*queue.get(number)?, &mut waiting.origin)))
    }

    /// Whether nothing waits for anything.
    pub fn is_idle(&self) -> bool {
        let is_sent = self.queue.is_empty() && self.for_spool.is_empty();
        is_sent && self.waiting.is_empty() && self.flights.is_empty()
    }

    /// Whether what is published goes to the spool.
    pub fn is_spooling(&self) -> bool {
        self.spooling
    }

    /// Calls that are not answered.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The ids of what is not settled.
    pub fn waiting_ids(&self) -> impl Iterator<Item = &MessageId> {
        self.by_id.keys().map(|(_, id)| id)
    }

    /// Publishes that are not settled, those that joined another not counted.
    pub fn unsettled(&self) -> usize {
        self.waiting.len()
    }

    /// Where in the queue the message with this number is.
    fn index(&self, number: u64) -> Option<usize> {
        let find = |queued: &Queued| queued.message.number.cmp(&number);
        self.queue.binary_search_by(find).ok()
    }

    /// See the module.
    #[cfg(test)]
    fn invariants(&self) {
        let numbers = self.queue.iter().map(|queued| queued.message.number);
        assert!(numbers.clone().is_sorted_by(|a, b| a < b));
        assert!(self.queue.front().is_none_or(|queued| !queued.taken));
        assert!(
            numbers
                .clone()
                .all(|number| self.base() <= number && number <= self.last)
        );
        assert_eq!(self.waiting.len(), self.by_id.len());
        assert!(self.flights.len() <= CALLS_IN_FLIGHT_MAX);
        assert!(self.left_behind.len() <= CALLS_IN_FLIGHT_MAX);
        assert!(self.spooling || self.for_spool.is_empty());
        let ends = self
            .flights
            .iter()
            .map(|flight| flight.first + flight.count);
        assert!(ends.clone().all(|end| end <= self.next));
    }

    fn mark_taken(&mut self, number: u64) {
        if let Some(at) = self.index(number) {
            self.queue[at].taken = true;
        }
    }

    fn drop_taken(&mut self) {
        while self.queue.front().is_some_and(|queued| queued.taken) {
            self.queue.pop_front();
        }
    }

    /// Redis has it, and its offset comes with its item.
    fn expect_item(&mut self, number: u64, settled: &mut Vec<Settled<T>>) {
        let Some(waiting) = self.waiting.get_mut(&number) else {
            return;
        };
        if let Some(offset) = waiting.seen {
            self.settle(number, End::Stored(offset), settled);
        } else if !waiting.answered {
            waiting.answered = true;
            self.answered.push_back((number, None));
        }
    }

    fn settle(&mut self, number: u64, end: End, settled: &mut Vec<Settled<T>>) {
        let Some(waiting) = self.waiting.remove(&number) else {
            return;
        };
        let Waiting {
            room,
            id,
            origin,
            joined,
            ..
        } = waiting;
        let told = |origin, end| {
            let room = room.clone();
            match end {
                End::Stored(offset) => Settled::Stored {
                    origin,
                    room,
                    id,
                    offset,
                },
                End::Repeated(offset) => Settled::Repeated {
                    origin,
                    room,
                    id,
                    offset,
                },
                End::Unknown => Settled::Unknown { origin, room, id },
            }
        };
        settled.push(told(origin, end));
        let of_joined = match end {
            End::Stored(offset) => End::Repeated(offset),
            end => end,
        };
        settled.extend(joined.into_iter().map(|origin| told(origin, of_joined)));
        self.by_id.remove(&(room, id));
    }
}

#[cfg(test)]
mod tests;
