//! Rate limits: of a connection, of an address over all shards, and the connections of an address.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{
    Answer, Client, PATIENCE, Raw, Server, all, connect_from, eventually, frame, talking_each,
    upgrade_head,
};

/// The limits as they are when nobody sets them.
const DEFAULTS: [&str; 6] = [
    "--rate-limit",
    "1000",
    "--rate-limit-bytes",
    "1MiB",
    "--rate-limit-address",
    "10000",
];

/// Behind each message of one who keeps to its rate.
const PAUSE: Duration = Duration::from_millis(5);

fn ping(n: u64) -> Value {
    json!({"type":"ping","ref":n})
}

#[test]
fn what_is_over_the_rate_is_refused_by_its_ref() {
    let server = Server::start(&["--rate-limit", "10"]);
    let mut client = Client::new(&server);
    let publish = |n: u64| json!({"type":"publish","room":"a","payload":n,"ref":n});
    for n in 1..=30 {
        client.send(&publish(n));
    }
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        let answer = client.recv();
        match answer["type"].as_str().unwrap() {
            "ack" => acked.push(answer["ref"].as_u64().unwrap()),
            _ => {
                assert_eq!(answer["code"], "rate_limited", "{answer}");
                let message = answer["message"].as_str().unwrap();
                assert!(
                    message.starts_with("at most 10 messages a second"),
                    "{message}"
                );
                refused.push(answer["ref"].as_u64().unwrap());
            }
        }
    }
    // A burst is twice the rate; while they were sent a tenth of a second may have passed.
    assert!(acked.len() >= 20 && acked.len() <= 25, "{acked:?}");
    assert_eq!(acked[..20], (1..=20).collect::<Vec<_>>());
    let count = refused.len() as u64;
    server.await_metric("rate_limited_total{\"messages\"", count);
    server.await_metric("errors_total{\"rate_limited\"", count);
    // What was refused is not there, and what comes later is taken.
    eventually("the next message to be taken", || {
        (client.ask(ping(0))["type"] == "pong").then_some(())
    });
    let stored = Client::new(&server).join("a");
    assert_eq!(stored["offset"], acked.len() as u64, "{stored}");
    assert_eq!(server.metric("rate_limited_closes_total"), 0);
}

/// Whatever it is that is sent.
#[test]
fn what_can_not_be_read_counts_too() {
    let bad: [&[u8]; 5] = [
        &frame(0x81, b""),
        &frame(0x81, b"{"),
        &frame(0x81, br#"{"type":"nonsense"}"#),
        &frame(0x81, br#"{"type":"publish"}"#),
        &frame(0x81, br#"{"type":"leave","room":"never joined"}"#),
    ];
    for bad in bad {
        let server = Server::start(&["--rate-limit", "10"]);
        let mut raw = Raw::open(&server, "/ws");
        raw.frame().unwrap();
        raw.send(&bad.repeat(30));
        let mut codes = Vec::new();
        for _ in 0..30 {
            let (_, text) = raw.frame().unwrap();
            let error: Value = serde_json::from_slice(&text).unwrap();
            codes.push(error["code"].as_str().unwrap().to_owned());
        }
        let refused = codes.iter().filter(|code| *code == "rate_limited").count();
        assert!((5..=10).contains(&refused), "{codes:?}");
        assert_ne!(codes[0], "rate_limited");
        assert_eq!(codes[29], "rate_limited");
    }
}

#[test]
fn bytes_are_limited_and_fragments_are_bytes() {
    let server = Server::start(&["--rate-limit-bytes", "64KiB"]);
    let mut client = Client::new(&server);
    let long = json!({"type":"publish","room":"a","payload":"x".repeat(16_000),"ref":1});
    for _ in 0..12 {
        client.send(&long);
    }
    let answers: Vec<_> = (0..12).map(|_| client.recv()).collect();
    let acked = answers
        .iter()
        .filter(|answer| answer["type"] == "ack")
        .count();
    assert!((8..=9).contains(&acked), "{answers:?}");
    assert!(
        answers
            .iter()
            .any(|answer| answer["code"] == "rate_limited")
    );
    server.await_metric("rate_limited_total{\"bytes\"", 12 - acked as u64);

    // A message of 17 bytes in fragments of none takes some 20 KiB of the wire.
    let mut raw = Raw::open(&server, "/ws");
    raw.frame().unwrap();
    let empty = frame(0x00, b"").repeat(3_500);
    let end = frame(0x80, br#"{"type":"ping"}"#);
    let message = [&frame(0x01, b""), &empty[..], &end].concat();
    for _ in 0..8 {
        raw.send(&message);
    }
    let kinds: Vec<Value> = (0..8)
        .map(|_| serde_json::from_slice(&raw.frame().unwrap().1).unwrap())
        .collect();
    let pongs = kinds.iter().filter(|kind| kind["type"] == "pong").count();
    assert!((6..=7).contains(&pongs), "{kinds:?}");
}

/// A message that is larger than a burst passes, and then nothing for as long as it takes.
#[test]
fn one_large_message_is_no_offence() {
    let flags = ["--rate-limit-bytes", "4KiB"];
    let server = Server::start(&flags);
    let mut client = Client::new(&server);
    assert_eq!(client.publish("a", json!("x".repeat(20_000))), 1);
    assert_eq!(client.ask_error(ping(1)), "rate_limited");
}

/// Sends `flood` again and again until the server has enough of it: how it is closed, and how many
/// messages that took. Meanwhile others are served.
fn flood(server: &Server, flood: &[u8], each: usize, most: usize) -> (Option<u16>, usize) {
    talking_each(PAUSE, server, "others", 100, || {
        // From elsewhere: those who are served have a limit of their address, too.
        let mut raw = Raw::over(connect_from([127, 0, 0, 2], server.port), "/ws");
        raw.frame().unwrap();
        raw.socket.set_nonblocking(true).unwrap();
        let mut sent = 0;
        let mut sink = vec![0; 64 * 1024];
        let mut tail = Vec::new();
        'flooding: while sent < most {
            let mut rest = flood;
            while !rest.is_empty() {
                match raw.socket.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => break 'flooding,
                }
                match raw.socket.read(&mut sink) {
                    Ok(0) => break 'flooding,
                    Ok(read) => tail.extend_from_slice(&sink[..read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => break 'flooding,
                }
            }
            sent += each;
        }
        raw.socket.set_nonblocking(false).unwrap();
        tail.extend(super::support::read_to_end(&mut raw.socket));
        (close_code(&tail), sent)
    })
}

/// The code of the close frame that ends these bytes.
fn close_code(bytes: &[u8]) -> Option<u16> {
    let at = bytes
        .windows(2)
        .rposition(|two| two[0] == 0x88 && two[1] >= 2)?;
    let code = bytes.get(at + 2..at + 4)?;
    Some(u16::from_be_bytes([code[0], code[1]]))
}

/// FAULTS C4: floods of pings, pongs, empty messages, and a publisher at ten times its rate are
/// closed with 1008; what waits for them is bounded, and others are served.
#[test]
fn floods_are_ended() {
    let publish = br#"{"type":"publish","room":"flood","payload":"0123456789","ref":1}"#;
    let floods: [(&str, Vec<u8>); 4] = [
        ("pings", frame(0x89, b"ping").repeat(1_000)),
        ("pongs", frame(0x8a, b"pong").repeat(1_000)),
        ("empty messages", frame(0x81, b"").repeat(1_000)),
        ("publishes", frame(0x81, publish).repeat(1_000)),
    ];
    // What is let through is kept: that is to be next to nothing beside what waits.
    let keeps = ["--store", "memory", "--room-log-bytes", "1MiB"];
    let server = Server::start(&[&DEFAULTS[..], &keeps].concat());
    talking_each(PAUSE, &server, "others", 100, || {});
    let before = server.memory_kib();
    let repeats = if all() { 20 } else { 1 };
    for (name, bytes) in floods {
        for _ in 0..repeats {
            let (code, sent) = flood(&server, &bytes, 1_000, 1_000_000);
            assert!(sent < 1_000_000, "{name} without end");
            // The close may be lost where more came behind it: then it is a reset.
            assert!(code.is_none_or(|code| code == 1008), "{name}: {code:?}");
        }
    }
    server.await_metric("rate_limited_closes_total", 4 * repeats);
    server.await_metric("closes_total{\"1008\"", 4 * repeats);
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    assert_eq!(server.metric("panics_total"), 0);
}

/// FAULTS C4: who takes no answers is not read, and no more than 64 KiB wait for it.
#[test]
fn pongs_wait_within_bounds() {
    let server = Server::start(&["--rate-limit", "1000000", "--rate-limit-bytes", "1GiB"]);
    let mut raw = Raw::over(super::support::connect_narrow(server.port), "/ws");
    raw.frame().unwrap();
    let before = server.memory_kib();
    let pause = Duration::from_millis(300);
    raw.socket.set_write_timeout(Some(pause)).unwrap();
    let pings = frame(0x89, &[b'p'; 125]).repeat(1_000);
    let stuck = (0..400).any(|_| raw.socket.write_all(&pings).is_err());
    assert!(stuck, "it takes pings without end");
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB");
}

#[test]
fn who_keeps_to_its_rate_is_never_refused() {
    let server = Server::start(&["--rate-limit", "200", "--rate-limit-address", "400"]);
    let mut client = Client::member(&server, "a");
    let began = Instant::now();
    let mut sent = 0;
    // Step by step with the clock, in groups.
    while began.elapsed() < Duration::from_secs(3) {
        let due = (began.elapsed().as_secs_f64() * 190.0) as u64;
        for n in sent..due {
            client.send(&ping(n));
        }
        for n in sent..due {
            assert_eq!(client.recv(), json!({"type":"pong","ref":n}));
        }
        sent = due;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(sent > 400, "{sent}");
    assert_eq!(server.metric("rate_limited_total"), 0);
}

/// Sends `each` pings on each connection at once: how many were answered.
fn burst(clients: &mut [Client], each: u64) -> u64 {
    for client in &mut *clients {
        (0..each).for_each(|n| client.send(&ping(n)));
    }
    let mut taken = 0;
    for client in &mut *clients {
        for _ in 0..each {
            let answer = client.recv();
            match answer["type"].as_str().unwrap() {
                "pong" => taken += 1,
                _ => assert_eq!(answer["code"], "rate_limited", "{answer}"),
            }
        }
    }
    taken
}

#[test]
fn connections_of_an_address_share_its_limit_over_all_shards() {
    let server = Server::start(&["--rate-limit-address", "200", "--rate-limit", "100000"]);
    // Each address has its home on the one or the other shard.
    for last in 2..6 {
        let from = [127, 0, 0, last];
        let open = || Client::over(connect_from(from, server.port), "/ws");
        let mut clients: Vec<_> = (0..8).map(|_| open()).collect();
        let shards: std::collections::BTreeSet<_> = clients
            .iter()
            .map(|client| client.welcome["shard"].as_u64())
            .collect();
        let began = Instant::now();
        let mut taken = 0;
        for _ in 0..4 {
            taken += burst(&mut clients, 40);
        }
        let elapsed = began.elapsed().as_secs_f64();
        // A burst; an eighth of one and a turn's messages are not known to each other.
        let most = 400.0 * 1.125 + 200.0 * elapsed + 40.0 * 8.0;
        assert!(
            taken >= 400 && (taken as f64) <= most,
            "{taken} of {most}: {shards:?}"
        );
        // It is the address's and not the connections': a new one gets no more.
        clients.push(open());
        let new = clients
            .pop()
            .map(|client| burst(&mut [client], 100))
            .unwrap();
        let most = 100.0 + 200.0 * began.elapsed().as_secs_f64();
        assert!((new as f64) < most, "{new}");
    }
    // Others have a limit of their own.
    let mut other = Client::over(connect_from([127, 0, 0, 9], server.port), "/ws");
    assert_eq!(other.ask(ping(1))["type"], "pong");
    server.await_metric_at_least("rate_limited_total{\"address\"", 1_000);
    let warned = server.log().matches("--rate-limit-address").count();
    assert!(
        (1..=2).contains(&warned),
        "once a minute and shard: {warned}"
    );
}

/// The head of the answer to an upgrade from `socket` with a further line; the connection.
fn upgrade(mut socket: TcpStream, line: &str) -> (String, TcpStream) {
    let head = upgrade_head("/ws").replace("Host: a\r\n", &format!("Host: a\r\n{line}"));
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut some = [0; 1024];
        let read = socket.read(&mut some).unwrap();
        assert!(read > 0, "no answer");
        answer.extend_from_slice(&some[..read]);
    }
    (String::from_utf8_lossy(&answer).into_owned(), socket)
}

#[test]
fn so_many_connections_of_an_address_over_all_shards() {
    let server = Server::start(&["--max-connections-per-address", "3"]);
    for last in 2..8 {
        let from = [127, 0, 0, last];
        let open = || Client::over(connect_from(from, server.port), "/ws");
        let mut clients: Vec<_> = (0..3).map(|_| open()).collect();
        for _ in 0..5 {
            let mut socket = connect_from(from, server.port);
            socket.write_all(upgrade_head("/ws").as_bytes()).unwrap();
            let answer = Answer::read(&mut socket);
            assert_eq!(answer.status, 429, "{answer:?}");
            assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
            assert_eq!(answer.json()["error"]["code"], "rate_limited");
        }
        // Pages are not WebSockets.
        assert_eq!(server.get("/health").status, 200);
        for client in &mut clients {
            client.join("a");
        }
        clients.pop().unwrap().close();
        eventually("the place to be free", || {
            let (answer, _) = upgrade(connect_from(from, server.port), "");
            answer.starts_with("HTTP/1.1 101 ").then_some(())
        });
    }
    server.await_metric_at_least("rate_limited_total{\"connections\"", 6 * 5);
    server.await_metric_at_least("connections_refused_total", 6 * 5);
}

/// Those that come and go, however they do, give their places back.
#[test]
fn places_of_an_address_are_given_back() {
    let server = Server::start(&["--max-connections-per-address", "40"]);
    let rounds = if all() { 5_000 } else { 300 };
    super::churn::in_turns(0..rounds, |n| {
        let mut socket = connect_from([127, 0, 0, 2], server.port);
        socket.write_all(upgrade_head("/ws").as_bytes()).unwrap();
        if n % 3 > 0 {
            assert!(socket.read(&mut [0; 16]).unwrap() > 0);
        }
        if n % 2 > 0 {
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        }
    });
    server.await_metric("connections", 1);
    let mut open = Vec::new();
    eventually("forty places", || {
        let (answer, socket) = upgrade(connect_from([127, 0, 0, 2], server.port), "");
        if answer.starts_with("HTTP/1.1 101 ") {
            open.push(socket);
        }
        (open.len() == 40).then_some(())
    });
    let (answer, _) = upgrade(connect_from([127, 0, 0, 2], server.port), "");
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

/// FAULTS H4: nobody is counted as another by what it says of itself.
#[test]
fn a_forged_address_gets_round_no_limit() {
    let tries = if all() { 10_000 } else { 500 };
    let flags = [
        "--max-connections-per-address",
        "1",
        "--trusted-proxies",
        "10.0.0.0/8,127.0.0.9",
    ];
    let server = Server::start(&flags);
    let from = [127, 0, 0, 2];
    let (answer, _kept) = upgrade(connect_from(from, server.port), "");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let forged = |n: u32| {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + n);
        match n % 5 {
            0 => format!("X-Forwarded-For: {address}\r\n"),
            1 => format!("X-Forwarded-For: {address}, 10.0.0.1\r\n"),
            2 => format!("X-Real-IP: {address}\r\nForwarded: for={address}\r\n"),
            3 => format!("X-Forwarded-For: 127.0.0.9\r\nX-Forwarded-For: {address}\r\n"),
            _ => format!("X-Forwarded-For: [2001:db8::{n:x}]:80\r\n"),
        }
    };
    let passed = (0..tries).filter(|&n| {
        let (answer, _) = upgrade(connect_from(from, server.port), &forged(n));
        !answer.starts_with("HTTP/1.1 429 ")
    });
    assert_eq!(passed.count(), 0, "of {tries}");
    // A trusted proxy's word counts.
    for n in 0..20 {
        let line = format!("X-Forwarded-For: 192.0.2.{n}\r\n");
        let (answer, _) = upgrade(connect_from([127, 0, 0, 9], server.port), &line);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
}

/// As they are by themselves: a burst of two thousand, and then they are told.
#[test]
fn the_limits_are_on_by_default() {
    let dir = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let args = ["serve", "--port", "0", "--shards", "2", "--pin-cores=off"];
    let mut command = super::support::ringcast(&args);
    command
        .args(["--ring-entries", "256", "--data-dir"])
        .arg(dir.path());
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let server = Server::spawn(command, dir);
    let mut client = Client::new(&server);
    let began = Instant::now();
    let taken = burst(std::slice::from_mut(&mut client), 4_000);
    let most = 2_000.0 + 1_000.0 * began.elapsed().as_secs_f64() + 10.0;
    assert!(
        taken >= 2_000 && (taken as f64) <= most,
        "{taken} of {most}"
    );
    assert!(began.elapsed() < PATIENCE);
}
