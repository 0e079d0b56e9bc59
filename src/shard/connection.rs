//! One connection as its shard sees it: its phase, what is unfinished, what waits to be sent.
//!
//! An idle one holds no buffer: `stash`, `outbox` and the decoder's own state exist only while
//! there is something unfinished. Invariants: `outbox` is there only if it has bytes; `in_flight`
//! counts the requests that are not answered yet, and `credit_used` their bytes.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::access::Claims;
use crate::hub::{ConnIndex, Encoding, RoomKey};
use crate::model::limits::{CONNECTION_CREDIT_BYTES, CONNECTION_CREDITS, OUTBOX_BYTES_MAX};
use crate::model::{ClientId, Name};
use crate::net::Decoder;

use super::addresses::Place;
use super::allowance::Allowance;
use super::event::{Arrival, ConnId};
use super::http::Exchange;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The request head is coming.
    Head,
    /// Its body is coming.
    Body,
    /// The request was taken; its answer is being made.
    Answering,
    /// A WebSocket that speaks the protocol.
    Open,
    /// Server-sent events are asked for: the room is being joined.
    Joining,
    /// Server-sent events are sent.
    Events,
    /// A WebSocket that echoes.
    Echo,
    /// Draining: nothing more is read, what was taken is being answered, then it is closed.
    Leaving,
    /// The last bytes are on their way; what comes is thrown away.
    Closing,
}

impl Phase {
    /// Whether the connection is HTTP, and goes on.
    pub(super) fn is_http(self) -> bool {
        matches!(
            self,
            Self::Head | Self::Body | Self::Answering | Self::Joining
        )
    }

    /// Whether it may be a member of rooms, or become one.
    pub(super) fn may_join(self) -> bool {
        matches!(
            self,
            Self::Open | Self::Leaving | Self::Joining | Self::Events
        )
    }

    /// Whether what is sent in rooms goes to it.
    pub(super) fn hears(self) -> bool {
        matches!(self, Self::Open | Self::Leaving | Self::Events)
    }
}

/// A room that the connection has joined, or is joining.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) room: RoomKey,
    /// The member's place in the room, once it has joined.
    pub(super) place: Option<u32>,
    /// Which join it came, or is to come, from; 0: none, it is in its personal room by itself.
    pub(super) ticket: u32,
    /// Whether the first join with this ticket is answered: then its end is to be told to the home
    /// shard. Until then the answer finds out that it has left. (One that repeats it may be
    /// answered first, while the past is read for the other.)
    pub(super) counts: bool,
    /// The name in this room, if it is another than the connection's.
    pub(super) username: Option<Box<Name>>,
}

impl Membership {
    /// Whether it was not asked for.
    pub(super) fn is_implicit(&self) -> bool {
        self.ticket == 0
    }
}

/// Bytes that were read and not acted on.
#[derive(Debug, Default)]
pub(super) struct Stash(pub(super) Vec<u8>);

/// Bytes that wait for the socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) phase: Phase,
    /// Whether it is one too many, and may not become a WebSocket.
    pub(super) crowded: bool,
    /// The client's address; as long as it is HTTP its peer's, which may be a proxy.
    pub(super) address: IpAddr,
    /// Whether the socket takes no more for now.
    pub(super) blocked: bool,
    /// Whether it stands in the list of those with an outbox to flush.
    pub(super) queued: bool,
    /// Whether reading is paused.
    pub(super) paused: bool,
    /// Whether it stands in the list of those whose stash waits to be read on.
    pub(super) resuming: bool,
    /// Whether it was pinged since the last byte.
    pub(super) pinged: bool,
    /// Whether a request was answered, and another may come.
    pub(super) is_reused: bool,
    /// Whether the sending direction was ended.
    pub(super) shut: bool,
    /// Whether the peer has said that it closes, so that nothing more is awaited from it.
    pub(super) peer_closed: bool,
    /// The form in which it takes the frames of rooms.
    pub(super) encoding: Encoding,
    pub(super) generation: u32,
    pub(super) client_id: ClientId,
    pub(super) user_id: Name,
    pub(super) username: Option<Box<Name>>,
    /// What its token says; `None`: tokens are not taken.
    pub(super) claims: Option<Box<Claims>>,
    pub(super) decoder: Decoder,
    /// The unfinished head, or what was read but has no credit or turn yet.
    pub(super) stash: Option<Box<Stash>>,
    pub(super) outbox: Option<Box<Outbox>>,
    /// The HTTP request that is not answered yet.
    pub(super) exchange: Option<Box<Exchange>>,
    /// Most join one room, and its place is here.
    pub(super) memberships: SmallVec<[Membership; 1]>,
    pub(super) in_flight: u32,
    pub(super) credit_used: u32,
    pub(super) tickets: u32,
    /// What it may still send.
    pub(super) allowance: Allowance,
    /// Where its address is counted, if it is.
    pub(super) place: Option<Place>,
    /// When the last byte came, in ms.
    pub(super) heard_ms: u64,
    /// When the socket last took a byte, while it is blocked.
    pub(super) progress_ms: u64,
    /// When the phase ends by itself.
    pub(super) deadline_ms: u64,
}

impl Conn {
    pub(super) fn new(
        generation: u32,
        arrival: Arrival,
        client_id: ClientId,
        now_ms: u64,
        head_ms: u64,
    ) -> Self {
        Self {
            phase: Phase::Head,
            crowded: arrival.crowded,
            address: arrival.peer,
            blocked: false,
            queued: false,
            paused: false,
            resuming: false,
            pinged: false,
            is_reused: false,
            shut: false,
            peer_closed: false,
            encoding: Encoding::Plain,
            generation,
            client_id,
            user_id: client_id.as_str().into(),
            username: None,
            claims: None,
            decoder: Decoder::default(),
            stash: None,
            outbox: None,
            exchange: None,
            memberships: SmallVec::new(),
            in_flight: 0,
            credit_used: 0,
            tickets: 0,
            allowance: Allowance::new(now_ms),
            place: None,
            heard_ms: now_ms,
            progress_ms: now_ms,
            deadline_ms: now_ms + head_ms,
        }
    }

    pub(super) fn id(&self, index: ConnIndex) -> ConnId {
        ConnId {
            index,
            generation: self.generation,
        }
    }

    /// Whether one more request may be let in.
    pub(super) fn has_credit(&self) -> bool {
        self.in_flight < CONNECTION_CREDITS
            && (self.credit_used as usize) < CONNECTION_CREDIT_BYTES
            && self.outbox_bytes() < OUTBOX_BYTES_MAX
    }

    /// Bytes that wait for the socket.
    pub(super) fn outbox_bytes(&self) -> usize {
        self.outbox
            .as_ref()
            .map_or(0, |outbox| outbox.bytes.len() - outbox.sent)
    }

    /// Where bytes for this connection alone are written to.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.outbox.get_or_insert_default().bytes
    }

    /// The name in a room.
    pub(super) fn name_in(&self, room: Option<RoomKey>) -> Option<&Name> {
        let here = room.and_then(|room| self.memberships.iter().find(|m| m.room == room));
        here.and_then(|m| m.username.as_deref())
            .or(self.username.as_deref())
    }

    pub(super) fn membership(&self, room: RoomKey) -> Option<&Membership> {
        self.memberships
            .iter()
            .find(|membership| membership.room == room)
    }
}

// What an idle connection costs, in one step of the allocator's: the next one is 256.
const _: () = assert!(size_of::<Conn>() <= 224);
