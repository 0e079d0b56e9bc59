//! Being asked to end: all are told, what was taken is answered, and the process ends with 0.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::support::{
    Answer, Client, Server, all, command, connect, eventually, ringcast, upgrade_head,
};

/// Enough connections for a drain to take much of its window: few take their share of it only.
const MANY: usize = 120;

/// FAULTS F2: told, closed with 1001 over the window, ended with 0.
#[test]
fn all_are_told_within_the_window_and_it_ends_with_0() {
    let mut server = Server::start(&["--drain-window", "1500ms"]);
    let mut clients: Vec<_> = (0..MANY).map(|_| Client::new(&server)).collect();
    let half = b"GET /ready HTTP/1.1\r\nHost: a\r\n";
    let mut asking: Vec<_> = (0..20).map(|_| connect(server.port)).collect();
    for socket in &mut asking {
        socket.write_all(half).unwrap();
    }
    server.await_metric("connections", MANY as u64 + 21);
    let began = Instant::now();
    server.signal(Signal::TERM);
    let told = clients[0].next("going_away");
    assert!(told["reconnect_in_ms"].as_u64().unwrap() <= 1_500);
    // Who asks now is told that it is not ready.
    let mut answers = 0;
    for socket in &mut asking {
        let _ = socket.write_all(b"\r\n");
        let answer = Answer::read(socket);
        if answer.status != 0 {
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(answer.body.contains("draining"), "{answer:?}");
            answers += 1;
        }
    }
    assert!(answers > 0);
    let mut waits = vec![told["reconnect_in_ms"].as_u64().unwrap()];
    assert_eq!(clients[0].closed(), 1001);
    for client in &mut clients[1..] {
        let told = client.next("going_away");
        waits.push(told["reconnect_in_ms"].as_u64().unwrap());
        assert_eq!(client.closed(), 1001);
    }
    waits.sort_unstable();
    assert!(waits[MANY - 1] <= 1_500, "{waits:?}");
    assert!(waits[0] < 300 && waits[MANY - 1] > 500, "spread: {waits:?}");
    assert_eq!(server.ended().code(), Some(0));
    assert!(began.elapsed() < Duration::from_millis(3_500));
    assert!(!server.dir.path().join("drain.sock").exists());
}

/// FAULTS F2: SIGTERM and SIGINT with nobody there.
#[test]
fn nobody_there_and_it_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&["--drain-window", "60s"]);
        let began = Instant::now();
        server.signal(signal);
        assert_eq!(server.ended().code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

/// Few take their share of the window only.
#[test]
fn few_are_not_kept_waiting() {
    let mut server = Server::start(&["--drain-window", "20s"]);
    let clients: Vec<_> = (0..4).map(|_| Client::new(&server)).collect();
    let began = Instant::now();
    server.signal(Signal::TERM);
    for mut client in clients {
        let told = client.next("going_away");
        assert!(told["reconnect_in_ms"].as_u64().unwrap() <= 800);
        assert_eq!(client.closed(), 1001);
    }
    assert_eq!(server.ended().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3));
}

/// FAULTS F2: SIGTERM twice ends it at once; SIGHUP does not.
#[test]
fn a_second_signal_ends_it_at_once_and_sighup_never() {
    let mut server = Server::start(&["--drain-window", "60s"]);
    server.signal(Signal::HUP);
    eventually("the word on it", || {
        server.log().contains("SIGHUP").then_some(())
    });
    let mut clients: Vec<_> = (0..MANY).map(|_| Client::new(&server)).collect();
    clients[0].join("a");
    server.signal(Signal::HUP);
    assert_eq!(clients[0].publish("a", json!(1)), 1);

    server.signal(Signal::TERM);
    for client in &mut clients {
        client.next("going_away");
    }
    let began = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(128 + 15));
    assert!(began.elapsed() < Duration::from_secs(2));
}

/// A process that is ended with this.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// FAULTS F2: SIGPIPE ends nothing, nor does it that nobody reads the log any more.
#[test]
fn who_reads_the_log_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), &["--log-level", "debug"]);
    let mut server = Ends(command.spawn().unwrap());
    let mut log = BufReader::new(server.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving address=") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it does not serve");
    }
    let address = line.split_once("address=").unwrap().1;
    let address: std::net::SocketAddr = address.split(' ').next().unwrap().parse().unwrap();
    drop(log);
    let pid = rustix::process::Pid::from_raw(server.0.id() as i32).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    for n in 1..=20 {
        // Each is a line of the log.
        let mut client = Client::over(connect(address.port()), "/ws");
        client.join("a");
        signal(if n % 2 == 0 {
            Signal::PIPE
        } else {
            Signal::HUP
        });
        assert_eq!(client.publish("a", json!(n)), n);
    }
    signal(Signal::TERM);
    let status = eventually("its end", || server.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn by_command() {
    let mut server = Server::start(&[]);
    let mut client = Client::new(&server);
    let dir = server.dir.path().to_str().unwrap().to_owned();
    let drain = ["drain", "--data-dir", &dir];
    let output = ringcast(&drain).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"draining\n");
    client.next("going_away");
    assert_eq!(client.closed(), 1001);
    drop(client);
    assert_eq!(server.ended().code(), Some(0));
    assert_eq!(ringcast(&drain).output().unwrap().status.code(), Some(1));
}

/// Who connects while it drains is served and told, refused, or reset: nobody hangs.
///
/// FAULTS G6: 4 times (100 times), with 4 that connect as fast as they can: none hangs, and it ends
/// with 0.
#[test]
fn connecting_while_it_drains() {
    let rounds = if all() { 100 } else { 4 };
    for _ in 0..rounds {
        let mut server = Server::start(&["--drain-window", "500ms"]);
        let port = server.port;
        thread::scope(|scope| {
            let comers: Vec<_> = (0..4)
                .map(|_| scope.spawn(move || connect_until_refused(port)))
                .collect();
            server.await_metric_at_least("connections_accepted_total", 50);
            server.signal(Signal::TERM);
            for comer in comers {
                comer.join().unwrap();
            }
        });
        assert_eq!(server.ended().code(), Some(0));
    }
}

fn connect_until_refused(port: u16) {
    while let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) {
        let limit = Duration::from_secs(5);
        socket.set_read_timeout(Some(limit)).unwrap();
        let _ = socket.write_all(upgrade_head("/ws").as_bytes());
        let mut start = [0; 12];
        match socket.read_exact(&mut start) {
            Ok(()) => assert!(matches!(&start[9..], b"101" | b"503")),
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "it hangs"),
        }
    }
}

/// Publishing goes on into the drain: what was acked is there afterwards, where it was said.
///
/// FAULTS F2: publishing goes on into the drain: what was acked is stored.
#[test]
fn what_was_acked_is_kept() {
    let rounds = if all() { 20 } else { 3 };
    for _ in 0..rounds {
        let mut server = Server::start(&["--drain-window", "3s"]);
        let mut member = Client::new(&server);
        let epoch = member.join("a")["epoch"].clone();
        let acked = thread::scope(|scope| {
            let publishers: Vec<_> = (0..4)
                .map(|publisher| {
                    let server = &server;
                    scope.spawn(move || publish_until_closed(server, publisher))
                })
                .collect();
            // So much that all are at work.
            member.messages("a", 1, 200);
            server.signal(Signal::TERM);
            let acked: Vec<_> = publishers
                .into_iter()
                .flat_map(|publisher| publisher.join().unwrap())
                .collect();
            acked
        });
        assert_eq!(member.closed(), 1001);
        drop(member);
        assert_eq!(server.ended().code(), Some(0));

        let server = Server::start_on(server.dir.clone(), &[]);
        let mut client = Client::new(&server);
        let joined = client.join("a");
        assert_eq!(joined["epoch"], epoch);
        let newest = joined["offset"].as_u64().unwrap();
        client.rejoin("a", &epoch, 0);
        let messages = client.messages("a", 1, newest);
        for (offset, payload) in &acked {
            assert_eq!(&messages[*offset as usize - 1]["payload"], payload);
        }
        assert!(acked.len() as u64 <= newest);
    }
}

/// What was acked: offset and payload.
fn publish_until_closed(server: &Server, publisher: u64) -> Vec<(u64, Value)> {
    let mut client = Client::new(server);
    let mut acked = Vec::new();
    let mut n = 0;
    loop {
        for _ in 0..20 {
            let payload = json!({"by":publisher,"n":n});
            client.send(&json!({"type":"publish","room":"a","payload":payload,"ref":n}));
            n += 1;
        }
        for _ in 0..20 {
            let frame = loop {
                match client.try_recv() {
                    Ok(frame) if frame["type"] == "going_away" => {}
                    Ok(frame) => break frame,
                    Err(code) => {
                        assert_eq!(code, 1001);
                        return acked;
                    }
                }
            };
            assert_eq!(frame["type"], "ack", "{frame}");
            let payload = json!({"by":publisher,"n":frame["ref"]});
            acked.push((frame["offset"].as_u64().unwrap(), payload));
        }
    }
}
