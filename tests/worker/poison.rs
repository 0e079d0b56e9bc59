//! Entries that can't be stored, and `ringcast dead`.

use std::time::Instant;

use serde_json::{Value, json};

use super::postgres::Postgres;
use super::redis::Redis;
use super::support::{Client, all, eventually, ringcast};
use super::workers::{
    DEAD, STREAM, Writer, await_none_pending, await_rows, expect_whole, fill, ours, pending, rows,
    start,
};

/// Entries that no table takes, but for what is too large.
fn poison(kind: u64) -> Vec<(&'static str, Vec<u8>)> {
    let mut fields = ours("poison", 1, "1");
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    match kind % 9 {
        0 => fields[3].1 = b"\"a \\u0000 b\"".to_vec(),
        1 => fields[3].1 = b"\"\\ud800\"".to_vec(),
        2 => fields[3].1 = b"\"\xff\"".to_vec(),
        3 => fields[0].1 = "r".repeat(256).into_bytes(),
        4 => fields[3].1 = b"1e200000".to_vec(),
        5 => fields[3].1 = deep.into_bytes(),
        6 => drop(fields.remove(0)),
        7 => drop(fields.remove(3)),
        _ => fields[3].1 = b"{\"no\": json".to_vec(),
    }
    fields
}

fn dead_len(redis: &Redis) -> u64 {
    redis.ask(&["XLEN", DEAD]).as_u64().unwrap()
}

/// FAULTS E6: one in a hundred is poison: it is set aside with its reason and its bytes, and all
/// others are stored.
#[test]
fn poison_is_set_aside_and_its_neighbours_are_stored() {
    poison_among(1_000);
    if all() {
        // Largest batches: what is refused with one bad row, and tried again, is most.
        poison_among(10_000);
    }
}

fn poison_among(batch: u64) {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let count = if all() { 100_000 } else { 10_000 };
    let flags = ["--batch-size", &batch.to_string()];

    // Clean, for comparison: told and not asserted, for the machine is shared.
    fill(&redis, count, 10);
    let began = Instant::now();
    let worker = start("w", &redis, &postgres, &flags);
    await_rows(&postgres, count);
    let clean = count as f64 / began.elapsed().as_secs_f64();
    worker.stop();
    postgres.sql("TRUNCATE messages, room_deltas, room_totals, room_users");
    redis.ask(&["FLUSHALL"]);

    let mut writer = Writer::new(&redis);
    let (mut good, mut bad) = (0, 0);
    for n in 0..count {
        if n % 100 == 99 {
            writer.add(&poison(bad));
            bad += 1;
        } else {
            writer.add(&ours("r", good + 1, "{\"fine\":true}"));
            good += 1;
        }
    }
    writer.flush();
    let began = Instant::now();
    let worker = start("w", &redis, &postgres, &flags);
    await_rows(&postgres, good);
    await_none_pending(&redis);
    let poisoned = count as f64 / began.elapsed().as_secs_f64();
    eprintln!(
        "batches of {batch}: {clean:.0} rows/s clean, {poisoned:.0} with poison: {:.2}",
        poisoned / clean
    );
    expect_whole(&postgres, good);
    assert_eq!(dead_len(&redis), bad);
    worker.await_metric("worker_dead_total", bad);
    worker.await_metric("worker_dead_entries", bad);

    // Each with its reason and its bytes.
    let entries = redis.ask(&["XRANGE", DEAD, "-", "+"]);
    let mut states = std::collections::BTreeSet::new();
    for entry in entries.as_array().unwrap() {
        let fields = entry[1].as_array().unwrap();
        let names: Vec<_> = fields
            .iter()
            .step_by(2)
            .map(|name| name.as_str().unwrap())
            .collect();
        assert_eq!(names[..3], ["entry", "sqlstate", "error"], "{entry}");
        assert!(!fields[5].as_str().unwrap().is_empty(), "{entry}");
        let id = fields[1].as_str().unwrap();
        let original = redis.ask(&["XRANGE", STREAM, id, id]);
        assert_eq!(
            original[0][1].as_array().unwrap()[..],
            fields[6..],
            "byte for byte"
        );
        states.insert(fields[3].as_str().unwrap().to_owned());
    }
    for state in ["22P05", "22P02", "22021", "22003", "54001", ""] {
        assert!(states.contains(state), "{state}: {states:?}");
    }
}

/// FAULTS E6: a batch of nothing but poison.
#[test]
fn a_batch_of_nothing_but_poison() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let count = if all() { 10_000 } else { 1_000 };
    let mut writer = Writer::new(&redis);
    for n in 0..count {
        writer.add(&poison(n));
    }
    writer.add(&ours("r", 1, "1"));
    writer.flush();
    let worker = start("w", &redis, &postgres, &["--batch-size", "10000"]);
    // There is patience for each step: each takes PostgreSQL two questions.
    let mut before = 0;
    while before < count {
        before = eventually(&format!("{count} dead, more than {before}"), || {
            let now = dead_len(&redis);
            (now > before).then_some(now)
        });
    }
    await_rows(&postgres, 1);
    await_none_pending(&redis);
    assert_eq!(dead_len(&redis), count);
    worker.stop();
}

/// FAULTS E6: a field of 100 MiB, which no reply brings; and what is behind it.
#[test]
fn an_entry_that_is_too_large_to_be_read_is_set_aside_unseen() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    fill(&redis, 300, 1);
    let mut writer = Writer::new(&redis);
    let mut large = ours("large", 1, "1");
    large[3].1 = vec![b'x'; 100 << 20];
    writer.add(&large);
    writer.flush();
    let mut writer = Writer::new(&redis);
    for offset in 301..=400 {
        writer.add(&ours("room-0", offset, "1"));
    }
    writer.flush();
    let worker = start("w", &redis, &postgres, &["--batch-size", "1000"]);
    await_rows(&postgres, 400);
    await_none_pending(&redis);
    expect_whole(&postgres, 400);
    assert_eq!(dead_len(&redis), 1);
    let bytes = redis
        .ask(&["MEMORY", "USAGE", DEAD, "SAMPLES", "0"])
        .as_u64()
        .unwrap();
    assert!(bytes > 100 << 20, "the original is in it: {bytes}");
    assert!(worker.log().contains("larger than"), "{}", worker.log());
    let dead = Dead::new(&redis, &postgres);
    let listed = dead.run(&["list"]);
    assert!(
        listed.contains("(104857600 bytes)") && listed.len() < 4_000,
        "{listed}"
    );
}

/// `ringcast dead` over these.
struct Dead {
    redis: String,
    postgres: String,
}

impl Dead {
    fn new(redis: &Redis, postgres: &Postgres) -> Self {
        Self {
            redis: redis.address(),
            postgres: postgres.url(),
        }
    }

    fn run(&self, words: &[&str]) -> String {
        let mut command = ringcast(&["dead"]);
        command.args(words).args(["--redis-url", &self.redis]);
        let output = command
            .args(["--postgres-url", &self.postgres])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn the_dead_are_listed_retried_and_dropped() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let worker = start("w", &redis, &postgres, &[]);
    // Somebody's own rule: it may be lifted later.
    postgres.sql("ALTER TABLE messages ADD CONSTRAINT quiet CHECK (payload::text !~ 'SHOUT')");
    let mut writer = Writer::new(&redis);
    for n in 0..120 {
        writer.add(&ours(
            "r",
            n + 1,
            if n % 40 == 7 { "\"SHOUT\"" } else { "\"talk\"" },
        ));
    }
    writer.add(&poison(0));
    // Foreign: its id and time are those of the place where it stood.
    writer.add(&ours("foreign", 1, "\"SHOUT\"")[..5]);
    writer.flush();
    await_rows(&postgres, 117);
    eventually("the dead", || (dead_len(&redis) == 5).then_some(()));
    worker.stop();

    let dead = Dead::new(&redis, &postgres);
    let listed = dead.run(&["list"]);
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.last(), Some(&"5 entries"));
    let shown: Vec<Value> = lines[..5]
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shout = shown.iter().find(|one| one["sqlstate"] == "23514").unwrap();
    assert!(
        shout["error"].as_str().unwrap().contains("quiet"),
        "{shout}"
    );
    assert_eq!(shout["fields"]["payload"], "\"SHOUT\"");
    let nul = shown.iter().find(|one| one["sqlstate"] == "22P05").unwrap();

    assert!(dead.run(&["retry"]).ends_with("stored 0, left 5\n"));
    postgres.sql("ALTER TABLE messages DROP CONSTRAINT quiet");
    let one = shout["id"].as_str().unwrap();
    assert_eq!(dead.run(&["retry", one]), "stored 1, left 0\n");
    assert_eq!(
        dead.run(&["retry", one]),
        format!("{one}: there is no such entry\nstored 0, left 1\n")
    );
    assert!(dead.run(&["retry", "all"]).ends_with("stored 3, left 1\n"));
    assert_eq!(rows(&postgres), 121);
    let foreign = "SELECT count(*) FROM messages WHERE room_name = 'foreign' AND epoch IS NULL \
                   AND id::text LIKE '________-____-5%'";
    assert_eq!(postgres.count(foreign), 1);
    assert_eq!(dead_len(&redis), 1);
    assert_eq!(
        dead.run(&["drop", nul["id"].as_str().unwrap()]),
        "dropped 1 of 1\n"
    );
    assert_eq!(dead.run(&["drop", "all"]), "dropped 0\n");
    assert_eq!(dead.run(&["list"]), "0 entries\n");
    assert_eq!(
        postgres.count("SELECT sum(message_count) FROM room_stats"),
        121
    );
}

/// FAULTS B9: whatever clients send, what servers take is stored.
#[test]
fn what_servers_take_is_never_refused() {
    let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
    let server = super::instances::start("a", &redis, &[]);
    let worker = start("w", &redis, &postgres, &["--batch-size", "1000"]);
    let mut client = Client::new(&server);
    let rounds = if all() { 100_000 } else { 3_000 };
    let mut taken = 0;
    for n in 0..rounds {
        let text = json_like(&mut fastrand::Rng::with_seed(n));
        let frame =
            format!("{{\"type\":\"publish\",\"room\":\"r\",\"payload\":{text},\"ref\":{n}}}");
        client.send_text(&frame);
        let answer = client.recv();
        taken += u64::from(answer["type"] == "ack");
    }
    eprintln!("{taken} of {rounds} were taken");
    assert!(taken > rounds / 20);
    await_rows(&postgres, taken);
    await_none_pending(&redis);
    assert_eq!((dead_len(&redis), pending(&redis)), (0, 0));
    assert_eq!(worker.metric("worker_dead_total"), 0);
}

/// Something that JSON might be, or nearly.
fn json_like(rng: &mut fastrand::Rng) -> String {
    let pieces = [
        "1",
        "-0",
        "1e5",
        "1e999",
        "1e200000",
        "0.1e-16383",
        "1e-20000",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "\"\\udc00x\"",
        "\"text\"",
        "\"\u{e9}\u{1f600}\"",
        "true",
        "null",
        "nul",
        "{\"a\":1,\"a\":2}",
        "[]",
        "{}",
        "[1,",
        "\"\\\\u0000\"",
        "123456789012345678901234567890",
    ];
    let piece = rng.choice(pieces).unwrap();
    let depth = if rng.bool() { 0 } else { rng.usize(..140) };
    match rng.u32(..3) {
        0 => format!("{}{piece}{}", "[".repeat(depth), "]".repeat(depth)),
        1 => format!("{}{piece}{}", "{\"k\":".repeat(depth), "}".repeat(depth)),
        _ => json!([piece, depth]).to_string(),
    }
}
