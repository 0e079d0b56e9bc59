//! What gets into the table, how, and what is counted.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::instances;
use super::postgres::{Postgres, TABLES};
use super::redis::Redis;
use super::support::{Client, eventually, ringcast};
use super::workers::{
    GROUP, STREAM, Writer, await_line, await_none_pending, await_ok, await_rows, begin, command,
    expect_all_acked, expect_whole, fill, ours, rows, spawn, start,
};

#[test]
fn what_is_published_is_in_the_table() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let worker = start("w", &redis, &postgres, &[]);
    let server = instances::start("a", &redis, &[]);
    let mut client = Client::open(&server, "/ws?username=Wanda");
    let epoch = client.join("r\u{f6}m")["epoch"].clone();
    let id = "0190a000-0000-7000-8000-000000000004";
    client.ask(
        json!({"type":"publish","room":"r\u{f6}m","payload":{"a":[1,"\u{e9}"]},
                       "metadata":{"m":1},"id":id}),
    );
    let message = client.next("message");
    let began = Instant::now();
    await_rows(&postgres, 1);
    // BATCH_TIMEOUT and a second, and what a busy machine adds.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let row = postgres.sql(
        "SELECT json_build_array(room_name, id, epoch, \"offset\", user_id, username, payload, \
         metadata, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
         stored_at >= created_at - interval '1 second') FROM messages",
    );
    let row: Value = serde_json::from_str(&row).unwrap();
    let want = json!(["r\u{f6}m", id, epoch, 1, client.id, "Wanda", {"a":[1,"\u{e9}"]},
                      {"m":1}, message["sent_at"], true]);
    assert_eq!(row, want);

    for n in 0..500 {
        client.publish(&format!("room-{}", n % 7), json!(n));
    }
    await_rows(&postgres, 501);
    expect_all_acked(&redis, &postgres);
    await_none_pending(&redis);
    worker.await_metric("worker_rows_total", 501);
    worker.await_metric("worker_lag_entries", 0);
    assert_eq!(worker.metric("worker_rows_repeated_total"), 0);
    assert!(worker.metric("worker_batches_total") >= 5);
    assert_eq!(
        worker.metric("worker_batch_seconds_count"),
        worker.metric("worker_batches_total")
    );

    let health = worker.get("/health").json();
    let want = json!({"status":"ok","worker_id":"w","redis":"up","postgres":"up","lag":0,
                      "lag_seconds":0,"dead":0});
    assert_eq!(health, want);
    assert_eq!(worker.get("/nothing").status, 404);
    let port = worker.port.to_string();
    let asked = ringcast(&["health", "--worker-port", &port])
        .env("WORKER_ENABLED", "true")
        .output();
    assert!(asked.unwrap().status.success());
    worker.stop();
    let asked = ringcast(&["health", "--worker-port", &port])
        .env("WORKER_ENABLED", "true")
        .output();
    assert_eq!(asked.unwrap().status.code(), Some(1));
}

#[test]
fn entries_of_foreign_writers_get_an_id_and_a_time_of_their_place() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let mut writer = Writer::new(&redis);
    let foreign = ours("r", 1, "{\"f\":1}")[..5].to_vec();
    writer.add(&foreign);
    writer.add(&foreign);
    writer.flush();
    let _worker = start("w", &redis, &postgres, &[]);
    await_rows(&postgres, 2);
    let entries = redis.ask(&["XRANGE", STREAM, "-", "+"]);
    let sql = "SELECT id, epoch IS NULL AND \"offset\" IS NULL, \
               (extract(epoch FROM created_at) * 1000)::bigint FROM messages";
    let mut want: Vec<_> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let entry = entry[0].as_str().unwrap();
            let space = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, STREAM.as_bytes());
            let id = uuid::Uuid::new_v5(&space, entry.as_bytes());
            format!("{id}|t|{}", entry.split('-').next().unwrap())
        })
        .collect();
    let mut found: Vec<_> = postgres.sql(sql).lines().map(str::to_owned).collect();
    want.sort();
    found.sort();
    assert_eq!(found, want);
    let stats = "SELECT message_count, user_count FROM room_stats WHERE room_name = 'r'";
    assert_eq!(postgres.sql(stats).trim(), "2|1");
}

/// A client has used an id again after the window: both are acked, so both are stored.
#[test]
fn an_id_that_is_used_again_drops_nothing() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let mut writer = Writer::new(&redis);
    let first = ours("r", 1, "1");
    let mut again = ours("r", 2, "2");
    again[5] = first[5].clone();
    writer.add(&first);
    writer.add(&again);
    for offset in 3..=50 {
        writer.add(&ours("r", offset, "3"));
    }
    writer.flush();
    let worker = start("w", &redis, &postgres, &[]);
    await_rows(&postgres, 50);
    expect_whole(&postgres, 50);
    worker.await_metric("worker_spare_ids_total", 1);
    // And delivered once more it changes nothing.
    redis.ask(&["XGROUP", "SETID", STREAM, GROUP, "0"]);
    worker.await_metric("worker_rows_repeated_total", 50);
    expect_whole(&postgres, 50);
}

/// Entries keep coming, and are rows soon: the bound is generous, for the machine is shared.
#[test]
fn what_keeps_coming_is_stored_soon() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::lasting(&[]));
    let worker = start("w", &redis, &postgres, &["--batch-timeout", "5s"]);
    let mut writer = Writer::new(&redis);
    for n in 0..5_000 {
        // Foreign ones: their time is that of the entry.
        writer.add(&ours(&format!("room-{}", n % 50), n, "{}")[..5]);
        if n % 50 == 49 {
            writer.flush();
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    writer.flush();
    await_rows(&postgres, 5_000);
    let late = "SELECT (1000 * extract(epoch FROM max(stored_at - created_at)))::int FROM messages";
    let late = postgres.count(late);
    let batches = worker.metric("worker_batches_total");
    eprintln!("{late} ms at most, {batches} batches");
    assert!(late < 12_000, "{late} ms, {batches} batches");
}

/// For want of statistics a plan was chosen that read the whole table for every batch.
#[test]
fn what_may_be_stored_is_looked_up_by_keys() {
    let postgres = Postgres::start(&[]);
    postgres.sql(TABLES);
    postgres.sql(
        "INSERT INTO messages (room_name, id, epoch, \"offset\", user_id, payload, created_at) \
         SELECT 'r', gen_random_uuid(), 'e', n, 'u', '1', now() FROM generate_series(1, 20000) n",
    );
    let session = include_str!("../../src/worker/sql/session.sql");
    let stage = include_str!("../../src/worker/sql/stage.sql");
    let plain: Vec<_> = stage
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect();
    let plain = plain.join("\n");
    let statements: Vec<_> = plain.split(';').collect();
    assert_eq!(statements.len(), 3);
    for statement in statements {
        let plan = postgres.sql(&format!("{session}; EXPLAIN {statement}"));
        let lines: Vec<_> = plan.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let is_scan = line.contains("Scan") && line.contains(" on messages");
            let is_keyed = lines
                .get(at + 1)
                .is_some_and(|line| line.contains("Index Cond"));
            assert!(!is_scan || is_keyed, "{plan}");
        }
    }
}

/// Redis has given an offset out twice: both messages are acked, so both are stored.
#[test]
fn a_position_that_comes_twice_is_counted_and_told() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let worker = start("w", &redis, &postgres, &[]);
    let mut writer = Writer::new(&redis);
    for offset in [1, 2, 3, 3, 4] {
        writer.add(&ours("r", offset, "1"));
    }
    writer.flush();
    await_rows(&postgres, 5);
    worker.await_metric("worker_clashes_total", 2);
    await_line(&worker, &["messages stand at an epoch and offset"]);
    assert_eq!(worker.metric("worker_rows_repeated_total"), 0);
}

/// What a database has to say besides is passed on to whoever reads the log.
#[test]
fn a_warning_of_postgres_is_in_the_log() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let worker = start("w", &redis, &postgres, &[]);
    postgres.sql(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN RAISE WARNING 'the attic is nearly full'; RETURN NULL; END$$; \
         CREATE TRIGGER warn AFTER INSERT ON messages EXECUTE FUNCTION warn()",
    );
    fill(&redis, 10, 2);
    await_rows(&postgres, 10);
    await_line(&worker, &["WARN", "the attic is nearly full"]);
    await_none_pending(&redis);
}

/// FAULTS D3: the worker's group is gone with the stream, and is made anew.
#[test]
fn a_group_that_is_gone_is_made_again() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let worker = start("w", &redis, &postgres, &[]);
    fill(&redis, 200, 4);
    await_rows(&postgres, 200);
    redis.ask(&["XGROUP", "DESTROY", STREAM, GROUP]);
    await_line(&worker, &["group is gone"]);
    worker.await_metric("worker_rows_repeated_total", 200);
    redis.ask(&["FLUSHALL"]);
    let mut writer = Writer::new(&redis);
    for offset in 1..=100 {
        writer.add(&ours("later", offset, "1"));
    }
    writer.flush();
    await_rows(&postgres, 300);
    expect_whole(&postgres, 300);
    await_none_pending(&redis);
}

#[test]
fn what_is_stored_and_old_is_trimmed_and_nothing_else() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    fill(&redis, 5_000, 10);
    let keeps = start("w", &redis, &postgres, &["--batch-size", "1000"]);
    await_rows(&postgres, 5_000);
    keeps.await_metric("worker_lag_entries", 0);
    assert_eq!(redis.stream_len(), 5_000, "an hour stays by default");
    keeps.stop();
    let other = redis.ask(&["XADD", STREAM, "*", "room_name", "r", "payload", "1"]);
    // Somebody has read it and not acked it: what follows stays.
    redis.ask(&[
        "XREADGROUP",
        "GROUP",
        GROUP,
        "other",
        "STREAMS",
        STREAM,
        ">",
    ]);
    fill(&redis, 1_000, 10);
    let flags = ["--stream-retention", "1ms", "--batch-size", "1000"];
    let worker = start("w", &redis, &postgres, &flags);
    await_rows(&postgres, 5_000 + 1_000);
    eventually("what is below the floor to be trimmed", || {
        (redis.stream_len() <= 1_001 + 100).then_some(())
    });
    let first = redis.ask(&["XRANGE", STREAM, "-", "+", "COUNT", "1"]);
    let kept = redis.ask(&[
        "XRANGE",
        STREAM,
        other.as_str().unwrap(),
        other.as_str().unwrap(),
    ]);
    assert_eq!(kept.as_array().unwrap().len(), 1, "{first}");
    redis.ask(&["XACK", STREAM, GROUP, other.as_str().unwrap()]);
    eventually("the rest to be trimmed", || {
        (redis.stream_len() <= 101).then_some(())
    });
    assert_eq!(worker.metric("worker_gone_total"), 0);
}

#[test]
fn old_rows_are_deleted_and_counts_follow() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    // Of 2023, and of now.
    fill(&redis, 3_000, 3);
    let mut writer = Writer::new(&redis);
    for _ in 0..10 {
        writer.add(&ours("room-0", 1, "1")[..5]);
    }
    writer.flush();
    let keeps = start("w", &redis, &postgres, &[]);
    await_rows(&postgres, 3_010);
    keeps.stop();
    let stats = "SELECT room_name, message_count FROM room_stats ORDER BY 1";
    assert_eq!(
        postgres.sql(stats),
        "room-0|1010\nroom-1|1000\nroom-2|1000\n"
    );
    let worker = start("w", &redis, &postgres, &["--retention", "1h"]);
    eventually("old rows to go", || (rows(&postgres) == 10).then_some(()));
    worker.await_metric("worker_deleted_total", 3_000);
    assert_eq!(postgres.sql(stats), "room-0|10\n");
    let first = "SELECT first_message_at > now() - interval '1 hour' FROM room_stats";
    eventually("the first message to be a young one", || {
        (postgres.sql(first).trim() == "t").then_some(())
    });
}

#[test]
fn the_tables_are_made_once_whoever_comes_first() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let workers: Vec<_> = ["a", "b", "c"]
        .map(|id| begin(id, &redis, &postgres, &[]))
        .into();
    workers.iter().for_each(await_ok);
    assert_eq!(postgres.count("SELECT count(*) FROM ringcast_schema"), 1);
    let url = postgres.url();
    let migrate = || {
        let output = ringcast(&["migrate", "--postgres-url", &url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(migrate(), "the tables are up to date\n");
    drop(workers);
    postgres.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    assert_eq!(migrate(), "the tables are at version 1 now\n");
    // By itself, once and again, as in the init directory of a container.
    postgres.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    postgres.sql(TABLES);
    postgres.sql(TABLES);
    assert_eq!(migrate(), "the tables are up to date\n");
    let columns = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY \
                   ordinal_position) FROM information_schema.columns WHERE table_name = 'messages'";
    assert_eq!(
        postgres.sql(columns).trim(),
        "room_name text, id uuid, epoch text, offset bigint, user_id text, username text, \
         payload jsonb, metadata jsonb, created_at timestamp with time zone, \
         stored_at timestamp with time zone"
    );
    fill(&redis, 100, 1);
    let _worker = start("w", &redis, &postgres, &[]);
    await_rows(&postgres, 100);
}

/// Ten thousand rows a batch, and rows that are large: bytes are bounded too.
#[test]
fn large_batches_and_large_rows() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    fill(&redis, 25_000, 50);
    let flags = ["--batch-size", "10000", "--batch-timeout", "500ms"];
    let worker = start("w", &redis, &postgres, &flags);
    await_rows(&postgres, 25_000);
    expect_whole(&postgres, 25_000);
    let mut writer = Writer::new(&redis);
    let large = json!("y".repeat(60 * 1024)).to_string();
    for offset in 1..=1_200 {
        writer.add(&ours("large", offset, &large));
    }
    writer.add(&ours("larger", 1, &json!("z".repeat(40 << 20)).to_string()));
    writer.flush();
    await_rows(&postgres, 25_000 + 1_201);
    expect_whole(&postgres, 25_000 + 1_201);
    await_none_pending(&redis);
    assert_eq!(worker.metric("worker_dead_total"), 0);
    assert!(
        worker.memory_kib() < 400 * 1024,
        "{} KiB",
        worker.memory_kib()
    );
}

/// What is read is stored before a worker ends, however long its batch would have waited.
#[test]
fn who_is_told_to_end_stores_what_it_has() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let worker = start("w", &redis, &postgres, &["--batch-timeout", "10m"]);
    fill(&redis, 150, 3);
    worker.await_metric("worker_held_entries", 50);
    assert_eq!(rows(&postgres), 100);
    worker.stop();
    expect_whole(&postgres, 150);
    assert_eq!(super::workers::pending(&redis), 0);
}

#[test]
fn what_a_worker_needs_is_named() {
    let check = |mut command: Command, parts: &[&str]| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };
    check(
        ringcast(&["worker"]),
        &["--redis-url (REDIS_URL)", "--postgres-url (POSTGRES_URL)"],
    );
    check(ringcast(&["migrate"]), &["--postgres-url (POSTGRES_URL)"]);
    check(
        ringcast(&["worker", "--batch-size", "0"]),
        &["--batch-size"],
    );
    check(ringcast(&["dead"]), &["dead: takes list"]);
    let mut enabled = ringcast(&[]);
    enabled.env("WORKER_ENABLED", "true");
    check(enabled, &["a worker needs it"]);
}

/// Neither is there when it starts: it waits, and works once they are.
///
/// FAULTS F8: the worker before Redis and PostgreSQL, not by 60 s.
#[test]
fn a_worker_may_start_first() {
    let (mut redis, mut postgres) = (Redis::later(), Postgres::start(&[]));
    postgres.shut_down();
    let worker = spawn(command("w", redis.port, &postgres.url(), &[]));
    await_line(&worker, &["PostgreSQL", "is PostgreSQL running"]);
    await_line(&worker, &["Redis", "is Redis running"]);
    assert_eq!(worker.get("/health").json()["status"], "degraded");
    redis.up();
    fill(&redis, 100, 2);
    postgres.up();
    await_rows(&postgres, 100);
    await_ok(&worker);
}
