//! A Docker engine, and the base images it must have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::support::all;

/// The image that is built, named so that nobody's own is replaced.
pub(crate) const IMAGE: &str = "ringcast-test";
/// Where dockerd says who it is.
const PID_FILE: &str = "/var/run/docker.pid";
/// How long it has to end.
const END: Duration = Duration::from_secs(60);

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it to its end, which must be a good one; what it printed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}\n{complaint}");
    said
}

/// What `docker` prints.
pub(crate) fn docker(args: &[&str]) -> String {
    output(Command::new("docker").args(args))
}

fn succeeds(words: &[&str]) -> bool {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// An engine that answers. If it was started for the test, it ends with this.
pub(crate) struct Engine {
    is_own: bool,
    /// The command of compose.
    pub(crate) compose: &'static [&'static str],
}

impl Engine {
    /// `None`, with a word about why, where there is none.
    pub(crate) fn find() -> Option<Self> {
        let skip = |why: &str| {
            super::support::skip(why);
            None
        };
        if !all() {
            return skip("the cluster in containers is for RINGCAST_TEST_ALL=1");
        }
        if !rustix::process::geteuid().is_root() {
            return skip("this ends processes of containers, which takes root");
        }
        // The guard must be there before anything is started.
        let mut engine = Self {
            is_own: !succeeds(&["docker", "info"]),
            compose: &[],
        };
        match standins() {
            Some(standins) => drop(output(Command::new(standins).arg("--start"))),
            None if engine.is_own => {
                engine.is_own = false;
                return skip("no Docker engine answers");
            }
            None => {}
        }
        const COMPOSE: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
        let has_version = |words: &&&[&str]| succeeds(&[words, &["version"][..]].concat());
        match COMPOSE.iter().find(has_version) {
            Some(compose) => engine.compose = compose,
            None => return skip("this needs docker compose, or docker-compose"),
        }
        Some(engine)
    }
}

/// What builds stand-ins for the public base images, where no image can be had.
fn standins() -> Option<PathBuf> {
    let path = root().join("../shared/standins/build.sh");
    path.exists().then_some(path)
}

impl Drop for Engine {
    fn drop(&mut self) {
        // What it was built of stays with the builder, for the next time.
        succeeds(&["docker", "image", "rm", IMAGE]);
        let pid = std::fs::read_to_string(PID_FILE).ok();
        let pid = pid.and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
        let Some(pid) = pid.filter(|_| self.is_own) else {
            return;
        };
        let _ = kill_process(pid, Signal::TERM);
        let began = Instant::now();
        while test_kill_process(pid).is_ok() && began.elapsed() < END {
            thread::sleep(Duration::from_millis(50));
        }
    }
}
