//! All come back at once, to an instance that has little of the past.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::instances::start;
use super::redis::Redis;
use super::support::all;

/// 500 clients in 50 rooms (5,000 in 500) have missed messages, more than the instances keep that
/// they come to with `since`, first to the one and then to the other: each gets exactly what it
/// missed, and the stream is read for all of them together, not once a room or client. How often is
/// a matter of how long they take to come: a reading is shared by those who wait when it begins.
#[test]
fn all_come_back_and_the_stream_is_read_once_for_all() {
    let redis = Redis::start(&[]);
    let first = start("a", &redis, &[]);
    let others = ["b", "c"].map(|id| start(id, &redis, &["--room-log-bytes", "1048576"]));
    let to = others.each_ref().map(|server| server.address());
    let (clients, rooms, reads_below) = match all() {
        true => (5_000, 500, 500),
        false => (500, 50, 25),
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["resume", "--json", "--addr", &first.address()]);
    command.args(["--to", &to.join(","), "--redis", &redis.address()]);
    for (flag, value) in [
        ("--clients", clients),
        ("--rooms", rooms),
        ("--messages", 20),
        ("--missed", 40),
        ("--payload", 700),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let figures: Value = serde_json::from_str(&said).unwrap();
    eprintln!("{figures}");
    assert_eq!(figures["unrecovered"], 0, "{figures}");
    let reads = figures["redis_stream_reads_by_instance"]
        .as_array()
        .unwrap();
    assert_eq!(reads.len(), 2, "{figures}");
    for reads in reads {
        let reads = reads.as_u64().unwrap();
        assert!(0 < reads && reads < reads_below, "{figures}");
    }
}
