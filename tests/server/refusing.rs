//! A kernel that refuses a call of io_uring now and then, as it may: by strace, which answers some
//! of them in its place. Skipped where there is no strace, or it may not trace.

use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use super::support::{Client, Server, all, command, skip};

/// A server of whose calls to io_uring_enter every third fails; `None`: it can't be had.
fn start(error: &str) -> Option<Server> {
    let mut works = Command::new("strace");
    works.args(["-qq", "-o", "/dev/null", "true"]);
    let works = works.stdin(Stdio::null()).output();
    if !works.is_ok_and(|output| output.status.success()) {
        skip("this needs strace, and to be allowed to trace");
        return None;
    }
    let dir = Arc::new(TempDir::new().unwrap());
    let plain = command(dir.path(), &[]);
    let mut refused = Command::new("strace");
    // The tracer is a process of its own, so that the server is the child. Starting is not the
    // matter here.
    refused.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
    refused.args(["-e", "trace=io_uring_enter", "-e"]);
    refused.arg(format!("inject=io_uring_enter:error={error}:when=20+3"));
    refused.arg(plain.get_program()).args(plain.get_args());
    let path = std::env::var_os("PATH").unwrap();
    refused.env_clear().env("PATH", path).stdin(Stdio::null());
    refused.stdout(Stdio::null()).stderr(Stdio::piped());
    Some(Server::spawn(refused, dir))
}

/// FAULTS G8: EINTR, EAGAIN, EBUSY and ENOBUFS, every third call: no panic, nothing lost, no
/// connection ends, it drains and ends well.
#[test]
fn what_the_kernel_refuses_is_done_again() {
    if !all() {
        return;
    }
    if Server::start(&[]).get("/health").json()["driver"] == "epoll" {
        return skip("there is no io_uring here");
    }
    for error in ["EINTR", "EAGAIN", "EBUSY", "ENOBUFS"] {
        let Some(server) = start(error) else { return };
        let mut members: Vec<_> = (0..20).map(|_| Client::new(&server)).collect();
        for member in &mut members {
            member.join("r");
        }
        let mut publisher = Client::new(&server);
        publisher.publish_all("r", 0..2_000, |n| json!(n));
        for member in &mut members {
            member.messages("r", 1, 2_000);
        }
        // Many that come and go.
        for n in 0..300 {
            let mut client = Client::member(&server, "r");
            assert_eq!(client.publish("r", json!(n)), 2_001 + n);
            assert_eq!(client.close(), 1000, "{error}");
        }
        for member in &mut members {
            member.messages("r", 2_001, 2_300);
        }
        assert_eq!(server.metric("panics_total"), 0, "{error}");
        server.await_metric("connections", members.len() as u64 + 2);
        drop((members, publisher));
        server.stop();
    }
}
