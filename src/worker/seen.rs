//! Which (room, user) pairs are known to be in `room_users`, so that a batch writes only new ones.
//!
//! A pair is forgotten after `SEEN_MS`, and written again when it comes again: `seen_at` in the
//! table is never older than that before the last message, which is how `--retention` knows whom to
//! forget. When there are too many, all are forgotten.

use hashbrown::HashMap;

use super::row::Row;
use crate::model::limits::{SEEN_MS, SEEN_PAIRS_MAX};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When each was written, by room and user.
    pairs: HashMap<Pair, u64>,
}

/// A room and a user.
pub(super) type Pair = (Box<str>, Box<str>);

/// A pair as it stands in a row.
#[derive(Hash)]
struct Of<'a>(&'a str, &'a str);

impl hashbrown::Equivalent<Pair> for Of<'_> {
    fn equivalent(&self, pair: &Pair) -> bool {
        (self.0, self.1) == (&*pair.0, &*pair.1)
    }
}

impl Seen {
    /// The pairs of these rows that are to be written, each once.
    pub(super) fn new_ones(&self, now_ms: u64, rows: &[Row]) -> Vec<Pair> {
        let mut found = Vec::new();
        for row in rows {
            let of = Of(row.room.as_str(), row.user_id.as_str());
            let is_known = self.pairs.get(&of).is_some_and(|&at| now_ms < at + SEEN_MS);
            if !is_known {
                found.push((of.0.into(), of.1.into()));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// These were committed.
    pub(super) fn remember(&mut self, now_ms: u64, pairs: Vec<Pair>) {
        if self.pairs.len() + pairs.len() > SEEN_PAIRS_MAX {
            self.pairs.clear();
        }
        self.pairs.extend(
            pairs
                .into_iter()
                .take(SEEN_PAIRS_MAX)
                .map(|pair| (pair, now_ms)),
        );
    }

    /// The table may not have them any more.
    pub(super) fn forget(&mut self) {
        self.pairs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn pairs_are_written_once_an_hour() {
        let rows: Vec<_> = [1, 2, 1, 3, 2].map(row).to_vec();
        let mut seen = Seen::default();
        let new = seen.new_ones(0, &rows);
        assert_eq!(new.len(), 3);
        seen.remember(0, new.clone());
        assert_eq!(seen.new_ones(SEEN_MS - 1, &rows), []);
        assert_eq!(seen.new_ones(SEEN_MS, &rows), new);
        seen.forget();
        assert_eq!(seen.new_ones(1, &rows), new);
    }

    #[test]
    fn they_are_bounded() {
        let mut seen = Seen::default();
        for round in 0..3 {
            let pairs = (0..SEEN_PAIRS_MAX / 2 + 1).map(|n| {
                let room = format!("{round}/{n}");
                (room.into(), "u".into())
            });
            seen.remember(0, pairs.collect());
            assert!(seen.pairs.len() <= SEEN_PAIRS_MAX);
        }
    }
}
