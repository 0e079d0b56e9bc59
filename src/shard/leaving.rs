//! Users who left a room a moment ago: those who watch it are told once it is sure that they are
//! gone.
//!
//! Who comes back meanwhile, here or on another instance, is never seen to leave, nor to come. Only
//! the event is held back: `members` and `joined` count at once who is gone as gone. So whoever
//! begins to watch a room must find its leaves told; else one who comes back, which is not told
//! either, would be a member that nobody has told it of.
//!
//! Invariants: who is leaving has no connection in the room here, and is on no other instance that
//! is known of; each has a place in [`super::home::Home::leaving`], whose times rise.

use super::Shard;
use super::home::HomeRoom;
use crate::hub::RoomKey;
use crate::model::Name;
use crate::model::limits::{LEAVE_DEBOUNCE_MS, LEAVING_MAX};
use crate::protocol::event::Change;

/// A user who is gone, which is not told yet.
#[derive(Debug)]
pub(super) struct Leaving {
    due_ms: u64,
    username: Option<Box<Name>>,
}

impl Shard {
    /// A user is in a room no more.
    pub(super) fn begin_leaving(
        &mut self,
        key: RoomKey,
        user_id: &Name,
        username: Option<Box<Name>>,
    ) {
        let due_ms = self.now.ms + LEAVE_DEBOUNCE_MS;
        let Some(room) = self.home.rooms.get_mut(&key) else {
            return;
        };
        if room.watchers.is_empty() {
            return;
        }
        if self.home.leaving.len() >= LEAVING_MAX {
            self.tell_presence(key, Change::Leave, user_id, username.as_deref());
            return;
        }
        room.leaving
            .insert(user_id.clone(), Leaving { due_ms, username });
        self.home.leaving.push_back((due_ms, key, user_id.clone()));
    }

    /// Tells of those who did not come back.
    pub(super) fn tell_left(&mut self) {
        while let Some(&(due_ms, key, _)) = self.home.leaving.front()
            && due_ms <= self.now.ms
        {
            let Some((_, _, user_id)) = self.home.leaving.pop_front() else {
                return;
            };
            let room = self.home.rooms.get_mut(&key);
            let is_due = |room: &&mut Box<HomeRoom>| {
                let leaving = room.leaving.get(&user_id);
                // It may have come back, and left again.
                leaving.is_some_and(|leaving| leaving.due_ms == due_ms)
            };
            let left = room
                .filter(is_due)
                .and_then(|room| room.leaving.remove(&user_id));
            if let Some(left) = left {
                self.tell_presence(key, Change::Leave, &user_id, left.username.as_deref());
            }
        }
    }

    /// Tells at once of all who are leaving a room.
    pub(super) fn tell_leaving(&mut self, key: RoomKey) {
        let room = self.home.rooms.get_mut(&key);
        let leaving = room.map(|room| std::mem::take(&mut room.leaving));
        for (user_id, left) in leaving.into_iter().flatten() {
            self.tell_presence(key, Change::Leave, &user_id, left.username.as_deref());
        }
    }

    /// Checks what the module's doc says.
    pub(super) fn leaving_invariants(&self) {
        let queue = &self.home.leaving;
        assert!(queue.iter().is_sorted_by_key(|&(due_ms, ..)| due_ms));
        for (key, room) in &self.home.rooms {
            for (user_id, leaving) in &room.leaving {
                assert!(!room.users.contains(user_id), "it is not here");
                let is_elsewhere = self.home.backplane.is_elsewhere(&room.name, user_id);
                assert!(!is_elsewhere, "nor elsewhere");
                let place = (leaving.due_ms, *key, user_id.clone());
                assert!(queue.contains(&place), "its time comes");
            }
        }
    }
}
