//! Stock clients, each as its makers ship it, with compression where they have it: the package ws
//! of npm, the package websockets of Python, websocat, and the WebSocket of Chromium. One that
//! can't be had here is skipped, by name.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::browser::{Browser, Window};
use super::npm;
use super::support::{Client, Server, eventually, skip};

/// What is tested: the version that `pip` is to bring.
const WEBSOCKETS: &str = "websockets==17.4";

/// With compression and without; `run` gets the server and `deflate` or `plain`.
fn both_ways(run: impl Fn(&Server, &str)) {
    run(&Server::start(&["--echo", "--deflate"]), "deflate");
    run(&Server::start(&["--echo"]), "plain");
}

/// Runs a script that says `ok` at its end.
fn expect_ok(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.trim() == "ok",
        "{command:?}:\n{said}\n{errors}"
    );
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/server/stock")
        .join(name)
}

fn url(server: &Server) -> String {
    format!("ws://127.0.0.1:{}", server.port)
}

#[test]
fn ws_of_npm() {
    let package = match npm::package("ws") {
        Ok(package) => package,
        Err(why) => return skip(&why),
    };
    both_ways(|server, mode| {
        let mut node = Command::new("node");
        node.arg(script("ws.mjs")).arg(&package);
        expect_ok(node.args([&url(server), mode]));
    });
}

/// A Python that has the package, in a directory of the build, or why that can't be.
fn python() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(WEBSOCKETS);
    let python = dir.join("bin/python");
    let has_it = || {
        let mut asked = Command::new(&python);
        let asked = asked.args(["-c", "import websockets"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    if has_it() {
        return Ok(python);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&dir))
    .map_err(|why| format!("this needs python3 and its venv: {why}"))?;
    run(Command::new(&python).args(["-m", "pip", "install", "-q", WEBSOCKETS]))
        .map_err(|why| format!("pip can't install {WEBSOCKETS}: {why}"))?;
    match has_it() {
        true => Ok(python),
        false => Err(format!("{WEBSOCKETS} is not what was installed")),
    }
}

#[test]
fn websockets_of_python() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    both_ways(|server, mode| {
        let mut python = Command::new(&python);
        python.arg(script("client.py"));
        expect_ok(python.args([&url(server), mode]));
    });
}

/// Where `tests/run.sh --all` puts it, or anywhere on the path.
fn websocat() -> Option<Command> {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("websocat");
    let built = built.join("bin/websocat");
    let mut found = [built, "websocat".into()].into_iter().filter(|program| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    });
    found.next().map(Command::new)
}

#[test]
fn websocat_joins_and_talks() {
    let Some(mut websocat) = websocat() else {
        return skip("this needs websocat (cargo install websocat)");
    };
    let server = Server::start(&["--deflate"]);
    let mut other = Client::member(&server, "lobby");
    websocat.arg(format!("{}/ws", url(&server)));
    let websocat = websocat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut websocat = websocat.spawn().unwrap();
    let mut lines = BufReader::new(websocat.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["type"], "welcome");
    let mut say = websocat.stdin.take().unwrap();
    writeln!(say, r#"{{"type":"join","room":"lobby"}}"#).unwrap();
    assert_eq!(next()["type"], "joined");
    let publish = r#"{"type":"publish","room":"lobby","payload":"hello","ref":1}"#;
    writeln!(say, "{publish}").unwrap();
    let types = [next()["type"].clone(), next()["type"].clone()];
    assert!(types.contains(&"ack".into()) && types.contains(&"message".into()));
    assert_eq!(other.messages("lobby", 1, 1)[0]["payload"], "hello");
    drop(say);
    let _ = websocat.kill();
    let _ = websocat.wait();
}

/// The browser compresses by itself, and the page and `ringcast.js` need not know.
#[test]
fn chromium_compresses() {
    let Some(browser) = Browser::start() else {
        return skip("this needs chromium and chromedriver");
    };
    let server = Server::start(&["--deflate"]);
    let (first, second) = (Window::first(&browser), Window::another(&browser));
    for (window, name) in [(&first, "ann"), (&second, "bob")] {
        window.open(server.port);
        window.join("lobby", name);
    }
    let long = "a long word that is said again and again, ".repeat(20);
    let long = long.trim();
    first.say(long);
    second.await_messages(&[("ann", long)]);
    second.say("short");
    first.await_messages(&[("ann", long), ("bob", "short")]);
    let probe = "window.probe = new WebSocket(`ws://${location.host}/ws`, 'ringcast.v1')";
    browser.run(probe);
    let extensions = eventually("the probe to be open", || {
        let open = "return window.probe.readyState === 1 ? window.probe.extensions : null";
        browser.run(open).as_str().map(str::to_owned)
    });
    assert!(extensions.starts_with("permessage-deflate"), "{extensions}");
    assert_eq!(server.metric("errors_total"), 0);
    assert!(browser.complaints().is_empty());
}
