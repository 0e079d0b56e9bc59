//! Workers and PostgreSQL are killed under load, at random and exactly between a commit and the
//! XACK that follows: every row is there, once.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::instances::{self, Ledger, Plan, acked_ids};
use super::postgres::Postgres;
use super::redis::Redis;
use super::support::{Server, all, eventually, skip};
use super::workers::{
    await_none_pending, await_rows, begin, command, expect_all_acked, expect_ids, expect_whole,
    fill, pending, rows, spawn, start,
};

/// Three workers that are killed again and again as long as there is something to store.
struct Workers<'a> {
    redis: &'a Redis,
    url: String,
    flags: Vec<&'static str>,
    workers: Vec<(String, Server)>,
    names: u64,
}

impl<'a> Workers<'a> {
    fn start(redis: &'a Redis, postgres: &Postgres, flags: &[&'static str]) -> Self {
        let mut workers = Self {
            redis,
            url: postgres.url(),
            flags: flags.to_vec(),
            workers: Vec::new(),
            names: 0,
        };
        for id in ["a", "b", "c"] {
            // One of them ends by itself before long, whatever chance has in mind.
            let worker = workers.one(id, (id == "a").then_some(3));
            workers.workers.push((id.to_owned(), worker));
        }
        workers
    }

    fn one(&self, id: &str, failpoint: Option<u64>) -> Server {
        let mut command = command(id, self.redis.port, &self.url, &self.flags);
        if let Some(commits) = failpoint {
            command.env("RINGCAST_FAILPOINT", format!("committed:{commits}"));
        }
        spawn(command)
    }

    /// Kills one, and starts another in its place: by its name, or as somebody new.
    fn kill_one(&mut self) {
        let at = fastrand::usize(..self.workers.len());
        let (name, worker) = self.workers.remove(at);
        worker.kill();
        self.put(&name);
    }

    fn put(&mut self, name: &str) {
        // Half of them end by themselves, right behind one of their commits.
        let failpoint = fastrand::bool().then(|| fastrand::u64(1..5));
        self.names += 1;
        let is_new = self.names.is_multiple_of(4);
        let name = if is_new {
            format!("new-{}", self.names)
        } else {
            name.to_owned()
        };
        let worker = self.one(&name, failpoint);
        self.workers.push((name, worker));
    }

    /// Replaces those that have ended by themselves.
    fn look_after(&mut self) -> u64 {
        let mut ended = 0;
        for at in (0..self.workers.len()).rev() {
            if self.workers[at].1.try_ended().is_some() {
                let (name, _) = self.workers.remove(at);
                ended += 1;
                self.put(&name);
            }
        }
        ended
    }

    /// From now on none ends.
    fn calm(&mut self) {
        self.workers.clear();
        for id in ["a", "b", "c"] {
            let worker = self.one(id, None);
            self.workers.push((id.to_owned(), worker));
        }
    }
}

#[test]
fn every_acked_message_is_stored_once_whoever_is_killed() {
    let redis = Redis::start(&[]);
    let mut postgres = Postgres::lasting(&[]);
    let (messages, rate) = if all() {
        (1_000_000, million_rate())
    } else {
        (50_000, 10_000)
    };
    let servers = instances::start_all(2, &redis, &[]);
    let plan = Plan {
        clients: 40,
        rooms: 20,
        rate,
        messages,
        payload: 64,
        fault: Duration::ZERO,
    };
    let flags = [
        "--batch-size",
        "500",
        "--batch-timeout",
        "100ms",
        "--stream-retention",
        "1ms",
    ];
    let mut workers = Workers::start(&redis, &postgres, &flags);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("acked");
    let mut ledger = Ledger::start_writing(&servers, &plan, &file);
    redis.await_stream(100);
    let (mut rounds, mut by_failpoint, mut kills) = (0_u64, 0, 0);
    while ledger.is_running() && rounds < 10_000 {
        thread::sleep(Duration::from_millis(fastrand::u64(100..500)));
        rounds += 1;
        by_failpoint += workers.look_after();
        if rounds.is_multiple_of(2) {
            workers.kill_one();
            kills += 1;
        }
        if rounds == 2 || rounds == 5 {
            postgres.kill();
            thread::sleep(Duration::from_millis(500));
            postgres.up();
        }
    }
    let verdict = ledger.verdict();
    verdict.expect_honest();
    assert_eq!(verdict.count("acked"), messages);
    by_failpoint += workers.look_after();
    eprintln!("{kills} killed, {by_failpoint} ended between a commit and its XACK");
    assert!(kills > 0 && by_failpoint > 0);
    workers.calm();
    // `await_up` of the two instances has published nothing.
    await_rows_at_least(&postgres, messages);
    await_none_pending(&redis);
    expect_all_acked(&redis, &postgres);
    assert_eq!(rows(&postgres), messages);
    expect_ids(&postgres, &acked_ids(&file), messages);
    eventually("the stream to be trimmed", || {
        (redis.stream_len() <= 200).then_some(())
    });
}

/// Publishes a second of a million: what is built for debugging keeps up with no more, and what
/// is not acked a minute after the last publish counts as lost.
fn million_rate() -> u64 {
    if cfg!(debug_assertions) {
        3_000
    } else {
        20_000
    }
}

/// There is patience for each step towards it.
fn await_rows_at_least(postgres: &Postgres, count: u64) {
    let mut before = 0;
    while before < count {
        before = eventually(&format!("{count} rows, more than {before}"), || {
            let now = rows(postgres);
            (now > before).then_some(now)
        });
    }
}

/// FAULTS E1: nothing goes wrong, and all is there: every message once, without a hole, and soon
/// after the last one nothing is left to be stored.
#[test]
fn a_million_without_a_fault() {
    if !all() {
        return skip("RINGCAST_TEST_ALL=1 runs it");
    }
    let (redis, postgres) = (Redis::start(&[]), Postgres::lasting(&[]));
    let servers = instances::start_all(2, &redis, &[]);
    let worker = start("w", &redis, &postgres, &["--batch-size", "1000"]);
    let plan = Plan {
        clients: 40,
        rooms: 20,
        rate: million_rate(),
        messages: 1_000_000,
        payload: 64,
        fault: Duration::ZERO,
    };
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("acked");
    let verdict = Ledger::start_writing(&servers, &plan, &file).verdict();
    let ended = Instant::now();
    verdict.expect_honest();
    assert_eq!(verdict.count("acked"), 1_000_000);
    await_rows_at_least(&postgres, 1_000_000);
    await_none_pending(&redis);
    worker.await_metric("worker_lag_entries", 0);
    let late = ended.elapsed();
    eprintln!("nothing is left {late:?} after the last ack");
    expect_all_acked(&redis, &postgres);
    assert_eq!(rows(&postgres), 1_000_000);
    expect_ids(&postgres, &acked_ids(&file), 1_000_000);
    assert_eq!(worker.metric("worker_rows_repeated_total"), 0);
    assert!(late < Duration::from_secs(10), "{late:?}");
}

/// The one moment at which it is decided whether a row comes twice.
#[test]
fn a_worker_ends_between_a_commit_and_its_xack() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    fill(&redis, 1_000, 5);
    for commits in [1, 3] {
        let mut command = command("w", redis.port, &postgres.url(), &[]);
        command.env("RINGCAST_FAILPOINT", format!("committed:{commits}"));
        let mut worker = spawn(command);
        worker.ended();
    }
    assert!(pending(&redis) >= 100 && rows(&postgres) >= 300);
    let worker = start("w", &redis, &postgres, &[]);
    await_rows(&postgres, 1_000);
    await_none_pending(&redis);
    expect_whole(&postgres, 1_000);
    assert!(worker.metric("worker_rows_repeated_total") >= 100);
}

/// FAULTS E5: a worker dies for good with entries pending; another takes over, and the dead
/// consumer goes only when nothing is pending with it.
#[test]
fn what_a_dead_worker_left_is_taken_over() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    fill(&redis, 1_500, 5);
    let gone = start(
        "gone",
        &redis,
        &postgres,
        &["--batch-size", "2000", "--batch-timeout", "10m"],
    );
    gone.await_metric("worker_held_entries", 1_500);
    let other = start("other", &redis, &postgres, &[]);
    assert_eq!(rows(&postgres), 0);
    gone.kill();
    await_rows(&postgres, 1_500);
    await_none_pending(&redis);
    expect_whole(&postgres, 1_500);
    other.await_metric("worker_claimed_total", 1_500);
    eventually("the dead consumer to be removed", || {
        let consumers = redis.ask(&[
            "XINFO",
            "CONSUMERS",
            super::workers::STREAM,
            super::workers::GROUP,
        ]);
        (consumers.as_array()?.len() == 1).then_some(())
    });
}

/// FAULTS E4: one stands still for longer than it may be away: the other claims, both write.
#[test]
fn one_that_stood_still_writes_too_and_nothing_comes_twice() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    // Well before it stands still: else it may hold the lock under which the tables are made.
    let still = start(
        "still",
        &redis,
        &postgres,
        &["--batch-size", "1000", "--batch-timeout", "5s"],
    );
    fill(&redis, 800, 5);
    still.await_metric("worker_held_entries", 800);
    still.signal(Signal::STOP);
    let _other = start("other", &redis, &postgres, &[]);
    await_rows(&postgres, 800);
    still.signal(Signal::CONT);
    still.await_metric("worker_rows_repeated_total", 800);
    await_none_pending(&redis);
    expect_whole(&postgres, 800);
}

/// FAULTS E2: a worker is killed every few seconds under load: nothing is lost or comes twice.
#[test]
fn a_worker_is_killed_again_and_again() {
    if !all() {
        return skip("RINGCAST_TEST_ALL=1 runs it");
    }
    let (redis, postgres) = (Redis::start(&[]), Postgres::lasting(&[]));
    let servers = instances::start_all(3, &redis, &[]);
    let plan = Plan {
        clients: 300,
        rooms: 30,
        rate: 2_000,
        messages: 120_000,
        payload: 128,
        fault: Duration::from_secs(60),
    };
    let mut ledger = Ledger::start(&servers, &plan);
    while ledger.is_running() {
        let worker = begin("w", &redis, &postgres, &[]);
        thread::sleep(Duration::from_secs(3));
        worker.kill();
    }
    ledger.verdict().expect_honest();
    let _worker = start("w", &redis, &postgres, &[]);
    await_rows_at_least(&postgres, 120_000);
    await_none_pending(&redis);
    expect_all_acked(&redis, &postgres);
}
