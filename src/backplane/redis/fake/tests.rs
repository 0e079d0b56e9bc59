//! The fake Redis against what is asked of it, and against a real one.

mod against;
mod real;
mod scripts;
mod values;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::resp::push_command;
use values::{Parsed, parse};

/// A fake with one connection, and a word for each test to ask by.
struct Asked {
    redis: FakeRedis,
    id: u32,
}

impl Asked {
    fn new() -> Self {
        let mut redis = FakeRedis::new();
        redis.set_now(1_700_000_000_000);
        let id = redis.connect();
        Self { redis, id }
    }

    fn send(&mut self, command: &str) {
        let mut out = vec![];
        let args: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        push_command(&mut out, &args);
        self.redis.on_bytes(self.id, &out);
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(command);
        text(&self.redis.take(self.id))
    }
}

fn text(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    text.replace(r"\r\n", " ")
        .replace(r"\'", "'")
        .trim_end()
        .to_owned()
}

fn load(asked: &mut Asked, script: Script) -> String {
    let mut out = vec![];
    script.push_load(&mut out);
    asked.redis.on_bytes(asked.id, &out);
    let reply = asked.redis.take(asked.id);
    String::from_utf8(reply[5..45].to_vec()).unwrap()
}

#[test]
fn commands_may_come_in_pieces() {
    let mut asked = Asked::new();
    let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n\r\n1\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    for byte in bytes {
        asked.redis.on_bytes(asked.id, &[*byte]);
    }
    assert_eq!(text(&asked.redis.take(asked.id)), "+OK $3  1");
    asked.redis.on_bytes(asked.id, bytes);
    assert_eq!(text(&asked.redis.take(asked.id)), "+OK $3  1");
    assert_eq!(asked.redis.count("GET"), 2);
}

#[test]
fn subscribers_hear_and_are_cut_when_they_do_not_listen() {
    let mut asked = Asked::new();
    let (three, two) = (asked.redis.connect(), asked.id);
    asked.id = three;
    assert!(asked.ask("HELLO 3").starts_with("%7 $6 server"));
    assert_eq!(asked.ask("SUBSCRIBE c"), ">3 $9 subscribe $1 c :1");
    asked.id = two;
    assert_eq!(
        asked.ask("SUBSCRIBE c d"),
        "*3 $9 subscribe $1 c :1 *3 $9 subscribe $1 d :2"
    );
    assert!(
        asked
            .ask("GET k")
            .starts_with("-ERR Can't execute 'get': only")
    );
    assert_eq!(asked.ask("PING"), "*2 $4 pong $0");
    // A RESP3 connection may publish to itself: the push is first.
    asked.id = three;
    assert_eq!(asked.ask("PUBLISH c hi"), ">3 $7 message $1 c $2 hi :2");
    asked.id = two;
    assert_eq!(text(&asked.redis.take(two)), "*3 $7 message $1 c $2 hi");
    assert_eq!(asked.ask("UNSUBSCRIBE"), {
        "*3 $11 unsubscribe $1 c :1 *3 $11 unsubscribe $1 d :0"
    });
    assert_eq!(asked.ask("UNSUBSCRIBE"), "*3 $11 unsubscribe $-1 :0");
    asked.redis.set_pubsub_output_max(100);
    for _ in 0..4 {
        asked.send("PUBLISH c 0123456789");
    }
    assert!(!asked.redis.is_open(three) && asked.redis.is_open(two));
    assert_eq!(text(&asked.redis.take(two)), ":1 :1 :1 :0");
    asked.redis.kill(two);
    assert!(!asked.redis.is_open(two));
    asked.send("PING");
    assert_eq!(asked.ask("PING"), "");
}

#[test]
fn a_password_is_asked_for() {
    let mut asked = Asked::new();
    asked.redis.set_password(Some("secret"));
    asked.id = asked.redis.connect();
    assert_eq!(asked.ask("GET k"), "-NOAUTH Authentication required.");
    assert!(asked.ask("HELLO 3").starts_with("-NOAUTH HELLO must"));
    assert!(
        asked
            .ask("HELLO 3 AUTH default wrong")
            .starts_with("-WRONGPASS")
    );
    assert!(
        asked
            .ask("HELLO 3 AUTH default secret SETNAME x")
            .starts_with("%7")
    );
    assert_eq!(asked.ask("GET k"), "_");
    asked.id = asked.redis.connect();
    assert_eq!(asked.ask("AUTH secret"), "+OK");
    assert_eq!(asked.ask("GET k"), "$-1");
}

#[test]
fn it_comes_back_with_less() {
    let mut asked = Asked::new();
    let sha = load(&mut asked, Script::Lease);
    let call = format!("EVALSHA {sha} 1 l me 5000");
    assert_eq!(asked.ask("HSET h a 1"), ":1");
    let snapshot = asked.redis.snapshot();
    assert_eq!(asked.ask(&call), "*3 $4 held $0  :5000");
    assert_eq!(asked.ask("HSET h b 1"), ":1");
    let old = asked.id;
    asked.redis.restore(&snapshot);
    assert!(!asked.redis.is_open(old));
    asked.id = asked.redis.connect();
    assert_eq!(asked.ask("HGETALL h"), "*2 $1 a $1 1");
    assert_eq!(asked.ask("EXISTS l"), ":0");
    assert_eq!(
        asked.ask(&call),
        "-NOSCRIPT No matching script. Please use EVAL."
    );
    load(&mut asked, Script::Lease);
    assert_eq!(asked.ask(&call), "*3 $4 held $0  :5000");
    asked.redis.flush();
    assert_eq!(asked.ask("EXISTS h l"), ":0");
    assert_eq!(asked.redis.count("lease.lua"), 2);
}

#[test]
fn keys_expire_by_its_clock() {
    let mut asked = Asked::new();
    assert_eq!(asked.ask("SET k v PX 100"), "+OK");
    assert_eq!(asked.ask("SET k w NX"), "$-1");
    asked.redis.set_now(1_700_000_000_099);
    assert_eq!(asked.ask("PTTL k"), ":1");
    asked.redis.set_now(1_700_000_000_100);
    assert_eq!(asked.ask("GET k"), "$-1");
    assert_eq!(asked.ask("PTTL k"), ":-2");
    assert_eq!(asked.ask("SET k w NX"), "+OK");
    assert_eq!(asked.ask("PTTL k"), ":-1");
    assert!(asked.redis.data().text(b"k").unwrap().is_some());
}

#[test]
fn writes_are_refused() {
    let mut asked = Asked::new();
    for (refusal, set, del, get) in [
        ("OOM full", "-OOM full", ":0", "$-1"),
        (
            "READONLY replica",
            "-READONLY replica",
            "-READONLY replica",
            "$-1",
        ),
        (
            "LOADING files",
            "-LOADING files",
            "-LOADING files",
            "-LOADING files",
        ),
    ] {
        asked.redis.refuse_writes(Some(refusal));
        assert_eq!(asked.ask("SET k v"), set);
        assert_eq!(asked.ask("DEL k"), del);
        assert_eq!(asked.ask("GET k"), get);
    }
    assert!(asked.ask("HELLO 2").starts_with("*14"));
    asked.redis.refuse_writes(None);
    assert_eq!(asked.ask("SET k v"), "+OK");
}

#[test]
fn large_hashes_are_scanned_in_pages() {
    let mut asked = Asked::new();
    for i in 0..1000 {
        asked.send(&format!("HSET h field-{i} {i}"));
    }
    asked.redis.take(asked.id);
    let (mut cursor, mut seen, mut pages) = ("0".to_owned(), vec![], 0);
    loop {
        asked.send(&format!("HSCAN h {cursor} COUNT 100 MATCH field-*"));
        let reply = asked.redis.take(asked.id);
        let Parsed::List(_, parts) = parse(&mut &*reply) else {
            panic!("{}", text(&reply));
        };
        let [Parsed::Bulk(next), Parsed::List(_, page)] = &parts[..] else {
            panic!("{}", text(&reply));
        };
        for field in page.iter().step_by(2) {
            let Parsed::Bulk(field) = field else {
                panic!("{field:?}")
            };
            let field = String::from_utf8(field.clone()).unwrap();
            // What is dropped between pages takes nothing else with it.
            asked.send(&format!("HDEL h {field}"));
            seen.push(field);
        }
        asked.redis.take(asked.id);
        pages += 1;
        cursor = String::from_utf8(next.clone()).unwrap();
        if cursor == "0" {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() == 1000 && pages > 5, "{} in {pages}", seen.len());
}

#[test]
fn input_is_not_looked_for_beyond_a_command() {
    let mut input = BytesMut::from(&b"*1\r\n$4\r\nPING\r\n*1\r\n$4"[..]);
    assert_eq!(
        next_command(&mut input),
        Ok(Some(vec![Bytes::from("PING")]))
    );
    assert_eq!(next_command(&mut input), Ok(None));
    let mut bad = BytesMut::from(&b"GET k\r\n"[..]);
    assert!(next_command(&mut bad).is_err());
}
