//! `kill -9` while publishing: what was acked is there, once and in order, and clients go on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::support::{Client, Server, all};

const ROOMS: [&str; 2] = ["a", "b"];
const PUBLISHERS: u64 = 4;
/// Publishes of one publisher that are not acked yet.
const UNDER_WAY: usize = 64;

/// One ack: room, offset and id.
type Acked = (usize, u64, String);

#[test]
fn kill_9_in_the_middle_of_acked_publishes() {
    let enough = if all() { 100_000 } else { 5_000 };
    let mut server = Server::start(&[]);
    let count = AtomicU64::new(0);
    let (acked, members) = thread::scope(|scope| {
        let (server, count) = (&server, &count);
        let members: Vec<_> = (0..2)
            .map(|shard| {
                let mut client = Client::on_shard(server, shard);
                let epoch = client.join(ROOMS[0])["epoch"].clone();
                client.join(ROOMS[1]);
                scope.spawn(move || (epoch, read_until_gone(client)))
            })
            .collect();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| scope.spawn(move || publish_until_gone(server, publisher, count)))
            .collect();
        while count.load(Ordering::Relaxed) < enough {
            assert!(!publishers.iter().any(|p| p.is_finished()));
            thread::sleep(std::time::Duration::from_millis(1));
        }
        server.signal(Signal::KILL);
        let acked: Vec<_> = publishers
            .into_iter()
            .flat_map(|publisher| publisher.join().unwrap())
            .collect();
        let members: Vec<_> = members.into_iter().map(|m| m.join().unwrap()).collect();
        (acked, members)
    });
    server.ended();
    assert!(acked.len() as u64 >= enough);

    let server = Server::start_on(server.dir.clone(), &[]);
    for (at, room) in ROOMS.into_iter().enumerate() {
        let epoch = &members[0].0;
        let mut client = Client::new(&server);
        let joined = client.join(room);
        assert_eq!(&joined["epoch"], epoch, "the same life of the offsets");
        let newest = joined["offset"].as_u64().unwrap();
        let messages = client.resume(room, epoch, 0, newest);
        let ids: HashSet<_> = messages.iter().map(|m| m["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len() as u64, newest, "each once");
        // Acked is there, under its offset.
        for (_, offset, id) in acked.iter().filter(|(of, ..)| *of == at) {
            assert_eq!(messages[*offset as usize - 1]["id"], json!(id));
        }
        // Each publisher's in its order, without a hole.
        let mut next = [0; PUBLISHERS as usize];
        for message in &messages {
            let next = &mut next[message["payload"]["by"].as_u64().unwrap() as usize];
            assert_eq!(message["payload"]["n"], *next);
            *next += 1;
        }
        // What members had seen is what is there, and they get the rest.
        for (shard, (epoch, seen)) in (0..).zip(&members) {
            let seen = &seen[at];
            assert!(seen.iter().zip(&messages).all(|(s, m)| s == m));
            let since = seen.len() as u64;
            assert!(since <= newest);
            let mut client = Client::on_shard(&server, shard);
            let rest = client.resume(room, epoch, since, newest);
            assert_eq!(rest, messages[since as usize..]);
            if shard == 0 {
                assert_eq!(client.settle(), Vec::<Value>::new());
            }
        }
        // And the offsets go on. A retry of what was acked is still the same message.
        assert_eq!(client.publish(room, json!("on")), newest + 1);
        if let Some((_, offset, id)) = acked.iter().rev().find(|(of, ..)| *of == at) {
            let retry = json!({"type":"publish","room":room,"payload":0,"id":id});
            assert_eq!(client.ask(retry)["offset"], *offset);
        }
    }
}

fn publish_until_gone(server: &Server, publisher: u64, count: &AtomicU64) -> Vec<Acked> {
    let mut client = Client::on_shard(server, publisher % 2);
    let mut acked = Vec::new();
    let (mut n, mut under_way) = (0_usize, 0);
    loop {
        while under_way < UNDER_WAY {
            let (room, of_room) = (n % ROOMS.len(), n / ROOMS.len());
            // Every third brings its own id.
            let id = (n % 3 == 0).then(|| format!("0190a000-0000-7000-{:04x}-{n:012x}", publisher));
            let payload = json!({"by":publisher,"n":of_room,"fill":"x".repeat(n % 300)});
            client.send(
                &json!({"type":"publish","room":ROOMS[room],"payload":payload,
                                "id":id,"ref":n}),
            );
            n += 1;
            under_way += 1;
        }
        let Ok(ack) = client.try_recv() else {
            return acked;
        };
        assert_eq!(ack["type"], "ack", "{ack}");
        under_way -= 1;
        let room = ack["ref"].as_u64().unwrap() as usize % ROOMS.len();
        let id = ack["id"].as_str().unwrap().to_owned();
        acked.push((room, ack["offset"].as_u64().unwrap(), id));
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a member saw of each room, in order.
fn read_until_gone(mut client: Client) -> [Vec<Value>; ROOMS.len()] {
    let mut seen = [const { Vec::new() }; ROOMS.len()];
    while let Ok(frame) = client.try_recv() {
        assert_eq!(frame["type"], "message", "{frame}");
        let at = ROOMS
            .iter()
            .position(|room| frame["room"] == *room)
            .unwrap();
        assert_eq!(frame["offset"], seen[at].len() + 1);
        seen[at].push(frame);
    }
    seen
}

/// A server that ends a client's connection and comes back keeps rooms that had no publication.
#[test]
fn an_epoch_outlives_a_restart_of_any_kind() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let epoch = client.join("a")["epoch"].clone();
    let server = Server::start_on(server.kill(), &[]);
    let mut client = Client::new(&server);
    client.resume("a", &epoch, 0, 0);
    client.publish("a", json!(1));
    client.messages("a", 1, 1);
    drop(client);
    let server = Server::start_on(server.stop(), &[]);
    let mut client = Client::new(&server);
    client.resume("a", &epoch, 0, 1);
}
