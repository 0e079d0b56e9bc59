//! A member that stops reading, in a room at full rate: it is told or closed, costs bounded memory,
//! and slows nobody.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::support::{Client, Raw, Server, all, connect_narrow, eventually, frame};

const LOG: [&str; 4] = ["--store", "memory", "--room-log-bytes", "1MiB"];
const LOG_KIB: u64 = 2 * 1024;

fn payload(n: u64) -> Value {
    json!({"n":n,"fill":"x".repeat(8_000)})
}

/// Publishes so much that it is far more than the log and what the kernel takes for one socket. A
/// member on each shard reads all of it, step by step: it is never behind by more than the log.
fn fill_the_room(server: &Server, messages: u64) {
    const STEP: u64 = 32;
    let mut readers = [Client::on_shard(server, 0), Client::on_shard(server, 1)];
    let mut offset = 0;
    for reader in &mut readers {
        offset = reader.join("a")["offset"].as_u64().unwrap();
    }
    let mut publisher = Client::new(server);
    for from in (0..messages).step_by(STEP as usize) {
        let to = messages.min(from + STEP);
        publisher.publish_all("a", from..to, payload);
        for reader in &mut readers {
            reader.messages("a", offset + from + 1, offset + to);
        }
    }
}

/// FAULTS C1: members that stop reading are told of the gap, and go on.
#[test]
fn it_is_told_of_the_gap_exactly() {
    let server = Server::start(&LOG);
    // What the server needs at this rate, without a slow one.
    fill_the_room(&server, 500);
    let before = server.memory_kib();
    let count = if all() { 4_000 } else { 2_000 };
    let mut slow: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::over(connect_narrow(server.port), "/ws");
            client.join("a");
            client
        })
        .collect();
    fill_the_room(&server, count);
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < LOG_KIB + 10 * 1024, "{grown} KiB");

    for client in &mut slow {
        let (mut next, mut gaps) = (501, 0);
        while next <= 500 + count {
            let frame = client.recv();
            match frame["type"].as_str().unwrap() {
                "message" => {
                    assert_eq!(frame["offset"], next);
                    assert_eq!(frame["payload"]["n"], next - 501);
                    next += 1;
                }
                "gap" => {
                    assert_eq!(frame["from"], next, "{frame}");
                    let to = frame["to"].as_u64().unwrap();
                    assert!(to >= next && to < 500 + count, "{frame}");
                    next = to + 1;
                    gaps += 1;
                }
                _ => panic!("{frame}"),
            }
        }
        assert!(gaps > 0, "it was not slow");
        // From then on it is a member like any other.
        assert_eq!(client.settle(), Vec::<Value>::new());
    }
    let told = server.metric("slow_consumers_total{\"gap\"");
    assert!(told >= 4, "{told}");
    assert_eq!(server.metric("slow_consumers_total{\"disconnect\""), 0);
}

#[test]
fn or_closed_if_so_set() {
    let server = Server::start(&[&LOG[..], &["--slow-consumer", "disconnect"]].concat());
    let mut slow = Client::over(connect_narrow(server.port), "/ws");
    slow.join("a");
    fill_the_room(&server, 2_000);
    assert_eq!(slow.closed(), 4002);
    for (offset, message) in (1..).zip(slow.kept()) {
        assert_eq!(message["offset"], offset, "no hole before the end");
    }
    server.await_metric("slow_consumers_total{\"disconnect\"", 1);
    server.await_metric("closes_total{\"4002\"", 1);
    server.await_metric("gaps_told_total", 0);
}

/// FAULTS C1: who takes no byte for ten seconds is closed. It takes that long, so it runs beside
/// the others.
#[test]
fn who_takes_nothing_at_all_is_closed() {
    let server = Server::start(&LOG);
    let mut slow = Client::over(connect_narrow(server.port), "/ws");
    slow.join("a");
    let began = Instant::now();
    fill_the_room(&server, 2_000);
    if !all() {
        // The rule's beginning: it is still there, and behind.
        assert!(server.metric("members") >= 1);
        return;
    }
    eventually("the end of it", || {
        (server.metric("closes_total{\"4002\"") == 1).then_some(())
    });
    let lived = began.elapsed();
    assert!(lived > Duration::from_secs(10), "{lived:?}");
    assert!(lived < Duration::from_secs(15), "{lived:?}");
    assert_eq!(slow.closed(), 1006);
}

/// FAULTS C4: pings that are answered by nobody's reading do not pile up.
#[test]
fn a_flood_of_pings_without_reading_is_bounded() {
    let server = Server::start(&[]);
    let before = server.memory_kib();
    let mut raw = Raw::over(connect_narrow(server.port), "/ws");
    raw.frame().unwrap();
    let pause = Duration::from_millis(500);
    raw.socket.set_write_timeout(Some(pause)).unwrap();
    let pings = frame(0x89, &[b'p'; 125]).repeat(1_000);
    // Until it takes no more: its answers have nowhere to go.
    let mut sent = 0;
    while sent < 400 {
        let began = Instant::now();
        raw.send(&pings);
        sent += 1;
        if began.elapsed() >= pause {
            break;
        }
    }
    assert!(sent < 400, "it takes pings without end");
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB");
    // Others are served meanwhile.
    let mut other = Client::member(&server, "a");
    assert_eq!(other.publish("a", json!(1)), 1);
}

/// What one turn takes in may be more than the log keeps: that makes nobody slow who reads.
#[test]
fn a_burst_larger_than_the_log_is_no_gap_for_who_reads() {
    for driver in ["auto", "epoll"] {
        let server = Server::start(&[&LOG[..], &["--driver", driver]].concat());
        let mut readers = [Client::on_shard(&server, 0), Client::on_shard(&server, 1)];
        for reader in &mut readers {
            reader.join("a");
        }
        let mut publishers: Vec<_> = (0..4).map(|n| Client::on_shard(&server, n % 2)).collect();
        // Held back, the server finds all of it at once.
        server.signal(Signal::STOP);
        for publisher in &mut publishers {
            for n in 0..100 {
                publisher.send(&json!({"type":"publish","room":"a","payload":payload(n)}));
            }
        }
        server.signal(Signal::CONT);
        for reader in &mut readers {
            reader.messages("a", 1, 400);
        }
    }
}
