//! Heads, good and bad; pages; who may come from where.

use std::io::Write;

use super::support::{Answer, Client, Server, connect, upgrade_head};

#[test]
fn bad_heads_get_their_status_and_the_connection_ends() {
    let server = Server::start(&[]);
    let get = |fields: &str| format!("GET /health HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let upgrade = |from: &str, to: &str| {
        let head = upgrade_head("/ws");
        assert!(head.contains(from));
        head.replace(from, to)
    };
    let long = "x".repeat(20_000);
    let many = "X: y\r\n".repeat(120);
    let cases: Vec<(String, u16)> = vec![
        (get(&format!("X: {long}\r\n")), 431),
        (get(&format!("{long}: x\r\n")), 431),
        (get(&many), 431),
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", &long[..9_000]),
            414,
        ),
        (format!("{} / HTTP/1.1\r\n\r\n", &long[..64]), 400),
        ("GET /health HTTP/1.1\r\n\r\n".into(), 400),
        (get("Host: b\r\n"), 400),
        (get("X: a\r\n b\r\n"), 400),
        (get("X: a\0\r\n"), 400),
        (get("X: a\rb\r\n"), 400),
        (get("X : a\r\n"), 400),
        (get("X\r\n"), 400),
        ("GET /health HTTP/1.1\nHost: a\n\n".into(), 400),
        ("GET /health\r\n\r\n".into(), 400),
        ("GET  /health HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        (
            "GET http://b/health HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            400,
        ),
        ("*1\r\n$4\r\nPING\r\n".into(), 400),
        ("EHLO a\r\n".into(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}".into(), 400),
        (
            get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        (get("Content-Length: 0\r\nContent-Length: 0\r\n"), 400),
        (get("Content-Length: -1\r\n"), 400),
        (get("Transfer-Encoding: gzip\r\n"), 501),
        (get("Content-Length: 1\r\n"), 413),
        (get("").replace("GET", "POST"), 405),
        (get("").replace("/health", "/nothing"), 404),
        (get("").replace("/health", "/../etc/passwd"), 404),
        (get("").replace("/health", "/ws"), 426),
        (upgrade("Version: 13", "Version: 12"), 426),
        (upgrade("websocket", "h2c"), 426),
        (upgrade("Connection: Upgrade", "Connection: close"), 426),
        (
            upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            400,
        ),
        (upgrade("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        (upgrade("GET", "POST"), 400),
        (upgrade("HTTP/1.1", "HTTP/1.0"), 400),
        (upgrade("Host: a", "Host: a\r\nContent-Length: 3"), 400),
        (
            upgrade(
                "\r\n\r\n",
                "\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
            400,
        ),
        (upgrade("/ws", "/ws?room=%00"), 400),
        (upgrade("/ws", "/ws?room="), 400),
        (upgrade("/ws", "/ws?username=%07"), 400),
    ];
    for (head, status) in &cases {
        let answer = server.http(head.as_bytes());
        let shown = &head[..head.len().min(80)];
        assert_eq!(answer.status, *status, "{shown:?}: {answer:?}");
        // What was read to its end is no reason to end the connection.
        assert_eq!(answer.is_last(), !matches!(status, 404 | 405), "{shown:?}");
        if !answer.body.is_empty() {
            let error = &answer.json()["error"];
            assert!(error["code"].is_string() && error["message"].is_string());
        }
        match status {
            426 => assert!(answer.head.contains("sec-websocket-version: 13")),
            405 => assert!(answer.head.contains("allow: get")),
            _ => {}
        }
        assert!(!answer.body.contains("HTTP/1.1 "), "one answer only");
    }
    server.await_metric("connections", 1);
    assert_eq!(server.metric("panics_total"), 0);
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let server = Server::start(&[]);
    let mut socket = connect(server.port);
    for byte in b"GET /health HTTP/1.1\r\nHost: a\r\nX:  y \r\n\r\n" {
        socket.write_all(&[*byte]).unwrap();
    }
    assert_eq!(Answer::read(&mut socket).json()["status"], "ok");
}

/// Who has a file asks whether it is still good, and gets it only if it is not.
fn is_revalidated(server: &Server, path: &str, answer: &Answer) {
    assert!(answer.head.contains("cache-control: no-cache"));
    let etag = answer
        .head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "));
    for (known, status) in [(etag.unwrap(), 304), ("\"other\"", 200)] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nIf-None-Match: {known}\r\n\r\n");
        let again = server.http(head.as_bytes());
        assert_eq!(again.status, status, "{path} {known}");
        assert!(again.head.contains("content-security-policy: "));
        assert_eq!(again.head.contains("content-length"), status == 200);
        assert_eq!(again.body.is_empty(), status == 304, "{path} {known}");
    }
}

#[test]
fn pages() {
    let server = Server::start(&[]);
    for (path, kind, word) in [
        ("/", "text/html", "<title>"),
        ("/?room=a", "text/html", "<title>"),
        ("/page.js", "text/javascript", "Ringcast"),
        ("/page-rooms.js", "text/javascript", "Conversation"),
        ("/page-token.js", "text/javascript", "showToken"),
        ("/page-view.js", "text/javascript", "textContent"),
        ("/ringcast.js", "text/javascript", "WebSocket"),
        ("/page.css", "text/css", "{"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains(&format!("content-type: {kind}")));
        let policy = "content-security-policy: default-src 'none'; script-src 'self';";
        assert!(answer.head.contains(policy), "{path}: {}", answer.head);
        assert!(answer.head.contains("x-content-type-options: nosniff"));
        assert!(answer.body.contains(word), "{path}");
        let length = format!("content-length: {}", answer.body.len());
        assert!(answer.head.contains(&length), "{path}: {}", answer.head);
        is_revalidated(&server, path, &answer);
    }
    assert_eq!(server.get("/ready").status, 200);
    let health = server.get("/health");
    assert!(health.head.contains("content-type: application/json"));
    let health = health.json();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["instance_id"], "test");
    assert_eq!(health["redis"], "off");
    assert_eq!(health["shards"], 2);
    assert!(health["connections"].is_u64() && health["driver"].is_string());
}

#[test]
fn origins() {
    let host = "chat.example:8080";
    for (flags, origin, is_good) in [
        (&[][..], "", true),
        (&[], "http://chat.example:8080", true),
        (&[], "http://CHAT.example:8080", true),
        (&[], "http://chat.example", false),
        (&[], "http://chat.example:8081", false),
        (&[], "http://evil.example", false),
        (&[], "http://chat.example:8080.evil.example", false),
        (&[], "http://chat.example:8080@evil.example", false),
        (&[], "null", false),
        (&[], "", true),
        (&["--allowed-origins", "https://good.example"], "", true),
        (
            &["--allowed-origins", "https://good.example"],
            "https://good.example",
            true,
        ),
        (
            &["--allowed-origins", "https://good.example"],
            "https://good.example.evil.test",
            false,
        ),
        (
            &["--allowed-origins", "https://good.example"],
            "http://good.example",
            false,
        ),
        (
            &["--allowed-origins", "https://good.example"],
            "http://chat.example:8080",
            false,
        ),
        (
            &["--allowed-origins", "https://good.example"],
            "null",
            false,
        ),
        (&["--allowed-origins", "*"], "http://evil.example", true),
        (&["--allowed-origins", "*"], "null", true),
    ]
    .iter()
    {
        let server = Server::start(flags);
        let mut head = upgrade_head("/ws").replace("Host: a", &format!("Host: {host}"));
        if !origin.is_empty() {
            head = head.replace("Upgrade: w", &format!("Origin: {origin}\r\nUpgrade: w"));
        }
        let mut socket = connect(server.port);
        socket.write_all(head.as_bytes()).unwrap();
        if *is_good {
            let mut start = [0; 12];
            std::io::Read::read_exact(&mut socket, &mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 101", "{flags:?} {origin}");
        } else {
            let answer = Answer::read(&mut socket);
            assert_eq!(answer.status, 403, "{flags:?} {origin}");
            assert!(!answer.head.contains("access-control"));
        }
    }
}

/// What was counted is what was done.
#[test]
fn metrics_match_what_was_done() {
    let server = Server::start(&[]);
    let mut clients: Vec<_> = (0..4).map(|n| Client::on_shard(&server, n % 2)).collect();
    for client in &mut clients {
        client.join("a");
        client.join("b");
    }
    clients[0].publish_all("a", 0..30, |n| serde_json::json!(n));
    clients[3].publish_all("b", 0..12, |n| serde_json::json!(n));
    for client in &mut clients {
        client.messages("a", 1, 30);
        client.messages("b", 1, 12);
    }
    for (name, value) in [
        ("members", 8),
        ("rooms", 2),
        ("messages_accepted_total", 42),
        ("messages_stored_total", 42),
        ("messages_delivered_total", 168),
        ("messages_replayed_total", 0),
        ("gaps_told_total", 0),
        ("connections", 5),
    ] {
        server.await_metric(name, value);
    }
    let commits = server.metric("store_commits_total");
    assert!((1..=42).contains(&commits), "{commits}");
    assert!(server.metric("room_log_bytes") > 0);
    clients[1].ask_error(serde_json::json!({"type":"leave","room":"c"}));
    server.await_metric("errors_total{\"not_joined\"", 1);
    for client in clients {
        assert_eq!(client.close(), 1000);
    }
    server.await_metric("members", 0);
    server.await_metric("closes_total{\"1000\"", 4);
    server.await_metric("connections", 1);
}

#[test]
fn a_users_connections_are_closed_on_demand_of_this_machine() {
    let server = Server::start(&["--shards", "2"]);
    let mut users = [0, 1].map(|shard| Client::on_shard(&server, shard));
    let ids = users.each_ref().map(|user| user.id.clone());
    let kick = |method: &str, id: &str, fields: &str| {
        let path = format!("/api/users/{id}/connections");
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        server.http(head.as_bytes()).status
    };
    assert_eq!(kick("GET", &ids[0], ""), 405);
    assert_eq!(
        kick("DELETE", &ids[0], "X-Forwarded-For: 10.0.0.1\r\n"),
        403
    );
    assert_eq!(kick("DELETE", "%00", ""), 400);
    assert_eq!(kick("DELETE", "nobody", ""), 200);
    for (user, id) in users.iter_mut().zip(ids) {
        user.join("still here");
        assert_eq!(kick("DELETE", &id, ""), 200);
        assert_eq!(user.closed(), 4003);
    }
}
