//! Workers, a stream that is written by hand, and what must be in the table in the end.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::postgres::Postgres;
use super::redis::Redis;
pub(crate) use super::redis::STREAM;
use super::support::{PATIENCE, Server, eventually, ringcast};

pub(crate) const DEAD: &str = "gosocket:messages:dead";
pub(crate) const GROUP: &str = "persist-workers";

/// The command of a worker.
pub(crate) fn command(id: &str, redis: u16, postgres: &str, flags: &[&str]) -> Command {
    let mut command = ringcast(&["worker", "--worker-port", "0", "--worker-id", id]);
    command.args(["--redis-url", &format!("127.0.0.1:{redis}")]);
    command.args(["--postgres-url", postgres]);
    if !flags.contains(&"--batch-timeout") {
        command.args(["--batch-timeout", "200ms"]);
    }
    command.args(flags);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A worker that has begun; it may not have found anything yet.
pub(crate) fn begin(id: &str, redis: &Redis, postgres: &Postgres, flags: &[&str]) -> Server {
    spawn(command(id, redis.port, &postgres.url(), flags))
}

/// A worker that is started by `command`.
pub(crate) fn spawn(command: Command) -> Server {
    Server::spawn(command, Arc::new(TempDir::new().unwrap()))
}

/// A worker that takes rows.
pub(crate) fn start(id: &str, redis: &Redis, postgres: &Postgres, flags: &[&str]) -> Server {
    let worker = begin(id, redis, postgres, flags);
    await_ok(&worker);
    worker
}

/// Waits until it is well.
pub(crate) fn await_ok(worker: &Server) {
    let mut last = Value::Null;
    eventually("the worker to be well", || {
        last = worker.get("/health").json();
        (last["status"] == "ok").then_some(())
    });
}

/// Waits for a line of its log that has all these parts; how long that took.
pub(crate) fn await_line(worker: &Server, parts: &[&str]) -> Duration {
    let began = Instant::now();
    eventually(&format!("{parts:?} in {}", worker.log()), || {
        let log = worker.log();
        let mut lines = log.lines();
        lines
            .any(|line| parts.iter().all(|part| line.contains(part)))
            .then_some(())
    });
    began.elapsed()
}

/// One entry as the script writes it.
pub(crate) fn ours(room: &str, offset: u64, payload: &str) -> Vec<(&'static str, Vec<u8>)> {
    let id = format!("{:032x}", fastrand::u128(..) & !(15 << 76) | (7 << 76));
    let id = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
    [
        ("room_name", room),
        ("user_id", &format!("user-{}", offset % 100)),
        ("username", "Ann"),
        ("payload", payload),
        ("metadata", ""),
        ("id", &id),
        ("epoch", "018bcfe5680000000001"),
        ("offset", &offset.to_string()),
        ("seq", &offset.to_string()),
        ("sent_at", "2023-11-14T22:13:20.456Z"),
        ("instance_id", "a"),
    ]
    .map(|(name, value)| (name, value.as_bytes().to_vec()))
    .to_vec()
}

/// A connection that adds entries, many at once.
pub(crate) struct Writer {
    socket: BufReader<TcpStream>,
    waiting: usize,
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(redis: &Redis) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket: BufReader::new(socket),
            waiting: 0,
            bytes: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, fields: &[(&str, Vec<u8>)]) {
        let head = format!("*{}\r\n", 3 + 2 * fields.len());
        self.bytes.extend_from_slice(head.as_bytes());
        let names = fields
            .iter()
            .flat_map(|(name, value)| [name.as_bytes(), &value[..]]);
        for word in [&b"XADD"[..], STREAM.as_bytes(), b"*"]
            .into_iter()
            .chain(names)
        {
            self.bytes
                .extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.bytes.extend_from_slice(word);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.waiting += 1;
        if self.waiting >= 500 || self.bytes.len() > 1 << 20 {
            self.flush();
        }
    }

    /// Waits until all are there; none may be refused.
    pub(crate) fn flush(&mut self) {
        self.socket.get_mut().write_all(&self.bytes).unwrap();
        self.bytes.clear();
        let mut line = String::new();
        while self.waiting > 0 {
            line.clear();
            self.socket.read_line(&mut line).unwrap();
            assert!(!line.starts_with('-') && !line.is_empty(), "{line}");
            if !line.starts_with('$') {
                self.waiting -= 1;
            }
        }
    }
}

/// Adds `count` good entries, dealt out over `rooms` rooms, with offsets from 1 in each.
pub(crate) fn fill(redis: &Redis, count: u64, rooms: u64) {
    fill_from(redis, 0, count, rooms);
}

/// The same with offsets that go on behind the first `before`.
pub(crate) fn fill_from(redis: &Redis, before: u64, count: u64, rooms: u64) {
    let mut writer = Writer::new(redis);
    for n in before..before + count {
        let room = format!("room-{}", n % rooms);
        writer.add(&ours(
            &room,
            n / rooms + 1,
            &json!({"n":n,"text":"x".repeat(60)}).to_string(),
        ));
    }
    writer.flush();
}

/// Rows of the table.
pub(crate) fn rows(postgres: &Postgres) -> u64 {
    let count = postgres.try_sql("SELECT count(*) FROM messages");
    count
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Waits until the table has so many rows; there is patience for each step.
pub(crate) fn await_rows(postgres: &Postgres, count: u64) {
    let mut before = 0;
    while before < count {
        before = eventually(&format!("{count} rows, more than {before}"), || {
            let now = rows(postgres);
            (now > before).then_some(now)
        });
    }
    assert_eq!(before, count);
}

/// Entries that are pending with any worker.
pub(crate) fn pending(redis: &Redis) -> u64 {
    redis.ask(&["XPENDING", STREAM, GROUP])[0].as_u64().unwrap()
}

/// Waits until nothing is pending.
pub(crate) fn await_none_pending(redis: &Redis) {
    let began = Instant::now();
    eventually("nothing to be pending", || {
        (pending(redis) == 0).then_some(())
    });
    eprintln!("nothing is pending after {:?}", began.elapsed());
}

/// Every room has its offsets from 1 without a hole, each once, and as many as `total` in all; the
/// counts of rooms say the same.
pub(crate) fn expect_whole(postgres: &Postgres, total: u64) {
    assert_eq!(rows(postgres), total);
    let odd = "SELECT room_name, epoch, count(*), min(\"offset\"), max(\"offset\") FROM messages \
               GROUP BY room_name, epoch HAVING count(*) <> max(\"offset\") \
               OR count(DISTINCT \"offset\") <> count(*) OR min(\"offset\") <> 1";
    assert_eq!(postgres.sql(odd), "", "holes or doubles");
    let counted = "SELECT coalesce(sum(message_count), 0) FROM room_stats";
    assert_eq!(postgres.count(counted), total, "room_stats");
    let odd = "SELECT s.room_name FROM room_stats s JOIN (SELECT room_name, count(*) AS n, \
               count(DISTINCT user_id) AS users, min(created_at) AS first, max(created_at) AS last \
               FROM messages GROUP BY room_name) m USING (room_name) \
               WHERE (s.message_count, s.user_count, s.first_message_at, s.last_message_at) \
               IS DISTINCT FROM (m.n, m.users, m.first, m.last)";
    assert_eq!(postgres.sql(odd), "", "room_stats says what the table has");
}

/// Each of these ids, of so many publications, is that of a row.
pub(crate) fn expect_ids(postgres: &Postgres, acked: &HashSet<String>, count: u64) {
    assert_eq!(acked.len() as u64, count);
    let stored = postgres.sql("SELECT id FROM messages");
    let stored: HashSet<_> = stored.lines().collect();
    let lost = acked.iter().filter(|id| !stored.contains(id.as_str()));
    let lost: Vec<_> = lost.take(10).collect();
    assert!(lost.is_empty(), "acked and not in the table: {lost:?} …");
}

/// What servers have acked, by the offsets that they gave, is in the table.
pub(crate) fn expect_all_acked(redis: &Redis, postgres: &Postgres) {
    let state = redis.ask(&["HGETALL", "gosocket:state"]);
    let mut total = 0;
    for pair in state.as_array().unwrap().chunks(2) {
        if pair[0].as_str().unwrap().starts_with("o:") {
            total += pair[1].as_str().unwrap().parse::<u64>().unwrap();
        }
    }
    expect_whole(postgres, total);
}
