//! API keys of backends (`--api-key`), and whether one of them was shown.
//!
//! Kept as hashes: what is compared has one length, whatever the key's, and the keys themselves
//! are in no memory but the settings'. Invariant: how long [`ApiKeys::has`] takes depends on how
//! many keys there are and on how long the shown one is, and on nothing of the keys.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::model::limits::{API_KEY_BYTES_MAX, API_KEYS_MAX};

/// See the module.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// Keys separated by commas: more than one, so that a key can be replaced while both count.
    ///
    /// # Errors
    /// What a key must be; no key is in it.
    pub fn parse(list: &str) -> Result<Self, String> {
        let keys: Vec<_> = list.split(',').map(str::trim).collect();
        let is_good = |key: &&str| {
            (1..=API_KEY_BYTES_MAX).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_graphic())
        };
        if keys.len() > API_KEYS_MAX || !keys.iter().all(is_good) {
            return Err(format!(
                "must be none, or at most {API_KEYS_MAX} keys, with commas, each 1 to \
                 {API_KEY_BYTES_MAX} ASCII characters without spaces"
            ));
        }
        Ok(Self(keys.into_iter().map(digest).collect()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `shown` is one of them.
    pub fn has(&self, shown: &str) -> bool {
        if self.0.is_empty() || shown.len() > API_KEY_BYTES_MAX {
            return false;
        }
        let shown = digest(shown);
        // All are looked at, so that it can't be told by the time which one it was.
        let found = self.0.iter().fold(Choice::from(0), |found, key| {
            found | key.as_slice().ct_eq(shown.as_slice())
        });
        found.into()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} API keys", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_keys_themselves_are_good() {
        let keys = ApiKeys::parse("first-key, second~key").unwrap();
        for good in ["first-key", "second~key"] {
            assert!(keys.has(good), "{good}");
        }
        let long = "x".repeat(API_KEY_BYTES_MAX + 1);
        for bad in [
            "",
            "first",
            "first-key ",
            "First-key",
            "first-key,second~key",
            &long,
        ] {
            assert!(!keys.has(bad), "{bad:?}");
        }
        assert!(!ApiKeys::default().has(""));
        assert_eq!(format!("{keys:?}"), "2 API keys");
    }

    #[test]
    fn lists_are_checked_and_not_told_back() {
        let many = vec!["k"; API_KEYS_MAX + 1].join(",");
        let long = "x".repeat(API_KEY_BYTES_MAX + 1);
        for bad in ["", ",", "good,", "with space", "schlüssel", &many, &long] {
            let error = ApiKeys::parse(bad).unwrap_err();
            assert!(
                bad.is_empty() || bad == "," || !error.contains(bad),
                "{error}"
            );
        }
    }
}
