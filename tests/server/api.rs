//! The HTTP API as programs use it: publish, who is there, one connection for many requests, pages
//! of other hosts. Stock curl too.

use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use super::support::{Answer, Client, Server, all, connect, eventually, post, read_to_end, skip};

const ID: &str = "018bcfe5-6800-7000-8000-000000000001";

#[test]
fn what_is_posted_is_stored_delivered_and_answered() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let epoch = client.join("a b")["epoch"].clone();
    let body = json!({
        "payload": {"n": 1}, "metadata": [2], "user_id": "u-1", "username": "Ann", "id": ID,
    });
    // The same again is no second message.
    for _ in 0..2 {
        let answer = server.post("a%20b", &body.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.json(),
            json!({"id": ID, "offset": 1, "epoch": epoch})
        );
        assert!(answer.head.contains("content-type: application/json"));
    }
    let answer = server.post("a%20b", "{\"payload\":null}").json();
    assert_eq!(answer["offset"], 2);
    let messages = client.messages("a b", 1, 2);
    for (name, value) in body.as_object().unwrap() {
        assert_eq!(&messages[0][name], value, "{name}");
    }
    assert_eq!(messages[1]["id"], answer["id"]);
    assert_eq!(messages[1]["payload"], Value::Null);
    assert!(messages[1]["user_id"].is_string());
    let history = server.get("/api/rooms/a%20b/messages").json();
    assert_eq!(history["messages"], json!(messages));
    server.await_metric("messages_accepted_total", 3);
    assert!(client.settle().is_empty(), "each once");
}

#[test]
fn what_cannot_be_posted_is_refused_by_a_code() {
    let server = Server::start(&["--max-message-bytes", "2KiB"]);
    let large = json!({"payload": "x".repeat(3_000)}).to_string();
    let head = "Host: a\r\nTransfer-Encoding: chunked";
    let chunked =
        |body: &str| format!("POST /api/rooms/a/messages HTTP/1.1\r\n{head}\r\n\r\n{body}");
    let passed_on = post("a", "{\"payload\":1}").replace("Host: a", "Host: a\r\nVia: 1.1 p");
    let foreign = post("a", "{\"payload\":1}").replace("Host: a", "Host: a\r\nOrigin: http://b");
    for (request, status, code, is_last) in [
        (post("a", ""), 400, "bad_json", false),
        (post("a", "payload=1"), 400, "bad_json", false),
        (
            post("a", "{\"payload\":\"\\u0000\"}"),
            400,
            "bad_json",
            false,
        ),
        (post("a", "{}"), 400, "bad_frame", false),
        (
            post("a", "{\"payload\":1,\"id\":\"1\"}"),
            400,
            "bad_frame",
            false,
        ),
        (post("a", &large), 413, "too_large", true),
        (post("%00", "{\"payload\":1}"), 400, "bad_room", true),
        (post("", "{\"payload\":1}"), 400, "bad_room", true),
        (
            post("a", "{}").replace("POST", "PUT"),
            405,
            "bad_request",
            true,
        ),
        (post("a/b", "{}"), 404, "not_found", true),
        (passed_on, 403, "forbidden", true),
        (foreign, 403, "forbidden", true),
        (chunked("zz\r\n"), 400, "bad_request", true),
        (
            chunked("2;x=y\r\n{}\r\n0\r\n\r\n"),
            400,
            "bad_request",
            true,
        ),
        (chunked("fff\r\n"), 413, "too_large", true),
    ] {
        let answer = server.http(request.as_bytes());
        assert_eq!(answer.status, status, "{request:?}: {answer:?}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], code, "{request:?}");
        assert!(error["message"].as_str().is_some_and(|why| !why.is_empty()));
        assert_eq!(answer.is_last(), is_last, "{request:?}");
    }
    assert_eq!(server.metric("messages_accepted_total"), 0);
    assert_eq!(server.metric("panics_total"), 0);
}

#[test]
fn who_is_there() {
    let server = Server::start(&[]);
    let empty = json!({"count": 0, "members": []});
    assert_eq!(server.get("/api/rooms/a/members").json(), empty);
    let mut clients = [0, 1].map(|shard| Client::on_shard(&server, shard));
    for (client, name) in clients.iter_mut().zip(["ann", "b\"b"]) {
        client.ask(json!({"type":"join","room":"a","username":name}));
    }
    let answer = server.get("/api/rooms/a/members").json();
    assert_eq!(answer["count"], 2);
    let mut members = answer["members"].as_array().unwrap().clone();
    members.sort_by_key(|member| member["username"].to_string());
    for ((client, member), name) in clients.iter().zip(&members).zip(["ann", "b\"b"]) {
        let wanted = json!({"user_id": client.id, "username": name, "connections": 1});
        assert_eq!(*member, wanted);
    }
    let personal = server.get(&format!("/api/rooms/@{}/members", clients[0].id));
    assert_eq!(
        (personal.status, server.get("/api/rooms/a/b/members").status),
        (403, 404)
    );
}

/// Many requests on one connection, sent at once in whatever pieces: as many answers, in order.
#[test]
fn one_connection_for_many_requests() {
    let server = Server::start(&[]);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let chunked = "POST /api/rooms/a/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\
                   \r\n\r\n8\r\n{\"payloa\r\n5\r\nd\":1}\r\n0\r\n\r\n";
    let mut requests = Vec::new();
    let rounds = if all() { 1_000 } else { 100 };
    for n in 0..rounds {
        requests.extend([
            (get("/health"), 200),
            (post("a", &format!("{{\"payload\":{n}}}")), 200),
            (chunked.to_owned(), 200),
            (get("/nothing"), 404),
            (get("/health").replace("GET", "HEAD"), 200),
            (post("a", "{}"), 400),
            (get("/api/rooms/a/messages?limit=1"), 200),
            (get("/health").replace("GET", "DELETE"), 405),
            (get("/api/rooms"), 200),
            (get("/api/rooms/a/members"), 200),
            (get("/ready").replace("GET", "OPTIONS"), 204),
        ]);
    }
    let all: Vec<u8> = requests
        .iter()
        .flat_map(|(request, _)| request.bytes())
        .collect();
    for piece in [all.len(), 977, 61] {
        let mut socket = connect(server.port);
        let mut writing = socket.try_clone().unwrap();
        let all = all.clone();
        // The server reads on only as it answers.
        let writer = std::thread::spawn(move || {
            all.chunks(piece)
                .for_each(|piece| writing.write_all(piece).unwrap());
        });
        let mut offset = None;
        for (request, status) in &requests {
            let answer = match request.starts_with("HEAD") {
                true => Answer::read_head(&mut socket),
                false => Answer::read(&mut socket),
            };
            assert_eq!(answer.status, *status, "{request:?}: {answer:?}");
            assert!(!answer.is_last());
            if *status == 200 && request.starts_with("POST") {
                let now = answer.json()["offset"].as_u64();
                assert!(now.is_some() && offset.is_none_or(|before| now == Some(before + 1)));
                offset = now;
            }
        }
        writer.join().unwrap();
    }
    server.await_metric("messages_stored_total", 3 * 2 * rounds);
}

#[test]
fn a_connection_ends_where_it_is_said_to() {
    let server = Server::start(&[]);
    let get = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    for first in [
        get.replace("Host", "Connection: keep-alive, Close\r\nHost"),
        get.replace("HTTP/1.1", "HTTP/1.0"),
        // What it does not read to its end it can't go on behind.
        get.replace("Host", &format!("Content-Length: {}\r\nHost", get.len())),
        post("%00", get),
        "GET /health HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n".into(),
        get.replace("/health", "/ws"),
    ] {
        let mut socket = connect(server.port);
        socket
            .write_all(format!("{first}{get}").as_bytes())
            .unwrap();
        let answers = String::from_utf8(read_to_end(&mut socket)).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{first:?}");
        assert!(
            answers.contains("Connection: close"),
            "{first:?}: {answers}"
        );
    }
}

/// A program that does not send a body before it is told that it may.
#[test]
fn a_body_is_waited_for() {
    let server = Server::start(&[]);
    let request = post("a", "{\"payload\":1}").replace("Host", "Expect: 100-continue\r\nHost");
    let (head, body) = request.split_at(request.len() - 13);
    let mut socket = connect(server.port);
    socket.write_all(head.as_bytes()).unwrap();
    assert_eq!(Answer::read_head(&mut socket).status, 100);
    socket.write_all(body.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut socket).json()["offset"], 1);
    // Who may not publish need not send it.
    let head = head.replace("/a/", "/%00/");
    socket.write_all(head.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut socket).status, 400);
}

/// What may be done is said, and to whose pages an answer may be shown.
#[test]
fn pages_of_other_hosts() {
    let flags = ["--allowed-origins", "https://good.example"];
    let preflight = "Access-Control-Request-Method: POST\r\n";
    for (flags, origin, shown_to) in [
        (
            &flags[..],
            "https://good.example",
            Some("https://good.example"),
        ),
        (&flags, "https://good.example.evil.test", None),
        (&flags, "null", None),
        (&[], "https://good.example", None),
        (&["--allowed-origins", "*"], "https://evil.test", Some("*")),
    ] {
        let server = Server::start(flags);
        let ask = |method: &str, path: &str, more: &str| {
            let head =
                format!("{method} {path} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n{more}\r\n");
            let answer = server.http(head.as_bytes());
            let header = answer.header("access-control-allow-origin");
            assert_eq!(header.as_deref(), shown_to, "{origin} {path}: {answer:?}");
            let varies = answer.header("vary").is_some_and(|vary| vary == "origin");
            assert_eq!(varies, flags.len() == 2 && flags[1] != "*");
            answer
        };
        let answer = ask("OPTIONS", "/api/rooms/a/messages", preflight);
        assert_eq!(answer.status, 204);
        let methods = answer.header("access-control-allow-methods").unwrap();
        assert_eq!(methods, "get, post, head, options");
        assert!(
            answer
                .header("access-control-allow-headers")
                .unwrap()
                .contains("authorization")
        );
        for path in [
            "/api/rooms",
            "/api/rooms/a/members",
            "/ringcast.js",
            "/nothing",
        ] {
            ask("GET", path, "");
        }
        let body = "Content-Length: 13\r\n\r\n{\"payload\":1}";
        let posted = ask("POST", "/api/rooms/a/messages", body);
        assert_eq!(posted.status == 200, shown_to.is_some(), "{posted:?}");
    }
}

#[test]
fn head_says_what_get_would() {
    let server = Server::start(&[]);
    server.post("a", "{\"payload\":1}");
    for path in [
        "/",
        "/health",
        "/ready",
        "/ringcast.js",
        "/api/rooms",
        "/api/rooms/a/messages",
        "/no",
    ] {
        let got = server.get(path);
        let mut socket = connect(server.port);
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let answer = Answer::read(&mut socket);
        assert_eq!(
            (answer.head, answer.body),
            (got.head, String::new()),
            "{path}"
        );
    }
}

/// Requests that are under way when the instance drains are answered; connections that wait for
/// the next one do not hold it up.
#[test]
fn a_drain_does_not_wait_for_idle_connections() {
    let server = Server::start(&[]);
    let mut sockets: Vec<_> = (0..10).map(|_| connect(server.port)).collect();
    for socket in &mut sockets {
        socket
            .write_all(post("a", "{\"payload\":1}").as_bytes())
            .unwrap();
        assert_eq!(Answer::read(socket).status, 200);
    }
    server.stop();
    for socket in &mut sockets {
        assert_eq!(read_to_end(socket), b"");
    }
}

/// What curl prints.
fn curl(args: &[&str]) -> Option<String> {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20"])
        .args(args)
        .output();
    let output = output.ok()?;
    assert!(output.status.success(), "{args:?}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Stock curl: publish in each of the ways it has, several requests on one connection.
#[test]
fn curl_publishes_and_reads() {
    let server = Server::start(&["--max-message-bytes", "4MiB"]);
    let url = format!("http://127.0.0.1:{}/api/rooms/lobby/messages", server.port);
    let Some(first) = curl(&["-d", "{\"payload\":\"hello\"}", &url]) else {
        return skip("this needs curl");
    };
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["offset"], 1);
    // A body of a size for which curl waits for 100, and one whose size it does not know.
    let large = server.dir.path().join("large.json");
    let body = json!({"payload": "x".repeat(2 << 20)}).to_string();
    std::fs::write(&large, body).unwrap();
    let from = format!("@{}", large.display());
    let sent = curl(&["--data-binary", &from, &url]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&sent).unwrap()["offset"], 2);
    let chunked = ["-H", "Transfer-Encoding: chunked", "-d", "{\"payload\":3}"];
    let sent = curl(&[&chunked[..], &[&url]].concat()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&sent).unwrap()["offset"], 3);
    let read = format!("{url}?after=2");
    let connects = "%{num_connects}";
    let twice = curl(&["-w", connects, &read, &read]).unwrap();
    assert_eq!(twice.matches("\"offset\":3").count(), 2, "{twice}");
    assert!(
        twice.ends_with('0'),
        "the second request needs no connection: {twice}"
    );
    let head = curl(&["-I", &read]).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let kicked = format!(
        "http://127.0.0.1:{}/api/users/nobody/connections",
        server.port
    );
    assert_eq!(
        curl(&["-X", "DELETE", &kicked]).unwrap(),
        "{\"user_id\":\"nobody\"}"
    );
}

/// A connection that is idle between two requests is closed in the end, and one that sends half of
/// the next one sooner.
#[test]
fn who_does_not_go_on_is_closed() {
    if !all() {
        return;
    }
    let server = Server::start(&["--handshake-timeout", "1s"]);
    let mut idle = connect(server.port);
    let mut half = connect(server.port);
    for socket in [&mut idle, &mut half] {
        socket
            .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert_eq!(Answer::read(socket).status, 200);
    }
    half.write_all(b"GET /he").unwrap();
    assert_eq!(read_to_end(&mut half), b"");
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(Answer::read(&mut idle).status, 200, "it was not too long");
    assert_eq!(read_to_end(&mut idle), b"");
    eventually("both to be gone", || {
        (server.metric("connections") == 1).then_some(())
    });
}
