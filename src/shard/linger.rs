//! Empty rooms: they keep their log for a while, then they go, the oldest first when there are too
//! many.
//!
//! Invariant: a room with nobody in it, and with nothing of it under way, has a place in the queue.

use super::Shard;
use crate::hub::RoomKey;

impl Shard {
    /// Drops rooms that have been empty for long enough.
    pub(super) fn drop_lingering(&mut self) {
        while self
            .home
            .linger
            .front()
            .is_some_and(|&(due_ms, _)| due_ms <= self.now.ms)
        {
            let Some((_, name)) = self.home.linger.pop_front() else {
                return;
            };
            let Some(key) = self.hub.find(name.as_str()) else {
                continue;
            };
            let (now_ms, linger_ms) = (self.now.ms, self.options.linger_ms);
            let is_empty = self.is_empty_room(key);
            let Some(room) = self.home.rooms.get_mut(&key) else {
                continue;
            };
            if !room.users.is_empty() {
                // It is put in again when the last one leaves.
                room.lingering = false;
            } else if !is_empty || room.touched_ms + linger_ms > now_ms {
                let due_ms = (room.touched_ms + linger_ms).max(now_ms + 1000);
                self.home.linger.push_back((due_ms, name));
            } else {
                self.home.rooms.remove(&key);
                self.end_room(key);
            }
        }
    }

    /// Makes room for another by dropping the one that has been empty longest.
    pub(super) fn drop_oldest_empty(&mut self) {
        for _ in 0..self.home.linger.len().min(8) {
            let Some((due_ms, name)) = self.home.linger.pop_front() else {
                return;
            };
            let key = self.hub.find(name.as_str());
            match key.filter(|&key| self.is_empty_room(key)) {
                Some(key) => {
                    self.home.rooms.remove(&key);
                    self.end_room(key);
                    return;
                }
                None if key.is_some() => self.home.linger.push_back((due_ms, name)),
                None => {}
            }
        }
    }

    /// Whether nobody is in a room of this home, and nothing of it is under way.
    fn is_empty_room(&self, key: RoomKey) -> bool {
        self.home.rooms.get(&key).is_some_and(|room| {
            room.users.is_empty()
                && room.subscribers == 0
                && room.publishing == 0
                && room.opening.is_none()
        }) && self
            .hub
            .room(key)
            .is_some_and(|room| room.members().is_empty() && room.joins_pending == 0)
            && !self.home.reads.keys().any(|&(reading, ..)| reading == key)
            && !self
                .home
                .resuming
                .keys()
                .any(|&(resuming, ..)| resuming == key)
            && !self.home.histories.is_reading(key)
            && !self.lanes.is_behind(key)
    }

    pub(super) fn end_room(&mut self, key: RoomKey) {
        if let Some(room) = self.hub.room_mut(key) {
            room.is_home = false;
            let name = room.name.clone();
            self.home.backplane.close(&name);
            self.lanes.forget(key);
        }
        self.release_room(key);
    }
}
