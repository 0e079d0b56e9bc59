//! What is refused: each error code that can occur, and the closes for what is no text.

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Client, Raw, Server, eventually, frame, skip};

/// Frames with the code that each must get; `ref` 7 is told back where it can be read.
#[test]
fn every_bad_frame_gets_its_error_and_its_ref() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let publish = |payload: &str| {
        format!(r#"{{"ref":7,"type":"publish","room":"elsewhere","payload":{payload}}}"#)
    };
    let of = |members: &str| format!(r#"{{"ref":7,{members}}}"#);
    let room = |name: &str| of(&format!(r#""type":"join","room":"{name}""#));
    let cases: Vec<(String, &str, bool)> = vec![
        ("".into(), "bad_json", false),
        ("x".into(), "bad_json", false),
        ("[]".into(), "bad_json", false),
        ("1".into(), "bad_json", false),
        (r#"{"type":"ping""#.into(), "bad_json", false),
        (r#"{"type":"ping"} {}"#.into(), "bad_json", false),
        (r#"{"ref":7,"type":"ping",}"#.into(), "bad_json", false),
        (publish(r#""\u0000""#), "bad_json", true),
        (publish(r#"{"a\u0000":1}"#), "bad_json", true),
        (publish(r#""\ud800""#), "bad_json", true),
        (publish(r#""\ude00\ud83d""#), "bad_json", true),
        (publish("1e200000"), "bad_json", true),
        (publish("1e-200000"), "bad_json", true),
        (publish("01"), "bad_json", false),
        (
            publish(&format!("{}{}", "[".repeat(127), "]".repeat(127))),
            "",
            true,
        ),
        (
            publish(&format!("{}{}", "[".repeat(128), "]".repeat(128))),
            "bad_json",
            true,
        ),
        (publish(&"[".repeat(30_000)), "bad_json", false),
        (
            publish(&format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000))),
            "bad_json",
            true,
        ),
        (of(r#""room":"a""#), "bad_frame", true),
        (of(r#""type":null"#), "bad_frame", true),
        (of(r#""type":1"#), "bad_frame", true),
        (of(r#""type":"join""#), "bad_frame", true),
        (of(r#""type":"join","room":["a"]"#), "bad_frame", true),
        (
            of(r#""type":"join","room":"a","username":7"#),
            "bad_frame",
            true,
        ),
        (
            of(r#""type":"join","room":"a","username":"""#),
            "bad_frame",
            true,
        ),
        (
            of(r#""type":"join","room":"a","presence":1"#),
            "bad_frame",
            true,
        ),
        (
            of(r#""type":"join","room":"a","since":3"#),
            "bad_frame",
            true,
        ),
        (
            of(r#""type":"join","room":"a","since":{"epoch":"x"}"#),
            "bad_frame",
            true,
        ),
        (
            of(r#""type":"join","room":"a","since":{"epoch":"x","offset":-1}"#),
            "bad_frame",
            true,
        ),
        (of(r#""type":"publish","room":"a""#), "bad_frame", true),
        (
            of(r#""type":"publish","room":"a","payload":1,"id":"no"#).replace("no", "no\""),
            "bad_frame",
            true,
        ),
        (
            of(r#""type":"publish","room":"a","payload":1,"echo":"no""#),
            "bad_frame",
            true,
        ),
        (
            of(r#""type":"publish","room":"a","room":"b","payload":1"#),
            "bad_frame",
            true,
        ),
        (of(r#""type":"refresh""#), "bad_frame", true),
        (
            r#"{"type":"members","room":"a"}"#.into(),
            "bad_frame",
            false,
        ),
        (of(r#""type":"shout""#), "unknown_type", true),
        (of(r#""type":"welcome""#), "unknown_type", true),
        (of(r#""type":"""#), "unknown_type", true),
        (room(""), "bad_room", true),
        (room(&"x".repeat(129)), "bad_room", true),
        (room(&"x".repeat(128)), "", true),
        (room(&"é".repeat(65)), "bad_room", true),
        (room(r"a\nb"), "bad_room", true),
        (room(r"a\u0085b"), "bad_room", true),
        (
            of(r#""type":"leave","room":"elsewhere""#),
            "not_joined",
            true,
        ),
        (
            of(r#""type":"signal","room":"elsewhere","payload":1"#),
            "not_joined",
            true,
        ),
        (of(r#""type":"refresh","token":"t""#), "forbidden", true),
        (of(r#""type":"join","room":"@else""#), "forbidden", true),
        (
            of(&format!(
                r#""type":"publish","room":"a","payload":1,"metadata":"{}""#,
                "m".repeat(16 * 1024 - 1)
            )),
            "too_large",
            true,
        ),
        (
            of(&format!(
                r#""type":"publish","room":"a","payload":1,"metadata":"{}""#,
                "m".repeat(16 * 1024 - 2)
            )),
            "",
            true,
        ),
    ];
    for (text, code, with_ref) in &cases {
        let shown = &text[..text.floor_char_boundary(100)];
        client.send_text(text);
        let answer = client.recv();
        assert_eq!(
            answer.get("ref"),
            with_ref.then_some(&json!(7)),
            "{shown}: {answer}"
        );
        if code.is_empty() {
            assert_ne!(answer["type"], "error", "{shown}: {answer}");
        } else {
            assert_eq!(answer["type"], "error", "{shown}: {answer}");
            assert_eq!(&answer["code"], code, "{shown}: {answer}");
            assert!(!answer["message"].as_str().unwrap().is_empty());
        }
    }
    // The connection has lived through all of it.
    assert_eq!(client.settle(), Vec::<Value>::new());
    let refused = cases.iter().filter(|(_, code, _)| *code == "bad_json");
    server.await_metric("errors_total{\"bad_json\"", refused.count() as u64);
    server.await_metric("panics_total", 0);
}

#[test]
fn too_many_rooms_of_a_connection() {
    let server = Server::start(&["--max-rooms-per-connection", "3"]);
    let mut client = Client::new(&server);
    for room in ["a", "b", "c", "c"] {
        client.join(room);
    }
    let join = json!({"type":"join","room":"d"});
    assert_eq!(client.ask_error(join.clone()), "too_many_rooms");
    // A publish takes no place, and a leave gives one back.
    client.publish("d", json!(1));
    client.ask(json!({"type":"leave","room":"b"}));
    assert_eq!(client.ask(join)["type"], "joined");
}

#[test]
fn too_many_rooms_of_the_server() {
    let limits = ["--max-rooms", "4", "--max-rooms-per-connection", "4"];
    let server = Server::start(&[&limits[..], &["--shards", "1", "--room-linger", "0s"]].concat());
    let mut client = Client::new(&server);
    for room in ["a", "b", "c", "d"] {
        client.join(room);
    }
    let mut other = Client::new(&server);
    let join = json!({"type":"join","room":"e"});
    assert_eq!(other.ask_error(join.clone()), "too_many_rooms");
    let publish = json!({"type":"publish","room":"e","payload":1});
    assert_eq!(client.ask_error(publish), "too_many_rooms");
    let members = json!({"type":"members","room":"e"});
    assert_eq!(client.ask_error(members), "too_many_rooms");
    // An empty room makes room.
    client.ask(json!({"type":"leave","room":"b"}));
    assert_eq!(other.ask(join)["type"], "joined");
    assert_eq!(
        other.ask_error(json!({"type":"join","room":"f"})),
        "too_many_rooms"
    );
}

#[test]
fn what_is_no_text_or_too_much_closes() {
    let server = Server::start(&["--max-fragments", "16"]);
    let text = |len: usize| frame(0x81, &vec![b' '; len]);
    let mut many = frame(0x01, b"{");
    many.extend((0..15).flat_map(|_| frame(0x00, b" ")));
    let mut endless = many.clone();
    endless.extend(frame(0x00, b""));
    let mut pieces = frame(0x01, &[b' '; 40_000]);
    pieces.extend(frame(0x80, &[b' '; 25_537]));
    let cases = [
        (frame(0x82, b"x"), Some(1003)),
        (frame(0x02, b""), Some(1003)),
        (frame(0x81, b"\xff"), Some(1007)),
        (frame(0x81, b"{\"a\":\"\xed\xa0\x80\"}"), Some(1007)),
        // Cut off within a character.
        (frame(0x81, b"\xe2\x82"), Some(1007)),
        // Bad at once, though more is to come.
        (frame(0x01, b"abc\xc0"), Some(1007)),
        (text(65_536), None),
        (text(65_537), Some(1009)),
        (pieces, Some(1009)),
        (many, None),
        (endless, Some(1008)),
    ];
    for (bytes, code) in cases {
        let mut raw = Raw::open(&server, "/ws");
        raw.frame().unwrap();
        raw.send(&bytes);
        if code.is_none() {
            // What was sent is taken, and what comes behind it: the end of a message, a close.
            raw.send(&frame(0x88, &[0x03, 0xe8]));
        }
        let shown = &bytes[..bytes.len().min(12)];
        assert_eq!(
            raw.close_code(),
            Some(code.unwrap_or(1000)),
            "{shown:02x?}, {} bytes",
            bytes.len()
        );
        assert_eq!(raw.frame(), None, "nothing behind a close");
    }
    // None of it has become a message.
    assert_eq!(server.metric("messages_accepted_total"), 0);
}

/// A directory with a file system of its own, if that may be made.
struct SmallDisk(Arc<TempDir>);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let dir = Arc::new(TempDir::new().unwrap());
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what is still open there goes with its process.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_unavailable_and_heals() {
    let Some(disk) = SmallDisk::mount("1m") else {
        skip("mounting a small tmpfs needs root");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 512 * 1024]).unwrap();
    let server = Server::start_on(disk.0.clone(), &[]);
    let mut client = Client::new(&server);
    let mut member = Client::new(&server);
    let epoch = member.join("a")["epoch"].clone();
    let payload = json!("x".repeat(8_000));
    let mut stored = 0;
    let refused = loop {
        let publish = json!({"type":"publish","room":"a","payload":payload});
        let answer = client.ask(publish);
        if answer["type"] == "error" {
            break answer;
        }
        stored += 1;
        assert_eq!(answer["offset"], stored, "offsets have no holes");
        assert!(stored < 200, "the disk is never full");
    };
    assert_eq!(refused["code"], "unavailable");
    assert_eq!(server.get("/health").json()["status"], "degraded");
    assert_eq!(
        server.get("/health").status,
        200,
        "the process serves all the same"
    );
    // Others are told, too, and nobody sees what was not stored.
    let publish = json!({"type":"publish","room":"b","payload":payload});
    assert_eq!(member.ask_error(publish), "unavailable");
    member.messages("a", 1, stored);
    assert_eq!(member.settle(), Vec::<Value>::new());

    std::fs::remove_file(&ballast).unwrap();
    let offset = eventually("a publish to be taken again", || {
        let answer = client.ask(json!({"type":"publish","room":"a","payload":payload}));
        answer["offset"].as_u64()
    });
    assert_eq!(offset, stored + 1, "what was refused took no offset");
    assert_eq!(server.get("/health").json()["status"], "ok");
    member.messages("a", offset, offset);

    let dir = server.kill();
    let server = Server::start_on(dir, &[]);
    let mut client = Client::new(&server);
    client.resume("a", &epoch, 0, offset);
    assert_eq!(client.settle(), Vec::<Value>::new());
}
