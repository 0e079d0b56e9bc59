//! What orders and keeps the publications of a home shard's rooms.
//!
//! Today there is one: [`Embedded`], for an instance that runs alone. Its sibling over Redis will
//! stand beside it behind the same words: [`Publish`] in, [`Outcome`] out.
//!
//! Guarantees, whichever it is:
//! - outcomes of one room come in the order of their offsets, which rise by one within an epoch;
//! - an outcome [`Outcome::Published`] or [`Outcome::Repeated`] comes only once the publication is
//!   stored (with `--store memory`: accepted), so nothing that anybody was shown can come again
//!   under another offset;
//! - every [`Publish`] gets exactly one outcome;
//! - one publisher's messages to one room keep their order;
//! - an id that a client supplied makes no second publication within the dedupe window.

mod embedded;
pub mod link;
pub mod redis;
mod remembered;

use bytes::Bytes;

pub(crate) use embedded::fresh_position;
pub use embedded::{CommitFailure, Embedded};
pub use remembered::Remembered;

use crate::model::{ErrorCode, MessageId, Name, Publication, RoomName};

/// A message that is to be ordered and kept. Its parts are as in [`Publication`].
#[derive(Clone, Debug)]
pub struct Publish {
    /// The room.
    pub room: RoomName,
    /// The client's own id for it, if it gave one.
    pub id: Option<MessageId>,
    /// Who publishes.
    pub user_id: Name,
    /// Under what name.
    pub username: Option<Name>,
    /// JSON text.
    pub payload: Bytes,
    /// JSON text.
    pub metadata: Option<Bytes>,
}

/// What became of a [`Publish`]; `T` is what the publisher is found by.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It is stored: deliver it, then ack it.
    Published {
        /// The publication, with its position.
        publication: Publication,
        /// Whose it is.
        origin: T,
    },
    /// The same id was published before: ack it with the first one's offset.
    Repeated {
        /// The room.
        room: RoomName,
        /// The client's id.
        id: MessageId,
        /// The first one's offset.
        offset: u64,
        /// Whose it is.
        origin: T,
    },
    /// It is not stored, and nobody saw it.
    Refused {
        /// The room.
        room: RoomName,
        /// Why, as a code.
        code: ErrorCode,
        /// Why, in words that say what to do.
        why: String,
        /// Whose it is.
        origin: T,
    },
}
