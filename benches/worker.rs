//! Rows a second of a worker, beside a bare COPY BINARY of the same rows into the same table with
//! its indexes, by the same batch: in turns, one after the other, in one run.
//!
//! ```text
//! bare:     rows encoded beforehand, in the order they came; one COPY a batch, each awaited
//! by room:  the same, but in a batch a room's rows stand together, as a worker has them
//! counted:  by room, with what room_stats needs of the batch: the statements of a worker's batch
//! worker:   stopped (SIGSTOP) while its stream is filled, then let go: until the last commit
//! ```
//!
//! What is measured against is `bare`; the two between say what of the difference is the order and
//! the counts. Each turn begins with another of them, so that none profits of its place. With each,
//! the CPU time of a row by process: it says which of them the others wait for.
//!
//! Without `--bench` it runs once with few rows. `cargo bench --bench worker`, or with sizes of
//! batches behind it (`-- 100 1000`) only those; what it prints is in docs/benches.md.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the bench"
)]

#[path = "../tests/cluster/postgres.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod postgres;
#[path = "../tests/cluster/redis.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod redis;
#[path = "../tests/server/support.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod support;
#[path = "../tests/worker/workers.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod workers;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringcast::pg::{Answer, Conninfo, CopyBuffer, Input, Request, Secrecy, Session};
use rustix::process::Signal;

use postgres::Postgres;
use redis::Redis;
use support::Server;
use workers::Writer;

const ROOMS: u64 = 50;
const TRUNCATE: &str = "TRUNCATE messages, room_deltas, room_totals";
const COPY: &str = "COPY messages (room_name, id, epoch, \"offset\", user_id, username, payload, \
                    metadata, created_at) FROM STDIN (FORMAT binary)";
const COPY_COUNTS: &str = "COPY room_deltas (room_name, message_count, first_message_at, \
                           last_message_at) FROM STDIN (FORMAT binary)";

fn main() {
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let plans: &[(u64, u64, usize)] = match is_bench {
        true => &[(100, 100_000, 7), (1_000, 200_000, 7), (10_000, 200_000, 7)],
        false => &[(100, 500, 1)],
    };
    let only: Vec<u64> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    for &(batch, count, turns) in plans {
        if !only.is_empty() && !only.contains(&batch) {
            continue;
        }
        let mut world = World::new(batch, count);
        let mut turns: Vec<_> = (0..=turns).map(|turn| world.turn(turn)).collect();
        // The first one warms up: files grow, users are seen.
        turns.remove(0);
        print(batch, &turns);
        world.worker.stop();
    }
    if only.is_empty() {
        latency(if is_bench { 50_000 } else { 500 });
    }
}

/// A Redis, a PostgreSQL and a worker between them.
struct World {
    redis: Redis,
    postgres: Postgres,
    worker: Server,
    talk: Talk,
    batch: u64,
    count: u64,
}

/// The ways of the same rows.
#[derive(Clone, Copy)]
enum Way {
    Bare,
    ByRoom,
    Counted,
    Worker,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Bare, "bare COPY"),
    (Way::ByRoom, "by room"),
    (Way::Counted, "with counts"),
    (Way::Worker, "worker"),
];

/// What each of [`WAYS`] took.
type Turn = [Taken; WAYS.len()];

impl World {
    fn new(batch: u64, count: u64) -> Self {
        let settings = ["shared_buffers=256MB", "max_wal_size=4GB"];
        let (redis, postgres) = (Redis::start(&[]), Postgres::lasting(&settings));
        let flags = ["--batch-size", &batch.to_string()];
        let worker = workers::start("w", &redis, &postgres, &flags);
        let mut talk = Talk::new(&postgres);
        talk.ask(Request::simple("SET client_min_messages = error"));
        Self {
            redis,
            postgres,
            worker,
            talk,
            batch,
            count,
        }
    }

    fn turn(&mut self, first: usize) -> Turn {
        let mut turn = [Taken::default(); WAYS.len()];
        for at in first..first + WAYS.len() {
            let at = at % WAYS.len();
            turn[at] = match WAYS[at].0 {
                Way::Bare => self.bare(false, false),
                Way::ByRoom => self.bare(true, false),
                Way::Counted => self.bare(true, true),
                Way::Worker => self.worked(),
            };
        }
        turn
    }

    /// COPYs, one after the other.
    fn bare(&mut self, by_room: bool, with_counts: bool) -> Taken {
        let (batch, count) = (self.batch, self.count);
        let mut sql = COPY.to_owned();
        if with_counts {
            sql.push(';');
            sql.push_str(COPY_COUNTS);
        }
        let batches = (0..count / batch).map(|n| {
            let mut rows = encoded(n * batch, batch, by_room);
            if with_counts {
                rows.extend_from_slice(&counts(n * batch, batch));
            }
            Request::copy(sql.clone(), rows)
        });
        let batches: Vec<_> = batches.collect();
        let pids = [0, std::process::id(), self.postgres.pid()];
        let taken = Taken::by(count, pids, || {
            for request in batches {
                self.talk.ask(request);
            }
        });
        self.talk.ask(Request::simple(TRUNCATE));
        taken
    }

    /// A worker that has a full stream before it.
    fn worked(&mut self) -> Taken {
        let (worker, count) = (&self.worker, self.count);
        let before = worker.metric("worker_rows_total");
        worker.signal(Signal::STOP);
        workers::fill_from(&self.redis, before, count, ROOMS);
        let pids = [self.redis.pid(), worker.pid(), self.postgres.pid()];
        let taken = Taken::by(count, pids, || {
            worker.signal(Signal::CONT);
            while worker.metric("worker_rows_total") < before + count {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        assert_eq!(workers::rows(&self.postgres), count);
        self.redis.ask(&["XTRIM", workers::STREAM, "MAXLEN", "1"]);
        self.talk.ask(Request::simple(TRUNCATE));
        taken
    }
}

/// Rows a second, and of one row the CPU time, in µs: Redis, who writes, PostgreSQL with all its
/// processes.
#[derive(Clone, Copy, Default)]
struct Taken {
    rate: f64,
    cpu_us: [f64; 3],
}

impl Taken {
    fn by(count: u64, pids: [u32; 3], work: impl FnOnce()) -> Self {
        let before = pids.map(cpu);
        let began = Instant::now();
        work();
        let rate = count as f64 / began.elapsed().as_secs_f64();
        let mut cpu_us = pids.map(cpu);
        for (after, before) in cpu_us.iter_mut().zip(before) {
            *after = (*after - before) * 1e6 / count as f64;
        }
        Self { rate, cpu_us }
    }
}

/// CPU seconds of a process, and of PostgreSQL's children, ended ones too; of none 0.
fn cpu(pid: u32) -> f64 {
    let of = |pid: u32, fields: &[usize]| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let words: Vec<_> = rest.split_whitespace().collect();
        let ticks = fields
            .iter()
            .filter_map(|&at| words.get(at)?.parse::<u64>().ok());
        ticks.sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64
    };
    // utime, stime, cutime and cstime of proc(5); the words begin with field 3.
    if pid == std::process::id() {
        return of(pid, &[11, 12]);
    }
    let children = postgres::children_of(pid).into_iter();
    of(pid, &[11, 12, 13, 14]) + children.map(|child| of(child, &[11, 12])).sum::<f64>()
}

fn print(batch: u64, turns: &[Turn]) {
    for (at, (_, name)) in WAYS.into_iter().enumerate() {
        let of = |pick: &dyn Fn(&Taken) -> f64| median(turns.iter().map(|turn| pick(&turn[at])));
        let [redis, writer, postgres] = [0, 1, 2].map(|part| of(&|taken| taken.cpu_us[part]));
        let mut ratios: Vec<_> = turns
            .iter()
            .map(|turn| turn[at].rate / turn[0].rate)
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "batches of {batch:>6}: {name:<11} {:>8.0} rows/s, {:.2} ({:.2} to {:.2}) of the bare \
             COPY; µs of CPU a row: {redis:.1} Redis, {writer:.1} writer, {postgres:.1} PostgreSQL",
            of(&|taken| taken.rate),
            median(ratios.iter().copied()),
            ratios[0],
            ratios[ratios.len() - 1],
        );
    }
}

/// From an entry's time to its row's (which is when its transaction began), at 10,000 entries/s.
fn latency(count: u64) {
    let (redis, postgres) = (Redis::start(&[]), Postgres::lasting(&[]));
    let worker = workers::start("w", &redis, &postgres, &["--batch-timeout", "5s"]);
    let mut writer = Writer::new(&redis);
    let began = Instant::now();
    for n in 0..count {
        // Foreign entries: their time is that of the entry.
        writer.add(&workers::ours(&format!("room-{}", n % ROOMS), n, "{}")[..5]);
        if n % 100 == 99 {
            writer.flush();
            let due = Duration::from_micros(n * 100);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    writer.flush();
    let rate = count as f64 / began.elapsed().as_secs_f64();
    workers::await_rows(&postgres, count);
    let sql = "SELECT string_agg(percentile::text, ' / ') FROM (SELECT \
               round(1000 * extract(epoch FROM unnest(percentile_disc(ARRAY[0.5, 0.99, 1]) \
               WITHIN GROUP (ORDER BY stored_at - created_at))))::int AS percentile \
               FROM messages) p";
    let percentiles = postgres.sql(sql);
    println!(
        "at {rate:.0} entries/s, batches of 100, 5 s: P50 / P99 / max {} ms to the row",
        percentiles.trim()
    );
    worker.stop();
}

/// A blocking connection that is asked one thing after the other: written, then read.
struct Talk {
    socket: TcpStream,
    session: Session,
    buffer: Vec<u8>,
}

impl Talk {
    fn new(postgres: &Postgres) -> Self {
        let info = Conninfo::parse(&postgres.url(), |_| None).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", postgres.port)).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut talk = Self {
            socket,
            session: Session::new(info.login("bare", vec![]), Secrecy::Plain),
            buffer: vec![0; 64 * 1024],
        };
        let mut out = BytesMut::new();
        talk.session.begin(&mut out).unwrap();
        talk.socket.write_all(&out).unwrap();
        assert!(matches!(talk.next(), Input::Ready(_)));
        talk
    }

    fn ask(&mut self, request: Request) -> Answer {
        let mut out = BytesMut::new();
        self.session.send(&request, &mut out).unwrap();
        self.socket.write_all(&out).unwrap();
        if let Request::Copy { rows, .. } = &request {
            self.socket.write_all(rows).unwrap();
        }
        match self.next() {
            Input::Answer(answer) => answer.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn next(&mut self) -> Input {
        let (mut out, mut inputs) = (BytesMut::new(), Vec::new());
        while inputs.is_empty() {
            let len = self.socket.read(&mut self.buffer).unwrap();
            assert!(len > 0, "closed");
            let mut bytes = BytesMut::from(&self.buffer[..len]);
            let taken = self.session.on_bytes(&mut bytes, &mut out, &mut inputs);
            taken.unwrap();
            self.socket.write_all(&out.split()).unwrap();
        }
        inputs.remove(0)
    }
}

/// The same rows as [`workers::fill`] makes entries of.
fn encoded(first: u64, count: u64, by_room: bool) -> Vec<u8> {
    let mut buffer = CopyBuffer::default();
    let mut numbers: Vec<_> = (first..first + count).collect();
    if by_room {
        numbers.sort_by_key(|n| n % ROOMS);
    }
    for n in numbers {
        let offset = n / ROOMS + 1;
        let payload = serde_json::json!({"n":n,"text":"x".repeat(60)}).to_string();
        let mut row = buffer.row(9);
        row.text(&format!("room-{}", n % ROOMS));
        row.uuid(uuid::Uuid::from_u128(fastrand::u128(..)));
        row.text("018bcfe5680000000001").bigint(offset as i64);
        row.text(&format!("user-{}", offset % 100)).text("Ann");
        row.jsonb(payload.as_bytes())
            .null()
            .timestamptz(1_700_000_000_456);
    }
    buffer.finish()
}

/// What room_stats needs of these rows: one a room.
fn counts(first: u64, count: u64) -> Vec<u8> {
    let mut buffer = CopyBuffer::default();
    let rooms = count.min(ROOMS);
    for room in first..first + rooms {
        let of_room = (count - (room - first)).div_ceil(ROOMS);
        let mut row = buffer.row(4);
        row.text(&format!("room-{}", room % ROOMS));
        row.bigint(of_room as i64);
        row.timestamptz(1_700_000_000_456);
        row.timestamptz(1_700_000_000_456);
    }
    buffer.finish()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
