//! What PostgreSQL and Redis refuse, one after the other: named, waited for, nothing lost.
//!
//! Each worker is well, then something is wrong while entries come, then it is not any more.

use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::postgres::Postgres;
use super::redis::Redis;
use super::support::{Server, all, skip};
use super::talk::Talk;
use super::workers::{
    Writer, await_line, await_none_pending, await_ok, await_rows, command, expect_whole, fill,
    ours, rows, spawn, start,
};

/// How long what is wrong is so, beyond what must be seen of it.
fn lasts() -> Duration {
    Duration::from_secs(if all() { 20 } else { 1 })
}

struct World {
    redis: Redis,
    postgres: Postgres,
    worker: Server,
    offset: u64,
}

impl World {
    fn new(settings: &[&str]) -> Self {
        // What a crash loses by its settings would be lost here too.
        let (redis, postgres) = (Redis::start(&[]), Postgres::lasting(settings));
        let worker = start("w", &redis, &postgres, &[]);
        let mut world = Self {
            redis,
            postgres,
            worker,
            offset: 0,
        };
        world.add(150);
        await_rows(&world.postgres, 150);
        world
    }

    fn add(&mut self, count: u64) {
        let mut writer = Writer::new(&self.redis);
        for _ in 0..count {
            self.offset += 1;
            writer.add(&ours("r", self.offset, "{\"a\":1}"));
        }
        writer.flush();
    }

    /// Something is wrong from `begin` to `end`: the log says so, with all of `parts` in a line.
    fn check(&mut self, parts: &[&str], begin: impl FnOnce(&Self), end: impl FnOnce(&mut Self)) {
        begin(self);
        self.add(250);
        let within = await_line(&self.worker, parts);
        eprintln!("{parts:?} after {within:?}");
        let cpu = self.worker.cpu();
        thread::sleep(lasts());
        let busy = self.worker.cpu() - cpu;
        assert!(
            busy < lasts() / 2,
            "no busy loop: {busy:?} of {:?}",
            lasts()
        );
        assert_eq!(self.worker.get("/health").json()["status"], "degraded");
        end(self);
        self.heals();
        let log = self.worker.log();
        let said = log.lines().filter(|line| line.contains("WARN")).count();
        assert!(said < 40, "no flood: {said} lines\n{log}");
    }

    fn heals(&mut self) {
        await_rows(&self.postgres, self.offset);
        await_none_pending(&self.redis);
        expect_whole(&self.postgres, self.offset);
        await_ok(&self.worker);
    }

    fn backend(&self) -> Pid {
        let pid = self.postgres.backend("ringcast-w").unwrap();
        Pid::from_raw(pid as i32).unwrap()
    }
}

/// FAULTS E8: PostgreSQL is killed and comes back; nothing is lost, nothing comes twice.
#[test]
fn postgres_is_killed_and_comes_back() {
    let mut world = World::new(&[]);
    world.postgres.kill();
    world.add(500);
    await_line(&world.worker, &["PostgreSQL", "is PostgreSQL running"]);
    thread::sleep(lasts());
    world.postgres.up();
    world.heals();
}

/// FAULTS E9: a backend stands still; then it is ended again and again.
#[test]
fn a_backend_stands_still_and_is_ended() {
    let mut world = World::new(&[]);
    let backend = world.backend();
    kill_process(backend, Signal::STOP).unwrap();
    world.add(100);
    await_line(&world.worker, &["PostgreSQL does not answer"]);
    await_rows(&world.postgres, world.offset);
    // What it had taken in may be done now, after all.
    let _ = kill_process(backend, Signal::CONT);
    world.heals();
    for _ in 0..if all() { 30 } else { 3 } {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE application_name = 'ringcast-w'";
        world.postgres.sql(end);
        world.add(200);
        thread::sleep(Duration::from_millis(if all() { 1_000 } else { 300 }));
    }
    world.heals();
}

/// FAULTS E12: PostgreSQL is read-only for a while: told, tried again, nothing lost.
#[test]
fn postgres_is_read_only() {
    let mut world = World::new(&[]);
    let set = |world: &World, value: &str| {
        let sql = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        world
            .postgres
            .sql(&format!("SET default_transaction_read_only = off; {sql}"));
        world.postgres.reload();
    };
    world.check(
        &["takes no writes", "25006"],
        |world| set(world, "on"),
        |world| set(world, "off"),
    );
}

/// FAULTS E13: somebody locks the table: the worker waits with a timeout, nothing is lost.
#[test]
fn somebody_locks_the_table() {
    let mut world = World::new(&[]);
    let lock = std::cell::RefCell::new(None);
    world.check(
        &["holds a lock", "55P03"],
        |world| {
            let mut talk = Talk::new(&world.postgres);
            talk.sql("BEGIN; LOCK TABLE messages");
            *lock.borrow_mut() = Some(talk);
        },
        |_| drop(lock.borrow_mut().take()),
    );
}

/// FAULTS E14: a table is missing: the cause is named, and it heals.
#[test]
fn a_table_is_missing_for_a_while() {
    let mut world = World::new(&[]);
    world.check(
        &["the table messages is missing"],
        |world| {
            drop(
                world
                    .postgres
                    .sql("ALTER TABLE messages RENAME TO elsewhere"),
            )
        },
        |world| {
            drop(
                world
                    .postgres
                    .sql("ALTER TABLE elsewhere RENAME TO messages"),
            )
        },
    );
}

/// FAULTS E14: a column is of another type: named, and nothing is set aside for it.
#[test]
fn a_column_is_of_another_type_for_a_while() {
    let mut world = World::new(&[]);
    world.check(
        &["messages.offset is of type text and should be bigint"],
        |world| {
            let sql = "ALTER TABLE messages ALTER \"offset\" TYPE text";
            world.postgres.sql(sql);
        },
        |world| {
            let sql = "ALTER TABLE messages ALTER \"offset\" TYPE bigint USING \"offset\"::bigint";
            world.postgres.sql(sql);
        },
    );
    assert_eq!(world.worker.metric("worker_dead_total"), 0);
}

/// FAULTS E14: a column must have a value that no row brings: named, nothing is set aside for it.
#[test]
fn a_column_must_have_a_value_for_a_while() {
    let mut world = World::new(&[]);
    world.check(
        &["messages.extra must have a value"],
        |world| {
            let sql = "ALTER TABLE messages ADD extra int NOT NULL DEFAULT 1; \
                       ALTER TABLE messages ALTER extra DROP DEFAULT";
            world.postgres.sql(sql);
        },
        |world| drop(world.postgres.sql("ALTER TABLE messages DROP extra")),
    );
    assert_eq!(world.worker.metric("worker_dead_total"), 0);
}

/// FAULTS E14: connections are used up: named, and it heals.
#[test]
fn there_are_too_many_connections() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&["max_connections=8"]));
    postgres.sql(
        "CREATE USER guest LOGIN; ALTER SCHEMA public OWNER TO guest; \
                  ALTER USER guest CONNECTION LIMIT 0",
    );
    fill(&redis, 100, 1);
    let worker = spawn(command("w", redis.port, &postgres.url_as("guest"), &[]));
    await_line(&worker, &["as many connections as it takes", "53300"]);
    postgres.sql("ALTER USER guest CONNECTION LIMIT -1");
    await_rows(&postgres, 100);
    await_ok(&worker);
}

/// FAULTS E14: the password is another, the database is not there: named, and it heals.
#[test]
fn the_password_is_changed_and_the_database_is_made_later() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    postgres.sql("CREATE USER worker LOGIN PASSWORD 'new'; ALTER SCHEMA public OWNER TO worker");
    postgres.set_hba(&["host all all 127.0.0.1/32 scram-sha-256"]);
    fill(&redis, 100, 1);
    let worker = spawn(command(
        "w",
        redis.port,
        &postgres.url_as("worker:old-secret"),
        &[],
    ));
    await_line(&worker, &["does not let this user in", "28P01"]);
    postgres.sql("ALTER USER worker PASSWORD 'old-secret'");
    await_rows(&postgres, 100);
    assert!(!worker.log().contains("old-secret"));
    worker.stop();

    let url = postgres
        .url_as("worker:old-secret")
        .replace("/postgres", "/later");
    let worker = spawn(command("w", redis.port, &url, &[]));
    await_line(&worker, &["no such database", "3D000"]);
    postgres.sql("CREATE DATABASE later OWNER worker");
    await_ok(&worker);
    let mut writer = Writer::new(&redis);
    writer.add(&ours("r", 1, "1"));
    writer.flush();
    super::support::eventually("the row in its new home", || {
        let count = postgres.try_sql_in("later", "SELECT count(*) FROM messages");
        (count.ok()?.trim() == "1").then_some(())
    });
}

/// FAULTS E11: the disk of PostgreSQL is full, then it is not (where the tests may mount one).
#[test]
fn the_disk_of_postgres_is_full() {
    let mut world = World::new(&[]);
    let place = world.postgres.path("small");
    std::fs::create_dir(&place).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs"])
        .arg(&place)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip("no right to mount a small disk");
    }
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(&self.0)
                .status();
        }
    }
    let _mounted = Mounted(place.clone());
    let space = place.display();
    let owner = std::fs::metadata(world.postgres.path("data")).unwrap();
    std::os::unix::fs::chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
    world
        .postgres
        .sql(&format!("CREATE TABLESPACE small LOCATION '{space}'"));
    world
        .postgres
        .sql("ALTER TABLE messages SET TABLESPACE small");
    let ballast = place.join("ballast");
    world.check(
        &["disk of PostgreSQL is full", "53100"],
        |_| {
            let mut bytes = 16 << 20;
            while bytes > 0 {
                // Until nothing more fits.
                let file = std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&ballast);
                let chunk = vec![0; bytes];
                if std::io::Write::write_all(&mut file.unwrap(), &chunk).is_err() {
                    bytes /= 2;
                }
            }
        },
        |_| std::fs::remove_file(&ballast).unwrap(),
    );
    world
        .postgres
        .sql("ALTER TABLE messages SET TABLESPACE pg_default");
}

/// FAULTS E11: what a worker logs fits nowhere, as on a full disk: it works as ever.
#[test]
fn a_log_that_takes_nothing_stops_nobody() {
    struct Guard(std::process::Child);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let mut command = command("w", redis.port, &postgres.url(), &["--log-level", "debug"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut worker = Guard(command.stderr(full.unwrap()).spawn().unwrap());
    fill(&redis, 500, 3);
    await_rows(&postgres, 500);
    // Of this it warns.
    redis.ask(&["XADD", super::workers::STREAM, "*", "no", "room"]);
    super::support::eventually("the dead", || {
        let dead = redis.ask(&["XLEN", super::workers::DEAD]);
        (dead == 1).then_some(())
    });
    await_none_pending(&redis);
    expect_whole(&postgres, 500);
    kill_process(Pid::from_child(&worker.0), Signal::TERM).unwrap();
    let status = super::support::eventually("its end", || worker.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// FAULTS E15: four workers, and everybody writes to one room.
#[test]
fn four_workers_and_one_hot_room() {
    let (redis, postgres) = (
        Redis::start(&[]),
        Postgres::start(&["deadlock_timeout=100ms"]),
    );
    let count = if all() { 200_000 } else { 20_000 };
    let workers: Vec<_> = ["a", "b", "c", "d"]
        .map(|id| start(id, &redis, &postgres, &[]))
        .into();
    fill(&redis, count, 1);
    await_rows(&postgres, count);
    await_none_pending(&redis);
    expect_whole(&postgres, count);
    // The same once more, all at once: keys are fought for.
    redis.ask(&[
        "XGROUP",
        "SETID",
        super::workers::STREAM,
        super::workers::GROUP,
        "0",
    ]);
    super::support::eventually("all to be read again", || {
        let repeated = workers
            .iter()
            .map(|worker| worker.metric("worker_rows_repeated_total"));
        (repeated.sum::<u64>() >= count).then_some(())
    });
    await_none_pending(&redis);
    expect_whole(&postgres, count);
}

/// Redis is killed, stands still, and comes back with what it had.
#[test]
fn redis_goes_and_comes_back() {
    let mut redis = Redis::lasting(&["--appendfsync", "always"]);
    let postgres = Postgres::start(&[]);
    let worker = start("w", &redis, &postgres, &[]);
    fill(&redis, 1_000, 5);
    redis.kill();
    await_line(&worker, &["Redis", "is Redis running"]);
    assert_eq!(worker.get("/health").json()["redis"], "down");
    thread::sleep(lasts());
    redis.up();
    await_rows(&postgres, 1_000);
    await_none_pending(&redis);
    expect_whole(&postgres, 1_000);
    await_ok(&worker);
    redis.signal(Signal::STOP);
    await_line(&worker, &["has not answered for 10 s"]);
    redis.signal(Signal::CONT);
    await_ok(&worker);
    fill_more(&redis, 1_000);
    await_rows(&postgres, 2_000);
    expect_whole(&postgres, 2_000);
}

fn fill_more(redis: &Redis, count: u64) {
    let mut writer = Writer::new(redis);
    for offset in 1..=count {
        writer.add(&ours("more", offset, "1"));
    }
    writer.flush();
}

/// PostgreSQL stays away while a worker is told to end: it does, and leaves all as it was.
#[test]
fn a_worker_ends_in_time_though_postgres_is_away() {
    let mut world = World::new(&[]);
    world.postgres.kill();
    world.add(50);
    await_line(&world.worker, &["PostgreSQL", "is PostgreSQL running"]);
    world.worker.await_metric("worker_held_entries", 50);
    world.worker.signal(Signal::TERM);
    let status = world.worker.ended();
    assert_eq!(status.code(), Some(0));
    await_line(&world.worker, &["ending with 50 entries"]);
    world.postgres.up();
    assert_eq!(rows(&world.postgres), 150);
    world.worker = start("w", &world.redis, &world.postgres, &[]);
    world.heals();
}
