//! Servers, clients, and what is common to all tests.
//!
//! A [`Server`] ends with its guard, also when a test panics, and then shows its log. In `support/`
//! are [`Client`], [`Raw`], who sends whatever it is given, and sockets and HTTP beneath them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

#[path = "support/client.rs"]
mod client;
#[path = "support/http.rs"]
mod http;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/talking.rs"]
mod talking;

pub(crate) use client::Client;
#[allow(unused_imports, reason = "not the tests of every target use all of it")]
pub(crate) use {
    http::{
        Answer, connect, connect_from, connect_narrow, connect_to, post, read_to_end, upgrade_head,
    },
    raw::{Raw, frame},
    talking::{talking, talking_each},
};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What limits how fast clients send; a test that is about one sets it again.
pub(crate) const NO_RATES: [&str; 3] = [
    "--rate-limit=0",
    "--rate-limit-bytes=0",
    "--rate-limit-address=0",
];

/// Whether the long variants run.
pub(crate) fn all() -> bool {
    std::env::var_os("RINGCAST_TEST_ALL").is_some_and(|value| value == "1")
}

/// Says that this test is skipped, and why; and to `tests/run.sh`, in the file that it names.
#[allow(dead_code, reason = "not all tests may have to")]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("RINGCAST_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new().append(true).open(path);
        let test = thread::current().name().unwrap_or_default().to_owned();
        let line = format!("skipped test {}::{test}\n", env!("CARGO_CRATE_NAME"));
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        // Only so that asking does not take the core from who is asked.
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) dir: Arc<TempDir>,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// One with a directory of its own and two shards.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_on(Arc::new(TempDir::new().unwrap()), flags)
    }

    /// One on the directory of another that has ended.
    pub(crate) fn start_on(dir: Arc<TempDir>, flags: &[&str]) -> Self {
        let command = command(dir.path(), flags);
        Self::spawn(command, dir)
    }

    /// One that is started by `command`.
    pub(crate) fn spawn(mut command: Command, dir: Arc<TempDir>) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (ports, port) = mpsc::channel();
        let lines = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("serving address=") {
                    let address = rest.split(' ').next().unwrap();
                    let address: SocketAddr = address.parse().unwrap();
                    let _ = ports.send(address.port());
                }
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        // The guard must be there before anything can fail.
        let mut server = Self {
            child,
            port: 0,
            dir,
            log,
        };
        server.port = match port.recv_timeout(PATIENCE) {
            Ok(port) => port,
            Err(_) => panic!("it does not serve: {}", server.log()),
        };
        server
    }

    /// Where it serves, as clients and proxies of other programs take it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How it has ended, if it has.
    #[allow(dead_code, reason = "the tests of workers use it")]
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("the server's end", || self.try_ended())
    }

    /// Kills it, and hands its directory on.
    pub(crate) fn kill(mut self) -> Arc<TempDir> {
        self.signal(Signal::KILL);
        self.ended();
        self.dir.clone()
    }

    /// Drains it, and hands its directory on.
    pub(crate) fn stop(mut self) -> Arc<TempDir> {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.dir.clone()
    }

    /// One HTTP exchange; all that was answered.
    pub(crate) fn http(&self, request: &[u8]) -> Answer {
        let mut socket = connect(self.port);
        socket.write_all(request).unwrap();
        Answer::read(&mut socket)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        let fields = "Host: a\r\nConnection: close";
        self.http(format!("GET {path} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes())
    }

    /// Publishes over HTTP.
    #[allow(dead_code, reason = "not all binaries publish so")]
    pub(crate) fn post(&self, room: &str, body: &str) -> Answer {
        self.http(post(room, body).as_bytes())
    }

    /// The sum of a metric's samples, or that of one label's value: `name` or `name{text`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200);
        let (name, label) = name.split_once('{').unwrap_or((name, ""));
        let samples = page.body.lines().filter(|line| {
            let (sample, _) = line.split_once([' ', '{']).unwrap_or((line, ""));
            sample == format!("ringcast_{name}") && line.contains(label)
        });
        samples
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum()
    }

    /// Waits until a metric is `value`: shards hand their counts over now and then.
    pub(crate) fn await_metric(&self, name: &str, value: u64) {
        let mut last = 0;
        eventually(&format!("{name} = {value}"), || {
            last = self.metric(name);
            (last == value).then_some(())
        });
    }

    /// Waits until a metric has got to `value`.
    pub(crate) fn await_metric_at_least(&self, name: &str, value: u64) {
        eventually(&format!("{name} >= {value}"), || {
            (self.metric(name) >= value).then_some(())
        });
    }

    /// Descriptors that it has open.
    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// Descriptors that it has open when those of connections that ended are closed: the least
    /// that is seen in a while.
    pub(crate) fn files_at_rest(&self) -> usize {
        let pause = Duration::from_millis(5);
        let seen = (0..30).map(|_| {
            thread::sleep(pause);
            self.files()
        });
        seen.min().unwrap()
    }

    /// Its memory in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1);
        number.unwrap().parse().unwrap()
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        // utime and stime, 14 and 15 of proc(5); the list begins with field 3, behind a space.
        let per_second = rustix::param::clock_ticks_per_second();
        Duration::from_millis((ticks(12) + ticks(13)) * 1000 / per_second)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
            let open = open.into_iter().flatten().flatten();
            let open: Vec<_> = open.map(|fd| std::fs::read_link(fd.path())).collect();
            eprintln!("what the server has open: {open:?}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// `ringcast` with nothing of this process's settings, started by the command, if any, that
/// `RINGCAST_TEST_UNDER` holds: `tests/run.sh` has it run under the profile that containers have.
pub(crate) fn ringcast(args: &[&str]) -> Command {
    let under = std::env::var("RINGCAST_TEST_UNDER").unwrap_or_default();
    let program = env!("CARGO_BIN_EXE_ringcast");
    let mut words = under.split_whitespace().chain([program]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(args);
    command.env_clear().stdin(Stdio::null());
    command
}

/// The command that serves on `dir`. Pinned shards of many servers would share their first cores;
/// and most tests send as fast as they can, from one address.
pub(crate) fn command(dir: &Path, flags: &[&str]) -> Command {
    let mut command = ringcast(&["serve", "--port", "0", "--shards", "2", "--pin-cores=off"]);
    command.args(["--ring-entries", "256", "--instance-id", "test"]);
    command.args(NO_RATES);
    command.arg("--data-dir").arg(dir).args(flags);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}
