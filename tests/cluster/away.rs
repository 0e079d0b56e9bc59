//! What is seen of a Redis that is away, and of its return.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::instances::{
    acked, await_degraded, await_up, begin, begin_publish, command, health, pair, start,
};
use super::redis::Redis;
use super::support::{Client, Server, all, eventually};

/// How long until `/health` shows it (FAULTS F10), and until all is well again (D1, D2, F8).
const SHOWN: Duration = Duration::from_secs(5);

/// One instance's members go on as well as they can, by whatever way Redis is away.
fn check_away(go: impl FnOnce(&mut Redis), come: impl FnOnce(&mut Redis)) {
    // What a Redis that is killed has acked and not written yet is its own to lose.
    let mut redis = Redis::lasting(&["--appendfsync", "always"]);
    let [a, b] = pair(&redis, &[]);
    let mut publisher = Client::on_shard(&a, 0);
    let mut member = Client::on_shard(&a, 1);
    let mut elsewhere = Client::new(&b);
    for client in [&mut publisher, &mut member, &mut elsewhere] {
        client.join("r");
    }
    publisher.publish("r", json!("before"));
    for client in [&mut publisher, &mut member, &mut elsewhere] {
        client.messages("r", 1, 1);
    }
    go(&mut redis);
    begin_publish(&mut publisher, "r", json!("in flight"), "1");
    let took = await_degraded(&a);
    assert!(took < SHOWN, "shown after {took:?}");
    await_degraded(&b);
    assert_eq!(a.get("/ready").status, 200, "it has room in the spool");
    for client in [&mut publisher, &mut member, &mut elsewhere] {
        let degraded = client.next("degraded");
        assert_eq!(degraded["degraded"], true);
        assert!(!degraded["reason"].as_str().unwrap().is_empty());
    }
    begin_publish(&mut publisher, "r", json!("held"), "2");
    begin_publish(&mut elsewhere, "r", json!("held there"), "3");
    // Chat goes on to be seen among the members of one instance.
    let ids: Vec<_> = ["in flight", "held"]
        .into_iter()
        .map(|payload| {
            let pending = member.next("pending");
            let expected = (&json!("r"), &json!(payload), &json!(publisher.id));
            let got = (&pending["room"], &pending["payload"], &pending["user_id"]);
            assert_eq!(got, expected, "{pending}");
            pending["id"].clone()
        })
        .collect();
    assert_eq!(elsewhere.next("pending")["payload"], "held there");
    publisher.send(&json!({"type":"signal","room":"r","payload":"typing"}));
    assert_eq!(member.next("signal")["payload"], "typing");
    // A room that this instance has not opened can't be joined; one that it has can.
    let mut newcomer = Client::new(&a);
    assert_eq!(
        newcomer.next("degraded")["degraded"],
        true,
        "it is told at once"
    );
    let code = newcomer.ask_error(json!({"type":"join","room":"unknown"}));
    assert_eq!(code, "unavailable");
    assert_eq!(newcomer.join("r")["offset"], 1);
    assert!(
        publisher
            .settle()
            .iter()
            .all(|frame| frame["type"] != "ack"),
        "nothing is acked that is not stored"
    );

    come(&mut redis);
    let began = Instant::now();
    for client in [&mut publisher, &mut member, &mut elsewhere, &mut newcomer] {
        assert_eq!(client.next("degraded")["degraded"], false);
    }
    let took = began.elapsed();
    assert!(took < SHOWN, "healed after {took:?}");
    await_up(&a);
    await_up(&b);
    // Each once, in one order, with the ids of the previews.
    let messages = member.messages("r", 2, 4);
    let place = |payload: &str| {
        messages
            .iter()
            .position(|m| m["payload"] == payload)
            .unwrap()
    };
    assert!(place("in flight") < place("held"));
    assert_eq!(messages[place("in flight")]["id"], ids[0]);
    assert_eq!(messages[place("held")]["id"], ids[1]);
    assert_eq!(acked(&mut publisher, "1"), 2 + place("in flight") as u64);
    assert_eq!(acked(&mut publisher, "2"), 2 + place("held") as u64);
    assert_eq!(acked(&mut elsewhere, "3"), 2 + place("held there") as u64);
    assert_eq!(elsewhere.messages("r", 2, 4), messages);
    assert_eq!(newcomer.messages("r", 2, 4), messages);
    assert_eq!(publisher.publish("r", json!("after")), 5);
    member.messages("r", 5, 5);
    let rest = member.settle();
    assert!(
        rest.iter().all(|frame| frame["type"] == "pending"),
        "{rest:?}"
    );
}

/// FAULTS D2, F10: what is in flight is acked once it is stored, previews and signals go on, health
/// says degraded within 5 s.
#[test]
fn it_stands_still() {
    check_away(
        |redis| redis.signal(Signal::STOP),
        |redis| redis.signal(Signal::CONT),
    );
}

/// FAULTS D1, F10: the same of a Redis that is killed.
#[test]
fn it_is_killed() {
    check_away(Redis::kill, Redis::up);
}

/// FAULTS D2: the same of one that stood still and is replaced.
#[test]
fn it_stands_still_and_is_restarted() {
    check_away(
        |redis| redis.signal(Signal::STOP),
        |redis| {
            redis.kill();
            redis.up();
        },
    );
}

/// Two instances and much that is held: all of it is delivered, each publisher's in its order.
///
/// FAULTS D1: what two instances hold for their publishers, in each one's order.
#[test]
fn what_is_held_is_handed_over_in_order() {
    let each = 2_000;
    let mut redis = Redis::lasting(&[]);
    let [a, b] = pair(&redis, &["--rate-limit", "0", "--rate-limit-bytes", "0"]);
    let mut members = [Client::on_shard(&a, 0), Client::on_shard(&b, 1)];
    members.iter_mut().for_each(|member| {
        member.join("r");
    });
    redis.kill();
    await_degraded(&a);
    await_degraded(&b);
    thread::scope(|scope| {
        for (name, server) in [("a", &a), ("b", &b)] {
            scope.spawn(move || {
                let mut client = Client::new(server);
                for n in 0..each {
                    let payload = json!({"by":name,"n":n});
                    begin_publish(&mut client, "r", payload, &n.to_string());
                }
                for n in 0..each {
                    acked(&mut client, &n.to_string());
                }
            });
        }
        let held = |server: &Server| server.get("/health").json()["redis"] == "down";
        assert!(held(&a) && held(&b));
        thread::sleep(Duration::from_millis(500));
        redis.up();
    });
    let [first, second] = members
        .each_mut()
        .map(|member| member.messages("r", 1, 2 * each));
    assert_eq!(first, second);
    for name in ["a", "b"] {
        let of_one = first.iter().filter(|m| m["payload"]["by"] == name);
        assert!(
            of_one
                .map(|m| m["payload"]["n"].as_u64())
                .eq((0..each).map(Some))
        );
    }
}

/// FAULTS F8: instances before Redis, with --all by 60 s: they serve, hold, and are ready within 5
/// s of it.
#[test]
fn instances_come_before_redis() {
    let mut redis = Redis::later();
    let address = redis.address();
    let servers = ["a", "b"].map(|id| begin(id, &address, &[]));
    for server in &servers {
        let took = await_degraded(server);
        assert!(took < SHOWN, "shown after {took:?}");
        assert_eq!(server.get("/ready").status, 200);
    }
    let mut early = Client::new(&servers[0]);
    assert_eq!(early.next("degraded")["degraded"], true);
    begin_publish(&mut early, "r", json!("early"), "1");
    let began = Instant::now();
    while all() && began.elapsed() < Duration::from_secs(60) {
        // Who does not read does not answer pings either, and is let go in that time.
        early.settle();
        thread::sleep(Duration::from_secs(1));
    }
    redis.up();
    let began = Instant::now();
    servers.iter().for_each(await_up);
    let took = began.elapsed();
    assert!(took < SHOWN, "ready after {took:?}");
    assert_eq!(acked(&mut early, "1"), 1);
    let mut late = Client::new(&servers[1]);
    assert_eq!(late.join("r")["offset"], 1);
    for server in &servers {
        assert!(
            server.log().contains("is Redis running"),
            "{}",
            server.log()
        );
    }
}

/// FAULTS D1: what it holds outlives its restart.
#[test]
fn an_instance_restarts_while_redis_is_away() {
    let mut redis = Redis::lasting(&[]);
    let address = redis.address();
    let [a, b] = pair(&redis, &[]);
    let mut elsewhere = Client::member(&b, "r");
    let mut client = Client::member(&a, "r");
    redis.kill();
    await_degraded(&a);
    let id = "0190a000-0000-7000-8000-000000000002";
    let own = json!({"type":"publish","room":"r","payload":"own id","id":id,"ref":1});
    client.send(&own);
    begin_publish(&mut client, "r", json!("held"), "2");
    for _ in 0..2 {
        client.next("pending");
    }
    let dir = a.stop();
    let a = Server::spawn(command(dir.path(), "a", &address, &[]), dir);
    await_degraded(&a);
    let mut client = Client::new(&a);
    begin_publish(&mut client, "r", json!("later"), "3");
    redis.up();
    let messages = elsewhere.messages("r", 1, 3);
    let payloads: Vec<_> = messages.iter().map(|m| m["payload"].clone()).collect();
    assert_eq!(payloads, ["own id", "held", "later"]);
    assert_eq!(acked(&mut client, "3"), 3);
    // Who retries gets the offset of what was held.
    assert_eq!(client.ask(own)["offset"], 1);
    assert_eq!(client.publish("r", json!("last")), 4);
    elsewhere.messages("r", 4, 4);
}

/// FAULTS D2: a retry of what is held makes no second message.
#[test]
fn a_retry_of_what_is_held_is_held_once() {
    let redis = Redis::lasting(&[]);
    let a = start("a", &redis, &[]);
    let mut client = Client::member(&a, "r");
    redis.signal(Signal::STOP);
    let id = "0190a000-0000-7000-8000-000000000003";
    let own = json!({"type":"publish","room":"r","payload":1,"id":id});
    for n in 0..3 {
        let mut own = own.clone();
        own["ref"] = json!(format!("try {n}"));
        client.send(&own);
    }
    await_degraded(&a);
    let mut late = own.clone();
    late["ref"] = json!("try 3");
    client.send(&late);
    redis.signal(Signal::CONT);
    for n in 0..4 {
        assert_eq!(acked(&mut client, &format!("try {n}")), 1);
    }
    client.messages("r", 1, 1);
    assert_eq!(client.publish("r", json!(2)), 2);
}

/// FAULTS D1: unavailable when the spool is full, and never an ack before it is stored.
#[test]
fn a_full_spool_refuses() {
    let mut redis = Redis::lasting(&[]);
    let flags = ["--spool-bytes", "1MiB", "--rate-limit-bytes", "0"];
    let a = start("a", &redis, &flags);
    redis.kill();
    await_degraded(&a);
    // More than a connection may have under way is not read of it: so there are several.
    let mut clients: Vec<_> = (0..4).map(|_| Client::new(&a)).collect();
    for client in &mut clients {
        // `/health` knows it first; until all are told, what comes counts as in flight.
        assert_eq!(client.next("degraded")["degraded"], true);
    }
    let big = "x".repeat(20_000);
    for n in 0..30 {
        for client in &mut clients {
            begin_publish(client, "r", json!(big), &n.to_string());
        }
    }
    a.await_metric_at_least("errors_total{unavailable", 1);
    assert_eq!(health(&a)["status"], "degraded");
    eventually("/ready to say so", || {
        let ready = a.get("/ready");
        (ready.status == 503 && ready.body.contains("spool")).then_some(())
    });
    redis.up();
    await_up(&a);
    let (mut stored, mut refused) = (0, 0);
    for client in &mut clients {
        let mut offset = 0;
        for _ in 0..30 {
            let answer = client.find(|frame| frame["type"] == "ack" || frame["type"] == "error");
            match answer["offset"].as_u64() {
                Some(next) => {
                    assert!(next > offset, "a publisher's messages keep their order");
                    (offset, stored) = (next, stored + 1);
                }
                None => {
                    assert_eq!(answer["code"], "unavailable", "{answer}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(stored + refused, 120);
    assert!(stored > 30, "{stored} stored");
    assert_eq!(clients[0].publish("r", json!("after")), stored + 1);
    assert_eq!(redis.stream_len(), stored + 1);
    eventually("/ready again", || {
        (a.get("/ready").status == 200).then_some(())
    });
}
