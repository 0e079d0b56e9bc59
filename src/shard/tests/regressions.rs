//! What broke once, each by its shortest way, on a stage without delays unless a test makes one.

use super::stage::{Peer, Stage, options, room_of};
use crate::backplane::{Begun, StoreReply};
use crate::model::{Epoch, Name, Position, RoomName};
use crate::shard::Event;
use crate::shard::lanes::Behind;

#[test]
fn nothing_follows_a_close_frame() {
    let mut stage = Stage::new(options(2, false));
    let peer = stage.connect(0, "/ws");
    stage.say(
        peer,
        &format!(
            r#"{{"type":"publish","room":"{}","payload":1,"ref":7}}"#,
            room_of(1)
        ),
    );
    let mut close = Vec::new();
    super::frames::push(&mut close, &mut fastrand::Rng::with_seed(1), 8, &[3, 232]);
    stage.event(0, Event::Bytes(peer.1, &mut close));
    stage.turn(0);
    let heard = stage.heard(peer);
    assert!(heard.ends_with("\u{3}\u{fffd}"), "{heard:?}");
    stage.pump();
    assert_eq!(stage.heard(peer), "", "an ack came behind the close frame");
}

#[test]
fn a_join_that_was_left_before_it_was_answered_is_not_met_with_silence() {
    let mut stage = Stage::new(options(2, false));
    let peer = stage.connect(0, "/ws");
    let room = room_of(1);
    stage.say(
        peer,
        &format!(r#"{{"type":"join","room":"{room}","ref":1}}"#),
    );
    stage.say(
        peer,
        &format!(r#"{{"type":"leave","room":"{room}","ref":2}}"#),
    );
    stage.pump();
    let heard = stage.heard(peer);
    assert!(
        heard.contains("\"code\":\"not_joined\"") && heard.contains("\"ref\":1"),
        "{heard}"
    );
}

#[test]
fn two_joins_of_ones_personal_room_are_both_answered() {
    let mut stage = Stage::new(options(2, false));
    let (peer, other) = (stage.connect(0, "/ws"), stage.connect(1, "/ws"));
    let room = format!("@{}", stage.id_of(peer));
    stage.say(
        other,
        &format!(r#"{{"type":"publish","room":"{room}","payload":1}}"#),
    );
    stage.pump();
    for reference in 1..=2 {
        let join = format!(r#"{{"type":"join","room":"{room}","ref":{reference}}}"#);
        stage.say(peer, &join);
    }
    stage.pump();
    assert_eq!(stage.heard(peer).matches("\"type\":\"joined\"").count(), 2);
}

#[test]
fn who_fills_its_outbox_is_read_on_as_soon_as_it_is_sent() {
    let mut stage = Stage::new(options(1, false));
    let peer = stage.connect(0, "/ws");
    stage.heard(peer);
    let reference = "x".repeat(250);
    for _ in 0..400 {
        stage.say(peer, &format!(r#"{{"type":"ping","ref":"{reference}"}}"#));
    }
    while stage.turn(0) {}
    let pongs = stage.heard(peer).matches("pong").count();
    assert_eq!(pongs, 400, "the rest waits for a tick");
}

#[test]
fn a_resume_that_the_store_fails_leaves_no_room_behind() {
    let mut stage = Stage::new(options(2, true));
    let peer = stage.connect(0, "/ws");
    let (room, epoch) = (room_of(1), Epoch::new(1, 1));
    let since = format!(r#"{{"epoch":"{}","offset":3}}"#, epoch.as_str());
    stage.say(
        peer,
        &format!(r#"{{"type":"join","room":"{room}","since":{since},"ref":1}}"#),
    );
    stage.pump();
    let name = crate::model::RoomName::parse(&room).unwrap();
    stage.answer(StoreReply::Opened(name.clone(), Ok((epoch, 9))));
    stage.answer(StoreReply::Missing(Ok(vec![None])));
    let failed = Err("the disk is away".into());
    stage.answer(StoreReply::Read {
        room: name,
        epoch,
        from: 4,
        publications: failed,
    });
    assert!(stage.heard(peer).contains("unavailable"));
    stage.pass(3_000);
    assert_eq!(
        stage.shards[1].0.counters().rooms,
        0,
        "it is kept for a shard without members"
    );
}

#[test]
fn presence_can_be_asked_for_by_joining_again() {
    let mut stage = Stage::new(options(2, false));
    let (first, second) = (stage.connect(0, "/ws"), stage.connect(0, "/ws"));
    let room = room_of(1);
    let join = |more: &str| format!(r#"{{"type":"join","room":"{room}"{more}}}"#);
    stage.say(first, &join(r#","presence":true"#));
    stage.say(second, &join(""));
    stage.say(second, &join(r#","presence":true"#));
    stage.pump();
    stage.heard(second);
    stage.say(first, &format!(r#"{{"type":"leave","room":"{room}"}}"#));
    stage.pass(2_000);
    assert!(
        stage.heard(second).contains("\"event\":\"leave\""),
        "it asked for presence"
    );
    // And who does not want them any more takes nobody else's with it.
    stage.say(first, &join(r#","presence":true"#));
    stage.say(second, &join(""));
    stage.say(second, &format!(r#"{{"type":"leave","room":"{room}"}}"#));
    stage.pass(2_000);
    assert!(
        stage.heard(first).contains("\"event\":\"leave\""),
        "it still wants presence"
    );
}

/// A room with one who watches it and one who does not; what the first has heard is taken.
fn watched(stage: &mut Stage) -> (Peer, Peer, String, RoomName) {
    let (watcher, user) = (stage.connect(0, "/ws"), stage.connect(1, "/ws"));
    let (id, room) = (stage.id_of(user), room_of(1));
    stage.say(
        watcher,
        &format!(r#"{{"type":"join","room":"{room}","presence":true}}"#),
    );
    stage.pump();
    stage.say(user, &format!(r#"{{"type":"join","room":"{room}"}}"#));
    stage.pump();
    assert!(stage.heard(watcher).contains(r#""event":"join""#));
    (watcher, user, id, RoomName::parse(&room).unwrap())
}

/// How many members the room has, and which events of presence came before that answer.
fn members_and_events(stage: &mut Stage, peer: Peer, room: &RoomName) -> (String, Vec<String>) {
    stage.say(
        peer,
        &format!(r#"{{"type":"members","room":"{}","ref":1}}"#, room.as_str()),
    );
    stage.pump();
    let heard = stage.heard(peer);
    let word = |after: &str, text: &str| {
        let (_, rest) = text.split_once(after)?;
        Some(rest.split(['"', ',', '}']).next()?.to_owned())
    };
    let events = heard.split(r#""type":"presence""#).skip(1);
    let events = events.filter_map(|text| word(r#""event":""#, text));
    let count = word(r#""count":"#, &heard).expect("an answer");
    (count, events.collect())
}

#[test]
fn who_leaves_and_comes_back_at_once_is_seen_to_do_neither() {
    let mut stage = Stage::new(options(2, false));
    let (watcher, user, _, room) = watched(&mut stage);
    for _ in 0..3 {
        stage.say(
            user,
            &format!(r#"{{"type":"leave","room":"{}"}}"#, room.as_str()),
        );
        stage.pass(1_000);
        let none = Vec::<String>::new();
        let seen = members_and_events(&mut stage, watcher, &room);
        assert_eq!(seen, ("1".to_owned(), none.clone()), "it counts as gone");
        stage.say(
            user,
            &format!(r#"{{"type":"join","room":"{}"}}"#, room.as_str()),
        );
        stage.pass(1_000);
        let seen = members_and_events(&mut stage, watcher, &room);
        assert_eq!(seen, ("2".to_owned(), none));
    }
    stage.say(
        user,
        &format!(r#"{{"type":"leave","room":"{}"}}"#, room.as_str()),
    );
    stage.pass(2_000);
    let seen = members_and_events(&mut stage, watcher, &room);
    assert_eq!(seen, ("1".to_owned(), vec!["leave".to_owned()]));
}

#[test]
fn a_user_who_moved_to_another_instance_was_seen_to_leave_and_to_join() {
    let mut stage = Stage::new(options(2, false));
    let (watcher, user, id, room) = watched(&mut stage);
    let id = Name::new(&id);
    stage.say(
        user,
        &format!(r#"{{"type":"leave","room":"{}"}}"#, room.as_str()),
    );
    stage.pass(500);
    let elsewhere = |stage: &mut Stage, is_join| {
        let home = &mut stage.shards[1].0;
        home.tell_presence_elsewhere(&room, &id, None, is_join);
    };
    elsewhere(&mut stage, true);
    stage.pass(3_000);
    let seen = members_and_events(&mut stage, watcher, &room);
    assert_eq!(seen, ("2".to_owned(), Vec::new()));
    // The roster has held it back already.
    elsewhere(&mut stage, false);
    let seen = members_and_events(&mut stage, watcher, &room);
    assert_eq!(seen, ("1".to_owned(), vec!["leave".to_owned()]));
}

#[test]
fn who_begins_to_watch_while_a_leave_is_held_back_hears_of_the_return() {
    let mut stage = Stage::new(options(2, false));
    let (watcher, user, _, room) = watched(&mut stage);
    let join = |more: &str| format!(r#"{{"type":"join","room":"{}"{more}}}"#, room.as_str());
    stage.say(
        user,
        &format!(r#"{{"type":"leave","room":"{}"}}"#, room.as_str()),
    );
    stage.pass(500);
    let late = stage.connect(0, "/ws");
    stage.say(late, &join(r#","presence":true"#));
    stage.pump();
    let (count, _) = members_and_events(&mut stage, late, &room);
    assert_eq!(count, "2");
    stage.say(user, &join(""));
    stage.pump();
    let (count, events) = members_and_events(&mut stage, late, &room);
    assert_eq!((count, events), ("3".to_owned(), vec!["join".to_owned()]));
    let (_, events) = members_and_events(&mut stage, watcher, &room);
    assert_eq!(events, ["join", "leave", "join"]);
}

#[test]
fn who_is_in_its_personal_room_by_itself_hears_the_rooms_next_life_too() {
    let mut stage = Stage::new(options(2, false));
    let peers = [0, 1].map(|at| stage.connect(at, "/ws"));
    let ids = peers.map(|peer| stage.id_of(peer));
    for (id, at) in ids.iter().zip(0..) {
        let publish = format!(r#"{{"type":"publish","room":"@{id}","payload":"it is {at}"}}"#);
        for life in 0..2 {
            stage.say(peers[0], &publish);
            if life == 0 {
                stage.say(peers[0], &publish);
            }
            stage.pump();
            let heard = stage.heard(peers[at]);
            assert!(
                heard.contains(&format!("it is {at}")),
                "life {life}: {heard:?}"
            );
            stage.pass(5_000);
        }
    }
}

#[test]
fn a_delivery_to_who_has_left_begins_no_log_for_who_comes_back() {
    let mut stage = Stage::new(options(2, false));
    let (peer, other) = (stage.connect(0, "/ws"), stage.connect(1, "/ws"));
    let room = room_of(1);
    let publish = format!(r#"{{"type":"publish","room":"{room}","payload":1}}"#);
    stage.say(peer, &format!(r#"{{"type":"join","room":"{room}"}}"#));
    stage.pump();
    let heard = stage.heard(peer);
    let (_, epoch) = heard.split_once("\"epoch\":\"").unwrap();
    let epoch = &epoch[..20];
    stage.say(other, &publish);
    stage.turn(1);
    let late = stage.carry(1, 0);
    stage.say(peer, &format!(r#"{{"type":"leave","room":"{room}"}}"#));
    let left = stage.carry(0, 1);
    let since = format!(r#"{{"epoch":"{epoch}","offset":0}}"#);
    stage.say(
        peer,
        &format!(r#"{{"type":"join","room":"{room}","since":{since}}}"#),
    );
    stage.give(1, 0, late);
    stage.give(0, 1, left);
    for _ in 0..3 {
        stage.say(other, &publish);
    }
    stage.turn(1);
    stage.pump();
    let heard = stage.heard(peer);
    assert!(heard.contains("\"recovered\":true"), "{heard}");
    assert_eq!(heard.matches("\"type\":\"message\"").count(), 4, "{heard}");
}

/// It counted as open, and nobody followed it: its members heard nothing, and who was there on
/// other instances was not counted.
#[test]
fn a_late_delivery_of_its_last_life_does_not_open_a_room() {
    let mut stage = Stage::new(options(1, true));
    let peer = stage.connect(0, "/ws");
    let room = room_of(0);
    let name = RoomName::parse(&room).unwrap();
    let join = |reference: u32| format!(r#"{{"type":"join","room":"{room}","ref":{reference}}}"#);
    stage.say(peer, &join(1));
    stage.pump();
    let (epoch, offset) = (Epoch::new(1, 1), 5);
    let (late, json) = (Position { epoch, offset }, b"{\"late\":true}");
    let shard = &mut stage.shards[0].0;
    shard.deliver_publication(&name, late, json, None, Begun::Unknown);
    for room in shard.home.rooms.values() {
        assert!(
            room.opening.is_some() && room.position.is_none(),
            "{room:?}"
        );
    }
    let failed = Err("the disk is away".into());
    stage.answer(StoreReply::Opened(name.clone(), failed));
    assert!(stage.heard(peer).contains("unavailable"));
    stage.say(peer, &join(2));
    stage.pump();
    assert_eq!(stage.heard(peer), "", "it is to be opened first");
    stage.answer(StoreReply::Opened(name, Ok((epoch, 9))));
    let heard = stage.heard(peer);
    assert!(heard.contains("\"offset\":9"), "{heard}");
}

#[test]
fn a_late_delivery_of_its_last_life_reaches_who_is_in_its_personal_room_by_itself() {
    let mut stage = Stage::new(options(1, true));
    let peer = stage.connect(0, "/ws");
    let room = format!("@{}", stage.id_of(peer));
    stage.say(
        peer,
        &format!(r#"{{"type":"publish","room":"{room}","payload":1}}"#),
    );
    stage.pump();
    let (epoch, offset) = (Epoch::new(1, 1), 5);
    let (late, json) = (Position { epoch, offset }, b"{\"late\":true}");
    let name = RoomName::parse(&room).unwrap();
    stage.shards[0]
        .0
        .deliver_publication(&name, late, json, None, Begun::Unknown);
    stage.pump();
    assert!(stage.heard(peer).contains("late"));
}

#[test]
fn an_outbox_that_is_never_empty_does_not_grow() {
    let mut stage = Stage::new(options(1, false));
    let peer = stage.connect(0, "/ws");
    stage.shards[0].1.limit = 3_000;
    let reference = "x".repeat(250);
    for _ in 0..300 {
        for _ in 0..10 {
            stage.say(peer, &format!(r#"{{"type":"ping","ref":"{reference}"}}"#));
        }
        stage.turn(0);
        stage.event(0, Event::Writable(peer.1));
    }
    let conn = stage.shards[0].0.conns[0].as_ref().unwrap();
    let bytes = conn.outbox.as_ref().map_or(0, |outbox| outbox.bytes.len());
    assert!(bytes < 200_000, "{bytes}");
}

/// A member of a room whose home is the other shard, which has not carried anything since: thirty
/// were published there, the `first` of them in its room, and the rest, in another one, drive those
/// from the log.
fn behind(first: usize) -> (Stage, Peer, String) {
    let mut options = options(2, false);
    options.log_bytes_max = 8_000;
    let mut stage = Stage::new(options);
    let (peer, other) = (stage.connect(0, "/ws"), stage.connect(1, "/ws"));
    let room = room_of(1);
    stage.say(peer, &format!(r#"{{"type":"join","room":"{room}"}}"#));
    stage.pump();
    let is_there = |name: &String| crate::model::RoomName::parse(name).unwrap().home(2) == 1;
    let another = (0..)
        .map(|n| format!("e{n}"))
        .find(is_there)
        .expect("some are");
    let pad = "x".repeat(600);
    for at in 0..30 {
        let to = if at < first { &room } else { &another };
        stage.say(
            other,
            &format!(r#"{{"type":"publish","room":"{to}","payload":"{pad}"}}"#),
        );
        stage.turn(1);
    }
    (stage, peer, room)
}

#[test]
fn a_lane_that_is_behind_holds_publishing_back_so_that_nothing_falls_off_the_log() {
    let (mut stage, peer, _) = behind(15);
    stage.pump();
    let heard = stage.heard(peer);
    let messages = heard.matches("\"type\":\"message\"").count();
    assert_eq!(messages, 15, "{heard}");
    assert!(!heard.contains("gap"), "{heard}");
}

#[test]
fn a_lane_that_is_behind_tells_what_fell_off_the_log_even_if_all_did() {
    let (mut stage, peer, room) = behind(2);
    // As if the lane had been full from the first on; by now the log has none of them.
    let home = &mut stage.shards[1].0;
    let key = home.hub.find(&room).unwrap();
    let log = home.hub.room(key).unwrap().log().unwrap();
    assert_eq!((log.first(), log.next()), (3, 3));
    home.lanes.take(0);
    let (offset, skips) = (1, Vec::new());
    home.lanes.set_behind(0, key, Behind { offset, skips });
    stage.pump();
    let heard = stage.heard(peer);
    assert!(heard.contains("\"from\":1,\"to\":2"), "{heard}");
    assert!(!heard.contains("\"type\":\"message\""), "{heard}");
}
