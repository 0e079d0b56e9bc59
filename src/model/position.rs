//! Where a publication stands: an offset within an epoch (PROTOCOL 4).

use std::fmt;

/// One life of the offsets: 12 hex digits of milliseconds since 1970, 8 of randomness, so that
/// epochs sort by time and two that begin in one millisecond differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch([u8; 20]);

impl Epoch {
    /// The epoch that begins at `ms` (since 1970).
    pub fn new(ms: u64, random: u32) -> Self {
        let mut text = [0; 20];
        let (time, chance) = text.split_at_mut(12);
        write_hex(time, ms);
        write_hex(chance, random.into());
        Self(text)
    }

    /// The epoch written as `text`, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 20] = text.as_bytes().try_into().ok()?;
        // No early end: a loop without one is done sixteen bytes at a time.
        let is_hex = |all, &byte: &u8| all & matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        bytes.iter().fold(true, is_hex).then_some(Self(bytes))
    }

    /// When it begins: milliseconds since 1970.
    pub fn ms(&self) -> u64 {
        u64::from_str_radix(&self.as_str()[..12], 16).unwrap_or_default()
    }

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        // Hex digits only, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The last digits of `number`, as many as `text` has room for.
fn write_hex(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[number as usize & 15];
        number >>= 4;
    }
}

/// A place in a room's order. Offsets count from 1; 0 is "before the first".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The life of the offsets.
    pub epoch: Epoch,
    /// The offset in it.
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_sort_by_time_and_survive_text() {
        let early = Epoch::new(1_700_000_000_000, u32::MAX);
        let late = Epoch::new(1_700_000_000_001, 0);
        assert!(early < late);
        assert_eq!(Epoch::parse(early.as_str()), Some(early));
        assert_eq!(early.as_str(), "018bcfe56800ffffffff");
        assert_eq!(early.ms(), 1_700_000_000_000);
        for bad in ["", "x", "018BCFE56800ffffffff", "018bcfe56800ffffffff0"] {
            assert_eq!(Epoch::parse(bad), None, "{bad}");
        }
    }
}
