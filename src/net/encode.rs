//! WebSocket frames, server to client (RFC 6455, 5.2): never masked, never fragmented.
//!
//! ```text
//!    0               1               2 .. 3          2 .. 9
//!   ┌───────────────┬───────────────┬───────────────┬──────────────────┐
//!   │ FIN=1 opcode  │ 0  length     │ length, if    │ length, if       │ payload
//!   │               │ 0..125        │ byte 1 = 126  │ byte 1 = 127     │
//!   └───────────────┴───────────────┴───────────────┴──────────────────┘
//! ```
//!
//! With RSV1 (bit 1 of byte 0) the payload is deflated, where that was agreed.
//!
//! Lengths are big-endian and in the shortest form. Frames are appended to a buffer of the
//! caller's, so that many make one write.

pub use tungstenite::protocol::frame::coding::OpCode;
use tungstenite::protocol::frame::coding::{Control, Data};

use crate::model::CloseCode;

/// Opcodes, by names that need no path into a library.
pub mod opcode {
    use super::{Control, Data, OpCode};

    /// A text message.
    pub const TEXT: OpCode = OpCode::Data(Data::Text);
    /// A binary message.
    pub const BINARY: OpCode = OpCode::Data(Data::Binary);
    /// The end of the connection.
    pub const CLOSE: OpCode = OpCode::Control(Control::Close);
    /// Are you there?
    pub const PING: OpCode = OpCode::Control(Control::Ping);
    /// Yes.
    pub const PONG: OpCode = OpCode::Control(Control::Pong);
}

/// Bytes of a control frame's payload at most (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Bytes of a close frame's reason at most: the code takes two.
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;
/// What [`begin_text`] sets aside: the header of a payload of 126 to 65,535 bytes, which most are.
const HEADER_GUESS: usize = 4;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// Appends one whole frame.
pub fn push_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let (header, len) = header(opcode, payload.len());
    out.reserve(len + payload.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(payload);
}

/// Appends one whole frame whose payload is deflated.
pub fn push_compressed(out: &mut Vec<u8>, opcode: OpCode, deflated: &[u8]) {
    let mark = out.len();
    push_frame(out, opcode, deflated);
    out[mark] |= RSV1;
}

/// Opcode and payload of the one whole frame that `frame` is, one of this module's own making.
pub fn take_apart(frame: &[u8]) -> Option<(OpCode, &[u8])> {
    let header = match frame.get(1)? {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    };
    Some((OpCode::from(frame[0] & 0x0f), frame.get(header..)?))
}

/// Appends one whole text frame.
pub fn push_text(out: &mut Vec<u8>, payload: &[u8]) {
    push_frame(out, opcode::TEXT, payload);
}

/// Appends a close frame. A reason over [`REASON_BYTES_MAX`] is cut at a character's boundary.
pub fn push_close(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let (header, len) = header(opcode::CLOSE, 2 + end);
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

/// Begins a text frame whose payload the caller appends; gives the mark for [`end_text`].
pub fn begin_text(out: &mut Vec<u8>) -> usize {
    let mark = out.len();
    out.extend_from_slice(&[0; HEADER_GUESS]);
    mark
}

/// Ends the text frame begun at `mark`. Only payloads under 126 and over 65,535 bytes are moved,
/// to make room for a header that is shorter or longer than the guess.
pub fn end_text(out: &mut Vec<u8>, mark: usize) {
    let start = mark + HEADER_GUESS;
    assert!(start <= out.len(), "the mark is not one of this buffer's");
    let (header, len) = header(opcode::TEXT, out.len() - start);
    if len == HEADER_GUESS {
        out[mark..start].copy_from_slice(&header[..len]);
    } else {
        out.splice(mark..start, header[..len].iter().copied());
    }
}

/// A frame's header, and how many of the bytes it takes.
fn header(opcode: OpCode, payload_len: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FIN | u8::from(opcode);
    let len = match payload_len {
        0..=125 => {
            header[1] = payload_len as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    (header, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways of writing a text frame agree with each other and with RFC 6455, 5.2.
    #[test]
    fn lengths_are_in_the_shortest_form() {
        for (len, expected) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (0xffff, vec![0x81, 126, 0xff, 0xff]),
            (0x1_0000, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload = vec![b'x'; len];
            let mut whole = b"before".to_vec();
            push_frame(&mut whole, opcode::TEXT, &payload);
            let mut built = b"before".to_vec();
            let mark = begin_text(&mut built);
            built.extend_from_slice(&payload);
            end_text(&mut built, mark);
            assert_eq!(whole[6..6 + expected.len()], expected);
            assert_eq!(whole.len(), 6 + expected.len() + len);
            assert_eq!(whole, built, "{len}");
        }
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        let mut out = Vec::new();
        push_close(&mut out, CloseCode::GOING_AWAY, "bye");
        assert_eq!(out, b"\x88\x05\x03\xe9bye");
        out.clear();
        push_close(
            &mut out,
            CloseCode::NORMAL,
            &format!("{}é", "x".repeat(122)),
        );
        assert_eq!(out.len(), 2 + 2 + 122);
        assert_eq!(out[1], 124);
    }
}
