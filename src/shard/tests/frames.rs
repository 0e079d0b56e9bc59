//! The wire as a client writes and reads it: masked frames out, whole frames in (RFC 6455, 5), some
//! of them deflated if that was agreed (RFC 7692).

use fastrand::Rng;

use crate::net::deflate::{Deflater, Inflater};

/// The bit of a deflated message.
const RSV1: u8 = 0x40;

pub(super) const TEXT: u8 = 1;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// Appends a masked frame; text sometimes in two fragments.
pub(super) fn push(out: &mut Vec<u8>, rng: &mut Rng, opcode: u8, payload: &[u8]) {
    if opcode & 0xf == TEXT && payload.len() > 1 && rng.u32(..10) == 0 {
        let cut = rng.usize(1..payload.len());
        push_one(out, rng, false, opcode, &payload[..cut]);
        push_one(out, rng, true, 0, &payload[cut..]);
    } else {
        push_one(out, rng, true, opcode, payload);
    }
}

/// The same for text, deflated.
pub(super) fn push_deflated(out: &mut Vec<u8>, rng: &mut Rng, payload: &[u8]) {
    let mut deflated = Vec::new();
    Deflater::new(15, false).deflate(payload, &mut deflated);
    push(out, rng, TEXT | RSV1, &deflated);
}

fn push_one(out: &mut Vec<u8>, rng: &mut Rng, fin: bool, opcode: u8, payload: &[u8]) {
    out.push(opcode | if fin { 0x80 } else { 0 });
    match payload.len() {
        len @ ..126 => out.push(0x80 | len as u8),
        len => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(len).expect("short frames").to_be_bytes());
        }
    }
    let key = rng.u32(..).to_be_bytes();
    out.extend_from_slice(&key);
    out.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
}

/// Takes the first whole frame off `input`: its opcode and payload. `inflates`: it may be deflated.
pub(super) fn take(input: &mut Vec<u8>, inflates: bool) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    let is_deflated = first & RSV1 != 0;
    assert!(
        first & 0xb0 == 0x80 && inflates >= is_deflated,
        "the server sends whole frames, with what was agreed"
    );
    assert_eq!(second & 0x80, 0, "the server does not mask");
    let (len, at) = match second {
        126 => (
            usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?)),
            4,
        ),
        127 => (
            u64::from_be_bytes(input.get(2..10)?.try_into().ok()?) as usize,
            10,
        ),
        len => (usize::from(len), 2),
    };
    if input.len() < at + len {
        return None;
    }
    let mut payload = input[at..at + len].to_vec();
    if is_deflated {
        let mut inflater = Inflater::new(false);
        let plain = inflater.inflate(&payload, 1 << 20);
        payload = plain.expect("each message is a stream").to_vec();
    }
    input.drain(..at + len);
    Some((first & 0xf, payload))
}
