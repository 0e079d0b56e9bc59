//! The backplane over Redis: Pub/Sub for speed, a stream for truth.
//!
//! ```text
//! publish ─▶ publisher: numbered, in calls of publish.lua ─▶ commands link ─▶ Redis
//!               │ breaker open: spool, pending previews                        │ XADD, PUBLISH
//! outcomes ◀─ order: epoch, seq ◀─ envelope ◀─ subscriber link ◀───────────────┘
//!               │  └─ a hole: XRANGE, merge           │
//!               └▶ partition log ◀─ recall (resume)   └▶ roster (control channel)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `names` | the names in Redis, by prefix and partition (PROTOCOL 5) |
//! | `script` | the Lua scripts: their arguments and replies |
//! | `envelope` | an envelope or an entry -> [`Item`] |
//! | `stream_page` | one page of the stream, and how long the next is to be |
//! | `order` | which item is next; holes, repair, epochs |
//! | `partition_log` | the recent items of a partition, by room |
//! | `recall` | reading the stream for those who come back, once for all who wait |
//! | `publisher` | numbers, calls in flight, repeats |
//! | `breaker` | whether Redis is to be asked |
//! | `spool` | records of what is held while Redis is away |
//! | `roster` | who is in which room on the other instances; kicks |
//! | `fake` | a Redis in memory, for tests |
//!
//! # What is in Redis
//!
//! With prefix `gosocket` and one partition (more: `gosocket:{p}:…`):
//!
//! | name | what |
//! |---|---|
//! | `gosocket:broadcast` | channel: one envelope a message: `{"instance_id":S,"epoch":E,"seq":n,"entry":"ms-n","payload":<frame>}`; a signal has neither epoch, seq nor entry |
//! | `gosocket:messages:stream` | entries with the fields `room_name user_id username payload metadata id epoch offset seq sent_at instance_id`; a field without a value is the empty text |
//! | `gosocket:state` | hash: `epoch`, `seq`, `partitions`, `o:<room>` = last offset, `place` = `<epoch> <seq> <entry>` of the last one stored, `p:<producer>` = `<last number> <ms when>`, `producers` = those of the last day, `ids` = which generation of ids is filled, `ids_at` = since when |
//! | `gosocket:ids:0`, `gosocket:ids:1` | hash `<room> NUL <id>` -> offset: the ids that clients supplied, two generations, the older dropped each dedupe window |
//! | `gosocket:control` | channel of `roster` |
//! | `gosocket:members:<instance>` | hash: the members on that instance, with a lease |
//! | `gosocket:instance:<instance>` | the lease of an INSTANCE_ID: the holder's nonce |
//!
//! # Invariants
//!
//! - An offset is given by the script and by nobody else, in the atomic step that stores the entry.
//! - `seq` counts the entries of a partition within an epoch without holes, in stream order.
//! - What is delivered is delivered in the order of (epoch, seq), own messages too: none twice,
//!   none passed over unless the stream does not have it any more, which is told.
//! - Between two greetings all that counts, acks, pages and what the channel brings, is of the one
//!   Redis that was greeted (`partition/subscription`); each greeting has all that counted checked.
//! - A producer's messages get into the stream in the order of their numbers, each once, however
//!   often they are sent: the script takes number `max(last, base - 1) + 1` and no other, skips
//!   what is below and refuses what is above.

pub mod breaker;
pub mod envelope;
#[cfg(test)]
pub(crate) mod fake;
pub mod names;
pub mod order;
mod partition;
pub mod partition_log;
pub mod publisher;
pub mod recall;
pub mod roster;
pub mod script;
pub mod spool;
pub mod stream_page;
mod wire;

use bytes::Bytes;

pub use self::partition::{Partition, Report, Settings};
pub use super::Encode;
use crate::model::{EntryId, Epoch, MessageId, RoomName};

/// Where an item stands in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The life of the numbers.
    pub epoch: Epoch,
    /// Counts the partition's items within the epoch, from 1.
    pub seq: u64,
    /// Its entry in the stream.
    pub entry: EntryId,
}

/// One publication as it comes from Redis, by the channel or from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it stands.
    pub place: Place,
    /// Its room.
    pub room: RoomName,
    /// Its offset in the room.
    pub offset: u64,
    /// Its id.
    pub id: MessageId,
    /// The `message` frame for clients: JSON text.
    pub json: Bytes,
}
