//! What clients ask for: each command becomes a request to the home shard of its room, an answer at
//! once, or an error.

use bytes::Bytes;

use super::connection::{Membership, Phase};
use super::event::{Asker, Join, Leave, PublishRequest, Request};
use super::{ConnId, Shard};
use crate::backplane::Publish;
use crate::hub::{Audience, ConnIndex, RoomKey};
use crate::model::limits::{MEMBERS_CREDIT_BYTES, METADATA_BYTES_MAX, REQUEST_OVERHEAD_BYTES};
use crate::model::{ErrorCode, Name, RoomName};
use crate::protocol::command::{self, Command, Since};
use crate::protocol::event;

impl Shard {
    pub(super) fn on_command(&mut self, index: ConnIndex, request: command::Request<'_>) {
        let reference = request.reference;
        match request.command {
            Command::Join {
                room,
                username,
                since,
                presence,
            } => {
                let username = username
                    .map(Name::from)
                    .filter(|_| self.may_be_named(index));
                self.join(index, &room, username, since, presence, reference);
            }
            Command::Leave { room } => self.leave(index, &room, reference),
            Command::Publish {
                room,
                payload,
                metadata,
                id,
                echo,
            } => {
                let metadata = metadata.map(str::as_bytes);
                if metadata.is_some_and(|metadata| metadata.len() > METADATA_BYTES_MAX) {
                    let message = "metadata: at most 16 KiB";
                    self.error(index, ErrorCode::TooLarge, message, reference);
                    return;
                }
                self.publish(
                    index,
                    &room,
                    payload.as_bytes(),
                    metadata,
                    id,
                    echo,
                    reference,
                );
            }
            Command::Signal { room, payload } => {
                self.signal(index, &room, payload.as_bytes(), reference);
            }
            Command::Members { room } => self.ask_members(index, &room, reference),
            Command::Refresh { token } => self.refresh(index, &token, reference),
            Command::Ping => {
                if let Some(out) = self.out(index) {
                    event::pong(out, reference);
                }
            }
        }
    }

    /// The room by its name: from the hub if it is there, so that its name is shared.
    fn room_name(&self, room: &str) -> Option<RoomName> {
        match self.hub.find(room).and_then(|key| self.hub.room(key)) {
            Some(room) => Some(room.name.clone()),
            None => RoomName::parse(room).ok(),
        }
    }

    /// Takes credit of the connection for a request.
    pub(super) fn asker(
        &mut self,
        index: ConnIndex,
        bytes: usize,
        reference: Option<&str>,
    ) -> Option<Asker> {
        let credit = (bytes + REQUEST_OVERHEAD_BYTES) as u32;
        let conn = self.conn_mut(index)?;
        conn.in_flight += 1;
        conn.credit_used += credit;
        let conn: ConnId = conn.id(index);
        Some(Asker {
            conn,
            reference: reference.map(Into::into),
            credit,
            held: false,
        })
    }

    fn join(
        &mut self,
        index: ConnIndex,
        room: &str,
        username: Option<Name>,
        since: Option<Since>,
        presence: bool,
        reference: Option<&str>,
    ) {
        let Some(room) = self.room_name(room) else {
            return;
        };
        let rooms_max = self.options.rooms_per_connection_max;
        let Some(conn) = self.conn(index) else { return };
        if let Err(why) = conn.may_join(room.as_str()) {
            self.error(index, ErrorCode::Forbidden, why, reference);
            return;
        }
        let key = self.hub.find(room.as_str());
        let known = key.and_then(|key| conn.membership(key));
        let known_ticket = known.map(|membership| membership.ticket);
        let again = known.is_some_and(|membership| !membership.is_implicit());
        if known_ticket.is_none() && conn.memberships.len() >= rooms_max {
            let message = format!("at most {rooms_max} rooms a connection; leave one first");
            self.error(index, ErrorCode::TooManyRooms, &message, reference);
            return;
        }
        let key = self.hub.find_or_make(&room);
        if !again && let Some(room) = self.hub.room_mut(key) {
            room.joins_pending += 1;
        }
        let Some(asker) = self.asker(index, 0, reference) else {
            return;
        };
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let ticket = known_ticket.filter(|_| again).unwrap_or(conn.tickets + 1);
        conn.tickets = conn.tickets.max(ticket);
        match conn
            .memberships
            .iter_mut()
            .find(|membership| membership.room == key)
        {
            Some(membership) => {
                membership.counts &= again;
                membership.ticket = ticket;
                if let Some(name) = &username {
                    membership.username = Some(Box::new(name.clone()));
                }
            }
            None => {
                conn.memberships.push(Membership {
                    room: key,
                    place: None,
                    ticket,
                    counts: false,
                    username: username.clone().map(Box::new),
                });
            }
        }
        let username = conn.name_in(Some(key)).cloned();
        let user_id = conn.user_id.clone();
        let since = since.map(|since| (since.epoch, since.offset));
        let credit = asker.credit;
        let home = self.home_of(&room);
        let join = Join {
            room,
            asker,
            ticket,
            user_id,
            username,
            since,
            presence,
            again,
        };
        self.request(home, credit, Request::Join(join));
    }

    pub(super) fn leave(&mut self, index: ConnIndex, room: &str, reference: Option<&str>) {
        let key = self.hub.find(room);
        let Some(conn) = self.conn(index) else { return };
        let at = key.and_then(|key| {
            let at = conn
                .memberships
                .iter()
                .position(|membership| membership.room == key)?;
            (!conn.memberships[at].is_implicit()).then_some(at)
        });
        let Some(at) = at else {
            self.error(
                index,
                ErrorCode::NotJoined,
                "you have not joined this room",
                reference,
            );
            return;
        };
        if let Some(conn) = self.conn_mut(index) {
            let membership = conn.memberships.swap_remove(at);
            let user_id = conn.user_id.clone();
            self.leave_room(&user_id, &membership);
        }
        if let Some(out) = self.out(index) {
            event::left(out, room, reference);
        }
    }

    /// Takes a member out of its room. A join that is still under way is undone when its answer
    /// comes and finds no membership with its ticket.
    pub(super) fn leave_room(&mut self, user_id: &Name, membership: &Membership) {
        let (Some(place), key) = (membership.place, membership.room) else {
            return;
        };
        let Some(room) = self.hub.room(key) else {
            return;
        };
        let Some(&member) = room.members().get(place as usize) else {
            return;
        };
        let name = room.name.clone();
        let conn = self.conn(member.conn).map(|conn| conn.id(member.conn));
        let Some(room) = self.hub.room_mut(key) else {
            return;
        };
        if let Some(moved) = room.remove(place as usize)
            && let Some(conn) = self.conn_mut(moved)
            && let Some(other) = conn.memberships.iter_mut().find(|m| m.room == key)
        {
            other.place = Some(place);
        }
        self.counters.members -= 1;
        if member.implicit {
            self.release_room(key);
        } else if let Some(conn) = conn
            && membership.counts
        {
            self.post_leave(key, name, user_id.clone(), conn, membership.ticket);
        }
    }

    /// Tells the home shard of a room that a member is gone.
    pub(super) fn post_leave(
        &mut self,
        key: RoomKey,
        room: RoomName,
        user: Name,
        conn: ConnId,
        ticket: u32,
    ) {
        let last = self.hub.room(key).is_none_or(|room| {
            room.joins_pending == 0 && room.members().iter().all(|m| m.implicit)
        });
        self.release_room(key);
        let home = self.home_of(&room);
        let leave = Leave {
            room,
            user_id: user,
            conn,
            ticket,
            last,
        };
        self.request(home, 0, Request::Leave(leave));
    }

    #[allow(clippy::too_many_arguments)]
    fn publish(
        &mut self,
        index: ConnIndex,
        room: &str,
        payload: &[u8],
        metadata: Option<&[u8]>,
        id: Option<crate::model::MessageId>,
        echo: bool,
        reference: Option<&str>,
    ) {
        if let Err(why) = self
            .conn(index)
            .map_or(Ok(()), |conn| conn.may_publish(room))
        {
            self.error(index, ErrorCode::Forbidden, why, reference);
            return;
        }
        let Some(room) = self.room_name(room) else {
            return;
        };
        let bytes = payload.len() + metadata.map_or(0, <[u8]>::len);
        let Some(asker) = self.asker(index, bytes, reference) else {
            return;
        };
        let key = self.hub.find(room.as_str());
        let Some(conn) = self.conn(index) else { return };
        let (user_id, username) = (conn.user_id.clone(), conn.name_in(key).cloned());
        let publish = Publish {
            room,
            id,
            user_id,
            username,
            payload: Bytes::copy_from_slice(payload),
            metadata: metadata.map(Bytes::copy_from_slice),
            echo,
            arrived_us: self.now.us,
        };
        self.post_publish(asker, publish);
    }

    /// On its way to the home shard of its room.
    pub(super) fn post_publish(&mut self, asker: Asker, publish: Publish) {
        self.counters.published += 1;
        let (home, credit) = (self.home_of(&publish.room), asker.credit);
        let request = PublishRequest { asker, publish };
        self.request(home, credit, Request::Publish(Box::new(request)));
    }

    /// At once to the members here, by the home shard to those on the other shards.
    fn signal(&mut self, index: ConnIndex, room: &str, payload: &[u8], reference: Option<&str>) {
        if let Err(why) = self
            .conn(index)
            .map_or(Ok(()), |conn| conn.may_publish(room))
        {
            self.error(index, ErrorCode::Forbidden, why, reference);
            return;
        }
        let key = self.hub.find(room);
        let joined = key
            .and_then(|key| self.conn(index)?.membership(key))
            .is_some();
        let (Some(key), true) = (key, joined) else {
            let message = "join the room before you signal in it";
            self.error(index, ErrorCode::NotJoined, message, reference);
            return;
        };
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        if let Some(conn) = self.conn(index)
            && conn.phase == Phase::Open
        {
            let username = conn.name_in(Some(key)).map(Name::as_str);
            event::signal(&mut frame, room, &conn.user_id, username, payload);
            self.hub.whisper(key, Audience::AllBut(Some(index)), &frame);
            if let Some(room) = self.room_name(room) {
                let home = self.home_of(&room);
                let frame = Bytes::copy_from_slice(&frame);
                self.post_signal(home, room, frame);
            }
        }
        self.scratch = frame;
    }

    fn ask_members(&mut self, index: ConnIndex, room: &str, reference: Option<&str>) {
        let Some(room) = self.room_name(room) else {
            return;
        };
        let Some(conn) = self.conn(index) else { return };
        if let Err(why) = conn.may_join(room.as_str()) {
            self.error(index, ErrorCode::Forbidden, why, reference);
            return;
        }
        let bytes = MEMBERS_CREDIT_BYTES;
        let Some(asker) = self.asker(index, bytes, reference) else {
            return;
        };
        let (home, credit) = (self.home_of(&room), asker.credit);
        self.request(home, credit, Request::Members { room, asker });
    }
}
