//! Changes to a sample, as hostile or broken peers make them.

use fastrand::Rng;

/// Pieces that are worth putting in anywhere.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\r\n\r\n",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xe2\x82",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"\\",
    b"\"",
    b"1e200000",
    b"1e-20000",
    b"[",
    b"{\"a\":",
    b"null",
    b"\x81\xff",
    b"\x88\x82",
    b"\x80\x80",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"Content-Length: 5\r\n",
];

/// `sample` with one to four changes; `other` lends a piece.
pub(crate) fn mutate(rng: &mut Rng, sample: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(0..=bytes.len());
        match rng.u8(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(0..8),
            1 if at < bytes.len() => bytes[at] = rng.u8(..),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.u8(..)),
            4 => {
                let word = WORDS[rng.usize(0..WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            // Splice: from here on the other one, from anywhere in it.
            5 => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.usize(0..=other.len())..]);
            }
            // A piece leaves, or comes again, up to many times.
            6 => {
                let end = rng.usize(at..=bytes.len().min(at + 16));
                bytes.drain(at..end);
            }
            7 => {
                let end = rng.usize(at..=bytes.len().min(at + 8));
                let piece = bytes[at..end].repeat(rng.usize(0..200));
                bytes.splice(at..at, piece);
            }
            // A length field: the second byte of a frame, and what is behind it.
            8 if at + 10 <= bytes.len() => {
                bytes[at] = 0x80 | [0, 1, 125, 126, 127][rng.usize(0..5)];
                let length = [0, 125, 126, 0xffff, 0x1_0000, 1 << 62, 1 << 63][rng.usize(0..7)];
                bytes[at + 1..at + 9].copy_from_slice(&u64::to_be_bytes(length));
            }
            _ => {}
        }
        bytes.truncate(4096);
    }
    bytes
}
