//! The rules of style that matter, held by a test, so that nobody argues them twice.
//!
//! A scan of the text, not of the syntax: comments and strings are skipped, and so is all that
//! follows a file's first `#[cfg(test)]` line but a declaration (`mod tests;`). It finds what is
//! written plainly, which is what a hurried change writes. Each violation is a line with its place
//! and its rule.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may name of the crate besides itself: imports run downward only.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("net", &["model"]),
    // The native protocol appends whole WebSocket frames in place; see its `event`.
    ("protocol", &["net", "model"]),
    ("access", &["model"]),
    ("resp", &["model"]),
    ("pg", &["model"]),
    ("hub", &["model"]),
    ("store", &["model"]),
    ("backplane", &["resp", "model"]),
    ("worker", &["resp", "pg", "model"]),
    (
        "shard",
        &["hub", "backplane", "protocol", "net", "access", "model"],
    ),
    ("web", &[]),
    ("config", &["net", "access", "resp", "pg", "model"]),
    ("telemetry", &["config", "backplane", "worker", "model"]),
];

/// A word that may stand in some places only.
struct Word {
    words: &'static [&'static str],
    /// Folders and files below `src/`.
    only_in: &'static [&'static str],
    rule: &'static str,
}

const WORDS: &[Word] = &[
    Word {
        words: &[
            "monoio::",
            "io_uring::",
            "std::net::Tcp",
            "std::net::Udp",
            "std::os::unix::net",
        ],
        only_in: &["runtime"],
        rule: "monoio and sockets are runtime's",
    },
    Word {
        words: &["std::thread", "thread::spawn"],
        only_in: &["runtime"],
        rule: "threads are runtime's",
    },
    Word {
        words: &["async fn", "async move", "async {", ".await"],
        only_in: &["runtime"],
        rule: "async is runtime's",
    },
    Word {
        words: &[
            "Instant::now",
            "SystemTime",
            "fastrand::u",
            "fastrand::Rng::new",
            "Uuid::now_v7",
            "Uuid::new_v4",
        ],
        only_in: &["runtime"],
        rule: "the clock and chance are runtime's; `now` is an argument",
    },
    Word {
        words: &[
            "Mutex",
            "RwLock",
            "std::sync::atomic",
            "RefCell",
            "atomic_waker",
        ],
        only_in: &["runtime", "store", "telemetry"],
        rule: "no locks and no atomics in a pure room or a shard's state",
    },
    Word {
        words: &["clap::"],
        only_in: &["config"],
        rule: "clap is config's",
    },
    Word {
        words: &["tracing_subscriber"],
        only_in: &["telemetry"],
        rule: "what becomes of the log is telemetry's",
    },
    Word {
        words: &["rusqlite"],
        only_in: &["store"],
        rule: "rusqlite is store's",
    },
    Word {
        words: &["redis_protocol", "resp::frame"],
        only_in: &["resp"],
        rule: "Redis frames are resp's",
    },
    Word {
        words: &["postgres_protocol"],
        only_in: &["pg"],
        rule: "postgres_protocol is pg's",
    },
    Word {
        words: &["jsonwebtoken"],
        only_in: &["access"],
        rule: "tokens are access's",
    },
    Word {
        words: &["tungstenite"],
        only_in: &["net"],
        rule: "tungstenite is net's",
    },
    Word {
        words: &["signalr::", "SignalR"],
        only_in: &["protocol/signalr", "protocol/mod.rs", "config/later.rs"],
        rule: "SignalR's types stay in protocol/signalr",
    },
    Word {
        words: &["todo!", "unimplemented!", "dbg!(", "#[ignore"],
        only_in: &[],
        rule: "no stubs, no ignored tests",
    },
    Word {
        words: &["unsafe {", "unsafe fn"],
        only_in: &["runtime/sockets.rs"],
        rule: "no unsafe but where it says why",
    },
    Word {
        words: &["process::exit"],
        only_in: &["main.rs", "runtime"],
        rule: "only main and the machine room end the process",
    },
];

/// What `hub` must not know, in whatever words.
const HUB_NEVER: &[&str] = &[
    "serde_json",
    "serde::",
    "std::net",
    "RawFd",
    "OwnedFd",
    "rustix",
];

const LINES_MAX: usize = 800;
const COLUMNS_MAX: usize = 100;

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = String::new();
    let mut files = 0;
    for folder in ["src", "tests", "benches", "loadtest"] {
        for path in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            let place = path.strip_prefix(root).unwrap().to_str().unwrap();
            files += 1;
            for (line, rule) in violations(place, &text) {
                writeln!(found, "{place}:{line}: {rule}").unwrap();
            }
        }
    }
    assert!(files > 10, "the sources were not found");
    assert!(found.is_empty(), "\n{found}");
}

#[test]
fn nothing_of_one_machine_stands_in_the_tree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = format!("{}/", root.parent().unwrap().display());
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "Cargo.toml",
        ".ci/run",
    ] {
        let text = fs::read_to_string(root.join(name)).unwrap();
        assert!(
            home == "//" || !text.contains(&home),
            "{name} has a path of this machine"
        );
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return vec![];
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = vec![];
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The rules that a file breaks, each with its line.
fn violations(place: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = form(text);
    if !text.starts_with("//!") {
        found.push((1, "a file opens with its module doc".into()));
    }
    let is_test = place.ends_with("/tests.rs") || place.contains("/tests/");
    let code = code_of(text);
    for (i, code) in code.iter().enumerate() {
        let mut add = |rule: String| found.push((i + 1, rule));
        if let Some(place) = place.strip_prefix("src/") {
            let in_tests = is_test || code.is_test;
            if !in_tests || place.starts_with("hub/") {
                imports(place, &code.text).into_iter().for_each(&mut add);
            }
            words(place, &code.text, in_tests)
                .into_iter()
                .for_each(&mut add);
        } else if code.text.contains("#[ignore") && !place.ends_with("tidy.rs") {
            add("no ignored tests".into());
        }
        let of_loadtest = place.starts_with("loadtest/") || place.starts_with("src/bin/loadtest");
        if of_loadtest && code.text.contains("ringcast::") {
            add("loadtest must not import the server's rules".into());
        }
    }
    found
}

fn form(text: &str) -> Vec<(usize, String)> {
    let mut found = vec![];
    for (i, line) in text.lines().enumerate() {
        if line.contains('\t') {
            found.push((i + 1, "no tabs".into()));
        }
        // A table's row can't be broken, nor a frame that a test writes out.
        let is_row = line.trim_start().starts_with("//! |")
            || line.contains("{\\\"type\\\"")
            || line.contains("r#\"");
        if line.chars().count() > COLUMNS_MAX && !is_row {
            found.push((i + 1, format!("at most {COLUMNS_MAX} columns")));
        }
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push((lines, format!("at most {LINES_MAX} lines a file")));
    }
    found
}

/// Names of the crate that this room must not know.
fn imports(place: &str, code: &str) -> Vec<String> {
    let room = room_of(place);
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
        return vec![];
    };
    let named = code.match_indices("crate::").flat_map(|(at, _)| {
        let rest = &code[at + "crate::".len()..];
        // `use crate::{a, b::c}` names each first segment.
        match rest.strip_prefix('{') {
            Some(list) => first_segments(list),
            None => vec![word_at(rest)],
        }
    });
    named
        .filter(|name| !name.is_empty() && *name != room && !allowed.contains(name))
        .map(|name| format!("{room} must not import {name}: imports run downward only"))
        .collect()
}

/// The first segments of `a, b::{c, d}, e}`.
fn first_segments(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (1, 0, vec![]);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            names.push(word_at(list[start..at].trim_start()));
            start = at + 1;
        }
        if depth == 0 {
            return names;
        }
    }
    names.push(word_at(list[start..].trim_start()));
    names
}

fn word_at(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// Words that must not stand here.
fn words(place: &str, code: &str, in_tests: bool) -> Vec<String> {
    let mut found = vec![];
    for rule in WORDS {
        let is_allowed = |of: &str| place == of || place.starts_with(&format!("{of}/"));
        let stub_rule = rule.only_in.is_empty();
        if rule.only_in.iter().any(|of| is_allowed(of)) || (in_tests && !stub_rule) {
            continue;
        }
        for word in rule.words.iter().filter(|word| has_word(code, word)) {
            found.push(format!("`{word}`: {}", rule.rule));
        }
    }
    if room_of(place) == "hub" && !in_tests {
        for word in HUB_NEVER.iter().filter(|word| code.contains(**word)) {
            found.push(format!("`{word}`: hub knows no socket and no JSON"));
        }
    }
    found
}

/// Whether `word` stands in `code` and does not go on from a longer one.
fn has_word(code: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !(word.starts_with(in_word) && before.is_some_and(in_word))
    })
}

/// The folder below `src/`, or the file's own name.
fn room_of(place: &str) -> &str {
    place.split(['/', '.']).next().unwrap_or(place)
}

/// One line without comments and the insides of strings.
struct Code {
    text: String,
    is_test: bool,
}

fn code_of(text: &str) -> Vec<Code> {
    let (mut is_test, mut in_string) = (false, false);
    let lines: Vec<_> = text.lines().collect();
    let mut code = vec![];
    for (i, line) in lines.iter().enumerate() {
        let next = lines.get(i + 1).copied().unwrap_or_default();
        // `#[cfg(test)] mod tests {` ends the file; `#[cfg(test)] mod tests;` does not.
        is_test |= line.trim() == "#[cfg(test)]" && next.contains("mod ") && next.ends_with('{');
        code.push(Code {
            text: strip(line, &mut in_string),
            is_test,
        });
    }
    code
}

fn strip(line: &str, in_string: &mut bool) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut previous = ' ';
    while let Some(c) = chars.next() {
        match c {
            '\\' if *in_string => {
                chars.next();
            }
            // The character '"'.
            '"' if !*in_string && previous == '\'' && chars.peek() == Some(&'\'') => {}
            '"' => *in_string = !*in_string,
            '/' if !*in_string && chars.peek() == Some(&'/') => break,
            c if !*in_string => out.push(c),
            _ => {}
        }
        previous = c;
    }
    out
}

#[test]
fn violations_are_found_and_nothing_else() {
    let check = |place: &str, body: &str, want: &[&str]| {
        let found = violations(place, &format!("//! Doc.\n{body}"));
        let found: Vec<_> = found.into_iter().map(|(_, rule)| rule).collect();
        assert_eq!(found.len(), want.len(), "{place} {body:?}: {found:?}");
        for (rule, want) in found.iter().zip(want) {
            assert!(rule.contains(want), "{place} {body:?}: {rule}");
        }
    };
    check("src/hub/log.rs", "use crate::model::RoomName;", &[]);
    check(
        "src/hub/log.rs",
        "use crate::net::Head;",
        &["hub must not import net"],
    );
    check("src/hub/log.rs", "use serde_json::Value;", &["no JSON"]);
    check(
        "src/net/head.rs",
        "use crate::{model::{Name, Epoch}, protocol::x, net};",
        &["net must not import protocol"],
    );
    check(
        "src/shard/mod.rs",
        "let c = crate::config::Config;",
        &["must not import config"],
    );
    check(
        "src/shard/mod.rs",
        "let c = crate::telemetry::log;",
        &["must not import telemetry"],
    );
    check(
        "src/shard/mod.rs",
        "let n = Instant::now();",
        &["`now` is an argument"],
    );
    check(
        "src/shard/mod.rs",
        "// Instant::now()\nlet s = \"Instant::now() // x\";",
        &[],
    );
    check("src/shard/mod.rs", "x.await;", &["async is runtime's"]);
    check(
        "src/runtime/mod.rs",
        "x.await; let n = Instant::now();",
        &[],
    );
    check(
        "src/protocol/event.rs",
        "use clap::Parser;",
        &["clap is config's"],
    );
    check(
        "src/hub/a.rs",
        "#[cfg(test)]\nmod tests {\nuse std::thread::spawn;\n}",
        &[],
    );
    check(
        "src/hub/a.rs",
        "#[cfg(test)]\nmod tests;\nuse std::thread;",
        &["threads"],
    );
    check(
        "src/hub/a.rs",
        "#[cfg(test)]\nmod tests {\ntodo!()\n}",
        &["no stubs"],
    );
    check("src/hub/tests.rs", "std::thread::spawn(f);", &[]);
    check("src/store/tests/a.rs", "std::thread::spawn(f);", &[]);
    check("src/net/a.rs", "\tx", &["no tabs"]);
    check("src/net/a.rs", &"x".repeat(101), &["100 columns"]);
    check("src/net/a.rs", &"x\n".repeat(800), &["800 lines"]);
    check(
        "loadtest/main.rs",
        "use ringcast::net::Decoder;",
        &["loadtest must not import"],
    );
    check("tests/server.rs", "#[ignore]", &["no ignored tests"]);
    assert_eq!(
        violations("src/net/a.rs", "use x;").len(),
        1,
        "no module doc"
    );
}
