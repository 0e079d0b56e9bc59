//! Rows on their way to PostgreSQL.
//!
//! ```text
//! filling: Batch ─▶ pieces: [the good rows] [a doubtful one] [another] … ─▶ one transaction each
//!                     refused? ─▶ [before it] [it] [after it]
//! ```
//!
//! The good rows of a room stand together: of a large batch, the table's indexes take neighbours
//! for an eighth to a quarter less than the rows of many rooms in turn, and whoever reads a room
//! finds its rows side by side.
//!
//! Invariant: a piece has at least one row; rows of a room keep their order within a piece.

use std::collections::VecDeque;

use super::row::Row;

/// What gathers until it is due.
#[derive(Debug, Default)]
pub(super) struct Batch {
    rows: Vec<Row>,
    bytes: usize,
    /// When its first row came.
    since_ms: Option<u64>,
    /// Whether some of it may be in the table.
    is_known: bool,
}

impl Batch {
    /// Rows in it.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of its rows.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When its first row came.
    pub(super) fn since_ms(&self) -> Option<u64> {
        self.since_ms
    }

    /// Takes a row; `is_known`: it may be in the table.
    pub(super) fn push(&mut self, now_ms: u64, row: Row, is_known: bool) {
        self.since_ms.get_or_insert(now_ms);
        self.bytes += row.bytes();
        self.is_known |= is_known;
        self.rows.push(row);
    }

    /// Whether some of it may be in the table.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// All of it, as pieces of the batch that it is called by; it is empty then.
    pub(super) fn take(&mut self, batch: BatchId) -> VecDeque<Piece> {
        let Self { rows, is_known, .. } = std::mem::take(self);
        let (doubtful, mut good): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.is_doubtful);
        // By the names alone, which are moved and not the rows.
        good.sort_by_cached_key(|row| row.room.clone());
        let good = (!good.is_empty()).then_some(good);
        let alone = doubtful.into_iter().map(|row| vec![row]);
        let pieces = good.into_iter().chain(alone);
        let piece = |rows| Piece {
            rows,
            is_known,
            batch,
        };
        pieces.map(piece).collect()
    }
}

/// Which batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BatchId {
    /// Counts them.
    pub(super) n: u64,
    /// When it began to be stored.
    pub(super) began_ms: u64,
}

/// What is stored by one transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// At least one.
    pub(super) rows: Vec<Row>,
    /// Whether some of it may be in the table: then it goes through the staging table.
    pub(super) is_known: bool,
    /// Whose.
    pub(super) batch: BatchId,
}

impl Piece {
    /// Bytes of its rows.
    pub(super) fn bytes(&self) -> usize {
        self.rows.iter().map(Row::bytes).sum()
    }

    /// What is tried instead, after PostgreSQL has refused it for one of its rows: `line` is the
    /// one that it named, from 1 on.
    ///
    /// # Errors
    /// It is a single row, and comes back.
    pub(super) fn split(self, line: Option<u64>) -> Result<Vec<Self>, Self> {
        if self.rows.len() <= 1 {
            return Err(self);
        }
        let Self {
            mut rows,
            is_known,
            batch,
        } = self;
        let named = line.and_then(|line| usize::try_from(line).ok());
        let named = named.filter(|line| (1..=rows.len()).contains(line));
        let parts = match named {
            Some(line) => {
                let after = rows.split_off(line);
                let it = rows.split_off(line - 1);
                vec![rows, it, after]
            }
            None => {
                let second = rows.split_off(rows.len() / 2);
                vec![rows, second]
            }
        };
        let parts = parts.into_iter().filter(|rows| !rows.is_empty());
        let part = |rows| Self {
            rows,
            is_known,
            batch,
        };
        Ok(parts.map(part).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    fn piece(rows: u64) -> Piece {
        let rows = (1..=rows).map(row).collect();
        Piece {
            rows,
            is_known: true,
            batch: BatchId::default(),
        }
    }

    fn offsets(pieces: &[Piece]) -> Vec<Vec<u64>> {
        let of = |piece: &Piece| piece.rows.iter().map(|row| row.entry.ms).collect();
        pieces.iter().map(of).collect()
    }

    #[test]
    fn a_piece_is_split_around_the_row_that_is_named() {
        let check = |rows, line, want: &[&[u64]]| {
            let parts = piece(rows).split(line).unwrap();
            assert_eq!(offsets(&parts), want, "{line:?}");
            assert!(parts.iter().all(|part| part.is_known));
        };
        check(5, Some(3), &[&[1, 2], &[3], &[4, 5]]);
        check(5, Some(1), &[&[1], &[2, 3, 4, 5]]);
        check(5, Some(5), &[&[1, 2, 3, 4], &[5]]);
        check(5, Some(6), &[&[1, 2], &[3, 4, 5]]);
        check(5, Some(0), &[&[1, 2], &[3, 4, 5]]);
        check(2, None, &[&[1], &[2]]);
        assert_eq!(piece(1).split(Some(1)), Err(piece(1)));
    }

    #[test]
    fn rooms_stand_together_and_doubtful_rows_go_alone_and_behind() {
        let mut batch = Batch::default();
        for n in 1..=6 {
            let mut row = row(n);
            row.is_doubtful = n % 3 == 1;
            batch.push(10 + n, row, n == 6);
        }
        assert_eq!((batch.len(), batch.since_ms()), (6, Some(11)));
        assert!(batch.bytes() > 6 * 100);
        let id = BatchId { n: 7, began_ms: 1 };
        let pieces: Vec<_> = batch.take(id).into();
        assert!(pieces.iter().all(|piece| piece.batch == id));
        assert_eq!(offsets(&pieces), [&[3, 6, 2, 5][..], &[1], &[4]]);
        assert!(pieces.iter().all(|piece| piece.is_known));
        assert!(batch.is_empty() && batch.since_ms().is_none() && batch.bytes() == 0);
        assert!(batch.take(id).is_empty());
    }
}
