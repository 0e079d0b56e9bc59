//! WebSocket frames (RFC 6455 section 5) and the frames of the contract, as far as a client needs
//! them: bytes <-> values, no sockets, no state but a hint.
//!
//! The hot path is a `message` frame. It is read by position, without a JSON parser:
//!
//! ```text
//! {"type":"message","room":"R","offset":N, … "payload":"rc:RUN:PUBLISHER:SEQUENCE:TIME:xxx" … }
//!  ^ compared         ^ memchr   ^ digits      ^ the hint, else memmem
//! ```
//!
//! Numbers in the payload are hexadecimal of fixed width: 8, 8, 8 and 16 digits. TIME is the
//! nanosecond of the run at which the publication was meant to be sent. Whatever does not look like
//! this goes through serde_json, so that another order of members is read too, only slower.

use std::borrow::Cow;

use serde::Deserialize;

/// One frame from a server may be this long at most; the contract's default limit is 64 KiB.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 20;
/// The shortest `--payload`: the marker and its two quotes.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 2 + MARKER_BYTES;

const MARKER_BYTES: usize = 3 + 8 + 1 + 8 + 1 + 8 + 1 + 16 + 1;
const PREFIX: &[u8] = br#"{"type":"message","room":""#;
const NEEDLE: &[u8] = br#""payload":"rc:"#;
/// Any key is legal; one that is not zero makes the server unmask in earnest.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The key of RFC 6455 section 1.3 and its answer: no SHA-1 needed.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Opcodes of RFC 6455 section 5.2.
pub(crate) mod opcode {
    pub(crate) const CONTINUATION: u8 = 0;
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// The head of a server's frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) fin: bool,
    /// RFC 7692: the message is deflated.
    pub(crate) deflated: bool,
    pub(crate) opcode: u8,
    pub(crate) head_bytes: usize,
    pub(crate) payload_bytes: usize,
}

/// Reads the head of a frame; `None`: more bytes are needed. An error names what is illegal.
pub(crate) fn read_head(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & 0x30 != 0 {
        return Err("a reserved bit is set");
    }
    if second & 0x80 != 0 {
        return Err("a server's frame is masked");
    }
    let (head_bytes, payload_bytes) = match second {
        126 => match bytes.get(2..4).and_then(|b| b.try_into().ok()) {
            Some(length) => (4, u64::from(u16::from_be_bytes(length))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|b| b.try_into().ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if payload_bytes > FRAME_BYTES_MAX as u64 {
        return Err("a frame is longer than 16 MiB");
    }
    let payload_bytes = payload_bytes as usize;
    Ok(Some(Head {
        fin: first & 0x80 != 0,
        deflated: first & 0x40 != 0,
        opcode: first & 0x0f,
        head_bytes,
        payload_bytes,
    }))
}

/// Appends one masked frame.
pub(crate) fn write_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_head(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    for chunk in out[start..].chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(MASK) {
            *byte ^= mask;
        }
    }
}

/// Appends one unmasked frame, as a server sends it.
pub(crate) fn write_server_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_head(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

fn write_head(out: &mut Vec<u8>, opcode: u8, length: usize, masked: u8) {
    out.push(0x80 | opcode);
    match length {
        0..126 => out.push(masked | length as u8),
        126..65536 => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// What a payload of ours says about its publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) run: u32,
    pub(crate) publisher: u32,
    pub(crate) sequence: u32,
    pub(crate) time: u64,
}

impl Marker {
    /// Appends a payload of `length` bytes, quotes included.
    pub(crate) fn write(&self, out: &mut Vec<u8>, length: usize) {
        let start = out.len();
        out.extend_from_slice(b"\"rc:");
        write_hex(out, u64::from(self.run), 8);
        write_hex(out, u64::from(self.publisher), 8);
        write_hex(out, u64::from(self.sequence), 8);
        write_hex(out, self.time, 16);
        out.resize(start + length.saturating_sub(1), b'x');
        out.push(b'"');
    }

    /// Reads what follows `"rc:`.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MARKER_BYTES - 3] = bytes.first_chunk()?;
        if [bytes[8], bytes[17], bytes[26], bytes[43]] != [b':'; 4] {
            return None;
        }
        let part = |from: usize| Some(read_hex8(*bytes.get(from..)?.first_chunk()?));
        Some(Self {
            run: part(0)?,
            publisher: part(9)?,
            sequence: part(18)?,
            time: u64::from(part(27)?) << 32 | u64::from(part(35)?),
        })
    }

    /// The id that a publication of ours bears where ids are asked for: a UUID of version 8.
    pub(crate) fn id(run: u32, publisher: u32, sequence: u32) -> String {
        let (high, low) = (publisher >> 16, publisher & 0xffff);
        format!("{run:08x}-{low:04x}-8000-8000-{high:04x}{sequence:08x}")
    }

    /// The inverse of [`Marker::id`]: run, publisher, sequence.
    pub(crate) fn of_id(id: &str) -> Option<(u32, u32, u32)> {
        let bytes = id.as_bytes();
        if bytes.len() != 36 || &bytes[13..24] != b"-8000-8000-" {
            return None;
        }
        let part = |from: usize, to: usize| read_hex(&bytes[from..to]).map(|n| n as u32);
        Some((
            part(0, 8)?,
            part(24, 28)? << 16 | part(9, 13)?,
            part(28, 36)?,
        ))
    }
}

fn write_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for i in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * i)) as usize & 15]);
    }
    out.push(b':');
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | u64::from(char::from(*digit).to_digit(16)?))
    })
}

/// Eight digits at once, for the hot path. Of bytes that are no digits it makes some number.
fn read_hex8(digits: [u8; 8]) -> u32 {
    let x = u64::from_be_bytes(digits);
    // The low half of a letter is 9 short of its value, and bit 6 tells letters from digits.
    let x = (x & 0x0f0f_0f0f_0f0f_0f0f) + 9 * (x >> 6 & 0x0101_0101_0101_0101);
    let x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) as u32
}

/// A `message` frame, as far as the checker wants it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) room: &'a [u8],
    pub(crate) offset: u64,
    pub(crate) marker: Option<Marker>,
}

/// Reads `message` frames by position. It remembers where the payload was in the last one.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    hint: usize,
}

impl Scanner {
    /// The message in `text`, or `None` where the slow way must be taken.
    pub(crate) fn message<'a>(&mut self, text: &'a [u8]) -> Option<Message<'a>> {
        let rest = text.strip_prefix(PREFIX)?;
        let end = memchr::memchr(b'"', rest)?;
        let (room, rest) = rest.split_at(end);
        if room.contains(&b'\\') {
            return None;
        }
        let rest = rest.strip_prefix(br#"","offset":"#)?;
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || digits > 18 {
            return None;
        }
        let offset = rest[..digits]
            .iter()
            .fold(0, |n, b| n * 10 + u64::from(b - b'0'));
        let rest = &rest[digits..];
        if !rest
            .get(self.hint..)
            .is_some_and(|at| at.starts_with(NEEDLE))
        {
            match memchr::memmem::find(rest, NEEDLE) {
                Some(at) => self.hint = at,
                None => {
                    return Some(Message {
                        room,
                        offset,
                        marker: None,
                    });
                }
            }
        }
        let marker = Marker::read(&rest[self.hint + NEEDLE.len()..]);
        Some(Message {
            room,
            offset,
            marker,
        })
    }
}

/// Any frame of the contract, read by serde_json.
#[derive(Debug, Deserialize)]
pub(crate) struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) room: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) epoch: Option<Cow<'a, str>>,
    pub(crate) offset: Option<u64>,
    pub(crate) recovered: Option<bool>,
    pub(crate) from: Option<u64>,
    pub(crate) to: Option<u64>,
    #[serde(borrow)]
    pub(crate) id: Option<Cow<'a, str>>,
    #[serde(rename = "ref")]
    pub(crate) reference: Option<serde_json::Value>,
    #[serde(borrow)]
    pub(crate) code: Option<Cow<'a, str>>,
    pub(crate) payload: Option<serde_json::Value>,
    pub(crate) degraded: Option<bool>,
    pub(crate) reconnect_in_ms: Option<u64>,
}

impl Frame<'_> {
    /// The frame in `text`.
    pub(crate) fn read(text: &[u8]) -> Option<Frame<'_>> {
        serde_json::from_slice(text).ok()
    }

    /// The marker in this frame's payload, if it is one of ours.
    pub(crate) fn marker(&self) -> Option<Marker> {
        Marker::read(
            self.payload
                .as_ref()?
                .as_str()?
                .strip_prefix("rc:")?
                .as_bytes(),
        )
    }

    /// The `ref`, where it is a number in a string as we send it.
    pub(crate) fn number(&self) -> Option<u32> {
        self.reference.as_ref()?.as_str()?.parse().ok()
    }
}

/// The bytes that open a WebSocket at `path`; `deflate`: compression is offered.
pub(crate) fn upgrade_request(host: &str, path: &str, deflate: bool) -> Vec<u8> {
    let offer = match deflate {
        true => "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n",
        false => "",
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{offer}\
         Sec-WebSocket-Protocol: ringcast.v1\r\n\r\n"
    )
    .into_bytes()
}

/// Reads the answer to [`upgrade_request`]: how many bytes it took, `None`: more are needed.
/// With `deflate` the offer must have been taken.
pub(crate) fn read_upgrade(bytes: &[u8], deflate: bool) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > 16 << 10 {
            Err("endless HTTP head".into())
        } else {
            Ok(None)
        };
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or("none");
    if status != "101" {
        return Err(format!("status {status}"));
    }
    let accepted = lines
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| {
            name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT
        });
    if deflate && !head.contains("permessage-deflate; server_no_context_takeover") {
        return Err("compression was declined (the server needs --deflate)".into());
    }
    if accepted {
        Ok(Some(end + 4))
    } else {
        Err("wrong Sec-WebSocket-Accept".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: Marker = Marker {
        run: 0xabc,
        publisher: 7,
        sequence: 9,
        time: 1 << 40,
    };

    fn payload(length: usize) -> String {
        let mut out = Vec::new();
        MARKER.write(&mut out, length);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn eight_digits_at_once() {
        for value in [0u32, 1, 0x0123_4567, 0x89ab_cdef, u32::MAX] {
            let digits = format!("{value:08x}");
            assert_eq!(read_hex8(*digits.as_bytes().first_chunk().unwrap()), value);
            assert_eq!(read_hex(digits.as_bytes()), Some(u64::from(value)));
        }
        assert_eq!(read_hex(b"0g"), None);
    }

    #[test]
    fn payload_has_the_length_asked_for() {
        for length in [PAYLOAD_BYTES_MIN, 128, 5000] {
            assert_eq!(payload(length).len(), length);
        }
    }

    #[test]
    fn a_message_is_read_in_any_order_of_members() {
        let payload = payload(128);
        let check = |text: String, fast: bool| {
            let mut scanner = Scanner::default();
            for _ in 0..2 {
                match scanner.message(text.as_bytes()) {
                    Some(m) => {
                        assert!(fast, "{text}");
                        assert_eq!((m.room, m.offset, m.marker), (&b"r"[..], 12, Some(MARKER)));
                    }
                    None => assert!(!fast, "{text}"),
                }
            }
            let frame = Frame::read(text.as_bytes()).unwrap();
            assert_eq!((frame.kind.as_ref(), frame.offset), ("message", Some(12)));
            assert_eq!(frame.marker(), Some(MARKER));
        };
        let p = &payload;
        check(
            format!(r#"{{"type":"message","room":"r","offset":12,"id":"i","payload":{p}}}"#),
            true,
        );
        check(
            format!(r#"{{"type":"message","room":"r","offset":12,"payload":{p},"id":"1"}}"#),
            true,
        );
        check(
            format!(r#"{{"type":"message","offset":12,"room":"r","payload":{p}}}"#),
            false,
        );
        check(
            format!(r#"{{"offset":12,"type":"message","room":"r","payload":{p}}}"#),
            false,
        );
    }

    #[test]
    fn the_hint_follows_the_payload() {
        let mut scanner = Scanner::default();
        for user in ["a", "much-longer", "b"] {
            let text = format!(
                r#"{{"type":"message","room":"r","offset":1,"user_id":"{user}","payload":{}}}"#,
                payload(60)
            );
            assert_eq!(
                scanner.message(text.as_bytes()).unwrap().marker,
                Some(MARKER)
            );
        }
        let foreign = br#"{"type":"message","room":"r","offset":1,"payload":{"a":1}}"#;
        assert_eq!(scanner.message(foreign).unwrap().marker, None);
    }

    #[test]
    fn truncated_text_never_panics() {
        let text = format!(
            r#"{{"type":"message","room":"r","offset":12,"id":"i","payload":{}}}"#,
            payload(60)
        );
        let mut scanner = Scanner::default();
        scanner.message(text.as_bytes());
        for end in 0..text.len() {
            scanner.message(&text.as_bytes()[..end]);
        }
    }

    #[test]
    fn heads_of_every_length() {
        for length in [0, 1, 125, 126, 65535, 65536] {
            let mut out = Vec::new();
            write_server_frame(&mut out, opcode::TEXT, &vec![b'a'; length]);
            let head = read_head(&out).unwrap().unwrap();
            assert_eq!(
                (head.payload_bytes, head.fin, head.opcode),
                (length, true, 1)
            );
            assert_eq!(head.head_bytes + length, out.len());
            for end in 0..head.head_bytes {
                assert_eq!(read_head(&out[..end]), Ok(None));
            }
        }
        assert!(read_head(&[0x81, 0x80]).is_err());
        assert!(read_head(&[0xa1, 0]).is_err());
        assert!(read_head(&[0xc1, 0]).unwrap().unwrap().deflated);
        assert!(read_head(&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn masked_frames_unmask_to_what_was_written() {
        let mut out = Vec::new();
        write_frame(&mut out, opcode::TEXT, b"hello world");
        assert_eq!(
            &out[..6],
            &[0x81, 0x80 | 11, MASK[0], MASK[1], MASK[2], MASK[3]]
        );
        let text: Vec<u8> = out[6..]
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(b, m)| b ^ m)
            .collect();
        assert_eq!(text, b"hello world");
    }

    #[test]
    fn ids_come_back() {
        let id = Marker::id(0xdead_beef, 0x12345, 0x0102_0304);
        assert_eq!(id.len(), 36);
        assert_eq!(
            Marker::of_id(&id),
            Some((0xdead_beef, 0x12345, 0x0102_0304))
        );
        assert_eq!(Marker::of_id("0192f7c1-0000-7000-8000-000000000000"), None);
    }

    #[test]
    fn upgrade_answers() {
        let good = format!("HTTP/1.1 101 S\r\nsec-websocket-accept: {ACCEPT}\r\n\r\nrest");
        assert_eq!(
            read_upgrade(good.as_bytes(), false),
            Ok(Some(good.len() - 4))
        );
        assert_eq!(read_upgrade(&good.as_bytes()[..20], false), Ok(None));
        assert!(read_upgrade(b"HTTP/1.1 503 Busy\r\n\r\n", false).is_err());
        let wrong = b"HTTP/1.1 101 S\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert!(read_upgrade(wrong, false).is_err());
        assert!(
            read_upgrade(good.as_bytes(), true).is_err(),
            "not declined in silence"
        );
    }
}
