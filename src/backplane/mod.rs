//! What orders and keeps the publications of a home shard's rooms.
//!
//! Two siblings of equal rank behind one interface, [`Backplane`]: [`Embedded`] for an instance
//! that runs alone, [`redis`] for a cluster. No other code asks which it is.
//!
//! ```text
//! open, publish, read … ─▶ Backplane ─▶ Ask     (to the store, to Redis, to the spool)
//! Outcome               ◀─ Backplane ◀─ Answer  (from them)
//! ```
//!
//! Calls return nothing: what comes of them is an [`Outcome`], what is needed for it an [`Ask`],
//! both taken by [`Backplane::poll`], in order.
//!
//! Guarantees, whichever it is:
//! - [`Outcome::Deliver`]s of one room come in the order of their offsets, which rise by one within
//!   an epoch, unless an [`Outcome::Lost`] says otherwise;
//! - a `Deliver`, and an [`Outcome::Stored`], come only once the publication is stored (with
//!   `--store memory`: accepted), so nothing that anybody was shown can come again under another
//!   offset;
//! - every [`Publish`] gets exactly one `Stored` or [`Outcome::Refused`], every
//!   [`Backplane::open`] one [`Outcome::Opened`], every [`Backplane::read`] one [`Outcome::Page`],
//!   every [`Backplane::resume`] one [`Outcome::Resumed`], and so have [`Backplane::ends`] and
//!   [`Backplane::rooms`];
//! - an `Opened` stands in the room's order: the first `Deliver` behind it is the next offset;
//! - one publisher's messages to one room keep their order;
//! - an id that a client supplied makes no second publication within the dedupe window.

mod ask;
mod embedded;
pub mod history;
pub mod link;
pub mod redis;
mod remembered;
mod resumes;

use bytes::Bytes;

pub use ask::{Answer, Ask, CommitFailure, StoreReply, StoreRequest};
pub use embedded::Embedded;
pub use redis::{Partition, Report};
pub use remembered::Remembered;
pub use resumes::{Resumed, Whole};

use history::{EpochEnds, RoomsQuery, StoredRoom};
use link::Link;

use crate::model::{Epoch, ErrorCode, MessageId, Name, Position, Publication, RoomName, Timestamp};

/// How a publication is written as the `message` frame for clients, as JSON text. Given by whoever
/// makes the backplane, since frames are `protocol`'s.
pub type Encode = fn(&mut Vec<u8>, &Publication);

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
    /// Whether the publisher gets the message too; if not, it is named by the [`Outcome::Deliver`].
    pub echo: bool,
    /// When it came, in microseconds since the process began.
    pub arrived_us: u64,
}

/// When a publication began its way, as far as that is known where it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It came in here, so many microseconds after the process began.
    Here(u64),
    /// It came in on another instance, or an hour ago; by the clock of that one.
    Elsewhere(Timestamp),
    /// It is read again, and not for the first time.
    Unknown,
}

/// What has come of what was asked; `T` is what a publisher is found by.
#[derive(Debug)]
pub enum Outcome<T> {
    /// A room is open: where it stands.
    Opened {
        /// The room.
        room: RoomName,
        /// Its last offset, or why it can't be had.
        result: Result<Position, String>,
    },
    /// A publish is stored: ack it.
    Stored {
        /// The room.
        room: RoomName,
        /// Its id.
        id: MessageId,
        /// Its offset, or that of the first one with the same id.
        offset: u64,
        /// Whether the same id was published before.
        is_repeat: bool,
        /// Whose it is.
        origin: T,
    },
    /// A publish is not stored, and nobody saw it.
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
    /// The next publication of a room, for all its members.
    Deliver {
        /// The room; it need not be open.
        room: RoomName,
        /// Its epoch.
        epoch: Epoch,
        /// Its offset.
        offset: u64,
        /// The frame for clients, as JSON text.
        json: Bytes,
        /// The publisher, if it is one of ours and does not want it.
        skip: Option<T>,
        /// When it began its way.
        begun: Begun,
    },
    /// What was read of the past: from the offset that was asked for or, if that can't be had any
    /// more, from the first behind it that can; offset and frame, as JSON text. No hole is in it.
    Page {
        /// The room.
        room: RoomName,
        /// The epoch.
        epoch: Epoch,
        /// The offset that was asked for.
        from: u64,
        /// The page, or why there is none now.
        page: Result<Vec<(u64, Bytes)>, String>,
    },
    /// Whether all of a room from an offset on can be had.
    Resumed(Resumed),
    /// How far an epoch of a room goes, as far as it is stored, or why that can't be told now.
    Ends(RoomName, Epoch, Result<EpochEnds, String>),
    /// Rooms of which something is stored or that somebody is in elsewhere, or why that can't be
    /// told now.
    Rooms(RoomsQuery, Result<Vec<StoredRoom>, String>),
    /// Publications of a room that nobody can have any more: the next one is `next`.
    Lost {
        /// The room.
        room: RoomName,
        /// Its epoch.
        epoch: Epoch,
        /// The first offset that can still come.
        next: u64,
    },
    /// The offsets of all rooms begin anew: what was behind the last [`Outcome::Deliver`] of the
    /// old epoch was lost.
    Epoch(Epoch),
    /// A publish is held until Redis is back; it is answered later. Given at most once for each.
    Held {
        /// What can be shown of it meanwhile.
        preview: Preview,
        /// Whose it is.
        origin: T,
    },
    /// A frame that is kept for nobody, from another instance or a foreign writer.
    Passing {
        /// The room; none: for everybody.
        room: Option<RoomName>,
        /// The frame for clients, as JSON text.
        json: Bytes,
    },
    /// What orders and keeps was lost (why), or is there again.
    Degraded(Option<String>),
    /// A user came into a room on another instance, or is on none of the others any more.
    Presence {
        /// The room.
        room: RoomName,
        /// Who.
        user_id: Name,
        /// Under what name.
        username: Option<Name>,
        /// Whether it came.
        is_join: bool,
    },
    /// The connections of a user are to be closed.
    Kick(Name),
}

/// What can be shown of a message that is held.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The room.
    pub room: RoomName,
    /// The id that it will have.
    pub id: MessageId,
    /// Who publishes.
    pub user_id: Name,
    /// Under what name.
    pub username: Option<Name>,
    /// JSON text.
    pub payload: Bytes,
    /// When it was taken.
    pub sent_at: Timestamp,
}

/// Users of a room: their names, and on how many instances they are.
pub type Users<'a> = Box<dyn Iterator<Item = (&'a Name, Option<&'a Name>, u32)> + 'a>;

/// What time it is, and chance.
pub struct Moment<'a> {
    /// The wall clock.
    pub wall: Timestamp,
    /// Milliseconds since the process began; never falls.
    pub ms: u64,
    /// Chance.
    pub rng: &'a mut fastrand::Rng,
}

impl Moment<'_> {
    /// A new id for a publication: a UUIDv7.
    pub fn new_id(&mut self) -> MessageId {
        let mut random = [0; 10];
        self.rng.fill(&mut random);
        uuid::Builder::from_unix_timestamp_millis(self.wall.0, &random).into_uuid()
    }
}

/// See the module.
#[derive(Debug)]
pub enum Backplane<T> {
    /// Alone.
    Embedded(Box<Embedded<T>>),
    /// Of a cluster.
    Redis(Box<Partition<T>>),
}

/// Appends all there is to `to`; if that is empty the two are exchanged, and each keeps its room.
fn give<T>(from: &mut Vec<T>, to: &mut Vec<T>) {
    match to.is_empty() {
        true => std::mem::swap(from, to),
        false => to.append(from),
    }
}

/// What a publish is found by.
pub trait Origin: Clone + std::fmt::Debug {
    /// [`Outcome::Held`] was told of it.
    fn hold(&mut self);
}

impl<T: Origin> Backplane<T> {
    /// Begins to follow a room; what is published in it is delivered from then on. Answered by
    /// [`Outcome::Opened`].
    pub fn open(&mut self, moment: &mut Moment<'_>, room: &RoomName) {
        match self {
            Self::Embedded(embedded) => embedded.open(moment, room),
            Self::Redis(partition) => partition.open(room),
        }
    }

    /// Follows a room no more; no publish of it may be without an outcome.
    pub fn close(&mut self, room: &RoomName) {
        match self {
            Self::Embedded(embedded) => embedded.close(room),
            Self::Redis(partition) => partition.close(room),
        }
    }

    /// Takes a message for a room that is open or being opened. Answered by [`Outcome::Stored`] or
    /// [`Outcome::Refused`].
    pub fn publish(&mut self, moment: &mut Moment<'_>, publish: Publish, origin: T) {
        match self {
            Self::Embedded(embedded) => embedded.publish(publish, origin),
            Self::Redis(partition) => partition.publish(moment, publish, origin),
        }
    }

    /// Reads the past of a room from an offset on. Answered by [`Outcome::Page`]. The epoch may be
    /// an older one than the room's.
    pub fn read(&mut self, room: &RoomName, epoch: Epoch, from: u64) {
        match self {
            Self::Embedded(embedded) => embedded.read(room, epoch, from),
            Self::Redis(partition) => partition.read(room, epoch, from),
        }
    }

    /// Asks whether all of a room from an offset on can be had; it asks the same but once at a
    /// time. From `kept` on it is in the caller's memory. Answered by [`Outcome::Resumed`].
    pub fn resume(&mut self, room: &RoomName, epoch: Epoch, from: u64, kept: u64) {
        match self {
            Self::Embedded(embedded) => embedded.resume(room, epoch, from, kept),
            Self::Redis(partition) => partition.resume(room, epoch, from, kept),
        }
    }

    /// Asks how far an epoch of a room goes. Answered by [`Outcome::Ends`].
    pub fn ends(&mut self, room: &RoomName, epoch: Epoch) {
        match self {
            Self::Embedded(embedded) => embedded.ends(room, epoch),
            Self::Redis(partition) => partition.ends(room, epoch),
        }
    }

    /// Asks of which rooms something is stored, and in which somebody is elsewhere. Answered by
    /// [`Outcome::Rooms`].
    pub fn rooms(&mut self, query: RoomsQuery) {
        match self {
            Self::Embedded(embedded) => embedded.rooms(query),
            Self::Redis(partition) => partition.rooms(query),
        }
    }

    /// Hands over what was published: done once a turn, and not while what it would bring to be
    /// delivered has no room.
    pub fn drive(&mut self, moment: &mut Moment<'_>) {
        match self {
            Self::Embedded(embedded) => embedded.drive(moment),
            Self::Redis(partition) => partition.drive(moment),
        }
    }

    /// An [`Ask`] is answered.
    pub fn on_answer(&mut self, moment: &mut Moment<'_>, answer: Answer) {
        match (self, answer) {
            (Self::Embedded(embedded), Answer::Store(reply)) => embedded.on_store(reply),
            (Self::Redis(partition), Answer::Link(event)) => partition.on_link(moment, event),
            (Self::Redis(partition), Answer::Spool(event)) => partition.on_spool(moment, event),
            (Self::Redis(partition), Answer::History(reply)) => partition.on_history(moment, reply),
            (_, answer) => debug_assert!(false, "nobody asked for {answer:?}"),
        }
    }

    /// Takes what has come of it all, and what is asked for.
    pub fn poll(&mut self, outcomes: &mut Vec<Outcome<T>>, asks: &mut Vec<Ask>) {
        match self {
            Self::Embedded(embedded) => embedded.poll(outcomes, asks),
            Self::Redis(partition) => partition.poll(outcomes, asks),
        }
    }

    /// Passes a frame on to the members on other instances, if there are any; it may be lost.
    pub fn pass(&mut self, ms: u64, json: &[u8]) {
        match self {
            Self::Embedded(_) => {}
            Self::Redis(partition) => partition.pass(ms, json),
        }
    }

    /// A user's first connection here has joined a room, or goes on under another name.
    pub fn user_joined(&mut self, ms: u64, room: &RoomName, id: &Name, name: Option<&Name>) {
        match self {
            Self::Embedded(_) => {}
            Self::Redis(partition) => partition.user_joined(ms, room, id, name),
        }
    }

    /// A user's last connection here has left a room.
    pub fn user_left(&mut self, ms: u64, room: &RoomName, user_id: &Name) {
        match self {
            Self::Embedded(_) => {}
            Self::Redis(partition) => partition.user_left(ms, room, user_id),
        }
    }

    /// The users that a room has on other instances, with their names, and on how many they are.
    pub fn users_elsewhere<'a>(&'a self, room: &'a RoomName) -> Users<'a> {
        match self {
            Self::Embedded(_) => Box::new(std::iter::empty()),
            Self::Redis(partition) => partition.users_elsewhere(room),
        }
    }

    /// The epoch of what was stored last, as far as that is known for all rooms at once.
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Embedded(_) => None,
            Self::Redis(partition) => partition.epoch(),
        }
    }

    /// On how many other instances a user is in a room.
    pub fn instances_of(&self, room: &RoomName, user_id: &Name) -> u32 {
        match self {
            Self::Embedded(_) => 0,
            Self::Redis(partition) => partition.instances_of(room, user_id),
        }
    }

    /// Whether a user is in a room on another instance.
    pub fn is_elsewhere(&self, room: &RoomName, user_id: &Name) -> bool {
        match self {
            Self::Embedded(_) => false,
            Self::Redis(partition) => partition.is_elsewhere(room, user_id),
        }
    }

    /// Has the other instances close a user's connections.
    pub fn kick(&mut self, user_id: &Name) {
        match self {
            Self::Embedded(_) => {}
            Self::Redis(partition) => partition.kick(user_id),
        }
    }

    /// Time has passed; comes some ten times a second.
    pub fn tick(&mut self, moment: &mut Moment<'_>) {
        match self {
            Self::Embedded(_) => {}
            Self::Redis(partition) => partition.tick(moment),
        }
    }

    /// Whether that connection to Redis is to be read: not while more has come than can be used.
    pub fn wants_link(&self, link: Link) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::Redis(partition) => partition.wants_link(link),
        }
    }

    /// This instance ends: nobody is connected any more.
    pub fn bye(&mut self, ms: u64) {
        match self {
            Self::Embedded(_) => {}
            Self::Redis(partition) => partition.bye(ms),
        }
    }

    /// How it stands with Redis; alone all is 0.
    pub fn report(&self) -> Report {
        match self {
            Self::Embedded(_) => Report::default(),
            Self::Redis(partition) => partition.report(),
        }
    }

    /// Whether [`Backplane::drive`] has something to hand over.
    pub fn is_waiting(&self) -> bool {
        match self {
            Self::Embedded(embedded) => embedded.is_waiting(),
            Self::Redis(partition) => partition.is_waiting(),
        }
    }

    /// An id that an earlier run remembered.
    pub fn remember(&mut self, at: Timestamp, room: &RoomName, id: MessageId, offset: u64) {
        match self {
            Self::Embedded(embedded) => embedded.remember(at, room, id, offset),
            // Redis remembers them itself.
            Self::Redis(_) => {}
        }
    }
}
