//! The connections to Redis as the pure side sees them: it asks, the machine room answers.
//!
//! ```text
//! Connect ─▶ Connected ─▶ Send*, Bytes* ─▶ Close
//!        └─▶ Broken          └─▶ Broken
//! ```
//!
//! - A connect has one answer: [`LinkEvent::Connected`], or [`LinkEvent::Broken`] within
//!   `LINK_CONNECT_MS`. After `Broken`, and after [`LinkAsk::Close`], nothing more comes of that
//!   life but what was under way: whoever asks ignores events of a life that is not its newest.
//! - Of one link at most one life is open: a `Connect` ends the one before as `Close` does.
//! - What is sent goes out in the order of the asks, and what comes in is whole and in order. That
//!   it was sent says nothing of its arrival: only a reply does.

use bytes::BytesMut;

/// Which of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// For commands and their replies.
    Commands,
    /// For channels and their messages.
    Subscriber,
}

/// One life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId {
    /// Which connection.
    pub link: Link,
    /// Counts its connects.
    pub life: u32,
}

/// What is asked of the machine room.
#[derive(Clone, PartialEq, Eq)]
pub enum LinkAsk {
    /// Connect.
    Connect(LinkId),
    /// Send these bytes.
    Send(LinkId, Vec<u8>),
    /// End it. There is no answer.
    Close(LinkId),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Bytes may be sent.
    Connected(LinkId),
    /// Bytes have come.
    Bytes(LinkId, BytesMut),
    /// It is not connected, or not any more. Why, for the log: cause and remedy.
    Broken(LinkId, String),
}

impl LinkEvent {
    /// Which life it is of.
    pub fn id(&self) -> LinkId {
        match self {
            Self::Connected(id) | Self::Bytes(id, _) | Self::Broken(id, _) => *id,
        }
    }
}

/// Without the bytes, which may hold a password.
impl std::fmt::Debug for LinkAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(id) => write!(f, "Connect({id:?})"),
            Self::Send(id, bytes) => write!(f, "Send({id:?}, {} bytes)", bytes.len()),
            Self::Close(id) => write!(f, "Close({id:?})"),
        }
    }
}
