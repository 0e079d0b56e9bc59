//! One shard's rooms and members, and who must be written to.
//!
//! A room holds its log and a cursor for each member. What is published is appended to the log once
//! ([`Hub::publish`]); a sweep ([`Hub::sweep`]) then sends each member what lies between its cursor
//! and the log's end, straight from the log, through an [`Outlet`]. Members may take their frames
//! in another form ([`Encoding`]), which is made once for all who do.
//!
//! It knows no socket, no JSON and no clock: a frame is bytes, a connection is a number, and the
//! outlet says how many bytes it took. Where offsets come from is the home shard's affair.
//!
//! Invariants: a dirty room is in the queue exactly once; the bytes of all logs are at most
//! `log_bytes_max` after each call, but for the chunk that is being written; a member's cursor
//! never falls, and every offset that it passes was sent, skipped on purpose (`echo:false`) or told
//! by [`Outlet::gap`].

mod chunk;
mod encoding;
mod lane;
mod log;
mod logs;
mod members;
mod room;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

pub use chunk::Chunk;
pub use encoding::{Encode, Encoding, PlainOnly};
pub use lane::Audience;
pub use log::RoomLog;
pub use members::{ConnIndex, Member};
pub use room::Room;
pub use sweep::Outlet;

use crate::model::{Epoch, Position, RoomName};
use encoding::Encoder;

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
    /// Signals and presence that a member did not get, or nobody because there were too many.
    pub signals_dropped: u64,
}

/// A chunk of a room's log.
#[derive(Debug)]
struct Begun {
    key: RoomKey,
    serial: u64,
    encoding: Encoding,
    first: u64,
}

/// One shard's rooms.
#[derive(Debug)]
pub struct Hub {
    rooms: Vec<Option<Room>>,
    vacant: Vec<u32>,
    names: HashMap<RoomName, RoomKey>,
    /// Chunks of all logs in the order in which they were begun.
    chunks: VecDeque<Begun>,
    log_bytes: usize,
    log_bytes_max: usize,
    /// Bytes that were published since all had been swept.
    unswept_bytes: usize,
    dirty: VecDeque<RoomKey>,
    /// Rooms whose members wait for a page that could not be asked for yet.
    starved: Vec<RoomKey>,
    pages_asked: usize,
    serial: u64,
    encoder: Encoder,
    /// What was counted.
    pub counters: HubCounters,
}

impl Hub {
    /// A hub without rooms, whose logs take at most `log_bytes_max` bytes and whose members all
    /// take the plain form.
    pub fn new(log_bytes_max: usize) -> Self {
        Self::with_encode(log_bytes_max, Box::new(PlainOnly))
    }

    /// The same where `encode` makes the other forms that members take.
    pub fn with_encode(log_bytes_max: usize, encode: Box<dyn Encode>) -> Self {
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
            encoder: Encoder::new(encode),
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
            self.log_bytes -= room.footprint();
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
            let freed = room.footprint();
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
            && let Some(logs) = room.logs_mut()
            && logs.plain.next() < next
        {
            let freed = logs.skip_to(next);
            self.log_bytes -= freed;
            self.mark_dirty(key);
        }
    }

    /// Appends the frame of the publication at `offset`. An offset below the log's end is a repeat
    /// and ignored (`false`); one above it means that what lies between is lost.
    pub fn publish(&mut self, key: RoomKey, epoch: Epoch, offset: u64, frame: &[u8]) -> bool {
        self.begin_log(key, epoch, offset);
        let Some(logs) = self.room_mut(key).and_then(Room::logs_mut) else {
            return false;
        };
        if offset < logs.plain.next() {
            return false;
        }
        if offset > logs.plain.next() {
            let freed = logs.skip_to(offset);
            self.log_bytes -= freed;
        }
        self.append(key, Position { epoch, offset }, frame);
        self.mark_dirty(key);
        self.trim(key);
        true
    }

    /// Appends a frame to the logs of a room, in each form that a member takes.
    fn append(&mut self, key: RoomKey, position: Position, plain: &[u8]) {
        let Some(room) = self.rooms.get_mut(key.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let (serial, taken) = (
            room.serial,
            Encoding::OTHERS.map(|other| room.is_taken(other)),
        );
        let Some(logs) = room.logs_mut() else { return };
        let mut note = |encoding, bytes: usize, pushed: Option<log::Pushed>| {
            self.unswept_bytes += bytes;
            self.log_bytes += pushed.map_or(0, |pushed| pushed.grown);
            if let Some(first) = pushed.and_then(|pushed| pushed.chunk) {
                self.chunks.push_back(Begun {
                    key,
                    serial,
                    encoding,
                    first,
                });
            }
        };
        let pushed = logs.push(Encoding::Plain, plain);
        note(Encoding::Plain, plain.len(), pushed);
        if !logs.has_others() {
            return;
        }
        let mut freed = 0;
        for (encoding, taken) in Encoding::OTHERS.into_iter().zip(taken) {
            if taken {
                let frame = self.encoder.frame(encoding, position, plain);
                note(encoding, frame.len(), logs.push(encoding, frame));
            } else {
                freed += logs.drop_other(encoding);
            }
        }
        self.log_bytes -= freed;
    }

    /// Drops the oldest chunks of all while the logs are over their budget.
    fn trim(&mut self, writing: RoomKey) {
        while self.log_bytes > self.log_bytes_max {
            if self.is_last(writing) {
                return;
            }
            let Some(begun) = self.chunks.pop_front() else {
                return;
            };
            if let Some(room) = self.room_mut(begun.key)
                && room.serial == begun.serial
                && let Some(log) = room.logs_mut().and_then(|logs| logs.of_mut(begun.encoding))
            {
                let freed = log.drop_chunk(begun.first);
                self.log_bytes -= freed;
            }
        }
        // Entries of rooms that are gone or skipped ahead must not pile up.
        if self.chunks.len() > 1024 && self.chunks.len() > 4 * self.log_bytes / 256 {
            let rooms = &self.rooms;
            self.chunks.retain(|begun| {
                let room = rooms[begun.key.0 as usize].as_ref();
                let room = room.filter(|room| room.serial == begun.serial);
                let log = room.and_then(|room| room.logs()?.of(begun.encoding));
                log.is_some_and(|log| log.first() <= begun.first)
            });
        }
    }

    /// Whether there is nothing but the chunks that are being written, one for each form.
    fn is_last(&self, writing: RoomKey) -> bool {
        let mut forms = 0;
        self.chunks.len() <= 1 + Encoding::OTHERS.len()
            && self.chunks.iter().all(|begun| {
                let form = 1 << begun.encoding as u8;
                let is_only = forms & form == 0;
                forms |= form;
                begun.key == writing && is_only
            })
    }

    /// Adds frames that are kept for nobody: signals and presence, for who is caught up.
    pub fn whisper(&mut self, key: RoomKey, audience: Audience, frame: &[u8]) {
        match self
            .room_mut(key)
            .map(|room| room.lane.push(audience, frame))
        {
            Some(true) => self.mark_dirty(key),
            Some(false) => self.counters.signals_dropped += 1,
            None => {}
        }
    }

    /// A page that was asked for at `offset` has come: frames from `offset` on, or none, and then
    /// the first offset that can be had.
    pub fn page_arrived(&mut self, key: RoomKey, offset: u64, page: Result<Arc<Chunk>, u64>) {
        let Some(room) = self.rooms.get_mut(key.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(epoch) = room.epoch() else { return };
        let (at, encoder) = (Position { epoch, offset }, &mut self.encoder);
        let plain = page.as_ref().ok();
        let encode = |encoding| plain.map(|page| encoder.page(encoding, at, page));
        if !room.page_arrived(
            offset,
            page.as_ref().map(|_| ()).map_err(|&first| first),
            encode,
        ) {
            return;
        }
        self.pages_asked -= 1;
        self.mark_dirty(key);
        self.feed_starved();
    }

    /// Gives the member at `place` a page that begins at its cursor.
    pub fn give_page(&mut self, key: RoomKey, place: usize, page: &Arc<Chunk>) {
        let Some(room) = self.rooms.get_mut(key.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        if let Some(epoch) = room.epoch()
            && let Some(member) = room.members().get(place)
        {
            let offset = page.first();
            let at = Position { epoch, offset };
            let page = self.encoder.page(member.encoding, at, page);
            room.give_page(place, page);
        }
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
            bytes += room.footprint();
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
