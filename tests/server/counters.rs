//! Counters as they stand after years: nothing wraps, and no digit is lost.

use std::path::Path;

use serde_json::json;

use super::support::{Client, Server};

/// Sets the newest offset of a room, as if so much had been said there.
fn set_offset(dir: &Path, room: &str, offset: u64) {
    let database = rusqlite::Connection::open(dir.join("ringcast.db")).unwrap();
    let set = "update offsets set last_offset = ?1 where room_name = ?2";
    let rows = database.execute(set, rusqlite::params![offset as i64, room]);
    assert_eq!(rows.unwrap(), 1);
}

/// FAULTS I4: offsets about 2^31, 2^32 and up to 2^53, of one server, as numbers in JSON: messages,
/// acks, resumes and history.
#[test]
fn offsets_of_years_go_on() {
    for near in [(1 << 31) - 2, (1 << 32) - 2, (1 << 53) - 4] {
        let server = Server::start(&[]);
        let mut client = Client::new(&server);
        let epoch = client.join("r")["epoch"].clone();
        assert_eq!(client.publish("r", json!("first")), 1);
        drop(client);
        let dir = server.stop();
        set_offset(dir.path(), "r", near);

        let server = Server::start_on(dir, &[]);
        let mut clients = [Client::on_shard(&server, 0), Client::on_shard(&server, 1)];
        for client in &mut clients {
            let joined = client.join("r");
            assert_eq!(
                (&joined["offset"], &joined["epoch"]),
                (&json!(near), &epoch)
            );
        }
        for n in 1..=4 {
            let [first, _] = &mut clients;
            assert_eq!(first.publish("r", json!(n)), near + n);
        }
        for client in &mut clients {
            client.messages("r", near + 1, near + 4);
        }
        // From memory, and then from what is stored.
        let mut server = server;
        for _ in 0..2 {
            let mut late = Client::new(&server);
            late.resume("r", &epoch, near + 1, near + 4);
            let path = format!("/api/rooms/r/messages?after={}&limit=10", near + 1);
            let page = server.get(&path).json();
            let offsets = page["messages"].as_array().unwrap().iter();
            let offsets: Vec<_> = offsets.map(|it| it["offset"].as_u64().unwrap()).collect();
            assert_eq!(offsets, [near + 2, near + 3, near + 4]);
            drop(late);
            server = Server::start_on(server.stop(), &[]);
        }
    }
}
