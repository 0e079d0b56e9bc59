//! Personal rooms: `@` and a user's id.

use serde_json::{Value, json};

use super::support::{Client, Server};

#[test]
fn they_deliver_without_joining_on_either_shard() {
    let server = Server::start(&[]);
    for (of, by) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut user = Client::on_shard(&server, of);
        let mut sender = Client::on_shard(&server, by);
        let room = format!("@{}", user.id);
        for n in 1..=3 {
            assert_eq!(sender.publish(&room, json!(n)), n);
        }
        for message in user.messages(&room, 1, 3) {
            assert_eq!(message["user_id"], json!(sender.id));
        }
        assert_eq!(sender.settle(), Vec::<Value>::new());
        // Also what the user itself posts there.
        assert_eq!(user.publish(&room, json!(4)), 4);
        user.messages(&room, 4, 4);
    }
}

#[test]
fn ones_own_may_be_joined_and_resumed() {
    let server = Server::start(&[]);
    let mut user = Client::new(&server);
    let mut sender = Client::new(&server);
    let room = format!("@{}", user.id);
    sender.publish_all(&room, 0..3, |n| json!(n));
    user.messages(&room, 1, 3);
    let joined = user.join(&room);
    assert_eq!(joined["offset"], 3);
    user.resume(&room, &joined["epoch"], 1, 3);
    assert_eq!(sender.publish(&room, json!(3)), 4);
    user.messages(&room, 4, 4);
    assert_eq!(user.settle(), Vec::<Value>::new());
}

#[test]
fn joining_ones_own_first_gives_nothing_twice() {
    let server = Server::start(&[]);
    for shard in [0, 1] {
        let mut user = Client::on_shard(&server, shard);
        let room = format!("@{}", user.id);
        user.join(&room);
        let mut sender = Client::new(&server);
        sender.publish_all(&room, 0..3, |n| json!(n));
        user.messages(&room, 1, 3);
        assert_eq!(user.settle(), Vec::<Value>::new());
    }
}

#[test]
fn anothers_is_closed_to_all_but_publishing() {
    let server = Server::start(&[]);
    let user = Client::new(&server);
    let mut other = Client::new(&server);
    for room in [format!("@{}", user.id), "@nobody".into(), "@".into()] {
        for kind in ["join", "members"] {
            let code = other.ask_error(json!({"type":kind,"room":room}));
            assert_eq!(code, "forbidden", "{kind} {room}");
        }
        assert_eq!(other.publish(&room, json!(1)), 1);
    }
    let code = other.ask_error(json!({"type":"leave","room":format!("@{}", user.id)}));
    assert_eq!(code, "not_joined");
}

/// A personal room of somebody who is not here is a room like any other: offsets go on.
#[test]
fn what_came_while_away_is_there_to_be_resumed() {
    let server = Server::start(&["--store", "memory"]);
    let mut user = Client::new(&server);
    let room = format!("@{}", user.id);
    let mut sender = Client::new(&server);
    let joined = user.join(&room);
    let left = user.ask(json!({"type":"leave","room":room}));
    assert_eq!(left["type"], "left");
    assert_eq!(sender.publish(&room, json!(1)), 1);
    user.messages(&room, 1, 1);
    user.resume(&room, &joined["epoch"], 0, 1);
}
