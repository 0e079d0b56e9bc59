//! Where an entry stands in a Redis stream.

use std::fmt;

/// The id of a stream's entry: milliseconds and a number within them, as `ms-n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// Milliseconds, by the clock of that Redis.
    pub ms: u64,
    /// Counts the entries of one millisecond.
    pub n: u64,
}

impl EntryId {
    /// The id written as `text`, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, n) = text.split_once('-')?;
        Some(Self {
            ms: ms.parse().ok()?,
            n: n.parse().ok()?,
        })
    }

    /// The smallest id above this one.
    pub fn next(self) -> Self {
        match self.n.checked_add(1) {
            Some(n) => Self { ms: self.ms, n },
            None => Self {
                ms: self.ms + 1,
                n: 0,
            },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_redis_sorts_them() {
        let parse = |text| EntryId::parse(text).unwrap();
        assert!(parse("9-5") < parse("10-0") && parse("10-0") < parse("10-1"));
        assert_eq!(parse("7-18446744073709551615").next(), parse("8-0"));
        assert_eq!(parse("7-1").next().to_string(), "7-2");
        for bad in ["", "7", "7-", "-1", "7-1-2", "a-b"] {
            assert_eq!(EntryId::parse(bad), None, "{bad}");
        }
    }
}
