//! The past beyond what orders and keeps: what is asked of the PostgreSQL that a worker stores in,
//! and of the embedded store, in the same words.
//!
//! What a worker has stored is a part of the truth: what it has not stored yet stands in the stream
//! (see `redis::past`, which joins the two).

use crate::model::{Epoch, Publication, RoomName};

/// A page of a room from an offset on, up to the limits of a page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageWant {
    /// The room.
    pub room: RoomName,
    /// The epoch.
    pub epoch: Epoch,
    /// The first offset.
    pub from: u64,
}

/// Offsets of a room: from one up to another, which is not of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The room.
    pub room: RoomName,
    /// The epoch.
    pub epoch: Epoch,
    /// The first offset.
    pub from: u64,
    /// The one behind the last.
    pub until: u64,
}

/// How far an epoch of a room goes, as far as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochEnds {
    /// The last offset; 0: nothing is stored of it.
    pub last: u64,
    /// The newest epoch before it of which something is stored.
    pub previous: Option<Epoch>,
}

/// Which rooms are wanted: those whose names begin with `prefix` and sort behind `after`, in the
/// order of their bytes. Personal rooms are nobody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomsQuery {
    /// By what the answer is found.
    pub id: u64,
    /// See above.
    pub prefix: String,
    /// Whether only the room that is called as `prefix` is wanted. Who gives the first that begins
    /// so need not look at it.
    pub exact: bool,
    /// See above; empty: from the first on.
    pub after: String,
    /// So many at most.
    pub limit: usize,
}

impl RoomsQuery {
    /// Whether it wants that room.
    pub fn wants(&self, room: &str) -> bool {
        let begins = match self.exact {
            true => room == self.prefix,
            false => room.starts_with(&self.prefix),
        };
        begins && room > self.after.as_str() && !room.starts_with('@')
    }

    /// The first of rooms that it wants, in the order of their names. It costs what they are, and
    /// not what it would to put them all in order.
    pub fn first<T>(&self, mut rooms: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
        let before = |a: &T, b: &T| name(a).cmp(name(b));
        if rooms.len() > self.limit {
            rooms.select_nth_unstable_by(self.limit, before);
            rooms.truncate(self.limit);
        }
        rooms.sort_unstable_by(before);
        rooms
    }
}

/// A room of which something is stored, or in which somebody is on another instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRoom {
    /// The room.
    pub room: RoomName,
    /// The newest epoch.
    pub epoch: Epoch,
    /// The last offset in it.
    pub offset: u64,
    /// Users on other instances, as far as who answers knows of them.
    pub members: u64,
}

/// A question to PostgreSQL.
#[derive(Debug, PartialEq)]
pub enum HistoryAsk {
    /// Pages of several rooms, read at once.
    Pages {
        /// By what the answer is found.
        ticket: u64,
        /// At most `HISTORY_WANTS_MAX`.
        wants: Vec<PageWant>,
    },
    /// What is missing in stretches of several rooms: at most `HISTORY_WANTS_MAX`.
    Missing(Vec<Stretch>),
    /// How far an epoch goes.
    Ends(RoomName, Epoch),
    /// Rooms.
    Rooms(RoomsQuery),
}

/// PostgreSQL's answer; errors are for the clients and name no address.
#[derive(Debug)]
pub enum HistoryReply {
    /// To [`HistoryAsk::Pages`]: for each want what is stored, from the first offset that is, in
    /// order; holes and two of the same offset are possible.
    Pages {
        /// The ticket.
        ticket: u64,
        /// The pages.
        pages: Result<Vec<Vec<Publication>>, String>,
    },
    /// To [`HistoryAsk::Missing`]: of each the first offset that is not stored, if one is not.
    Missing(Result<Vec<Option<u64>>, String>),
    /// To [`HistoryAsk::Ends`].
    Ends(RoomName, Epoch, Result<EpochEnds, String>),
    /// To [`HistoryAsk::Rooms`].
    Rooms(RoomsQuery, Result<Vec<StoredRoom>, String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rooms_of_a_query_are_in_order_however_many_there_are() {
        let query = |limit| RoomsQuery {
            id: 0,
            prefix: String::new(),
            exact: false,
            after: String::new(),
            limit,
        };
        let rooms = || vec!["d", "b", "e", "a", "c"];
        for (limit, want) in [
            (0, &[][..]),
            (1, &["a"]),
            (3, &["a", "b", "c"]),
            (5, &["a", "b", "c", "d", "e"]),
            (9, &["a", "b", "c", "d", "e"]),
        ] {
            assert_eq!(query(limit).first(rooms(), |room| room), want, "{limit}");
        }
    }
}
