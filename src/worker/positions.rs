//! The newest position of each room that this worker has read, to see when one comes again.
//!
//! A worker reads new entries in the order of the stream, in which a room's offsets rise within an
//! epoch. One that does not rise stands where another message stood: Redis has lost what it had
//! given out. It is acked all the same, and so stored; where positions clash is then looked up in
//! the table. What other workers have read is not known here, so not every clash is seen.
//!
//! When there are too many rooms, all are forgotten.

use hashbrown::HashMap;

use super::row::Row;
use crate::model::Epoch;
use crate::model::limits::SEEN_PAIRS_MAX;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Positions {
    newest: HashMap<Box<str>, (Epoch, u64)>,
}

impl Positions {
    /// Takes a row; whether its position is none that comes next.
    pub(super) fn is_behind(&mut self, row: &Row) -> bool {
        let Some(position) = row.position else {
            return false;
        };
        match self.newest.get_mut(row.room.as_str()) {
            Some(newest) => {
                let is_behind = position <= *newest;
                *newest = position.max(*newest);
                is_behind
            }
            None => {
                if self.newest.len() >= SEEN_PAIRS_MAX {
                    self.newest.clear();
                }
                self.newest.insert(row.room.as_str().into(), position);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn a_position_that_does_not_rise_is_seen() {
        let mut positions = Positions::default();
        let mut check = |room: u64, epoch: u64, offset, want| {
            let mut row = row(room);
            assert!(!positions.is_behind(&row), "foreign rows have none");
            row.position = Some((Epoch::new(epoch, 0), offset));
            let at = format!("{room} {epoch} {offset}");
            assert_eq!(positions.is_behind(&row), want, "{at}");
        };
        check(1, 5, 1, false);
        check(1, 5, 2, false);
        check(2, 5, 1, false);
        check(1, 5, 2, true);
        check(1, 5, 1, true);
        check(1, 5, 3, false);
        check(1, 6, 1, false);
        check(1, 5, 9, true);
    }
}
