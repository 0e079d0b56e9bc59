//! The log: one line an event, whatever strangers are called or send; few lines, however many they
//! are; and no secret of ours.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::support::{Client, Server, command, connect, eventually, ringcast};

/// Of the lines of a kind: those that were logged, and how many were left out.
fn lines_of(server: &Server, kind: &str) -> (usize, u64) {
    let log = server.log();
    let is_it = |line: &&str| line.contains(&format!(" {kind} "));
    let lines = log.lines().filter(is_it).count();
    let told = log
        .lines()
        .filter(|line| line.contains("left out") && line.contains(kind));
    let left_out = told.map(|line| {
        let count = line.split("left_out=").nth(1).unwrap();
        count.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    (lines, left_out.sum())
}

/// Each connection is a line with instance, shard and address, until there are too many: then some
/// are, and how many were left out.
#[test]
fn connections_are_logged_and_sampled_under_churn() {
    let server = Server::start(&["--shards", "1", "--store", "memory"]);
    let client = Client::new(&server);
    let line = eventually("the line of a connection", || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("client connected"));
        line.map(str::to_owned)
    });
    for word in [
        "INFO",
        "instance=\"test\"",
        "shard=0",
        "address=127.0.0.1",
        &client.id,
    ] {
        assert!(line.contains(word), "{word} in {line}");
    }
    drop(client);
    const CLIENTS: u64 = 300;
    for _ in 0..CLIENTS {
        Client::new(&server).close();
    }
    eventually("every one is a line or left out", || {
        let (lines, left_out) = lines_of(&server, "client connected");
        (lines as u64 + left_out == CLIENTS + 1).then_some(())
    });
}

/// A server whose log is JSON.
struct Json(
    Child,
    BufReader<std::process::ChildStderr>,
    Vec<String>,
    u16,
);

impl Json {
    fn start(dir: &std::path::Path) -> Self {
        let mut child = command(dir, &["--log-format", "json"]).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut json = Self(child, log, Vec::new(), 0);
        while json.3 == 0 {
            let mut line = String::new();
            assert!(json.1.read_line(&mut line).unwrap() > 0, "{:?}", json.2);
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "serving" {
                let address: std::net::SocketAddr =
                    event["address"].as_str().unwrap().parse().unwrap();
                json.3 = address.port();
            }
            json.2.push(line.trim_end().to_owned());
        }
        json
    }

    /// Ends it; all its lines.
    fn finish(mut self) -> Vec<String> {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let mut rest = String::new();
        self.1.read_to_string(&mut rest).unwrap();
        self.2.extend(rest.lines().map(str::to_owned));
        std::mem::take(&mut self.2)
    }
}

impl Drop for Json {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As JSON each line is one object, whatever users and rooms are called.
#[test]
fn json_lines_are_one_object_each() {
    let dir = tempfile::tempdir().unwrap();
    let json = Json::start(dir.path());
    let name = "%22%7D%E2%80%A8%1b%5b2J%0d%0aERROR";
    let mut client = Client::over(connect(json.3), "/ws?username=x%22%7D%E2%80%A8");
    client.join("room\"}{\u{2028}");
    client.publish("room\"}{\u{2028}", json!("\u{7f}\n"));
    let mut socket = connect(json.3);
    let head = format!("GET /ws?username={name}&room={name} HTTP/1.1\r\nHost: a\r\n\r\n");
    std::io::Write::write_all(&mut socket, head.as_bytes()).unwrap();
    let _ = crate::support::read_to_end(&mut socket);
    let lines = json.finish();
    assert!(lines.len() >= 2, "{lines:?}");
    for line in &lines {
        assert!(!line.contains(char::is_control), "{line:?}");
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event.is_object() && event["message"].is_string(), "{line}");
    }
    let connected = lines.iter().find(|line| line.contains("client connected"));
    let event: Value = serde_json::from_str(connected.unwrap()).unwrap();
    assert_eq!(event["address"], "127.0.0.1");
    assert_eq!(event["instance"], "test");
}

/// FAULTS F11: passwords of Redis and PostgreSQL are in no line of a server or a worker, at the
/// most talkative level and where nothing answers; nor in what `check-config` prints.
#[test]
fn passwords_are_in_no_line() {
    let redis = "redis://somebody:hunter2-redis@127.0.0.1:1";
    let postgres = "postgres://somebody:hunter2-pg@127.0.0.1:1/chat?connect_timeout=1";
    let secrets = ["hunter2-redis", "hunter2-pg"];
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = command(&data, &["--log-level", "trace", "--redis-url", redis]);
    server.env("POSTGRES_URL", postgres);
    let server = Server::spawn(server, std::sync::Arc::new(dir));
    let mut worker = ringcast(&["worker", "--worker-port", "0", "--log-level", "trace"]);
    worker.env("REDIS_URL", redis).env("POSTGRES_URL", postgres);
    worker.stdout(Stdio::null()).stderr(Stdio::piped());
    let worker = Server::spawn(worker, std::sync::Arc::new(tempfile::tempdir().unwrap()));
    for process in [&server, &worker] {
        eventually("it says that nothing answers", || {
            process.log().contains("127.0.0.1:1").then_some(())
        });
    }
    // The server reads history there when it is asked.
    let _ = server.get("/api/rooms/r/messages");
    for log in [server.log(), worker.log()] {
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
    }
    for bad in [
        redis,
        "redis://x:hunter2-redis@",
        "postgres://x:hunter2-pg@[",
        "hunter2-pg=@",
    ] {
        let mut check = ringcast(&["check-config", "--redis-url", bad]);
        let output = check.env("POSTGRES_URL", bad).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(
            secrets.iter().all(|secret| !said.contains(secret)),
            "{said}"
        );
    }
}

/// FAULTS B19: what is no request is one line for each socket, or left out and counted: escaped, at
/// most 200 characters of it, and no query, which might hold a token.
#[test]
fn noise_is_one_line_a_socket() {
    let server = Server::start(&["--shards", "1", "--handshake-timeout", "1s"]);
    let noise: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 half a hello",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x1b]0;owned\x07\x1b[31mEHLO\r\n\r\n",
        b"GET /ws?token=hunter2 HTTP/1.1\r\nHost : a\r\n\r\n",
        &[b'\xff'; 4096],
    ];
    const REPEATS: usize = 10;
    for _ in 0..REPEATS {
        let mut sockets: Vec<_> = noise.iter().map(|_| connect(server.port)).collect();
        for (socket, bytes) in sockets.iter_mut().zip(noise) {
            std::io::Write::write_all(socket, bytes).unwrap();
        }
        for socket in &mut sockets {
            let _ = crate::support::read_to_end(socket);
        }
    }
    let kind = "a connection was refused";
    eventually("every one is a line or left out", || {
        let (lines, left_out) = lines_of(&server, kind);
        (lines as u64 + left_out == (noise.len() * REPEATS) as u64).then_some(())
    });
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(kind)).collect();
    assert!(lines.len() >= 10, "{log}");
    for line in &lines {
        assert!(!line.contains(char::is_control), "{line:?}");
        let why = line.split("why=").nth(1);
        // The quotes, and what escapes them a second time.
        assert!(why.is_none_or(|why| why.chars().count() <= 420), "{line}");
    }
    assert!(log.contains("*1") && log.contains("EHLO") && !log.contains("hunter2"));
}
