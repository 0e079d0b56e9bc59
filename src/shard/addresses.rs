//! What came from each address lately: its messages and its WebSockets, over all shards.
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
//! An entry goes when its address has no WebSocket and its level has passed: then it is what a new
//! one would be, so nobody gains by being forgotten. Should there be more than [`ADDRESSES_MAX`]
//! that may not go yet, those beyond share one entry.
//!
//! Invariants: `Entry::users` counts this shard's connections that have its place;
//! `Entry::entered`, at its home, the WebSockets of all shards that were let in; at most one
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
        let own = self.own;
        let (cost_ns, shards) = (self.cost_ns, self.shards);
        if cost_ns == 0 {
            return (true, None);
        }
        let entry = &mut self.entries[place.index()];
        let now_ns = now_ms * NS_A_MS;
        let level_ns = entry.level_ns.max(now_ns) + cost_ns;
        if level_ns > now_ns + BURST_NS {
            return (false, None);
        }
        entry.level_ns = level_ns;
        if entry.key.home(shards) == own {
            return (true, None);
        }
        entry.untold += 1;
        let told_at = self.told_at;
        (true, entry.tell(told_at))
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

    /// Whether one more WebSocket of an address whose home is here may be; then it is counted.
    pub(super) fn enter(&mut self, key: AddressKey) -> bool {
        let place = self.place(key);
        let entry = &mut self.entries[place.index()];
        let is_let_in = entry.entered < self.connections_max;
        entry.entered += u32::from(is_let_in);
        self.may_go(place);
        is_let_in
    }

    /// A WebSocket that was let in is gone.
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
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> AddressKey {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_address_is_its_network_in_ipv6_and_itself_in_ipv4() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(key(one) == key(other), same, "{one} {other}");
        }
    }

    fn rates(address_messages: u32, address_connections: u32) -> Rates {
        Rates {
            address_messages,
            address_connections,
            ..Rates::default()
        }
    }

    /// Two shards, and the home of `key` among them.
    fn pair(key: AddressKey, messages: u32, connections: u32) -> (Addresses, Addresses) {
        let home = key.home(2);
        let rates = rates(messages, connections);
        let new = |own| Addresses::new(own, 2, &rates);
        (new(home), new(1 - home))
    }

    fn taken(of: &mut Addresses, place: Place, now_ms: u64, count: u32) -> u32 {
        (0..count)
            .map(|_| u32::from(of.take(place, now_ms).0))
            .sum()
    }

    #[test]
    fn a_burst_is_twice_the_rate_and_then_it_is_the_rate() {
        let key = key("10.0.0.1");
        let (mut home, _) = pair(key, 100, 0);
        let place = home.join(key);
        assert_eq!(taken(&mut home, place, 1_000, 1_000), 200);
        assert_eq!(taken(&mut home, place, 2_000, 1_000), 100);
        assert_eq!(taken(&mut home, place, 60_000, 1_000), 200);
    }

    /// Takes as much as it gets, telling the home at once.
    fn flood(home: &mut Addresses, away: &mut Addresses, place: Place, now_ms: u64) -> u32 {
        let mut count = 0;
        loop {
            let (is_taken, mut tell) = away.take(place, now_ms);
            if !is_taken {
                return count;
            }
            count += 1;
            while let Some((key, messages)) = tell {
                let level_ns = home.used(key, messages, now_ms);
                tell = away.level(key, level_ns).map(|messages| (key, messages));
            }
        }
    }

    #[test]
    fn shards_share_it_and_being_forgotten_gains_nothing() {
        let key = key("10.0.0.1");
        let (mut home, mut away) = pair(key, 160, 0);
        let (here, there) = (home.join(key), away.join(key));
        assert_eq!(flood(&mut home, &mut away, there, 1_000), 320);
        // An eighth of a burst may be untold.
        let more = taken(&mut home, here, 1_000, 1_000);
        assert!(more <= 40, "{more}");
        // It goes, at once comes again, and is where it was.
        away.leave(there);
        home.leave(here);
        for now_ms in [1_000, 1_100] {
            for (key, messages) in away.forget(now_ms) {
                let level_ns = home.used(key, messages, now_ms);
                away.level(key, level_ns);
            }
            assert!(home.forget(now_ms).is_empty());
        }
        let (here, there) = (home.join(key), away.join(key));
        assert!(taken(&mut away, there, 1_100, 100) <= 16);
        assert!(taken(&mut home, here, 1_100, 100) <= 16);
        home.leave(here);
        away.leave(there);
        // Two seconds on all of it is worked off, and nobody knows it any more.
        for _ in 0..4 {
            for (key, messages) in away.forget(4_000) {
                let level_ns = home.used(key, messages, 4_000);
                away.level(key, level_ns);
            }
            home.forget(7_000);
            away.forget(7_000);
        }
        assert!(home.places.is_empty() && away.places.is_empty());
    }

    #[test]
    fn so_many_enter_and_no_more() {
        let (one, other) = (key("10.0.0.1"), key("10.0.0.2"));
        let mut home = Addresses::new(0, 1, &rates(0, 3));
        assert_eq!(
            [0; 5].map(|_| home.enter(one)),
            [true, true, true, false, false]
        );
        assert!(home.enter(other));
        home.exit(one);
        assert!(home.enter(one) && !home.enter(one));
        (0..3).for_each(|_| home.exit(one));
        home.exit(other);
        home.forget(0);
        home.forget(0);
        assert!(home.places.is_empty(), "{home:?}");
    }

    #[test]
    fn those_for_whom_there_is_no_place_share_one() {
        let mut all = Addresses::new(0, 1, &rates(100, 2));
        all.places_max = 10;
        let keys: Vec<_> = (0..50u32)
            .map(|n| IpAddr::from(n.to_be_bytes()).into())
            .collect();
        let places: HashSet<_> = keys.iter().map(|&key| all.join(key)).collect();
        assert_eq!((places.len(), all.places.len()), (11, 11));
        let crowd = all.join(keys[49]);
        assert_eq!(taken(&mut all, crowd, 0, 1_000), 200);
        let another = all.join(keys[48]);
        assert_eq!(taken(&mut all, another, 0, 1_000), 0);
        let first = all.join(keys[0]);
        assert_eq!(taken(&mut all, first, 0, 1_000), 200);
        assert!(all.enter(keys[48]) && all.enter(keys[49]) && !all.enter(keys[47]));
        all.exit(keys[48]);
        assert!(all.enter(keys[47]));
    }

    proptest! {
        /// Whatever comes to which shard, and however late its mail is, no more than the rate gets
        /// through beyond a burst, an eighth of it, and what came while mail was on its way.
        #[test]
        fn over_time_no_more_than_the_rate(
            steps in proptest::collection::vec((0u64..100, 0usize..4, 0u32..60), 1..300),
            late in 0usize..20,
        ) {
            let key = key("10.0.0.9");
            let rates = rates(100, 0);
            let mut shards: Vec<_> = (0..4).map(|own| Addresses::new(own, 4, &rates)).collect();
            let home = usize::from(key.home(4));
            let places: Vec<_> = shards.iter_mut().map(|shard| shard.join(key)).collect();
            let mut mail = VecDeque::new();
            let (mut now_ms, mut through, mut unheard_max) = (0, 0, 0);
            for (pause_ms, at, count) in steps {
                now_ms += pause_ms;
                let mut since = 0;
                for _ in 0..count {
                    let (is_taken, tell) = shards[at].take(places[at], now_ms);
                    since += u32::from(is_taken);
                    mail.extend(tell.map(|(_, messages)| (at, messages)));
                }
                through += since;
                while mail.len() > late {
                    let (from, messages): (usize, u32) = mail.pop_front().unwrap();
                    let level_ns = shards[home].used(key, messages, now_ms);
                    let more = shards[from].level(key, level_ns);
                    mail.extend(more.map(|messages| (from, messages)));
                }
                let unheard: u32 = shards.iter().flat_map(|s| &s.entries).map(|e| e.untold).sum();
                let under_way: u32 = mail.iter().map(|&(_, messages)| messages).sum();
                unheard_max = unheard_max.max(unheard + under_way);
                let most = now_ms as f64 / 10.0 + 200.0 + f64::from(unheard_max) + 1.0;
                // Each shard may take a burst, or a step, before it hears of the others.
                let most = if late > 0 { most + 600.0 } else { most + 240.0 };
                prop_assert!(f64::from(through) <= most, "{through} of {most} at {now_ms}");
            }
        }
    }
}
