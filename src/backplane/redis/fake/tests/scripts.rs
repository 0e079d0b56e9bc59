//! The scripts on a real Redis: frames byte for byte, what remains when a command is refused,
//! large states.

use std::slice::from_ref;

use super::real::{Connection, RealRedis};
use super::values::Parsed;
use super::*;
use crate::backplane::redis::names::Names;
use crate::backplane::redis::script::publish::{Call, Caller};
use crate::model::{Epoch, MessageId, Publication, RoomName, Timestamp};
use crate::protocol::event;

fn ask(redis: &mut Connection, command: &str) -> Parsed {
    let mut out = vec![];
    let args: Vec<_> = command.split(' ').map(str::as_bytes).collect();
    push_command(&mut out, &args);
    redis.send(&out);
    redis.read()
}

fn bulk(reply: &Parsed) -> String {
    match reply {
        Parsed::Bulk(text) => String::from_utf8(text.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn list(reply: Parsed) -> Vec<Parsed> {
    match reply {
        Parsed::List(_, list) => list,
        other => panic!("{other:?}"),
    }
}

fn load(redis: &mut Connection, script: Script) -> String {
    let mut out = vec![];
    script.push_load(&mut out);
    redis.send(&out);
    bulk(&redis.read())
}

fn publication(room: &str, id: u128, payload: &str) -> Publication {
    Publication {
        room: RoomName::parse(room).unwrap(),
        epoch: Epoch::new(0, 0),
        offset: 0,
        id: MessageId::from_u128(id),
        client_id_given: true,
        user_id: "u\\\"é".into(),
        username: id.is_multiple_of(2).then(|| "N,\"offset\":7".into()),
        payload: payload.to_owned().into(),
        metadata: id
            .is_multiple_of(3)
            .then(|| r#"{"a": ",\"sent_at\":\""}"#.into()),
        sent_at: Timestamp(1_700_000_000_123 + id as u64),
    }
}

fn publish(redis: &mut Connection, sha: &str, first: u64, messages: &[Publication]) -> Parsed {
    let caller = Caller::new(Names::new("g", 0, 1), "in\"st", 600_000, event::message);
    let call = Call {
        producer: "p",
        base: first,
        first_number: first,
        messages,
    };
    let mut out = vec![];
    caller.push(&mut out, sha.as_bytes(), Epoch::new(1, 0), &call);
    redis.send(&out);
    redis.read()
}

#[test]
fn frames_are_those_that_rust_writes() {
    let server = RealRedis::start();
    let (mut redis, mut listener) = (server.connect(), server.connect());
    ask(&mut listener, "SUBSCRIBE g:broadcast");
    let sha = load(&mut redis, Script::Publish);
    let rooms = ["a", "\\", ",\"offset\":0", "é\u{4000}", "%d%s%0"];
    let payloads = [
        "1",
        "\"%\"",
        r#"{ "offset":0, "payload" : "\u0000" }"#,
        "[1e400]",
    ];
    let mut number = 0;
    for (i, room) in rooms.into_iter().enumerate() {
        for (j, payload) in payloads.into_iter().enumerate() {
            number += 1;
            let mut message = publication(room, number.into(), payload);
            message.client_id_given = j % 2 == 0;
            let reply = list(publish(&mut redis, &sha, number, from_ref(&message)));
            assert_eq!(reply[5], Parsed::Line(':', (j + 1).to_string()));
            message.offset = j as u64 + 1;
            let mut frame = vec![];
            event::message(&mut frame, &message);
            let entries = list(ask(&mut redis, "XREVRANGE g:messages:stream + - COUNT 1"));
            let entry = list(entries[0].clone());
            let want = format!(
                "{{\"instance_id\":\"in\\\"st\",\"epoch\":\"{}\",\"seq\":{},\"entry\":\"{}\",\
                 \"payload\":{}}}",
                Epoch::new(1, 0).as_str(),
                i * payloads.len() + j + 1,
                bulk(&entry[0]),
                String::from_utf8(frame).unwrap()
            );
            assert_eq!(bulk(&list(listener.read())[2]), want);
            let fields: Vec<_> = list(entry[1].clone()).iter().map(bulk).collect();
            assert_eq!(
                fields[..6],
                ["room_name", room, "user_id", "u\\\"é", "username", {
                    message.username.as_deref().unwrap_or_default()
                }]
            );
            assert_eq!(fields[6..8], ["payload", payload]);
        }
    }
}

/// Whatever the user may not do, entries and counters agree afterwards, and so does the channel.
#[test]
fn a_refused_command_leaves_it_whole() {
    let server = RealRedis::start();
    let (mut admin, mut listener) = (server.connect(), server.connect());
    ask(&mut listener, "SUBSCRIBE g:broadcast");
    let sha = load(&mut admin, Script::Publish);
    let mut number = 1;
    for (rule, is_stored, is_told) in [
        ("+get", true, true),
        ("-publish", true, false),
        ("-hset", false, false),
        ("-xadd", false, false),
        ("-hmget", false, false),
        ("-hlen", false, false),
        ("-pexpire", true, true),
        ("resetchannels", true, false),
    ] {
        let user = format!("ACL SETUSER bob reset on >secret ~* &* +@all {rule}");
        assert_eq!(ask(&mut admin, &user), Parsed::Line('+', "OK".into()));
        let mut bob = server.connect();
        ask(&mut bob, "AUTH bob secret");
        let length = |redis: &mut Connection| match ask(redis, "XLEN g:messages:stream") {
            Parsed::Line(':', length) => length.parse::<i64>().unwrap(),
            other => panic!("{other:?}"),
        };
        // Two with ids of their client, and one without, which looks up no id.
        for (count, needs_no_ids) in [(2, false), (1, rule == "-hlen")] {
            let before = length(&mut admin);
            let mut messages = [number, number + 1].map(|n| publication("r", n.into(), "1"));
            messages[0].client_id_given = count == 2;
            let reply = publish(&mut bob, &sha, number, &messages[..count]);
            number += count as u64;
            let after = length(&mut admin);
            let stored = if is_stored || needs_no_ids { count } else { 0 };
            assert_eq!(after - before, stored as i64, "{rule} {reply:?}");
            let state = ask(&mut admin, "HMGET g:state seq o:r");
            let want = Parsed::Bulk(after.to_string().into());
            assert_eq!(list(state), [want.clone(), want], "{rule} {reply:?}");
            let told = if is_told || needs_no_ids { count } else { 0 };
            (0..told).for_each(|_| drop(listener.read()));
            if stored > 0 && (count == 1 || stored > told) {
                let warning = bulk(&list(reply)[3]);
                assert_eq!(stored > told, !warning.is_empty(), "{rule} {warning}");
            }
        }
        let reached = ask(&mut admin, "PUBLISH g:broadcast mark");
        assert_eq!(reached, Parsed::Line(':', "1".into()));
        let mark = Parsed::Bulk(b"mark".into());
        assert_eq!(
            list(listener.read())[2],
            mark,
            "{rule}: told what it should not"
        );
    }
}

#[test]
fn a_new_epoch_drops_all_offsets_and_no_producer() {
    let server = RealRedis::start();
    let mut redis = server.connect();
    let sha = load(&mut redis, Script::Hello);
    ask(&mut redis, "HSET g:state epoch a seq 5 partitions 1");
    for hundred in 0..30 {
        let fields = (0..100).map(|i| format!("o:r{0} {0} p:x{0} {0}", hundred * 100 + i));
        let fields: Vec<_> = fields.collect();
        ask(&mut redis, &format!("HSET g:state {}", fields.join(" ")));
    }
    let hello = format!("EVALSHA {sha} 2 g:state g:stream b 1 a 6 5-1 r 0");
    let reply = list(ask(&mut redis, &hello));
    assert_eq!(bulk(&reply[0]), "b");
    assert_eq!(reply[4], Parsed::Line(':', "1".into()));
    let fields = list(ask(&mut redis, "HGETALL g:state"));
    let names: Vec<_> = fields.iter().step_by(2).map(bulk).collect();
    assert!(!names.iter().any(|name| name.starts_with("o:")));
    assert_eq!(names.len(), 3 + 3000);
}

/// What is known may be older than all there is: trimmed, if the numbers go on behind it; lost, if
/// its number was given anew to somebody who came back to an empty stream before (a run of the
/// simulator lost an acked message by it, and nobody was told).
#[test]
fn a_stream_that_was_lost_whole_and_goes_on_is_no_trimmed_one() {
    let server = RealRedis::start();
    let mut redis = server.connect();
    let sha = load(&mut redis, Script::Hello);
    for (entries, made) in [
        (&["7-0 epoch a seq 3", "8-0 epoch a seq 4"][..], "0"),
        (&["7-0 epoch a seq 2", "8-0 epoch a seq 4"], "1"),
        (&["7-0 epoch a seq 1", "8-0 epoch a seq 4"], "1"),
        (&["7-0 payload 1", "8-0 epoch a seq 1"], "1"),
        (&["7-0 payload 1", "8-0 epoch a seq 3"], "0"),
        (&["7-0 payload 1"], "0"),
        (&["7-0 epoch 9 seq 1", "8-0 epoch a seq 4"], "0"),
        (&["5-0 epoch a seq 2", "8-0 epoch a seq 4"], "0"),
        (&["4-0 epoch a seq 1", "8-0 epoch a seq 4"], "1"),
    ] {
        ask(&mut redis, "DEL g:state g:stream");
        ask(&mut redis, "HSET g:state epoch a seq 4 partitions 1");
        for entry in entries {
            ask(&mut redis, &format!("XADD g:stream {entry}"));
        }
        let hello = format!("EVALSHA {sha} 2 g:state g:stream b 1 a 2 5-0 r 0");
        let reply = list(ask(&mut redis, &hello));
        assert_eq!(reply[4], Parsed::Line(':', made.into()), "{entries:?}");
    }
}

#[test]
fn producers_that_are_too_many_or_silent_are_forgotten() {
    let server = RealRedis::start();
    let mut redis = server.connect();
    let sha = load(&mut redis, Script::Publish);
    publish(&mut redis, &sha, 1, &[publication("r", 1, "1")]);
    let now = 9_000_000_000_000_u64;
    let names: Vec<_> = (0..999).map(|i| format!("x{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        // x7 is long gone; of the others the one that is silent longest makes room.
        let at = if i == 7 { 5 } else { now - i as u64 };
        let mut set = vec![];
        let value = format!("1 {at}");
        let field = format!("p:{name}");
        push_command(
            &mut set,
            &[b"HSET", b"g:state", field.as_bytes(), value.as_bytes()],
        );
        redis.send(&set);
        redis.read();
    }
    let mut set = vec![];
    let list_of_all = names.join(" ");
    push_command(
        &mut set,
        &[b"HSET", b"g:state", b"producers", list_of_all.as_bytes()],
    );
    redis.send(&set);
    redis.read();
    ask(&mut redis, "HDEL g:state p:p");
    publish(&mut redis, &sha, 2, &[publication("r", 2, "1")]);
    let producers = bulk(&ask(&mut redis, "HGET g:state producers"));
    let producers: Vec<_> = producers.split(' ').collect();
    assert!(producers.len() == 999 && !producers.contains(&"x7") && producers.contains(&"p"));
    assert_eq!(
        ask(&mut redis, "HGET g:state p:x7"),
        Parsed::Line('$', "-1".into())
    );
    // One more, and it is full: x998 has been silent longest.
    ask(&mut redis, "HDEL g:state p:p");
    let mut more = vec![];
    let full = format!("y {}", producers.join(" ").replace(" p", " z"));
    push_command(
        &mut more,
        &[b"HSET", b"g:state", b"producers", full.as_bytes()],
    );
    redis.send(&more);
    redis.read();
    for name in ["y", "z"] {
        let mut set = vec![];
        let (field, value) = (format!("p:{name}"), format!("1 {now}"));
        push_command(
            &mut set,
            &[b"HSET", b"g:state", field.as_bytes(), value.as_bytes()],
        );
        redis.send(&set);
        redis.read();
    }
    publish(&mut redis, &sha, 3, &[publication("r", 3, "1")]);
    let producers = bulk(&ask(&mut redis, "HGET g:state producers"));
    let producers: Vec<_> = producers.split(' ').collect();
    assert!(
        producers.len() == 1000 && !producers.contains(&"x998"),
        "{}",
        producers.len()
    );
}
