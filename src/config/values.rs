//! From text to the value of a setting, and the words for what is wrong with it.
//!
//! The errors are the second half of a line: `--port (flag): ` stands before them.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::net::{Networks, OriginPolicy};

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Secret {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Puts a good value where it belongs.
pub(super) fn put<T>(slot: &mut T, value: Result<T, String>) -> Result<(), String> {
    *slot = value?;
    Ok(())
}

/// A whole number within `range`.
pub(super) fn number<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let bounds = || format!("must be a number from {} to {}", range.start(), range.end());
    // `parse` would take a sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let value = digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|n| range.contains(n));
    value.and_then(|n| T::try_from(n).ok()).ok_or_else(bounds)
}

/// A number, or `word` for `None`.
pub(super) fn number_or<T: TryFrom<u64>>(
    word: &str,
    text: &str,
    range: RangeInclusive<u64>,
) -> Result<Option<T>, String> {
    if text == word {
        return Ok(None);
    }
    number(text, range)
        .map(Some)
        .map_err(|error| format!("{error}, or {word}"))
}

/// A duration such as `250ms`, `5s`, `1m30s`, `1h` or `0`, within `range`.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = match text {
        "0" => Duration::ZERO,
        _ => humantime::parse_duration(text)
            .map_err(|_| "must be a duration such as 250ms, 5s, 1m30s, 1h".to_owned())?,
    };
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (short_duration(*range.start()), short_duration(*range.end()));
    Err(format!("must be from {low} to {high}"))
}

fn short_duration(value: Duration) -> String {
    let text = humantime::format_duration(value).to_string();
    if value.is_zero() {
        "0".to_owned()
    } else {
        text.replace(' ', "")
    }
}

/// A size such as `64KiB`, `1GiB` or plain bytes, within `range`.
pub(super) fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kib" => 10,
        "mib" => 20,
        "gib" => 30,
        _ => return Err("must be a size such as 64KiB, 1GiB, or bytes".to_owned()),
    };
    let count: usize = count
        .parse()
        .map_err(|_| "must be a size such as 64KiB, 1GiB, or bytes".to_owned())?;
    let value = count.checked_mul(1 << shift).filter(|n| range.contains(n));
    value.ok_or_else(|| {
        format!(
            "must be from {} to {}",
            short_size(*range.start()),
            short_size(*range.end())
        )
    })
}

fn short_size(bytes: usize) -> String {
    match bytes {
        n if n >= 1 << 30 && n.is_multiple_of(1 << 30) => format!("{}GiB", n >> 30),
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
        n => n.to_string(),
    }
}

/// The first part of names in Redis: printable ASCII, and nothing that Redis or our names use.
pub(super) fn key_prefix(text: &str) -> Result<String, String> {
    let is_good = |b: u8| b.is_ascii_graphic() && !b"{}*?[]\\\"".contains(&b);
    match text.len() {
        1..=64 if text.bytes().all(is_good) => Ok(text.to_owned()),
        _ => Err("must be 1 to 64 ASCII characters without spaces, {} or *?[]\\\"".into()),
    }
}

/// `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

/// One of some words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            Err(format!("must be one of {}", words.join(", ")))
        }
    }
}

/// `none`, `*`, or origins separated by commas.
pub(super) fn origins(text: &str) -> Result<OriginPolicy, String> {
    if text == "none" {
        return Ok(OriginPolicy::SameHost);
    }
    match OriginPolicy::parse(text) {
        Ok(policy) if policy != OriginPolicy::List(vec![]) => Ok(policy),
        _ => Err("must be none, *, or origins such as https://chat.example, with commas".into()),
    }
}

/// `none`, or networks separated by commas.
pub(super) fn networks(text: &str) -> Result<Networks, String> {
    if text == "none" {
        return Ok(Networks::default());
    }
    Networks::parse(text).map_err(|part| {
        format!(
            "must be none, or networks such as 10.0.0.0/8, fd00::/8 or 10.0.0.2, with commas; \
             {part:?} is none, or has bits set behind its prefix"
        )
    })
}

/// `none`, or a file.
pub(super) fn file(text: &str) -> Option<PathBuf> {
    (text != "none").then(|| text.into())
}

/// `none`, or an address and a port.
pub(super) fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" {
        return Ok(None);
    }
    let bad = |_| "must be none, or such as 127.0.0.1:9100 or [::1]:9100".to_owned();
    text.parse().map(Some).map_err(bad)
}

/// `all` for `None`, or partitions such as `0-3,7`; in this build there is one, 0.
pub(super) fn partitions(text: &str) -> Result<Option<Vec<u16>>, String> {
    let bad = || "must be all, or partitions such as 0-3,7; there is one, 0".to_owned();
    if text == "all" {
        return Ok(None);
    }
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first, 0..=0), number(last, 0..=0));
        let (first, last): (u16, u16) = (first.map_err(|_| bad())?, last.map_err(|_| bad())?);
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number::<u16>("65535", 0..=65535), Ok(65535));
        for bad in ["", "+1", "-1", "65536", "0x1", "1 ", "99999999999999999999"] {
            assert!(number::<u16>(bad, 0..=65535).is_err(), "{bad:?}");
        }
        assert_eq!(number_or::<usize>("all", "all", 1..=256), Ok(None));
        assert_eq!(
            number_or::<usize>("all", "0", 1..=256),
            Err("must be a number from 1 to 256, or all".to_owned())
        );
    }

    #[test]
    fn durations() {
        let any = Duration::ZERO..=Duration::MAX;
        for (text, ms) in [("0", 0), ("250ms", 250), ("5s", 5000), ("1m30s", 90_000)] {
            assert_eq!(
                duration(text, any.clone()),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        assert_eq!(duration("1h", any.clone()), Ok(Duration::from_secs(3600)));
        for bad in ["", "5", "s", "-1s", "5x"] {
            assert!(duration(bad, any.clone()).is_err(), "{bad:?}");
        }
        let day = Duration::from_millis(100)..=Duration::from_secs(86_400);
        assert_eq!(
            duration("0", day),
            Err("must be from 100ms to 1day".to_owned())
        );
    }

    #[test]
    fn sizes() {
        let any = 0..=usize::MAX;
        for (text, bytes) in [("0", 0), ("77", 77), ("64KiB", 65536), ("1GiB", 1 << 30)] {
            assert_eq!(size(text, any.clone()), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "1KB", "1.5MiB", "-1", "99999999999GiB", "1 KiB"] {
            assert!(size(bad, any.clone()).is_err(), "{bad:?}");
        }
        assert_eq!(
            size("1", 1024..=64 << 20),
            Err("must be from 1KiB to 64MiB".to_owned())
        );
    }

    #[test]
    fn networks_are_checked() {
        assert_eq!(networks("none"), Ok(Networks::default()));
        assert!(
            networks("10.0.0.2,fd00::/8")
                .unwrap()
                .contains([10, 0, 0, 2].into())
        );
        assert!(
            networks("10.0.0.2/8")
                .unwrap_err()
                .contains("\"10.0.0.2/8\"")
        );
        assert!(networks("none,10.0.0.2").is_err());
    }

    #[test]
    fn partitions_are_those_that_there_are() {
        assert_eq!(partitions("all"), Ok(None));
        for good in ["0", "0-0", "0,0"] {
            assert_eq!(partitions(good), Ok(Some(vec![0])), "{good}");
        }
        for bad in ["", "1", "0-3", "0,7", "-", "a"] {
            assert!(partitions(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_have_a_port() {
        assert_eq!(address("none"), Ok(None));
        for good in ["127.0.0.1:9100", "[::1]:0", "0.0.0.0:65535"] {
            assert_eq!(address(good), Ok(good.parse().ok()), "{good}");
        }
        for bad in [
            "",
            "9100",
            ":9100",
            "localhost:9100",
            "127.0.0.1",
            "127.0.0.1:65536",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_checked() {
        assert_eq!(origins("none"), Ok(OriginPolicy::SameHost));
        assert_eq!(origins("*"), Ok(OriginPolicy::Any));
        assert_eq!(
            origins("https://A.example:443"),
            origins("https://a.example")
        );
        for bad in ["a.example", "https://a.example/", ",", "null", "none,*x"] {
            assert!(origins(bad).is_err(), "{bad}");
        }
    }
}
