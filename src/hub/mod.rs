//! One shard's rooms and members, and who must be written to.
//!
//! A room holds its log and a cursor for each member. What is published is appended to the log once
//! ([`Hub::publish`]); a sweep ([`Hub::sweep`]) then sends each member what lies between its cursor
//! and the log's end, straight from the log, through an [`Outlet`].
//!
//! It knows no socket, no JSON and no clock: a frame is bytes, a connection is a number, and the
//! outlet says how many bytes it took. Where offsets come from is the home shard's affair.
//!
//! Invariants: a dirty room is in the queue exactly once; the bytes of all logs are at most
//! `log_bytes_max` after each call, but for the chunk that is being written; a member's cursor
//! never falls, and every offset that it passes was sent, skipped on purpose (`echo:false`) or told
//! by [`Outlet::gap`].

mod chunk;
mod lane;
mod log;
mod members;
mod room;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

pub use chunk::Chunk;
pub use lane::Audience;
pub use log::RoomLog;
pub use members::{ConnIndex, Member};
pub use room::Room;
pub use sweep::Outlet;

use crate::model::{Epoch, RoomName};

/// Which room of a hub: valid until the room is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoomKey(u32);

/// Pages that a hub has asked for and not got.
const PAGES_ASKED_MAX: usize = 64;

/// What a hub counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubCounters {
    /// Frames sent to members from the logs and pages.
    pub delivered: u64,
    /// Of these, frames sent from pages to members that came back.
    pub replayed: u64,
    /// Members told that they missed something because they were slow.
    pub slow_gaps: u64,
    /// Members told that something was lost.
    pub lost_gaps: u64,
}

/// One shard's rooms.
#[derive(Debug)]
pub struct Hub {
    rooms: Vec<Option<Room>>,
    vacant: Vec<u32>,
    names: HashMap<RoomName, RoomKey>,
    /// Chunks of all logs in the order in which they were begun: room, its serial, first offset.
    chunks: VecDeque<(RoomKey, u64, u64)>,
    log_bytes: usize,
    log_bytes_max: usize,
    /// Bytes that were published since all had been swept.
    unswept_bytes: usize,
    dirty: VecDeque<RoomKey>,
    /// Rooms whose members wait for a page that could not be asked for yet.
    starved: Vec<RoomKey>,
    pages_asked: usize,
    serial: u64,
    /// What was counted.
    pub counters: HubCounters,
}

impl Hub {
    /// A hub without rooms, whose logs take at most `log_bytes_max` bytes.
    pub fn new(log_bytes_max: usize) -> Self {
        Self {
            rooms: Vec::new(),
            vacant: Vec::new(),
            names: HashMap::new(),
            chunks: VecDeque::new(),
            log_bytes: 0,
            log_bytes_max,
            unswept_bytes: 0,
            dirty: VecDeque::new(),
            starved: Vec::new(),
            pages_asked: 0,
            serial: 0,
            counters: HubCounters::default(),
        }
    }

    /// Rooms that are here.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no room is here.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Bytes of all logs.
    pub fn log_bytes(&self) -> usize {
        self.log_bytes
    }

    /// The room of that name, if it is here.
    pub fn find(&self, name: &str) -> Option<RoomKey> {
        self.names.get(name).copied()
    }

    /// The room of that name, made if it is not here.
    pub fn find_or_make(&mut self, name: &RoomName) -> RoomKey {
        if let Some(key) = self.find(name.as_str()) {
            return key;
        }
        self.serial += 1;
        let room = Room::new(name.clone(), self.serial);
        let key = match self.vacant.pop() {
            Some(index) => {
                self.rooms[index as usize] = Some(room);
                RoomKey(index)
            }
            None => {
                self.rooms.push(Some(room));
                RoomKey((self.rooms.len() - 1) as u32)
            }
        };
        self.names.insert(name.clone(), key);
        key
    }

    /// The room of `key`, if it is still here.
    pub fn room(&self, key: RoomKey) -> Option<&Room> {
        self.rooms.get(key.0 as usize)?.as_ref()
    }

    /// The room of `key`, if it is still here.
    pub fn room_mut(&mut self, key: RoomKey) -> Option<&mut Room> {
        self.rooms.get_mut(key.0 as usize)?.as_mut()
    }

    /// All rooms.
    pub fn rooms(&self) -> impl Iterator<Item = &Room> {
        self.rooms.iter().flatten()
    }

    /// Removes the room if nothing needs it any more: no member, no join under way, not kept for
    /// the home shard. Returns whether it did.
    pub fn remove_unused(&mut self, key: RoomKey) -> bool {
        if !self.room(key).is_some_and(Room::is_unused) {
            return false;
        }
        if let Some(room) = self.rooms[key.0 as usize].take() {
            self.log_bytes -= room.log().map_or(0, RoomLog::footprint);
            self.names.remove(&room.name);
            self.dirty.retain(|&other| other != key);
            self.vacant.push(key.0);
            if !room.asked.is_empty() {
                self.pages_asked -= room.asked.len();
                self.feed_starved();
            }
        }
        true
    }

    /// Makes sure that the room has a log of that epoch, one that goes on at `next` if it has none
    /// yet. A log of another epoch ends, and its members go on at `next` too.
    pub fn begin_log(&mut self, key: RoomKey, epoch: Epoch, next: u64) {
        if let Some(room) = self.room_mut(key)
            && room.epoch() != Some(epoch)
        {
            let freed = room.log().map_or(0, RoomLog::footprint);
            let asked = room.asked.len();
            room.begin_log(epoch, next);
            self.log_bytes -= freed;
            self.pages_asked -= asked;
            self.feed_starved();
        }
    }

    /// Offsets below `next` that have not come to the room's log will not come: its members are
    /// told.
    pub fn lose(&mut self, key: RoomKey, epoch: Epoch, next: u64) {
        if let Some(room) = self.room_mut(key)
            && room.epoch() == Some(epoch)
            && let Some(log) = room.log_mut()
            && log.next() < next
        {
            let freed = log.skip_to(next);
            self.log_bytes -= freed;
            self.mark_dirty(key);
        }
    }

    /// Appends the frame of the publication at `offset`. An offset below the log's end is a repeat
    /// and ignored (`false`); one above it means that what lies between is lost.
    pub fn publish(&mut self, key: RoomKey, epoch: Epoch, offset: u64, frame: &[u8]) -> bool {
        self.begin_log(key, epoch, offset);
        let Some(room) = self.rooms.get_mut(key.0 as usize).and_then(Option::as_mut) else {
            return false;
        };
        let serial = room.serial;
        let Some(log) = room.log_mut() else {
            return false;
        };
        if offset < log.next() {
            return false;
        }
        if offset > log.next() {
            self.log_bytes -= log.skip_to(offset);
        }
        let pushed = log.push(frame);
        self.log_bytes += pushed.grown;
        if let Some(first) = pushed.chunk {
            self.chunks.push_back((key, serial, first));
        }
        self.unswept_bytes += frame.len();
        self.mark_dirty(key);
        self.trim(key);
        true
    }

    /// Drops the oldest chunks of all while the logs are over their budget.
    fn trim(&mut self, writing: RoomKey) {
        while self.log_bytes > self.log_bytes_max {
            let Some(&(key, serial, first)) = self.chunks.front() else {
                return;
            };
            if key == writing && self.chunks.len() == 1 {
                return;
            }
            self.chunks.pop_front();
            if let Some(room) = self.room_mut(key)
                && room.serial == serial
                && let Some(log) = room.log_mut()
            {
                let freed = log.drop_chunk(first);
                self.log_bytes -= freed;
            }
        }
        // Entries of rooms that are gone or skipped ahead must not pile up.
        if self.chunks.len() > 1024 && self.chunks.len() > 4 * self.log_bytes / 256 {
            let rooms = &self.rooms;
            self.chunks.retain(|&(key, serial, first)| {
                rooms[key.0 as usize].as_ref().is_some_and(|room| {
                    room.serial == serial && room.log().is_some_and(|log| log.first() <= first)
                })
            });
        }
    }

    /// Adds frames that are kept for nobody: signals and presence, for who is caught up.
    pub fn whisper(&mut self, key: RoomKey, audience: Audience, frame: &[u8]) {
        if let Some(room) = self.room_mut(key)
            && room.lane.push(audience, frame)
        {
            self.mark_dirty(key);
        }
    }

    /// A page that was asked for at `offset` has come: frames from `offset` on, or none, and then
    /// the first offset that can be had.
    pub fn page_arrived(&mut self, key: RoomKey, offset: u64, page: Result<Arc<Chunk>, u64>) {
        let Some(room) = self.room_mut(key) else {
            return;
        };
        if !room.page_arrived(offset, page) {
            return;
        }
        self.pages_asked -= 1;
        self.mark_dirty(key);
        self.feed_starved();
    }

    /// A page may be asked for again.
    fn feed_starved(&mut self) {
        for starved in std::mem::take(&mut self.starved) {
            self.mark_dirty(starved);
        }
    }

    /// The connection of a member can be written to again.
    pub fn mark_dirty(&mut self, key: RoomKey) {
        if let Some(room) = self.room_mut(key) {
            if room.dirty {
                room.again = true;
            } else {
                room.dirty = true;
                self.dirty.push_back(key);
            }
        }
    }

    /// Whether so much waits to be swept that more would push out of the logs what nobody was
    /// offered yet: then sweep before anything else is published.
    pub fn is_pressed(&self) -> bool {
        self.is_dirty() && self.unswept_bytes > self.log_bytes_max / 4
    }

    /// Whether a sweep has something to do.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Sends members what they have not got, `sends_max` calls of the outlet at most (of one room:
    /// the rest of a big room takes its turn again behind the others). Returns whether there is
    /// more to do.
    pub fn sweep(&mut self, outlet: &mut impl Outlet, sends_max: usize) -> bool {
        let mut left = sends_max;
        for _ in 0..self.dirty.len() {
            let Some(key) = self.dirty.pop_front() else {
                break;
            };
            let Some(room) = self.rooms.get_mut(key.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            let mut pages = PAGES_ASKED_MAX - self.pages_asked.min(PAGES_ASKED_MAX);
            let before = room.asked.len();
            let done = room.sweep(key, outlet, &mut left, &mut pages, &mut self.counters);
            self.pages_asked += room.asked.len() - before;
            if std::mem::take(&mut room.starved) {
                self.starved.push(key);
            }
            if done {
                room.dirty = false;
            } else {
                self.dirty.push_back(key);
            }
            if left == 0 {
                break;
            }
        }
        if !self.is_dirty() {
            self.unswept_bytes = 0;
        }
        self.is_dirty()
    }

    /// Checks what the module's doc says.
    pub fn invariants(&self) {
        let mut bytes = 0;
        for room in self.rooms() {
            room.invariants();
            bytes += room.log().map_or(0, RoomLog::footprint);
        }
        assert_eq!(bytes, self.log_bytes, "the logs' bytes are counted");
        let asked: usize = self.rooms().map(|room| room.asked.len()).sum();
        assert_eq!(asked, self.pages_asked, "pages asked for are counted");
        for (index, room) in self.rooms.iter().enumerate() {
            if let Some(room) = room {
                let queued = self
                    .dirty
                    .iter()
                    .filter(|key| key.0 as usize == index)
                    .count();
                assert_eq!(
                    queued,
                    usize::from(room.dirty),
                    "a dirty room is queued once"
                );
            }
        }
    }
}
