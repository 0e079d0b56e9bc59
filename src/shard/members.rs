//! Who is in a room, for those who ask its home shard: a frame, or a page over HTTP (PROTOCOL 2).
//!
//! Users, not connections, at most [`MEMBERS_LISTED_MAX`] of them. Of those on other instances it
//! is known on how many they are, and not how many connections they have there: each counts as one.

use super::Shard;
use super::event::{Asker, ConnId, Reply, ShardId};
use super::home::HomeRoom;
use crate::hub::RoomKey;
use crate::model::limits::MEMBERS_LISTED_MAX;
use crate::model::{ErrorCode, Name, RoomName};
use crate::net::response;
use crate::protocol::event::{self, push_number, push_string};

impl Shard {
    pub(super) fn serve_members(
        &mut self,
        from: ShardId,
        key: RoomKey,
        room: &RoomName,
        asker: Asker,
    ) {
        let Some(home) = self.home.rooms.get(&key) else {
            return;
        };
        let users = self.users_of(home);
        let users = users.map(|(user_id, name, _)| (user_id.as_str(), name.map(Name::as_str)));
        let mut frame = Vec::new();
        let (count, reference) = (self.user_count(key), asker.reference.as_deref());
        event::members(&mut frame, room.as_str(), users, count, reference);
        self.reply(
            from,
            Reply::Frame {
                asker,
                frame: frame.into(),
            },
        );
    }

    pub(super) fn serve_members_page(&mut self, to: ShardId, key: RoomKey, conn: ConnId) {
        let Some(home) = self.home.rooms.get(&key) else {
            return;
        };
        let mut body = b"{\"count\":".to_vec();
        push_number(&mut body, self.user_count(key));
        body.extend_from_slice(b",\"members\":[");
        for (at, (user_id, username, connections)) in self.users_of(home).enumerate() {
            let open: &[u8] = if at == 0 { b"{" } else { b",{" };
            body.extend_from_slice(open);
            body.extend_from_slice(b"\"user_id\":");
            push_string(&mut body, user_id);
            if let Some(username) = username {
                body.extend_from_slice(b",\"username\":");
                push_string(&mut body, username);
            }
            body.extend_from_slice(b",\"connections\":");
            push_number(&mut body, connections);
            body.push(b'}');
        }
        body.extend_from_slice(b"]}");
        let response = response::build(200, response::JSON, &[], &body);
        self.reply(to, Reply::Http { conn, response });
    }

    /// The users of a room, their names, and how many connections they have in it.
    fn users_of<'a>(
        &'a self,
        home: &'a HomeRoom,
    ) -> impl Iterator<Item = (&'a Name, Option<&'a Name>, u64)> {
        let here = home.users.iter().map(move |user| {
            let more = self.home.backplane.instances_of(&home.name, &user.user_id);
            let connections = u64::from(user.connections) + u64::from(more);
            (&user.user_id, user.username.as_deref(), connections)
        });
        let elsewhere = self.home.backplane.users_elsewhere(&home.name);
        let elsewhere = elsewhere.filter(|(user_id, ..)| !home.users.contains(user_id));
        let elsewhere = elsewhere
            .map(|(user_id, username, instances)| (user_id, username, u64::from(instances.max(1))));
        here.chain(elsewhere).take(MEMBERS_LISTED_MAX)
    }

    /// A page can't be had.
    pub(super) fn refuse_members_page(
        &mut self,
        to: ShardId,
        conn: ConnId,
        code: ErrorCode,
        why: &str,
    ) {
        let response = response::error(503, code.as_str(), why, &[("Retry-After", "1")]);
        self.reply(to, Reply::Http { conn, response });
    }
}
