//! A redis-server of a test: its process, its directory, and a word with it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{PATIENCE, eventually};

/// What is published, for whoever stores it.
pub(crate) const STREAM: &str = "gosocket:messages:stream";

/// The server of these tests: `RINGCAST_TEST_REDIS`, or what is installed.
static PROGRAM: LazyLock<String> = LazyLock::new(|| {
    std::env::var("RINGCAST_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned())
});

/// Its major version, by its own words: `Redis server v=7.0.15 …`.
static VERSION: LazyLock<u32> = LazyLock::new(|| {
    let output = Command::new(&*PROGRAM).arg("--version").output();
    let output = output.expect("redis-server is missing: install it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("v=").nth(1).and_then(|v| v.split('.').next());
    version.unwrap().parse().unwrap()
});

/// A Redis that ends with its guard. It keeps its port and its directory over restarts.
pub(crate) struct Redis {
    child: Option<Child>,
    pub(crate) port: u16,
    dir: TempDir,
    flags: Vec<String>,
}

impl Redis {
    /// One that keeps nothing on disk.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::with(&["--save", ""], flags)
    }

    /// One with an append-only file that is synced every second.
    pub(crate) fn lasting(flags: &[&str]) -> Self {
        let lasts = ["--save", "", "--appendonly", "yes"];
        Self::with(
            &[&lasts[..], &["--appendfsync", "everysec"]].concat(),
            flags,
        )
    }

    fn with(base: &[&str], flags: &[&str]) -> Self {
        let mut flags: Vec<_> = base.iter().chain(flags).copied().collect();
        if *VERSION < 7 {
            // There it needs no permission.
            flags.retain(|flag| !["--enable-debug-command", "local"].contains(flag));
        }
        // Values of several words are several words; the empty one is one.
        let flags = flags.iter().flat_map(|flag| flag.split(' '));
        let flags = flags.map(str::to_owned);
        let mut redis = Self {
            child: None,
            port: 0,
            dir: TempDir::new().unwrap(),
            flags: flags.collect(),
        };
        // Somebody else may take the port between the two looks at it.
        for _ in 0..10 {
            redis.port = free_port();
            redis.spawn();
            if redis.is_serving() {
                return redis;
            }
        }
        panic!("no redis-server can be started: {}", redis.log());
    }

    /// One that is not there yet, on a port that nobody has.
    pub(crate) fn later() -> Self {
        let mut redis = Self::start(&[]);
        redis.kill();
        redis
    }

    /// Where it is, as `--redis-url` takes it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = Command::new(&*PROGRAM);
        command.args(["--port", &self.port.to_string()]);
        // To be bound to an address was to be unprotected.
        if !self.flags.iter().any(|flag| flag == "--protected-mode") {
            command.args(["--bind", "127.0.0.1"]);
        }
        command.arg("--dir").arg(self.dir.path()).args(&self.flags);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap());
        let spawned = command.stderr(log).spawn();
        self.child = Some(spawned.expect("redis-server is missing: install it"));
    }

    /// Waits until it answers, or has ended.
    fn is_serving(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if let Some(answer) = self.try_ask(&["PING"]) {
                // LOADING is served too, but not yet.
                let error = answer["error"].as_str().unwrap_or_default();
                if !error.starts_with("LOADING") {
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Starts it anew on what it left.
    pub(crate) fn up(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.spawn();
        assert!(self.is_serving(), "{}", self.log());
    }

    /// Starts it anew and does not wait for it.
    pub(crate) fn begin(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.spawn();
    }

    /// Changes what it is started with, from the next start on.
    pub(crate) fn push_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Ends it as an operator does: what it has is on disk then, if it keeps anything.
    pub(crate) fn shut_down(&mut self) {
        self.signal(Signal::TERM);
        self.await_end();
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.await_end();
    }

    fn await_end(&mut self) {
        let mut child = self.child.take().unwrap();
        eventually("the end of Redis", || child.try_wait().unwrap());
    }

    /// Copies its append-only files, which may be written to meanwhile.
    pub(crate) fn copy_files(&self, to: &Path) {
        match *VERSION {
            ..7 => drop(std::fs::copy(self.path(ONE_FILE), to.join(ONE_FILE)).unwrap()),
            _ => copy_files(&self.path(FILES), to),
        }
    }

    /// Puts such a copy in the place of its own.
    pub(crate) fn put_files(&self, from: &Path) {
        assert!(self.child.is_none(), "it runs");
        match *VERSION {
            ..7 => drop(std::fs::copy(from.join(ONE_FILE), self.path(ONE_FILE)).unwrap()),
            _ => {
                std::fs::remove_dir_all(self.path(FILES)).unwrap();
                copy_files(from, &self.path(FILES));
            }
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Asks; the answer must be no error.
    pub(crate) fn ask(&self, words: &[&str]) -> Value {
        let answer = self.try_ask(words).expect("Redis does not answer");
        assert!(answer.get("error").is_none(), "{words:?}: {answer}");
        answer
    }

    /// Asks; an error is an object with `error`. `None`: it is not there.
    pub(crate) fn try_ask(&self, words: &[&str]) -> Option<Value> {
        read_value(&mut self.say(&[words])?)
    }

    /// Entries of the stream.
    pub(crate) fn stream_len(&self) -> u64 {
        let len = self.ask(&["XLEN", STREAM]);
        len.as_u64().unwrap()
    }

    /// Waits until the stream has so many entries.
    pub(crate) fn await_stream(&self, len: u64) {
        let mut before = 0;
        // There is patience for each step towards it.
        while before < len {
            before = eventually(&format!("{len} entries, more than {before}"), || {
                let now = self.stream_len();
                (now > before).then_some(now)
            });
        }
    }

    /// A file of its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What is published on channels from now on.
    pub(crate) fn subscribe(&self, channels: &[&str]) -> Subscriber {
        let words: Vec<_> = ["SUBSCRIBE"].iter().chain(channels).copied().collect();
        let mut subscriber = Subscriber(self.say(&[&words]).unwrap());
        for _ in channels {
            assert_eq!(subscriber.next()[0], "subscribe");
        }
        subscriber
    }

    /// A connection that stays.
    pub(crate) fn line(&self) -> Line {
        Line(self.say(&[]).unwrap())
    }

    /// Asks after having asked something else first, such as to be let in.
    pub(crate) fn ask_with(&self, first: &[&str], words: &[&str]) -> Value {
        let mut bytes = self.say(&[first, words]).unwrap();
        read_value(&mut bytes).unwrap();
        read_value(&mut bytes).unwrap()
    }

    fn say(&self, commands: &[&[&str]]) -> Option<BufReader<TcpStream>> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for words in commands {
            socket.write_all(encode(words).as_bytes()).ok()?;
        }
        Some(BufReader::new(socket))
    }
}

/// A connection that stays.
pub(crate) struct Line(BufReader<TcpStream>);

impl Line {
    /// Asks; an error is an object with `error`.
    pub(crate) fn ask(&mut self, words: &[&str]) -> Value {
        let socket = self.0.get_mut();
        socket.write_all(encode(words).as_bytes()).unwrap();
        read_value(&mut self.0).expect("no answer")
    }
}

fn encode(words: &[&str]) -> String {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    bytes
}

/// A connection that has subscribed.
pub(crate) struct Subscriber(BufReader<TcpStream>);

impl Subscriber {
    /// What comes next: `["message", channel, text]`.
    pub(crate) fn next(&mut self) -> Value {
        read_value(&mut self.0).expect("nothing came")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the log of Redis:\n{}", self.log());
        }
    }
}

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The append-only files since version 7, and the one before.
const FILES: &str = "appendonlydir";
/// See [`FILES`].
const ONE_FILE: &str = "appendonly.aof";

/// Copies a directory's files.
fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn read_value(bytes: &mut impl BufRead) -> Option<Value> {
    let mut line = String::new();
    bytes.read_line(&mut line).ok()?;
    let line = line.strip_suffix("\r\n")?;
    let (kind, rest) = line.split_at_checked(1)?;
    let len = || rest.parse::<i64>().ok();
    Some(match kind {
        "+" => json!(rest),
        "-" => json!({"error": rest}),
        ":" => json!(len()?),
        "$" if len()? < 0 => Value::Null,
        "$" => {
            let mut text = vec![0; len()? as usize + 2];
            bytes.read_exact(&mut text).ok()?;
            text.truncate(text.len() - 2);
            json!(String::from_utf8_lossy(&text))
        }
        "*" => (0..len()?.max(0))
            .map(|_| read_value(bytes))
            .collect::<Option<Value>>()?,
        _ => return None,
    })
}
