//! The system calls that containers allow: `seccomp.json`, set by `tests/seccomp.py` where no
//! Docker is. That a server does all it should under it is for the other tests, which
//! `tests/run.sh` runs so.

use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Client, Server, command};

const URING: &str = "io_uring_setup,io_uring_enter,io_uring_register";

fn in_tree(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// The loader, by itself: what it starts keeps its process id.
fn loader(words: &[&str]) -> Command {
    let mut loader = Command::new("python3");
    loader.arg(in_tree("tests/seccomp.py")).args(words);
    // It asks the C compiler.
    let path = std::env::var_os("PATH").unwrap();
    loader.env_clear().env("PATH", path).stdin(Stdio::null());
    loader
}

/// A server under the profile, but for these calls.
fn confined(denied: Option<&str>) -> Server {
    let dir = Arc::new(TempDir::new().unwrap());
    let plain = command(dir.path(), &[]);
    let profile = in_tree("seccomp.json");
    let mut words = denied.map_or(vec![], |names| vec!["--deny", names]);
    words.push(&profile);
    let mut confined = loader(&words);
    confined.arg(env!("CARGO_BIN_EXE_ringcast"));
    // By whatever it would be started otherwise.
    confined.args(plain.get_args().skip_while(|&word| word != "serve"));
    confined.stdout(Stdio::null()).stderr(Stdio::piped());
    Server::spawn(confined, dir)
}

fn driver(server: &Server) -> Value {
    server.get("/health").json()["driver"].take()
}

/// It stores, delivers, and ends well.
fn check_works(server: Server) {
    let mut clients = [Client::on_shard(&server, 0), Client::on_shard(&server, 1)];
    for client in &mut clients {
        client.join("a");
    }
    clients[0].publish_all("a", 0..100, |n| json!(n));
    for client in &mut clients {
        client.messages("a", 1, 100);
    }
    drop(clients);
    server.stop();
}

/// FAULTS G2: it serves under the shipped profile, on the ring.
#[test]
fn the_profile_takes_no_io_uring_away() {
    let free = driver(&Server::start(&[]));
    let server = confined(None);
    assert_eq!(driver(&server), free);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    check_works(server);
}

/// FAULTS G1: epoll, with one warning.
#[test]
fn without_io_uring_it_is_epoll_and_says_so_once() {
    let server = confined(Some(URING));
    assert_eq!(driver(&server), "epoll");
    let log = server.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("io_uring"),
        "{log}"
    );
    check_works(server);
}

/// What stands in the profile: deny is the default, and none of what breaks out of containers, or
/// looks into others' memory, is let through.
///
/// FAULTS G2: it denies by default, and lets nothing through that breaks out of containers.
#[test]
fn the_profile_denies_by_default() {
    let text = std::fs::read_to_string(in_tree("seccomp.json")).unwrap();
    let profile: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut names = vec![];
    for rule in profile["syscalls"].as_array().unwrap() {
        let action = rule["action"].as_str().unwrap();
        assert!(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"].contains(&action));
        if action == "SCMP_ACT_ALLOW" {
            let of_rule = rule["names"].as_array().unwrap();
            names.extend(of_rule.iter().map(|name| name.as_str().unwrap()));
        }
    }
    for never in "acct add_key bpf chroot clone3 delete_module finit_module init_module kexec_load \
         keyctl mknod mount move_pages name_to_handle_at open_by_handle_at perf_event_open \
         personality pivot_root process_vm_readv process_vm_writev ptrace quotactl reboot \
         request_key setns settimeofday swapon syslog umount2 unshare userfaultfd"
        .split_whitespace()
    {
        assert!(!names.contains(&never), "{never}");
    }
    assert!(names.contains(&"io_uring_setup"));
    // Less than a third of what Docker's own profile lets through.
    assert!(names.len() < 110, "{} calls", names.len());
}

/// The loader refuses what it would otherwise do in part.
#[test]
fn a_profile_that_is_not_understood_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("profile.json");
    let rule = json!({"names":["read"],"action":"SCMP_ACT_ALLOW"});
    for (member, value) in [
        ("includes", json!({"caps":["CAP_SYS_ADMIN"]})),
        ("action", json!("SCMP_ACT_TRACE")),
        ("args", json!([{"index":0,"value":1,"op":"SCMP_CMP_GT"}])),
    ] {
        let mut odd = rule.clone();
        odd[member] = value;
        let profile = json!({"defaultAction":"SCMP_ACT_ERRNO","syscalls":[odd]});
        std::fs::write(&path, profile.to_string()).unwrap();
        let output = loader(&[path.to_str().unwrap(), "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{member}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("not known"), "{member}: {said}");
    }
}
