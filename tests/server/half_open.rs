//! Peers that vanish without a word: no FIN, no reset, only silence.
//!
//! The server and those who stay are in one network namespace, those who vanish in another, and
//! the cable between the two is pulled. Skipped where namespaces may not be made.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::namespace::{Namespace, ip};
use super::support::{Answer, Client, PATIENCE, Server, all, connect_to, eventually, talking};

/// Two namespaces with a cable between them.
fn near_and_far() -> Option<(Namespace, Namespace)> {
    let (near, far) = (Namespace::make()?, Namespace::make()?);
    near.within(|| {
        let far = far.id();
        ip("link set lo up");
        ip(&format!(
            "link add near type veth peer name far netns {far}"
        ));
        ip("addr add 10.0.0.1/24 dev near");
        ip("link set near up");
    });
    far.within(|| {
        ip("addr add 10.0.0.2/24 dev far");
        ip("link set far up");
    });
    Some((near, far))
}

/// FAULTS C5: half of them sit in a quiet room, half in one that goes on: what is sent to those
/// fills their sockets. All are found out in time, their rooms are told, and nothing of them is
/// left.
#[test]
fn who_vanishes_without_a_word_is_found_out() {
    let (vanishing, heartbeat, idle) = if all() { (1_000, 2, 6) } else { (100, 1, 3) };
    let Some((near, far)) = near_and_far() else {
        return;
    };
    near.within(|| {
        let (heartbeat, timeout) = (format!("{heartbeat}s"), format!("{idle}s"));
        let flags = ["--heartbeat", &heartbeat, "--idle-timeout", &timeout];
        let server = Server::start(&[&flags[..], &["--bind", "0.0.0.0"]].concat());
        let mut watcher = Client::new(&server);
        for room in ["quiet", "busy"] {
            let joined = watcher.ask(json!({"type":"join","room":room,"presence":true}));
            assert_eq!(joined["type"], "joined", "{joined}");
        }
        let files = server.files_at_rest();

        let port = server.port;
        let (told, all_are_in) = mpsc::channel();
        let (mut watcher, lost, found) = thread::scope(|scope| {
            // It reads all the time, and so answers the pings.
            let watch = scope.spawn(move || {
                for event in ["join", "leave"] {
                    for _ in 0..vanishing {
                        let is_it = |frame: &Value| frame["event"] == event;
                        assert_eq!(watcher.find(is_it)["type"], "presence");
                    }
                    told.send(Instant::now()).unwrap();
                    watcher.kept();
                }
                watcher
            });
            let lost = far.within(|| {
                let connect = |n: usize| {
                    let mut client = Client::over(connect_to(("10.0.0.1", port)), "/ws");
                    client.join(["quiet", "busy"][n % 2]);
                    client
                };
                let mut clients: Vec<_> = (0..vanishing).map(connect).collect();
                // What is theirs has come: nothing is under way when the cable is pulled.
                for client in &mut clients {
                    client.settle();
                }
                clients
            });
            all_are_in.recv_timeout(PATIENCE).unwrap();
            let cut = Instant::now();
            far.within(|| ip("link set far down"));
            let (found, told) = talking(&server, "busy", 10_000, || {
                // The rooms are told a moment later: who comes back at once is not missed.
                server.await_metric("closes_total{\"1008\"", vanishing as u64);
                let found = cut.elapsed();
                (found, all_are_in.recv_timeout(PATIENCE).unwrap() - cut)
            });
            (watch.join().unwrap(), lost, (found, told))
        });
        println!("{vanishing} found out after {found:?}, and told");
        let limit = Duration::from_secs(idle + 1);
        assert!(found.0 <= limit, "{found:?}");
        let debounce = Duration::from_millis(1_500);
        assert!(found.1 <= limit + debounce, "{found:?}");

        // The last of them are let go some time after they were told to close.
        eventually("all descriptors to be closed", || {
            watcher.settle();
            (server.files() == files).then_some(())
        });
        server.await_metric("connections", 2);
        server.await_metric("members", 2);
        assert_eq!(server.metric("closes_total{\"1008\""), vanishing as u64);
        drop(lost);
    });
}

/// FAULTS C5: streams of events in a room where nothing is said. Nothing is ever heard of them, but
/// what they are sent each heartbeat is acknowledged; who takes nothing for 11 s at least is gone.
#[test]
fn a_stream_whose_peer_vanishes_is_found_out() {
    let vanishing = if all() { 1_000 } else { 100 };
    let Some((near, far)) = near_and_far() else {
        return;
    };
    near.within(|| {
        let flags = ["--heartbeat", "1s", "--idle-timeout", "3s"];
        let server = Server::start(&[&flags[..], &["--bind", "0.0.0.0"]].concat());
        let (files, port) = (server.files_at_rest(), server.port);
        let follow = |to: &str| {
            let mut socket = connect_to((to, port));
            let head = b"GET /api/rooms/quiet/events HTTP/1.1\r\nHost: a\r\n\r\n";
            socket.write_all(head).unwrap();
            assert_eq!(Answer::read_head(&mut socket).status, 200);
            socket
        };
        let lost = far.within(|| {
            (0..vanishing)
                .map(|_| follow("10.0.0.1"))
                .collect::<Vec<_>>()
        });
        // It stays, and takes what it is sent though it reads nothing.
        let stays = follow("127.0.0.1");
        server.await_metric("members", vanishing + 1);
        let cut = Instant::now();
        far.within(|| ip("link set far down"));
        server.await_metric("members", 1);
        let found = cut.elapsed();
        println!("{vanishing} streams found out after {found:?}");
        assert!(found <= Duration::from_secs(1 + 11 + 2), "{found:?}");
        server.await_metric("connections", 2);
        drop(stays);
        eventually("all descriptors to be closed", || {
            (server.files() == files).then_some(())
        });
        drop(lost);
    });
}
