//! What the home shards answer, for this shard's connections.

use super::connection::Phase;
use super::event::{Asker, Joined, RefusedJoin, Reply};
use super::{Shard, ShardId};
use crate::hub::{Audience, ConnIndex, Encoding, Member, RoomKey};
use crate::model::{ErrorCode, RoomName};
use crate::protocol::event;

impl Shard {
    pub(super) fn on_reply(&mut self, from: ShardId, reply: Reply) {
        match reply {
            Reply::Joined(joined) => {
                self.return_credit(from, &joined.join.asker);
                self.on_joined(joined);
            }
            Reply::Published {
                asker,
                id,
                offset,
                epoch,
                echo,
                ..
            } => {
                self.return_credit(from, &asker);
                if self.is_posting(asker.conn) {
                    self.on_posted(asker.conn.index, id, offset, epoch);
                } else if (asker.reference.is_some() || !echo)
                    && self.find_conn(asker.conn).is_some()
                    && let Some(out) = self.out(asker.conn.index)
                {
                    event::ack(out, asker.reference.as_deref(), id, offset);
                }
            }
            Reply::Refused {
                asker,
                join,
                room,
                code,
                why,
            } => {
                self.return_credit(from, &asker);
                if let Some(join) = join {
                    self.on_join_refused(&asker, join, &room);
                }
                if self.is_posting(asker.conn) {
                    self.refuse_publish(asker.conn.index, code, &why);
                } else if self.find_conn(asker.conn).is_some() {
                    self.error(asker.conn.index, code, &why, asker.reference.as_deref());
                }
            }
            Reply::Held(asker) => self.return_shard_credit(from, &asker),
            Reply::Http { conn, response } => self.on_answered(conn, response),
            Reply::Frame { asker, frame } => {
                self.return_credit(from, &asker);
                if self.find_conn(asker.conn).is_some()
                    && let Some(out) = self.out(asker.conn.index)
                {
                    out.extend_from_slice(&frame);
                }
            }
            Reply::Page { room, from, page } => {
                if let Some(key) = self.hub.find(room.as_str()) {
                    self.hub.page_arrived(key, from, page);
                }
            }
        }
    }

    /// Gives back what a request took of what may be under way to its shard.
    fn return_shard_credit(&mut self, from: ShardId, asker: &Asker) {
        if from != self.id {
            let out = &mut self.outstanding[usize::from(from)];
            out.requests = out.requests.saturating_sub(1);
            out.bytes = out.bytes.saturating_sub(asker.credit as usize);
        }
    }

    /// Gives back what a request took.
    fn return_credit(&mut self, from: ShardId, asker: &Asker) {
        if !asker.held {
            self.return_shard_credit(from, asker);
        }
        if let Some(conn) = self.find_conn(asker.conn) {
            conn.in_flight = conn.in_flight.saturating_sub(1);
            conn.credit_used = conn.credit_used.saturating_sub(asker.credit);
        }
    }

    fn on_joined(&mut self, joined: Joined) {
        let Joined {
            join,
            epoch,
            newest,
            recovered,
            members,
            page,
        } = joined;
        let Some(key) = self.hub.find(join.room.as_str()) else {
            // It had joined before, and left with this one under way.
            self.refuse_late(&join.asker);
            return;
        };
        if !join.again
            && let Some(room) = self.hub.room_mut(key)
        {
            room.joins_pending -= 1;
        }
        let index = join.asker.conn.index;
        let encoding = self.encoding_of(index);
        let place = self.find_conn(join.asker.conn).and_then(|conn| {
            let found = conn
                .memberships
                .iter()
                .find(|m| m.ticket == join.ticket && m.room == key);
            found.map(|membership| membership.place)
        });
        let Some(place) = place else {
            // It left, or is gone, before it had joined, or the join that it repeats was refused.
            if !join.again {
                self.post_leave(key, join.room, join.user_id, join.asker.conn, join.ticket);
            }
            self.refuse_late(&join.asker);
            return;
        };
        self.hub.begin_log(key, epoch, newest + 1);
        let Some(room) = self.hub.room_mut(key) else {
            return;
        };
        let current = place
            .and_then(|place| room.members().get(place as usize))
            .map(|m| m.cursor);
        let offset = match (recovered, join.since, current) {
            (Some(true), Some((_, offset)), _) => offset,
            // A member that joins again goes on where it is.
            (None, _, Some(cursor)) => cursor - 1,
            _ => newest,
        };
        let place = match place {
            Some(place) => {
                room.set_cursor(place as usize, offset + 1);
                place
            }
            None => {
                self.counters.members += 1;
                room.add(Member::with_encoding(index, offset + 1, encoding)) as u32
            }
        };
        room.set_flags(place as usize, join.presence, false);
        if recovered == Some(true) && offset < newest {
            room.begin_replay(place as usize);
        }
        if let Some(page) = page {
            self.hub.give_page(key, place as usize, &page);
        }
        self.hub.mark_dirty(key);
        if let Some(conn) = self.conn_mut(index)
            && let Some(membership) = conn.memberships.iter_mut().find(|m| m.room == key)
        {
            membership.place = Some(place);
            membership.counts |= !join.again;
        }
        let joined = event::Joined {
            room: join.room.as_str(),
            epoch,
            offset,
            recovered,
            members,
            reference: join.asker.reference.as_deref(),
        };
        self.say_joined(index, &joined);
    }

    /// Tells a connection where it stands in a room.
    pub(super) fn say_joined(&mut self, index: ConnIndex, joined: &event::Joined<'_>) {
        if self.encoding_of(index) == Encoding::Events {
            self.stream_joined(index, joined);
        } else if let Some(out) = self.out(index) {
            event::joined(out, joined);
        }
    }

    /// A join is answered for whom there is no membership any more.
    fn refuse_late(&mut self, asker: &Asker) {
        let conn = self.find_conn(asker.conn);
        if conn.is_some_and(|conn| matches!(conn.phase, Phase::Open | Phase::Leaving)) {
            let message = "the room was left, or a join before refused, before this one";
            let reference = asker.reference.as_deref();
            self.error(asker.conn.index, ErrorCode::NotJoined, message, reference);
        }
    }

    fn on_join_refused(&mut self, asker: &Asker, join: RefusedJoin, room: &RoomName) {
        let RefusedJoin {
            ticket,
            again,
            counted,
        } = join;
        let Some(key) = self.hub.find(room.as_str()) else {
            return;
        };
        // A join that repeated it may have been answered already: that one holds.
        let holds = self.has_joined(asker, key, ticket);
        if holds
            && let Some(conn) = self.find_conn(asker.conn)
            && let Some(membership) = conn.memberships.iter_mut().find(|m| m.room == key)
        {
            membership.counts |= counted.is_some();
        } else if let Some(conn) = self.find_conn(asker.conn) {
            conn.memberships
                .retain(|m| m.ticket != ticket || m.room != key || m.place.is_some());
            if !again
                && let Some(implicit) = conn.memberships.iter_mut().find(|m| m.room == key)
                && implicit.ticket == ticket
            {
                implicit.ticket = 0;
            }
        }
        if !again && let Some(room) = self.hub.room_mut(key) {
            room.joins_pending -= 1;
        }
        match counted.filter(|_| !holds) {
            Some(user_id) => self.post_leave(key, room.clone(), user_id, asker.conn, ticket),
            None => self.release_room(key),
        }
    }

    /// Whether a join with that ticket was answered, and the connection is a member by it.
    fn has_joined(&mut self, asker: &Asker, key: RoomKey, ticket: u32) -> bool {
        let conn = self.find_conn(asker.conn);
        let mine = conn.and_then(|conn| conn.membership(key));
        let mine = mine.filter(|membership| membership.ticket == ticket);
        let mine = mine.and_then(|membership| membership.place);
        let room = self.hub.room(key);
        mine.is_some_and(|place| {
            room.is_some_and(|room| {
                let member = room.members().get(place as usize);
                member.is_some_and(|member| !member.implicit)
            })
        })
    }

    /// A frame that is kept for nobody, from the home shard.
    pub(super) fn on_whisper(&mut self, room: &RoomName, presence: bool, frame: &[u8]) {
        if let Some(key) = self.hub.find(room.as_str()) {
            let audience = if presence {
                Audience::Presence
            } else {
                Audience::AllBut(None)
            };
            self.hub.whisper(key, audience, frame);
        }
    }
}
