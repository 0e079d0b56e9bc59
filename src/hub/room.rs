//! One room on one shard: its logs, its members' cursors, its lane, and who reads pages of the
//! past.
//!
//! Sending is in `sweep.rs`.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::chunk::Chunk;
use super::encoding::{Encoding, OTHERS};
use super::lane::Lane;
use super::log::RoomLog;
use super::logs::Logs;
use super::members::{ConnIndex, Member};
use crate::model::{Epoch, RoomName};

/// One room on one shard.
#[derive(Debug)]
pub struct Room {
    /// Its name.
    pub name: RoomName,
    /// Joins of this shard's connections that the home shard has not answered.
    pub joins_pending: u32,
    /// Whether this shard is the room's home, which keeps the room without members too.
    pub is_home: bool,
    /// Distinguishes this room from another that had the same key before.
    pub(super) serial: u64,
    logs: Option<Logs>,
    members: Vec<Member>,
    /// Members of each form but the plain one.
    others: [u32; OTHERS],
    pub(super) lane: Lane,
    /// Frames of the lane that the sweep under way carries.
    pub(super) lane_carried: usize,
    pub(super) dirty: bool,
    /// Whether something came while the room was already dirty, so that one more sweep is needed.
    pub(super) again: bool,
    /// The member that the sweep under way comes to next.
    pub(super) at: usize,
    /// The log's end when the sweep under way began.
    pub(super) swept_to: u64,
    pub(super) replays: HashMap<ConnIndex, Replay>,
    pub(super) skips: HashMap<ConnIndex, VecDeque<u64>>,
    /// Offsets at which pages have been asked for.
    pub(super) asked: Vec<u64>,
    /// Whether a page was wanted that could not be asked for.
    pub(super) starved: bool,
}

/// A member's way through the past.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The page it reads; let go as soon as its socket takes no more, so that nobody slow pins it.
    pub(super) page: Option<Arc<Chunk>>,
    /// What lies before this offset can no longer be had.
    pub(super) lost_before: u64,
}

impl Room {
    pub(super) fn new(name: RoomName, serial: u64) -> Self {
        Self {
            name,
            joins_pending: 0,
            is_home: false,
            serial,
            logs: None,
            members: Vec::new(),
            others: [0; OTHERS],
            lane: Lane::default(),
            lane_carried: 0,
            dirty: false,
            again: false,
            at: 0,
            swept_to: 0,
            replays: HashMap::new(),
            skips: HashMap::new(),
            asked: Vec::new(),
            starved: false,
        }
    }

    /// The plain log, once it is known where it begins.
    pub fn log(&self) -> Option<&RoomLog> {
        self.logs.as_ref().map(|logs| &logs.plain)
    }

    pub(super) fn logs(&self) -> Option<&Logs> {
        self.logs.as_ref()
    }

    pub(super) fn logs_mut(&mut self) -> Option<&mut Logs> {
        self.logs.as_mut()
    }

    /// Bytes of its logs.
    pub(super) fn footprint(&self) -> usize {
        self.logs.as_ref().map_or(0, Logs::footprint)
    }

    /// The epoch of the log's offsets.
    pub fn epoch(&self) -> Option<Epoch> {
        self.logs.as_ref().map(|logs| logs.epoch)
    }

    /// Begins a log; if there was one of another epoch, its members go on where this one begins.
    pub(super) fn begin_log(&mut self, epoch: Epoch, next: u64) {
        let mut logs = Logs::new(epoch, next);
        for encoding in Encoding::OTHERS {
            if self.is_taken(encoding) {
                logs.want(encoding);
            }
        }
        let before = self.logs.replace(logs);
        if before.is_some() {
            self.replays.clear();
            self.skips.clear();
            self.asked.clear();
            for member in &mut self.members {
                member.cursor = next;
                member.set_replays(false);
                member.set_skips(false);
            }
        }
    }

    /// Whether a member takes that form.
    pub(super) fn is_taken(&self, encoding: Encoding) -> bool {
        encoding.other().is_none_or(|at| self.others[at] > 0)
    }

    /// Its members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The logs, and the members to send from them to.
    pub(super) fn parts(&mut self) -> (Option<&Logs>, &mut [Member]) {
        (self.logs.as_ref(), &mut self.members)
    }

    /// Whether nothing needs it any more.
    pub fn is_unused(&self) -> bool {
        self.members.is_empty() && self.joins_pending == 0 && !self.is_home
    }

    /// Adds a member; returns its place among the members, which [`Room::remove`] needs.
    pub fn add(&mut self, member: Member) -> usize {
        if let Some(at) = member.encoding.other() {
            self.others[at] += 1;
            if let Some(logs) = &mut self.logs {
                logs.want(member.encoding);
            }
        }
        self.members.push(member);
        let place = self.members.len() - 1;
        self.set_cursor(place, member.cursor);
        place
    }

    /// Lets the member at `place` go on at `cursor`, through pages of the past if the log does not
    /// reach back to it.
    pub fn set_cursor(&mut self, place: usize, cursor: u64) {
        let Some(member) = self.members.get_mut(place) else {
            return;
        };
        let logs = self.logs.as_ref();
        let behind = logs.is_some_and(|logs| cursor < logs.first(member.encoding));
        member.cursor = cursor;
        member.set_replays(behind);
        let conn = member.conn;
        if behind {
            self.replays.insert(conn, Replay::default());
        } else {
            self.replays.remove(&conn);
        }
    }

    /// Lets the member at `place` take the past by pages, if the log does not reach back to it any
    /// more when it is its turn: it has come for the past, and is not slow.
    pub fn begin_replay(&mut self, place: usize) {
        if let Some(member) = self.members.get_mut(place) {
            member.set_replays(true);
            self.replays.entry(member.conn).or_default();
        }
    }

    /// Gives the member at `place` a page that begins at its cursor, in the form that it takes.
    pub(super) fn give_page(&mut self, place: usize, page: Arc<Chunk>) {
        if let Some(member) = self.members.get(place)
            && let Some(replay) = self.replays.get_mut(&member.conn)
        {
            replay.page = Some(page);
        }
    }

    /// Whether the member at `place` wants presence events, and whether it joined by itself.
    pub fn set_flags(&mut self, place: usize, presence: bool, implicit: bool) {
        if let Some(member) = self.members.get_mut(place) {
            member.presence = presence;
            member.implicit = implicit;
        }
    }

    /// Removes the member at `place`. The last member takes that place: returns its connection.
    pub fn remove(&mut self, place: usize) -> Option<ConnIndex> {
        if place >= self.members.len() {
            return None;
        }
        let member = self.members.swap_remove(place);
        if let Some(at) = member.encoding.other() {
            // The log goes when something is published that nobody would take in this form.
            self.others[at] -= 1;
        }
        self.replays.remove(&member.conn);
        self.skips.remove(&member.conn);
        let moved = self.members.get(place).map(|member| member.conn);
        if moved.is_some() && place < self.at {
            // A member that the sweep had still before it now stands behind it.
            self.again = true;
        }
        moved
    }

    /// Lets the member at `place` not get the frame at `offset`: its ack takes the place.
    pub fn skip(&mut self, place: usize, offset: u64) {
        if let Some(member) = self.members.get_mut(place)
            && member.cursor <= offset
        {
            member.set_skips(true);
            self.skips.entry(member.conn).or_default().push_back(offset);
        }
    }

    pub(super) fn update(&mut self, place: usize, cursor: u64, skips: bool) {
        if let Some(member) = self.members.get_mut(place) {
            member.cursor = cursor;
            member.set_skips(skips);
        }
    }

    /// See [`super::Hub::page_arrived`]; returns whether such a page was asked for. `encode` gives
    /// the page in the form that a member takes.
    pub(super) fn page_arrived(
        &mut self,
        offset: u64,
        page: Result<(), u64>,
        mut encode: impl FnMut(Encoding) -> Option<Arc<Chunk>>,
    ) -> bool {
        let Some(index) = self.asked.iter().position(|&asked| asked == offset) else {
            return false;
        };
        self.asked.swap_remove(index);
        for member in self
            .members
            .iter()
            .filter(|m| m.replays() && m.cursor == offset)
        {
            if let Some(replay) = self.replays.get_mut(&member.conn) {
                match page {
                    Ok(()) => replay.page = encode(member.encoding),
                    Err(lost_before) => replay.lost_before = lost_before,
                }
            }
        }
        true
    }

    /// Checks what the module's doc says.
    pub fn invariants(&self) {
        if let Some(logs) = &self.logs {
            logs.invariants();
        }
        for encoding in Encoding::OTHERS {
            let of_it = self.members.iter().filter(|m| m.encoding == encoding);
            let counted = encoding.other().map(|at| self.others[at] as usize);
            assert_eq!(
                Some(of_it.count()),
                counted,
                "members of a form are counted"
            );
            let log = self.logs.as_ref().map(|logs| logs.of(encoding).is_some());
            assert!(
                !self.is_taken(encoding) || log != Some(false),
                "a form that is taken has its log"
            );
        }
        for member in &self.members {
            assert_eq!(
                member.replays(),
                self.replays.contains_key(&member.conn),
                "replays agree"
            );
        }
        assert!(
            self.replays.len() <= self.members.len(),
            "only members replay"
        );
        assert!(self.skips.len() <= self.members.len(), "only members skip");
    }
}
