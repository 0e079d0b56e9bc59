//! Many at once: who come all together, who stop reading all together, who only sit there, and
//! rooms by the hundred thousand.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Client, Server, all, connect_from, frame, talking_each, upgrade_head};

/// Behind each message of those who are to be served meanwhile.
const PAUSE: Duration = Duration::from_millis(5);

/// The load tool's report on members of a room at full rate, some of which read nothing.
fn slow_members(server: &Server, members: usize, slow: usize, seconds: u32) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["slow", "--json", "--pairs", "1", "--payload", "1024"]);
    for (flag, value) in [
        ("--addr", server.address()),
        ("--pid", server.pid().to_string()),
        ("--members", members.to_string()),
        ("--slow", slow.to_string()),
        ("--rate", "0".into()),
        ("--seconds", seconds.to_string()),
    ] {
        command.arg(flag).arg(value);
    }
    report_of(command)
}

/// What the load tool says.
fn report_of(mut command: Command) -> Value {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    println!("{text}");
    serde_json::from_str(&text).unwrap()
}

/// FAULTS C1, C2: one of many, and half of many, stop reading in a room at full rate: they are told
/// or closed, what the server holds is within its log, and the others miss nothing.
#[test]
fn those_who_stop_reading_cost_the_others_nothing() {
    const LOG_MIB: u64 = 8;
    // For longer than a socket may take no byte, so that all of them are closed.
    let (members, seconds) = if all() { (1_000, 15) } else { (40, 1) };
    for (slow, most_mib) in [(1, 10), (members / 2, 20)] {
        let server = Server::start(&["--store", "memory", "--room-log-bytes", "8MiB"]);
        let report = slow_members(&server, members, slow, seconds);
        let number = |name: &str| report[name].as_u64().unwrap();
        let peak = number("server_resident_bytes_peak");
        let grown = peak.saturating_sub(number("server_resident_bytes_before"));
        // There is a log of the room on each of two shards.
        assert!(
            grown < (2 * LOG_MIB + most_mib) << 20,
            "{grown} bytes: {report}"
        );
        let ended = number("slow_closed_4002");
        assert!(ended <= slow as u64, "{report}");
        if all() {
            let closed = server.metric("slow_consumers_total{\"disconnect\"");
            assert_eq!(closed, slow as u64, "{report}");
        }
    }
}

/// What an idle member takes, with the rooms of fifteen that it is one of: what README says, and a
/// third for what a build without optimisation and a smaller number of them add.
#[test]
fn an_idle_member_takes_little_memory() {
    let (members, rooms) = if all() { (15_000, 1_000) } else { (9_000, 600) };
    let server = Server::start(&["--store", "memory", "--shards", "1"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["idle", "--json", "--seconds", "1"]);
    for (flag, value) in [
        ("--addr", server.address()),
        ("--pid", server.pid().to_string()),
        ("--connections", members.to_string()),
        ("--rooms", rooms.to_string()),
    ] {
        command.arg(flag).arg(value);
    }
    let report = report_of(command);
    assert_eq!(report["alive"], members, "{report}");
    let each = report["bytes_per_connection"].as_f64().unwrap();
    assert!(each > 0.0 && each <= 1_150.0, "{report}");
}

/// FAULTS C7: a connection joins as many rooms as it may and no more; of all that it left nothing
/// stays.
#[test]
fn rooms_have_a_limit_and_leave_nothing() {
    let server = Server::start(&["--room-linger", "0s", "--store", "memory"]);
    let mut client = Client::new(&server);
    let rooms = if all() { 100_000 } else { 1_000 };
    let ask = |client: &mut Client, kind: &str, numbers: std::ops::Range<u64>| -> Vec<Value> {
        for n in numbers.clone() {
            client.send(&json!({"type":kind,"room":format!("room-{n}"),"ref":n}));
        }
        numbers.map(|_| client.recv()).collect()
    };
    let mut refused = 0;
    for from in (0..rooms).step_by(500) {
        let answers = ask(&mut client, "join", from..from + 500);
        refused += answers
            .iter()
            .filter(|answer| answer["code"] == "too_many_rooms")
            .count() as u64;
    }
    assert_eq!(refused, rooms - 128);
    server.await_metric("members", 128);
    let left = ask(&mut client, "leave", 0..128);
    assert!(
        left.iter().all(|answer| answer["type"] == "left"),
        "{left:?}"
    );
    server.await_metric("rooms", 0);

    // As many rooms as a hundred thousand clients would make.
    let mut used = Vec::new();
    for part in 0..10 {
        for from in (part * rooms / 10..(part + 1) * rooms / 10).step_by(100) {
            let joined = ask(&mut client, "join", from..from + 100);
            assert!(joined.iter().all(|answer| answer["type"] == "joined"));
            ask(&mut client, "leave", from..from + 100);
        }
        server.await_metric("rooms", 0);
        used.push(server.memory_kib());
    }
    println!("{used:?} KiB");
    let (start, end) = (used[1], used[9]);
    assert!(end <= start + start / 10, "{used:?} KiB");
}

/// Opens so many sockets and asks for an upgrade on each, without waiting for any answer.
fn rush(server: &Server, count: usize) -> Vec<(Instant, TcpStream)> {
    let each = |n: usize| {
        let began = Instant::now();
        let mut socket = connect_from([127, 0, 0, 2 + (n % 3) as u8], server.port);
        socket.write_all(upgrade_head("/ws").as_bytes()).unwrap();
        (began, socket)
    };
    (0..count).map(each).collect()
}

/// FAULTS C13: all clients come at once when an instance is there again, and all of them get in
/// while others are served.
#[test]
fn all_come_at_once_behind_a_restart() {
    let count = if all() { 5_000 } else { 500 };
    let server = Server::start(&["--store", "memory"]);
    let before = rush(&server, count);
    server.await_metric("connections", count as u64 + 1);
    let dir = server.kill();
    drop(before);
    let server = Server::start_on(dir, &["--store", "memory"]);
    let began = Instant::now();
    let mut took = talking_each(PAUSE, &server, "others", 100, || {
        let sockets = rush(&server, count);
        let welcomed = |(began, mut socket): (Instant, TcpStream)| {
            let mut bytes = Vec::new();
            while !bytes.windows(9).any(|nine| nine == b"\"welcome\"") {
                let mut some = [0; 2048];
                let read = socket.read(&mut some).unwrap();
                assert!(read > 0, "{:?}", String::from_utf8_lossy(&bytes));
                bytes.extend_from_slice(&some[..read]);
            }
            assert!(bytes.starts_with(b"HTTP/1.1 101 "));
            (began.elapsed(), socket)
        };
        let welcomed: Vec<_> = sockets.into_iter().map(welcomed).collect();
        welcomed
            .into_iter()
            .map(|(took, _)| took)
            .collect::<Vec<_>>()
    });
    let whole = began.elapsed();
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100];
    println!("{count} are in after {whole:?}, 99 of 100 within {p99:?}");
    assert!(whole < Duration::from_secs(10), "{whole:?}");
    assert!(p99 < Duration::from_secs(3), "{p99:?}");
    assert_eq!(server.metric("panics_total"), 0);
}

/// How long idle ones sit there, in seconds.
fn idle_seconds() -> u64 {
    let set = std::env::var("RINGCAST_TEST_IDLE_SECONDS").ok();
    let set = set.and_then(|text| text.parse().ok());
    set.unwrap_or(if all() { 60 } else { 3 })
}

/// FAULTS C10: thousands that only answer pings are kept, and cost little. The ten minutes that it
/// asks for are `RINGCAST_TEST_IDLE_SECONDS=600`.
#[test]
fn thousands_sit_idle() {
    let (count, heartbeat) = if all() { (19_000, "25s") } else { (300, "1s") };
    let server = Server::start(&["--store", "memory", "--heartbeat", heartbeat]);
    let mut sockets: Vec<_> = Vec::new();
    for part in (0..count).step_by(500) {
        sockets.extend(rush(&server, 500.min(count - part)));
        // And who asks.
        server.await_metric("connections", sockets.len() as u64 + 1);
    }
    for (_, socket) in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let (began, used) = (Instant::now(), server.cpu());
    let pong = frame(0x8a, b"");
    let mut pings = 0;
    let mut buffer = vec![0; 16 * 1024];
    while began.elapsed() < Duration::from_secs(idle_seconds()) {
        for (_, socket) in &mut sockets {
            match socket.read(&mut buffer) {
                Ok(0) => panic!("one was closed"),
                // Behind the first read there is nothing but pings.
                Ok(read) if buffer[..read].ends_with(&[0x89, 0]) => {
                    pings += 1;
                    socket.write_all(&pong).unwrap();
                }
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
    let held = began.elapsed();
    let used = (server.cpu() - used).as_secs_f64() / held.as_secs_f64();
    let memory = server.memory_kib();
    println!("{count} for {held:?}: {pings} pings, {memory} KiB, {used:.3} of a core");
    assert!(pings >= count, "each was pinged");
    server.await_metric("connections", count as u64 + 1);
    assert!(memory <= count as u64 * 10 + 60 * 1024, "{memory} KiB");
    if all() {
        assert!(used < 0.05, "{used:.3} of a core");
    }
}
