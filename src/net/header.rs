//! The header of a WebSocket frame from a client (RFC 6455, 5.2); the picture is in
//! [`frame`](super::frame).
//!
//! A pure function of the bytes, of what message is under way, and of the limits. Invariant: a
//! rule that byte `n` breaks is told when `n + 1` bytes are there, whatever comes behind.

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::deflate::compressed_bytes_max;
use super::encode::CONTROL_BYTES_MAX;
use super::frame::{DecoderLimits, Violation};
use crate::model::CloseCode;

/// Two bytes, 8 of length, 4 of key.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// The bits that extensions may use, and the one that permessage-deflate does.
const RSV: u8 = 0x70;
const RSV1: u8 = 0x40;

/// The message under way: how many bytes and fragments of it have come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Under {
    pub(super) bytes: usize,
    pub(super) fragments: u32,
    pub(super) compressed: bool,
}

/// A whole header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) fin: bool,
    /// It begins a compressed message (RFC 7692, 6: RSV1).
    pub(super) compressed: bool,
    pub(super) opcode: OpCode,
    pub(super) payload_len: usize,
    pub(super) key: [u8; 4],
    /// Bytes of the header itself.
    pub(super) len: usize,
}

/// Reads the header that `bytes` begin with; `None` if it is not whole. What is there of it is
/// checked all the same, byte by byte, so that a peer that breaks a rule is told at once.
/// `inflates`: messages may be compressed.
pub(super) fn parse(
    bytes: &[u8],
    under: Option<Under>,
    limits: &DecoderLimits,
    inflates: bool,
) -> Result<Option<Header>, Violation> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let fin = first & 0x80 != 0;
    let (opcode, compressed) = check_first(first, under, limits, inflates)?;
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(Violation::protocol("frames from clients must be masked"));
    }
    let control = matches!(opcode, OpCode::Control(_));
    let short = second & 0x7f;
    if control && usize::from(short) > CONTROL_BYTES_MAX {
        return Err(Violation::protocol("control frames have at most 125 bytes"));
    }
    if opcode == OpCode::Control(Control::Close) && short == 1 {
        return Err(Violation::protocol(
            "a close frame's body has no byte, or two and more",
        ));
    }
    let Some((length, key_at)) = parse_length(bytes, short)? else {
        return Ok(None);
    };
    let gathered = under.map_or(0, |under| under.bytes);
    let bytes_max = match compressed || under.is_some_and(|under| under.compressed) {
        false => limits.message_bytes_max,
        true => compressed_bytes_max(limits.message_bytes_max),
    };
    let room = bytes_max.saturating_sub(gathered);
    if !control && length > room as u64 {
        return Err(Violation {
            code: CloseCode::TOO_BIG,
            reason: "the message is too big",
        });
    }
    let Some(&key) = bytes.get(key_at..).and_then(|rest| rest.first_chunk::<4>()) else {
        return Ok(None);
    };
    // The length is within the limits, which are a usize.
    Ok(Some(Header {
        fin,
        compressed,
        opcode,
        payload_len: length as usize,
        key,
        len: key_at + 4,
    }))
}

/// The header of nearly all frames: of a text message in one frame, which lies whole in `bytes`
/// and is within the limits. `None` for any other, good or bad, which [`parse`] sorts out.
#[inline]
pub(super) fn parse_whole_text(bytes: &[u8], limits: &DecoderLimits) -> Option<Header> {
    let (payload_len, key_at) = match *bytes {
        [0x81, short @ 0x80..=0xfd, ..] => (usize::from(short & 0x7f), 2),
        [0x81, 0xfe, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 4),
        _ => return None,
    };
    let &key = bytes.get(key_at..)?.first_chunk::<4>()?;
    let len = key_at + 4;
    let minimal = key_at == 2 || payload_len > 125;
    let opcode = OpCode::Data(Data::Text);
    (minimal && payload_len <= limits.message_bytes_max && bytes.len() - len >= payload_len)
        .then_some(Header {
            fin: true,
            compressed: false,
            opcode,
            payload_len,
            key,
            len,
        })
}

/// What the first byte says, and whether it may say so here: the opcode, and whether it begins a
/// compressed message.
fn check_first(
    first: u8,
    under: Option<Under>,
    limits: &DecoderLimits,
    inflates: bool,
) -> Result<(OpCode, bool), Violation> {
    let opcode = OpCode::from(first & 0x0f);
    let compressed = first & RSV == RSV1 && inflates;
    if first & RSV != 0 && !compressed {
        return Err(Violation::protocol(
            "RSV bits must be 0 but for what was agreed",
        ));
    }
    if compressed && !matches!(opcode, OpCode::Data(Data::Text | Data::Binary)) {
        return Err(Violation::protocol(
            "RSV1 belongs to a message's first frame only",
        ));
    }
    match opcode {
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
            return Err(Violation::protocol("reserved opcode"));
        }
        OpCode::Control(_) if first & 0x80 == 0 => {
            return Err(Violation::protocol("control frames must not be fragmented"));
        }
        OpCode::Control(_) => {}
        OpCode::Data(Data::Continue) => match under {
            None => return Err(Violation::protocol("a continuation of nothing")),
            Some(under) if limits.fragments_max > 0 && under.fragments >= limits.fragments_max => {
                let reason = "the message has too many fragments";
                return Err(Violation {
                    code: CloseCode::POLICY,
                    reason,
                });
            }
            Some(_) => {}
        },
        OpCode::Data(_) if under.is_some() => {
            return Err(Violation::protocol("a new message within a fragmented one"));
        }
        OpCode::Data(Data::Binary) if !limits.binary_taken => {
            let reason = "binary messages are not taken here";
            return Err(Violation {
                code: CloseCode::UNSUPPORTED,
                reason,
            });
        }
        OpCode::Data(_) => {}
    }
    Ok((opcode, compressed))
}

/// The payload's length, and where the key begins.
fn parse_length(bytes: &[u8], short: u8) -> Result<Option<(u64, usize)>, Violation> {
    let extended = &bytes[2..];
    let (length, bytes, least) = match short {
        126 => match extended.first_chunk() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 2, 126),
            None => return Ok(None),
        },
        127 => match extended.first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 8, 0x1_0000),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, 0),
    };
    if length >> 63 != 0 {
        return Err(Violation::protocol("the top bit of a length must be 0"));
    }
    if length < least {
        return Err(Violation::protocol("lengths must be in the shortest form"));
    }
    Ok(Some((length, 2 + bytes)))
}
