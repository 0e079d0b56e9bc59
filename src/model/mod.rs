//! The words: ids, names, positions, publications, codes and limits.
//!
//! Plain values that every other room speaks with. No I/O, no clock, no randomness: what needs
//! either takes it as an argument. Imports nothing of this crate.

pub mod codes;
pub mod entry;
pub mod ids;
pub mod latency;
pub mod limits;
pub mod percent;
pub mod position;
pub mod publication;
pub mod storable;

pub use codes::{CloseCode, ErrorCode};
pub use entry::EntryId;
pub use ids::{ClientId, Name, RoomName, RoomNameError, name_is_valid};
pub use latency::Latency;
pub use position::{Epoch, Position};
pub use publication::{MessageId, Publication, Timestamp};
