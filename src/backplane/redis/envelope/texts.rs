//! The small texts within envelopes and entries: numbers, ids, times; how deep JSON is nested.
//!
//! Each is read in the one form that we write, so that what is read is what was written.

use crate::model::{EntryId, MessageId};

/// How many brackets of a JSON text stand within each other at most.
pub(super) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What stands before the first such byte, which is ASCII, and what behind it.
pub(super) fn split_at_byte(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(byte, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The whole number that `text` begins with, and what follows it.
pub(super) fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    Some((whole_number(digits)?, rest))
}

/// A whole number as JSON writes it, and nothing else.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let has_padding = text.len() > 1 && text.starts_with('0');
    if text.is_empty() || text.len() > DIGITS_MAX || has_padding {
        return None;
    }
    text.bytes().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Digits of `u64::MAX`.
const DIGITS_MAX: usize = 20;

/// [`EntryId::parse`] takes a sign, which Redis never writes.
pub(super) fn entry_of(text: &str) -> Option<EntryId> {
    let (ms, n) = split_at_byte(text, b'-')?;
    Some(EntryId {
        ms: whole_number(ms)?,
        n: whole_number(n)?,
    })
}

/// A UUID in the one form that we write.
pub(super) fn id_of(text: &str) -> Option<MessageId> {
    let id = (text.len() == uuid::fmt::Hyphenated::LENGTH).then_some(text)?;
    MessageId::try_parse(id).ok()
}
