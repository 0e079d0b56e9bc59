//! What goes into a publisher, and what it says of it: plain values.

use bytes::Bytes;

use crate::model::{MessageId, Name, RoomName, Timestamp};

/// A message that is to be stored. Its parts are as in [`crate::model::Publication`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Counts the producer's messages in this partition, from 1. It is given by
    /// [`super::Publisher::publish`].
    pub number: u64,
    /// Its id.
    pub id: MessageId,
    /// Whether the client supplied the id.
    pub client_given: bool,
    /// The room.
    pub room: RoomName,
    /// Who publishes.
    pub user_id: Name,
    /// Under what name.
    pub username: Option<Name>,
    /// JSON text.
    pub payload: Bytes,
    /// JSON text.
    pub metadata: Option<Bytes>,
    /// When it was taken.
    pub sent_at: Timestamp,
}

impl Outgoing {
    /// What it counts for in a call.
    pub fn bytes(&self) -> usize {
        let names = self.room.as_str().len() + self.user_id.len();
        let username = self.username.as_ref().map_or(0, |name| name.len());
        let metadata = self.metadata.as_ref().map_or(0, |metadata| metadata.len());
        self.payload.len() + metadata + names + username
    }
}

/// What became of a publish at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has a number and is on its way.
    Queued,
    /// A message with the same id is held for the same room: this one is dropped, and gets that
    /// one's offset.
    Joined,
}

/// How a call of the script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All of it was looked at.
    Ok,
    /// Something before its first message is missing in Redis.
    Behind,
    /// It stopped at an error, or never began.
    Error,
}

/// What became of a publish in the end.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled<T> {
    /// It is stored.
    Stored {
        /// Whose it is.
        origin: T,
        /// The room.
        room: RoomName,
        /// Its id.
        id: MessageId,
        /// Its offset.
        offset: u64,
    },
    /// A message with the same id was stored before, or together with it.
    Repeated {
        /// Whose it is.
        origin: T,
        /// The room.
        room: RoomName,
        /// The client's id.
        id: MessageId,
        /// The first one's offset.
        offset: u64,
    },
    /// Nobody knows whether it is stored: to be told as `unavailable`, retry with the same id.
    Unknown {
        /// Whose it is.
        origin: T,
        /// The room.
        room: RoomName,
        /// Its id.
        id: MessageId,
    },
}
