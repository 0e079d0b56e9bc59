//! permessage-deflate (RFC 7692): what is agreed on, and the two directions of it.
//!
//! ```text
//!   offers of the head ─▶ offer: Agreed + the answer's parameters
//!   payload ─▶ Deflater ─▶ bytes without the tail 00 00 ff ff, in a frame with RSV1
//!   frame with RSV1 ─▶ Decoder ─▶ Inflater ─▶ payload, never more than a message may have
//! ```
//!
//! | who | windows | context |
//! |---|---|---|
//! | `/ws` ([`Terms::Shared`]) | 15 bits both ways | none: one stream for all members of a room, and one inflater a shard |
//! | `/echo` ([`Terms::Own`]) | as offered | as offered |
//!
//! zlib makes no raw stream of an 8-bit window. Where 8 is agreed on, 9 is used, whose streams
//! reach back 250 bytes at most (the window less the longest match and what is looked ahead): a
//! test holds that, since an 8-bit window must do to read them.
//!
//! It is no framing: which bit says that a message is compressed is [`super::frame`]'s and
//! [`super::encode`]'s affair.

mod offer;
mod streams;
#[cfg(test)]
mod tests;

pub use offer::{Agreed, BadOffer, Terms, negotiate};
pub use streams::{Deflater, Inflater, compressed_bytes_max};
