//! The bytes of a connection -> values, one by one.
//!
//! A decoder takes a frame that is whole; this finds out whether one is, and that it may be decoded
//! at all. Both are needed, since redis_protocol begins anew at each call (an array of 1 MiB that
//! comes in reads of 16 KiB would be looked through 64 times), recurses as deep as a peer says
//! (100,000 times `*1` ends the process), and has no bound.
//!
//! ```text
//! bytes ─▶ Gauge: a walk over heads, resumed where it stopped ─▶ length of the frame
//!                         ├─ of plain kinds, as nearly all are ─▶ plain ─┐
//!                         └─ of any other ─▶ redis_protocol ─────────────┴▶ Value
//! ```
//!
//! - A walk costs what has come since the last one: a bulk string is not looked at but its end.
//! - `owed` has one number a level: how many elements are still to come there; the frame is whole
//!   when it is empty. `owed.len() <= RESP_DEPTH_MAX`.
//! - Nothing is allocated for what is only announced.
//! - A frame of plain kinds is decoded by [`plain`] whatever was agreed: so `$-1` and `*-1` are
//!   known, which some proxies send to RESP3 clients. A push is an array with another first byte,
//!   so a message is decoded that way too.

use bytes::BytesMut;
use redis_protocol::error::RedisProtocolError;
use redis_protocol::resp3;

use super::plain;
use super::value::Value;
use crate::model::limits::{
    RESP_DEPTH_MAX, RESP_ELEMENTS_MAX, RESP_LINE_BYTES_MAX, RESP_REPLY_BYTES_MAX,
};

/// What came is not to be understood: the connection must end. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No RESP.
    #[error("what came is not Redis's protocol ({what}): \"{near}\"; {}", hint(.near))]
    Garbage {
        /// What is wrong with it.
        what: &'static str,
        /// The bytes there, escaped and cut.
        near: String,
    },
    /// Larger than a reply may be.
    #[error("a reply of more than {max} {of}, which is the most that is taken")]
    TooLarge {
        /// The limit.
        max: usize,
        /// Of what: bytes, elements, levels.
        of: &'static str,
    },
}

impl WireError {
    fn garbage(what: &'static str, bytes: &[u8]) -> Self {
        let near = &bytes[..bytes.len().min(NEAR_BYTES_MAX)];
        Self::Garbage {
            what,
            near: near.escape_ascii().to_string(),
        }
    }
}

/// Bytes that are shown of what is not understood.
const NEAR_BYTES_MAX: usize = 40;

/// What is likely at the other end.
fn hint(near: &str) -> &'static str {
    if near.starts_with(r"\x15\x03") || near.starts_with(r"\x16\x03") {
        "it speaks TLS: give its address as rediss://"
    } else {
        "is that the address of a Redis?"
    }
}

/// A frame that was decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// What it says.
    pub(super) value: Value,
    /// Whether it is out of band: no answer to a command.
    pub(super) is_push: bool,
}

/// How far the frame at the head of a buffer has been looked at.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// Bytes that are known to be in order.
    at: usize,
    /// Bytes in which the end of the line at `at` is known not to lie.
    searched: usize,
    /// The end of the bulk string at `at`, CRLF included, if its head was read.
    bulk_end: Option<usize>,
    /// Elements to come, a number a level.
    owed: Vec<usize>,
    elements: usize,
    /// Whether it has kinds that are not plain.
    is_fancy: bool,
    is_push: bool,
}

impl Gauge {
    /// Whether nothing of the frame at the head of the buffer was looked at.
    pub(super) fn is_fresh(&self) -> bool {
        self.at == 0 && self.owed.is_empty()
    }

    /// The first frame of `bytes`, which is taken out of it; `None`: it is not whole yet. Call it
    /// again with the same bytes and more.
    pub(super) fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        if !self.walk(bytes)? {
            return Ok(None);
        }
        let length = self.at;
        let mut frame = bytes.split_to(length);
        let Self {
            is_fancy, is_push, ..
        } = *self;
        *self = Self {
            owed: std::mem::take(&mut self.owed),
            ..Self::default()
        };
        let value = if is_fancy {
            decoded(
                resp3::decode::complete::decode_bytes_mut(&mut frame),
                &frame,
            )?
        } else {
            if is_push {
                frame[0] = b'*';
            }
            let frame = frame.freeze();
            plain::decode(&frame).ok_or_else(|| WireError::garbage(NO_VALUE, &frame))?
        };
        Ok(Some(Frame { value, is_push }))
    }

    /// Goes on to the end of the frame; whether it was reached.
    fn walk(&mut self, bytes: &mut [u8]) -> Result<bool, WireError> {
        if self.is_fresh() {
            self.owed.push(1);
        }
        while !self.owed.is_empty() {
            if let Some(end) = self.bulk_end {
                if bytes.len() < end {
                    return Ok(false);
                }
                if &bytes[end - 2..end] != b"\r\n" {
                    let why = "a string is longer than its length";
                    return Err(WireError::garbage(why, &bytes[self.at..]));
                }
                self.at = end;
                self.bulk_end = None;
                self.settle();
                continue;
            }
            let Some(end) = self.line_end(bytes)? else {
                return Ok(false);
            };
            self.line(&mut bytes[self.at..end])?;
            self.searched = 0;
        }
        Ok(true)
    }

    /// Where the line at `at` ends, its CRLF included.
    fn line_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, WireError> {
        let line = &bytes[self.at..];
        match line.first() {
            None => return Ok(None),
            Some(b'+' | b'-' | b':' | b'$' | b'*' | b'%' | b'_') => {}
            Some(b'~' | b'|' | b'=' | b'!' | b',' | b'#' | b'(') => self.is_fancy = true,
            Some(b'>') if self.owed.len() == 1 => self.is_push = true,
            Some(_) => return Err(WireError::garbage("no kind of value", line)),
        }
        let Some(end) = crlf(&line[self.searched..]) else {
            // The last byte may be a CR.
            self.searched = line.len().saturating_sub(1);
            // Two more may be its end.
            return match line.len() > RESP_LINE_BYTES_MAX + 1 {
                true => Err(WireError::garbage(ENDLESS, line)),
                false => Ok(None),
            };
        };
        let length = self.searched + end;
        if length > RESP_LINE_BYTES_MAX {
            return Err(WireError::garbage(ENDLESS, line));
        }
        Ok(Some(self.at + length + 2))
    }

    /// Takes a whole line.
    fn line(&mut self, line: &mut [u8]) -> Result<(), WireError> {
        self.elements += 1;
        let length = match line[0] {
            kind @ (b'$' | b'!' | b'=' | b'*' | b'>' | b'~' | b'%' | b'|') => {
                length_of(kind, line)?
            }
            b'-' => {
                // The decoder would have it UTF-8, which a text that Redis cut may not be.
                if std::str::from_utf8(line).is_err() {
                    line.iter_mut()
                        .filter(|b| !b.is_ascii())
                        .for_each(|b| *b = b'?');
                }
                None
            }
            _ => None,
        };
        let kind = line[0];
        self.at += line.len();
        match (kind, length) {
            (b'$' | b'!' | b'=', Some(length)) => {
                let end = self.at.saturating_add(length).saturating_add(2);
                if end > RESP_REPLY_BYTES_MAX {
                    return Err(too_large(RESP_REPLY_BYTES_MAX, "bytes"));
                }
                self.bulk_end = Some(end);
            }
            (b'%', Some(length)) => self.open(length.saturating_mul(2))?,
            (b'|', Some(length)) => {
                // What it is an attribute of comes behind it.
                if let Some(owed) = self.owed.last_mut() {
                    *owed += 1;
                }
                self.open(length.saturating_mul(2))?;
            }
            (_, Some(length)) => self.open(length)?,
            (_, None) => self.settle(),
        }
        if self.at > RESP_REPLY_BYTES_MAX {
            return Err(too_large(RESP_REPLY_BYTES_MAX, "bytes"));
        }
        Ok(())
    }

    /// So many elements follow, a level below.
    fn open(&mut self, length: usize) -> Result<(), WireError> {
        if self.elements.saturating_add(length) > RESP_ELEMENTS_MAX {
            return Err(too_large(RESP_ELEMENTS_MAX, "elements"));
        }
        if self.owed.len() >= RESP_DEPTH_MAX {
            return Err(too_large(RESP_DEPTH_MAX, "levels"));
        }
        self.owed.push(length);
        if length == 0 {
            self.owed.pop();
            self.settle();
        }
        Ok(())
    }

    /// One element has ended, and with it those whose last one it was.
    fn settle(&mut self) {
        while let Some(owed) = self.owed.last_mut() {
            *owed -= 1;
            if *owed > 0 {
                return;
            }
            self.owed.pop();
        }
    }
}

/// Where the first CRLF is.
pub(super) fn crlf(bytes: &[u8]) -> Option<usize> {
    // Nearly all lines are a kind and a few digits: to begin a search costs more than to look.
    let near = &bytes[..bytes.len().min(NEAR_END)];
    if let Some(end) = near.windows(2).position(|two| two == b"\r\n") {
        return Some(end);
    }
    let is_end = |&at: &usize| at > 0 && bytes[at - 1] == b'\r';
    let end = memchr::memchr_iter(b'\n', bytes).find(is_end)?;
    Some(end - 1)
}

/// Within how many bytes the end of a line is looked for one by one.
const NEAR_END: usize = 8;

fn too_large(max: usize, of: &'static str) -> WireError {
    WireError::TooLarge { max, of }
}

/// The number behind the kind; `None` is -1.
fn length_of(kind: u8, line: &[u8]) -> Result<Option<usize>, WireError> {
    let digits = &line[1..line.len() - 2];
    if digits == b"-1" && matches!(kind, b'$' | b'*') {
        return Ok(None);
    }
    let length = number_of(digits).ok_or_else(|| WireError::garbage("no length", line))?;
    // A verbatim string begins with three letters and a colon.
    if kind == b'=' && length < 4 {
        return Err(WireError::garbage("too short a verbatim string", line));
    }
    Ok(Some(length))
}

/// The number that digits are, and nothing but digits.
pub(super) fn number_of(digits: &[u8]) -> Option<usize> {
    if !(1..=LENGTH_DIGITS_MAX).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        Some(number * 10 + digit)
    })
}

const NO_VALUE: &str = "a value that is none";
const ENDLESS: &str = "a line without an end";
/// Digits of a length.
const LENGTH_DIGITS_MAX: usize = 12;

fn decoded<F: Into<Value>, B>(
    result: Result<Option<(F, usize, B)>, RedisProtocolError>,
    left: &[u8],
) -> Result<Value, WireError> {
    match result {
        Ok(Some((frame, _, _))) => Ok(frame.into()),
        Ok(None) | Err(_) => Err(WireError::garbage(NO_VALUE, left)),
    }
}

#[cfg(test)]
mod tests;
