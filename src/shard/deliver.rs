//! From the backplane's outcomes to the members' logs, on this shard and on the others.

use bytes::Bytes;

use super::connection::{Membership, Phase};
use super::event::{Delivery, Effect, Lost, Reply, ShardId};
use super::home::{Origin, shards_of};
use super::lanes::Behind;
use super::{ConnId, Mail, Shard};
use crate::backplane::{Answer, Backplane, Begun, Moment, Outcome};
use crate::hub::{ConnIndex, Member, RoomKey};
use crate::model::{Epoch, MessageId, Position, RoomName};
use crate::net::push_text;

impl Shard {
    /// The backplane, and what it must know of the time.
    pub(super) fn backplane(&mut self) -> (&mut Backplane<Origin>, Moment<'_>) {
        let (wall, ms, rng) = (self.now.wall, self.now.ms, &mut self.rng);
        (&mut self.home.backplane, Moment { wall, ms, rng })
    }

    /// Hands over what was published in this turn.
    pub(super) fn drive_backplane(&mut self) {
        let (backplane, mut moment) = self.backplane();
        backplane.drive(&mut moment);
    }

    pub(super) fn on_answer(&mut self, answer: Answer) {
        let (backplane, mut moment) = self.backplane();
        backplane.on_answer(&mut moment, answer);
    }

    /// Takes what has come of it, and passes on what the backplane asks for.
    pub(super) fn poll_backplane(&mut self) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        let mut asks = std::mem::take(&mut self.asks);
        loop {
            self.home.backplane.poll(&mut outcomes, &mut asks);
            self.effects.extend(asks.drain(..).map(Effect::Backplane));
            if outcomes.is_empty() {
                break;
            }
            // What is done about one may bring others.
            for outcome in outcomes.drain(..) {
                self.on_outcome(outcome);
            }
            outcomes.shrink_to(OUTCOMES_READY);
        }
        (self.outcomes, self.asks) = (outcomes, asks);
    }

    fn on_outcome(&mut self, outcome: Outcome<Origin>) {
        match outcome {
            Outcome::Opened { room, result } => self.on_opened(&room, result),
            Outcome::Deliver {
                room,
                epoch,
                offset,
                json,
                skip,
                begun,
            } => {
                self.note_envelope(begun);
                let position = Position { epoch, offset };
                self.deliver_publication(&room, position, &json, skip.as_ref(), begun);
            }
            Outcome::Stored {
                room,
                id,
                offset,
                is_repeat,
                origin,
            } => {
                self.note_stored(&origin, is_repeat);
                self.ack(origin, room, id, offset);
            }
            Outcome::Refused {
                room,
                code,
                why,
                origin,
            } => self.settle(origin, |asker, _| Reply::Refused {
                asker,
                join: None,
                room,
                code,
                why,
            }),
            Outcome::Page {
                room,
                epoch,
                from,
                page,
            } => self.on_page_read(&room, epoch, from, page),
            Outcome::Resumed(resumed) => self.on_resumed(resumed),
            Outcome::Ends(room, epoch, ends) => self.on_ends(&room, epoch, &ends),
            Outcome::Rooms(query, rooms) => self.on_rooms(query.id, rooms),
            Outcome::Lost { room, epoch, next } => self.lose(&room, epoch, next),
            Outcome::Epoch(epoch) => self.restart_rooms(epoch),
            Outcome::Held { preview, origin } => self.hold(&preview, origin),
            Outcome::Passing { room, json } => self.pass_on(room, &json),
            Outcome::Degraded(reason) => self.tell_degraded(reason),
            Outcome::Presence {
                room,
                user_id,
                username,
                is_join,
            } => self.tell_presence_elsewhere(&room, &user_id, username.as_ref(), is_join),
            Outcome::Kick(user_id) => self.kick_all(&user_id, false),
        }
    }

    fn ack(&mut self, origin: Origin, room: RoomName, id: MessageId, offset: u64) {
        let epoch = self.position_of(origin.key).map(|position| position.epoch);
        let epoch = epoch.or_else(|| self.home.backplane.epoch());
        self.settle(origin, |asker, echo| Reply::Published {
            asker,
            room,
            id,
            offset,
            epoch,
            echo,
        });
    }

    fn settle(&mut self, origin: Origin, reply: impl FnOnce(super::Asker, bool) -> Reply) {
        let Origin {
            from,
            key,
            asker,
            echo,
            ..
        } = origin;
        if let Some(room) = self.home.rooms.get_mut(&key) {
            room.publishing -= 1;
        }
        self.reply(from, reply(asker, echo));
    }

    /// Framed once; into the log here, and to the shards that have members.
    pub(super) fn deliver_publication(
        &mut self,
        room: &RoomName,
        position: Position,
        json: &[u8],
        skip: Option<&Origin>,
        begun: Begun,
    ) {
        let mut key = self.hub.find(room.as_str());
        key = key.filter(|key| self.home.rooms.contains_key(key));
        if key.is_none() && room.personal_user().is_some() {
            // It was dropped with this on its way, and its user may be here without having joined.
            let (epoch, offset) = (position.epoch, position.offset - 1);
            self.on_opened(room, Ok(Position { epoch, offset }));
            key = self.hub.find(room.as_str());
        }
        let Some(key) = key else { return };
        let Some(home) = self.home.rooms.get_mut(&key) else {
            return;
        };
        match &mut home.position {
            Some(at) => *at = position,
            // Before the room is open: it was on its way when an earlier life of the room here
            // ended. It does not make it open: the backplane may not follow it yet, and who else is
            // there is counted when it does. In a personal room there are members before that.
            None if room.personal_user().is_some() => {}
            None => return,
        }
        let subscribers = self.subscribers_of(key);
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        push_text(&mut frame, json);
        let Position { epoch, offset } = position;
        let skip_on = |shard| skip.filter(|origin| origin.from == shard);
        if subscribers != 0 {
            let shared = Bytes::copy_from_slice(&frame);
            for to in shards_of(subscribers) {
                let delivery = Delivery {
                    room: room.clone(),
                    epoch,
                    offset,
                    frame: shared.clone(),
                    skip: skip_on(to).map(|origin| origin.asker.conn),
                    begun,
                };
                self.lanes.post_delivery(to, key, delivery);
            }
        }
        let skip = skip_on(self.id).map(|origin| origin.asker.conn);
        if self.deliver(key, epoch, offset, &frame, skip) {
            self.time_delivery(key, offset, begun);
        }
        self.scratch = frame;
    }

    /// A publication from the home shard of its room.
    pub(super) fn on_delivery(&mut self, delivery: &Delivery) {
        let Delivery {
            room,
            epoch,
            offset,
            frame,
            skip,
            begun,
        } = delivery;
        if let Some(key) = self.room_of_delivery(room)
            && self.deliver(key, *epoch, *offset, frame, *skip)
        {
            self.time_delivery(key, *offset, *begun);
        }
    }

    /// Publications that will not be delivered: the members are told.
    pub(super) fn on_lost(&mut self, lost: &Lost) {
        if let Some(key) = self.room_of_delivery(&lost.room) {
            self.add_personal(key, lost.epoch, lost.from);
            self.hub.lose(key, lost.epoch, lost.next);
        }
    }

    /// The room if it is here, or is its user's personal one and the user is.
    fn room_of_delivery(&mut self, room: &RoomName) -> Option<RoomKey> {
        self.hub.find(room.as_str()).or_else(|| {
            let user = room.personal_user()?;
            (!self.connections_of(user).is_empty()).then(|| self.hub.find_or_make(room))
        })
    }

    /// Appends a publication to the log of its room. Returns whether it is new there.
    fn deliver(
        &mut self,
        key: RoomKey,
        epoch: Epoch,
        offset: u64,
        frame: &[u8],
        skip: Option<ConnId>,
    ) -> bool {
        self.add_personal(key, epoch, offset);
        if self.hub.room(key).is_none_or(|room| room.log().is_none()) {
            // Where no member is yet a log begins with the answer to a join. This was meant for
            // members who have left, and what comes next may not follow it.
            return false;
        }
        if let Some(id) = skip
            && let Some(conn) = self.find_conn(id)
            && let Some(place) = conn.membership(key).and_then(|membership| membership.place)
            && let Some(room) = self.hub.room_mut(key)
        {
            room.skip(place as usize, offset);
        }
        self.hub.publish(key, epoch, offset, frame)
    }

    /// A personal room's user gets what is published there without joining: its connections become
    /// members when the first publication comes.
    fn add_personal(&mut self, key: RoomKey, epoch: Epoch, offset: u64) {
        let Some(room) = self.hub.room(key) else {
            return;
        };
        let Some(user) = room.name.personal_user() else {
            return;
        };
        let connections = self.connections_of(user);
        if connections.is_empty() {
            return;
        }
        self.hub.begin_log(key, epoch, offset);
        for index in connections {
            let encoding = self.encoding_of(index);
            let is_new = self
                .conn(index)
                .is_some_and(|conn| conn.phase == Phase::Open && conn.membership(key).is_none());
            let (true, Some(room)) = (is_new, self.hub.room_mut(key)) else {
                continue;
            };
            let place = room.add(Member::with_encoding(index, offset, encoding));
            room.set_flags(place, false, true);
            self.counters.members += 1;
            let place = Some(place as u32);
            if let Some(conn) = self.conn_mut(index) {
                conn.memberships.push(Membership {
                    room: key,
                    place,
                    ticket: 0,
                    counts: false,
                    username: None,
                });
            }
        }
    }

    /// The open connections of a user on this shard.
    pub(super) fn connections_of(&self, user: &str) -> Vec<ConnIndex> {
        let hash = self.hash_user(user);
        self.users
            .iter_hash(hash)
            .copied()
            .filter(|&index| self.conn(index).is_some_and(|conn| conn.user_id == user))
            .collect()
    }

    /// Takes the mail for another shard whose mailbox has room: what waits in its lane, and the
    /// continuation of rooms that are behind.
    pub fn carry(&mut self, to: ShardId) -> Vec<Mail> {
        let mut mail = self.lanes.take(to);
        for (key, behind) in self.lanes.take_behind(to) {
            self.read_on(to, key, behind);
        }
        mail.extend(self.lanes.take(to));
        mail
    }

    /// Puts a room that is behind for a shard back into its lane, as far as there is room.
    fn read_on(&mut self, to: ShardId, key: RoomKey, behind: Behind) {
        let Behind { mut offset, skips } = behind;
        let Some(room) = self.hub.room(key) else {
            return;
        };
        let (Some(log), Some(epoch)) = (room.log(), room.epoch()) else {
            return;
        };
        if offset < log.first() {
            // What fell off the log: perhaps no later one is left, which would show the hole.
            let (room, from, next) = (room.name.clone(), offset, log.first());
            let lost = Lost {
                room,
                epoch,
                from,
                next,
            };
            self.lanes.post(to, Mail::Lost(lost));
            offset = next;
        }
        while let Some(chunk) = log.chunk(offset) {
            let frame = chunk.frame(offset);
            if !self.lanes.has_room(to, frame.len()) {
                self.lanes.set_behind(to, key, Behind { offset, skips });
                return;
            }
            let frame = Bytes::copy_from_slice(frame);
            let room = room.name.clone();
            let delivery = Delivery {
                room,
                epoch,
                offset,
                frame,
                skip: skips
                    .iter()
                    .find(|&&(at, _)| at == offset)
                    .map(|&(_, conn)| conn),
                begun: Begun::Unknown,
            };
            self.lanes.post_delivery(to, key, delivery);
            offset += 1;
        }
    }
}

/// Outcomes for which there stays room.
const OUTCOMES_READY: usize = 1024;

/// The bits of all shards but one.
pub(super) fn others(own: ShardId, shards: u16) -> u64 {
    let all = if shards >= 64 {
        u64::MAX
    } else {
        (1 << shards) - 1
    };
    all & !(1 << own)
}
