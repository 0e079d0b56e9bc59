//! Ids that clients give: a retry makes no second message.

use serde_json::{Value, json};

use super::support::{Client, Server, eventually};

const ID: &str = "0190a000-0000-7000-8000-00000000000a";

fn publish(client: &mut Client, room: &str, id: &str) -> u64 {
    let frame = json!({"type":"publish","room":room,"payload":1,"id":id});
    let ack = client.ask(frame);
    assert_eq!(
        (&ack["type"], &ack["id"]),
        (&json!("ack"), &json!(id.to_lowercase()))
    );
    ack["offset"].as_u64().unwrap()
}

#[test]
fn the_same_id_is_one_message() {
    for store in ["sqlite", "memory"] {
        let server = Server::start(&["--store", store]);
        let mut member = Client::member(&server, "a");
        let mut first = Client::on_shard(&server, 0);
        let mut second = Client::on_shard(&server, 1);
        first.publish("a", json!(0));
        assert_eq!(publish(&mut first, "a", ID), 2);
        first.publish("a", json!(0));
        // On the same connection, on another, and in capitals.
        assert_eq!(publish(&mut first, "a", ID), 2);
        assert_eq!(publish(&mut second, "a", ID), 2);
        assert_eq!(publish(&mut second, "a", &ID.to_uppercase()), 2);
        // In another room it is another message.
        assert_eq!(publish(&mut second, "b", ID), 1);
        assert_eq!(second.publish("a", json!(0)), 4);
        member.messages("a", 1, 4);
        assert_eq!(member.settle(), Vec::<Value>::new());
        server.await_metric("messages_repeated_total", 3);
    }
}

/// Repeats that come while the first is still on its way to the disk.
#[test]
fn the_same_id_many_times_at_once() {
    let server = Server::start(&[]);
    let mut member = Client::member(&server, "a");
    let mut clients: Vec<_> = (0..4).map(|n| Client::on_shard(&server, n % 2)).collect();
    for n in 0..200 {
        let id = format!("0190a000-0000-7000-8000-{:012x}", n % 20);
        for client in &mut clients {
            let frame = json!({"type":"publish","room":"a","payload":n,"id":id,"ref":n % 20});
            client.send(&frame);
        }
    }
    let mut offsets = [0; 20];
    for client in &mut clients {
        for _ in 0..200 {
            let ack = client.next("ack");
            let offset = &mut offsets[ack["ref"].as_u64().unwrap() as usize];
            let told = ack["offset"].as_u64().unwrap();
            assert!(*offset == 0 || *offset == told, "{ack}, before {offset}");
            *offset = told;
        }
    }
    offsets.sort_unstable();
    assert_eq!(offsets.to_vec(), (1..=20).collect::<Vec<_>>());
    member.messages("a", 1, 20);
    assert_eq!(member.settle(), Vec::<Value>::new());
}

#[test]
fn after_a_restart() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    client.publish("a", json!(0));
    assert_eq!(publish(&mut client, "a", ID), 2);
    let server = Server::start_on(server.kill(), &[]);
    let mut client = Client::member(&server, "a");
    assert_eq!(publish(&mut client, "a", ID), 2);
    assert_eq!(client.publish("a", json!(0)), 3);
    client.messages("a", 3, 3);
}

/// What was forgotten by the window is still known by the table's key.
#[test]
fn after_the_window_the_store_still_knows() {
    let server = Server::start(&["--dedupe-window", "0s"]);
    let mut client = Client::member(&server, "a");
    assert_eq!(publish(&mut client, "a", ID), 1);
    assert_eq!(client.publish("a", json!(0)), 2);
    for _ in 0..3 {
        assert_eq!(publish(&mut client, "a", ID), 1);
    }
    // In the middle of others of one batch, which all get their offsets.
    for n in 0..50 {
        let id = if n % 10 == 5 { json!(ID) } else { Value::Null };
        client.send(&json!({"type":"publish","room":"a","payload":n,"id":id,"ref":n}));
    }
    let mut next = 3;
    let mut acks: Vec<_> = (0..50).map(|_| client.next("ack")).collect();
    acks.sort_by_key(|ack| ack["ref"].as_u64());
    for ack in acks {
        let expected = if ack["ref"].as_u64().unwrap() % 10 == 5 {
            1
        } else {
            next += 1;
            next - 1
        };
        assert_eq!(ack["offset"], expected, "{ack}");
    }
    client.messages("a", 1, 47);
    assert_eq!(client.settle(), Vec::<Value>::new());
}

#[test]
fn in_memory_the_window_ends() {
    let server = Server::start(&["--store", "memory", "--dedupe-window", "200ms"]);
    let mut client = Client::new(&server);
    assert_eq!(publish(&mut client, "a", ID), 1);
    let mut last = 1;
    eventually("the id to be forgotten", || {
        last = publish(&mut client, "a", ID);
        (last == 2).then_some(())
    });
    // It is remembered anew from then on.
    assert_eq!(publish(&mut client, "a", ID), 2);
}
