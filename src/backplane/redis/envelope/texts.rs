//! The small texts within envelopes and entries: numbers, ids, times; how deep JSON is nested.
//!
//! Each is read in the one form that we write, so that what is read is what was written.

use crate::model::{EntryId, MessageId, Timestamp};

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

/// The whole number that `text` begins with, and what follows it.
pub(super) fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    Some((whole_number(digits)?, rest))
}

/// A whole number as JSON writes it, and nothing else.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    let has_padding = text.len() > 1 && text.starts_with('0');
    (is_plain && !has_padding)
        .then(|| text.parse().ok())
        .flatten()
}

/// [`EntryId::parse`] takes a sign, which Redis never writes.
pub(super) fn entry_of(text: &str) -> Option<EntryId> {
    let (ms, n) = text.split_once('-')?;
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

/// Bytes of a time.
pub(super) const TIME_BYTES: usize = "0000-00-00T00:00:00.000Z".len();

/// RFC 3339 in UTC with milliseconds, from 1970 on, as `protocol` writes it.
pub(super) fn time_of(text: &str) -> Option<Timestamp> {
    let bytes: &[u8; TIME_BYTES] = text.as_bytes().try_into().ok()?;
    let number = |at: usize, len: usize| {
        bytes[at..at + len].iter().try_fold(0_u64, |n, digit| {
            digit
                .is_ascii_digit()
                .then(|| n * 10 + u64::from(digit - b'0'))
        })
    };
    let marks = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'.'),
        (23, b'Z'),
    ];
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let is_time = hour < 24 && minute < 60 && second < 60;
    if marks.iter().any(|&(at, mark)| bytes[at] != mark)
        || year < 1970
        || !(1..=month_days).contains(&day)
        || !is_time
    {
        return None;
    }
    // Howard Hinnant's `days_from_civil`: years begin in March, so that the leap day is the last.
    let from_march = year - u64::from(month <= 2);
    let (era, year_of_era) = (from_march / 400, from_march % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Timestamp(seconds * 1000 + number(20, 3)?))
}
