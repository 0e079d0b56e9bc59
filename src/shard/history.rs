//! History over HTTP: `GET /api/rooms/{room}/messages` (PROTOCOL 2), read on the room's home shard.
//!
//! ```text
//! request ─▶ home: the room is open ─▶ [the end of an old epoch] ─▶ a range of offsets
//! answer  ◀─ which epoch was before ◀─ page after page: room log, or the backplane ◀─┘
//! ```
//!
//! Offsets have no holes but what was lost, so a page before an offset is the range below it, read
//! forward; which epoch was before is asked at the same time, and left out if that is not answered.
//! What nobody has any more is passed over. Pages are read once for all who want the same,
//! those who resume included (see `pages`).
//!
//! Invariants: at most [`HISTORIES_MAX`] are worked on at a time, the others wait in order; each is
//! answered within [`HISTORY_ANSWER_MS`]; an answer has at most [`HISTORY_BYTES_MAX`] bytes of
//! messages, or one message.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Shard;
use super::event::{ConnId, Reply, ShardId};
use super::pages::Waiter;
use crate::backplane::history::EpochEnds;
use crate::hub::RoomKey;
use crate::model::limits::{
    HISTORIES_MAX, HISTORIES_WAITING_MAX, HISTORY_ANSWER_MS, HISTORY_BYTES_MAX, PAGE_BYTES_MAX,
};
use crate::model::{Epoch, RoomName};
use crate::net::{Response, response};

/// Ranges that are looked into for messages before an offset, if there are none in the first.
const RANGES_MAX: u32 = 8;

/// What of a room's history is wanted.
#[derive(Clone, Debug)]
pub struct HistoryRequest {
    /// For whom.
    pub conn: ConnId,
    /// The room.
    pub room: RoomName,
    /// The epoch; none: that of now.
    pub epoch: Option<Epoch>,
    /// Only messages behind this offset.
    pub after: Option<u64>,
    /// Only messages before this offset.
    pub before: Option<u64>,
    /// So many at most: the first if `after` is given, else the last.
    pub limit: usize,
}

/// One that is worked on.
#[derive(Debug)]
struct Reading {
    id: u64,
    to: ShardId,
    request: HistoryRequest,
    key: RoomKey,
    epoch: Epoch,
    deadline_ms: u64,
    /// Whether the ends of the epoch are not known yet, and whether they are all that is awaited.
    wants_ends: bool,
    is_read: bool,
    previous: Option<Epoch>,
    /// What is still to be read.
    next: u64,
    until: u64,
    /// Where the range began, and how many were looked into.
    began: u64,
    ranges: u32,
    frames: VecDeque<Bytes>,
    bytes: usize,
}

/// All of a home shard.
#[derive(Debug, Default)]
pub(super) struct Histories {
    ids: u64,
    running: Vec<Reading>,
    waiting: VecDeque<(u64, ShardId, RoomKey, HistoryRequest)>,
}

impl Histories {
    /// Whether something of that room is wanted.
    pub(super) fn is_reading(&self, key: RoomKey) -> bool {
        self.running.iter().any(|reading| reading.key == key)
            || self.waiting.iter().any(|&(_, _, waits, _)| waits == key)
    }

    fn find(&mut self, id: u64) -> Option<&mut Reading> {
        self.running.iter_mut().find(|reading| reading.id == id)
    }
}

impl Reading {
    /// Whether the last messages of the range are wanted, and not the first.
    fn is_backwards(&self) -> bool {
        self.request.after.is_none()
    }

    /// The range of offsets that is wanted, in an epoch that goes to `last`.
    fn set_range(&mut self, last: u64) {
        let HistoryRequest {
            after,
            before,
            limit,
            ..
        } = self.request;
        let limit = limit as u64;
        let lowest = after.map_or(1, |after| after.saturating_add(1));
        let highest = before.map_or(last, |before| last.min(before.saturating_sub(1)));
        (self.next, self.until) = match after {
            Some(_) => (lowest, highest.min(after_all(lowest, limit))),
            None => ((highest + 1).saturating_sub(limit).max(lowest), highest),
        };
        self.began = self.next;
    }

    /// Takes a message, if there is room for it.
    fn take(&mut self, offset: u64, json: &Bytes) {
        self.next = offset + 1;
        self.bytes += json.len();
        self.frames.push_back(json.clone());
        if self.bytes <= HISTORY_BYTES_MAX || self.frames.len() == 1 {
            return;
        }
        if !self.is_backwards() {
            self.frames.pop_back();
            self.until = 0;
        }
        while self.is_backwards()
            && self.bytes > HISTORY_BYTES_MAX
            && self.frames.len() > 1
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    /// Looks into the range below, if there was nothing in this one.
    fn goes_on_below(&mut self) -> bool {
        let goes_on = self.is_backwards()
            && self.frames.is_empty()
            && self.began > 1
            && self.ranges < RANGES_MAX;
        if goes_on {
            self.ranges += 1;
            self.until = self.began - 1;
            self.next = self.began.saturating_sub(self.request.limit as u64).max(1);
            self.began = self.next;
        }
        goes_on
    }

    fn answer(&self) -> Response {
        let mut body = Vec::with_capacity(self.bytes + self.frames.len() + 128);
        body.extend_from_slice(b"{\"epoch\":\"");
        body.extend_from_slice(self.epoch.as_str().as_bytes());
        if let Some(previous) = self.previous {
            body.extend_from_slice(b"\",\"previous_epoch\":\"");
            body.extend_from_slice(previous.as_str().as_bytes());
        }
        body.extend_from_slice(b"\",\"messages\":[");
        for (at, frame) in self.frames.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(frame);
        }
        body.extend_from_slice(b"]}");
        response::build(200, response::JSON, &[], &body)
    }
}

/// The last of `count` offsets from `first` on.
fn after_all(first: u64, count: u64) -> u64 {
    first.saturating_add(count).saturating_sub(1)
}

impl Shard {
    /// The room is open.
    pub(super) fn serve_history(&mut self, to: ShardId, key: RoomKey, request: HistoryRequest) {
        let histories = &mut self.home.histories;
        if histories.waiting.len() >= HISTORIES_WAITING_MAX {
            self.refuse_history(to, &request, 503, "too many read history at once");
            return;
        }
        let deadline_ms = self.now.ms + HISTORY_ANSWER_MS;
        histories.waiting.push_back((deadline_ms, to, key, request));
        self.begin_histories();
    }

    /// Begins with those whose turn it is.
    fn begin_histories(&mut self) {
        while self.home.histories.running.len() < HISTORIES_MAX
            && let Some((deadline_ms, to, key, request)) = self.home.histories.waiting.pop_front()
        {
            let Some(position) = self.position_of(key) else {
                self.refuse_history(to, &request, 503, "the room could not be opened");
                continue;
            };
            let epoch = request.epoch.unwrap_or(position.epoch);
            let room = request.room.clone();
            let histories = &mut self.home.histories;
            histories.ids += 1;
            histories.running.push(Reading {
                id: histories.ids,
                to,
                request,
                key,
                epoch,
                deadline_ms,
                wants_ends: true,
                is_read: false,
                previous: None,
                next: 1,
                until: 0,
                began: 1,
                ranges: 1,
                frames: VecDeque::new(),
                bytes: 0,
            });
            let id = histories.ids;
            self.home.backplane.ends(&room, epoch);
            // How far the epoch of now goes is known by heart.
            if epoch == position.epoch
                && let Some(reading) = self.home.histories.find(id)
            {
                reading.set_range(position.offset);
                self.read_history(id);
            }
        }
    }

    pub(super) fn on_ends(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
        ends: &Result<EpochEnds, String>,
    ) {
        let waits = |reading: &&mut Reading| {
            reading.wants_ends && reading.epoch == epoch && reading.request.room == *room
        };
        let running = self.home.histories.running.iter_mut();
        let ids: Vec<_> = running.filter(waits).map(|reading| reading.id).collect();
        for id in ids {
            let Some(reading) = self.home.histories.find(id) else {
                continue;
            };
            reading.wants_ends = false;
            reading.previous = ends.as_ref().ok().and_then(|ends| ends.previous);
            let (key, is_read, began) = (reading.key, reading.is_read, reading.until > 0);
            let is_now = self.position_of(key).is_some_and(|now| now.epoch == epoch);
            match ends {
                _ if is_read => self.end_history(id, None),
                _ if is_now || began => {}
                Ok(ends) => {
                    if let Some(reading) = self.home.histories.find(id) {
                        reading.set_range(ends.last);
                    }
                    self.read_history(id);
                }
                Err(why) => self.end_history(id, Some(why)),
            }
        }
    }

    /// Reads on, until a page must be waited for or all is there.
    fn read_history(&mut self, id: u64) {
        loop {
            let Some(reading) = self.home.histories.find(id) else {
                return;
            };
            if reading.next > reading.until {
                if reading.goes_on_below() {
                    continue;
                }
                self.end_history(id, None);
                return;
            }
            let (key, epoch, next) = (reading.key, reading.epoch, reading.next);
            let room = reading.request.room.clone();
            let is_now = self.position_of(key).is_some_and(|now| now.epoch == epoch);
            let log = self.hub.room(key).and_then(|room| room.log());
            let page = log
                .filter(|_| is_now)
                .and_then(|log| log.page(next, PAGE_BYTES_MAX));
            match page {
                Some(page) if !page.is_empty() => {
                    let Some(reading) = self.home.histories.find(id) else {
                        return;
                    };
                    for offset in page.first()..page.after() {
                        if offset <= reading.until {
                            let frame = page.frame(offset);
                            let json = Bytes::copy_from_slice(super::home::text_of(frame));
                            reading.take(offset, &json);
                        }
                    }
                }
                _ => {
                    self.read_page(key, room, epoch, next, Waiter::History(id));
                    return;
                }
            }
        }
    }

    /// A page that was waited for.
    pub(super) fn on_history_page(&mut self, id: u64, page: &Result<Vec<(u64, Bytes)>, String>) {
        let Some(reading) = self.home.histories.find(id) else {
            return;
        };
        let frames = match page {
            Ok(frames) => frames,
            Err(why) => {
                self.end_history(id, Some(why));
                return;
            }
        };
        let (key, epoch, asked) = (reading.key, reading.epoch, reading.next);
        for (offset, json) in frames {
            // A first one behind a hole may come without its frame: it is read from there.
            if *offset > reading.until || json.is_empty() {
                reading.next = *offset;
                break;
            }
            reading.take(*offset, json);
        }
        if reading.next == asked {
            // Nobody has it; the room's log may begin behind it.
            let is_now = self.position_of(key).is_some_and(|now| now.epoch == epoch);
            let log = self.hub.room(key).and_then(|room| room.log());
            let first = log.filter(|_| is_now).map(|log| log.first());
            let first = first.filter(|&first| first > asked);
            if let Some(reading) = self.home.histories.find(id) {
                reading.next = first.unwrap_or(u64::MAX);
            }
        }
        self.read_history(id);
    }

    /// All is there that can be had; or why it can't be.
    fn end_history(&mut self, id: u64, why: Option<&str>) {
        if let Some(reading) = self.home.histories.find(id)
            && why.is_none()
            && reading.wants_ends
        {
            reading.is_read = true;
            return;
        }
        let running = &mut self.home.histories.running;
        let Some(at) = running.iter().position(|reading| reading.id == id) else {
            return;
        };
        let reading = running.swap_remove(at);
        match why {
            None => {
                let (conn, response) = (reading.request.conn, reading.answer());
                self.reply(reading.to, Reply::Http { conn, response });
            }
            Some(why) => self.refuse_history(reading.to, &reading.request, 503, why),
        }
        self.begin_histories();
    }

    /// Answers with an error.
    pub(super) fn refuse_history(
        &mut self,
        to: ShardId,
        request: &HistoryRequest,
        status: u16,
        why: &str,
    ) {
        let again = [("Retry-After", "1")];
        let response = response::error(status, "unavailable", why, &again);
        let conn = request.conn;
        self.reply(to, Reply::Http { conn, response });
    }

    /// Answers those who have waited too long.
    pub(super) fn expire_histories(&mut self) {
        let now_ms = self.now.ms;
        let why = "history can't be read now; try again later";
        let histories = &mut self.home.histories;
        let late = histories.running.iter();
        let late = late.filter(|reading| reading.deadline_ms <= now_ms);
        let late: Vec<_> = late.map(|reading| reading.id).collect();
        for id in late {
            let reading = self.home.histories.find(id);
            let is_read = reading.is_some_and(|reading| {
                reading.wants_ends = false;
                reading.is_read
            });
            self.end_history(id, Some(why).filter(|_| !is_read));
        }
        while let Some((deadline_ms, ..)) = self.home.histories.waiting.front()
            && *deadline_ms <= now_ms
            && let Some((_, to, _, request)) = self.home.histories.waiting.pop_front()
        {
            self.refuse_history(to, &request, 503, why);
        }
    }
}
