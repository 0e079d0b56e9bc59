//! Coming back: exactly what was missed, or the word that it can't be had.

use std::thread;

use serde_json::{Value, json};

use super::support::{Client, Server, all, eventually};

/// Enough of these are more than the smallest room log.
fn big(n: u64) -> Value {
    json!({"n":n,"fill":"x".repeat(2_000)})
}

#[test]
fn from_the_room_log_on_either_shard() {
    for store in ["sqlite", "memory"] {
        let server = Server::start(&["--store", store]);
        let mut publisher = Client::new(&server);
        let epoch = publisher.join("a")["epoch"].clone();
        publisher.publish_all("a", 0..50, |n| json!(n));
        for shard in [0, 1] {
            for since in [0, 1, 37, 49, 50] {
                let mut client = Client::on_shard(&server, shard);
                let messages = client.resume("a", &epoch, since, 50);
                assert!(messages.iter().zip(since..).all(|(m, n)| m["payload"] == n));
                assert_eq!(client.settle(), Vec::<Value>::new());
            }
        }
    }
}

#[test]
fn beyond_the_room_log_from_the_store() {
    let server = Server::start(&["--room-log-bytes", "1MiB"]);
    let mut publisher = Client::new(&server);
    let epoch = publisher.join("a")["epoch"].clone();
    publisher.ask(json!({"type":"leave","room":"a"}));
    publisher.publish_all("a", 0..2_500, big);
    let mut newest = 2_500;
    for (shard, since) in [(0, 0), (1, 0), (0, 1_234), (1, 2_499)] {
        let mut client = Client::on_shard(&server, shard);
        let messages = client.resume("a", &epoch, since, newest);
        for (message, n) in messages.iter().zip(since..2_500) {
            assert_eq!(message["payload"], big(n));
        }
        newest += 1;
        assert_eq!(publisher.publish("a", json!("live")), newest);
        client.messages("a", newest, newest);
        assert_eq!(client.settle(), Vec::<Value>::new());
    }
    eventually("replays to be counted", || {
        (server.metric("messages_replayed_total") > 0).then_some(())
    });
}

#[test]
fn what_is_not_ours_is_not_recovered() {
    for store in ["sqlite", "memory"] {
        let server = Server::start(&["--store", store]);
        let mut client = Client::new(&server);
        let epoch = client.join("a")["epoch"].clone();
        client.publish_all("a", 0..3, |n| json!(n));
        client.messages("a", 1, 3);
        for since in [
            json!({"epoch":"","offset":1}),
            json!({"epoch":"garbage \u{1f600}","offset":1}),
            json!({"epoch":"00000000000000000000","offset":1}),
            json!({"epoch":"ffffffffffffffffffff","offset":0}),
            json!({"epoch":epoch,"offset":4}),
            json!({"epoch":epoch,"offset":1_u64 << 53}),
        ] {
            let mut other = Client::new(&server);
            let joined = other.ask(json!({"type":"join","room":"a","since":since}));
            assert_eq!(joined["recovered"], false, "{since}");
            assert_eq!(
                (&joined["offset"], &joined["epoch"]),
                (&json!(3), &epoch),
                "{since}"
            );
            assert_eq!(other.settle(), Vec::<Value>::new(), "none is replayed");
        }
        // A room that never was.
        client.resume_lost("new", &epoch, 5, 0);
    }
}

#[test]
fn in_memory_only_as_far_as_the_log_goes() {
    let server = Server::start(&["--store", "memory", "--room-log-bytes", "1MiB"]);
    let mut publisher = Client::new(&server);
    let epoch = publisher.ask(json!({"type":"join","room":"a"}))["epoch"].clone();
    publisher.ask(json!({"type":"leave","room":"a"}));
    publisher.publish_all("a", 0..1_500, big);
    for shard in [0, 1] {
        let mut client = Client::on_shard(&server, shard);
        client.resume_lost("a", &epoch, 10, 1_500);
        let mut client = Client::on_shard(&server, shard);
        client.resume("a", &epoch, 1_400, 1_500);
    }
    drop(publisher);
    // Nothing of it outlives the process.
    let server = Server::start_on(server.stop(), &["--store", "memory"]);
    let mut client = Client::new(&server);
    let joined = client.resume_lost("a", &epoch, 1_450, 0);
    let new = joined["epoch"].as_str().unwrap();
    assert!(new > epoch.as_str().unwrap(), "epochs sort by time");
}

#[test]
fn after_retention_has_deleted() {
    let flags = ["--retention", "1s", "--room-linger", "0s"];
    let server = Server::start(&flags);
    let mut client = Client::new(&server);
    let epoch = client.join("a")["epoch"].clone();
    client.publish_all("a", 0..20, |n| json!(n));
    client.messages("a", 1, 20);
    drop(client);
    // Without its log, the room is read from the store.
    let server = Server::start_on(server.stop(), &flags);
    let joined = eventually("what is old to be deleted", || {
        let mut client = Client::new(&server);
        let joined = client.rejoin("a", &epoch, 0);
        if joined["recovered"] == true {
            client.messages("a", 1, 20);
        }
        (joined["recovered"] == false).then_some(joined)
    });
    assert_eq!(
        (&joined["offset"], &joined["epoch"]),
        (&json!(20), &epoch),
        "the offsets go on"
    );
    let mut client = Client::new(&server);
    client.resume("a", &epoch, 20, 20);
    assert_eq!(client.publish("a", json!("new")), 21);
    client.messages("a", 21, 21);
}

/// As retention leaves it where the clock went back: a hole, many pages behind where some begin.
#[test]
fn a_hole_deep_in_the_store_is_told_by_joined() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let epoch = client.join("a")["epoch"].clone();
    client.publish_all("a", 0..3_000, |n| json!(n));
    drop(client);
    let dir = server.stop();
    let database = rusqlite::Connection::open(dir.path().join("ringcast.db")).unwrap();
    let deleted = database.execute("DELETE FROM messages WHERE \"offset\" = 2500", []);
    assert_eq!(deleted, Ok(1));
    drop(database);
    let server = Server::start_on(dir, &[]);
    for shard in [0, 1] {
        for (since, recovered) in [(0, false), (2_499, false), (2_500, true)] {
            let mut client = Client::on_shard(&server, shard);
            match recovered {
                true => drop(client.resume("a", &epoch, since, 3_000)),
                false => drop(client.resume_lost("a", &epoch, since, 3_000)),
            }
        }
    }
    assert_eq!(server.metric("gaps_told_total"), 0);
}

#[test]
fn own_messages_without_echo_are_part_of_it() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let epoch = client.join("a")["epoch"].clone();
    for n in 1..=4 {
        let publish = json!({"type":"publish","room":"a","payload":n,"echo":n % 2 == 0});
        assert_eq!(client.ask(publish)["offset"], n);
    }
    let seen: Vec<_> = client
        .settle()
        .iter()
        .map(|m| m["offset"].clone())
        .collect();
    assert_eq!(seen, [2, 4]);
    // On the same connection and on a new one.
    client.resume("a", &epoch, 0, 4);
    let mut client = Client::new(&server);
    client.resume("a", &epoch, 0, 4);
    assert_eq!(client.settle(), Vec::<Value>::new());
}

/// Many come back at once, to both shards, from everywhere in the past, while publishing goes on.
#[test]
fn a_storm_while_publishing_goes_on() {
    let (before, during, clients) = if all() {
        (10_000, 10_000, 60)
    } else {
        (1_000, 1_000, 24)
    };
    let server = Server::start(&["--room-log-bytes", "1MiB"]);
    let mut publisher = Client::new(&server);
    let epoch = publisher.join("a")["epoch"].clone();
    publisher.ask(json!({"type":"leave","room":"a"}));
    publisher.publish_all("a", 0..before, big);
    thread::scope(|scope| {
        let (server, epoch) = (&server, &epoch);
        let comers: Vec<_> = (0..clients)
            .map(|comer| {
                scope.spawn(move || {
                    let since = before * comer / clients;
                    let mut client = Client::on_shard(server, comer % 2);
                    let messages = client.resume("a", epoch, since, before + during);
                    let numbers = messages.iter().map(|m| m["payload"]["n"].as_u64());
                    assert!(numbers.eq((since..before + during).map(Some)));
                    assert_eq!(client.settle(), Vec::<Value>::new());
                })
            })
            .collect();
        let offsets = publisher.publish_all("a", before..before + during, big);
        assert!(offsets.into_iter().eq(before + 1..=before + during));
        for comer in comers {
            comer.join().unwrap();
        }
    });
    assert_eq!(server.metric("gaps_told_total"), 0);
}
