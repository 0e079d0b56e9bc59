//! The client `ringcast.js` as a package: its own tests in Node, its types, and what of npm's the
//! tests need. The package is copied to a directory of the build, where npm installs beside it what
//! its `package.json` names; the sources stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::support::skip;

/// The folder of the sources.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/ringcast");
const PACKAGE_JSON: &str = include_str!("../../src/web/ringcast/package.json");

/// Whether there is a Node with what the client needs: 20 or later.
fn has_node() -> bool {
    let version = Command::new("node").arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let major = version.ok().and_then(|version| {
        let (major, _) = version.trim_start_matches('v').split_once('.')?;
        major.parse::<u32>().ok()
    });
    major.is_some_and(|major| major >= 20)
}

/// The package in its directory, with all that it needs for its tests, or why that can't be.
fn installed() -> Result<&'static Path, String> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(install).as_ref();
    installed.map(PathBuf::as_path).map_err(Clone::clone)
}

fn install() -> Result<PathBuf, String> {
    if !has_node() {
        return Err("this needs node, 20 or later".into());
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ringcast-js");
    copy(Path::new(SOURCES), &dir);
    // What was installed, written when that was done.
    let mark = dir.join("node_modules").join(".installed");
    if std::fs::read_to_string(&mark).is_ok_and(|done| done == PACKAGE_JSON) {
        return Ok(dir);
    }
    let mut npm = Command::new("npm");
    npm.args([
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--no-package-lock",
    ]);
    let output = npm.current_dir(&dir).output();
    let output = output.map_err(|error| format!("this needs npm: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("npm can't install what this needs: {said}"));
    }
    std::fs::write(mark, PACKAGE_JSON).unwrap();
    Ok(dir)
}

/// Copies a folder's files and folders; what is there and not here stays.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap().is_dir() {
            true if entry.file_name() == "node_modules" => {}
            true => copy(&from, &to),
            false => drop(std::fs::copy(from, to).unwrap()),
        }
    }
}

/// The folder of an installed package.
pub(crate) fn package(name: &str) -> Result<PathBuf, String> {
    Ok(installed()?.join("node_modules").join(name))
}

/// Runs a command; its output is shown if it fails.
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}\n{errors}");
    said
}

/// How many of Node's tests passed: there must be some, and none that failed or was left out.
fn expect_passed(said: &str, at_least: u64) {
    let count = |name: &str| {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# {name} ")));
        line.and_then(|count| count.parse::<u64>().ok())
    };
    assert!(
        count("pass").is_some_and(|passed| passed >= at_least),
        "{said}"
    );
    assert_eq!(
        (count("fail"), count("skipped")),
        (Some(0), Some(0)),
        "{said}"
    );
}

#[test]
fn the_client_keeps_its_promises_to_a_server_by_script() {
    if !has_node() {
        return skip("this needs node, 20 or later");
    }
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap", "test/client.test.js"]);
    expect_passed(&succeeds(node.current_dir(SOURCES)), 30);
}

#[test]
fn the_client_keeps_its_promises_with_a_real_server() {
    let dir = match installed() {
        Ok(dir) => dir,
        Err(why) => return skip(&why),
    };
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap", "test/server.test.js"]);
    node.env("RINGCAST_BIN", env!("CARGO_BIN_EXE_ringcast"));
    expect_passed(&succeeds(node.current_dir(dir)), 6);
}

#[test]
fn the_types_fit_their_use() {
    let dir = match installed() {
        Ok(dir) => dir,
        Err(why) => return skip(&why),
    };
    let mut tsc = Command::new("node");
    tsc.args(["node_modules/typescript/bin/tsc", "-p", "test"]);
    succeeds(tsc.current_dir(dir));
}
