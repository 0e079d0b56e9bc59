//! A process that is killed while it commits has lost nothing of what it was told is stored.
//!
//! The test starts this very test binary again, as a child that does nothing but commit and say
//! so, and kills it. (SIGKILL leaves the kernel's cache alive: that a power cut loses nothing is
//! SQLite's promise for `synchronous=FULL`, which another test looks at.)

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

/// The child's data directory; without it the child's "test" does nothing.
const CHILD_DIR: &str = "RINGCAST_TEST_STORE_DIR";
const ROOMS: [&str; 3] = ["a", "b", "c"];
const BATCH: u64 = 7;

#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let mut store = Store::open(Path::new(&dir), epoch()).unwrap();
    let mut reader = store.reader().unwrap();
    let mut next = ROOMS.map(|name| reader.last_offset(&room(name)).unwrap() + 1);
    let mut out = std::io::stdout();
    loop {
        let batches = [0, 1, 2].map(|i| publications(ROOMS[i], next[i]..=next[i] + BATCH - 1));
        store
            .commit(&[&batches[0], &batches[1], &batches[2]], NOW)
            .unwrap();
        next = next.map(|offset| offset + BATCH);
        // One write, so a line is whole or not there.
        out.write_all(format!("stored {} {} {}\n", next[0], next[1], next[2]).as_bytes())
            .unwrap();
    }
}

/// Lets a child commit until it has said so `lines` times, kills it, and gives the offsets that
/// follow those of its last line.
fn run_and_kill(dir: &Path, lines: usize) -> [u64; 3] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::tests::durability::child_that_commits_until_it_is_killed",
        ])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut seen = 0;
    let mut told = [1; 3];
    loop {
        line.clear();
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // The harness may have begun the line with the test's name.
        let Some((_, numbers)) = line.split_once("stored ") else {
            continue;
        };
        if !line.ends_with('\n') {
            continue;
        }
        for (to, number) in told.iter_mut().zip(numbers.split_whitespace()) {
            *to = number.parse().unwrap();
        }
        seen += 1;
        if seen == lines {
            child.kill().unwrap(); // and read on: it may have said more before it died
        }
    }
    child.wait().unwrap();
    assert!(
        seen >= lines,
        "the child ended by itself after {seen} lines"
    );
    told
}

#[test]
fn a_killed_process_loses_nothing_it_was_told_is_stored() {
    let dir = TempDir::new().unwrap();
    for (round, lines) in [1, 40, 333].into_iter().enumerate() {
        let told = run_and_kill(dir.path(), lines);
        let store = open(&dir);
        let mut reader = store.reader().unwrap();
        let lasts = ROOMS.map(|name| reader.last_offset(&room(name)).unwrap());
        assert!(
            lasts.iter().all(|&last| last == lasts[0]),
            "a commit in part: {lasts:?}"
        );
        assert!(
            lasts[0] + 1 >= told[0],
            "round {round}: told {told:?}, has {lasts:?}"
        );
        for name in ROOMS {
            // Each offset once, from the first on, with its own message.
            check_holds(&store, name, &publications(name, 1..=lasts[0]));
        }
    }
}

#[test]
fn commits_are_synced() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    assert_eq!(store.pragma("synchronous"), "2", "FULL");
    assert_eq!(store.pragma("journal_mode"), "wal");
}
