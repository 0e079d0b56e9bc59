//! What stands in Redis, for operators and for others who write there (PROTOCOL 5).

use serde_json::{Value, json};
use tempfile::TempDir;

use super::instances::{await_up, begin, command, pair, start};
use super::redis::{Redis, STREAM};
use super::support::{Client, eventually};

#[test]
fn what_an_operator_finds() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut client = Client::open(&a, "/ws?username=Wanda");
    client.join("r");
    let mut subscriber = redis.subscribe(&["gosocket:broadcast"]);
    let id = "0190a000-0000-7000-8000-000000000004";
    let ack = client.ask(
        json!({"type":"publish","room":"r","payload":{"a":[1,"\u{e9}"]},
                                "metadata":{"m":1},"id":id}),
    );
    assert_eq!(ack["offset"], 1);
    let message = client.next("message");

    let mut channels = redis.ask(&["PUBSUB", "CHANNELS", "gosocket:*"]);
    channels
        .as_array_mut()
        .unwrap()
        .sort_by_key(Value::to_string);
    assert_eq!(channels, json!(["gosocket:broadcast", "gosocket:control"]));
    let counts = redis.ask(&["PUBSUB", "NUMSUB", "gosocket:broadcast"]);
    assert_eq!(counts[1], 3, "both instances and this test");
    assert_eq!(redis.ask(&["XLEN", STREAM]), 1);
    let entries = redis.ask(&["XRANGE", STREAM, "-", "+"]);
    let fields = entries[0][1].as_array().unwrap();
    let field = |name: &str| {
        let mut pairs = fields.chunks(2);
        let found = pairs.find(|pair| pair[0] == name);
        found.unwrap_or_else(|| panic!("no {name}: {entries}"))[1].clone()
    };
    for (name, value) in [
        ("room_name", "r"),
        ("user_id", client.id.as_str()),
        ("username", "Wanda"),
        ("id", id),
        ("offset", "1"),
        ("seq", "1"),
        ("instance_id", "a"),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    let read = |name: &str| serde_json::from_str::<Value>(field(name).as_str().unwrap()).unwrap();
    assert_eq!(read("payload"), json!({"a":[1,"\u{e9}"]}));
    assert_eq!(read("metadata"), json!({"m":1}));
    let epoch = redis.ask(&["HGET", "gosocket:state", "epoch"]);
    assert_eq!(field("epoch"), epoch);

    let envelope = subscriber.next();
    let envelope: Value = serde_json::from_str(envelope[2].as_str().unwrap()).unwrap();
    let expected = json!({"instance_id":"a","epoch":epoch,"seq":1,"entry":entries[0][0],
                          "payload":message});
    assert_eq!(envelope, expected);
    for instance in ["a", "b"] {
        let ttl = redis.ask(&["PTTL", &format!("gosocket:instance:{instance}")]);
        assert!((1..=5_000).contains(&ttl.as_u64().unwrap()), "{ttl}");
    }
    drop(b);
}

#[test]
fn a_prefix_makes_a_cluster_of_its_own() {
    let redis = Redis::start(&[]);
    let a = start("a", &redis, &[]);
    let other = start("a", &redis, &["--key-prefix", "other"]);
    let (mut on_a, mut on_other) = (Client::member(&a, "r"), Client::member(&other, "r"));
    assert_eq!(on_a.publish("r", json!("one")), 1);
    assert_eq!(on_other.publish("r", json!("two")), 1);
    assert_eq!(on_a.messages("r", 1, 1)[0]["payload"], "one");
    assert_eq!(on_other.messages("r", 1, 1)[0]["payload"], "two");
    assert_eq!(redis.ask(&["XLEN", "other:messages:stream"]), 1);
}

#[test]
fn what_foreign_writers_publish_is_delivered() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut in_room = [
        Client::on_shard(&a, 0),
        Client::on_shard(&a, 1),
        Client::new(&b),
    ];
    in_room.iter_mut().for_each(|client| {
        client.join("r");
    });
    let mut beside = Client::new(&b);
    let publish = |text: &str| redis.ask(&["PUBLISH", "gosocket:broadcast", text]);
    let of_room = json!({"type":"note","room":"r","text":"to the members"});
    // None of these is an envelope, and none does harm.
    for bad in [
        "",
        "no json",
        "[]",
        "{}",
        r#"{"instance_id":"x"}"#,
        r#"{"instance_id":"x","payload":}"#,
        r#"{"instance_id":1,"payload":{}}"#,
        r#"{"instance_id":"x","epoch":"e","seq":1,"entry":"1-1","payload":{"type":"message"}}"#,
        r#"{"instance_id":"x","seq":9999,"payload":{"type":"message","room":"r"}}"#,
        &format!(r#"{{"instance_id":"x","payload":{}}}"#, "[".repeat(100_000)),
    ] {
        publish(bad);
    }
    publish(&json!({"instance_id":"x","payload":of_room}).to_string());
    for client in &mut in_room {
        assert_eq!(client.next("note"), of_room);
    }
    let to_all = json!({"type":"note","text":"to all"});
    publish(&json!({"instance_id":"x","payload":to_all}).to_string());
    for client in &mut in_room {
        assert_eq!(client.next("note"), to_all);
    }
    assert_eq!(
        beside.next("note"),
        to_all,
        "and nothing of a room that it is not in"
    );
    assert_eq!(redis.stream_len(), 0);
    assert_eq!(beside.publish("r", json!(1)), 1);
    for client in &mut in_room {
        client.messages("r", 1, 1);
        assert_eq!(client.settle(), Vec::<Value>::new());
    }
}

#[test]
fn entries_of_foreign_writers_are_passed_over() {
    let redis = Redis::start(&[]);
    let a = start("a", &redis, &[]);
    let mut client = Client::new(&a);
    let epoch = client.join("r")["epoch"].clone();
    let foreign = || {
        let fields = [
            "room_name",
            "r",
            "user_id",
            "u",
            "username",
            "n",
            "payload",
            "1",
        ];
        let words = ["XADD", STREAM, "*"].into_iter().chain(fields);
        let words: Vec<_> = words.chain(["metadata", ""]).collect();
        redis.ask(&words);
        redis.ask(&["XADD", STREAM, "*", "what", "ever"]);
    };
    for n in 1..=20 {
        foreign();
        assert_eq!(client.publish("r", json!(n)), n);
    }
    foreign();
    client.messages("r", 1, 20);
    // A repair and a read of the past go across them.
    redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    client.publish("r", json!(21));
    client.messages("r", 21, 21);
    let b = start("b", &redis, &[]);
    let mut late = Client::new(&b);
    late.resume("r", &epoch, 0, 21);
    assert_eq!(late.settle(), Vec::<Value>::new());
    assert_eq!(a.metric("gaps_told_total"), 0);
}

#[test]
fn the_stream_is_trimmed_but_where_a_group_consumes() {
    let redis = Redis::start(&[]);
    let flags = ["--stream-retention", "1s", "--stream-bytes", "64KiB"];
    redis.ask(&[
        "XGROUP",
        "CREATE",
        STREAM,
        "persist-workers",
        "0",
        "MKSTREAM",
    ]);
    let consumed = start("a", &redis, &flags);
    let mut client = Client::new(&consumed);
    client.publish_all("r", 0..1_000, |n| json!({"n":n,"fill":"x".repeat(200)}));
    // Beside it a cluster without a group.
    let flags = [&flags[..2], &["--key-prefix", "other"]].concat();
    let a = start("a", &redis, &flags);
    let mut client = Client::new(&a);
    let epoch = client.join("r")["epoch"].clone();
    client.publish_all("r", 0..1_000, |n| json!(n));
    eventually("the stream to be trimmed", || {
        let len = redis.ask(&["XLEN", "other:messages:stream"]);
        (len.as_u64()? < 200).then_some(())
    });
    assert_eq!(redis.stream_len(), 1_000);
    // Offsets go on, who is there notices nothing, and who comes late is told.
    assert_eq!(client.publish("r", json!("on")), 1_001);
    client.messages("r", 1, 1_001);
    let b = start("b", &redis, &flags);
    let mut late = Client::new(&b);
    late.resume_lost("r", &epoch, 3, 1_001);
    assert_eq!(client.publish("r", json!("on")), 1_002);
    late.messages("r", 1_002, 1_002);
}

/// FAULTS D11: two that begin at once: one of them goes on.
#[test]
fn of_two_that_begin_at_once_with_one_id_one_goes_on() {
    let redis = Redis::start(&[]);
    let address = redis.address();
    let mut both = [begin("a", &address, &[]), begin("a", &address, &[])];
    let gone = eventually("one of them to end", || {
        (0..2).find(|&at| both[at].log().contains("INSTANCE_ID"))
    });
    assert_ne!(both[gone].ended().code(), Some(0));
    let rest = &both[1 - gone];
    await_up(rest);
    let mut client = Client::member(rest, "r");
    assert_eq!(client.publish("r", json!(1)), 1);
}

#[test]
fn another_number_of_partitions_is_refused() {
    let redis = Redis::start(&[]);
    redis.ask(&["HSET", "gosocket:state", "partitions", "4"]);
    let dir = TempDir::new().unwrap();
    let address = redis.address();
    let output = command(dir.path(), "a", &address, &[]).output().unwrap();
    assert!(!output.status.success());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("partitions"), "{log}");
}
