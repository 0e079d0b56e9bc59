//! Peers that vanish without a word: no FIN, no reset, only silence.
//!
//! The server and those who stay are in one network namespace, those who vanish in another, and
//! the cable between the two is pulled. Skipped where namespaces may not be made.

use std::fs::File;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::support::{Client, PATIENCE, Server, all, connect_to, eventually, talking};

/// A network namespace, held by a process that does nothing.
struct Namespace {
    holder: Child,
}

impl Namespace {
    /// `None` where it may not be made.
    fn make() -> Option<Self> {
        let mut holder = Command::new("unshare");
        // It reads until its input ends, at the latest with this process.
        holder.args(["--net", "cat"]).stdin(Stdio::piped());
        holder.stdout(Stdio::null()).stderr(Stdio::null());
        let mut made = Self {
            holder: holder.spawn().ok()?,
        };
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        let is_there = eventually("a namespace, or that there is none", || {
            if made.holder.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let its = std::fs::read_link(made.path());
            its.is_ok_and(|its| its != ours).then_some(true)
        });
        is_there.then_some(made)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Does `work` in it. Sockets and processes made there stay there.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(self.path()).unwrap();
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

/// Two namespaces with a cable between them.
fn near_and_far() -> Option<(Namespace, Namespace)> {
    let has_ip = Command::new("ip").arg("-V").output().is_ok();
    let pair = has_ip.then(|| Some((Namespace::make()?, Namespace::make()?)));
    let Some((near, far)) = pair.flatten() else {
        eprintln!("skipped: this needs ip, unshare, and to be allowed network namespaces");
        return None;
    };
    near.within(|| {
        let far = far.holder.id();
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

/// Half of them sit in a quiet room, half in one that goes on: what is sent to those fills their
/// sockets. All are found out in time, their rooms are told, and nothing of them is left.
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
            let all_are_out = talking(&server, "busy", 10_000, || {
                all_are_in.recv_timeout(PATIENCE).unwrap()
            });
            (watch.join().unwrap(), lost, all_are_out - cut)
        });
        println!("{vanishing} found out after {found:?}");
        let limit = Duration::from_secs(idle + 1);
        assert!(found <= limit, "{found:?}");

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
