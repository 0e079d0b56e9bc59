//! The home of a share of the rooms: their order, who is in them, and which shards must hear.
//!
//! A room is opened when it is first asked for: its last offset comes from the store, and what is
//! asked meanwhile waits, in order. Its log is kept here whether it has members here or not, so
//! that who comes back finds the recent past on whatever shard it lands; an empty room is dropped
//! after `--room-linger`.
//!
//! Not here: sockets, encodings of answers, and what the store does.
//!
//! Invariants: `subscribers` has a bit for each other shard that has, or is getting, a member;
//! `users` counts the connections of each user that have joined; a room with publishes under way is
//! not dropped.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};

use super::Shard;
use super::event::{
    Asker, ConnId, Join, Leave, Mail, PublishRequest, RefusedJoin, Reply, Request, ShardId,
};
use super::history::Histories;
use super::leaving::Leaving;
use super::pages::{LatePage, Resuming, Waiter};
use super::users::Users;
use crate::backplane::Backplane;
use crate::hub::{Audience, RoomKey};
use crate::model::limits::SHARD_CREDITS;
use crate::model::{Epoch, ErrorCode, Name, Position, RoomName};
use crate::protocol::event;

/// Whose a publish is.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) from: ShardId,
    pub(super) key: RoomKey,
    pub(super) asker: Asker,
    pub(super) echo: bool,
    /// When it came, in microseconds since the process began.
    pub(super) arrived_us: u64,
}

impl crate::backplane::Origin for Origin {
    fn hold(&mut self) {
        self.asker.held = true;
    }
}

/// A room whose home is here.
#[derive(Debug)]
pub(super) struct HomeRoom {
    pub(super) name: RoomName,
    /// What waits until the room is open.
    pub(super) opening: Option<Vec<(ShardId, Request)>>,
    /// The last offset that was delivered; nothing while the room is being opened.
    pub(super) position: Option<Position>,
    /// Other shards that must hear, a bit each.
    pub(super) subscribers: u64,
    pub(super) users: Users,
    /// Users who are in the room on other instances only.
    pub(super) users_elsewhere: u64,
    /// Joins, and joins again, of members who want presence events.
    pub(super) watchers: HashSet<(ShardId, ConnId, u32)>,
    /// Users who are gone, which is not told yet.
    pub(super) leaving: HashMap<Name, Leaving>,
    /// Publishes that have no outcome yet.
    pub(super) publishing: u32,
    /// When it was last used.
    pub(super) touched_ms: u64,
    pub(super) lingering: bool,
}

/// The rooms whose home is this shard.
#[derive(Debug)]
pub(super) struct Home {
    /// Boxed, since a hash table has up to two places for each.
    pub(super) rooms: HashMap<RoomKey, Box<HomeRoom>>,
    pub(super) backplane: Backplane<Origin>,
    /// Reads of the past under way: who waits for each.
    pub(super) reads: HashMap<(RoomKey, Epoch, u64), Vec<Waiter>>,
    /// Joins that wait to hear whether all that they missed can be had.
    pub(super) resuming: Resuming,
    /// Pages that are read again.
    pub(super) late_pages: VecDeque<LatePage>,
    /// Requests for history.
    pub(super) histories: Histories,
    /// Rooms to look at when their time comes.
    pub(super) linger: VecDeque<(u64, RoomName)>,
    /// Leaves to tell when their time comes.
    pub(super) leaving: VecDeque<(u64, RoomKey, Name)>,
}

impl Home {
    pub(super) fn new(backplane: Backplane<Origin>) -> Self {
        Self {
            rooms: HashMap::new(),
            backplane,
            reads: HashMap::new(),
            resuming: HashMap::new(),
            late_pages: VecDeque::new(),
            histories: Histories::default(),
            linger: VecDeque::new(),
            leaving: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rooms.len()
    }
}

impl Request {
    fn room(&self) -> &RoomName {
        match self {
            Self::Join(join) => &join.room,
            Self::Leave(leave) => &leave.room,
            Self::Publish(request) => &request.publish.room,
            Self::History(request) => &request.room,
            Self::Signal { room, .. }
            | Self::Members { room, .. }
            | Self::MembersPage { room, .. }
            | Self::Page { room, .. } => room,
        }
    }
}

impl Shard {
    /// A request, from another shard or this one.
    pub(super) fn on_request(&mut self, from: ShardId, request: Request) {
        let known = self.hub.find(request.room().as_str());
        let known = known.filter(|key| self.home.rooms.contains_key(key));
        let key = match (known, &request) {
            (Some(key), _) => key,
            // A room that is not here has nobody in it.
            (None, Request::Leave(_) | Request::Signal { .. }) => return,
            (None, _) => match self.begin_room(request.room().clone()) {
                Some(key) => key,
                None => {
                    let why = "the server has as many rooms as it may have; try again later";
                    self.refuse_request(from, request, ErrorCode::TooManyRooms, why);
                    return;
                }
            },
        };
        let now_ms = self.now.ms;
        let Some(room) = self.home.rooms.get_mut(&key) else {
            return;
        };
        room.touched_ms = now_ms;
        match (&mut room.opening, request) {
            // The backplane takes it in its order; it need not wait here.
            (_, Request::Publish(request)) => self.serve_publish(from, key, *request),
            (Some(_), Request::Signal { .. }) => {}
            (Some(waiting), request) if waiting.len() < SHARD_CREDITS as usize => {
                waiting.push((from, request));
            }
            (Some(_), request) => {
                let why = "too many requests wait for this room; try again later";
                self.refuse_request(from, request, ErrorCode::Overloaded, why);
            }
            (None, request) if room.position.is_some() => self.serve(from, key, request),
            (opening @ None, request) => {
                // It could not be opened before, and is kept for what is published in it.
                *opening = Some(vec![(from, request)]);
                let name = room.name.clone();
                self.open_on_backplane(&name);
            }
        }
    }

    fn serve(&mut self, from: ShardId, key: RoomKey, request: Request) {
        match request {
            Request::Join(join) => self.serve_join(from, key, join),
            Request::Leave(leave) => self.leave_home(from, key, &leave),
            Request::Publish(request) => self.serve_publish(from, key, *request),
            Request::Signal { frame, .. } => self.serve_signal(from, key, &frame),
            Request::Members { room, asker } => self.serve_members(from, key, &room, asker),
            Request::MembersPage { conn, .. } => self.serve_members_page(from, key, conn),
            Request::Page { room, from: offset } => self.serve_page(from, key, room, offset),
            Request::History(request) => self.serve_history(from, key, request),
        }
    }

    /// Begins to be a room's home: `None` if there are too many.
    fn begin_room(&mut self, name: RoomName) -> Option<RoomKey> {
        let key = self.add_room(name.clone())?;
        self.open_on_backplane(&name);
        Some(key)
    }

    fn add_room(&mut self, name: RoomName) -> Option<RoomKey> {
        if self.home.rooms.len() >= self.options.rooms_max {
            self.drop_oldest_empty();
            if self.home.rooms.len() >= self.options.rooms_max {
                return None;
            }
        }
        let key = self.hub.find_or_make(&name);
        if let Some(room) = self.hub.room_mut(key) {
            room.is_home = true;
        }
        let room = HomeRoom {
            name: name.clone(),
            opening: Some(Vec::new()),
            position: None,
            subscribers: 0,
            users: Users::default(),
            users_elsewhere: 0,
            watchers: HashSet::new(),
            leaving: HashMap::new(),
            publishing: 0,
            touched_ms: self.now.ms,
            lingering: true,
        };
        self.home.rooms.insert(key, Box::new(room));
        self.home
            .linger
            .push_back((self.now.ms + self.options.linger_ms, name));
        Some(key)
    }

    fn open_on_backplane(&mut self, name: &RoomName) {
        let (backplane, mut moment) = self.backplane();
        backplane.open(&mut moment, name);
    }

    fn open_room(&mut self, key: RoomKey, last: Position) {
        self.hub.begin_log(key, last.epoch, last.offset + 1);
        let waiting = self.home.rooms.get_mut(&key).and_then(|room| {
            room.position = Some(last);
            room.users_elsewhere = self.home.backplane.users_elsewhere(&room.name).count() as u64;
            room.opening.take()
        });
        for (from, request) in waiting.into_iter().flatten() {
            self.serve(from, key, request);
        }
    }

    pub(super) fn on_opened(&mut self, name: &RoomName, result: Result<Position, String>) {
        let known = self.hub.find(name.as_str());
        let known = known.filter(|key| self.home.rooms.contains_key(key));
        match (known, result) {
            (Some(key), Ok(last)) => self.open_room(key, last),
            (Some(key), Err(why)) => self.fail_to_open(key, &why),
            // A personal room that something was published to elsewhere.
            (None, Ok(last)) => match self.add_room(name.clone()) {
                Some(key) => self.open_room(key, last),
                None => self.home.backplane.close(name),
            },
            (None, Err(_)) => {}
        }
    }

    fn fail_to_open(&mut self, key: RoomKey, why: &str) {
        let Some(room) = self.home.rooms.get_mut(&key) else {
            return;
        };
        let waiting = room.opening.take();
        // What is published in it may still be stored, later.
        if room.publishing == 0 {
            self.home.rooms.remove(&key);
        }
        for (from, request) in waiting.into_iter().flatten() {
            self.refuse_request(from, request, ErrorCode::Unavailable, why);
        }
        if !self.home.rooms.contains_key(&key) {
            self.end_room(key);
        }
    }

    /// Answers a request that can't be served.
    pub(super) fn refuse_request(
        &mut self,
        to: ShardId,
        request: Request,
        code: ErrorCode,
        why: &str,
    ) {
        let why = why.to_owned();
        let reply = match request {
            Request::Join(join) => return self.refuse_join(to, join, None, code, why),
            Request::Publish(request) => {
                let PublishRequest { asker, publish, .. } = *request;
                Reply::Refused {
                    asker,
                    join: None,
                    room: publish.room,
                    code,
                    why,
                }
            }
            Request::Members { room, asker } => Reply::Refused {
                asker,
                join: None,
                room,
                code,
                why,
            },
            // Nothing can be had: the log, when it has something, takes over.
            Request::Page { room, from } => Reply::Page {
                room,
                from,
                page: Err(from + 1),
            },
            Request::History(request) => {
                return self.refuse_history(to, &request, 503, &why);
            }
            Request::MembersPage { conn, .. } => {
                return self.refuse_members_page(to, conn, code, &why);
            }
            Request::Leave(_) | Request::Signal { .. } => return,
        };
        self.reply(to, reply);
    }

    /// Refuses a join; `counted`: its user, if it is counted as a member already.
    pub(super) fn refuse_join(
        &mut self,
        to: ShardId,
        join: Join,
        counted: Option<Name>,
        code: ErrorCode,
        why: String,
    ) {
        let Join {
            asker,
            ticket,
            room,
            again,
            ..
        } = join;
        let join = Some(RefusedJoin {
            ticket,
            again,
            counted,
        });
        let reply = Reply::Refused {
            asker,
            join,
            room,
            code,
            why,
        };
        self.reply(to, reply);
    }

    fn serve_join(&mut self, from: ShardId, key: RoomKey, join: Join) {
        if !join.again {
            self.add_member(from, key, &join);
        }
        let watcher = (from, join.asker.conn, join.ticket);
        let watches = |room: &HomeRoom| room.watchers.contains(&watcher);
        let room = self.home.rooms.get(&key);
        if join.presence && room.is_some_and(|room| !watches(room)) {
            self.tell_leaving(key);
        }
        if let Some(room) = self.home.rooms.get_mut(&key) {
            if join.presence {
                room.watchers.insert(watcher);
            } else {
                room.watchers.remove(&watcher);
            }
            // Who joins again may do so under another name.
            if let Some(user) = room.users.find(&join.user_id) {
                if let Some(name) = &join.username {
                    user.username = Some(Box::new(name.clone()));
                }
                let (ms, username) = (self.now.ms, user.username.as_deref());
                let backplane = &mut self.home.backplane;
                backplane.user_joined(ms, &join.room, &join.user_id, username);
            }
        }
        self.answer_join(from, key, join);
    }

    /// Counts a member, and tells who watches if its user is new.
    fn add_member(&mut self, from: ShardId, key: RoomKey, join: &Join) {
        let own = self.id;
        let Some(room) = self.home.rooms.get_mut(&key) else {
            return;
        };
        if from != own {
            room.subscribers |= 1 << from;
        }
        let user = room.users.find_or_add(&join.user_id);
        user.connections += 1;
        user.username = join.username.clone().map(Box::new).or(user.username.take());
        if user.connections > 1 || room.leaving.remove(&join.user_id).is_some() {
            return;
        }
        if self.home.backplane.is_elsewhere(&join.room, &join.user_id) {
            room.users_elsewhere = room.users_elsewhere.saturating_sub(1);
        } else {
            let username = join.username.as_ref();
            self.tell_presence(key, event::Change::Join, &join.user_id, username);
        }
    }

    pub(super) fn leave_home(&mut self, from: ShardId, key: RoomKey, leave: &Leave) {
        let (now_ms, linger_ms) = (self.now.ms, self.options.linger_ms);
        let Some(room) = self.home.rooms.get_mut(&key) else {
            return;
        };
        if leave.last {
            room.subscribers &= !(1 << from);
        }
        room.watchers.remove(&(from, leave.conn, leave.ticket));
        let mut gone = None;
        if let Some(user) = room.users.find(&leave.user_id) {
            user.connections -= 1;
            if user.connections == 0 {
                gone = room.users.remove(&leave.user_id);
            }
        }
        if room.users.is_empty() && !room.lingering {
            room.lingering = true;
            self.home
                .linger
                .push_back((now_ms + linger_ms, leave.room.clone()));
        }
        let Some(user) = gone else { return };
        if self
            .home
            .backplane
            .is_elsewhere(&leave.room, &leave.user_id)
        {
            room.users_elsewhere += 1;
        } else {
            self.begin_leaving(key, &leave.user_id, user.username);
        }
        self.home
            .backplane
            .user_left(now_ms, &leave.room, &leave.user_id);
    }

    /// How many users are in the room, on all instances.
    pub(super) fn user_count(&self, key: RoomKey) -> u64 {
        let room = self.home.rooms.get(&key);
        room.map_or(0, |room| room.users.len() as u64 + room.users_elsewhere)
    }

    /// Tells those who asked for presence.
    pub(super) fn tell_presence(
        &mut self,
        key: RoomKey,
        change: event::Change,
        user_id: &Name,
        username: Option<&Name>,
    ) {
        let count = self.user_count(key);
        let Some(room) = self.home.rooms.get(&key) else {
            return;
        };
        if room.watchers.is_empty() {
            return;
        }
        let (mut frame, name) = (Vec::new(), room.name.as_str());
        let username = username.map(Name::as_str);
        event::presence(&mut frame, name, change, user_id, username, count);
        let frame = Bytes::from(frame);
        self.hub.whisper(key, Audience::Presence, &frame);
        self.whisper_others(key, self.id, true, &frame);
    }

    fn serve_signal(&mut self, from: ShardId, key: RoomKey, frame: &Bytes) {
        self.home.backplane.pass(self.now.ms, text_of(frame));
        if from != self.id {
            self.hub.whisper(key, Audience::AllBut(None), frame);
        }
        self.whisper_others(key, from, false, frame);
    }

    /// A whisper to all other shards that must hear, but for one.
    pub(super) fn whisper_others(
        &mut self,
        key: RoomKey,
        but: ShardId,
        presence: bool,
        frame: &Bytes,
    ) {
        let Some(room) = self.home.rooms.get(&key) else {
            return;
        };
        for to in shards_of(room.subscribers).filter(|&to| to != but) {
            let (room, frame) = (room.name.clone(), frame.clone());
            let bytes = frame.len();
            self.lanes.post_whisper(
                to,
                bytes,
                Mail::Whisper {
                    room,
                    presence,
                    frame,
                },
            );
        }
    }

    /// A signal on its way to the home shard; it goes no further if there is no room for it.
    pub(super) fn post_signal(&mut self, home: ShardId, room: RoomName, frame: Bytes) {
        if home == self.id {
            self.on_request(self.id, Request::Signal { room, frame });
        } else {
            let bytes = frame.len();
            self.lanes
                .post_whisper(home, bytes, Mail::Request(Request::Signal { room, frame }));
        }
    }

    fn serve_publish(&mut self, from: ShardId, key: RoomKey, request: PublishRequest) {
        let PublishRequest { asker, publish } = request;
        let (echo, arrived_us) = (publish.echo, publish.arrived_us);
        let after_us = self.now.us.saturating_sub(arrived_us);
        self.counters.to_home.record(after_us);
        if let Some(room) = self.home.rooms.get_mut(&key) {
            room.publishing += 1;
        }
        let origin = Origin {
            from,
            key,
            asker,
            echo,
            arrived_us,
        };
        let (backplane, mut moment) = self.backplane();
        backplane.publish(&mut moment, publish, origin);
    }
}

/// The JSON text of a text frame of the server's: not masked, in one piece.
pub(super) fn text_of(frame: &[u8]) -> &[u8] {
    let header = match frame.get(1) {
        Some(127) => 10,
        Some(126) => 4,
        _ => 2,
    };
    frame.get(header..).unwrap_or_default()
}

/// The shards whose bits are set.
pub(super) fn shards_of(mut bits: u64) -> impl Iterator<Item = ShardId> {
    std::iter::from_fn(move || {
        (bits != 0).then(|| {
            let shard = bits.trailing_zeros() as ShardId;
            bits &= bits - 1;
            shard
        })
    })
}
