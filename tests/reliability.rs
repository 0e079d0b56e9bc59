//! `docs/reliability.md` is what the tests say of themselves: see `tests/reliability.py`, which
//! makes it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the script on a tree.
fn reliability(root: &Path, args: &[&str]) -> Output {
    let root_of_us = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new("python3");
    python.arg(root_of_us.join("tests/reliability.py"));
    python.arg("--root").arg(root).args(args);
    python.stdin(Stdio::null()).output().expect("python3 runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A tree of one row and its tests.
fn tree(tests: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    put(
        "tests/faults.tsv",
        "# ids\nB1\tdone\tholds\nB2\tdone\tholds\tas yet\n",
    );
    put("tests/server/frames.rs", tests);
    dir
}

const TESTS: &str = r"
/// What it is.
///
/// FAULTS B1: a part
/// of it.
#[test]
fn quick() {
    let length = 1;
}

/// FAULTS B1: all of it.
#[test]
fn longer() {
    let count = if all() { 2 } else { 1 };
}
";

#[test]
fn comments_rows_and_page_agree() {
    let output = reliability(Path::new(env!("CARGO_MANIFEST_DIR")), &["--check"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn what_a_run_shows_is_what_its_output_says() {
    let dir = tree(TESTS);
    let log = dir.path().join("log");
    let page = |set: &str, outcome: &str, skipped: &str| {
        let text = format!(
            "== all ({set})\n     Running tests/server.rs (target/debug/deps/server-1)\n\
             test frames::quick ... ok\ntest frames::longer ... {outcome}\n{skipped}"
        );
        fs::write(&log, text).expect("a file");
        let name = log.to_str().expect("its path");
        let output = reliability(dir.path(), &["--fresh", name]);
        assert!(output.status.success(), "{}", said(&output));
        let page = fs::read_to_string(dir.path().join("docs/reliability.md"));
        page.expect("the page")
    };
    let quick = "| B1 | done | holds | `server::frames::quick`: a part of it | quick | passed |";
    let longer = |result: &str| {
        format!("|  |  |  | `server::frames::longer`: all of it | both | {result} |")
    };
    for (set, outcome, skipped, result) in [
        ("quick", "ok", "", "passed (quick)"),
        ("long", "ok", "", "passed"),
        ("long", "FAILED", "", "failed"),
        (
            "long",
            "ok",
            "skipped test server::frames::longer\n",
            "skipped",
        ),
    ] {
        let page = page(set, outcome, skipped);
        assert!(page.contains(quick), "{page}");
        assert!(page.contains(&longer(result)), "{result}: {page}");
        assert!(page.contains("| B2 | done | holds | no test: as yet |  |  |"));
    }
    // What a page says stays so until a run says otherwise, and what no run says is not run.
    let output = reliability(dir.path(), &["--check"]);
    assert!(output.status.success(), "{}", said(&output));
    fs::write(&log, "").expect("a file");
    reliability(dir.path(), &[log.to_str().expect("its path")]);
    let page = fs::read_to_string(dir.path().join("docs/reliability.md")).expect("the page");
    assert!(page.contains(&longer("skipped")), "{page}");
    reliability(dir.path(), &["--fresh", log.to_str().expect("its path")]);
    let page = fs::read_to_string(dir.path().join("docs/reliability.md")).expect("the page");
    assert!(page.contains(&longer("not run")), "{page}");
}

#[test]
fn what_does_not_agree_is_found() {
    for (tests, word) in [
        (
            TESTS.replace("FAULTS B1: all", "FAULTS B3: all"),
            "no row B3",
        ),
        (TESTS.replace("FAULTS B1", "FAULTS B2"), "B1: no test"),
        (
            TESTS.replace("#[test]\nfn quick", "fn quick"),
            "not above a test",
        ),
        (TESTS.replace("FAULTS B1: all", "FAULTS all"), "not `FAULTS"),
        (TESTS.replace("a part", "parts"), "run tests/reliability.py"),
    ] {
        let dir = tree(TESTS);
        assert!(reliability(dir.path(), &[]).status.success());
        fs::write(dir.path().join("tests/server/frames.rs"), tests).expect("a file");
        let output = reliability(dir.path(), &["--check"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(word), "{word}: {}", said(&output));
    }
}
