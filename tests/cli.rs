//! The program from outside: what it prints and how it ends, but for serving.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Runs `ringcast` in an environment of its own.
fn ringcast(args: &[&str], env: &[(&str, &str)]) -> Output {
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcast"));
    let output = command
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output();
    assert!(started.elapsed() < Duration::from_secs(5), "{args:?}");
    output.expect("ringcast runs")
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::to_owned).collect()
}

/// FAULTS F11: a line for each, no secret in them, ended with 2 within 5 s.
#[test]
fn bad_settings_are_named_a_line_each_and_end_it_with_2() {
    let env = [
        ("RINGCAST_SHARDS", "many"),
        ("REDIS_URL", "redis://u:hunter2@h:port"),
        ("POSTGRES_URL", "postgres://u:hunter2@h:port"),
    ];
    let output = ringcast(&["serve", "--port", "port"], &env);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let lines = lines(&output.stderr);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("--port (flag): \"port\" must"));
    assert!(lines[1].starts_with("--redis-url (env REDIS_URL): \"***\""));
    assert!(lines[2].starts_with("--postgres-url (env POSTGRES_URL): \"***\""));
    assert!(lines[3].starts_with("--shards (env RINGCAST_SHARDS): \"many\" must"));
    assert!(!lines.concat().contains("hunter2"));
}

#[test]
fn check_config_prints_all_and_ends_with_0_or_2() {
    let good = ringcast(&["check-config", "--port", "1"], &[]);
    assert_eq!(good.status.code(), Some(0));
    let all = lines(&good.stdout);
    assert!(all.len() > 25 && good.stderr.is_empty(), "{all:?}");
    let bad = ringcast(&["check-config", "--port", "x"], &[]);
    assert_eq!(bad.status.code(), Some(2));
    assert_eq!(lines(&bad.stdout).len(), all.len());
    assert_eq!(lines(&bad.stderr).len(), 1);
}

/// FAULTS F11: what a command needs and lacks is named.
#[test]
fn commands_that_lack_what_they_need_end_with_2_and_name_it() {
    let (redis, postgres) = ("REDIS_URL", "POSTGRES_URL");
    for (args, needed) in [
        (&["worker"][..], &[redis, postgres][..]),
        (&["migrate"], &[postgres]),
        (&["dead", "list"], &[redis]),
    ] {
        let output = ringcast(args, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let told = lines(&output.stderr);
        assert_eq!(told.len(), needed.len(), "{told:?}");
        for (line, name) in told.iter().zip(needed) {
            assert!(line.contains(name), "{line}");
        }
    }
}

#[test]
fn health_and_drain_of_nobody_end_with_1_and_one_line() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("its address").port().to_string();
    drop(free);
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().to_str().expect("its path");
    for args in [["health", "--port", &port], ["drain", "--data-dir", dir]] {
        let output = ringcast(&args, &[]);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(lines(&output.stderr).len(), 1, "{args:?}");
    }
}

#[test]
fn help_and_version_end_with_0() {
    for args in [["--help"], ["--version"]] {
        let output = ringcast(&args, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}
