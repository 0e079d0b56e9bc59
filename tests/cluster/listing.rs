//! The list of rooms: where anybody is, on whichever instance, and what is stored.

use serde_json::{Value, json};

use super::instances::{await_degraded, await_up, begin, pair};
use super::postgres::{Postgres, TABLES};
use super::redis::Redis;
use super::support::{Client, Server, eventually};

/// Name, members and offset of each room that is listed.
fn listed(server: &Server, query: &str) -> Vec<(String, u64, u64)> {
    let answer = server.get(&format!("/api/rooms?{query}"));
    assert_eq!(answer.status, 200);
    let room = |room: &Value| {
        let number = |name: &str| room[name].as_u64().unwrap();
        assert_eq!(room["epoch"].as_str().unwrap().len(), 20, "{room}");
        let name = room["room"].as_str().unwrap().to_owned();
        (name, number("members"), number("offset"))
    };
    let answer = answer.json();
    answer["rooms"]
        .as_array()
        .unwrap()
        .iter()
        .map(room)
        .collect()
}

fn await_listed(server: &Server, query: &str, want: &[(&str, u64, u64)]) {
    eventually(&format!("{want:?} to be listed"), || {
        let listed = listed(server, query);
        let listed = listed.iter();
        let listed = listed.map(|(name, members, offset)| (name.as_str(), *members, *offset));
        listed.eq(want.iter().copied()).then_some(())
    });
}

#[test]
fn rooms_are_listed_wherever_somebody_is() {
    let mut redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut on_a = Client::new(&a);
    for room in ["one", "three", "two"] {
        on_a.join(room);
    }
    for n in 1..=3 {
        on_a.publish("one", json!(n));
    }
    let all = [("one", 1, 3), ("three", 1, 0), ("two", 1, 0)];
    await_listed(&b, "", &all);
    await_listed(&a, "", &all);
    await_listed(&b, "prefix=t", &all[1..]);
    await_listed(&b, "cursor=one&limit=1", &all[1..2]);
    let _on_b = Client::member(&b, "one");
    await_listed(&b, "prefix=one", &[("one", 2, 3)]);
    on_a.ask(json!({"type":"leave","room":"two"}));
    await_listed(&b, "prefix=tw", &[]);

    // Who is where can't be had any more: that is no empty list.
    redis.shut_down();
    await_degraded(&b);
    let answer = b.get("/api/rooms");
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (503, &json!("unavailable"))
    );
    redis.up();
    await_up(&b);
    await_listed(&b, "prefix=th", &all[1..2]);
}

#[test]
fn rooms_that_are_stored_are_listed_with_who_is_in_them() {
    let (mut redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    postgres.sql(TABLES);
    let [a, b] = pair(&redis, &["--postgres-url", &postgres.url()]);
    let mut on_a = Client::new(&a);
    let epoch = on_a.join("both")["epoch"].clone();
    on_a.join("new");
    for n in 1..=3 {
        on_a.publish("both", json!(n));
    }
    // A worker that is behind.
    let epoch = epoch.as_str().unwrap();
    for (room, offset) in [("both", 2), ("stored", 7)] {
        postgres.sql(&format!(
            "INSERT INTO messages (room_name, id, epoch, \"offset\", user_id, payload, created_at) \
             VALUES ('{room}', gen_random_uuid(), '{epoch}', {offset}, 'u', '1', now())"
        ));
    }
    let all = [("both", 1, 3), ("new", 1, 0), ("stored", 0, 7)];
    await_listed(&b, "", &all);
    await_listed(&a, "", &all);
    // What is stored is known without Redis, too.
    redis.shut_down();
    await_degraded(&b);
    await_listed(&b, "", &[("both", 0, 2), ("stored", 0, 7)]);
}

/// An instance that has never met its Redis knows of no room, and says so.
#[test]
fn without_a_redis_there_is_no_list() {
    let redis = Redis::later();
    let a = begin("a", &redis.address(), &[]);
    await_degraded(&a);
    assert_eq!(a.get("/api/rooms").status, 503);
}
