//! What two instances do together when all is well: they are one server.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::instances::{await_members, await_up, begin, command, health, pair, start};
use super::redis::Redis;
use super::support::{Client, Server, all, eventually};
use super::tokens::Issuer;

/// Both a message's offset and its payload, of all that is kept of a room.
fn seen(messages: &[Value]) -> Vec<(u64, Value, Value)> {
    let seen = |m: &Value| (m["offset"].as_u64().unwrap(), m["id"].clone(), m.clone());
    messages.iter().map(seen).collect()
}

#[test]
fn messages_and_acks_cross_both_ways() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    for (shard_a, shard_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let room = format!("r{shard_a}{shard_b}");
        let mut on_a = Client::on_shard(&a, shard_a);
        let mut on_b = Client::on_shard(&b, shard_b);
        let (joined_a, joined_b) = (on_a.join(&room), on_b.join(&room));
        assert_eq!(joined_a["epoch"], joined_b["epoch"]);
        assert_eq!(
            (&joined_a["offset"], &joined_b["offset"]),
            (&json!(0), &json!(0))
        );
        for n in 1..=6 {
            let publisher = if n % 2 == 0 { &mut on_a } else { &mut on_b };
            assert_eq!(publisher.publish(&room, json!({"n":n})), n);
        }
        let (of_a, of_b) = (on_a.messages(&room, 1, 6), on_b.messages(&room, 1, 6));
        assert_eq!(of_a, of_b, "the same frames");
        assert_eq!(of_a[0]["user_id"], json!(on_b.id));
        assert_eq!(on_a.settle(), Vec::<Value>::new());
    }
    assert_eq!(
        (a.metric("gaps_told_total"), b.metric("gaps_told_total")),
        (0, 0)
    );
}

#[test]
fn without_echo_the_ack_takes_the_place_of_the_message() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let (mut on_a, mut on_b) = (Client::member(&a, "r"), Client::member(&b, "r"));
    for n in 1..=4 {
        let publish = json!({"type":"publish","room":"r","payload":n,"echo":n % 2 == 0});
        assert_eq!(on_a.ask(publish)["offset"], n);
    }
    on_b.messages("r", 1, 4);
    // What comes from the other instance stands behind all of these.
    on_b.publish("r", json!(5));
    let offsets: Vec<_> = (0..3)
        .map(|_| on_a.next("message")["offset"].clone())
        .collect();
    assert_eq!(offsets, [2, 4, 5]);
}

#[test]
fn order_is_one_for_all() {
    let each = if all() { 20_000 } else { 1_000 };
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut members: Vec<_> = [(&a, 0), (&a, 1), (&b, 0), (&b, 1)]
        .map(|(server, shard)| Client::on_shard(server, shard))
        .into();
    members.iter_mut().for_each(|member| {
        member.join("r");
    });
    thread::scope(|scope| {
        for (name, server) in [("a", &a), ("b", &b)] {
            scope.spawn(move || {
                let mut client = Client::new(server);
                let offsets = client.publish_all("r", 0..each, |n| json!({"by":name,"n":n}));
                assert!(
                    offsets.is_sorted(),
                    "one publisher's messages keep their order"
                );
            });
        }
        let readers = members.iter_mut();
        let readers = readers.map(|member| scope.spawn(|| member.messages("r", 1, 2 * each)));
        let readers: Vec<_> = readers.collect();
        let all: Vec<_> = readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .collect();
        assert!(all.iter().all(|one| seen(one) == seen(&all[0])));
        for name in ["a", "b"] {
            let of_one = all[0].iter().filter(|m| m["payload"]["by"] == name);
            assert!(
                of_one
                    .map(|m| m["payload"]["n"].as_u64())
                    .eq((0..each).map(Some))
            );
        }
    });
}

#[test]
fn signals_cross_and_are_not_stored() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let (mut on_a, mut on_b) = (Client::member(&a, "r"), Client::member(&b, "r"));
    on_a.send(&json!({"type":"signal","room":"r","payload":{"typing":true}}));
    let signal = on_b.next("signal");
    assert_eq!(
        (&signal["room"], &signal["payload"]),
        (&json!("r"), &json!({"typing":true}))
    );
    assert_eq!(signal["user_id"], json!(on_a.id));
    on_b.send(&json!({"type":"signal","room":"r","payload":1}));
    assert_eq!(on_a.next("signal")["payload"], 1, "and not one's own");
    assert_eq!(on_a.publish("r", json!(1)), 1);
    assert_eq!(redis.stream_len(), 1);
}

/// FAULTS F1: who is on an instance that is killed (stopped, in the quick set) has left within
/// 20 s.
#[test]
fn presence_is_of_all_instances() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut watcher = Client::new(&a);
    watcher.ask(json!({"type":"join","room":"r","username":"Wanda","presence":true}));
    let mut other = Client::new(&b);
    other.ask(json!({"type":"join","room":"r","username":"Otto"}));
    let event = watcher.next("presence");
    let expected = json!({"type":"presence","room":"r","event":"join","user_id":other.id,
                          "username":"Otto","members":2});
    assert_eq!(event, expected);
    for client in [&mut watcher, &mut other] {
        let answer = await_members(client, "r", 2);
        let names = answer["members"].as_array().unwrap().iter();
        let mut names: Vec<_> = names.map(|user| user["username"].clone()).collect();
        names.sort_by_key(Value::to_string);
        assert_eq!(names, ["Otto", "Wanda"]);
    }
    other.ask(json!({"type":"leave","room":"r"}));
    let event = watcher.next("presence");
    assert_eq!(
        (&event["event"], &event["members"]),
        (&json!("leave"), &json!(1))
    );
    // One whose connection ends, and one whose instance does.
    let third = Client::member(&b, "r");
    assert_eq!(watcher.next("presence")["event"], "join");
    drop(third);
    assert_eq!(watcher.next("presence")["event"], "leave");
    let _fourth = Client::member(&b, "r");
    assert_eq!(watcher.next("presence")["event"], "join");
    if all() {
        // Its members' lease ends, in less than a test's patience.
        b.kill();
    } else {
        b.stop();
    }
    let event = watcher.next("presence");
    assert_eq!(
        (&event["event"], &event["members"]),
        (&json!("leave"), &json!(1))
    );
    let answer = watcher.ask(json!({"type":"members","room":"r"}));
    assert_eq!(answer["count"], 1);
}

#[test]
fn an_instance_that_comes_later_knows_who_is_there() {
    let redis = Redis::start(&[]);
    let a = start("a", &redis, &[]);
    let mut first = Client::new(&a);
    first.ask(json!({"type":"join","room":"r","username":"Wanda"}));
    let b = start("b", &redis, &[]);
    let mut second = Client::member(&b, "r");
    await_members(&mut second, "r", 2);
}

#[test]
fn personal_rooms_reach_their_user_wherever_it_is() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    for (of, by) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut user = Client::on_shard(&a, of);
        let mut sender = Client::on_shard(&b, by);
        let room = format!("@{}", user.welcome["user_id"].as_str().unwrap());
        for n in 1..=3 {
            assert_eq!(sender.publish(&room, json!(n)), n);
        }
        for message in user.messages(&room, 1, 3) {
            assert_eq!(message["user_id"], json!(sender.id));
        }
        assert_eq!(sender.settle(), Vec::<Value>::new());
        assert_eq!(user.publish(&room, json!(4)), 4);
        user.messages(&room, 4, 4);
    }
}

#[test]
fn a_client_comes_back_to_another_instance() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut client = Client::new(&a);
    let epoch = client.join("r")["epoch"].clone();
    client.publish_all("r", 0..100, |n| json!(n));
    client.messages("r", 1, 100);
    drop(client);
    // Nobody was in the room there: it is the partition log that has it.
    let mut client = Client::new(&b);
    client.resume("r", &epoch, 40, 100);
    assert_eq!(client.publish("r", json!("on")), 101);
    client.messages("r", 101, 101);
    // An instance that has seen none of it reads the stream.
    let c = start("c", &redis, &[]);
    for (shard, since) in [(0, 0), (1, 99), (0, 101)] {
        let mut client = Client::on_shard(&c, shard);
        client.resume("r", &epoch, since, 101);
        assert_eq!(client.settle(), Vec::<Value>::new());
    }
    // What is of another life, or ahead of all, is said to be so.
    let mut client = Client::new(&c);
    client.resume_lost("r", &json!("00000000000100000001"), 5, 101);
}

/// Many rooms and many pages, read by many at once, while publishing goes on.
#[test]
fn many_come_back_to_an_instance_that_has_just_begun() {
    let (rooms, each) = if all() { (50, 1_000) } else { (10, 150) };
    let redis = Redis::start(&[]);
    let a = start("a", &redis, &[]);
    let mut publisher = Client::new(&a);
    let room = |n: u64| format!("r{}", n % rooms);
    let epoch = publisher.join("r0")["epoch"].clone();
    publisher.ask(json!({"type":"leave","room":"r0"}));
    for n in 0..rooms {
        publisher.publish_all(&room(n), 0..each, |n| json!({"n":n,"fill":"x".repeat(200)}));
    }
    let b = start("b", &redis, &[]);
    thread::scope(|scope| {
        let (b, epoch, room) = (&b, &epoch, &room);
        for n in 0..2 * rooms {
            scope.spawn(move || {
                let since = each * n / (2 * rooms);
                let mut client = Client::on_shard(b, n % 2);
                let messages = client.resume(&room(n), epoch, since, each + 10);
                assert_eq!(client.settle(), Vec::<Value>::new());
                assert_eq!(messages.last().unwrap()["payload"], 9);
            });
        }
        for n in 0..rooms {
            publisher.publish_all(&room(n), 0..10, |n| json!(n));
        }
    });
    assert_eq!(b.metric("gaps_told_total"), 0);
}

/// FAULTS E19: one entry of the stream, one message for each member, the same ack each time.
#[test]
fn one_publish_sent_ten_times_over_two_instances_is_one_message() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let (mut on_a, mut on_b) = (Client::member(&a, "r"), Client::member(&b, "r"));
    let id = "0190A000-0000-7000-8000-000000000001";
    let publish = json!({"type":"publish","room":"r","payload":"once","id":id});
    // Five at the same time on each, and once more.
    for client in [&mut on_a, &mut on_b] {
        for n in 0..5 {
            let mut publish = publish.clone();
            publish["ref"] = json!(n);
            client.send(&publish);
        }
    }
    for client in [&mut on_a, &mut on_b] {
        for _ in 0..5 {
            let ack = client.next("ack");
            assert_eq!(
                (&ack["offset"], &ack["id"]),
                (&json!(1), &json!(id.to_lowercase()))
            );
        }
        assert_eq!(client.ask(publish.clone())["offset"], 1);
    }
    assert_eq!(on_b.publish("r", json!("next")), 2);
    for client in [&mut on_a, &mut on_b] {
        client.messages("r", 1, 2);
        assert_eq!(client.settle(), Vec::<Value>::new());
    }
    assert_eq!(redis.stream_len(), 2);
}

/// A lost last envelope is noticed although nothing comes behind it.
///
/// FAULTS D5: a last envelope that is lost is noticed though nothing comes behind it.
#[test]
fn a_message_whose_envelope_was_lost_is_delivered_all_the_same() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let (mut on_a, mut on_b) = (Client::member(&a, "r"), Client::member(&b, "r"));
    on_a.publish("r", json!(1));
    on_b.messages("r", 1, 1);
    for round in 0..3 {
        // Whoever is subscribed is gone when the envelope is sent: both in one transaction.
        redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        let offset = on_a.publish("r", json!({"round":round}));
        on_b.messages("r", offset, offset);
        on_a.messages("r", offset - u64::from(round == 0), offset);
    }
}

#[test]
fn an_instance_restarts_at_once_on_its_directory() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut on_b = Client::new(&b);
    let epoch = on_b.join("r")["epoch"].clone();
    let mut server = a;
    for n in 1..=3 {
        let mut on_a = Client::new(&server);
        assert_eq!(on_a.publish("r", json!(n)), n);
        on_b.messages("r", n, n);
        let dir = if n % 2 == 0 {
            server.stop()
        } else {
            server.kill()
        };
        let address = redis.address();
        let began = std::time::Instant::now();
        server = Server::spawn(command(dir.path(), "a", &address, &[]), dir);
        await_up(&server);
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(4),
            "it waits for no lease: {took:?}"
        );
        let mut client = Client::new(&server);
        client.resume("r", &epoch, 0, n);
    }
}

#[test]
fn a_users_connections_are_closed_on_all_instances() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let kick = |server: &Server, id: &str| {
        let path = format!("/api/users/{id}/connections");
        let head = format!("DELETE {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        server.http(head.as_bytes()).status
    };
    // Asked of the one or the other, on either shard of it.
    for (of, asked) in [(&a, &b), (&b, &a), (&a, &a)] {
        for shard in [0, 1] {
            let mut user = Client::on_shard(of, shard);
            let mut others = [Client::new(&a), Client::new(&b)];
            user.join("r");
            assert_eq!(kick(asked, &user.id), 200);
            assert_eq!(user.closed(), 4003);
            for other in &mut others {
                assert_eq!(other.ask(json!({"type":"ping"}))["type"], "pong");
            }
        }
    }
}

/// FAULTS H2: one user by its tokens, on two instances: one member, one personal room; closed on
/// both by an API key, and by nothing else.
#[test]
fn a_user_with_tokens_is_one_on_all_instances() {
    let secret = "a secret of the tests, thirty-two bytes long";
    let redis = Redis::start(&[]);
    let flags = ["--jwt-secret", secret, "--api-key", "old-key,new-key"];
    // The usual wait for an instance is a client's without a token.
    let address = redis.address();
    let [a, b] = ["a", "b"].map(|id| begin(id, &address, &flags));
    for server in [&a, &b] {
        eventually("Redis is there", || {
            (health(server)["redis"] == "up").then_some(())
        });
    }
    let until = std::time::SystemTime::now() + Duration::from_secs(600);
    let until = until
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let enter = |server: &Server, user: &str| {
        let claims = json!({"sub": user, "name": user, "exp": until});
        let token = Issuer::secret(secret).token(&claims);
        Client::open(server, &format!("/ws?token={token}"))
    };
    let kick = |server: &Server, key: &str| {
        let path = "/api/users/ann/connections";
        let line = format!("Authorization: Bearer {key}");
        let head = format!("DELETE {path} HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        server.http(head.as_bytes()).status
    };
    let mut bob = enter(&b, "bob");
    for key in ["old-key", "new-key"] {
        let mut anns = [enter(&a, "ann"), enter(&a, "ann"), enter(&b, "ann")];
        for ann in &mut anns {
            ann.join("r");
        }
        await_members(&mut bob, "r", 1);
        let offset = bob.publish("@ann", json!(key));
        for ann in &mut anns {
            ann.messages("@ann", offset, offset);
        }
        for bad in ["old", "", "old-key,new-key"] {
            assert_eq!(kick(&a, bad), 401, "{bad}");
        }
        assert_eq!(kick(&a, key), 200);
        for ann in &mut anns {
            assert_eq!(ann.closed(), 4003);
        }
        assert_eq!(bob.ask(json!({"type":"ping"}))["type"], "pong");
    }
}
