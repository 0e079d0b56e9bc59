//! One shard: its connections, its rooms, and the home of its share of the rooms.
//!
//! A synchronous state machine. [`Shard::handle`] takes what happened; [`Shard::turn_end`] does
//! what is done once for all that came; [`Shard::sweep`] sends. Whoever drives it (`runtime/`)
//! performs the [`Effect`]s and carries the mail ([`Shard::carry`]). Nothing here waits, locks or
//! looks at a clock.
//!
//! ```text
//! bytes ─▶ edge ─▶ commands ─▶ request ─▶ home (here or by mail) ─▶ backplane
//!                                                                     │ outcomes
//! sockets ◀─ sweep ◀─ hub (room logs) ◀─ deliver (here or by mail) ◀──┘─▶ replies ─▶ outboxes
//! ```
//!
//! Invariants: every request that takes credit gets one reply; a connection that has no credit, or
//! whose outbox is full, is not read; mail from a home shard arrives in the order in which it was
//! posted, so a `joined` and the frames after it agree.

mod access;
mod addresses;
mod allowance;
mod cluster;
mod commands;
mod connection;
mod connections;
mod counters;
mod deflate;
mod deliver;
mod edge;
mod event;
mod history;
mod home;
mod http;
mod lanes;
mod latency;
mod leaving;
mod limited;
mod linger;
mod listing;
mod members;
mod options;
mod outlet;
mod pages;
mod replies;
#[cfg(test)]
mod tests;
mod tick;
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

pub use allowance::Rates;
pub use counters::{CELLS, CLOSE_CODES, Counters, ERROR_CODES};
pub use event::*;
pub use history::HistoryRequest;
pub use http::ROUTES;
pub use listing::{Listed, Listing};
pub use options::{Keeping, Options, SlowConsumer};
pub use outlet::{Gone, Socket};

use addresses::Addresses;
use connection::{Conn, Phase};
use deflate::{Echo, Forms};
use home::{Home, Origin};
use lanes::Lanes;

use crate::access::Access;
use crate::backplane::link::Link;
use crate::backplane::{Ask, Backplane, Embedded, Outcome, Partition, Remembered};
use crate::hub::{ConnIndex, Encoding, Hub, RoomKey};
use crate::model::limits::{
    REMEMBERED_IDS_MAX, SHARD_CREDIT_BYTES, SHARD_CREDITS, SWEEP_SENDS_MAX,
};
use crate::model::{MessageId, RoomName, Timestamp};
use crate::net::deflate::Inflater;
use crate::protocol::event::message;

/// Requests to one other shard that are not answered yet.
#[derive(Clone, Copy, Debug, Default)]
struct Outstanding {
    requests: u32,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    options: Arc<Options>,
    access: Arc<Access>,
    now: Now,
    rng: fastrand::Rng,
    hub: Hub,
    conns: Vec<Option<Box<Conn>>>,
    generations: Vec<u32>,
    /// Which connections can be sent to without a look at them: open, not blocked, nothing in the
    /// outbox. Becomes true only when an outbox was flushed; false wherever one of these ends.
    plain: Vec<bool>,
    /// Open connections by user id.
    users: HashTable<ConnIndex>,
    hasher: DefaultHashBuilder,
    /// Connections with an outbox to flush.
    flush: Vec<ConnIndex>,
    /// Connections that are not read for want of credit.
    stalled: Vec<ConnIndex>,
    lanes: Lanes,
    /// What came from each address.
    addresses: Addresses,
    /// When it may be said again that an address is limited.
    warn_again_ms: u64,
    /// Lists of rooms that are gathered.
    listings: listing::Listings,
    outstanding: Vec<Outstanding>,
    home: Home,
    effects: Vec<Effect>,
    /// Empty; their room is used again.
    outcomes: Vec<Outcome<Origin>>,
    asks: Vec<Ask>,
    scratch: Vec<u8>,
    /// Inflates what comes to `/ws`, for all connections.
    inflater: Inflater,
    /// Connections to `/echo` that deflate.
    echoes: HashMap<ConnIndex, Box<Echo>>,
    tick_at: usize,
    draining: bool,
    /// Why the backplane is away, if it is.
    degraded: Option<Arc<str>>,
    /// What is being swept, and when it began its way.
    timed: Vec<latency::Timed>,
    counters: Counters,
}

impl Shard {
    /// A shard without connections. `seed`: of its randomness (ids, spreads).
    pub fn new(id: ShardId, options: Arc<Options>, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let backplane = backplane_of(id, &options, &mut rng);
        Self {
            id,
            now: Now::default(),
            rng,
            hub: Hub::with_encode(options.log_bytes_max, Box::new(Forms::default())),
            conns: Vec::new(),
            generations: Vec::new(),
            plain: Vec::new(),
            users: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            flush: Vec::new(),
            stalled: Vec::new(),
            lanes: Lanes::new(options.shards, options.log_bytes_max / 4),
            addresses: Addresses::new(id, options.shards, &options.rates),
            warn_again_ms: 0,
            listings: listing::Listings::default(),
            outstanding: vec![Outstanding::default(); usize::from(options.shards)],
            home: Home::new(backplane),
            effects: Vec::new(),
            outcomes: Vec::new(),
            asks: Vec::new(),
            scratch: Vec::new(),
            inflater: Inflater::default(),
            echoes: HashMap::new(),
            tick_at: 0,
            draining: false,
            degraded: None,
            timed: Vec::new(),
            counters: Counters::default(),
            access: options.access.clone(),
            options,
        }
    }

    /// An id that an earlier run of the instance remembered, of a room whose home is here.
    pub fn remember(&mut self, at: Timestamp, room: &RoomName, id: MessageId, offset: u64) {
        self.home.backplane.remember(at, room, id, offset);
    }

    /// Takes one thing that happened; what it asks for is appended to `effects`.
    pub fn handle(&mut self, now: Now, event: Event<'_>, effects: &mut Vec<Effect>) {
        self.now = now;
        match event {
            Event::Accepted(index, arrival) => self.on_accepted(index, arrival),
            Event::Bytes(index, bytes) => self.on_bytes(index, bytes),
            Event::Ended(index) => self.remove(index),
            Event::HalfClosed(index) => self.on_half_closed(index),
            Event::Writable(index) => self.on_writable(index),
            Event::Answered(id, response) => self.on_answered(id, response),
            Event::Mail(from, mail) => self.on_mail(from, mail),
            Event::Backplane(answer) => self.on_answer(answer),
            Event::Tick => self.on_tick(),
            Event::Drain(window_ms) => self.on_drain(window_ms),
            Event::Access(access) => self.access = access,
        }
        self.poll_backplane();
        effects.append(&mut self.effects);
    }

    /// Ends a turn: what came in it is handed to the backplane at once, and connections that have
    /// credit again are read on.
    pub fn turn_end(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.now = now;
        self.resume_stalled();
        // What the logs could not keep until it was offered to all is not published yet.
        if !self.is_pressed() && !self.lanes.is_any_behind() {
            self.drive_backplane();
        }
        self.poll_backplane();
        effects.append(&mut self.effects);
    }

    /// Sends what is to be sent, for a bounded time. Returns whether there is more.
    pub fn sweep(&mut self, now: Now, socket: &mut impl Socket, effects: &mut Vec<Effect>) -> bool {
        self.now = now;
        let more = self.sweep_sends(socket, SWEEP_SENDS_MAX);
        // Pages of the past that members want.
        self.poll_backplane();
        effects.append(&mut self.effects);
        more
    }

    /// Whether another turn has something to hand over, though nothing else happens.
    pub fn wants_turn(&self) -> bool {
        self.home.backplane.is_waiting()
    }

    /// Whether to sweep before any more mail is taken.
    pub fn is_pressed(&self) -> bool {
        self.hub.is_pressed()
    }

    /// The address of a connection: its client's, or that of the proxy before it.
    pub fn address(&self, index: ConnIndex) -> Option<IpAddr> {
        self.conn(index).map(|conn| conn.address)
    }

    /// Whether the connection is still there.
    pub fn holds(&self, index: ConnIndex) -> bool {
        self.conn(index).is_some()
    }

    /// Whether the connection wants to be read.
    pub fn wants_read(&self, index: ConnIndex) -> bool {
        self.conn(index).is_some_and(|conn| !conn.paused)
    }

    /// Whether that connection to Redis wants to be read.
    pub fn wants_link(&self, link: Link) -> bool {
        self.home.backplane.wants_link(link)
    }

    /// Whether mail waits for another shard.
    pub fn has_mail(&self, to: ShardId) -> bool {
        to != self.id && self.lanes.is_waiting(to)
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        Counters {
            redis: self.home.backplane.report(),
            rooms: self.home.len() as u64,
            log_bytes: self.hub.log_bytes() as u64,
            delivered: self.hub.counters.delivered,
            replayed: self.hub.counters.replayed,
            gaps_slow: self.hub.counters.slow_gaps,
            gaps_lost: self.hub.counters.lost_gaps,
            signals_dropped: self.hub.counters.signals_dropped,
            ..self.counters
        }
    }

    /// Whether no connection is left.
    pub fn is_empty(&self) -> bool {
        self.counters.connections == 0
    }

    /// The instance ends, and no shard has a connection left.
    pub fn bye(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.now = now;
        self.home.backplane.bye(now.ms);
        self.poll_backplane();
        effects.append(&mut self.effects);
    }

    /// Checks what the module's doc says, and that of its rooms.
    pub fn invariants(&self) {
        self.hub.invariants();
        self.leaving_invariants();
        let placed = self
            .conns
            .iter()
            .flatten()
            .filter(|conn| conn.place.is_some());
        assert_eq!(
            self.addresses.users(),
            placed.count(),
            "addresses are counted"
        );
        let open = self.conns.iter().flatten().count() as u64;
        assert_eq!(open, self.counters.connections, "connections are counted");
        let members: usize = self.hub.rooms().map(|room| room.members().len()).sum();
        let joined = self
            .conns
            .iter()
            .flatten()
            .flat_map(|conn| &conn.memberships);
        let joined = joined
            .filter(|membership| membership.place.is_some())
            .count();
        assert_eq!(members, joined, "members and memberships agree");
        for (index, conn) in self.conns.iter().enumerate() {
            let Some(conn) = conn else { continue };
            let sendable = conn.phase.hears() && !conn.blocked && conn.outbox.is_none();
            assert!(
                sendable || !self.plain[index],
                "who is plain can be sent to"
            );
            for membership in &conn.memberships {
                let room = self.hub.room(membership.room).expect("its rooms are here");
                if let Some(place) = membership.place {
                    let member = &room.members()[place as usize];
                    assert_eq!(member.conn as usize, index, "the place is its own");
                }
            }
        }
    }

    fn conn(&self, index: ConnIndex) -> Option<&Conn> {
        self.conns.get(index as usize)?.as_deref()
    }

    fn conn_mut(&mut self, index: ConnIndex) -> Option<&mut Conn> {
        self.conns.get_mut(index as usize)?.as_deref_mut()
    }

    /// The form in which a connection takes the frames of rooms.
    fn encoding_of(&self, index: ConnIndex) -> Encoding {
        self.conn(index)
            .map_or(Encoding::Plain, |conn| conn.encoding)
    }

    /// The connection of `id`, if it is still that one.
    fn find_conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conn_mut(id.index)
            .filter(|conn| conn.generation == id.generation)
    }

    /// Where bytes for one connection are written to; they are flushed before the turn ends. Behind
    /// a close frame, or an HTTP answer, nothing goes.
    fn out(&mut self, index: ConnIndex) -> Option<&mut Vec<u8>> {
        let conn = self.conns.get_mut(index as usize)?.as_mut()?;
        if !conn.queued {
            conn.queued = true;
            self.flush.push(index);
        }
        self.plain[index as usize] = false;
        (conn.phase != Phase::Closing).then(|| conn.out())
    }

    /// Whether one more request to any shard may be let in.
    fn has_shard_credit(&self) -> bool {
        self.outstanding
            .iter()
            .all(|out| out.requests < SHARD_CREDITS && out.bytes < SHARD_CREDIT_BYTES)
    }

    /// Sends a request to the home shard of its room.
    fn request(&mut self, home: ShardId, credit: u32, request: Request) {
        if home == self.id {
            self.on_request(self.id, request);
        } else {
            if credit > 0 {
                let out = &mut self.outstanding[usize::from(home)];
                out.requests += 1;
                out.bytes += credit as usize;
            }
            self.lanes.post(home, Mail::Request(request));
        }
    }

    /// Sends a reply to the shard that asked.
    fn reply(&mut self, to: ShardId, reply: Reply) {
        if to == self.id {
            self.on_reply(self.id, reply);
        } else {
            self.lanes.post(to, Mail::Reply(reply));
        }
    }

    fn home_of(&self, room: &RoomName) -> ShardId {
        if self.options.shards == 1 {
            return 0;
        }
        match self.options.keeping.partitions() {
            0 => room.home(usize::from(self.options.shards)) as ShardId,
            partitions => room.partition(partitions) % self.options.shards,
        }
    }

    fn on_mail(&mut self, from: ShardId, mail: Mail) {
        match mail {
            Mail::Request(request) => self.on_request(from, request),
            Mail::Reply(reply) => self.on_reply(from, reply),
            Mail::Deliver(delivery) => self.on_delivery(&delivery),
            Mail::Lost(lost) => self.on_lost(&lost),
            Mail::Restart {
                room,
                epoch,
                members,
            } => self.on_restart(&room, epoch, members),
            Mail::Announce(frame) => self.announce(&frame),
            Mail::Degraded(reason) => self.on_degraded(reason),
            Mail::ListRooms(query) => self.on_list_rooms(from, query),
            Mail::Listing(listing) => self.on_listing(listing),
            Mail::Address(mail) => self.on_address_mail(from, mail),
            Mail::Kick(user_id, everywhere) => self.kick(&user_id, everywhere),
            Mail::Whisper {
                room,
                presence,
                frame,
            } => self.on_whisper(&room, presence, &frame),
        }
    }

    /// Removes a room that nothing on this shard needs any more.
    fn release_room(&mut self, key: RoomKey) {
        self.hub.remove_unused(key);
    }
}

/// What keeps the rooms of a home shard: alone its own, in a cluster its partition's. A shard that
/// is home of no partition is never asked.
fn backplane_of(id: ShardId, options: &Options, rng: &mut fastrand::Rng) -> Backplane<Origin> {
    if let Keeping::Redis(partitions) = &options.keeping
        && let Some(settings) = partitions.get(usize::from(id))
    {
        let partition = Partition::new(settings.clone(), message, rng.u128(..));
        return Backplane::Redis(Box::new(partition));
    }
    let stored = matches!(options.keeping, Keeping::Store);
    let remembered = Remembered::new(options.dedupe_ms, REMEMBERED_IDS_MAX);
    let batch_bytes_max = options.log_bytes_max / 4;
    let embedded = Embedded::new(stored, batch_bytes_max, remembered, message);
    Backplane::Embedded(Box::new(embedded))
}
