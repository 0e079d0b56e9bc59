//! Frames that break RFC 6455 or RFC 7692: each gets its close code, however it is cut, and leaves
//! nothing. Meanwhile others talk and miss nothing.

use super::deflate::{Deflater, open};
use super::support::{Raw, Server, all, connect, eventually, frame, talking, upgrade_head};

/// What of permessage-deflate can be agreed on alike on both paths.
const OFFER: &str = "permessage-deflate; client_no_context_takeover";

fn close(code: u16) -> Vec<u8> {
    frame(0x88, &code.to_be_bytes())
}

/// What is sent, and the code of the close that must come.
fn cases() -> Vec<(Vec<u8>, u16)> {
    let joined = |frames: &[Vec<u8>]| frames.concat();
    let mut cases = vec![
        // Not masked.
        (vec![0x81, 0x01, b'a'], 1002),
        (vec![0x89, 0x00], 1002),
        (vec![0x88, 0x02, 0x03, 0xe8], 1002),
        // Reserved bits.
        (frame(0xc1, b"a"), 1002),
        (frame(0xa1, b"a"), 1002),
        (frame(0x91, b"a"), 1002),
        (frame(0xc9, b""), 1002),
        // Control frames in pieces, or too long.
        (frame(0x09, b""), 1002),
        (frame(0x0a, b""), 1002),
        (frame(0x08, b""), 1002),
        (frame(0x89, &[0; 126]), 1002),
        (frame(0x8a, &[0; 126]), 1002),
        (frame(0x88, &[3; 126]), 1002),
        (frame(0x88, &[3]), 1002),
        (frame(0x88, b"\x03\xe8\xff"), 1007),
        (frame(0x88, b""), 1000),
        // Lengths that are not in the shortest form, and impossible ones.
        (vec![0x81, 0xfe, 0x00, 0x7d], 1002),
        (vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 1002),
        (vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], 1002),
        (vec![0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 1], 1002),
        (vec![0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0], 1009),
        // Continuations of nothing, and messages within messages.
        (frame(0x80, b"a"), 1002),
        (frame(0x00, b""), 1002),
        (joined(&[frame(0x81, b"1"), frame(0x80, b"1")]), 1002),
        (joined(&[frame(0x01, b"1"), frame(0x81, b"2")]), 1002),
        (
            joined(&[frame(0x01, b"1"), frame(0x89, b""), frame(0x01, b"2")]),
            1002,
        ),
        // Text that is none.
        (frame(0x81, b"\xc0\x80"), 1007),
        (joined(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"x")]), 1007),
        (joined(&[frame(0x01, b"\xe2\x82"), frame(0x80, b"")]), 1007),
    ];
    for opcode in (3..=7).chain(11..=15) {
        cases.push((frame(0x80 | opcode, b""), 1002));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        cases.push((close(code), 1002));
    }
    for code in [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4002, 4999] {
        cases.push((close(code), code));
    }
    cases
}

/// The same where compression was agreed on, or could have been.
fn compressed_cases() -> Vec<(Vec<u8>, u16)> {
    let deflate = |payload: &[u8]| Deflater::new(15, false).deflate(payload);
    let text = deflate(&b"{\"type\":\"ping\"}".repeat(20));
    let (one, two) = text.split_at(text.len() / 2);
    let bomb = deflate(&vec![b' '; 2 << 20]);
    let joined = |frames: &[Vec<u8>]| frames.concat();
    vec![
        // The bit in any frame but a message's first, and the other bits.
        (joined(&[frame(0x41, one), frame(0xc0, two)]), 1002),
        (joined(&[frame(0x01, b"1"), frame(0xc0, two)]), 1002),
        (frame(0xc9, b""), 1002),
        (frame(0xc8, b""), 1002),
        (frame(0xc0, &text), 1002),
        (frame(0xc3, &text), 1002),
        (frame(0xe1, &text), 1002),
        (frame(0xd1, &text), 1002),
        (frame(0xa1, b"a"), 1002),
        // Messages within messages, compressed or not.
        (joined(&[frame(0x41, one), frame(0xc1, &text)]), 1002),
        (joined(&[frame(0x41, one), frame(0x81, b"1")]), 1002),
        // What is no deflated data, is cut, or refers to a message that was not to be kept.
        (frame(0xc1, b"\x07"), 1007),
        (frame(0xc1, b"hello"), 1007),
        (frame(0xc1, one), 1007),
        (joined(&[frame(0x41, one), frame(0x80, b"")]), 1007),
        (frame(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]), 1007),
        (frame(0xc1, &[3, 0].repeat(1000)), 1007),
        // Text that is none when it is inflated.
        (frame(0xc1, &deflate(b"\xc0\x80")), 1007),
        (frame(0xc1, &deflate(b"cut \xe2\x82")), 1007),
        // Much in little, whole and in pieces.
        (frame(0xc1, &bomb), 1009),
        (
            joined(&[frame(0x41, &bomb[..99]), frame(0x80, &bomb[99..])]),
            1009,
        ),
        (vec![0xc1, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0], 1009),
        (vec![0xc1, 0xfe, 0x00, 0x7d], 1002),
    ]
}

/// Each of `cases` on a connection of its own, so many times, from both paths, whole and byte by
/// byte. Nothing is left of them, none becomes a message, and others talk meanwhile.
fn expect_closed(server: &Server, offer: Option<&str>, cases: &[(Vec<u8>, u16)], repeats: usize) {
    let connect = |path| match offer {
        None => Raw::open(server, path),
        Some(offer) => {
            let (raw, agreed) = open(server, path, offer);
            assert!(agreed.contains("permessage-deflate"), "{agreed}");
            raw
        }
    };
    connect("/ws").frame().unwrap();
    let before = server.files_at_rest();
    let mut said = 0;
    talking(server, "others", 100, || {
        for (bytes, code) in cases {
            for repeat in 0..repeats {
                let path = if repeat % 2 == 0 { "/ws" } else { "/echo" };
                let mut raw = connect(path);
                let shown = &bytes[..bytes.len().min(16)];
                if repeat % 4 < 2 || bytes.len() > 1000 {
                    raw.send(bytes);
                } else {
                    bytes.iter().for_each(|byte| raw.send(&[*byte]));
                }
                assert_eq!(raw.close_code(), Some(*code), "{path} {shown:02x?}");
                assert_eq!(raw.frame(), None, "{path} {shown:02x?}: nothing behind it");
                said += 1;
            }
        }
    });
    assert_eq!(said, cases.len() * repeats);
    eventually("all descriptors to be closed", || {
        (server.files() <= before).then_some(())
    });
    assert_eq!(server.files_at_rest(), before);
    server.await_metric("panics_total", 0);
    let body = server.get("/api/rooms").json();
    let rooms = body["rooms"].as_array().unwrap();
    assert!(rooms.iter().all(|room| room["room"] == "others"), "{body}");
}

fn repeats() -> usize {
    if all() { 1_000 } else { 20 }
}

/// FAULTS B1, B2, B4, B6: frames without a mask, with reserved bits or opcodes; control frames too
/// long or in pieces, closes with codes that are none; text that is not UTF-8, whole, in pieces and
/// cut; messages within messages and continuations of nothing. Each gets its code, leaves no
/// descriptor, and becomes no message; others talk on.
#[test]
fn each_gets_its_code_and_leaves_nothing() {
    let server = Server::start(&["--echo"]);
    expect_closed(&server, None, &cases(), repeats());
}

/// FAULTS B1, B3, B4, B5, B6: the same where compression was agreed on: its bit where it must not
/// be, deflated data that is none, bombs. 1002, 1007 and 1009.
#[test]
fn so_does_each_where_compression_was_agreed_on() {
    let server = Server::start(&["--echo", "--deflate", "--max-message-bytes", "64KiB"]);
    expect_closed(&server, Some(OFFER), &compressed_cases(), repeats());
    expect_closed(&server, Some(OFFER), &cases()[4..], 4);
    // Who did not offer it, or was not given it, must not use it.
    let text = Deflater::new(15, false).deflate(b"{}");
    let case = [(frame(0xc1, &text), 1002)];
    expect_closed(&server, None, &case, repeats());
    let without = Server::start(&["--echo"]);
    expect_closed(&without, None, &case, 4);
}

/// FAULTS B5: a message of the limit passes, and one of a byte more, of 64 MiB, of endless
/// fragments of one byte, and of endless empty ones ends its connection; so does a bomb. Memory
/// stays within twice the limit for each socket.
#[test]
fn what_is_too_much_ends_its_connection_and_takes_no_memory() {
    const LIMIT: usize = 64 * 1024;
    let server = Server::start(&["--deflate"]);
    let of = |bytes: usize| {
        let around = r#"{"type":"signal","room":"r","payload":""}"#;
        around.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - around.len())))
    };
    let deflate = |text: &str| Deflater::new(15, false).deflate(text.as_bytes());
    let pieces = |piece: &[u8]| [frame(0x01, b"x"), frame(0x00, piece).repeat(20_000)].concat();
    // 64 MiB are declared, and one of them comes.
    let mut begun = vec![0x81, 0xff, 0, 0, 0, 0, 4, 0, 0, 0];
    begun.resize(1 << 20, 0);
    let cases = [
        (frame(0x81, of(LIMIT).as_bytes()), None),
        (frame(0xc1, &deflate(&of(LIMIT))), None),
        (frame(0x81, of(LIMIT + 1).as_bytes()), Some(1009)),
        (frame(0xc1, &deflate(&of(LIMIT + 1))), Some(1009)),
        (begun, Some(1009)),
        (
            frame(
                0xc1,
                &Deflater::new(15, false).deflate(&vec![b'x'; 64 << 20]),
            ),
            Some(1009),
        ),
        (pieces(b"x"), Some(1008)),
        (pieces(b""), Some(1008)),
    ];
    let sockets = if all() { 1_000 } else { 50 };
    talking(&server, "others", 100, || {
        // What the allocator keeps for good is there after the first round.
        let mut before = None;
        for (bytes, code) in cases.iter().chain(&cases) {
            let mut open: Vec<Raw> = Vec::new();
            for _ in 0..sockets {
                let (mut raw, _) = super::deflate::open(&server, "/ws", OFFER);
                assert!(raw.frame().is_some(), "welcome");
                raw.send(bytes);
                if code.is_none() {
                    raw.send(&frame(0x81, br#"{"type":"ping","ref":1}"#));
                    // The room was not joined: an error, and then the pong.
                    assert!(raw.frame().is_some_and(|error| error.0 == 1));
                    assert!(raw.frame().is_some_and(|pong| pong.0 == 1));
                } else {
                    assert_eq!(raw.close_code(), *code);
                }
                open.push(raw);
            }
            let memory = server.memory_kib();
            let before = *before.get_or_insert(memory);
            let grown = memory.saturating_sub(before) as usize * 1024;
            assert!(grown < 2 * LIMIT * sockets, "{grown} bytes more, {code:?}");
        }
    });
    server.await_metric("panics_total", 0);
}

/// FAULTS B3: 16 MiB are declared by each of many sockets, and a byte is sent: what is declared
/// costs nothing before it comes. (Lengths that can't be are refused at once, as the others above.)
#[test]
fn declared_lengths_take_no_memory() {
    let server = Server::start(&["--echo", "--deflate"]);
    let before = server.memory_kib();
    let sockets: Vec<_> = (0..400)
        .map(|n| {
            let mut raw = match n % 2 {
                0 => Raw::open(&server, "/echo"),
                _ => open(&server, "/echo", OFFER).0,
            };
            // 16 MiB are to come, of which a byte does.
            let first = 0x82 | if n % 2 == 0 { 0 } else { 0x40 };
            raw.send(&[first, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5]);
            // And it is still alive.
            raw
        })
        .collect();
    server.await_metric("connections", 401);
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB for {}", sockets.len());
}

#[test]
fn echo_is_there_only_when_asked_for() {
    let server = Server::start(&[]);
    let mut socket = connect(server.port);
    std::io::Write::write_all(&mut socket, upgrade_head("/echo").as_bytes()).unwrap();
    assert_eq!(super::support::Answer::read(&mut socket).status, 404);

    let server = Server::start(&["--echo"]);
    let mut raw = Raw::open(&server, "/echo");
    for len in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let payload = vec![b'x'; len];
        raw.send(&frame(0x81, &payload));
        assert_eq!(raw.frame(), Some((1, payload.clone())));
        raw.send(&[frame(0x02, &payload), frame(0x80, b"end")].concat());
        assert_eq!(raw.frame(), Some((2, [&payload[..], b"end"].concat())));
    }
}
