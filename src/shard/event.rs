//! All that can happen to a shard, and all that it can ask for.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;

use super::addresses::AddressKey;
use super::{HistoryRequest, Listing};
use crate::access::{Access, Caller, Claims};
use crate::backplane::history::RoomsQuery;
use crate::backplane::{Answer, Ask, Begun};
use crate::hub::{Chunk, ConnIndex};
use crate::model::{ClientId, Epoch, ErrorCode, MessageId, Name, RoomName, Timestamp};
use crate::net::Response;
use crate::protocol::command::Since;

/// The number of a shard of this instance.
pub type ShardId = u16;

/// A connection, in mail: its number on its shard, and which of that number's lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// The number.
    pub index: ConnIndex,
    /// Counts the connections that had the number.
    pub generation: u32,
}

/// What time it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Milliseconds since the process began; never falls.
    pub ms: u64,
    /// The same in microseconds.
    pub us: u64,
    /// The wall clock.
    pub wall: Timestamp,
}

/// All that can happen to a shard.
#[derive(Debug)]
pub enum Event<'a> {
    /// A connection was accepted under this number, which is free.
    Accepted(ConnIndex, Arrival),
    /// Bytes came. They may be changed (unmasked) in place.
    Bytes(ConnIndex, &'a mut [u8]),
    /// The connection broke, or nobody has an interest in it any more.
    Ended(ConnIndex),
    /// The peer sends nothing more; it may still take what it has asked for.
    HalfClosed(ConnIndex),
    /// The socket takes bytes again.
    Writable(ConnIndex),
    /// The answer to an [`Effect::Answer`].
    Answered(ConnId, Response),
    /// Another shard has sent mail.
    Mail(ShardId, Mail),
    /// What the backplane asked for is answered.
    Backplane(Answer),
    /// Time has passed; comes some ten times a second.
    Tick,
    /// From now on this is taken as proof of who somebody is. Who is here stays.
    Access(Arc<Access>),
    /// Stop: tell the clients, let them go over so many milliseconds.
    Drain(u64),
}

/// What is known of a connection before it has sent anything.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// It is one too many, and may ask for a page but not for a WebSocket.
    pub crowded: bool,
    /// Who is at its other end: the client, or a proxy.
    pub peer: IpAddr,
}

/// One from this machine.
impl Default for Arrival {
    fn default() -> Self {
        Self {
            crowded: false,
            peer: Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// All that a shard can ask for.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Say [`Event::Writable`] once the socket takes bytes.
    AwaitWritable(ConnIndex),
    /// Read from the connection again (it had said that it does not want to).
    ResumeRead(ConnIndex),
    /// Send nothing more: end the sending direction.
    ShutdownWrite(ConnIndex),
    /// Close the connection for good; [`Event::Ended`] does not come for it any more.
    Close(ConnIndex),
    /// Answer this HTTP request.
    Answer(ConnId, Page),
    /// Messages of this address are refused, which counts all of its connections: for the log.
    Limited(IpAddr),
    /// A client has opened a WebSocket, from this address: for the log.
    Opened(ClientId, IpAddr),
    /// A connection from this address is refused, and why, with words of its own: for the log.
    Refused(IpAddr, String),
    /// The backplane asks for something.
    Backplane(Ask),
}

/// What HTTP can ask of the instance, beyond the upgrades.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// A file of the web page.
    File {
        /// Its path.
        path: &'static str,
        /// What the client has of it: the value of its `If-None-Match`.
        known: Option<Box<str>>,
    },
    /// `GET /health`
    Health,
    /// `GET /ready`
    Ready,
    /// `GET /metrics`
    Metrics,
}

/// What one shard sends another.
#[derive(Debug)]
pub enum Mail {
    /// To the home shard of a room.
    Request(Request),
    /// From it: the answer, for one connection.
    Reply(Reply),
    /// From it: a publication, for the members of a room.
    Deliver(Delivery),
    /// From it: publications that can't be delivered any more.
    Lost(Lost),
    /// From it: the offsets of a room begin anew.
    Restart {
        /// The room.
        room: RoomName,
        /// The new epoch.
        epoch: Epoch,
        /// Users in the room.
        members: u64,
    },
    /// A frame for everybody who is connected.
    Announce(Bytes),
    /// What orders and keeps was lost (why), or is there again.
    Degraded(Option<Arc<str>>),
    /// Which rooms there are; answered by [`Mail::Listing`].
    ListRooms(RoomsQuery),
    /// The answer to [`Mail::ListRooms`].
    Listing(Listing),
    /// Between an address' home and a shard that has connections of it.
    Address(AddressMail),
    /// Close the connections of a user; `true`: have the other instances close them too.
    Kick(Name, bool),
    /// From the home shard: a frame that is kept for nobody.
    Whisper {
        /// The room.
        room: RoomName,
        /// Whether only those get it who asked for presence.
        presence: bool,
        /// The frame.
        frame: Bytes,
    },
}

/// What an address' home and other shards tell each other.
#[derive(Debug)]
pub enum AddressMail {
    /// To its home: so many messages were taken; answered by [`AddressMail::Level`].
    Used {
        /// The address.
        key: AddressKey,
        /// How many.
        messages: u32,
    },
    /// From its home: when all that was taken on all shards is worked off.
    Level {
        /// The address.
        key: AddressKey,
        /// In ns of the shards' clock.
        level_ns: u64,
    },
    /// To its home: may one more be? Answered by [`AddressMail::Entered`].
    Enter {
        /// The address.
        key: AddressKey,
        /// Whose.
        conn: ConnId,
        /// What it asks for, which comes back.
        entrant: Entrant,
    },
    /// From its home: what was asked for, if it may be, and then it is counted.
    Entered {
        /// The address.
        key: AddressKey,
        /// Whose.
        conn: ConnId,
        /// What it has asked for.
        entrant: Option<Entrant>,
    },
    /// To its home: one that was counted is gone.
    Exit(AddressKey),
}

/// What counts as a connection of its address, once it is let in.
#[derive(Debug)]
pub enum Entrant {
    /// A WebSocket.
    Socket(Box<Opening>),
    /// A room as server-sent events.
    Stream(Box<Following>),
}

/// A room that is to be followed as server-sent events.
#[derive(Debug)]
pub struct Following {
    /// The room.
    pub room: RoomName,
    /// Where the client left off, if it comes back.
    pub since: Option<Since>,
    /// Who it is.
    pub caller: Caller,
}

/// An upgrade to a WebSocket that speaks the protocol.
#[derive(Debug)]
pub struct Opening {
    /// The answer to the handshake.
    pub answer: Vec<u8>,
    /// Whether the answer agrees to permessage-deflate.
    pub deflates: bool,
    /// The user's name, if it gave one.
    pub username: Option<Name>,
    /// A room to join at once.
    pub room: Option<RoomName>,
    /// What its token says, where clients show one.
    pub claims: Option<Box<Claims>>,
}

/// What a shard asks the home shard of a room.
#[derive(Debug)]
pub enum Request {
    /// Join; answered by [`Reply::Joined`] or [`Reply::Refused`].
    Join(Join),
    /// A member has left, or its join is no longer wanted. Not answered.
    Leave(Leave),
    /// Publish; answered by [`Reply::Published`] or [`Reply::Refused`].
    Publish(Box<PublishRequest>),
    /// A signal for the members on other shards. Not answered; dropped if there is no room for it.
    Signal {
        /// The room.
        room: RoomName,
        /// The frame.
        frame: Bytes,
    },
    /// Who is there; answered by [`Reply::Frame`].
    Members {
        /// The room.
        room: RoomName,
        /// For whom.
        asker: Asker,
    },
    /// Who is there, over HTTP; answered by [`Reply::Http`].
    MembersPage {
        /// The room.
        room: RoomName,
        /// For whom.
        conn: ConnId,
    },
    /// History over HTTP; answered by [`Reply::Http`].
    History(HistoryRequest),
    /// A page of the past from an offset on; answered by [`Reply::Page`].
    Page {
        /// The room.
        room: RoomName,
        /// The first offset.
        from: u64,
    },
}

/// Who asked, and how it will know the answer.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The connection.
    pub conn: ConnId,
    /// The frame's `ref`, as JSON text.
    pub reference: Option<Box<str>>,
    /// Bytes of credit that the request took and the answer gives back.
    pub credit: u32,
    /// Whether the shard's part of it was given back before.
    pub held: bool,
}

/// See [`Request::Join`].
#[derive(Clone, Debug)]
pub struct Join {
    /// The room.
    pub room: RoomName,
    /// For whom.
    pub asker: Asker,
    /// Which join of the connection's it is.
    pub ticket: u32,
    /// Who joins.
    pub user_id: Name,
    /// Under what name.
    pub username: Option<Name>,
    /// The client's last position: its epoch, if that is one of ours, and offset.
    pub since: Option<(Option<Epoch>, u64)>,
    /// Whether the member wants presence events.
    pub presence: bool,
    /// Whether the connection is a member already.
    pub again: bool,
}

/// See [`Request::Leave`].
#[derive(Clone, Debug)]
pub struct Leave {
    /// The room.
    pub room: RoomName,
    /// Who leaves.
    pub user_id: Name,
    /// Which connection of that shard's, and which join of it is undone.
    pub conn: ConnId,
    /// See `conn`.
    pub ticket: u32,
    /// Whether the shard has no use for the room any more.
    pub last: bool,
}

/// See [`Request::Publish`].
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// For whom.
    pub asker: Asker,
    /// What is published.
    pub publish: crate::backplane::Publish,
}

/// What the home shard answers.
#[derive(Debug)]
pub enum Reply {
    /// The connection has joined.
    Joined(Joined),
    /// The publish is stored.
    Published {
        /// Whose.
        asker: Asker,
        /// The room.
        room: RoomName,
        /// Its id.
        id: MessageId,
        /// Its offset.
        offset: u64,
        /// The epoch of now.
        epoch: Option<Epoch>,
        /// Whether the message itself comes too.
        echo: bool,
    },
    /// The publish is held, and answered later: it takes no credit of the shard's any more.
    Held(Asker),
    /// A join or publish was refused.
    Refused {
        /// Whose.
        asker: Asker,
        /// If it is a join that is refused.
        join: Option<RefusedJoin>,
        /// The room.
        room: RoomName,
        /// Why, as a code.
        code: ErrorCode,
        /// Why, in words.
        why: String,
    },
    /// A whole frame for the connection.
    Frame {
        /// Whose.
        asker: Asker,
        /// The frame.
        frame: Bytes,
    },
    /// A whole HTTP response.
    Http {
        /// Whose.
        conn: ConnId,
        /// The response.
        response: Response,
    },
    /// A page of the past, or the first offset that can be had.
    Page {
        /// The room.
        room: RoomName,
        /// The offset that was asked for.
        from: u64,
        /// The page; it begins at that offset.
        page: Result<Arc<Chunk>, u64>,
    },
}

/// See [`Reply::Refused`].
#[derive(Debug)]
pub struct RefusedJoin {
    /// Its ticket.
    pub ticket: u32,
    /// Whether the connection was a member already.
    pub again: bool,
    /// The user, if the home shard has counted the member: it is to be told that it leaves.
    pub counted: Option<Name>,
}

/// See [`Reply::Joined`].
#[derive(Debug)]
pub struct Joined {
    /// The join.
    pub join: Join,
    /// The room's epoch.
    pub epoch: Epoch,
    /// The newest offset, as of this place in the room's order.
    pub newest: u64,
    /// If `since` was sent: whether all after it follows.
    pub recovered: Option<bool>,
    /// Users in the room.
    pub members: u64,
    /// If the past had to be read: what follows on `since`.
    pub page: Option<Arc<Chunk>>,
}

/// See [`Mail::Deliver`].
#[derive(Debug)]
pub struct Delivery {
    /// The room.
    pub room: RoomName,
    /// Its epoch.
    pub epoch: Epoch,
    /// The publication's offset.
    pub offset: u64,
    /// The frame, encoded once for all.
    pub frame: Bytes,
    /// The publisher, if it does not get the message and is on the shard that gets this mail.
    pub skip: Option<ConnId>,
    /// When it began its way.
    pub begun: Begun,
}

/// See [`Mail::Lost`]: the offsets from `from` on, below `next`.
#[derive(Debug)]
pub struct Lost {
    /// The room.
    pub room: RoomName,
    /// Its epoch.
    pub epoch: Epoch,
    /// The first offset that was to be delivered.
    pub from: u64,
    /// The first one that still will be.
    pub next: u64,
}
