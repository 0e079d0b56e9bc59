//! What came from each address lately: its messages, and what it has open (WebSockets and streams
//! of events), over all shards.
//!
//! Each address has a home shard, which has the true count. The shards that have connections of it
//! take messages by a copy of their own and tell the home how many they took, some at a time; it
//! answers with the level over all. Nobody waits for that mail: a copy is right about its own
//! shard, and learns of the others a moment later.
//!
//! ```text
//!   shard 1: level ├── own, told ──┼─ own, untold ─┤          Used(n) ─▶ home: level += n
//!                  └ of the others, as of the last answer     Level ◀──── the level over all
//! ```
//!
//! A level is a point in time, the one at which all that was taken is worked off (the theoretical
//! arrival time of GCRA), and all shards have one clock, so two views of it are joined by taking
//! the later one. All that is taken is told, so over time no more than the rate gets through on all
//! shards together; at once it may be an eighth of a burst more, and what came while mail was on
//! its way.
//!
//! An entry goes when its address has nothing open and its level has passed: then it is what a new
//! one would be, so nobody gains by being forgotten. Should there be more than [`ADDRESSES_MAX`]
//! that may not go yet, those beyond share one entry.
//!
//! Invariants: `Entry::users` counts this shard's connections that have its place;
//! `Entry::entered`, at its home, what all shards have let in and is open; at most one
//! [`AddressMail::Used`] of a shard and address is without an answer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroU32;

use hashbrown::HashMap;

use super::allowance::Rates;
use super::event::ShardId;
use crate::model::limits::{ADDRESS_REPORTS, ADDRESSES_MAX, RATE_BURST_SECONDS};

const NS_A_MS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000 * NS_A_MS;
const BURST_NS: u64 = RATE_BURST_SECONDS as u64 * SECOND_NS;

/// What of an address limits go by: all of an IPv4 address, the first 64 bits of an IPv6 address,
/// which are the least that one subscriber is given (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey(u64);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // Nobody's prefix: ff00::/8 is multicast.
            IpAddr::V4(v4) => Self(0xffff_ffff_0000_0000 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
}

impl AddressKey {
    /// That of all for whom there is no place.
    const CROWD: Self = Self(u64::MAX);

    /// The shard that counts it.
    pub(super) fn home(self, shards: u16) -> ShardId {
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 32) % u64::from(shards.max(1))) as ShardId
    }
}

/// A place in [`Addresses`], counted from 1; good as long as a connection is counted there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(NonZeroU32);

impl Place {
    fn of(index: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index as u32))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One address.
#[derive(Debug)]
struct Entry {
    key: AddressKey,
    users: u32,
    entered: u32,
    /// When all that was taken is worked off, in ns of the shards' clock.
    level_ns: u64,
    /// Messages taken that its home was not told of.
    untold: u32,
    /// Whether its home was told and has not answered yet.
    told: bool,
    /// Whether it stands in the list of those that may go.
    leaving: bool,
}

/// All addresses that one shard must know.
#[derive(Debug)]
pub(super) struct Addresses {
    own: ShardId,
    shards: u16,
    /// What a message takes, in ns; 0: no limit.
    cost_ns: u64,
    /// Messages of one [`AddressMail::Used`].
    told_at: u32,
    connections_max: u32,
    places_max: usize,
    entries: Vec<Entry>,
    vacant: Vec<Place>,
    places: HashMap<AddressKey, Place>,
    leaving: VecDeque<Place>,
}

impl Addresses {
    /// None yet; limited as `rates` says over so many shards.
    pub(super) fn new(own: ShardId, shards: u16, rates: &Rates) -> Self {
        let messages = rates.address_messages;
        let burst = messages.saturating_mul(RATE_BURST_SECONDS);
        Self {
            own,
            shards,
            cost_ns: SECOND_NS.checked_div(messages.into()).unwrap_or(0),
            told_at: (burst / (ADDRESS_REPORTS * u32::from(shards.max(1)))).max(1),
            connections_max: rates.address_connections,
            places_max: ADDRESSES_MAX,
            entries: Vec::new(),
            vacant: Vec::new(),
            places: HashMap::new(),
            leaving: VecDeque::new(),
        }
    }

    /// This shard's connections that have a place.
    pub(super) fn users(&self) -> usize {
        let users = self.entries.iter().map(|entry| entry.users as usize);
        users.sum()
    }

    /// A connection of that address is there: its place.
    pub(super) fn join(&mut self, key: AddressKey) -> Place {
        let place = self.place(key);
        self.entries[place.index()].users += 1;
        place
    }

    /// A connection with that place is gone.
    pub(super) fn leave(&mut self, place: Place) {
        let entry = &mut self.entries[place.index()];
        debug_assert!(entry.users > 0, "it was counted");
        entry.users = entry.users.saturating_sub(1);
        self.may_go(place);
    }

    /// Takes a message of the connection with that place, or not. The second is what its home is
    /// to be told.
    pub(super) fn take(&mut self, place: Place, now_ms: u64) -> (bool, Option<(AddressKey, u32)>) {
        self.take_some(place, 1, now_ms)
    }

    /// The same for an address of which no connection need be here, and what is worth so many
    /// messages.
    pub(super) fn take_of(
        &mut self,
        key: AddressKey,
        messages: u32,
        now_ms: u64,
    ) -> (bool, Option<(AddressKey, u32)>) {
        let place = self.place(key);
        let taken = self.take_some(place, messages, now_ms);
        self.may_go(place);
        taken
    }

    /// Whether the next message of an address would be refused.
    pub(super) fn is_spent(&self, key: AddressKey, now_ms: u64) -> bool {
        let place = self.places.get(&key);
        let place = place.or_else(|| {
            let is_full = self.places.len() >= self.places_max;
            self.places.get(&AddressKey::CROWD).filter(|_| is_full)
        });
        place.is_some_and(|place| {
            let level_ns = self.entries[place.index()].level_ns;
            self.cost_ns > 0 && self.lifted(level_ns, 1, now_ms).is_none()
        })
    }

    fn take_some(
        &mut self,
        place: Place,
        messages: u32,
        now_ms: u64,
    ) -> (bool, Option<(AddressKey, u32)>) {
        if self.cost_ns == 0 {
            return (true, None);
        }
        let level_ns = self.entries[place.index()].level_ns;
        let Some(level_ns) = self.lifted(level_ns, messages, now_ms) else {
            return (false, None);
        };
        let entry = &mut self.entries[place.index()];
        entry.level_ns = level_ns;
        if entry.key.home(self.shards) == self.own {
            return (true, None);
        }
        entry.untold += messages;
        (true, entry.tell(self.told_at))
    }

    /// What a level becomes by so many messages more, if they fit: into a burst, or as the first.
    fn lifted(&self, level_ns: u64, messages: u32, now_ms: u64) -> Option<u64> {
        let now_ns = now_ms * NS_A_MS;
        let lifted_ns = level_ns.max(now_ns) + self.cost_ns * u64::from(messages);
        (level_ns <= now_ns || lifted_ns <= now_ns + BURST_NS).then_some(lifted_ns)
    }

    /// A shard has taken so many messages of an address whose home is here: the level over all.
    pub(super) fn used(&mut self, key: AddressKey, messages: u32, now_ms: u64) -> u64 {
        let place = self.place(key);
        let entry = &mut self.entries[place.index()];
        let cost_ns = self.cost_ns * u64::from(messages);
        entry.level_ns = entry.level_ns.max(now_ms * NS_A_MS) + cost_ns;
        let level_ns = entry.level_ns;
        self.may_go(place);
        level_ns
    }

    /// The home of an address says how far it is over all. Returns what it is to be told next.
    pub(super) fn level(&mut self, key: AddressKey, level_ns: u64) -> Option<u32> {
        let &place = self.places.get(&key)?;
        let entry = &mut self.entries[place.index()];
        entry.told = false;
        let untold_ns = self.cost_ns * u64::from(entry.untold);
        entry.level_ns = entry.level_ns.max(level_ns + untold_ns);
        entry.tell(self.told_at).map(|(_, messages)| messages)
    }

    /// Whether an address whose home is here may have one more open; then it is counted.
    pub(super) fn enter(&mut self, key: AddressKey) -> bool {
        let place = self.place(key);
        let entry = &mut self.entries[place.index()];
        let is_let_in = entry.entered < self.connections_max;
        entry.entered += u32::from(is_let_in);
        self.may_go(place);
        is_let_in
    }

    /// One that was let in is gone.
    pub(super) fn exit(&mut self, key: AddressKey) {
        let counted = [key, AddressKey::CROWD].into_iter().find_map(|key| {
            let place = *self.places.get(&key)?;
            (self.entries[place.index()].entered > 0).then_some(place)
        });
        debug_assert!(counted.is_some(), "it was let in");
        if let Some(place) = counted {
            self.entries[place.index()].entered -= 1;
            self.may_go(place);
        }
    }

    /// Forgets those that are as new ones would be; looks at a share of those that may be. What
    /// their homes are still to be told is returned.
    pub(super) fn forget(&mut self, now_ms: u64) -> Vec<(AddressKey, u32)> {
        let mut tell = Vec::new();
        for _ in 0..self.leaving.len().div_ceil(4) {
            let Some(place) = self.leaving.pop_front() else {
                break;
            };
            let entry = &mut self.entries[place.index()];
            if !entry.is_unused() {
                entry.leaving = false;
            } else if entry.untold > 0 || entry.told || entry.level_ns > now_ms * NS_A_MS {
                tell.extend(entry.tell(1));
                self.leaving.push_back(place);
            } else {
                entry.leaving = false;
                self.places.remove(&entry.key);
                self.vacant.push(place);
            }
        }
        tell
    }

    /// The place of an address, which is made if it is not there.
    fn place(&mut self, key: AddressKey) -> Place {
        if let Some(&place) = self.places.get(&key) {
            return place;
        }
        if self.places.len() >= self.places_max && key != AddressKey::CROWD {
            return self.place(AddressKey::CROWD);
        }
        let entry = Entry {
            key,
            users: 0,
            entered: 0,
            level_ns: 0,
            untold: 0,
            told: false,
            leaving: false,
        };
        let place = match self.vacant.pop() {
            Some(place) => {
                self.entries[place.index()] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                Place::of(self.entries.len() - 1)
            }
        };
        self.places.insert(key, place);
        place
    }

    /// Notes an entry that nothing holds any more.
    fn may_go(&mut self, place: Place) {
        let entry = &mut self.entries[place.index()];
        if entry.is_unused() && !entry.leaving {
            entry.leaving = true;
            self.leaving.push_back(place);
        }
    }
}

impl Entry {
    fn is_unused(&self) -> bool {
        self.users == 0 && self.entered == 0
    }

    /// What its home is to be told, if it is `told_at` messages and no answer is awaited.
    fn tell(&mut self, told_at: u32) -> Option<(AddressKey, u32)> {
        if self.told || self.untold < told_at {
            return None;
        }
        self.told = true;
        Some((self.key, std::mem::take(&mut self.untold)))
    }
}

#[cfg(test)]
mod tests;
