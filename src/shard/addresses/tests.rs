//! Addresses and their levels: on one shard, on several, and whatever comes when.

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

/// What has no connection here counts all the same, on the shard that it came to and at its home.
#[test]
fn what_is_worth_several_is_taken_as_such_without_a_connection() {
    let key = key("10.0.0.1");
    let (mut home, mut away) = pair(key, 100, 0);
    let take = |home: &mut Addresses, away: &mut Addresses, worth: u32, now_ms: u64| {
        let (is_taken, mut tell) = away.take_of(key, worth, now_ms);
        while let Some((key, messages)) = tell {
            let level_ns = home.used(key, messages, now_ms);
            tell = away.level(key, level_ns).map(|messages| (key, messages));
        }
        is_taken
    };
    assert!(!away.is_spent(key, 1_000), "nobody knows it");
    let taken = (0..10).filter(|_| take(&mut home, &mut away, 30, 1_000));
    assert_eq!(taken.count(), 6, "as often as they fit into 200");
    assert!(!away.is_spent(key, 1_000), "there is room for one of one");
    let taken = (0..30).filter(|_| take(&mut home, &mut away, 1, 1_000));
    assert_eq!(taken.count(), 20);
    assert!(away.is_spent(key, 1_000) && !away.is_spent(key, 1_010));
    // More than fits into a burst passes as the first, and is worked off like any other.
    assert!(take(&mut home, &mut away, 500, 9_000));
    // (And what was not told of the last burst.)
    assert!(away.is_spent(key, 11_990) && !away.is_spent(key, 12_100));
    // Then nobody knows it any more.
    for now_ms in [20_000, 20_100, 20_200, 20_300] {
        for (key, messages) in away.forget(now_ms) {
            let level_ns = home.used(key, messages, now_ms);
            away.level(key, level_ns);
        }
    }
    assert!(away.places.is_empty(), "{away:?}");
    let (mut none, _) = pair(key, 0, 5);
    assert!(none.take_of(key, 1_000_000, 0).0 && !none.is_spent(key, 0));
}
