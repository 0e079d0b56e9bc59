//! What a backplane asks of the machine room, and the answers.

use super::history::{EpochEnds, HistoryAsk, HistoryReply, RoomsQuery, StoredRoom, Stretch};
use super::link::{LinkAsk, LinkEvent};
use super::redis::spool::{SpoolAsk, SpoolEvent};
use crate::model::{Epoch, Publication, RoomName};

/// What a backplane asks for.
#[derive(Debug, PartialEq)]
pub enum Ask {
    /// Of the embedded store.
    Store(StoreRequest),
    /// Of a connection to Redis.
    Link(LinkAsk),
    /// Of the spool.
    Spool(SpoolAsk),
    /// Of the PostgreSQL that a worker stores in.
    History(HistoryAsk),
    /// That operators are told what is wrong.
    Warn(String),
    /// That they are told what is well.
    Note(String),
    /// That this process ends, since it can't keep what it promises: why.
    End(String),
}

/// What it is answered.
#[derive(Debug)]
pub enum Answer {
    /// By the embedded store.
    Store(StoreReply),
    /// Something happened to a connection to Redis.
    Link(LinkEvent),
    /// By the spool.
    Spool(SpoolEvent),
    /// By PostgreSQL, within `HISTORY_MS`.
    History(HistoryReply),
}

/// A question to the store.
#[derive(Debug, PartialEq)]
pub enum StoreRequest {
    /// The last offset of a room.
    Open(RoomName),
    /// Publications of a room from an offset on, oldest first, up to the limits of a page.
    Read {
        /// The room.
        room: RoomName,
        /// The epoch.
        epoch: Epoch,
        /// The first offset.
        from: u64,
    },
    /// What is missing in stretches of rooms.
    Missing(Vec<Stretch>),
    /// How far an epoch of a room goes.
    Ends(RoomName, Epoch),
    /// Rooms.
    Rooms(RoomsQuery),
    /// Commit these, all or none.
    Commit(Vec<Publication>),
}

/// The store's answer.
#[derive(Debug)]
pub enum StoreReply {
    /// To [`StoreRequest::Open`]: epoch and last offset.
    Opened(RoomName, Result<(Epoch, u64), String>),
    /// To [`StoreRequest::Read`]: what there is.
    Read {
        /// The room.
        room: RoomName,
        /// The epoch.
        epoch: Epoch,
        /// The first offset that was asked for.
        from: u64,
        /// The publications, from the first that is still there.
        publications: Result<Vec<Publication>, String>,
    },
    /// To [`StoreRequest::Missing`]: of each the first offset that is not stored, if one is not.
    Missing(Result<Vec<Option<u64>>, String>),
    /// To [`StoreRequest::Ends`].
    Ends(RoomName, Epoch, Result<EpochEnds, String>),
    /// To [`StoreRequest::Rooms`].
    Rooms(RoomsQuery, Result<Vec<StoredRoom>, String>),
    /// To [`StoreRequest::Commit`]: the batch, and whether it is stored.
    Committed(Vec<Publication>, Result<(), CommitFailure>),
}

/// Why a batch was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitFailure {
    /// The publication at `index` has an id that the room had before, at `offset`.
    Clash {
        /// Which of the batch.
        index: usize,
        /// The offset of the first one with that id.
        offset: u64,
    },
    /// The store can't take anything now.
    Unavailable(String),
}
