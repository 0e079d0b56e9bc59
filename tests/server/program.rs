//! Starting, and being refused to start; asking from outside.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Client, Server, all, command, eventually, ringcast, skip};

/// Serves in vain: it must end by itself with `code`, and say why in a line or more.
fn refused(flags: &[&str], code: i32) -> String {
    let dir = TempDir::new().unwrap();
    refused_on(dir.path().to_str().unwrap(), flags, code)
}

fn refused_on(dir: &str, flags: &[&str], code: i32) -> String {
    let mut child = command(dir.as_ref(), flags).spawn().unwrap();
    // Should it serve after all, it is not to be left behind.
    let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("its end", || child.try_wait().unwrap())
    }));
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(status.unwrap().code(), Some(code), "{flags:?}: {said}");
    assert!(!said.contains("serving") && !said.contains("panicked"));
    said
}

#[test]
fn health_says_how_it_is() {
    let server = Server::start(&[]);
    let port = server.port.to_string();
    let health = |port: &str| -> Output { ringcast(&["health", "--port", port]).output().unwrap() };
    let output = health(&port);
    assert_eq!(output.status.code(), Some(0));
    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(body["status"], "ok");
    server.kill();
    let output = health(&port);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
}

/// What an instance has open was counted before its last shard had a ring, and then a test of
/// leaks waited in vain for the number to be so low again.
#[test]
fn it_is_said_to_serve_when_every_shard_does() {
    for _ in 0..5 {
        let server = Server::start(&[]);
        let files = server.files();
        for shard in 0..2 {
            Client::on_shard(&server, shard).close();
        }
        eventually("no more files than at the start", || {
            (server.files() <= files).then_some(())
        });
        server.stop();
    }
}

/// The line that says why, of all that was said before the end; and it ends in time.
fn one_line(mut command: Command) -> String {
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("its end", || child.try_wait().unwrap())
    }));
    let took = began.elapsed();
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!ended.unwrap().success(), "{said}");
    // By itself it takes some 50 ms; other tests are in the way.
    let longest = Duration::from_secs(if all() { 2 } else { 10 });
    assert!(took < longest, "{took:?}: {said}");
    let mut lines = said.lines().filter(|line| !line.contains("WARN"));
    let line = lines.next().unwrap_or_default().to_owned();
    assert_eq!(lines.next(), None, "{said}");
    line
}

/// FAULTS F11: missing, senseless, out of range, a port and an address that can't be had, files
/// that are not there: one line that names it, within 2 s (10 s in the quick set), no secret.
#[test]
fn what_it_can_not_start_with_is_one_line() {
    let server = Server::start(&[]);
    let port = server.port.to_string();
    let secret = "redis://:hunter2@127.0.0.1:99999";
    for (flags, word) in [
        (&["--port", "http"][..], "--port"),
        (&["--port", "70000"], "--port"),
        (&["--port", &port], &port),
        (&["--bind", "192.0.2.1"], "192.0.2.1"),
        (&["--bind", "here"], "--bind"),
        (&["--store", "floppy"], "--store"),
        (&["--max-message-bytes", "much"], "--max-message-bytes"),
        (&["--ring-entries", "0"], "--ring-entries"),
        (&["--drain-window", "-1s"], "--drain-window"),
        (&["--redis-url", secret], "--redis-url"),
        (&["--instance-id", ""], "--instance-id"),
        (&["--no-such-setting", "1"], "--no-such-setting"),
        (&["--data-dir", "/dev/null/x"], "/dev/null/x"),
    ] {
        let dir = TempDir::new().unwrap();
        let mut plain = command(dir.path(), &[]);
        if ["--port", "--instance-id", "--data-dir", "--ring-entries"].contains(&flags[0]) {
            // They are given already, and once only.
            plain = ringcast(&["serve"]);
            if flags[0] != "--data-dir" {
                plain.arg("--data-dir").arg(dir.path());
            }
            plain.stdout(Stdio::null()).stderr(Stdio::piped());
        }
        plain.args(flags);
        let line = one_line(plain);
        assert!(line.contains(word), "{flags:?}: {line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

/// FAULTS F11: no permission for its directory, by somebody who has no rights.
#[test]
fn a_directory_of_somebody_else() {
    if !rustix::process::geteuid().is_root() {
        return skip("to become somebody else needs root");
    }
    let as_nobody = |words: &Command| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(words.get_program()).args(words.get_args());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    };
    let reaches = as_nobody(&ringcast(&["--version"])).output();
    if !reaches.is_ok_and(|output| output.status.success()) {
        return skip("this needs setpriv, and a program that anybody may start");
    }
    let dir = TempDir::new().unwrap();
    let line = one_line(as_nobody(&command(dir.path(), &[])));
    assert!(line.contains(dir.path().to_str().unwrap()), "{line}");
    assert!(line.to_lowercase().contains("permission"), "{line}");
}

/// FAULTS F11: the port is taken: one line with it, and no connection is taken away.
#[test]
fn a_port_that_is_taken() {
    let server = Server::start(&[]);
    let port = server.port.to_string();
    let said = refused(&["--port", &port], 1);
    let errors: Vec<_> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.len() == 1 && errors[0].contains(&port), "{said}");
    // It did not take connections away from the one who has it.
    for _ in 0..20 {
        Client::new(&server).close();
    }
}

/// FAULTS F11: a directory that another instance has.
#[test]
fn a_directory_that_is_in_use() {
    let server = Server::start(&[]);
    let dir = server.dir.path().to_str().unwrap();
    let said = refused_on(dir, &[], 1);
    assert!(said.contains(dir), "{said}");
    assert!(said.contains(&server.pid().to_string()), "whose: {said}");
    // And the drain socket is still that of the first.
    let output = ringcast(&["drain", "--data-dir", dir]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

/// FAULTS F11: a directory that can not be written.
#[test]
fn a_directory_that_can_not_be_written() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    for bad in [file.clone(), file.join("below"), "/proc/no".into()] {
        let bad = bad.to_str().unwrap();
        let said = refused_on(bad, &[], 1);
        assert!(said.contains(bad), "{said}");
    }
}

/// FAULTS F11: a database that is damaged.
#[test]
fn a_database_that_is_none() {
    let dir = Arc::new(TempDir::new().unwrap());
    let server = Server::start_on(dir.clone(), &[]);
    server.stop();
    for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
        match entry.path().extension().and_then(|e| e.to_str()) {
            Some("db") => std::fs::write(entry.path(), vec![b'x'; 8192]).unwrap(),
            // What SQLite has not written back yet would mend it.
            Some("db-wal" | "db-shm") => std::fs::remove_file(entry.path()).unwrap(),
            _ => {}
        }
    }
    let said = refused_on(dir.path().to_str().unwrap(), &[], 1);
    assert!(said.contains("damaged"), "{said}");
}

/// FAULTS F11: senseless and out of range: the setting is named.
#[test]
fn settings_that_are_bad() {
    for (flags, word) in [
        (&["--driver", "kqueue"][..], "--driver"),
        (&["--shards", "0"], "--shards"),
        (&["--port", "65536"], "--port"),
        (&["--max-connections", "x"], "--max-connections"),
        (&["--heartbeat", "never"], "--heartbeat"),
    ] {
        let said = refused(flags, 2);
        assert!(said.contains(word), "{said}");
    }
    let said = refused(&["--max-connections", "4000000000"], 1);
    assert!(said.contains("ulimit -n"), "{said}");
    let output = ringcast(&["check-config", "--shards", "no"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// FAULTS G10: storing and delivering on io_uring and on epoll.
#[test]
fn each_driver_does_the_same() {
    let auto = Server::start(&[]).get("/health").json()["driver"].clone();
    for driver in ["io_uring", "epoll"] {
        if driver == "io_uring" && auto == "epoll" {
            // Where the kernel refuses it, who insists is told so, and what to do.
            let said = refused(&["--driver", driver], 1);
            assert!(said.contains("--driver epoll"), "{said}");
            continue;
        }
        let server = Server::start(&["--driver", driver]);
        assert_eq!(server.get("/health").json()["driver"], driver);
        let mut clients = [Client::on_shard(&server, 0), Client::on_shard(&server, 1)];
        for client in &mut clients {
            client.join("a");
        }
        clients[0].publish_all("a", 0..1_000, |n| json!({"n":n,"fill":"x".repeat(500)}));
        for client in &mut clients {
            client.messages("a", 1, 1_000);
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn one_shard_or_many() {
    for shards in ["1", "3", "7"] {
        let server = Server::start(&["--shards", shards]);
        assert_eq!(server.get("/health").json()["shards"].to_string(), shards);
        let mut clients: Vec<_> = (0..8).map(|_| Client::new(&server)).collect();
        for client in &mut clients {
            client.join("a");
            client.join("b");
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.publish("a", json!(n));
            client.publish("b", json!(n));
        }
        for client in &mut clients {
            client.messages("a", 1, 8);
            client.messages("b", 1, 8);
        }
    }
}

/// The number of shards may change between two runs: a room's home moves, its offsets stay.
#[test]
fn another_number_of_shards_on_the_same_directory() {
    let mut dir = Arc::new(TempDir::new().unwrap());
    let mut epoch = Value::Null;
    for (run, shards) in (1..).zip(["2", "5", "1"]) {
        let server = Server::start_on(dir, &["--shards", shards]);
        let mut client = Client::new(&server);
        for room in ["a", "b", "c", "d"] {
            let joined = client.join(room);
            assert_eq!(joined["offset"], run - 1);
            if run > 1 {
                assert_eq!(joined["epoch"], epoch);
            }
            epoch = joined["epoch"].clone();
            assert_eq!(client.publish(room, json!(run)), run);
        }
        drop(client);
        dir = server.stop();
    }
}
