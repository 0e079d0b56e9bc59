//! The native protocol of `/ws`: JSON text frames (PROTOCOL 3) <-> values.
//!
//! | file | what |
//! |---|---|
//! | [`command`], `members` | what clients send |
//! | [`event`] | what the server sends |
//! | [`publication`] | what is published over HTTP |
//! | [`stream`] | rooms as server-sent events |
//! | [`storable`] | which JSON can be stored later (of `model`), checked before anything is promised |
//!
//! Payloads, metadata and refs are raw JSON text: checked once, spliced into what is sent on, never
//! parsed into a tree and never written anew. No sockets, no rooms: whether a client may do what
//! it asks for is decided elsewhere.
//!
//! [`event`] writes WebSocket frames and so uses `net`'s encoder: the one wire that stands on
//! another, so that a frame is written once and in place.

pub mod command;
pub mod event;
mod members;
pub mod publication;
pub mod stream;

pub use crate::model::storable;
pub use command::{Command, Refusal, Request, Since};
pub use publication::Publication;
