//! Clients that send nothing more and still read: `shutdown(SHUT_WR)` behind a request, as `nc`
//! does at the end of its input.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use serde_json::json;

use super::support::{
    Answer, Client, Raw, Server, connect, connect_narrow, post, read_to_end, upgrade_head,
};

/// Sends that, and nothing more.
fn say_all(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut socket = connect(server.port);
    socket.write_all(bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    socket
}

#[test]
fn what_was_asked_is_answered_though_nothing_more_can_be() {
    // Its ack waits for the disk.
    let server = Server::start(&[]);
    for n in 1..=100 {
        let mut socket = say_all(&server, post("a", "{\"payload\":1}").as_bytes());
        let answer = Answer::read(&mut socket);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["offset"], n);
        assert!(answer.is_last(), "{answer:?}");
    }
    for path in [
        "/api/rooms",
        "/api/rooms/a/messages",
        "/api/rooms/a/members",
        "/health",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut socket = say_all(&server, head.as_bytes());
        assert_eq!(Answer::read(&mut socket).status, 200, "{path}");
        assert_eq!(read_to_end(&mut socket), b"", "{path}");
    }
    server.await_metric("connections", 1);
}

#[test]
fn all_that_was_asked_at_once_is_answered_in_order() {
    let server = Server::start(&[]);
    let requests = post("a", "{\"payload\":1}").repeat(20);
    let mut socket = say_all(&server, requests.as_bytes());
    for n in 1..=20 {
        let answer = Answer::read(&mut socket);
        assert_eq!((answer.status, &answer.json()["offset"]), (200, &json!(n)));
        assert_eq!(answer.is_last(), n == 20, "{answer:?}");
    }
    // What is unfinished is nothing that was asked.
    let unfinished = &post("a", "{\"payload\":1}")[..60];
    let requests = format!("{}{unfinished}", post("a", "{\"payload\":1}"));
    let answers = read_to_end(&mut say_all(&server, requests.as_bytes()));
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
    server.await_metric("connections", 1);
}

/// An answer that the socket does not take at once still arrives whole.
#[test]
fn a_long_answer_arrives_whole() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    client.publish_all("a", 0..40, |n| json!({"n": n, "x": "y".repeat(20_000)}));
    for _ in 0..10 {
        let mut socket = connect_narrow(server.port);
        let head = "GET /api/rooms/a/messages?limit=40 HTTP/1.1\r\nHost: a\r\n\r\n";
        socket.write_all(head.as_bytes()).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let answer = Answer::read(&mut socket);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["messages"].as_array().unwrap().len(), 40);
    }
    server.await_metric("connections", 2);
}

/// Who has asked for nothing that ends is gone when it says that it is.
#[test]
fn who_waits_for_nothing_is_gone() {
    let server = Server::start(&["--handshake-timeout", "60s"]);
    let request = post("a", "{\"payload\":1}");
    let events = "GET /api/rooms/a/events HTTP/1.1\r\nHost: a\r\n\r\n";
    let unfinished = [&request[..20], &request[..request.len() - 1], ""];
    for bytes in unfinished {
        assert_eq!(
            read_to_end(&mut say_all(&server, bytes.as_bytes())),
            b"",
            "{bytes}"
        );
    }
    let mut stream = connect(server.port);
    stream.write_all(events.as_bytes()).unwrap();
    assert_eq!(Answer::read_head(&mut stream).status, 200);
    let socket = Raw::open(&server, "/ws").socket;
    let echo_less = say_all(&server, upgrade_head("/nothing").as_bytes());
    server.await_metric("members", 1);
    for socket in [&stream, &socket] {
        socket.shutdown(Shutdown::Write).unwrap();
    }
    server.await_metric("members", 0);
    server.await_metric("connections", 1);
    drop((stream, socket, echo_less));
    // A stream, or a WebSocket, that is asked for by who is gone begins and ends.
    for head in [events.to_owned(), upgrade_head("/ws")] {
        for _ in 0..20 {
            read_to_end(&mut say_all(&server, head.as_bytes()));
        }
    }
    server.await_metric("connections", 1);
    server.await_metric("members", 0);
    assert_eq!(server.metric("panics_total"), 0);
}
