//! What follows a request's head (RFC 9112, 6 and 7.1), as it comes.
//!
//! It ends exactly where the head says, since what is behind it is the next request. Chunks are
//! read as strictly as heads: no extensions, no trailer fields, which nobody sends and two parsers
//! in a row may read differently.
//!
//! ```text
//!   5 CRLF hello CRLF 0 CRLF CRLF        size in hex, that many bytes; the last chunk has none
//! ```
//!
//! Invariants: never more than the maximum is kept; a byte behind the end is never taken.

use super::head::{Body, HeadError};

/// Digits of a chunk's size.
const SIZE_DIGITS_MAX: u8 = 8;

/// A body that is being read.
#[derive(Debug)]
pub struct BodyReader {
    next: Next,
    bytes: Vec<u8>,
    bytes_max: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// So many bytes, the last ones.
    Rest(u64),
    /// A chunk's size, of which so much was read: its value and digits.
    Size(u64, u8),
    /// The line feed behind it.
    SizeEnd(u64),
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end behind a chunk, or behind the last one: how much of it was read.
    ChunkEnd {
        is_last: bool,
        has_return: bool,
    },
    End,
}

impl BodyReader {
    /// One that keeps at most `bytes_max` bytes.
    ///
    /// # Errors
    /// 413 if the head announces more.
    pub fn new(body: Body, bytes_max: usize) -> Result<Self, HeadError> {
        let next = match body {
            Body::None => Next::End,
            Body::Length(length) if length > bytes_max as u64 => return Err(TOO_LARGE),
            Body::Length(length) => Next::Rest(length),
            Body::Chunked => Next::Size(0, 0),
        };
        Ok(Self {
            next,
            bytes: Vec::new(),
            bytes_max,
        })
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.next == Next::End
    }

    /// What was read.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Takes what belongs to it; returns how many bytes of `input` that are.
    ///
    /// # Errors
    /// 413 if it grows too large, 400 for chunks that are malformed: nobody knows then where the
    /// next request begins.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, HeadError> {
        let mut at = 0;
        while at < input.len() && self.next != Next::End {
            at += match self.next {
                Next::Rest(left) | Next::Chunk(left) => self.take_bytes(&input[at..], left)?,
                _ => {
                    self.next = self.step(input[at])?;
                    1
                }
            };
        }
        Ok(at)
    }

    fn take_bytes(&mut self, input: &[u8], left: u64) -> Result<usize, HeadError> {
        let taken = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.bytes.len() + taken > self.bytes_max {
            return Err(TOO_LARGE);
        }
        self.bytes.extend_from_slice(&input[..taken]);
        let left = left - taken as u64;
        self.next = match (self.next, left) {
            (Next::Rest(_), 0) => Next::End,
            (Next::Rest(_), left) => Next::Rest(left),
            (_, 0) => Next::ChunkEnd {
                is_last: false,
                has_return: false,
            },
            (_, left) => Next::Chunk(left),
        };
        Ok(taken)
    }

    /// One byte of what stands around the chunks.
    fn step(&self, byte: u8) -> Result<Next, HeadError> {
        let hex = char::from(byte).to_digit(16);
        match (self.next, byte) {
            (Next::Size(value, digits), _) if digits < SIZE_DIGITS_MAX && hex.is_some() => {
                let size = value << 4 | u64::from(hex.unwrap_or_default());
                Ok(Next::Size(size, digits + 1))
            }
            (Next::Size(size, 1..), b'\r') => {
                let too_large = size > (self.bytes_max - self.bytes.len()) as u64;
                if too_large {
                    return Err(TOO_LARGE);
                }
                Ok(Next::SizeEnd(size))
            }
            (Next::SizeEnd(0), b'\n') => Ok(Next::ChunkEnd {
                is_last: true,
                has_return: false,
            }),
            (Next::SizeEnd(size), b'\n') => Ok(Next::Chunk(size)),
            (
                Next::ChunkEnd {
                    is_last,
                    has_return: false,
                },
                b'\r',
            ) => Ok(Next::ChunkEnd {
                is_last,
                has_return: true,
            }),
            (
                Next::ChunkEnd {
                    is_last,
                    has_return: true,
                },
                b'\n',
            ) => Ok(if is_last { Next::End } else { Next::Size(0, 0) }),
            _ => Err(HeadError::bad(
                "a chunk must be its size in hex, CRLF, so many bytes, CRLF; no extensions, no \
                 trailer",
            )),
        }
    }
}

const TOO_LARGE: HeadError = HeadError {
    status: 413,
    message: "the body is longer than --max-message-bytes",
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `input` in pieces of `step` bytes: the body, and what is behind it.
    fn read(body: Body, input: &[u8], step: usize) -> Result<Option<(Vec<u8>, usize)>, u16> {
        let mut reader = BodyReader::new(body, 64).map_err(|error| error.status)?;
        let mut at = 0;
        for piece in input.chunks(step) {
            let taken = reader.take(piece).map_err(|error| error.status)?;
            at += taken;
            if taken < piece.len() {
                break;
            }
        }
        let is_whole = reader.is_whole();
        Ok(is_whole.then(|| (reader.into_bytes(), at)))
    }

    #[test]
    fn a_body_ends_where_the_head_says() {
        for (body, input, end) in [
            (Body::None, "next", Some(("", 0))),
            (Body::Length(5), "hellonext", Some(("hello", 5))),
            (Body::Length(5), "hell", None),
            (Body::Chunked, "0\r\n\r\nnext", Some(("", 5))),
            (
                Body::Chunked,
                "5\r\nhello\r\n0\r\n\r\nnext",
                Some(("hello", 15)),
            ),
            (
                Body::Chunked,
                "00A\r\n0123456789\r\n1\r\n!\r\n0\r\n\r\n",
                Some(("0123456789!", 28)),
            ),
            (Body::Chunked, "5\r\nhello\r\n0\r\n", None),
        ] {
            for step in 1..=input.len() {
                let wanted = end.map(|(text, at): (&str, usize)| (text.as_bytes().to_vec(), at));
                assert_eq!(read(body, input.as_bytes(), step), Ok(wanted), "{input:?}");
            }
        }
    }

    #[test]
    fn what_is_too_large_or_malformed_is_refused() {
        let chunk = |size: &str| format!("{size}\r\n{}", "x".repeat(100));
        for (body, input, status) in [
            (Body::Length(65), String::new(), 413),
            (Body::Length(u64::MAX), String::new(), 413),
            (Body::Chunked, chunk("41"), 413),
            (Body::Chunked, chunk("ffffffff"), 413),
            (Body::Chunked, chunk("100000000"), 400),
            (Body::Chunked, chunk(""), 400),
            (Body::Chunked, chunk("-1"), 400),
            (Body::Chunked, chunk("0x1"), 400),
            (Body::Chunked, chunk(" 1"), 400),
            (Body::Chunked, chunk("1 "), 400),
            (Body::Chunked, chunk("1;a=b"), 400),
            (Body::Chunked, "1\nx\n0\n\n".into(), 400),
            (Body::Chunked, "1\r\nxx".into(), 400),
            (Body::Chunked, "1\r\nx\n".into(), 400),
            (Body::Chunked, "0\r\nTrailer: a\r\n\r\n".into(), 400),
            (Body::Chunked, "0\r\n\n".into(), 400),
        ] {
            for step in [1, 7, 1000] {
                assert_eq!(read(body, input.as_bytes(), step), Err(status), "{input:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn chunks_are_put_together(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 0..7),
            step in 1_usize..20,
            behind in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let end = wire.len();
            wire.extend(behind);
            prop_assert_eq!(read(Body::Chunked, &wire, step), Ok(Some((chunks.concat(), end))));
        }
    }
}
