//! Every frame of the protocol both ways, as far as it is not an error.

use serde_json::{Value, json};

use super::support::{Client, Raw, Server, frame, upgrade_head};

/// Whether `text` is RFC 3339 in UTC with milliseconds.
fn is_time(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00.000Z"
}

#[test]
fn welcome_comes_first_and_has_all_its_members() {
    let server = Server::start(&["--heartbeat", "7s"]);
    let client = Client::new(&server);
    let welcome = client.welcome.as_object().unwrap();
    let names: Vec<_> = welcome.keys().map(String::as_str).collect();
    let mut expected = [
        "type",
        "protocol",
        "client_id",
        "user_id",
        "instance_id",
        "shard",
        "heartbeat_ms",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(welcome["protocol"], "ringcast.v1");
    assert_eq!(welcome["instance_id"], "test");
    assert_eq!(welcome["heartbeat_ms"], 7000);
    assert_eq!(welcome["user_id"], welcome["client_id"]);
    assert!(welcome["shard"].as_u64().unwrap() < 2);
    let is_id_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    assert!(client.id.len() == 16 && client.id.bytes().all(is_id_byte));
}

#[test]
fn a_client_may_send_before_it_has_read_welcome() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(&server, "/ws");
    raw.send(&frame(0x81, br#"{"type":"ping","ref":1}"#));
    let first = raw.frame().unwrap();
    assert!(first.0 == 1 && first.1.starts_with(br#"{"type":"welcome""#));
    assert_eq!(
        raw.frame().unwrap(),
        (1, br#"{"type":"pong","ref":1}"#.to_vec())
    );
}

#[test]
fn the_subprotocol_is_taken_if_it_is_offered() {
    let server = Server::start(&[]);
    for (offer, answer) in [
        ("", None),
        ("Sec-WebSocket-Protocol: ringcast.v1\r\n", Some(())),
        ("Sec-WebSocket-Protocol: a, ringcast.v1, b\r\n", Some(())),
        ("Sec-WebSocket-Protocol: other\r\n", None),
    ] {
        use std::io::{Read as _, Write as _};
        let mut socket = super::support::connect(server.port);
        let head = upgrade_head("/ws").replace("Host: a\r\n", &format!("Host: a\r\n{offer}"));
        socket.write_all(head.as_bytes()).unwrap();
        let mut answered = Vec::new();
        while !answered.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut bytes = [0; 1024];
            let n = socket.read(&mut bytes).unwrap();
            assert_ne!(n, 0);
            answered.extend_from_slice(&bytes[..n]);
        }
        let answered = String::from_utf8_lossy(&answered).to_ascii_lowercase();
        assert!(answered.starts_with("http/1.1 101 "), "{offer:?}");
        // The example of RFC 6455, 1.3.
        assert!(answered.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"));
        let taken = answered.contains("sec-websocket-protocol: ringcast.v1\r\n");
        assert_eq!(taken, answer.is_some(), "{offer:?}");
    }
}

#[test]
fn join_leave_and_join_again() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let room = "a \"room\" \u{1f600}";
    client.send(&json!({"type":"join","room":room,"ref":[1,{"x":null}]}));
    let joined = client.recv();
    let epoch = joined["epoch"].clone();
    assert_eq!(
        joined,
        json!({"type":"joined","room":room,"epoch":epoch,"offset":0,"members":1,
               "ref":[1,{"x":null}]})
    );
    assert_eq!(epoch.as_str().unwrap().len(), 20);
    assert_eq!(client.publish(room, json!(1)), 1);
    client.messages(room, 1, 1);

    // A second join changes nothing but the answer, and counts nobody twice.
    let again = client.join(room);
    assert_eq!(
        (&again["offset"], &again["members"]),
        (&json!(1), &json!(1))
    );
    assert!(again.get("recovered").is_none());

    let left = client.ask(json!({"type":"leave","room":room}));
    assert_eq!(
        (&left["type"], &left["room"]),
        (&json!("left"), &json!(room))
    );
    client.send(&json!({"type":"leave","room":room}));
    assert_eq!(client.next("error")["code"], "not_joined");

    // Who has left gets nothing more.
    assert_eq!(client.publish(room, json!(2)), 2);
    assert_eq!(client.settle(), Vec::<Value>::new());
    let joined = client.join(room);
    assert_eq!(joined["offset"], 2);
    client.send(&json!({"type":"leave","room":room}));
    assert_eq!(client.recv(), json!({"type":"left","room":room}));
}

#[test]
fn join_again_with_since_replays_once_more() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let epoch = client.join("a")["epoch"].clone();
    client.publish_all("a", 0..5, |n| json!(n));
    client.messages("a", 1, 5);
    let joined = client.rejoin("a", &epoch, 2);
    assert_eq!(
        (&joined["offset"], &joined["recovered"]),
        (&json!(2), &json!(true))
    );
    client.messages("a", 3, 5);
    assert_eq!(client.publish("a", json!(5)), 6);
    client.messages("a", 6, 6);
    assert_eq!(client.settle(), Vec::<Value>::new());
}

#[test]
fn room_and_username_of_the_query() {
    let server = Server::start(&[]);
    let mut client = Client::open(&server, "/ws?room=caf%C3%A9+1&username=Zo%C3%AB&x=y");
    let joined = client.next("joined");
    assert_eq!(joined["room"], "café 1");
    assert!(joined.get("ref").is_none());
    client.publish("café 1", json!(1));
    assert_eq!(client.next("message")["username"], "Zoë");

    // A name of a join holds in its room only.
    client.ask(json!({"type":"join","room":"b","username":"Bee"}));
    client.publish("b", json!(2));
    assert_eq!(client.next("message")["username"], "Bee");
    client.publish("café 1", json!(3));
    assert_eq!(client.next("message")["username"], "Zoë");

    let mut nameless = Client::open(&server, "/ws?username=&token=");
    nameless.join("c");
    nameless.publish("c", json!(1));
    assert!(nameless.next("message").get("username").is_none());
}

#[test]
fn publish_with_every_combination() {
    let server = Server::start(&[]);
    let mut publisher = Client::on_shard(&server, 0);
    let mut other = Client::on_shard(&server, 1);
    publisher.join("a");
    other.join("a");
    let mut offset = 0;
    for case in 0..16 {
        let (with_ref, with_id) = (case & 1 != 0, case & 2 != 0);
        let (silent, with_metadata) = (case & 4 != 0, case & 8 != 0);
        offset += 1;
        let mut frame = json!({"type":"publish","room":"a","payload":{"case":case}});
        let id = format!("0190A000-0000-7000-8000-0000000000{case:02X}");
        if with_ref {
            frame["ref"] = json!(case);
        }
        if with_id {
            frame["id"] = json!(id);
        }
        if silent {
            frame["echo"] = json!(false);
        }
        if with_metadata {
            frame["metadata"] = json!({"k":[case]});
        }
        publisher.send(&frame);

        let message = other.messages("a", offset, offset).remove(0);
        assert_eq!(message["payload"], json!({"case":case}));
        assert_eq!(message["user_id"], json!(publisher.id));
        assert_eq!(message.get("metadata").is_some(), with_metadata);
        assert!(message.get("username").is_none() && message.get("ref").is_none());
        assert!(is_time(message["sent_at"].as_str().unwrap()), "{message}");
        let told = message["id"].as_str().unwrap();
        if with_id {
            assert_eq!(told, id.to_ascii_lowercase(), "ids are lower-cased");
        } else {
            let id = uuid::Uuid::parse_str(told).unwrap();
            assert_eq!(id.get_version_num(), 7, "the server's own");
        }

        if !silent {
            assert_eq!(
                publisher.messages("a", offset, offset)[0],
                message,
                "the same"
            );
        }
        if with_ref || silent {
            let ack = publisher.next("ack");
            let mut expected = json!({"type":"ack","id":told,"offset":offset});
            if with_ref {
                expected["ref"] = json!(case);
            }
            assert_eq!(ack, expected, "case {case}");
        }
        assert_eq!(publisher.settle(), Vec::<Value>::new(), "case {case}");
    }
}

#[test]
fn a_sender_need_not_have_joined() {
    let server = Server::start(&[]);
    let mut member = Client::member(&server, "a");
    let mut stranger = Client::new(&server);
    assert_eq!(stranger.publish("a", json!("hello")), 1);
    assert_eq!(member.messages("a", 1, 1)[0]["payload"], "hello");
    assert_eq!(stranger.settle(), Vec::<Value>::new());
}

#[test]
fn payload_metadata_and_ref_are_spliced_byte_for_byte() {
    let server = Server::start(&[]);
    let mut client = Client::member(&server, "a");
    for payload in [
        r#"{ "b" : 1.0e+2 , "a":[ ] ,"a":"\u00e9\/" }"#,
        "null",
        "true",
        "-0.0",
        "1E400",
        r#""\ud83d\ude00""#,
        "\"\u{7f}\u{1f600}\"",
        "[[[[1]]]]",
        "100000000000000000000000000000001",
    ] {
        client.send_text(&format!(
            r#"{{"ref": {payload}, "type":"publish","room":"a","metadata":{payload} ,"payload": {payload} }}"#
        ));
        let (mut seen, expected) = (Vec::new(), format!(r#""payload":{payload},"#));
        for _ in 0..if payload == "null" { 1 } else { 2 } {
            seen.push(client.read_text());
        }
        let message = seen.iter().find(|text| text.contains("message")).unwrap();
        assert!(message.contains(&expected), "{message}");
        if payload != "null" {
            assert!(message.contains(&format!(r#""metadata":{payload},"#)));
            let ack = seen.iter().find(|text| text.contains("\"ack\"")).unwrap();
            assert!(ack.contains(&format!(r#""ref":{payload},"#)), "{ack}");
        }
    }
}

#[test]
fn signals_reach_the_others_on_both_shards_and_are_not_stored() {
    let server = Server::start(&[]);
    let mut sender = Client::on_shard(&server, 0);
    let mut others = [Client::on_shard(&server, 0), Client::on_shard(&server, 1)];
    sender.ask(json!({"type":"join","room":"a","username":"Sam"}));
    for other in &mut others {
        other.join("a");
    }
    let epoch = sender.join("a")["epoch"].clone();
    sender.send(&json!({"type":"signal","room":"a","payload":{"typing":true},"ref":1}));
    let expected = json!({"type":"signal","room":"a","user_id":sender.id,"username":"Sam",
                          "payload":{"typing":true}});
    for other in &mut others {
        assert_eq!(other.recv(), expected);
    }
    // The next message has the first offset, and comes to the sender with no signal before it.
    assert_eq!(sender.publish("a", json!(1)), 1);
    assert_eq!(sender.recv()["offset"], 1);
    let mut late = Client::new(&server);
    assert_eq!(late.rejoin("a", &epoch, 0)["recovered"], true);
    assert_eq!(late.recv()["type"], "message");
    assert_eq!(late.settle(), Vec::<Value>::new());
    server.await_metric("messages_stored_total", 1);
}

#[test]
fn signals_from_the_other_shard_too() {
    let server = Server::start(&[]);
    for shard in [0, 1] {
        for room in ["a", "b", "c", "d"] {
            let mut sender = Client::on_shard(&server, shard);
            let mut other = Client::on_shard(&server, 1 - shard);
            sender.join(room);
            other.join(room);
            sender.send(&json!({"type":"signal","room":room,"payload":null}));
            let signal = other.recv();
            assert_eq!(
                (&signal["type"], &signal["payload"]),
                (&json!("signal"), &Value::Null)
            );
            assert_eq!(signal["user_id"], json!(sender.id));
        }
    }
}

#[test]
fn members_are_users_with_their_names() {
    let server = Server::start(&[]);
    let mut first = Client::on_shard(&server, 0);
    let mut second = Client::on_shard(&server, 1);
    first.ask(json!({"type":"join","room":"a","username":"One"}));
    assert_eq!(second.join("a")["members"], 2);
    first.join("a");
    let answer = second.ask(json!({"type":"members","room":"a"}));
    let mut members = answer["members"].as_array().unwrap().clone();
    members.sort_by_key(|member| member.get("username").is_none());
    assert_eq!(
        members,
        [
            json!({"user_id":first.id,"username":"One"}),
            json!({"user_id":second.id}),
        ]
    );
    assert_eq!(
        (&answer["count"], &answer["room"]),
        (&json!(2), &json!("a"))
    );
    first.close();
    super::support::eventually("the leave to arrive", || {
        let answer = second.ask(json!({"type":"members","room":"a"}));
        (answer["count"] == 1).then_some(())
    });
    // A join under another name renames.
    second.ask(json!({"type":"join","room":"a","username":"Two"}));
    let answer = second.ask(json!({"type":"members","room":"a"}));
    assert_eq!(
        answer["members"],
        json!([{"user_id":second.id,"username":"Two"}])
    );
    // Who has not joined may ask, too, and of a room that nobody is in.
    let answer = second.ask(json!({"type":"members","room":"empty"}));
    assert_eq!(
        (&answer["count"], &answer["members"]),
        (&json!(0), &json!([]))
    );
}

#[test]
fn presence_is_told_to_those_who_asked_on_both_shards() {
    let server = Server::start(&[]);
    for shard in [0, 1] {
        let room = format!("room-{shard}");
        let mut watcher = Client::on_shard(&server, shard);
        let mut plain = Client::on_shard(&server, shard);
        watcher.ask(json!({"type":"join","room":room,"presence":true}));
        plain.join(&room);
        let event = watcher.next("presence");
        assert_eq!(
            event,
            json!({"type":"presence","room":room,"event":"join","user_id":plain.id,"members":2})
        );
        let mut third = Client::on_shard(&server, 1 - shard);
        third.ask(json!({"type":"join","room":room,"username":"Tri"}));
        let event = watcher.next("presence");
        assert_eq!(
            event,
            json!({"type":"presence","room":room,"event":"join","user_id":third.id,
                   "username":"Tri","members":3})
        );
        // Joining again is not coming.
        third.join(&room);
        let third_id = third.id.clone();
        third.ask(json!({"type":"leave","room":room}));
        let event = watcher.next("presence");
        assert_eq!(
            (&event["event"], &event["members"]),
            (&json!("leave"), &json!(2))
        );
        assert_eq!(
            (&event["user_id"], &event["username"]),
            (&json!(third_id), &json!("Tri"))
        );
        // A connection that breaks off leaves as well.
        let plain_id = plain.id.clone();
        plain.publish(&room, json!(1));
        let kept = plain.kept();
        assert!(
            kept.iter().all(|frame| frame["type"] != "presence"),
            "not asked for"
        );
        drop(plain);
        let event = watcher.next("presence");
        assert_eq!(
            event,
            json!({"type":"presence","room":room,"event":"leave","user_id":plain_id,"members":1})
        );
    }
}

/// Presence may be asked for, and given up, by joining again.
#[test]
fn presence_by_joining_again() {
    let server = Server::start(&[]);
    let mut constant = Client::new(&server);
    constant.ask(json!({"type":"join","room":"a","presence":true}));
    let mut watcher = Client::member(&server, "a");
    watcher.ask(json!({"type":"join","room":"a","presence":true}));
    let mut other = Client::member(&server, "a");
    assert_eq!(watcher.next("presence")["user_id"], json!(other.id));

    watcher.join("a");
    other.ask(json!({"type":"leave","room":"a"}));
    // Once it is told at all.
    constant.find(|frame| frame["event"] == "leave");
    other.publish("a", json!(1));
    watcher.next("message");
    assert_eq!(watcher.settle(), Vec::<Value>::new());
}

#[test]
fn ping_pong_and_what_is_not_known() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    client.send(&json!({"type":"ping"}));
    assert_eq!(client.recv(), json!({"type":"pong"}));
    client.send(&json!({"type":"ping","ref":"x","colour":{"deep":[1]},"payload":7}));
    assert_eq!(client.recv(), json!({"type":"pong","ref":"x"}));
    client.send_text(" \n{\"\\u0074ype\" : \"p\\u0069ng\", \"ref\":null }\t");
    assert_eq!(client.recv(), json!({"type":"pong"}));
    let join = json!({"type":"join","room":"a","unknown":1,"username":null,"since":null,"ref":2});
    client.send(&join);
    assert_eq!(client.recv()["type"], "joined");
    // And a ping of the WebSocket's own.
    let mut raw = Raw::open(&server, "/ws");
    raw.frame().unwrap();
    raw.send(&frame(0x89, b"are you there"));
    assert_eq!(raw.frame(), Some((10, b"are you there".to_vec())));
    // An unasked pong is nothing.
    raw.send(&frame(0x8a, b""));
    raw.send(&frame(0x88, &[0x03, 0xe8]));
    assert_eq!(raw.frame(), Some((8, vec![0x03, 0xe8])));
    assert_eq!(raw.frame(), None);
}

#[test]
fn fragments_make_one_message_with_pings_between() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(&server, "/ws");
    raw.frame().unwrap();
    raw.send(&frame(0x01, br#"{"type":"pi"#));
    raw.send(&frame(0x89, b"1"));
    raw.send(&frame(0x00, b""));
    raw.send(&frame(0x80, br#"ng"}"#));
    assert_eq!(raw.frame(), Some((10, b"1".to_vec())));
    assert_eq!(raw.frame(), Some((1, br#"{"type":"pong"}"#.to_vec())));
}
