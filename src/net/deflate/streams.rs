//! The streams themselves: zlib's work, with bounds.
//!
//! Invariants: without takeover each message is a stream of its own, so one [`Deflater`] or
//! [`Inflater`] may serve any number of connections; an [`Inflater`] never holds more than
//! `bytes_max` + 1 bytes of a message, whatever the message says it is.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::model::CloseCode;
use crate::model::limits::{INFLATED_KEPT_BYTES_MAX, INFLATED_STREAMS_MAX};
use crate::net::frame::Violation;

/// What a flush ends with; the sender leaves it out (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The same, and the last block of a stream behind it: a stream that was cut does not end by it.
const TAIL_AND_END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// Room that a flush is given at least, so that its marker is not written twice.
const FLUSH_BYTES: usize = 64;
/// zlib's smallest window; see the module above.
const BITS_MADE_MIN: u8 = 9;

const NOT_DEFLATE: Violation = Violation {
    code: CloseCode::BAD_UTF8,
    reason: "the message is not deflated data",
};
const TOO_BIG: Violation = Violation {
    code: CloseCode::TOO_BIG,
    reason: "the message is too big when inflated",
};

/// Bytes that a message of `bytes` may have when deflated: with the fixed code a byte may take nine
/// bits, and what is stored has a header now and then.
pub fn compressed_bytes_max(bytes: usize) -> usize {
    bytes.saturating_add(bytes / 8 + bytes / 256 + 64)
}

/// Deflates messages.
pub struct Deflater {
    stream: Compress,
    takeover: bool,
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let takeover = &self.takeover;
        let deflater = &mut f.debug_struct("Deflater");
        deflater.field("takeover", takeover).finish_non_exhaustive()
    }
}

impl Deflater {
    /// One with a window of so many bits, 8 to 15, whose messages refer back to those before if
    /// `takeover`. It takes some 300 KiB.
    pub fn new(bits: u8, takeover: bool) -> Self {
        let bits = bits.clamp(BITS_MADE_MIN, 15);
        Self {
            stream: Compress::new_with_window_bits(Compression::fast(), false, bits),
            takeover,
        }
    }

    /// Appends what `payload` is deflated, without the tail.
    pub fn deflate(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if payload.is_empty() {
            // An empty block (RFC 7692, 7.2.3.6), which no stream writes twice.
            out.push(0);
            return;
        }
        if !self.takeover {
            self.stream.reset();
        }
        let mut rest = payload;
        out.reserve(payload.len() / 2 + FLUSH_BYTES);
        loop {
            let taken = self.stream.total_in();
            let status = self.stream.compress_vec(rest, out, FlushCompress::Sync);
            debug_assert!(status.is_ok(), "whatever is written can be deflated");
            rest = &rest[(self.stream.total_in() - taken) as usize..];
            if out.len() < out.capacity() {
                break;
            }
            out.reserve(out.len().max(FLUSH_BYTES));
        }
        debug_assert!(rest.is_empty() && out.ends_with(&TAIL), "it was flushed");
        out.truncate(out.len() - TAIL.len());
    }
}

/// Inflates messages; it takes nothing before the first one.
#[derive(Debug, Default)]
pub struct Inflater {
    stream: Option<Box<Decompress>>,
    takeover: bool,
    out: Vec<u8>,
}

impl Inflater {
    /// One whose messages may refer back to those before if `takeover`. A window of 15 bits reads
    /// all others.
    pub fn new(takeover: bool) -> Self {
        Self {
            takeover,
            ..Self::default()
        }
    }

    /// What `payload` is inflated, `bytes_max` bytes at most.
    ///
    /// # Errors
    /// 1009 for more bytes, as soon as they come; 1007 for what is no deflated data.
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<&[u8], Violation> {
        self.out.clear();
        if !self.takeover
            && let Some(stream) = &mut self.stream
        {
            stream.reset(false);
        }
        let guess = payload.len().saturating_mul(4).clamp(1024, 64 * 1024);
        self.out
            .reserve_exact(guess.min(bytes_max.saturating_add(1)));
        // A stream may end within a message, or at its end without an empty block behind it.
        let mut is_over = self.feed(payload, bytes_max)?;
        if !is_over && self.takeover {
            self.feed(&TAIL, bytes_max)?;
        } else if !is_over {
            is_over = self.feed(&TAIL_AND_END, bytes_max)?;
            if !is_over {
                return Err(NOT_DEFLATE);
            }
        }
        Ok(&self.out)
    }

    /// Whether its messages may refer back to those before.
    pub fn has_takeover(&self) -> bool {
        self.takeover
    }

    /// Frees what the last message took, if it was much.
    pub fn release(&mut self) {
        if self.out.capacity() > INFLATED_KEPT_BYTES_MAX {
            self.out = Vec::new();
        }
    }

    /// Bytes of memory held for the last message.
    pub fn buffered_bytes(&self) -> usize {
        self.out.capacity()
    }

    /// Inflates `input`; returns whether it ended with the end of a stream.
    fn feed(&mut self, mut input: &[u8], bytes_max: usize) -> Result<bool, Violation> {
        let Self { stream, out, .. } = self;
        let stream = stream.get_or_insert_with(|| Box::new(Decompress::new(false)));
        let mut streams = 0;
        loop {
            if out.len() == out.capacity() {
                let more = out.len().max(1024);
                let room = bytes_max.saturating_add(1) - out.len();
                out.reserve_exact(more.min(room));
            }
            let taken = stream.total_in();
            let status = stream.decompress_vec(input, out, FlushDecompress::Sync);
            input = &input[(stream.total_in() - taken) as usize..];
            if out.len() > bytes_max {
                return Err(TOO_BIG);
            }
            match status {
                Err(_) => return Err(NOT_DEFLATE),
                Ok(Status::StreamEnd) => {
                    stream.reset(false);
                    streams += 1;
                    if input.is_empty() {
                        return Ok(true);
                    }
                    if streams == INFLATED_STREAMS_MAX {
                        return Err(NOT_DEFLATE);
                    }
                }
                // What does not go on although there is room waits for more input.
                Ok(_) if out.len() < out.capacity() => {
                    return match input {
                        [] => Ok(false),
                        _ => Err(NOT_DEFLATE),
                    };
                }
                Ok(_) => {}
            }
        }
    }
}
