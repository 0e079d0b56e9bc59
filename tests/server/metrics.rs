//! `/metrics`: what is counted is what happened, and nothing of anybody's is in it.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Client, PATIENCE, Raw, Server, all, connect, eventually, frame, read_to_end, upgrade_head,
};

/// What `name` with all of `labels` in its line is, as text.
fn sample(page: &str, name: &str, label: &str) -> String {
    let found = page.lines().find(|line| {
        let is_named = line.strip_prefix("ringcast_").is_some_and(|rest| {
            rest.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        is_named && line.contains(label)
    });
    let line = found.unwrap_or_else(|| panic!("no {name} {label} in {page}"));
    line.rsplit_once(' ').unwrap().1.to_owned()
}

/// FAULTS F10: clients keep a ledger of what they sent, got, and were answered, on two shards; when
/// they are done the counters are the ledger's to the last one, latencies' counts included.
#[test]
fn the_counters_are_the_ledgers() {
    let server = Server::start(&[]);
    const CLIENTS: u64 = 8;
    const MESSAGES: u64 = 250;
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::new(&server)).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        client.join(&format!("room {}", at % 2));
    }
    let sent = CLIENTS * MESSAGES;
    let of_a_room = sent / 2;
    thread::scope(|scope| {
        for (at, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                let room = format!("room {}", at % 2);
                client.publish_all(&room, 0..MESSAGES, |n| json!({ "n": n }));
                client.messages(&room, 1, of_a_room);
            });
        }
    });
    // A repeat, an error of each of two kinds, one who comes back, one who closes, one who is gone.
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let publish = json!({"type":"publish","room":"alone","payload":1,"id":id});
    let first = clients[0].ask(publish.clone());
    let again = clients[1].ask(publish);
    assert_eq!(first["offset"], again["offset"]);
    clients[0].send_text("{");
    clients[0].next("error");
    clients[0].ask_error(json!({"type":"nonsense"}));
    let epoch = clients[1].ask(json!({"type":"join","room":"alone"}))["epoch"].clone();
    let mut back = Client::new(&server);
    back.resume("alone", &epoch, 0, 1);
    clients.pop().unwrap().close();
    drop(clients.pop());

    let deliveries = of_a_room * CLIENTS + 1;
    for (name, value) in [
        ("connections_accepted_total", None),
        ("messages_accepted_total", Some(sent + 2)),
        ("messages_stored_total", Some(sent + 1)),
        ("messages_repeated_total", Some(1)),
        ("messages_delivered_total", Some(deliveries)),
        ("members", Some(CLIENTS - 2 + 2)),
        ("rooms", Some(3)),
        ("errors_total{bad_json", Some(1)),
        ("errors_total{unknown_type", Some(1)),
        ("errors_total", Some(2)),
        ("closes_total{1006", Some(1)),
        ("closes_total", Some(2)),
        ("gaps_told_total", Some(0)),
        ("slow_consumers_total", Some(0)),
        ("panics_total", Some(0)),
        ("signals_dropped_total", Some(0)),
        ("hop_seconds_count{home", Some(sent + 2)),
        ("hop_seconds_count{stored", Some(sent + 1)),
    ] {
        if let Some(value) = value {
            server.await_metric(name, value);
        }
    }
    // Asking is a connection too, the one that asks included.
    let page = server.get("/metrics").body;
    let open: u64 = sample(&page, "connections", "").parse().unwrap();
    assert!(open > CLIENTS - 2, "{open}");
    // Each is timed once on each shard that has members of its room, and not once a member.
    let timed: u64 = sample(&page, "delivery_seconds_count", "local")
        .parse()
        .unwrap();
    assert!((sent..=2 * sent).contains(&timed), "{timed} of {sent}");
    assert_eq!(sample(&page, "delivery_seconds_count", "remote"), "0");
    let sum: f64 = sample(&page, "delivery_seconds_sum", "local")
        .parse()
        .unwrap();
    let mean = sum / timed as f64;
    assert!(mean > 0.0 && mean < PATIENCE.as_secs_f64(), "{mean} s");
    let upto_1s: u64 = sample(&page, "delivery_seconds_bucket", "le=\"10\"")
        .parse()
        .unwrap();
    assert_eq!(upto_1s, timed, "none took more than 10 s");
}

/// The bytes of one connection, both ways, are counted as they are on the wire. (Who asks does so
/// elsewhere, and does not count.)
#[test]
fn bytes_are_those_of_the_wire() {
    let server = Server::start(&["--shards", "1", "--metrics-bind", "127.0.0.1:0"]);
    let port = metrics_port(&server);
    let mut raw = Raw::open(&server, "/ws");
    let (opcode, welcome) = raw.frame().unwrap();
    let pings: Vec<u8> = (0..100).flat_map(|_| frame(0x89, b"ping")).collect();
    raw.send(&pings);
    for _ in 0..100 {
        assert_eq!(raw.frame(), Some((0xa, b"ping".to_vec())));
    }
    let received = upgrade_head("/ws").len() + pings.len();
    // The head of the answer is the same for all; a frame of this size has 4 bytes more.
    let mut other = connect(server.port);
    other.write_all(upgrade_head("/ws").as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        other.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(opcode == 1 && welcome.len() >= 126);
    let sent = answer.len() + welcome.len() + 4 + 100 * (2 + 4);
    // The other one had the head and the welcome, whose client_id is as long.
    let (received, sent) = (
        received + upgrade_head("/ws").len(),
        sent + answer.len() + welcome.len() + 4,
    );
    for (name, bytes) in [
        ("received_bytes_total", received),
        ("sent_bytes_total", sent),
    ] {
        eventually(name, || {
            let page = get_from(port, "/metrics");
            (sample(&page, name, "") == bytes.to_string()).then_some(())
        });
    }
}

/// The port of `--metrics-bind`, from the log.
fn metrics_port(server: &Server) -> u16 {
    let log = server.log();
    let line = log.lines().find(|line| line.contains("serving metrics"));
    let address = line.unwrap().split("address=").nth(1).unwrap();
    address.trim().rsplit_once(':').unwrap().1.parse().unwrap()
}

/// All that a GET there is answered with.
fn get_from(port: u16, path: &str) -> String {
    let mut socket = connect(port);
    let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    String::from_utf8(read_to_end(&mut socket)).unwrap()
}

/// FAULTS H3: whatever rooms and users are called, whatever is sent, `/metrics`, `/health` and
/// error texts hold nothing of it, nor a path, a source line or SQL.
#[test]
fn nobodys_words_are_in_what_others_see() {
    let server = Server::start(&[]);
    let hostile = "secret-room\"}\\nringcast_forged_total 7";
    let mut client = Client::open(&server, "/ws?username=secret-user");
    client.join(hostile);
    client.publish(hostile, json!("secret-payload"));
    client.ask_error(json!({"type":"secret-type","room":"secret-other"}));
    let mut texts = vec![
        server.get("/metrics").body,
        server.get("/health").body,
        server.get("/ready").body,
    ];
    for path in [
        "/secret-path",
        "/api/rooms/%ff/messages",
        "/api/rooms/secret/messages?limit=999999999999999999999",
        "/api/rooms/secret/messages?epoch=';drop%20table%20messages--",
        "/..%2f..%2fetc/passwd",
    ] {
        let answer = server.get(path);
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        texts.push(answer.body);
    }
    let (mut other, mut errors) = (Client::new(&server), Vec::new());
    for bad in [
        json!({"type":"publish","room":"\u{1}","payload":1,"ref":1}),
        json!({"type":"leave","room":"x","ref":1}),
        json!({"type":"join","room":"@somebody","ref":1}),
        json!({"type":"join","room":"r","since":{"epoch":1,"offset":-1},"ref":1}),
        json!({"type":[],"ref":1}),
    ] {
        other.send(&bad);
        errors.push(other.next("error").to_string());
    }
    texts.extend(errors);
    let own_dir = server.dir.path().to_str().unwrap().to_owned();
    for text in &texts {
        for word in [
            "secret", "forged", "panicked", ".rs:", "src/", "SELECT", "sqlite", &own_dir,
        ] {
            assert!(!text.contains(word), "{word:?} in {text}");
        }
    }
}

/// FAULTS H3: with `--metrics-bind` the metrics are on that address and nowhere else, and nothing
/// else is there.
#[test]
fn metrics_have_an_address_of_their_own() {
    let server = Server::start(&["--metrics-bind", "127.0.0.1:0"]);
    let elsewhere = server.get("/metrics");
    assert_eq!(elsewhere.status, 404, "{elsewhere:?}");
    assert_eq!(elsewhere.json()["error"]["code"], "not_found");
    let port = metrics_port(&server);
    let get = |path: &str| get_from(port, path);
    let page = get("/metrics");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    assert!(page.contains("\nringcast_connections "), "{page}");
    for path in ["/", "/health", "/ws", "/api/rooms", "/metrics/"] {
        assert!(get(path).starts_with("HTTP/1.1 404 "), "{path}");
    }
    // Who says nothing is not waited for by others.
    let _silent: Vec<_> = (0..8).map(|_| connect(port)).collect();
    assert!(get("/metrics").starts_with("HTTP/1.1 200 "));
}

/// FAULTS F10: scrapes while connections come and go by the hundred are answered, each within its
/// deadline (200 ms in the middle, where nothing else runs).
#[test]
fn a_scrape_is_quick_while_connections_storm() {
    let server = Server::start(&[]);
    let mut took = Vec::new();
    thread::scope(|scope| {
        let storm: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..150 {
                        let client = Client::member(&server, "storm");
                        client.close();
                    }
                })
            })
            .collect();
        while !storm.iter().all(|thread| thread.is_finished()) {
            let began = Instant::now();
            let page = server.get("/metrics");
            assert_eq!(page.status, 200);
            took.push(began.elapsed());
        }
    });
    took.sort_unstable();
    let median = took[took.len() / 2];
    // Alone on the machine, that is.
    let limit = if all() {
        Duration::from_millis(200)
    } else {
        PATIENCE
    };
    assert!(median < limit, "{median:?} of {}", took.len());
    server.await_metric("closes_total{1000", 600);
    server.await_metric("members", 0);
}

/// Signals that a member does not get, because it does not read, are counted.
#[test]
fn signals_that_are_dropped_are_counted() {
    let server = Server::start(&["--shards", "1"]);
    let mut deaf = Client::over(crate::support::connect_narrow(server.port), "/ws");
    deaf.join("r");
    let mut loud = Client::member(&server, "r");
    let payload: Value = json!("x".repeat(16_000));
    let began = Instant::now();
    while server.metric("signals_dropped_total") == 0 {
        assert!(began.elapsed() < PATIENCE, "it takes all of them");
        for _ in 0..100 {
            loud.send(&json!({"type":"signal","room":"r","payload":payload}));
        }
        loud.settle();
    }
    drop(deaf);
}
