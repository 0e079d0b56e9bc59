//! Frames: every kind, every cut, every bound; and what redis_protocol alone would not survive.

use proptest::prelude::*;
use redis_protocol::resp2;

use super::*;
use crate::resp::{Cause, Refusal};

/// What comes of `bytes` shown in pieces that end at `ends`: values with `>` before a push, then
/// what went wrong, then how many bytes are left over.
fn read(bytes: &[u8], ends: &[usize]) -> Vec<String> {
    let (mut gauge, mut buffer) = (Gauge::default(), BytesMut::new());
    let (mut told, mut start) = (Vec::new(), 0);
    for &end in ends.iter().chain([&bytes.len()]) {
        buffer.extend_from_slice(&bytes[start..end]);
        start = end;
        loop {
            match gauge.next(&mut buffer) {
                Ok(Some(frame)) => {
                    let push = if frame.is_push { ">" } else { "" };
                    told.push(format!("{push}{}", short(&frame.value)));
                }
                Ok(None) => break,
                Err(WireError::Garbage { what, .. }) => {
                    told.push(what.to_owned());
                    return told;
                }
                Err(error) => {
                    told.push(error.to_string());
                    return told;
                }
            }
        }
    }
    if !buffer.is_empty() {
        told.push(format!("{} left", buffer.len()));
    }
    told
}

fn short(value: &Value) -> String {
    match value {
        Value::Nil => "nil".into(),
        Value::Text(text) => format!("'{}'", text.escape_ascii()),
        Value::Number(number) => number.to_string(),
        Value::List(list) => {
            let list: Vec<_> = list.iter().map(short).collect();
            format!("[{}]", list.join(" "))
        }
        Value::Error(refusal) => format!("{:?}:{}", refusal.cause, refusal.text),
    }
}

fn check(bytes: &str, want: &[&str]) {
    check_bytes(bytes.as_bytes(), want);
}

/// As a whole, in single bytes, and cut at every place.
fn check_bytes(bytes: &[u8], want: &[&str]) {
    let shown = bytes.escape_ascii();
    assert_eq!(read(bytes, &[]), want, "{shown}");
    let every: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(read(bytes, &every), want, "{shown} byte by byte");
    for cut in every {
        assert_eq!(read(bytes, &[cut]), want, "{shown} cut at {cut}");
    }
}

#[test]
fn kinds_of_resp2() {
    check("+OK\r\n:42\r\n:-7\r\n", &["'OK'", "42", "-7"]);
    check(
        "$5\r\na\r\nbc\r\n$0\r\n\r\n$-1\r\n",
        &[r"'a\r\nbc'", "''", "nil"],
    );
    check("*-1\r\n*0\r\n*1\r\n*0\r\n", &["nil", "[]", "[[]]"]);
    check(
        "*3\r\n:1\r\n*2\r\n$1\r\na\r\n$-1\r\n+b\r\n:9\r\n",
        &["[1 ['a' nil] 'b']", "9"],
    );
    check("-OOM full\r\n", &["OutOfMemory:OOM full"]);
    check("*1\r\n-NOSCRIPT none\r\n", &["[NoScript:NOSCRIPT none]"]);
    check("+a\rb\r\n+\r\n", &[r"'a\rb'", "''"]);
    check("+\na\r\r\n+\n\r\n", &[r"'\na\r'", r"'\n'"]);
}

#[test]
fn kinds_of_resp3() {
    check(
        "_\r\n#t\r\n#f\r\n,1.5\r\n,inf\r\n(123\r\n",
        &["nil", "1", "0", "'1.5'", "'inf'", "'123'"],
    );
    check(
        "=8\r\ntxt:a\r\nb\r\n!9\r\nBUSY wait\r\n",
        &[r"'a\r\nb'", "Busy:BUSY wait"],
    );
    check(
        "%2\r\n+b\r\n:2\r\n+a\r\n*1\r\n_\r\n",
        &["['b' 2 'a' [nil]]"],
    );
    check("~3\r\n+c\r\n+a\r\n+b\r\n%0\r\n", &["['c' 'a' 'b']", "[]"]);
    check("|1\r\n+ttl\r\n:3\r\n*1\r\n+x\r\n:5\r\n", &["['x']", "5"]);
    check("*2\r\n|1\r\n+ttl\r\n:3\r\n+x\r\n:5\r\n", &["['x' 5]"]);
    check(
        ">3\r\n+message\r\n+c\r\n+p\r\n+OK\r\n",
        &[">['message' 'c' 'p']", "'OK'"],
    );
    check(">2\r\n+x\r\n%1\r\n+k\r\n_\r\n", &[">['x' ['k' nil]]"]);
    // As some proxies answer a client of RESP3.
    check("*2\r\n$-1\r\n*-1\r\n", &["[nil nil]"]);
    check("*2\r\n_\r\n$-1\r\n", &["[nil nil]"]);
    // A key may be any value, by the protocol.
    check("%1\r\n*0\r\n+x\r\n", &["[[] 'x']"]);
}

#[test]
fn what_is_no_resp() {
    let check = |bytes: &str, want: &str| check(bytes, &[want]);
    check("HTTP/1.1 400 Bad Request\r\n", "no kind of value");
    check("\r\n", "no kind of value");
    check("$?\r\n;1\r\na\r\n", "no length");
    check("*+1\r\n", "no length");
    check("*-2\r\n", "no length");
    check("%-1\r\n", "no length");
    check("*\r\n", "no length");
    check("$18446744073709551616\r\n", "no length");
    check("$2\r\nabc\r\n", "a string is longer than its length");
    check("=3\r\nabc\r\n", "too short a verbatim string");
    check(":1.5\r\n", "a value that is none");
    check("#x\r\n", "a value that is none");
    check("*1\r\n>1\r\n+x\r\n", "no kind of value");
    check("*1\r\n_x\r\n", "a value that is none");
    check("~2\r\n_\r\n$-1\r\n", "a value that is none");
    check("%1\r\n*0\r\n#t\r\n", "a value that is none");
    check(
        "|1\r\n+a\r\n+b\r\n|1\r\n+a\r\n+b\r\n+c\r\n",
        "a value that is none",
    );
    check_bytes(b"+fine\r\n\xff", &["'fine'", "no kind of value"]);
}

#[test]
fn an_error_names_what_is_likely() {
    let near = |bytes: &[u8]| {
        let mut bytes = BytesMut::from(bytes);
        Gauge::default().next(&mut bytes).unwrap_err().to_string()
    };
    assert!(near(b"\x15\x03\x03\0\x02").contains("rediss://"));
    let line = near(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n");
    assert!(
        line.contains("HTTP/1.1") && line.contains("the address of a Redis"),
        "{line}"
    );
    assert!(!line.contains('\n') && line.len() < 200);
}

#[test]
fn an_error_that_is_not_utf8_is_still_one() {
    let text = b"-ERR unknown command, with args beginning with: caf\xc3\r\n*1\r\n-\xff\r\n";
    check_bytes(
        text,
        &[
            "Other:ERR unknown command, with args beginning with: caf?",
            "[Other:?]",
        ],
    );
}

#[test]
fn bounds() {
    let whole = |bytes: &[u8]| read(bytes, &[]).join(" ");
    for head in ["*1\r\n", "~1\r\n", "%1\r\n+k\r\n", ">1\r\n", "|1\r\n+k\r\n"] {
        let told = whole(head.repeat(100_000).as_bytes());
        assert!(
            told.contains("32 levels") || told == "no kind of value",
            "{head}: {told}"
        );
    }
    let deepest = format!("{}:1\r\n", "*1\r\n".repeat(RESP_DEPTH_MAX - 1));
    assert!(whole(deepest.as_bytes()).contains("[1]"));
    let deeper = format!("*1\r\n{deepest}");
    assert!(whole(deeper.as_bytes()).contains("levels"));
    // At once, not when as much has come.
    assert!(whole(b"*1048577\r\n").contains("elements"));
    assert!(whole(b"%524289\r\n").contains("elements"));
    assert!(whole(b"*2\r\n*1048570\r\n").contains("left"));
    assert!(whole(b"*2\r\n:1\r\n*1048576\r\n").contains("elements"));
    assert!(whole(b"*999999999999\r\n").contains("elements"));
    let bulk = |bytes: usize| whole(format!("${bytes}\r\n").as_bytes());
    assert!(bulk(RESP_REPLY_BYTES_MAX).contains("bytes"));
    assert!(bulk(RESP_REPLY_BYTES_MAX - 100).contains("left"));
    let line = |length: usize| format!("+{}\r\n", "x".repeat(length - 1));
    assert!(whole(line(RESP_LINE_BYTES_MAX).as_bytes()).starts_with("'xx"));
    for cut in [1, RESP_LINE_BYTES_MAX + 1, RESP_LINE_BYTES_MAX + 2] {
        let told = read(line(RESP_LINE_BYTES_MAX + 1).as_bytes(), &[cut]);
        assert_eq!(told, [ENDLESS], "cut at {cut}");
    }
}

/// What is announced costs nothing, and what comes is looked at once: 8 MiB in pieces of a
/// kilobyte would be looked at 4,000 times over.
#[test]
fn a_large_reply_in_small_pieces_is_walked_once() {
    let mut bytes = b"*100000\r\n".to_vec();
    for _ in 0..100_000 {
        bytes.extend_from_slice(b"$70\r\n");
        bytes.extend_from_slice(&[b'x'; 70]);
        bytes.extend_from_slice(b"\r\n");
    }
    let (mut gauge, mut buffer) = (Gauge::default(), BytesMut::new());
    let mut walked = 0;
    let mut frames = 0;
    for piece in bytes.chunks(1024) {
        buffer.extend_from_slice(piece);
        let before = gauge.elements;
        frames += usize::from(gauge.next(&mut buffer).unwrap().is_some());
        walked += gauge.elements.saturating_sub(before);
        assert!(gauge.owed.capacity() <= 64);
    }
    assert_eq!((frames, buffer.len()), (1, 0));
    assert!((99_000..100_002).contains(&walked), "{walked}");
}

#[test]
fn texts_are_views() {
    let mut bytes = BytesMut::from(&b"$3\r\nabc\r\n"[..]);
    let at = bytes.as_ptr() as usize;
    let frame = Gauge::default().next(&mut bytes).unwrap().unwrap();
    assert_eq!(frame.value.as_text().unwrap().as_ptr() as usize, at + 4);
}

impl From<resp2::types::BytesFrame> for Value {
    fn from(frame: resp2::types::BytesFrame) -> Self {
        use resp2::types::BytesFrame as F;
        match frame {
            F::SimpleString(text) | F::BulkString(text) => Self::Text(text),
            F::Error(text) => Self::Error(Refusal::new(&*text)),
            F::Integer(number) => Self::Number(number),
            F::Array(list) => Self::List(list.into_iter().map(Into::into).collect()),
            F::Null => Self::Nil,
        }
    }
}

/// A value as one of either RESP would write it.
fn encode(value: &Value, resp3: bool, out: &mut Vec<u8>) {
    match value {
        Value::Nil if resp3 => out.extend_from_slice(b"_\r\n"),
        Value::Nil => out.extend_from_slice(b"$-1\r\n"),
        Value::Text(text) => {
            out.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
        Value::Number(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Value::List(list) => {
            let keys = list.iter().step_by(2);
            let is_map = resp3
                && list.len().is_multiple_of(2)
                && keys.clone().enumerate().all(|(i, key)| {
                    key.as_text().is_some() && !keys.clone().take(i).any(|other| other == key)
                });
            let head = if is_map {
                format!("%{}\r\n", list.len() / 2)
            } else {
                format!("*{}\r\n", list.len())
            };
            out.extend_from_slice(head.as_bytes());
            list.iter().for_each(|value| encode(value, resp3, out));
        }
        Value::Error(refusal) => {
            out.extend_from_slice(format!("-{}\r\n", refusal.text).as_bytes());
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<i64>().prop_map(Value::Number),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|text| Value::Text(text.into())),
        "[A-Z]{3,4} [a-z -]{0,9}".prop_map(|text| Value::Error(Refusal::new(text))),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop::collection::vec(inner, 0..6).prop_map(Value::List)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_written_is_read(
        values in prop::collection::vec(any_value(), 1..4),
        resp3 in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| encode(value, resp3, &mut bytes));
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        let want: Vec<_> = values.iter().map(short).collect();
        prop_assert_eq!(read(&bytes, &ends), want);
    }

    /// The library is what it must agree with.
    #[test]
    fn plain_frames_are_what_redis_protocol_makes_of_them(
        value in any_value(),
        resp3 in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        encode(&value, resp3, &mut bytes);
        let ours = read(&bytes, &[]);
        let mut bytes = BytesMut::from(&bytes[..]);
        let theirs: Value = if resp3 {
            decoded(resp3::decode::complete::decode_bytes_mut(&mut bytes), b"").unwrap()
        } else {
            decoded(resp2::decode::decode_bytes_mut(&mut bytes), b"").unwrap()
        };
        prop_assert_eq!(ours, [short(&theirs)]);
    }

    #[test]
    fn garbage_is_told_alike_however_it_is_cut(
        values in prop::collection::vec(any_value(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        marks in prop::sample::select(b"+-:$*_,#!=(%~>|;.?0123456789\r\n".to_vec()),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| encode(value, true, &mut bytes));
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = if byte % 2 == 0 { marks } else { *byte };
        }
        let whole = read(&bytes, &[]);
        prop_assert_eq!(read(&bytes, &[cut.index(bytes.len())]), &whole[..]);
        let every: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(read(&bytes, &every), whole);
    }
}

#[test]
fn causes_come_with_errors() {
    let mut bytes = BytesMut::from(&b"*1\r\n-READONLY no\r\n"[..]);
    let frame = Gauge::default().next(&mut bytes).unwrap().unwrap();
    let Value::List(list) = frame.value else {
        panic!("no list");
    };
    assert_eq!(list, [Value::Error(Refusal::new("READONLY no"))]);
    assert!(matches!(&list[0], Value::Error(refusal) if refusal.cause == Cause::ReadOnly));
}
