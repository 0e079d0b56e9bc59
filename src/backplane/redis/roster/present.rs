//! Who is present on the other instances taken together, and who lingers.
//!
//! A user whose last instance told its leaving stays a moment longer: if it moved, the join is on
//! its way. So somebody who changes instances is never seen to leave, and counts as present
//! throughout.
//!
//! Invariants: for each (room, user) `Joined` and `Left` alternate, and it is in `rooms` between
//! them; who lingers is in `rooms` and on no instance.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::RosterEvent;
use crate::model::{Name, RoomName};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Present {
    rooms: HashMap<RoomName, HashMap<Name, Presence>>,
    lingering: BTreeSet<(u64, RoomName, Name)>,
}

/// A user in a room.
#[derive(Debug)]
pub(super) struct Presence {
    /// On how many instances.
    pub(super) instances: u32,
    linger: Option<Box<Linger>>,
}

#[derive(Debug)]
struct Linger {
    until: u64,
    username: Option<Name>,
}

impl Presence {
    /// The name that one who lingers had.
    pub(super) fn last_username(&self) -> Option<&Name> {
        self.linger.as_ref()?.username.as_ref()
    }
}

impl Present {
    pub(super) fn users(&self, room: &str) -> Option<&HashMap<Name, Presence>> {
        self.rooms.get(room)
    }

    /// The rooms that anybody is in.
    pub(super) fn rooms(&self) -> impl Iterator<Item = &RoomName> {
        self.rooms.keys()
    }

    /// How many linger.
    pub(super) fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// The room's name as it is kept here, so that equal names share their text.
    pub(super) fn known(&self, room: RoomName) -> RoomName {
        let known = self.rooms.get_key_value(&room);
        known.map_or(room, |(known, _)| known.clone())
    }

    /// A user is on one instance more.
    pub(super) fn add(
        &mut self,
        room: &RoomName,
        user_id: &Name,
        username: Option<&Name>,
        out: &mut Vec<RosterEvent>,
    ) {
        let users = self.rooms.entry_ref(room).or_default();
        let presence = users.entry_ref(user_id).or_insert(Presence {
            instances: 0,
            linger: None,
        });
        presence.instances += 1;
        if let Some(linger) = presence.linger.take() {
            let key = (linger.until, room.clone(), user_id.clone());
            self.lingering.remove(&key);
        } else if presence.instances == 1 {
            out.push(RosterEvent::Joined {
                room: room.clone(),
                user_id: user_id.clone(),
                username: username.cloned(),
            });
        }
    }

    /// A user is on one instance less; if it was the last, it lingers `until` then, if at all.
    pub(super) fn remove(
        &mut self,
        (room, user_id): (&RoomName, Name),
        username: Option<Name>,
        until: Option<u64>,
        out: &mut Vec<RosterEvent>,
    ) {
        let users = self.rooms.get_mut(room);
        let Some(presence) = users.and_then(|users| users.get_mut(&user_id)) else {
            debug_assert!(false, "who is on an instance is present");
            return;
        };
        presence.instances = presence.instances.saturating_sub(1);
        if presence.instances > 0 {
            return;
        }
        let Some(until) = until else {
            self.vanish(room.clone(), user_id, username, out);
            return;
        };
        presence.linger = Some(Box::new(Linger { until, username }));
        self.lingering.insert((until, room.clone(), user_id));
    }

    /// Those whose time is over vanish.
    pub(super) fn tick(&mut self, now_ms: u64, out: &mut Vec<RosterEvent>) {
        while self
            .lingering
            .first()
            .is_some_and(|(until, ..)| *until <= now_ms)
        {
            let Some((_, room, user_id)) = self.lingering.pop_first() else {
                return;
            };
            let users = self.rooms.get_mut(&room);
            let presence = users.and_then(|users| users.get_mut(&user_id));
            let linger = presence.and_then(|presence| presence.linger.take());
            let username = linger.and_then(|linger| linger.username);
            self.vanish(room, user_id, username, out);
        }
    }

    fn vanish(
        &mut self,
        room: RoomName,
        user_id: Name,
        username: Option<Name>,
        out: &mut Vec<RosterEvent>,
    ) {
        if let Some(users) = self.rooms.get_mut(&room) {
            users.remove(&user_id);
            if users.is_empty() {
                self.rooms.remove(&room);
            }
        }
        out.push(RosterEvent::Left {
            room,
            user_id,
            username,
        });
    }

    /// All of it: room, user, on how many instances.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (&RoomName, &Name, u32)> {
        self.rooms.iter().flat_map(|(room, users)| {
            let users = users.iter();
            users.map(move |(user_id, presence)| {
                assert_eq!(presence.instances == 0, presence.linger.is_some());
                (room, user_id, presence.instances)
            })
        })
    }
}
