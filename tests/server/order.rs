//! One order for all: of a room, of each publisher, over both shards.

use std::collections::HashMap;
use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::json;

use super::support::{Client, Server, all};

const PUBLISHERS: u64 = 8;
const ROOMS: [&str; 3] = ["red", "green", "blue"];

#[test]
fn connections_land_on_both_shards() {
    let server = Server::start(&[]);
    let shards: Vec<_> = (0..64)
        .map(|_| Client::new(&server).welcome["shard"].as_u64().unwrap())
        .collect();
    for shard in [0, 1] {
        let share = shards.iter().filter(|&&other| other == shard).count();
        assert!(share > 8, "{share} of 64 on shard {shard}");
    }
}

/// Members of all rooms on both shards; each publisher posts to the rooms in turn. `n` is the
/// publisher's count in a room.
fn all_see_one_order(flags: &[&str]) {
    let each = if all() { 5_000 } else { 250 };
    let server = Server::start(flags);
    let everybody = Arc::new(Barrier::new(PUBLISHERS as usize + 4));
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (server, everybody) = (&server, everybody.clone());
                scope.spawn(move || {
                    let mut client = Client::on_shard(server, publisher % 2);
                    everybody.wait();
                    for n in 0..each {
                        for room in ROOMS {
                            client.send(&json!({"type":"publish","room":room,"ref":n,
                                                "payload":{"by":publisher,"n":n}}));
                        }
                        if n >= 50 {
                            ROOMS.iter().for_each(|_| drop(client.next("ack")));
                        }
                    }
                    for _ in 0..each.min(50) {
                        ROOMS.iter().for_each(|_| drop(client.next("ack")));
                    }
                })
            })
            .collect();
        let members: Vec<_> = (0..4)
            .map(|member| {
                let (server, everybody) = (&server, everybody.clone());
                scope.spawn(move || {
                    let mut client = Client::on_shard(server, member % 2);
                    for room in ROOMS {
                        client.join(room);
                    }
                    everybody.wait();
                    let mut offsets = HashMap::<String, u64>::new();
                    let mut counts = HashMap::<(String, u64), u64>::new();
                    let mut order = Vec::new();
                    for _ in 0..PUBLISHERS * each * ROOMS.len() as u64 {
                        let message = client.recv();
                        assert_eq!(message["type"], "message", "{message}");
                        let room = message["room"].as_str().unwrap().to_owned();
                        let offset = offsets.entry(room.clone()).or_default();
                        *offset += 1;
                        assert_eq!(message["offset"], *offset, "{room}");
                        let by = message["payload"]["by"].as_u64().unwrap();
                        let count = counts.entry((room.clone(), by)).or_default();
                        assert_eq!(message["payload"]["n"], *count, "{room} by {by}");
                        *count += 1;
                        order.push((room, *offset, by, message["id"].clone()));
                    }
                    assert!(counts.values().all(|&count| count == each));
                    assert_eq!(client.settle(), Vec::<serde_json::Value>::new());
                    order.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
                    order
                })
            })
            .collect();
        for publisher in publishers {
            publisher.join().unwrap();
        }
        let mut orders = members.into_iter().map(|member| member.join().unwrap());
        let first = orders.next().unwrap();
        assert!(orders.all(|order| order == first), "the same for all");
    });
    let sum = PUBLISHERS * each * ROOMS.len() as u64;
    server.await_metric("messages_stored_total", sum);
    server.await_metric("messages_delivered_total", 4 * sum);
    assert_eq!(server.metric("gaps_told_total"), 0);
}

#[test]
fn stored() {
    all_see_one_order(&[]);
}

#[test]
fn in_memory() {
    all_see_one_order(&["--store", "memory"]);
}

#[test]
fn gathered() {
    all_see_one_order(&["--flush-interval", "10ms", "--store", "memory"]);
}

/// The ack of an `echo:false` takes the message's place, and no other message's.
#[test]
fn own_messages_without_echo_leave_no_hole_for_others() {
    let server = Server::start(&[]);
    for shards in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let room = format!("{shards:?}");
        let mut a = Client::on_shard(&server, shards.0);
        let mut b = Client::on_shard(&server, shards.1);
        a.join(&room);
        b.join(&room);
        for n in 0..100 {
            let echo = n % 3 == 0;
            let publish = |n: u64| json!({"type":"publish","room":room,"payload":n,"echo":echo});
            a.send(&publish(2 * n));
            b.send(&publish(2 * n + 1));
        }
        for (client, own) in [(&mut a, 0), (&mut b, 1)] {
            let mut seen = Vec::new();
            while seen.len() < 200 {
                let frame = client.recv();
                let offset = frame["offset"].as_u64().unwrap();
                if frame["type"] == "message" {
                    let n = frame["payload"].as_u64().unwrap();
                    assert!(n % 2 != own || (n / 2).is_multiple_of(3), "{frame}");
                }
                seen.push((offset, frame["type"] == "ack"));
            }
            let messages = seen
                .iter()
                .filter(|(_, ack)| !ack)
                .map(|(offset, _)| *offset);
            assert!(messages.is_sorted_by(|a, b| a < b), "messages in order");
            seen.sort_unstable();
            let offsets: Vec<_> = seen.iter().map(|(offset, _)| *offset).collect();
            assert_eq!(offsets, (1..=200).collect::<Vec<_>>());
        }
    }
}
