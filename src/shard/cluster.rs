//! What a home shard is told that comes from beyond this instance, or is about all of its rooms:
//! losses, new epochs, what is held, a backplane that is away, users elsewhere, kicks.
//!
//! What concerns every connection goes to all shards by mail; what concerns a room to those that
//! have members of it.

use std::sync::Arc;

use bytes::Bytes;

use super::connection::Phase;
use super::event::{Lost, Mail, Reply, ShardId};
use super::home::{Origin, shards_of};
use super::{Shard, deliver};
use crate::backplane::Preview;
use crate::hub::{Audience, RoomKey};
use crate::model::{CloseCode, Epoch, Name, Position, RoomName};
use crate::net::push_text;
use crate::protocol::event;

impl Shard {
    /// Publications of a room that nobody can have any more.
    pub(super) fn lose(&mut self, name: &RoomName, epoch: Epoch, next: u64) {
        let Some(key) = self.hub.find(name.as_str()) else {
            return;
        };
        let Some(room) = self.home.rooms.get_mut(&key) else {
            return;
        };
        let Some(position) = room.position.filter(|at| at.offset + 1 < next) else {
            return;
        };
        let offset = next - 1;
        room.position = Some(Position { epoch, offset });
        for to in shards_of(self.subscribers_of(key)) {
            let lost = Lost {
                room: name.clone(),
                epoch,
                from: position.offset + 1,
                next,
            };
            self.lanes.post_lost(to, key, lost);
        }
        self.hub.lose(key, epoch, next);
    }

    /// The shards that must hear what is said in a room.
    pub(super) fn subscribers_of(&self, key: RoomKey) -> u64 {
        self.home.rooms.get(&key).map_or(0, |room| {
            // A personal room's user may be anywhere, without having joined.
            match room.name.personal_user() {
                Some(_) => deliver::others(self.id, self.options.shards),
                None => room.subscribers,
            }
        })
    }

    /// All rooms of this home begin anew.
    pub(super) fn restart_rooms(&mut self, epoch: Epoch) {
        let open = self.home.rooms.iter();
        let open = open.filter(|(_, room)| room.position.is_some_and(|at| at.epoch != epoch));
        let open: Vec<_> = open.map(|(&key, room)| (key, room.name.clone())).collect();
        for (key, name) in open {
            if let Some(room) = self.home.rooms.get_mut(&key) {
                room.position = Some(Position { epoch, offset: 0 });
            }
            self.lanes.forget(key);
            let members = self.user_count(key);
            for to in shards_of(self.subscribers_of(key)) {
                let room = name.clone();
                let restart = Mail::Restart {
                    room,
                    epoch,
                    members,
                };
                self.lanes.post(to, restart);
            }
            self.on_restart(&name, epoch, members);
        }
    }

    /// A room's offsets begin anew: its members are told.
    pub(super) fn on_restart(&mut self, name: &RoomName, epoch: Epoch, members: u64) {
        let Some(key) = self.hub.find(name.as_str()) else {
            return;
        };
        let had_log = self.hub.room(key).is_some_and(|room| room.log().is_some());
        if !had_log {
            return;
        }
        self.hub.begin_log(key, epoch, 1);
        let told = self.hub.room(key).map(|room| {
            let joined = room.members().iter().filter(|member| !member.implicit);
            joined.map(|member| member.conn).collect::<Vec<_>>()
        });
        for index in told.into_iter().flatten() {
            let joined = event::Joined {
                room: name.as_str(),
                epoch,
                offset: 0,
                recovered: Some(false),
                members,
                reference: None,
            };
            self.say_joined(index, &joined);
        }
    }

    /// A publish is held until the backplane is back: who is here may see it already.
    pub(super) fn hold(&mut self, preview: &Preview, origin: Origin) {
        let Origin {
            from, key, asker, ..
        } = origin;
        self.reply(from, Reply::Held(asker));
        self.counters.held += 1;
        let mut frame = Vec::new();
        let pending = event::Pending {
            room: preview.room.as_str(),
            id: preview.id,
            user_id: &preview.user_id,
            username: preview.username.as_deref(),
            payload: &preview.payload,
            sent_at: preview.sent_at,
        };
        event::pending(&mut frame, &pending);
        self.whisper_all(key, &frame.into());
    }

    /// A frame that is kept for nobody, to the members of a room on all shards.
    fn whisper_all(&mut self, key: RoomKey, frame: &Bytes) {
        self.hub.whisper(key, Audience::AllBut(None), frame);
        self.whisper_others(key, self.id, false, frame);
    }

    /// A passing frame from another instance, or from a foreign writer.
    pub(super) fn pass_on(&mut self, room: Option<RoomName>, json: &[u8]) {
        let mut frame = Vec::new();
        push_text(&mut frame, json);
        let frame = Bytes::from(frame);
        match room {
            Some(room) => {
                if let Some(key) = self.hub.find(room.as_str()) {
                    self.whisper_all(key, &frame);
                }
            }
            None => {
                let bytes = frame.len();
                for to in self.other_shards() {
                    let mail = Mail::Announce(frame.clone());
                    self.lanes.post_whisper(to, bytes, mail);
                }
                self.announce(&frame);
            }
        }
    }

    /// A frame for everybody who is connected and reads.
    pub(super) fn announce(&mut self, frame: &[u8]) {
        for index in 0..self.conns.len() as u32 {
            let open = self.conn(index).filter(|conn| conn.phase == Phase::Open);
            // Whoever is behind does without.
            if open.is_some_and(|conn| conn.outbox.is_none())
                && let Some(out) = self.out(index)
            {
                out.extend_from_slice(frame);
            }
        }
    }

    /// The backplane is away (why), or is back: everybody is told.
    pub(super) fn tell_degraded(&mut self, reason: Option<String>) {
        let reason: Option<Arc<str>> = reason.map(Into::into);
        for to in self.other_shards() {
            self.lanes.post(to, Mail::Degraded(reason.clone()));
        }
        self.on_degraded(reason);
    }

    pub(super) fn on_degraded(&mut self, reason: Option<Arc<str>>) {
        self.degraded = reason;
        for index in 0..self.conns.len() as u32 {
            let conn = self.conn(index);
            if conn.is_some_and(|conn| conn.phase == Phase::Open) {
                self.say_degraded(index);
            }
        }
    }

    /// Tells a connection whether the backplane is away.
    pub(super) fn say_degraded(&mut self, index: u32) {
        let reason = self.degraded.clone();
        if let Some(out) = self.out(index) {
            event::degraded(out, reason.is_some(), reason.as_deref());
        }
    }

    /// A user came into a room on another instance, or is on none of the others any more.
    pub(super) fn tell_presence_elsewhere(
        &mut self,
        room: &RoomName,
        user_id: &Name,
        username: Option<&Name>,
        is_join: bool,
    ) {
        let Some(key) = self.hub.find(room.as_str()) else {
            return;
        };
        let Some(home) = self.home.rooms.get_mut(&key) else {
            return;
        };
        if home.users.contains(user_id) {
            return;
        }
        home.users_elsewhere = match is_join {
            true => home.users_elsewhere + 1,
            false => home.users_elsewhere.saturating_sub(1),
        };
        if is_join && home.leaving.remove(user_id).is_some() {
            // It has moved there, and was never seen to leave.
            return;
        }
        let change = match is_join {
            true => event::Change::Join,
            false => event::Change::Leave,
        };
        self.tell_presence(key, change, user_id, username);
    }

    /// Closes a user's connections on all shards; `everywhere`: and on the other instances.
    pub(super) fn kick_all(&mut self, user_id: &Name, everywhere: bool) {
        for to in self.other_shards() {
            self.lanes.post(to, Mail::Kick(user_id.clone(), everywhere));
        }
        self.kick(user_id, everywhere);
    }

    /// Closes a user's connections on this shard.
    pub(super) fn kick(&mut self, user_id: &Name, everywhere: bool) {
        if everywhere {
            self.home.backplane.kick(user_id);
        }
        for index in self.connections_of(user_id) {
            self.close(
                index,
                CloseCode::KICKED,
                "this user's connections are closed",
            );
        }
    }

    fn other_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        shards_of(deliver::others(self.id, self.options.shards))
    }
}
