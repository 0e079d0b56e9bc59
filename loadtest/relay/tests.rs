//! Relays beside a Redis in a thread that knows SUBSCRIBE, PUBLISH, and a script that publishes.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser;

use super::*;
use crate::flags::{Flags, Relay as Relays, Scenario};
use crate::scenario::cross;

/// Threads that end when it is dropped.
struct World {
    redis: SocketAddr,
    relays: Vec<String>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl World {
    fn start(relays: usize, stored: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut world = Self {
            redis: listener.local_addr().unwrap(),
            relays: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        let stop = world.stop.clone();
        world
            .threads
            .push(std::thread::spawn(move || fake_redis(&listener, &stop)));
        for _ in 0..relays {
            let (port, channel) = (0, "c".into());
            let of = Relays {
                port,
                channel,
                stored,
            };
            let mut relay = Relay::start(world.redis, &of).unwrap();
            world.relays.push(format!("127.0.0.1:{}", relay.port));
            let stop = world.stop.clone();
            world.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && relay.turn().is_ok() {}
            }));
        }
        world
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn fake_redis(listener: &TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    let mut peers: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    let mut subscribers: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    let mut piece = [0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let mut busy = false;
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(true).unwrap();
            socket.set_nodelay(true).unwrap();
            peers.push((socket, Vec::new()));
        }
        for peer in 0..peers.len() {
            match peers[peer].0.read(&mut piece) {
                Ok(count) => peers[peer].1.extend_from_slice(&piece[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            let bytes = std::mem::take(&mut peers[peer].1);
            let mut used = 0;
            while let Some((Reply::List(words), more)) = read_reply(&bytes[used..]).unwrap() {
                (used, busy) = (used + more, true);
                answer(peer, &words, &mut peers, &mut subscribers);
            }
            peers[peer].1 = bytes[used..].to_vec();
        }
        if !busy {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn answer(
    peer: usize,
    words: &[Reply<'_>],
    peers: &mut [(TcpStream, Vec<u8>)],
    subscribers: &mut BTreeMap<Vec<u8>, Vec<usize>>,
) {
    match *words {
        [Reply::Text(b"SCRIPT"), Reply::Text(b"LOAD"), _] => {
            peers[peer].0.write_all(b"$3\r\nsha\r\n").unwrap();
        }
        [Reply::Text(b"SUBSCRIBE"), Reply::Text(channel)] => {
            subscribers.entry(channel.into()).or_default().push(peer);
            let reply = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
            peers[peer].0.write_all(reply).unwrap();
        }
        [
            Reply::Text(b"PUBLISH"),
            Reply::Text(channel),
            Reply::Text(message),
        ]
        | [
            Reply::Text(b"EVALSHA"),
            Reply::Text(b"sha"),
            Reply::Text(b"2"),
            Reply::Text(b"c:state"),
            Reply::Text(b"c:stream"),
            Reply::Text(channel),
            Reply::Text(message),
            ..,
        ] => {
            let mut push = Vec::new();
            write_command(&mut push, &[b"message", channel, message]);
            for &member in subscribers.get(channel).unwrap() {
                peers[member].0.write_all(&push).unwrap();
            }
            peers[peer].0.write_all(b":3\r\n").unwrap();
        }
        ref other => panic!("the fake Redis does not know {other:?}"),
    }
}

fn check_cross(stored: bool, more: &[&str]) {
    let world = World::start(3, stored);
    let to = world.relays.join(",");
    let line = "loadtest cross --rooms 3 --members 4 --rate 300 --seconds 0.5 --warmup 0.1 --to";
    let line = line.split(' ').chain([to.as_str()]);
    let flags = Flags::parse_from(line.chain(more.iter().copied()));
    let Scenario::Cross(flags_cross) = &flags.scenario else {
        panic!("not cross")
    };
    let report = cross::run(&flags.common, flags_cross, &Stop::default()).unwrap();
    assert!(report.is_proven(), "{}", report.table());
    assert!(report.figure("remote_ms_p99").is_some());
    let received = report.figure("received").and_then(|n| n.as_u64()).unwrap();
    assert!(received > 400, "{}", report.table());
}

#[test]
fn cross_runs_against_three_relays() {
    check_cross(false, &[]);
    check_cross(true, &[]);
}

#[test]
fn members_publish_and_get_what_they_published() {
    check_cross(false, &["--members-publish"]);
}

#[test]
fn clients_frames_are_unmasked_wherever_they_are_split() {
    for text in [&b"hello"[..], &[b'x'; 126], &[b'y'; 60_000]] {
        let mut bytes = Vec::new();
        wire::write_frame(&mut bytes, opcode::TEXT, text);
        for end in [0, 1, 3, 7, bytes.len() - 1] {
            assert_eq!(read_head(&mut bytes[..end]), Ok(None), "{end}");
        }
        let (opcode, head, length) = read_head(&mut bytes).unwrap().unwrap();
        assert_eq!((opcode, &bytes[head..]), (opcode::TEXT, text));
        assert_eq!(head + length, bytes.len());
    }
    assert!(read_head(&mut [0x81, 5]).is_err());
}
