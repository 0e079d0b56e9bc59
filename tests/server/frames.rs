//! Frames that break RFC 6455: each gets its close code, however it is cut, and leaves nothing.

use super::support::{Raw, Server, all, connect, eventually, frame, upgrade_head};

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

#[test]
fn each_gets_its_code_and_leaves_nothing() {
    let repeats = if all() { 1_000 } else { 20 };
    let server = Server::start(&["--echo"]);
    Raw::open(&server, "/ws").frame().unwrap();
    let before = server.files_at_rest();
    for (bytes, code) in cases() {
        for repeat in 0..repeats {
            let path = if repeat % 2 == 0 { "/ws" } else { "/echo" };
            let mut raw = Raw::open(&server, path);
            if repeat % 4 < 2 {
                raw.send(&bytes);
            } else {
                bytes.iter().for_each(|byte| raw.send(&[*byte]));
            }
            let shown = &bytes[..bytes.len().min(16)];
            assert_eq!(raw.close_code(), Some(code), "{path} {shown:02x?}");
            assert_eq!(raw.frame(), None, "{path} {shown:02x?}: nothing behind it");
        }
    }
    eventually("all descriptors to be closed", || {
        (server.files() <= before).then_some(())
    });
    assert_eq!(server.files_at_rest(), before);
    server.await_metric("panics_total", 0);
    assert_eq!(server.metric("messages_accepted_total"), 0);
}

/// What is declared costs nothing before it comes.
#[test]
fn declared_lengths_take_no_memory() {
    let server = Server::start(&["--echo"]);
    let before = server.memory_kib();
    let sockets: Vec<_> = (0..400)
        .map(|_| {
            let mut raw = Raw::open(&server, "/echo");
            // 16 MiB are to come, of which a byte does.
            raw.send(&[0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5]);
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
