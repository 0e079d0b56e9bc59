//! The decoder against RFC 6455, against itself on cut input, and against tungstenite.

use std::io::{Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::*;
use crate::net::encode::{opcode, push_close, push_frame};

const LIMITS: DecoderLimits = DecoderLimits {
    message_bytes_max: 70_000,
    fragments_max: 16,
    binary_taken: true,
};

/// A [`Message`] that owns what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Message<'_>> for Owned {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.to_owned()),
            Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Message::Close(close) => {
                Self::Close(close.map(|(code, reason)| (code.0, reason.to_owned())))
            }
        }
    }
}

/// One frame as a client writes it, with bytes 0 and 1 free to be wrong.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x12, 0xab, 0x00, 0xff];
    let mut unmasked = Vec::new();
    push_frame(&mut unmasked, opcode::TEXT, payload);
    let header = unmasked.len() - payload.len();
    unmasked[0] = first;
    unmasked[1] |= 0x80;
    let mut masked = unmasked[..header].to_vec();
    masked.extend(key);
    masked.extend(payload.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
    masked
}

/// Decodes `bytes` shown in pieces that end at `cuts`, up to the first close or violation.
fn decode(
    limits: &DecoderLimits,
    bytes: &[u8],
    cuts: &[usize],
) -> (Vec<Owned>, Option<CloseCode>, bool) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    let mut start = 0;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    for end in ends {
        let mut piece = bytes[start..end].to_vec();
        start = end;
        let mut at = 0;
        loop {
            match decoder.next(limits, &mut piece, &mut at) {
                Ok(Some(message)) => {
                    messages.push(Owned::from(message));
                    if let Some(Owned::Close(_)) = messages.last() {
                        return (messages, None, true);
                    }
                }
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation.code), false),
            }
        }
        assert_eq!(at, piece.len(), "None means that the input is used up");
        assert_eq!(decoder.is_idle(), decoder.open.is_none());
        assert_eq!(decoder.is_idle(), decoder.buffered_bytes() == 0);
    }
    (messages, None, decoder.is_idle())
}

/// `bytes` give `messages` and then `code`, whole and cut at every place, and byte by byte.
fn check(bytes: &[u8], messages: &[Owned], code: Option<u16>) {
    let expected = (messages.to_vec(), code.map(CloseCode));
    let every: Vec<usize> = (0..bytes.len()).collect();
    let stride = bytes.len() / 300 + 1;
    let cuts = (0..bytes.len())
        .step_by(stride)
        .map(|cut| vec![cut])
        .chain([vec![], every]);
    for cuts in cuts {
        let (messages, code, _) = decode(&LIMITS, bytes, &cuts);
        assert_eq!(
            (messages, code),
            expected,
            "{:x?} cut at {cuts:?}",
            &bytes[..bytes.len().min(40)]
        );
    }
}

fn text(text: &str) -> Owned {
    Owned::Text(text.to_owned())
}

#[test]
fn whole_frames() {
    check(b"", &[], None);
    check(&frame(0x81, b""), &[text("")], None);
    check(&frame(0x81, "Grüße".as_bytes()), &[text("Grüße")], None);
    check(
        &frame(0x82, b"\x00\xff"),
        &[Owned::Binary(vec![0, 0xff])],
        None,
    );
    check(&frame(0x89, &[7; 125]), &[Owned::Ping(vec![7; 125])], None);
    check(&frame(0x8a, b""), &[Owned::Pong(vec![])], None);
    for len in [125, 126, 127, 65_535, 65_536, 70_000] {
        check(
            &frame(0x81, &vec![b'x'; len]),
            &[text(&"x".repeat(len))],
            None,
        );
    }
    let two = [frame(0x81, b"a"), frame(0x81, b"b")].concat();
    check(&two, &[text("a"), text("b")], None);
}

#[test]
fn fragments_with_control_frames_between() {
    let bytes = [
        frame(0x01, b"ab\xe2"),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x00, b"\x82"),
        frame(0x8a, b""),
        frame(0x80, b"\xacc"),
        frame(0x81, b"next"),
    ];
    let ping = Owned::Ping(b"ping".to_vec());
    check(
        &bytes.concat(),
        &[ping, Owned::Pong(vec![]), text("ab€c"), text("next")],
        None,
    );
    check(
        &[frame(0x02, b"\xff"), frame(0x80, b"\xfe")].concat(),
        &[Owned::Binary(vec![255, 254])],
        None,
    );
}

#[test]
fn broken_headers() {
    let good = frame(0x81, b"before");
    let check = |bytes: &[u8], code| check(&[&good, bytes].concat(), &[text("before")], Some(code));
    for first in [0x91, 0xa1, 0xc1, 0xf1] {
        check(&frame(first, b""), 1002); // RSV
        check(&[first], 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        check(&frame(0x80 | opcode, b""), 1002);
    }
    check(b"\x81\x00", 1002); // not masked
    check(b"\x81\x01a", 1002);
    for control in [8, 9, 10] {
        check(&frame(control, b""), 1002); // fragmented
        check(&frame(0x80 | control, &[0; 126]), 1002); // too long
        check(&[0x80 | control, 0xff], 1002);
    }
    check(b"\x81\xfe\x00\x7d", 1002); // not minimal
    check(b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", 1002);
    check(b"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00", 1002); // top bit
    check(b"\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00", 1009); // declared, nothing sent
    check(b"\x81\xff\x00\x00\x00\x00\x00\x01\x11\x71", 1009); // 70,001
    check(&frame(0x80, b"x"), 1002); // a continuation of nothing
    check(&frame(0x00, b"x"), 1002);
    for first in [0x81, 0x01, 0x82, 0x02] {
        check(&[frame(0x01, b"x"), frame(first, b"y")].concat(), 1002);
    }
}

#[test]
fn broken_text() {
    for bad in [
        &b"\xff"[..],
        b"a\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"cut \xe2\x82",
    ] {
        check(&frame(0x81, bad), &[], Some(1007));
        check(
            &[frame(0x01, b"x"), frame(0x80, bad)].concat(),
            &[],
            Some(1007),
        );
    }
    // At the first bad byte, though the frame, or the message, goes on.
    let begun = frame(0x81, b"\xce\xba\xf4\x90\x80\x80 and much more");
    check(&begun[..6 + 4], &[], Some(1007));
    check(&begun[..6 + 3], &[], None);
    check(&frame(0x01, b"\xf4\x90"), &[], Some(1007));
    check(
        &[frame(0x01, b"\xf4"), frame(0x00, b"\x90")].concat(),
        &[],
        Some(1007),
    );
}

#[test]
fn too_much() {
    let limits = DecoderLimits {
        message_bytes_max: 10,
        fragments_max: 3,
        binary_taken: false,
    };
    let check = |frames: &[Vec<u8>], code: Option<u16>| {
        let bytes = frames.concat();
        let every: Vec<usize> = (0..bytes.len()).collect();
        for cuts in [&[][..], &every] {
            let (_, got, _) = decode(&limits, &bytes, cuts);
            assert_eq!(got, code.map(CloseCode));
        }
    };
    check(&[frame(0x81, &[b'x'; 10])], None);
    check(&[frame(0x81, &[b'x'; 11])], Some(1009));
    check(&[frame(0x01, b"12345"), frame(0x80, b"67890")], None);
    check(&[frame(0x01, b"12345"), frame(0x80, b"678901")], Some(1009));
    check(
        &[frame(0x01, b"12345"), frame(0x80, b"678901")[..2].to_vec()],
        Some(1009),
    );
    check(&[frame(0x89, &[0; 125])], None); // control frames don't count
    check(
        &[frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")],
        None,
    );
    check(
        &[
            frame(0x01, b""),
            frame(0x00, b""),
            frame(0x00, b""),
            vec![0x80],
        ],
        Some(1008),
    );
    check(&[frame(0x82, b"")], Some(1003));
    check(&[vec![0x02]], Some(1003));
    let endless = DecoderLimits {
        fragments_max: 0,
        ..limits
    };
    let bytes = [frame(0x01, b"x"), frame(0x00, b"").repeat(10_000)].concat();
    assert_eq!(decode(&endless, &bytes, &[]), (vec![], None, false));
}

#[test]
fn closes() {
    let check_code = |code: u16, valid: bool| {
        let mut body = code.to_be_bytes().to_vec();
        body.extend(b"bye");
        let close = Owned::Close(Some((code, "bye".to_owned())));
        let (messages, violation) = if valid {
            (vec![close], None)
        } else {
            (vec![], Some(1002))
        };
        check(&frame(0x88, &body), &messages, violation);
    };
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 1013, 1014, 3000, 4999,
    ] {
        check_code(code, true);
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        check_code(code, false);
    }
    check(&frame(0x88, b""), &[Owned::Close(None)], None);
    check(&frame(0x88, b"\x03"), &[], Some(1002));
    check(b"\x88\x81", &[], Some(1002));
    check(&frame(0x88, b"\x03\xe8\xff"), &[], Some(1007));
    let mut out = Vec::new();
    push_close(&mut out, CloseCode::KICKED, "kicked");
    let close = Owned::Close(Some((4003, "kicked".to_owned())));
    check(&frame(0x88, &out[2..]), &[close], None);
}

#[test]
fn memory_follows_what_came_and_not_what_was_declared() {
    assert_eq!(size_of::<Decoder>(), 8);
    let limits = DecoderLimits {
        message_bytes_max: usize::MAX,
        ..LIMITS
    };
    let mut decoder = Decoder::new();
    let mut input = b"\x81\xff\x3f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0abc".to_vec();
    let mut at = 0;
    assert_eq!(decoder.next(&limits, &mut input, &mut at), Ok(None));
    assert!(!decoder.is_idle());
    assert!(
        decoder.buffered_bytes() < 512,
        "{}",
        decoder.buffered_bytes()
    );
}

/// What tungstenite reads as a server from the same bytes, up to the first error or close.
fn decode_by_tungstenite(bytes: &[u8]) -> (Vec<Owned>, bool) {
    /// Reads from memory, writes nowhere.
    struct Half<'a>(Cursor<&'a [u8]>);
    impl Read for Half<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buf)
        }
    }
    impl Write for Half<'_> {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(LIMITS.message_bytes_max))
        .max_frame_size(Some(LIMITS.message_bytes_max));
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let mut half = Half(Cursor::new(bytes));
    let mut messages = Vec::new();
    loop {
        use tungstenite::Message as Theirs;
        let message = match context.read(&mut half) {
            Ok(Theirs::Text(text)) => Owned::Text(text.as_str().to_owned()),
            Ok(Theirs::Binary(bytes)) => Owned::Binary(bytes.to_vec()),
            Ok(Theirs::Ping(bytes)) => Owned::Ping(bytes.to_vec()),
            Ok(Theirs::Pong(bytes)) => Owned::Pong(bytes.to_vec()),
            Ok(Theirs::Close(close)) => Owned::Close(
                close.map(|close| (close.code.into(), close.reason.as_str().to_owned())),
            ),
            Ok(Theirs::Frame(_)) => unreachable!("read gives no raw frames"),
            // The end of the input is an error as well: the connection was not closed.
            Err(
                tungstenite::Error::Io(_)
                | tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                ),
            ) => return (messages, true),
            Err(_) => return (messages, false),
        };
        messages.push(message);
        if let Some(Owned::Close(_)) = messages.last() {
            return (messages, true);
        }
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x00, 0x80]),
        3 => prop::sample::select(vec![0x89_u8, 0x8a, 0x88]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "\\PC{0,12}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::sample::select(vec![125_usize, 126, 127, 300, 1000, 2000, 4000, 65_536])
            .prop_map(|len| vec![b'x'; len]),
        1 => prop::sample::select(vec![1000_u16, 1001, 1005, 3000, 4999, 5000])
            .prop_map(|code| code.to_be_bytes().to_vec()),
    ];
    (first, payload).prop_map(|(first, payload)| frame(first, &payload))
}

/// A stream of frames, some of them with a few bytes changed, some cut off.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let changes = prop_oneof![
        3 => Just(vec![]),
        1 => prop::collection::vec(change, 1..4),
    ];
    (
        prop::collection::vec(any_frame(), 1..6),
        changes,
        any::<Option<prop::sample::Index>>(),
    )
        .prop_map(|(frames, changes, cut)| {
            let mut bytes = frames.concat();
            for (at, byte) in changes {
                let at = at.index(bytes.len().min(200));
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn cuts_change_nothing(
        bytes in any_stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let whole = decode(&LIMITS, &bytes, &[]);
        prop_assert_eq!(&decode(&LIMITS, &bytes, &cuts), &whole);
        if bytes.len() < 500 {
            let every: Vec<usize> = (0..bytes.len()).collect();
            prop_assert_eq!(&decode(&LIMITS, &bytes, &every), &whole);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn tungstenite_reads_the_same(bytes in any_stream()) {
        let (ours, violation, _) = decode(&LIMITS, &bytes, &[]);
        let (theirs, accepted) = decode_by_tungstenite(&bytes);
        if violation.is_none() && accepted {
            prop_assert_eq!(ours, theirs);
        } else {
            // We may be stricter, or sooner; up to there both read the same.
            let same = ours.len().min(theirs.len());
            prop_assert_eq!(&ours[..same], &theirs[..same]);
        }
    }

    #[test]
    fn what_we_write_we_read(
        payload in "\\PC{0,300}",
        binary in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [
            frame(0x81, payload.as_bytes()),
            frame(0x82, &binary),
            frame(0x89, &binary[..binary.len().min(125)]),
        ];
        let (messages, violation, idle) = decode(&LIMITS, &bytes.concat(), &[3, 70]);
        prop_assert_eq!(violation, None);
        prop_assert!(idle);
        let ping = Owned::Ping(binary[..binary.len().min(125)].to_vec());
        prop_assert_eq!(messages, vec![Owned::Text(payload), Owned::Binary(binary), ping]);
    }
}
