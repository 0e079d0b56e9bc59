//! Whether JSON text could be stored as PostgreSQL's `jsonb` and `text`.
//!
//! An ack promises that the message gets into the table, and one row that the table refuses
//! spoils a whole COPY: so what would be refused is refused here, at the door. It is no JSON
//! parser: of text that is not JSON it may say anything, and never panics.
//!
//! | refused | why |
//! |---|---|
//! | `\u0000` | `text` can't hold NUL |
//! | a surrogate escape without its other half | is no character |
//! | nesting over [`JSON_DEPTH_MAX`] | the parser's stack, here and there |
//! | numbers of more than 131,072 digits before the point or 16,383 behind it, the exponent worked out | `numeric`'s format: its weight has 15 bits, its scale 14 |
//!
//! One pass over the bytes, without recursion. Strings are skipped eight bytes at a time, for
//! strings are what most text is made of.

use super::limits::JSON_DEPTH_MAX;

/// Digits of a `numeric` before the decimal point.
pub const DIGITS_BEFORE_MAX: i64 = 131_072;
/// Digits of a `numeric` behind it, trailing zeros included.
pub const DIGITS_BEHIND_MAX: i64 = 16_383;
/// PostgreSQL refuses exponents from here on (half of the largest `int`), of zeros as well.
const EXPONENT_END: i64 = (i32::MAX / 2) as i64;

/// Why a text can't be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstorable {
    /// An escaped NUL.
    #[error("\\u0000 can't be stored: leave it out")]
    Nul,
    /// Half of a surrogate pair.
    #[error("a lone surrogate escape can't be stored: send both halves, or the character itself")]
    LoneSurrogate,
    /// Too many brackets within each other.
    #[error("nested deeper than {JSON_DEPTH_MAX}: flatten it")]
    TooDeep,
    /// A number beyond `numeric`.
    #[error("a number has too many digits to be stored: send it as a string")]
    NumberTooLong,
}

/// Whether `text` can be stored.
pub fn check(text: &str) -> Result<(), Unstorable> {
    check_within(text, 0)
}

/// Whether `text` can be stored where `depth` brackets are open around it.
pub fn check_within(text: &str, mut depth: usize) -> Result<(), Unstorable> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = skip_string(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(Unstorable::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'0'..=b'9' => at = skip_number(bytes, at - 1)?,
            _ => {}
        }
    }
    Ok(())
}

/// Where the string ends whose first byte stands at `at`.
fn skip_string(bytes: &[u8], mut at: usize) -> Result<usize, Unstorable> {
    loop {
        at = skip_plain(bytes, at);
        match bytes.get(at) {
            Some(b'\\') => at = skip_escape(bytes, at + 1)?,
            // A quote, or the end of what is not JSON.
            _ => return Ok(at + 1),
        }
    }
}

/// The next quote or backslash from `at` on, or the end.
fn skip_plain(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let found = bytes_equal(word, b'"') | bytes_equal(word, b'\\');
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|b| !matches!(b, b'"' | b'\\')) {
        at += 1;
    }
    at
}

/// The top bit of each byte of `word` that equals `byte`: exact up to the first one that does,
/// a borrow may set bits above it.
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & (ONES << 7)
}

/// Where the escape ends whose backslash stands before `at`.
fn skip_escape(bytes: &[u8], at: usize) -> Result<usize, Unstorable> {
    let Some(unit) = code_unit(bytes, at) else {
        return Ok(at + 1);
    };
    match unit {
        0 => Err(Unstorable::Nul),
        0xd800..=0xdbff => match bytes.get(at + 5).and_then(|_| code_unit(bytes, at + 6)) {
            Some(0xdc00..=0xdfff) if bytes[at + 5] == b'\\' => Ok(at + 11),
            _ => Err(Unstorable::LoneSurrogate),
        },
        0xdc00..=0xdfff => Err(Unstorable::LoneSurrogate),
        _ => Ok(at + 5),
    }
}

/// The value of the `uXXXX` that stands at `at`.
fn code_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let [b'u', digits @ ..] = bytes.get(at..)?.first_chunk::<5>()? else {
        return None;
    };
    digits.iter().try_fold(0, |unit, &digit| {
        Some(unit << 4 | char::from(digit).to_digit(16)?)
    })
}

/// Where the number ends whose first digit stands at `at` (a sign changes nothing).
fn skip_number(bytes: &[u8], at: usize) -> Result<usize, Unstorable> {
    let digits_end = |at: usize| {
        at + bytes[at..]
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(bytes.len() - at)
    };
    let point = digits_end(at);
    let mut end = point;
    if bytes.get(point) == Some(&b'.') {
        end = digits_end(point + 1);
    }
    let mut exponent = 0;
    let mut exponent_end = end;
    if let Some(b'e' | b'E') = bytes.get(end) {
        let negative = bytes.get(end + 1) == Some(&b'-');
        let start = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        exponent_end = digits_end(start.min(bytes.len()));
        exponent = bytes[start.min(exponent_end)..exponent_end]
            .iter()
            .fold(0, |n: i64, b| {
                n.saturating_mul(10).saturating_add(i64::from(b - b'0'))
            });
        if exponent >= EXPONENT_END {
            return Err(Unstorable::NumberTooLong);
        }
        if negative {
            exponent = -exponent;
        }
    } else if end - at <= DIGITS_BEHIND_MAX as usize {
        // Nearly all numbers: too short to be too long.
        return Ok(end);
    }
    let behind = end.saturating_sub(point + 1) as i64 - exponent;
    let before = digits_before(bytes, at, point, end) + exponent;
    if behind > DIGITS_BEHIND_MAX || before > DIGITS_BEFORE_MAX {
        return Err(Unstorable::NumberTooLong);
    }
    Ok(exponent_end)
}

/// Digits before the decimal point, from the first that is not zero: negative if zeros follow the
/// point; very negative for zero itself, which has none.
fn digits_before(bytes: &[u8], at: usize, point: usize, end: usize) -> i64 {
    let first = bytes[at..end].iter().position(|b| matches!(b, b'1'..=b'9'));
    match first {
        None => -(EXPONENT_END * 2),
        Some(first) if at + first < point => (point - at - first) as i64,
        // The point itself takes a place.
        Some(first) => -((at + first - point - 1) as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_all(expected: Result<(), Unstorable>, texts: &[&str]) {
        for text in texts {
            let short = text.get(..60).unwrap_or(text);
            assert_eq!(check(text), expected, "{short}");
            assert_eq!(
                check(&format!("{{\"a\":[{text}]}}")),
                expected,
                "{short} within"
            );
        }
    }

    #[test]
    fn escapes() {
        check_all(
            Ok(()),
            &[
                r#""plain text, longer than eight bytes""#,
                r#""\ud83d\ude00""#,
                r#""\uD83D\uDE00 and on""#,
                r#""\\u0000""#,
                r#""\\\\u0000""#,
                r#""\"\\ud800\"""#,
                r#""\u0001\uffff\n""#,
                r#""é€😀""#,
            ],
        );
        check_all(
            Err(Unstorable::Nul),
            &[
                r#""\u0000""#,
                r#""\\\u0000""#,
                r#""1234567\u0000""#,
                r#"{"\u0000":1}"#,
            ],
        );
        check_all(
            Err(Unstorable::LoneSurrogate),
            &[
                r#""\ud800""#,
                r#""\udc00x""#,
                r#""\ud800\ud800""#,
                r#""\ud800x\udc00""#,
                r#""\ud800 \udc00""#,
                r#""\ud800\\udc00""#,
                r#""\ud800\n""#,
                r#""\ude00\ud83d""#,
            ],
        );
    }

    #[test]
    fn depth() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested(128)), Ok(()));
        assert_eq!(check(&nested(129)), Err(Unstorable::TooDeep));
        assert_eq!(check(&nested(100_000)), Err(Unstorable::TooDeep));
        assert_eq!(check(&"{\"a\":".repeat(100_000)), Err(Unstorable::TooDeep));
        assert_eq!(check(&format!("[{}]", "[],".repeat(1000))), Ok(()));
        assert_eq!(check(&format!("\"{}\"", "[".repeat(1000))), Ok(()));
        assert_eq!(check(&"]".repeat(1000)), Ok(()), "not JSON, but no panic");
    }

    #[test]
    fn numbers() {
        let ones = |n: usize| "1".repeat(n);
        let behind = |n: usize| format!("0.{}", "1".repeat(n));
        check_all(
            Ok(()),
            &[
                "0",
                "-1.5e3",
                "1e400",
                "1E+131071",
                "1e-16383",
                "0.1e131072",
                "0.001e131074",
                "0e200000",
                "0.0e131072",
                "5e-3e",
                &ones(131_072),
                &behind(16_383),
                "123456789012345678901234567890",
            ],
        );
        check_all(
            Err(Unstorable::NumberTooLong),
            &[
                "1e200000",
                "-1e131072",
                "10e131071",
                "1e-16384",
                "1e-20000",
                "0e-16384",
                "1.5e-16383",
                "1e999999999999999999999999",
                "1e-999999999999999999999999",
                "0e2000000000",
                "0.001e131075",
                &ones(131_073),
                &behind(16_384),
                &format!("{}e1", ones(131_072)),
            ],
        );
        // In a string they are no numbers.
        check_all(Ok(()), &[r#""1e200000""#, "\"a1e200000\""]);
    }

    #[test]
    fn what_ends_early_does_not_panic() {
        let text = r#"{"a":"\ud83d\ude00\u0041","n":-1.5e+10,"x":[1e5]}"#;
        for end in 0..=text.len() {
            let _ = check(&text[..end]);
        }
        for text in [
            "\"\\",
            "\"\\u",
            "\"\\ud800\\",
            "1e",
            "1e+",
            "1.",
            "-",
            "\"1234567\\",
        ] {
            let _ = check(text);
        }
    }
}
