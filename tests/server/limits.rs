//! What protects the process: time for a head, numbers of connections and descriptors, silence.

use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tempfile::TempDir;

use super::support::{
    Answer, Client, PATIENCE, Raw, Server, command, connect, eventually, frame, read_to_end,
    upgrade_head,
};

/// The handshake's deadline, and by when it must have been kept.
const DEADLINE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(2_500));

/// FAULTS B10: 500 connections that send nothing, half a head, or a byte now and then: closed by
/// the deadline of the handshake, while others come in at once; no descriptor stays open.
#[test]
fn who_says_nothing_or_little_is_let_go() {
    let server = Server::start(&["--handshake-timeout", "1s"]);
    Client::new(&server).close();
    let files = server.files_at_rest();
    let began = Instant::now();
    let mut silent: Vec<_> = (0..500).map(|_| connect(server.port)).collect();
    for (n, socket) in silent.iter_mut().enumerate() {
        // Nothing, a part of a head, a head that lacks its end.
        let parts = ["", "GET /ws HT", "GET /ws HTTP/1.1\r\nHost: a\r\n"];
        socket.write_all(parts[n % 3].as_bytes()).unwrap();
    }
    let head = upgrade_head("/ws").into_bytes();
    let (lived, _) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            // A byte now and then.
            let mut socket = connect(server.port);
            let pause = Duration::from_millis(100);
            socket.set_read_timeout(Some(pause)).unwrap();
            let began = Instant::now();
            for byte in &head {
                let _ = socket.write_all(&[*byte]);
                match socket.read(&mut [0; 64]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => return began.elapsed(),
                }
            }
            panic!("it may go on for ever");
        });
        // Others come in meanwhile.
        let fast = scope.spawn(|| {
            for _ in 0..20 {
                let began = Instant::now();
                let client = Client::new(&server);
                assert!(began.elapsed() < Duration::from_millis(500));
                client.close();
            }
        });
        (slow.join().unwrap(), fast.join().unwrap())
    });
    assert!(lived >= DEADLINE.0 && lived <= DEADLINE.1, "{lived:?}");
    for socket in &mut silent {
        read_to_end(socket);
    }
    let lived = began.elapsed();
    assert!(lived >= DEADLINE.0 && lived <= DEADLINE.1, "{lived:?}");
    eventually("all descriptors to be closed", || {
        (server.files() <= files).then_some(())
    });
}

#[test]
fn as_many_connections_as_are_allowed() {
    let server = Server::start(&["--max-connections", "5"]);
    let mut clients: Vec<_> = (0..5).map(|_| Client::new(&server)).collect();
    for _ in 0..50 {
        let mut socket = connect(server.port);
        let _ = socket.write_all(upgrade_head("/ws").as_bytes());
        let answer = read_to_end(&mut socket);
        // The answer may be lost where the request came after it: the end of both is a reset.
        if !answer.is_empty() {
            let text = String::from_utf8(answer).unwrap().to_ascii_lowercase();
            assert!(text.starts_with("http/1.1 503 "), "{text}");
            assert!(text.contains("retry-after: 1"), "{text}");
        }
    }
    // Nothing of it touches those who are in.
    for client in &mut clients {
        assert_eq!(client.ask(json!({"type":"ping"}))["type"], "pong");
    }
    let used = server.cpu();
    let pause = Duration::from_millis(500);
    clients[0].socket().set_read_timeout(Some(pause)).unwrap();
    let mut socket = clients[0].socket();
    assert!(socket.read(&mut [0; 1]).is_err(), "nothing to read");
    let used = server.cpu() - used;
    assert!(
        used < Duration::from_millis(200),
        "{used:?} for doing nothing"
    );

    // Whoever watches over it is still answered.
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(server.get("/ready").status, 503);

    clients.truncate(2);
    eventually("a place to be free", || {
        let answer = server.get("/ready");
        (answer.status == 200).then_some(())
    });
    Client::new(&server).join("a");
    eventually("the count", || {
        (server.get("/metrics").status == 200 && server.metric("connections_refused_total") >= 50)
            .then_some(())
    });
}

#[test]
fn no_descriptors_left_neither_spins_nor_kills() {
    let server = Server::start(&[]);
    let mut first = Client::on_shard(&server, 0);
    let mut second = Client::on_shard(&server, 1);
    first.join("a");
    second.join("a");
    server.await_metric("connections", 3);
    let pid = Pid::from_raw(server.pid() as i32);
    let files = server.files_at_rest() as u64;
    // Only the soft limit, so that it can be lifted again: the server has raised its own to this.
    let before = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(files + 10),
        maximum: before.maximum,
    };
    prlimit(pid, Resource::Nofile, few).unwrap();
    // More than there is room for: the rest wait in the listeners' queues.
    let mut sockets: Vec<_> = (0..40).map(|_| connect(server.port)).collect();
    for socket in &mut sockets {
        socket.write_all(upgrade_head("/ws").as_bytes()).unwrap();
    }
    eventually("the complaint", || {
        server
            .log()
            .contains("connections can't be accepted")
            .then_some(())
    });
    // Those who are in are served, and the disk is written.
    let used = server.cpu();
    let began = Instant::now();
    let mut offset = 0;
    while began.elapsed() < Duration::from_secs(1) {
        offset += 1;
        assert_eq!(first.publish("a", json!(1)), offset);
        second.messages("a", offset, offset);
        let pause = Duration::from_millis(100);
        first.socket().set_read_timeout(Some(pause)).unwrap();
        first.messages("a", offset, offset);
        let _ = (&mut first.socket()).read(&mut [0; 1]);
        first.socket().set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let used = server.cpu() - used;
    assert!(used < Duration::from_millis(600), "{used:?} in a second");
    assert!(server.log().matches("can't be accepted").count() < 6);

    let (mut waiting, inside): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|socket| {
        let pause = Duration::from_millis(10);
        socket.set_read_timeout(Some(pause)).unwrap();
        let waits = (&mut &*socket).read(&mut [0; 1]).is_err();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        waits
    });
    assert!(!inside.is_empty());
    assert!(waiting.len() >= 20, "{} of 40 had to wait", waiting.len());
    drop(inside);
    prlimit(pid, Resource::Nofile, before).unwrap();
    for socket in &mut waiting {
        let mut start = [0; 12];
        socket.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 101");
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn silence_is_pinged_and_then_ended() {
    let server = Server::start(&["--heartbeat", "300ms", "--idle-timeout", "900ms"]);
    let began = Instant::now();
    let mut silent = Raw::open(&server, "/ws");
    assert_eq!(silent.frame().unwrap().0, 1);
    assert_eq!(silent.frame(), Some((9, vec![])), "a ping");
    let code = silent.close_code();
    let lived = began.elapsed();
    assert_eq!(code, Some(1008));
    assert!(lived >= Duration::from_millis(900), "{lived:?}");
    assert!(lived <= Duration::from_millis(2_900), "{lived:?}");

    // Who answers lives on, three times as long.
    let began = Instant::now();
    let mut awake = Raw::open(&server, "/ws");
    awake.frame().unwrap();
    while began.elapsed() < Duration::from_millis(3_000) {
        assert_eq!(awake.frame(), Some((9, vec![])));
        awake.send(&frame(0x8a, b""));
    }
    awake.send(&frame(0x81, br#"{"type":"ping"}"#));
    loop {
        match awake.frame().unwrap() {
            (9, _) => {}
            other => {
                assert_eq!(other, (1, br#"{"type":"pong"}"#.to_vec()));
                break;
            }
        }
    }
}

/// A connection that was told to close and does not is ended.
#[test]
fn who_does_not_close_is_ended() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(&server, "/ws");
    raw.frame().unwrap();
    raw.send(&frame(0x80, b"x"));
    assert_eq!(raw.close_code(), Some(1002));
    // Our side stays open.
    server.await_metric("connections", 1);
    let mut socket = connect(server.port);
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(Answer::read(&mut socket).status, 200);
    server.await_metric("connections", 1);
}

/// With a low limit the server takes as many connections as it has descriptors for, and no more.
#[test]
fn a_low_limit_of_open_files_is_reckoned_with() {
    let dir = Arc::new(TempDir::new().unwrap());
    let server = command(dir.path(), &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 80; exec \"$0\" \"$@\""]);
    limited.arg(server.get_program()).args(server.get_args());
    limited.stdin(Stdio::null()).stdout(Stdio::null());
    limited.env_clear().stderr(Stdio::piped());
    let server = Server::spawn(limited, dir);
    let mut clients: Vec<_> = (0..16).map(|_| Client::new(&server)).collect();
    for _ in 0..30 {
        let mut socket = connect(server.port);
        socket.write_all(upgrade_head("/ws").as_bytes()).unwrap();
        let answer = String::from_utf8(read_to_end(&mut socket)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    for client in &mut clients {
        client.join("a");
    }
    assert_eq!(clients[0].publish("a", json!(1)), 1);
    for client in &mut clients {
        client.messages("a", 1, 1);
    }
    assert!(!server.log().contains("can't be accepted"));
}

/// Rings are locked memory of the user, over all that it runs. Where there is little of it they are
/// small, and where there is none it is epoll: the server serves.
///
/// FAULTS G3: 3,000 KiB, 64 KiB and none: it serves, on smaller rings or on epoll, and says so.
#[test]
fn little_locked_memory_makes_small_rings_or_none() {
    let driver = |server: &Server| server.get("/health").json()["driver"].take();
    let auto = driver(&Server::start(&[]));
    for kib in ["3000", "64", "0"] {
        let dir = Arc::new(TempDir::new().unwrap());
        let server = command(dir.path(), &["--shards", "4"]);
        // Who may lock as much as it likes is not limited: root is made not to.
        let is_root = rustix::process::geteuid().is_root();
        let mut limited = Command::new(if is_root { "setpriv" } else { "env" });
        limited.args(is_root.then_some("--bounding-set=-ipc_lock"));
        limited.args(["sh", "-c", "ulimit -l \"$0\"; exec \"$@\"", kib]);
        limited.arg(server.get_program()).args(server.get_args());
        limited.stdin(Stdio::null()).stdout(Stdio::null());
        limited.env_clear().stderr(Stdio::piped());
        let server = Server::spawn(limited, dir);
        // Older kernels do not count rings.
        if kib == "3000" || driver(&server) != "epoll" {
            assert_eq!(driver(&server), auto, "{kib} KiB: {}", server.log());
        } else if auto != "epoll" {
            assert!(server.log().contains("ulimit -l"), "{}", server.log());
        }
        let mut clients: Vec<_> = (0..4).map(|n| Client::on_shard(&server, n)).collect();
        for client in &mut clients {
            client.join("a");
        }
        assert_eq!(clients[0].publish("a", json!(1)), 1);
        for client in &mut clients {
            client.messages("a", 1, 1);
        }
        drop(clients);
        server.stop();
    }
}
