//! `docs/operations.md` by the letter: every command in it is run, in its order, and must print
//! what the page says.
//!
//! A block of `console` has commands behind `$ ` and what each prints. `…` in a line stands for any
//! text, a line of it alone for any lines. What is real and what is not in this run stands in
//! `operations/docker`, which takes the place of Docker's command; `operations/curl` turns the
//! page's ports into those of the test.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use support::{Client, connect, eventually};
use tempfile::TempDir;

#[path = "cluster/redis.rs"]
#[allow(dead_code, reason = "the tests of a cluster use the rest of it")]
mod redis;
#[path = "server/support.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod support;

/// The longest that one command may take, in seconds.
const COMMAND_SECONDS: &str = "120";
/// What runs, as `operations/docker` knows it.
const SERVICES: [&str; 7] = [
    "redis", "postgres", "server-1", "server-2", "server-3", "worker", "nginx",
];
/// Adds an entry that no table takes.
const POISON: &str = "docker compose exec -T redis redis-cli XADD gosocket:messages:stream '*' \
                      room_name lobby user_id u username u payload '{no json' metadata ''";

/// A command of the page, and what it prints.
struct Step {
    line: usize,
    command: String,
    output: Vec<String>,
}

/// All of a page, in order.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut within = false;
    for (at, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            within = line == "```console";
            assert!(within || line == "```", "line {}: {line}", at + 1);
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| within) {
            let (line, command) = (at + 1, command.to_owned());
            let output = Vec::new();
            steps.push(Step {
                line,
                command,
                output,
            });
        } else if within {
            steps.last_mut().unwrap().output.push(line.to_owned());
        }
    }
    steps
}

/// Whether `text` is `pattern`, with any text for each `…`.
fn is_line(pattern: &str, text: &str) -> bool {
    match pattern.split_once('…') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            let places = rest.char_indices().map(|(at, _)| at);
            let mut places = places.chain([rest.len()]);
            places.any(|at| is_line(tail, &rest[at..]))
        }),
    }
}

/// The same of lines, with any lines for a line of `…`.
fn are_lines(pattern: &[String], text: &[&str]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=text.len()).any(|skipped| are_lines(rest, &text[skipped..]))
        }
        Some((first, rest)) => text
            .split_first()
            .is_some_and(|(line, behind)| is_line(first, line) && are_lines(rest, behind)),
    }
}

/// The cluster that the stand-in starts; it ends with its guard.
struct Cluster {
    dir: TempDir,
    nginx: u16,
}

impl Cluster {
    /// One that runs. Somebody may take a port between the two looks at it: then on others.
    fn started() -> Self {
        let tries = (0..5).map(|_| Self::new());
        let is_up = |one: &Self| {
            one.run("docker compose up");
            one.run("docker compose ps").lines().count() == SERVICES.len()
        };
        let mut up = tries.filter(is_up);
        up.next().expect("the cluster does not start")
    }

    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let ports = SERVICES.map(|name| (name, redis::free_port()));
        let lines = ports.map(|(name, port)| format!("{name}={port}\n"));
        fs::write(dir.path().join("ports"), lines.concat()).unwrap();
        // Workers of nginx are not who started them.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), open).unwrap();
        Self {
            nginx: ports[SERVICES.len() - 1].1,
            dir,
        }
    }

    /// Runs a command, and gives all that it prints.
    fn run(&self, command: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = std::env::var("PATH").unwrap();
        let tools = root.join("tests/operations");
        let mut bash = Command::new("timeout");
        bash.args([COMMAND_SECONDS, "bash", "-c", command]);
        bash.env("PATH", format!("{}:{path}", tools.display()));
        bash.env("OPERATIONS_HOME", self.dir.path());
        bash.env("OPERATIONS_ROOT", root);
        bash.env("OPERATIONS_CURL", program("curl"));
        bash.env("RINGCAST", env!("CARGO_BIN_EXE_ringcast"));
        let printed = self.dir.path().join("printed");
        let file = fs::File::create(&printed).unwrap();
        bash.stdin(Stdio::null()).stdout(file.try_clone().unwrap());
        bash.stderr(file);
        bash.status().unwrap();
        fs::read_to_string(printed).unwrap()
    }

    /// Runs it until that is what it prints.
    fn await_output(&self, command: &str, output: &str) {
        let mut printed = String::new();
        let what = format!("{output:?} of {command}");
        eventually(&what, || {
            printed = self.run(command);
            (printed.trim_end() == output).then_some(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let said = self.run("docker compose down");
        if std::thread::panicking() {
            eprintln!("{said}");
            for name in SERVICES {
                let log = fs::read_to_string(self.dir.path().join(format!("{name}.log")));
                eprintln!("the log of {name}:\n{}", log.unwrap_or_default());
            }
        }
    }
}

/// Where a program is.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut all = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = all.find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: install it"))
}

#[test]
fn every_command_prints_what_the_page_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let steps = steps(&fs::read_to_string(path).unwrap());
    assert!(steps.len() > 40, "{} commands", steps.len());
    let cluster = Cluster::started();
    let mut client = None;
    for Step {
        line,
        command,
        output,
    } in &steps
    {
        if command.ends_with("dead list") {
            cluster.run(POISON);
            cluster.await_output(&format!("{command} | tail -n 1"), "1 entries");
        }
        let printed = cluster.run(command);
        let lines: Vec<_> = printed.lines().collect();
        assert!(
            are_lines(output, &lines),
            "operations.md:{line}: {command}\nexpected:\n{}\nprinted:\n{printed}",
            output.join("\n")
        );
        // Once it runs somebody is there.
        client.get_or_insert_with(|| {
            let mut client = Client::over(connect(cluster.nginx), "/ws");
            eventually("the room", || {
                let joined = client.ask(json!({"type":"join","room":"lobby"}));
                (joined["type"] == "joined").then_some(())
            });
            for n in 1..=3 {
                assert_eq!(client.publish("lobby", json!(n)), n);
            }
            let rows = "docker compose exec -T postgres psql -U gosocket -d gosocket -Atc \
                        'SELECT count(*) FROM messages'";
            cluster.await_output(rows, "3");
            client
        });
        // What is published by hand gets there; by then the first one has been sent elsewhere.
        if command.contains("PUBLISH") {
            let mut late = Client::over(connect(cluster.nginx), "/ws");
            late.join("lobby");
            cluster.run(command);
            assert_eq!(late.next("notice")["text"], "hello");
        }
    }
}

#[test]
fn what_stands_for_what_differs() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (pattern, text, fits) in [
        ("a", "a", true),
        ("a", "b", false),
        ("a…c", "abc", true),
        ("a…c", "ac", true),
        ("a…c", "acd", false),
        ("a…c…", "abcd", true),
        ("…\nb", "a\na\nb", true),
        ("…\nb", "b", true),
        ("…\nb", "a", false),
        ("a\n…", "a", true),
        ("a\n…", "b\na", false),
        ("", "a", false),
    ] {
        let text: Vec<_> = text.lines().collect();
        assert_eq!(
            are_lines(&lines(pattern), &text),
            fits,
            "{pattern:?} {text:?}"
        );
    }
}
