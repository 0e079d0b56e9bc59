//! The server under valgrind: no access to what is not its own, nothing read that was never
//! written, nothing lost.
//!
//! It takes a build without mimalloc, through which valgrind does not see, and without calls to the
//! vDSO, which it hides; and epoll: what the kernel writes through a ring it does not see either.
//! `tests/run.sh --all` makes that build, and has these features for it. Elsewhere it is skipped.

use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use super::churn::{FLAGS, Rest, Traffic, in_turns};
use super::support::{Client, Server, all, command, skip, talking};

/// FAULTS G5: 2,000 under valgrind: no error, no leak.
#[test]
fn resets_with_sends_in_flight_touch_nothing_they_should_not() {
    if cfg!(feature = "mimalloc") || !all() {
        skip("this is for tests/run.sh --all, which builds for it");
        return;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        skip("this needs valgrind");
        return;
    }
    let dir = Arc::new(TempDir::new().unwrap());
    let flags = [&FLAGS[..], &["--driver", "epoll"]].concat();
    let plain = command(dir.path(), &flags);
    let mut watched = Command::new("valgrind");
    watched.args(["--quiet", "--error-exitcode=99", "--leak-check=full"]);
    watched.args([
        "--errors-for-leak-kinds=definite",
        "--show-leak-kinds=definite",
    ]);
    watched.arg("--suppressions=tests/valgrind.supp");
    watched
        .arg("--fair-sched=yes")
        .arg(plain.get_program())
        .args(plain.get_args());
    let path = std::env::var_os("PATH").unwrap();
    watched.env_clear().env("PATH", path).stdin(Stdio::null());
    watched.stdout(Stdio::null()).stderr(Stdio::piped());
    let server = Server::spawn(watched, dir);

    let traffic = Traffic::new(&server);
    let mut rest = Rest::of(&server, 1);
    talking(&server, "busy", 1_000, || {
        in_turns(0..2_000, |n| traffic.cut_off(n));
    });
    rest.is_back(&server);
    drop((rest, traffic));
    // And some that end well.
    in_turns(0..50, |n| {
        let mut client = Client::member(&server, "a");
        client.publish("a", json!(n));
        assert_eq!(client.close(), 1000);
    });
    // Its end is 0: valgrind has found nothing.
    server.stop();
}
