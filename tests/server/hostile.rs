//! What is no request, or pretends to be two: each on a connection of its own, many times, while
//! others talk. Nobody gets a WebSocket by it, nobody else notices, and nothing stays behind.

use std::io::Write;
use std::net::TcpStream;

use super::support::{
    Answer, Server, all, connect, eventually, read_to_end, talking, upgrade_head,
};

/// How often each is sent.
fn repeats() -> usize {
    if all() { 1_000 } else { 10 }
}

/// Sends each of `requests` over and over while others talk: each is answered by one of `statuses`
/// (0: by nothing) and its connection closed.
fn refused(server: &Server, requests: &[Vec<u8>], statuses: &[u16]) {
    let files = server.files_at_rest();
    talking(server, "rest", 100, || {
        for _ in 0..repeats() {
            for request in requests {
                let mut socket = connect(server.port);
                // It may have closed before all was sent.
                let _ = socket.write_all(request);
                let shown =
                    String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
                is_refused(&mut socket, statuses, &shown);
            }
        }
    });
    eventually("all descriptors to be closed", || {
        (server.files_at_rest() <= files).then_some(())
    });
    assert_eq!(server.metric("panics_total"), 0);
}

fn is_refused(socket: &mut TcpStream, statuses: &[u16], shown: &str) {
    let bytes = read_to_end(socket);
    let text = String::from_utf8_lossy(&bytes);
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    // An answer may be lost where the peer was still sending: then the end of both is a reset.
    assert!(
        text.is_empty() || statuses.contains(&status.unwrap_or(1)),
        "{shown:?}: {text}"
    );
    assert!(
        text.matches("HTTP/1.1 ").count() <= 1,
        "{shown:?}: one answer: {text}"
    );
    assert!(!text.contains("HTTP/1.1 101"), "{shown:?}");
}

fn bytes(texts: &[String]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.clone().into_bytes()).collect()
}

fn get(fields: &str) -> String {
    format!("GET /health HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// FAULTS B11: heads that are too long in every way, or have bytes that no head has, are refused at
/// once with 400, 414 or 431 and closed; what they take is bounded.
#[test]
fn heads_that_are_too_long_or_malformed() {
    let server = Server::start(&[]);
    let many = |line: &str, times: usize| get(&line.repeat(times));
    let requests = [
        many(
            "X: 0123456789012345678901234567890123456789012345678901234567890\r\n",
            1 << 14,
        ),
        format!("GET /health HTTP/1.1\r\nX: {}", "x".repeat(1 << 20)),
        many("A:b\r\n", 10_000),
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1 << 16)),
        format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1 << 16)),
        get("X: a\0b\r\n"),
        get("X: a\rb\r\n"),
        get("X: a\nY: b\r\n"),
        get("X: a\r\n b\r\n"),
        get("X: a\r\n\tb\r\n"),
        get("").replace("\r\n", "\n"),
        get("").replace("/health", "/he\0alth"),
        get("").replace("/health", "/he\ralth"),
    ];
    refused(&server, &bytes(&requests), &[400, 414, 431]);

    // Two hundred at once, each stuck as far as it gets.
    let before = server.memory_kib();
    let stuck: Vec<_> = (0..200)
        .map(|_| {
            let mut socket = connect(server.port);
            let head = format!(
                "GET /health HTTP/1.1\r\nHost: a\r\nX: {}",
                "x".repeat(15_000)
            );
            socket.write_all(head.as_bytes()).unwrap();
            socket
        })
        .collect();
    server.await_metric("connections", 201);
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 64 * stuck.len() as u64, "{grown} KiB");
}

/// FAULTS B12: requests that two parsers in a row may read as two, or that are for a proxy or in
/// another version: never 101, 400 (or 501, 413) and closed, and what is glued behind one is never
/// answered.
#[test]
fn requests_that_smuggle_another() {
    let server = Server::start(&[]);
    let second = get("");
    let upgrade = upgrade_head("/ws");
    let in_upgrade = |line: &str| upgrade.replace("Host: a\r\n", &format!("Host: a\r\n{line}\r\n"));
    let posting = |fields: &str, body: &str| {
        format!("POST /api/rooms/a/messages HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
    };
    let lines = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 40",
        "Content-Length: 4, 4",
        "Content-Length: +4",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Content-Length : 4",
        " Content-Length: 4",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding\0: chunked",
        "X: a\nTransfer-Encoding: chunked",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "Host: b",
        "Host: a",
    ];
    let mut requests = Vec::new();
    for line in lines {
        requests.push(posting(line, &format!("0\r\n\r\n{second}")));
        requests.push(in_upgrade(line) + &second);
    }
    requests.extend([
        // A body where none is, and what is sent before the answer.
        in_upgrade("Content-Length: 4") + "abcd",
        in_upgrade("Transfer-Encoding: chunked") + "0\r\n\r\n",
        upgrade.clone() + &second,
        upgrade.clone() + "\u{1}",
        posting("Transfer-Encoding: chunked", &format!("0\n\n{second}")),
        posting(
            "Transfer-Encoding: chunked",
            &format!("1;\nx\r\n0\r\n\r\n{second}"),
        ),
        posting("Transfer-Encoding: chunked", &format!("-1\r\n{second}")),
        posting(
            "Transfer-Encoding: chunked",
            &format!("0\r\nX: y\r\n\r\n{second}"),
        ),
        upgrade.replace("HTTP/1.1", "HTTP/1.0"),
        upgrade.replace("HTTP/1.1", "HTTP/2.0"),
        upgrade.replace("HTTP/1.1", "HTTP/0.9"),
        upgrade.replace("Host: a\r\n", ""),
        upgrade.replace("GET /ws", "GET http://a/ws"),
        upgrade.replace("GET /ws", "GET //a/ws").replace("//a", "*"),
        upgrade.replace("GET /ws", "CONNECT a:80"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned() + &second,
        second.replace("/health", "http://a/health"),
        "GET /health\r\n".to_owned() + &second,
    ]);
    refused(&server, &bytes(&requests), &[400, 413, 501]);
    assert_eq!(
        server.get("/api/rooms/a/messages").json()["messages"],
        serde_json::json!([])
    );
}

/// FAULTS B13: upgrades that are none: 426 with the version that is spoken, or 400; never 101.
#[test]
fn upgrades_that_are_none() {
    let server = Server::start(&[]);
    let upgrade = upgrade_head("/ws");
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let with = |from: &str, to: &str| {
        assert!(upgrade.contains(from));
        upgrade.replace(from, to)
    };
    let key_line = format!("Sec-WebSocket-Key: {key}\r\n");
    let requests = [
        with("Version: 13", "Version: 12"),
        with("Version: 13", "Version: 8, 13"),
        with("Version: 13", "Version:"),
        with("Sec-WebSocket-Version: 13\r\n", ""),
        with("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13"),
        with(&key_line, ""),
        with(&key_line, &format!("{key_line}{key_line}")),
        with(key, ""),
        with(key, "c2hvcnQ="),
        with(key, "dGhlIHNhbXBsZSBub25jZSBpcyBsb25n"),
        with(key, "dGhlIHNhbXBsZSBub25jZQ"),
        with(key, "????????????????????????"),
        with("Upgrade: websocket", "Upgrade: h2c"),
        with("Upgrade: websocket\r\n", ""),
        with("Connection: Upgrade", "Connection: keep-alive"),
        with("GET", "POST"),
        with("GET", "OPTIONS"),
        with("GET", "HEAD"),
        with("GET", "PUT").replace("Host: a", "Host: a\r\nContent-Length: 0"),
    ];
    for request in &requests {
        let answer = server.http(request.as_bytes());
        let version = answer.header("sec-websocket-version");
        assert_eq!(
            answer.status == 426,
            version.is_some_and(|version| version == "13")
        );
        assert!(
            answer.is_last() && answer.status != 0,
            "{request:?}: {answer:?}"
        );
    }
    refused(&server, &bytes(&requests), &[400, 426]);
    let mut socket = connect(server.port);
    socket.write_all(upgrade.as_bytes()).unwrap();
    assert_eq!(
        Answer::read_head(&mut socket).status,
        101,
        "what they were made of is good"
    );
}

/// FAULTS B19: other protocols on the port, and noise: closed at once, or within the deadline where
/// it might still become a request, and nothing of it in the log but escaped.
#[test]
fn other_protocols_and_noise() {
    let server = Server::start(&["--handshake-timeout", "1s"]);
    let mut noise = fastrand::Rng::with_seed(19);
    let mut requests = vec![
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        b"PING\r\n".to_vec(),
        b"EHLO mail.example\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f".to_vec(),
        b"\x1b[31mGET \x07\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
    ];
    for _ in 0..8 {
        requests.push((0..4096).map(|_| noise.u8(..)).collect());
    }
    refused(&server, &requests, &[400]);
    for line in server.log().lines() {
        assert!(
            line.len() < 500 && !line.contains('\x1b') && !line.contains('\0'),
            "{line:?}"
        );
    }
}
