//! Rows a second of a worker, beside a bare COPY BINARY of the same rows into the same table with
//! its indexes, by the same batch: in turns, one pair after the other, in one run.
//!
//! ```text
//! bare:    rows encoded beforehand; one COPY a batch, each awaited; nothing else
//! worker:  stopped (SIGSTOP) while its stream is filled, then let go: until the last commit
//! ```
//!
//! Without `--bench` it runs once with few rows. `cargo bench --bench worker`; what it prints is in
//! docs/benches.md.

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

fn main() {
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let plans: &[(u64, u64, usize)] = match is_bench {
        true => &[(100, 100_000, 7), (1_000, 200_000, 7), (10_000, 200_000, 7)],
        false => &[(100, 500, 1)],
    };
    for &(batch, count, pairs) in plans {
        let settings = ["shared_buffers=256MB", "max_wal_size=4GB"];
        let (redis, postgres) = (Redis::start(&[]), Postgres::lasting(&settings));
        let flags = ["--batch-size", &batch.to_string()];
        let worker = workers::start("w", &redis, &postgres, &flags);
        let mut talk = Talk::new(&postgres);
        talk.ask(Request::simple("SET client_min_messages = error"));
        let (mut bares, mut ours, mut ratios) = (vec![], vec![], vec![]);
        for pair in 0..=pairs {
            let bare = bare(&mut talk, batch, count);
            talk.ask(Request::simple(TRUNCATE));
            let one = worked(&worker, &redis, &postgres, count);
            talk.ask(Request::simple(TRUNCATE));
            // The first pair warms up: files grow, users are seen.
            if pair > 0 {
                bares.push(bare);
                ours.push(one);
                ratios.push(one / bare);
            }
        }
        let [bare, ours, ratio] = [bares, ours, ratios.clone()].map(median);
        ratios.sort_by(f64::total_cmp);
        println!(
            "batches of {batch:>6}: worker {ours:>8.0} rows/s, bare COPY {bare:>8.0}, ratio \
             {ratio:.2} ({:.2} to {:.2}), medians of {pairs}",
            ratios[0],
            ratios[ratios.len() - 1]
        );
        worker.stop();
    }
    latency(if is_bench { 50_000 } else { 500 });
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

/// Rows a second of bare COPYs.
fn bare(talk: &mut Talk, batch: u64, count: u64) -> f64 {
    let batches: Vec<_> = (0..count / batch)
        .map(|n| encoded(n * batch, batch))
        .collect();
    let began = Instant::now();
    for rows in batches {
        talk.ask(Request::copy(COPY, rows));
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// The same rows as [`workers::fill`] makes entries of.
fn encoded(first: u64, count: u64) -> Vec<u8> {
    let mut buffer = CopyBuffer::default();
    for n in first..first + count {
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

/// Rows a second of a worker that has a full stream before it.
fn worked(worker: &Server, redis: &Redis, postgres: &Postgres, count: u64) -> f64 {
    let before = worker.metric("worker_rows_total");
    worker.signal(Signal::STOP);
    workers::fill_from(redis, before, count, ROOMS);
    let began = Instant::now();
    worker.signal(Signal::CONT);
    while worker.metric("worker_rows_total") < before + count {
        std::thread::sleep(Duration::from_millis(10));
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    assert_eq!(workers::rows(postgres), count);
    redis.ask(&["XTRIM", workers::STREAM, "MAXLEN", "1"]);
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
