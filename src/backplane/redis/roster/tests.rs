//! Tables of what comes and what follows; several rosters and faults are in `simulation`.

mod simulation;
mod world;

use super::*;
use world::room;

fn roster() -> Roster {
    let mut roster = Roster::new("me".into(), 7, &RosterOptions::default());
    let first = asks(&mut roster);
    assert_eq!(first[0], "STORE replace ''='7 0 1'");
    assert_eq!(first[1], r#"{"instance_id":"me","nonce":7,"hello":true}"#);
    assert_eq!(first[2], "RENEW");
    assert!(first[3].contains(r#""digest":{"n":0,"count":0,"hash":"0000000000000000"}"#));
    assert_eq!(first.len(), 4);
    roster
}

/// All asks, in short.
fn asks(roster: &mut Roster) -> Vec<String> {
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .unwrap()
            .replace('\0', "/")
    };
    let asks = std::iter::from_fn(|| roster.poll_ask());
    asks.map(|ask| match ask {
        RosterAsk::Publish(message) => text(&message),
        RosterAsk::Store {
            replace, changes, ..
        } => {
            let change = |(field, value): (Bytes, Option<Bytes>)| match value {
                Some(value) => format!(" '{}'='{}'", text(&field), text(&value)),
                None => format!(" -'{}'", text(&field)),
            };
            let changes: String = changes.into_iter().map(change).collect();
            format!("STORE{}{changes}", if replace { " replace" } else { "" })
        }
        RosterAsk::Renew { .. } => "RENEW".into(),
        RosterAsk::Fetch { instance } => format!("FETCH {instance}"),
    })
    .collect()
}

fn short(events: &mut Vec<RosterEvent>) -> Vec<String> {
    let named = |room: RoomName, user_id: Name, username: Option<Name>| {
        format!(
            "{}/{user_id}/{}",
            room.as_str(),
            username.unwrap_or_default()
        )
    };
    let events = events.drain(..).map(|event| match event {
        RosterEvent::Joined {
            room,
            user_id,
            username,
        } => format!("+{}", named(room, user_id, username)),
        RosterEvent::Left {
            room,
            user_id,
            username,
        } => format!("-{}", named(room, user_id, username)),
        RosterEvent::Kick { user_id } => format!("kick {user_id}"),
        RosterEvent::Full { users_max } => format!("full {users_max}"),
    });
    let mut events: Vec<_> = events.collect();
    events.sort();
    events
}

/// What `message` of the instance `o`, nonce 1, brings about.
fn hear(roster: &mut Roster, now_ms: u64, message: &str) -> Vec<String> {
    let mut events = vec![];
    let message = format!(r#"{{"instance_id":"o","nonce":1,{message}}}"#);
    roster.on_control(now_ms, message.as_bytes(), &mut events);
    roster.invariants();
    short(&mut events)
}

fn tick(roster: &mut Roster, now_ms: u64) -> Vec<String> {
    let mut events = vec![];
    roster.tick(now_ms, &mut events);
    roster.invariants();
    short(&mut events)
}

/// What a snapshot of the instance `o` brings about: `room/user=username` each.
fn snapshot(roster: &mut Roster, now_ms: u64, fields: &[&str]) -> Vec<String> {
    let field = |field: &&str| {
        let (field, value) = field.split_once('=').unwrap();
        (field.replace('/', "\0").into(), value.to_owned().into())
    };
    let fields = fields.iter().map(field).collect();
    let mut events = vec![];
    roster.on_snapshot(now_ms, &"o".into(), Ok(Some(fields)), &mut events);
    roster.invariants();
    short(&mut events)
}

/// A roster that knows the instance `o`: `ann` in room `a`, up to delta 3.
fn acquainted() -> Roster {
    let mut roster = roster();
    hear(&mut roster, 0, r#""hello":true"#);
    assert_eq!(asks(&mut roster), ["FETCH o"]);
    let events = snapshot(&mut roster, 0, &["=1 3 1", "a/ann=Ann"]);
    assert_eq!(events, ["+a/ann/Ann"]);
    roster
}

fn none() -> [&'static str; 0] {
    []
}

#[test]
fn what_is_joined_and_left_here_is_stored_then_told() {
    let mut roster = roster();
    let (a, ann, bob) = (room("a"), Name::from("ann"), Name::from("bob"));
    roster.local_join(0, &a, &ann, Some(&"Ann".into()));
    roster.local_join(0, &a, &bob, None);
    assert_eq!(
        asks(&mut roster),
        [
            "STORE 'a/ann'='Ann' 'a/bob'='' ''='7 1 1'",
            r#"{"instance_id":"me","nonce":7,"members":{"n":1,"join":[["a","ann","Ann"],["a","bob"]],"leave":[]}}"#,
        ]
    );
    roster.local_join(0, &a, &ann, Some(&"Ann".into()));
    assert_eq!(asks(&mut roster), none(), "nothing is new");

    // Within the debounce a leave and a join cancel each other.
    roster.local_leave(100, &a, &ann);
    roster.local_leave(100, &a, &bob);
    tick(&mut roster, 1099);
    roster.local_join(1099, &a, &ann, Some(&"Ann B".into()));
    roster.invariants();
    tick(&mut roster, 1100);
    asks(&mut roster).retain(|ask| ask.contains("members"));
    roster.local_join(1100, &a, &ann, Some(&"Ann".into()));
    let told = asks(&mut roster);
    assert_eq!(told[0], "STORE 'a/ann'='Ann' ''='7 3 1'");
    roster.invariants();
}

#[test]
fn what_was_not_told_yet_needs_no_telling() {
    let mut roster = roster();
    let a = room("a");
    for round in 0..1000 {
        // Redis is away, and users come and go.
        let user = Name::from(format!("u{round}"));
        roster.local_join(round, &a, &user, None);
        roster.local_leave(round, &a, &user);
    }
    roster.invariants();
    assert_eq!(asks(&mut roster), none());
}

#[test]
fn a_large_change_goes_in_several_messages_and_all_is_stored_in_parts() {
    let mut roster = roster();
    let a = RoomName::parse(&"\"".repeat(128)).unwrap();
    for user in 0..1000 {
        let user = Name::from(format!("{user:\"<128}"));
        roster.local_join(0, &a, &user, Some(&user));
    }
    let mut parts = 0;
    while let Some(ask) = roster.poll_ask() {
        if let RosterAsk::Publish(message) = ask {
            assert!(message.len() <= 64 * 1024);
            parts += 1;
            let mut other = roster_of("other");
            other.on_control(0, &message, &mut vec![]);
            assert_eq!(other.counters().rejected, 0);
        }
    }
    assert!(parts > 1);
    roster.invariants();
    roster.on_redis_back(0);
    let all = asks(&mut roster);
    let stores: Vec<_> = all.iter().filter(|ask| ask.starts_with("STORE")).collect();
    assert!(stores.len() > 1);
    assert!(stores[0].starts_with("STORE replace"));
    let standing = format!(" ''='7 {parts} 2'");
    for (at, store) in stores.iter().enumerate() {
        let is_last = at + 1 == stores.len();
        assert_eq!(store.ends_with(&standing), is_last);
        assert_eq!(store.starts_with("STORE replace"), at == 0);
    }
    // Begun anew midway: nothing of the half-done one follows.
    roster.on_redis_back(0);
    assert!(roster.poll_ask().is_some());
    roster.on_redis_back(0);
    assert!(asks(&mut roster)[0].starts_with("STORE replace"));
}

#[test]
fn a_lease_that_was_not_renewed_in_time_is_taken_for_lost() {
    let mut roster = roster();
    roster.local_join(1000, &room("a"), &"ann".into(), None);
    for (now, is_anew) in [
        (1000, false),
        (15_000, false),
        (30_000, true),
        (44_000, false),
    ] {
        tick(&mut roster, now);
        let asks = asks(&mut roster);
        let anew = asks
            .iter()
            .any(|ask| ask.starts_with("STORE replace 'a/ann'"));
        assert_eq!(anew, is_anew, "{now}: {asks:?}");
    }
}

fn roster_of(id: &str) -> Roster {
    Roster::new(id.into(), 9, &RosterOptions::default())
}

#[test]
fn deltas_in_order_are_applied_and_a_hole_is_read() {
    let mut roster = acquainted();
    let joins = hear(
        &mut roster,
        1,
        r#""members":{"n":4,"join":[["a","bob"]],"leave":[]}"#,
    );
    assert_eq!(joins, ["+a/bob/"]);
    for (old, join) in [(4, "eve"), (3, "eve"), (0, "eve")] {
        let old = format!(r#""members":{{"n":{old},"join":[["a","{join}"]]}}"#);
        assert_eq!(hear(&mut roster, 1, &old), none());
    }
    assert_eq!(asks(&mut roster), none());
    // 5 is missing. What comes while the snapshot is read is held.
    assert_eq!(
        hear(&mut roster, 2, r#""members":{"n":6,"leave":[["a","ann"]]}"#),
        none()
    );
    hear(&mut roster, 2, r#""digest":{"n":6,"count":1,"hash":"0"}"#);
    tick(&mut roster, 300);
    let fetches = asks(&mut roster);
    assert!(fetches.contains(&"FETCH o".to_owned()), "{fetches:?}");
    assert_eq!(
        hear(
            &mut roster,
            301,
            r#""members":{"n":7,"join":[["b","ann"]]}"#
        ),
        none()
    );
    assert_eq!(
        hear(
            &mut roster,
            301,
            r#""members":{"n":8,"leave":[["a","bob"]]}"#
        ),
        none()
    );
    let events = snapshot(
        &mut roster,
        302,
        &["=1 6 1", "a/bob=", "a/new=New", "=1 6 1"],
    );
    assert_eq!(events, ["+a/new/New", "+b/ann/"]);
    assert!(roster.has_user("a", "ann"), "it lingers");
    assert_eq!(tick(&mut roster, 802), ["-a/ann/Ann", "-a/bob/"]);
    let users: Vec<_> = roster.users_of("a").collect();
    assert_eq!(users, [(&"new".into(), Some(&"New".into()), 1)]);
    assert!(
        asks(&mut roster)
            .iter()
            .all(|ask| !ask.starts_with("FETCH"))
    );
}

#[test]
fn a_username_changes_without_a_word() {
    let mut roster = acquainted();
    let events = hear(
        &mut roster,
        1,
        r#""members":{"n":4,"join":[["a","ann","Anna"]]}"#,
    );
    assert_eq!(events, none());
    assert_eq!(roster.users_of("a").next().unwrap().1, Some(&"Anna".into()));
}

#[test]
fn who_moves_within_the_time_is_not_seen_to_leave() {
    let mut roster = acquainted();
    hear(
        &mut roster,
        10,
        r#""members":{"n":4,"leave":[["a","ann"]]}"#,
    );
    assert_eq!(tick(&mut roster, 509), none());
    assert_eq!(roster.users_of("a").next().unwrap().1, Some(&"Ann".into()));
    let events = hear(
        &mut roster,
        509,
        r#""members":{"n":5,"join":[["a","ann","Ann"]]}"#,
    );
    assert_eq!(events, none());
    assert_eq!(tick(&mut roster, 2000), none());
}

#[test]
fn digests_agree_or_have_the_hash_read() {
    let hash = wire::row_hash("a", "ann", Some("Ann"));
    // A digest; whether the hash is read.
    for (n, count, hash, is_read) in [
        (3, 1, hash, false),
        (2, 9, 9, false),
        (3, 2, hash, true),
        (3, 1, hash + 1, true),
        (4, 1, hash, true),
    ] {
        let mut roster = acquainted();
        let digest = format!(r#""digest":{{"n":{n},"count":{count},"hash":"{hash:x}"}}"#);
        hear(&mut roster, 1, &digest);
        tick(&mut roster, 1000);
        let asks = asks(&mut roster);
        assert_eq!(
            asks.contains(&"FETCH o".to_owned()),
            is_read,
            "{digest}: {asks:?}"
        );
    }
}

#[test]
fn a_hash_that_never_agrees_is_read_now_and_then_and_asked_for_anew() {
    let mut roster = acquainted();
    let (mut fetches, mut restores) = (0, 0);
    for now in (0..60_000).step_by(100) {
        hear(&mut roster, now, r#""digest":{"n":3,"count":5,"hash":"5"}"#);
        tick(&mut roster, now);
        for ask in asks(&mut roster) {
            restores += usize::from(ask.contains(r#""restore":{"instance_id":"o"}"#));
            if ask == "FETCH o" {
                fetches += 1;
                assert_eq!(snapshot(&mut roster, now, &["=1 3 1", "a/ann=Ann"]), none());
            }
        }
    }
    assert!((10..25).contains(&fetches), "{fetches}");
    assert!(restores > 0);
}

#[test]
fn a_snapshot_that_is_not_whole_changes_nothing() {
    for fields in [
        &["a/eve="][..],
        &["=1 2 1", "a/eve="],
        &["=1 x 1", "a/eve="],
        &["=1 9", "a/eve="],
        &["=1 9 1", "a/eve=", "=1 9 2"],
        &["=1 9 1", "a/eve=", "=2 9 1"],
    ] {
        let mut roster = acquainted();
        hear(&mut roster, 1, r#""digest":{"n":4,"count":1,"hash":"1"}"#);
        tick(&mut roster, 400);
        assert!(asks(&mut roster).contains(&"FETCH o".to_owned()));
        assert_eq!(snapshot(&mut roster, 400, fields), none(), "{fields:?}");
        tick(&mut roster, 2000);
        let asks = asks(&mut roster);
        assert!(asks.contains(&"FETCH o".to_owned()));
        let restore = r#"{"instance_id":"me","nonce":7,"restore":{"instance_id":"o"}}"#;
        assert!(asks.contains(&restore.to_owned()), "{asks:?}");
        assert!(roster.has_user("a", "ann"));
    }
}

#[test]
fn a_new_run_replaces_the_one_before_and_late_words_of_that_one_do_not() {
    let mut roster = acquainted();
    let mut events = vec![];
    let say = |roster: &mut Roster, now: u64, nonce: u64, what: &str, events: &mut Vec<_>| {
        let message = format!(r#"{{"instance_id":"o","nonce":{nonce},{what}}}"#);
        roster.on_control(now, message.as_bytes(), events);
    };
    say(&mut roster, 1, 2, r#""hello":true"#, &mut events);
    tick(&mut roster, 400);
    assert!(asks(&mut roster).contains(&"FETCH o".to_owned()));
    assert_eq!(
        snapshot(&mut roster, 400, &["=2 1 1", "a/bob="]),
        ["+a/bob/"]
    );
    say(&mut roster, 401, 1, r#""bye":true"#, &mut events);
    say(
        &mut roster,
        401,
        1,
        r#""members":{"n":4,"join":[["a","eve"]]}"#,
        &mut events,
    );
    assert!(events.is_empty() && !roster.has_user("a", "eve"));
    assert_eq!(roster.instances().collect::<Vec<_>>(), ["o"]);
    assert_eq!(tick(&mut roster, 3400), ["-a/ann/Ann"]);
    say(&mut roster, 3500, 2, r#""bye":true"#, &mut events);
    assert_eq!(roster.instances().count(), 0);
    assert_eq!(tick(&mut roster, 6500), ["-a/bob/"]);
}

#[test]
fn messages_that_are_none_are_counted_and_ignored() {
    for (message, is_rejected) in [
        ("", true),
        ("[]", true),
        ("{", true),
        ("\u{7f}", true),
        (r#"{"instance_id":"","nonce":1,"hello":true}"#, true),
        (r#"{"instance_id":"o","nonce":-1,"hello":true}"#, true),
        (
            r#"{"instance_id":"o","nonce":1,"members":{"n":4,"join":[["a"]]}}"#,
            true,
        ),
        (
            r#"{"instance_id":"o","nonce":1,"members":{"n":4,"join":[["","u"]]}}"#,
            true,
        ),
        (
            r#"{"instance_id":"o","nonce":1,"members":{"n":4,"join":[["a","u\u0000"]]}}"#,
            true,
        ),
        (
            r#"{"instance_id":"o","nonce":1,"members":{"n":4,"join":[["a","u",5]]}}"#,
            true,
        ),
        (
            r#"{"instance_id":"o","nonce":1,"digest":{"n":4,"count":1,"hash":"x"}}"#,
            true,
        ),
        (r#"{"kick":{"user_id":"a\nb"}}"#, true),
        (r#"{"members":{"n":4,"join":[["a","u"]]}}"#, false),
        (r#"{"instance_id":"o","nonce":1}"#, false),
        (r#"{"what":"else","nonce":4}"#, false),
        (r#"{"instance_id":"me","nonce":8,"hello":true}"#, false),
        (
            r#"{"instance_id":"o","nonce":1,"members":{"n":18446744073709551615}}"#,
            false,
        ),
        (
            r#"{"instance_id":"o","nonce":1,"members":{"n":4,"leave":[["x","y"]]},"x":1}"#,
            false,
        ),
    ] {
        let mut roster = acquainted();
        let mut events = vec![];
        roster.on_control(1, message.as_bytes(), &mut events);
        assert!(events.is_empty(), "{message}");
        assert_eq!(
            roster.counters().rejected,
            u64::from(is_rejected),
            "{message}"
        );
        roster.invariants();
    }
    let mut roster = roster();
    roster.on_control(0, &vec![b' '; 64 * 1024 + 1], &mut vec![]);
    for at in 0..1100 {
        let message = format!(r#"{{"instance_id":"o{at}","nonce":1,"hello":true}}"#);
        roster.on_control(0, message.as_bytes(), &mut vec![]);
    }
    assert_eq!(roster.instances().count(), 1000);
    assert_eq!(roster.counters().rejected, 101);
    let fetches = asks(&mut roster);
    assert_eq!(fetches.len(), 4, "so many are read at a time: {fetches:?}");
}

#[test]
fn users_beyond_the_maximum_are_dropped_and_read_once_there_is_room() {
    let mut roster = Roster::new(
        "me".into(),
        7,
        &RosterOptions {
            users_max: 10,
            seed: 0,
        },
    );
    asks(&mut roster);
    hear(&mut roster, 0, r#""hello":true"#);
    asks(&mut roster);
    snapshot(&mut roster, 0, &["=1 1 1", "a/0=", "a/1=", "a/2=", "a/3="]);
    let rows: Vec<_> = (4..14).map(|user| format!(r#"["a","{user}"]"#)).collect();
    let delta = format!(r#""members":{{"n":2,"join":[{}]}}"#, rows.join(","));
    let events = hear(&mut roster, 1, &delta);
    assert_eq!((events.len(), roster.user_count("a")), (7, 10));
    assert!(events.contains(&"full 10".to_owned()));
    assert_eq!(roster.counters().dropped, 4);
    let digest = r#""digest":{"n":2,"count":14,"hash":"1"}"#;
    hear(&mut roster, 2, digest);
    tick(&mut roster, 1000);
    assert!(
        !asks(&mut roster).contains(&"FETCH o".to_owned()),
        "it would not help"
    );
    let rows: Vec<_> = (0..8).map(|user| format!(r#"["a","{user}"]"#)).collect();
    let delta = format!(r#""members":{{"n":3,"leave":[{}]}}"#, rows.join(","));
    hear(&mut roster, 1000, &delta);
    assert_eq!(tick(&mut roster, 2000).len(), 8);
    hear(
        &mut roster,
        2000,
        r#""digest":{"n":3,"count":6,"hash":"1"}"#,
    );
    tick(&mut roster, 3000);
    assert!(asks(&mut roster).contains(&"FETCH o".to_owned()));
}

#[test]
fn kicks() {
    let mut roster = roster();
    assert!(roster.kick(&"bob \"".into()));
    let kick = r#"{"instance_id":"me","nonce":7,"kick":{"user_id":"bob \""}}"#;
    assert_eq!(asks(&mut roster), [kick]);
    let taken = (0..2000).filter(|_| roster.kick(&"bob".into())).count();
    assert_eq!(taken, 1024);
    for (message, event) in [
        (kick, &[][..]),
        (
            r#"{"instance_id":"o","nonce":1,"kick":{"user_id":"u"}}"#,
            &["kick u"],
        ),
        (
            r#"{"instance_id":"me","kick":{"user_id":"u"}}"#,
            &["kick u"],
        ),
        (r#"{"kick":{"user_id":"u"}}"#, &["kick u"]),
    ] {
        let mut events = vec![];
        roster.on_control(0, message.as_bytes(), &mut events);
        assert_eq!(short(&mut events), event, "{message}");
    }
}

#[test]
fn a_farewell_is_the_last_word() {
    let mut roster = roster();
    roster.local_join(0, &room("a"), &"ann".into(), None);
    roster.bye();
    roster.on_redis_back(0);
    let bye = r#"{"instance_id":"me","nonce":7,"bye":true}"#;
    assert_eq!(asks(&mut roster), ["STORE replace", bye]);
    tick(&mut roster, 60_000);
    assert_eq!(asks(&mut roster), none());
}

#[test]
fn a_store_that_waits_is_not_done_over_one_that_is_to_be_made_anew() {
    let mut roster = roster();
    roster.local_join(0, &room("a"), &"ann".into(), None);
    roster.on_redis_back(0);
    let first = roster.poll_ask();
    assert!(
        matches!(first, Some(RosterAsk::Store { replace: true, .. })),
        "{first:?}"
    );
    roster.on_redis_back(0);
    let told = asks(&mut roster);
    assert_eq!(told[0], "STORE replace ''='7 0 3'");
    let stores = told.iter().filter(|ask| ask.starts_with("STORE"));
    assert_eq!(stores.count(), 2);
}

#[test]
fn who_says_hello_is_answered_and_who_finds_the_hash_wanting_too() {
    let mut roster = roster();
    tick(&mut roster, 1000);
    asks(&mut roster);
    hear(&mut roster, 2000, r#""hello":true"#);
    tick(&mut roster, 2500);
    assert!(asks(&mut roster).iter().any(|ask| ask.contains("digest")));
    for (now, restore, is_done) in [(3000, "me", true), (3100, "me", false), (9000, "x", false)] {
        let message = format!(r#""restore":{{"instance_id":"{restore}"}}"#);
        hear(&mut roster, now, &message);
        let asks = asks(&mut roster);
        let restored = asks.iter().any(|ask| ask.starts_with("STORE replace"));
        assert_eq!(restored, is_done, "{asks:?}");
    }
}

#[test]
fn nobody_vanishes_while_the_channel_is_silent_nor_at_once_when_it_is_heard_again() {
    let echo = br#"{"instance_id":"me","nonce":7,"hello":true}"#;
    let mut roster = acquainted();
    roster.on_control(0, echo, &mut vec![]);
    for now in (0..20_000).step_by(250) {
        assert_eq!(
            tick(&mut roster, now),
            none(),
            "{now}: we do not hear ourselves either"
        );
    }
    for now in (20_000..34_000).step_by(250) {
        if now % 5000 == 0 {
            roster.on_control(now, echo, &mut vec![]);
        }
        assert_eq!(tick(&mut roster, now), none(), "{now}: its time began anew");
    }
    assert_eq!(tick(&mut roster, 34_000), ["-a/ann/Ann"]);
    assert_eq!(roster.instances().count(), 0);
}

#[test]
fn what_was_told_while_a_snapshot_was_read_and_is_not_in_it_is_read_again() {
    let mut roster = acquainted();
    hear(&mut roster, 0, r#""digest":{"n":5,"count":1,"hash":"1"}"#);
    tick(&mut roster, 300);
    assert!(asks(&mut roster).contains(&"FETCH o".to_owned()));
    hear(
        &mut roster,
        300,
        r#""members":{"n":9,"join":[["a","bob"]]}"#,
    );
    assert_eq!(snapshot(&mut roster, 301, &["=1 7 1", "a/ann=Ann"]), none());
    tick(&mut roster, 2000);
    assert!(asks(&mut roster).contains(&"FETCH o".to_owned()));
    assert_eq!(
        snapshot(&mut roster, 2001, &["=1 9 1", "a/bob="]),
        ["+a/bob/"]
    );
}
