//! Restarts, reloads and kills under load: what is acked is received by all, once and in order, and
//! nobody is away for long.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::front::{Balance, Nginx};
use super::instances::{Ledger, Plan, Verdict, await_up, command, start_all};
use super::redis::Redis;
use super::support::{Server, all, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// Whether 2,000 clients take part. What is built for debugging would measure itself.
fn is_long() -> bool {
    all() && !cfg!(debug_assertions)
}

/// In how many seconds an instance sends all its clients elsewhere.
fn window_seconds() -> u64 {
    if is_long() { 8 } else { 4 }
}

/// Three instances, nginx before them, and a ledger that is kept through it.
struct Cluster {
    redis: Redis,
    servers: Vec<Server>,
    nginx: Nginx,
    plan: Plan,
}

impl Cluster {
    fn start(balance: Balance) -> Self {
        let redis = Redis::lasting(&[]);
        let window = format!("{}s", window_seconds());
        let servers = start_all(3, &redis, &[&FLAGS[..], &[&window]].concat());
        let ports: Vec<_> = servers.iter().map(|server| server.port).collect();
        // Rooms of four: each message goes to clients of all instances.
        let (clients, rate) = if is_long() {
            (2_000, 1_000)
        } else {
            (200, 200)
        };
        Self {
            nginx: Nginx::before(&ports, balance),
            plan: Plan {
                clients,
                rooms: clients / 4,
                rate,
                messages: 0,
                payload: 128,
                fault: SECOND,
            },
            redis,
            servers,
        }
    }

    /// Does it under load, and says what came of it.
    fn check(&mut self, fault: impl FnOnce(&mut Self)) -> Verdict {
        let dir = TempDir::new().unwrap();
        let until = dir.path().join("until");
        let to = [format!("127.0.0.1:{}", self.nginx.port)];
        let mut ledger = Ledger::over(&to, &self.plan, &ledger_flags(&until));
        // Some seconds of it before, and some after.
        let before = self.redis.stream_len();
        self.redis.await_stream(before + 2 * self.plan.rate);
        fault(self);
        let after = self.redis.stream_len();
        self.redis.await_stream(after + 2 * self.plan.rate);
        assert!(ledger.is_running(), "the fault came in its midst");
        std::fs::write(until, "").unwrap();
        let verdict = ledger.verdict();
        eprintln!("{verdict:?}");
        verdict
    }

    /// Drains one and starts it anew where it was, with what it left.
    fn restart(&mut self, at: usize) {
        let server = self.servers.remove(at);
        let port = server.port;
        self.begin(at, port, server.stop());
    }

    fn begin(&mut self, at: usize, port: u16, dir: Arc<TempDir>) {
        let (id, address) = (["a", "b", "c"][at], self.redis.address());
        let (port, window) = (port.to_string(), format!("{}s", window_seconds()));
        let flags = [&FLAGS[..], &[&window, "--port", &port]].concat();
        let server = Server::spawn(command(dir.path(), id, &address, &flags), dir);
        await_up(&server);
        self.servers.insert(at, server);
    }

    /// Connections of each; the one that asks may be among them.
    fn connections(&self) -> Vec<u64> {
        let of = |server: &Server| server.metric("connections");
        self.servers.iter().map(of).collect()
    }

    /// Waits until each has some, as all should.
    fn await_spread(&self) {
        let least = self.plan.clients / 10;
        eventually("clients on all instances", || {
            let connections = self.connections();
            connections
                .iter()
                .all(|&count| count >= least)
                .then_some(())
        });
    }
}

/// The window follows.
const FLAGS: [&str; 3] = ["--shards", "1", "--drain-window"];

/// Clients in eight networks, so that ip_hash has something to tell them by.
const SOURCES: &str =
    "127.0.1.1,127.0.2.1,127.0.3.1,127.0.4.1,127.0.5.1,127.0.6.1,127.0.7.1,127.0.8.1";

fn ledger_flags(until: &Path) -> [&str; 6] {
    let until = until.to_str().unwrap();
    // All at once they would be a storm of their own.
    [
        "--source-ips",
        SOURCES,
        "--connect-rate",
        "500",
        "--until",
        until,
    ]
}

/// Whoever was sent away was told when to come back, and they did not come all at once.
fn expect_spread(verdict: &Verdict) {
    let (gone, told) = (
        verdict.count("disconnected"),
        verdict.count("going_away_told"),
    );
    assert_eq!(gone, told, "{verdict:?}");
    assert_eq!(verdict.count("came_back"), gone);
    // Of three drains each sends some third away, evenly over its window. All of one in the same
    // second would be more than a quarter.
    let (busiest, share) = (
        verdict.count("busiest_second"),
        gone / (3 * window_seconds()),
    );
    assert!(
        busiest <= 5 * share / 2,
        "{busiest} in a second: {verdict:?}"
    );
}

/// Nobody was away for long: by FAULTS F2 and F5, and with some patience where debugging and other
/// tests are in the way.
fn expect_short(verdict: &Verdict) {
    let longest = if is_long() { 3 * SECOND } else { 5 * SECOND };
    let millis = verdict.millis("away_ms_max");
    assert!(millis < longest.as_secs_f64() * 1e3, "{verdict:?}");
}

/// FAULTS F2: one by one, under load: all is whole, each client is told when to come back and is
/// away for less than 3 s (5 s in the quick set).
#[test]
fn all_instances_restart_one_by_one() {
    let mut cluster = Cluster::start(Balance::LeastConn);
    let verdict = cluster.check(|cluster| {
        cluster.await_spread();
        for at in 0..3 {
            cluster.restart(at);
        }
    });
    verdict.expect_whole();
    // Each was on one that restarted, and some were again.
    assert!(
        verdict.count("came_back") >= cluster.plan.clients,
        "{verdict:?}"
    );
    expect_spread(&verdict);
    expect_short(&verdict);
    assert_eq!(cluster.connections().len(), 3);
}

/// FAULTS F1: its clients are back within 3 s (5 s in the quick set), nothing is lost, the others
/// are not touched; presence is another test's.
#[test]
fn an_instance_is_killed() {
    let mut cluster = Cluster::start(Balance::IpHash);
    let mut on_it = 0;
    let verdict = cluster.check(|cluster| {
        cluster.await_spread();
        on_it = cluster.connections()[1];
        let server = cluster.servers.remove(1);
        let port = server.port;
        let dir = server.kill();
        eventually("its clients on the others", || {
            let connections: u64 = cluster.connections().iter().sum();
            (connections >= cluster.plan.clients).then_some(())
        });
        cluster.begin(1, port, dir);
    });
    verdict.expect_whole();
    // The others are not touched.
    let gone = verdict.count("disconnected");
    assert!((on_it - 1..=on_it).contains(&gone), "{on_it}: {verdict:?}");
    verdict.expect("came_back", gone);
    expect_short(&verdict);
}

/// FAULTS F5: ten reloads: nobody is disconnected, nothing is lost.
#[test]
fn nginx_reloads_ten_times() {
    let mut cluster = Cluster::start(Balance::IpHash);
    let verdict = cluster.check(|cluster| {
        for _ in 0..10 {
            cluster.nginx.reload();
        }
    });
    verdict.expect_whole().expect_connected();
}

/// FAULTS F5: a restart: all come back within 3 s (5 s in the quick set).
#[test]
fn nginx_restarts() {
    let mut cluster = Cluster::start(Balance::IpHash);
    let verdict = cluster.check(|cluster| cluster.nginx.restart());
    verdict.expect_whole();
    verdict.expect("disconnected", cluster.plan.clients);
    verdict.expect("came_back", cluster.plan.clients);
    expect_short(&verdict);
}

/// It is still there for nginx, which can't know: its clients wait, and miss nothing.
///
/// FAULTS F4: for 2 s (20 s): nothing is lost, all is in order; nginx keeps the connections that it
/// has there.
#[test]
fn an_instance_stands_still() {
    use rustix::process::Signal;
    let mut cluster = Cluster::start(Balance::LeastConn);
    let verdict = cluster.check(|cluster| {
        cluster.await_spread();
        cluster.servers[2].signal(Signal::STOP);
        thread::sleep(if is_long() { 20 * SECOND } else { 2 * SECOND });
        cluster.servers[2].signal(Signal::CONT);
    });
    verdict.expect_whole();
}
