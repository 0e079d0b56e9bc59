//! Instances over a Redis, and the ledger that is kept of them.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::redis::Redis;
use super::support::{Client, NO_RATES, Server, all, eventually, ringcast};

/// How long an instance may take to be one with the others, or to notice that it is not.
const UP: Duration = Duration::from_secs(15);

/// The command of an instance over the Redis at that address.
pub(crate) fn command(dir: &Path, id: &str, redis: &str, flags: &[&str]) -> Command {
    let mut command = ringcast(&["serve", "--port", "0", "--pin-cores=off"]);
    command.args(["--ring-entries", "256", "--instance-id", id]);
    command.args(["--redis-url", redis]).args(NO_RATES);
    if !flags.contains(&"--shards") {
        command.args(["--shards", "2"]);
    }
    command.arg("--data-dir").arg(dir).args(flags);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// An instance with a directory of its own; it may not have found its Redis yet.
pub(crate) fn begin(id: &str, redis: &str, flags: &[&str]) -> Server {
    let dir = Arc::new(TempDir::new().unwrap());
    Server::spawn(command(dir.path(), id, redis, flags), dir)
}

/// An instance that has found its Redis.
pub(crate) fn start(id: &str, redis: &Redis, flags: &[&str]) -> Server {
    let server = begin(id, &redis.address(), flags);
    await_up(&server);
    server
}

/// Instances `a`, `b`, `c`, … that have found their Redis.
pub(crate) fn start_all(count: usize, redis: &Redis, flags: &[&str]) -> Vec<Server> {
    let address = redis.address();
    let ids = ["a", "b", "c", "d", "e"].into_iter().take(count);
    let servers: Vec<_> = ids.map(|id| begin(id, &address, flags)).collect();
    servers.iter().for_each(await_up);
    servers
}

/// Two instances.
pub(crate) fn pair(redis: &Redis, flags: &[&str]) -> [Server; 2] {
    start_all(2, redis, flags).try_into().ok().unwrap()
}

/// What `/health` says of Redis.
pub(crate) fn health(server: &Server) -> Value {
    let answer = server.get("/health");
    assert_eq!(answer.status, 200, "it serves, whatever Redis does");
    answer.json()
}

/// Waits until rooms can be joined, which says more than `/health`.
pub(crate) fn await_up(server: &Server) {
    let began = Instant::now();
    eventually("Redis to be up", || {
        assert!(began.elapsed() < UP, "{}", server.log());
        let up = health(server)["redis"] == "up";
        let mut client = Client::new(server);
        let join = json!({"type":"join","room":"up"});
        (up && client.ask(join)["type"] == "joined").then_some(())
    });
}

/// Waits until `/health` says that Redis is down; how long that took.
pub(crate) fn await_degraded(server: &Server) -> Duration {
    let began = Instant::now();
    eventually("Redis to be down", || {
        let health = health(server);
        let down = health["redis"] == "down";
        assert_eq!(down, health["status"] == "degraded", "{health}");
        down.then_some(())
    });
    began.elapsed()
}

/// Publishes, and does not wait for the ack: while Redis is away it takes as long as that.
pub(crate) fn begin_publish(client: &mut Client, room: &str, payload: Value, reference: &str) {
    client.send(&json!({"type":"publish","room":room,"payload":payload,"ref":reference}));
}

/// The offset of the ack of what was published with that `ref`.
pub(crate) fn acked(client: &mut Client, reference: &str) -> u64 {
    let ack = client.find(|frame| frame["ref"] == reference);
    assert_eq!(ack["type"], "ack", "{ack}");
    ack["offset"].as_u64().unwrap()
}

/// Waits until a room has so many members, as an instance tells this client; its answer.
pub(crate) fn await_members(client: &mut Client, room: &str, count: u64) -> Value {
    eventually(&format!("{count} members"), || {
        let answer = client.ask(json!({"type":"members","room":room}));
        (answer["count"] == count).then_some(answer)
    })
}

fn addresses(servers: &[Server]) -> Vec<String> {
    servers.iter().map(Server::address).collect()
}

/// The ids of all that was acked, from a file that [`Ledger::start_writing`] wrote.
pub(crate) fn acked_ids(file: &Path) -> HashSet<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let ids = lines.map(|line| line.split(' ').nth(2).unwrap().to_owned());
    ids.collect()
}

/// A ledger that is to be kept.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) clients: u64,
    pub(crate) rooms: u64,
    pub(crate) rate: u64,
    /// 0: as many as there is time for.
    pub(crate) messages: u64,
    pub(crate) payload: u64,
    /// How long what goes wrong does so.
    pub(crate) fault: Duration,
}

impl Plan {
    /// A quick one, or a long one with [`all`]: the fault begins after a fifth of the messages.
    pub(crate) fn new(messages: u64, fault: Duration) -> Self {
        if all() {
            // What is built for debugging takes twice the time for a message.
            let rate = if cfg!(debug_assertions) { 1_000 } else { 2_000 };
            let (clients, rooms) = (60, 20);
            return Self {
                clients,
                rooms,
                rate,
                messages: 100_000,
                payload: 128,
                fault: Duration::from_secs(10),
            };
        }
        Self {
            clients: 18,
            rooms: 6,
            rate: 1_000,
            messages,
            payload: 128,
            fault,
        }
    }

    /// After how many messages the fault begins.
    pub(crate) fn before_fault(&self) -> u64 {
        self.messages / 5
    }
}

/// A `loadtest ledger` that runs.
pub(crate) struct Ledger {
    child: Option<Child>,
    plan: Plan,
}

impl Ledger {
    /// Over these instances, in this order.
    pub(crate) fn start(servers: &[Server], plan: &Plan) -> Self {
        let messages = plan.messages.to_string();
        Self::over(&addresses(servers), plan, &["--messages", &messages])
    }

    /// The same, with each ack written down: see [`acked_ids`].
    pub(crate) fn start_writing(servers: &[Server], plan: &Plan, file: &Path) -> Self {
        let (messages, file) = (plan.messages.to_string(), file.to_str().unwrap());
        let flags = ["--messages", &messages, "--file", file];
        Self::over(&addresses(servers), plan, &flags)
    }

    /// Over what is at these addresses.
    pub(crate) fn over(to: &[String], plan: &Plan, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        command.args(["ledger", "--json", "--to", &to.join(",")]);
        for (flag, value) in [
            ("--clients", plan.clients),
            ("--rooms", plan.rooms),
            ("--rate", plan.rate),
            ("--payload", plan.payload),
            ("--settle", 60),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        command.args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        Self {
            child: Some(child),
            plan: *plan,
        }
    }

    /// Whether it still publishes, or waits for what it published.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn verdict(mut self) -> Verdict {
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let figures = serde_json::from_str(&text).unwrap_or(Value::Null);
        assert!(figures.is_object(), "the ledger was not kept: {text}");
        Verdict {
            figures,
            plan: self.plan,
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Verdict {
    figures: Value,
    plan: Plan,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} messages", self.messages)
    }
}

impl Verdict {
    pub(crate) fn count(&self, name: &str) -> u64 {
        let figure = self.figures[name].as_u64();
        figure.unwrap_or_else(|| panic!("{name}: {}", self.figures))
    }

    /// A figure in milliseconds.
    pub(crate) fn millis(&self, name: &str) -> f64 {
        let figure = self.figures[name].as_f64();
        figure.unwrap_or_else(|| panic!("{name}: {}", self.figures))
    }

    pub(crate) fn expect(&self, name: &str, count: u64) {
        assert_eq!(self.count(name), count, "{name}: {}", self.figures);
    }

    pub(crate) fn expect_some(&self, name: &str) {
        assert_ne!(self.count(name), 0, "{name}: {}", self.figures);
    }

    /// Nothing lost but what a new epoch told, nothing twice, all in order, all acked.
    pub(crate) fn expect_honest(&self) -> &Self {
        let figures = ["lost", "doubled", "out_of_order", "phantom"];
        figures.iter().for_each(|name| self.expect(name, 0));
        // Nothing of these is known to be lost: it had not come when there was no more time.
        let late = ["behind_at_end", "unacked", "away_at_end"];
        late.iter().for_each(|name| self.expect(name, 0));
        let published = self.count("published");
        self.expect("acked", published);
        if self.plan.messages > 0 {
            self.expect("acked", self.plan.messages);
        }
        self
    }

    /// And nothing is lost at all, nor told to be.
    pub(crate) fn expect_whole(&self) -> &Self {
        self.expect_honest();
        let told = ["lost_told", "skipped_told", "doubled_told", "gaps"];
        told.iter().for_each(|name| self.expect(name, 0));
        self.expect("new_epochs_told", 0);
        self
    }

    /// No client was disconnected, or had reason to go elsewhere.
    pub(crate) fn expect_connected(&self) -> &Self {
        ["disconnected", "given_up", "reconnects_failed"]
            .iter()
            .for_each(|name| self.expect(name, 0));
        self
    }

    /// Every client was told that Redis was away, and that it is back.
    pub(crate) fn expect_told_degraded(&self) -> &Self {
        let clients = self.plan.clients;
        assert!(self.count("degraded_told") >= clients, "{}", self.figures);
        assert!(self.count("healed_told") >= clients, "{}", self.figures);
        self
    }

    /// Every client was told of a new epoch.
    pub(crate) fn expect_told_epoch(&self) -> &Self {
        let told = self.count("new_epochs_told");
        assert!(told >= self.plan.clients, "{}", self.figures);
        self
    }
}
