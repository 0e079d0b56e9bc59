//! The rooms that the shard follows: where each stands, what was lost, and its past.
//!
//! A room's last offset is read together with the partition's number at that moment, and counts
//! once the order has come as far:
//!
//! ```text
//! order   … 41 ─────── 42 (room, offset 7) ─────── 43 ───▶
//! reply        «room at 7, partition at 43»: opened here, at offset 7
//! ```
//!
//! If an item of the room comes before that, it says it better: it stands behind its own offset
//! less one. The same question, asked of rooms that are open, finds what a hole has swallowed when
//! nothing of the room came after it.

use bytes::Bytes;

use super::Partition;
use super::replies::{Question, state_of};
use crate::backplane::history::PageWant;
use crate::backplane::redis::envelope;
use crate::backplane::redis::partition_log::Page;
use crate::backplane::redis::recall::StreamRead;
use crate::backplane::redis::stream_page::StreamPage;
use crate::backplane::redis::{Item, order};
use crate::backplane::{Begun, Moment, Origin, Outcome, Resumed, Whole};
use crate::model::limits::{PAGE_BYTES_MAX, PAGE_PUBLICATIONS_MAX};
use crate::model::{Epoch, Position, RoomName};
use crate::resp::{Value, push_command};

/// A room that the shard follows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Followed {
    /// That of its last delivery; none while it is being opened.
    position: Option<Position>,
    /// What it has reached, as soon as the order has come to that number.
    reached: Option<(Epoch, u64, u64)>,
    /// Its offset is asked for, or to be asked for.
    wants_offset: bool,
    /// How many questions for offsets had been asked when it was opened: who asked before that may
    /// be told of a time before, and what has passed since nobody followed.
    opened_behind: u64,
}

impl<T: Origin> Partition<T> {
    pub(in crate::backplane) fn open(&mut self, room: &RoomName) {
        if let Some(why) = self.why_away() {
            let (room, result) = (room.clone(), Err(why));
            self.outcomes.push(Outcome::Opened { room, result });
            return;
        }
        let followed = Followed {
            wants_offset: true,
            opened_behind: self.offsets_asked,
            ..Followed::default()
        };
        self.rooms.insert(room.clone(), followed);
        self.unasked.push(room.clone());
    }

    pub(in crate::backplane) fn close(&mut self, room: &RoomName) {
        self.rooms.remove(room);
    }

    pub(in crate::backplane) fn read(&mut self, room: &RoomName, epoch: Epoch, from: u64) {
        let newest = self.newest_of(room, epoch).unwrap_or(0);
        let (bytes, count) = (PAGE_BYTES_MAX, PAGE_PUBLICATIONS_MAX);
        let want = PageWant {
            room: room.clone(),
            epoch,
            from,
        };
        match self
            .log
            .page(room.as_str(), epoch, from, newest, bytes, count)
        {
            Page::Frames(frames) => self.push_page(want, Ok(frames)),
            Page::Older => match self.why_away() {
                Some(why) => self.push_page(want, Err(why)),
                None => self.want_past(want, newest),
            },
        }
    }

    pub(in crate::backplane) fn resume(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
        from: u64,
        kept: u64,
    ) {
        let want = PageWant {
            room: room.clone(),
            epoch,
            from,
        };
        let Some(newest) = self.newest_of(room, epoch) else {
            // Its epoch is over.
            self.push_resumed(want, Ok(None));
            return;
        };
        let until = kept.min(self.log.whole_from(room.as_str(), epoch, newest));
        match from >= until {
            true => self.push_resumed(want, Ok(Some(Vec::new()))),
            false => self.want_resume(want, until),
        }
    }

    /// The last offset of a room that is open, if it stands in that epoch.
    pub(super) fn newest_of(&self, room: &RoomName, epoch: Epoch) -> Option<u64> {
        let position = self.rooms.get(room)?.position?;
        (position.epoch == epoch).then_some(position.offset)
    }

    pub(super) fn push_resumed(&mut self, want: PageWant, result: Whole) {
        let PageWant { room, epoch, from } = want;
        self.outcomes.push(Outcome::Resumed(Resumed {
            room,
            epoch,
            from,
            result,
        }));
    }

    pub(super) fn push_page(&mut self, want: PageWant, page: Result<Vec<(u64, Bytes)>, String>) {
        let PageWant { room, epoch, from } = want;
        self.outcomes.push(Outcome::Page {
            room,
            epoch,
            from,
            page,
        });
    }

    /// Why nothing can be read now.
    pub(super) fn why_away(&self) -> Option<String> {
        let is_away = !self.breaker.is_closed();
        is_away.then(|| "Redis is away; try again when it is back".to_owned())
    }

    /// Reads of the stream that are due.
    pub(super) fn ask_stream(&mut self, now_ms: u64) {
        let stream = self.names.stream.as_bytes();
        if let Some(order::Read { after, count }) = self.order.poll_read(now_ms) {
            let (from, count_text) = (format!("({after}"), count.to_string());
            let (from, count_text) = (from.as_bytes(), count_text.as_bytes());
            let out = self.commands.ask(now_ms, Question::Repair(count));
            push_command(out, &[b"XRANGE", stream, from, b"+", b"COUNT", count_text]);
            self.counters.commands += 1;
        }
        if let Some(read) = self.recall.poll_read() {
            self.counters.commands += 1;
            match read {
                StreamRead::Back { before, count } => {
                    let before = format!("({before}");
                    let count_text = count.to_string();
                    let (before, count_text) = (before.as_bytes(), count_text.as_bytes());
                    let out = self.commands.ask(now_ms, Question::Recall(count, true));
                    push_command(
                        out,
                        &[b"XREVRANGE", stream, before, b"-", b"COUNT", count_text],
                    );
                }
                StreamRead::Forward { from, count } => {
                    let (from, count_text) = (from.to_string(), count.to_string());
                    let (from, count_text) = (from.as_bytes(), count_text.as_bytes());
                    let out = self.commands.ask(now_ms, Question::Recall(count, false));
                    push_command(out, &[b"XRANGE", stream, from, b"+", b"COUNT", count_text]);
                }
            }
        }
    }

    pub(super) fn on_recall_page(&mut self, page: &StreamPage) {
        let mut recalled = Vec::new();
        self.recall.on_page(page, &mut recalled);
        self.on_recalled(recalled);
    }

    pub(super) fn on_recall_failed(&mut self) {
        let mut recalled = Vec::new();
        self.recall.on_failed(&mut recalled);
        self.on_recalled(recalled);
    }

    /// The commands wire is gone, and with it what was asked.
    pub(super) fn lose_questions(&mut self, now_ms: u64) {
        if self.order.is_reading() {
            self.order.on_read_failed(now_ms);
        }
        self.on_recall_failed();
        self.lose_floors();
        self.lose_listings();
        self.snapshot_heads.clear();
        self.roster.on_redis_back(now_ms);
        let wanting = self.rooms.iter().filter(|(_, room)| room.wants_offset);
        self.unasked = wanting.map(|(name, _)| name.clone()).collect();
    }

    /// Rooms that were being opened can't be.
    pub(super) fn fail_opening(&mut self, why: &str) {
        let opening = self
            .rooms
            .iter()
            .filter(|(_, room)| room.position.is_none());
        let opening: Vec<_> = opening.map(|(name, _)| name.clone()).collect();
        for room in opening {
            self.rooms.remove(&room);
            let result = Err(why.to_owned());
            self.outcomes.push(Outcome::Opened { room, result });
        }
    }

    pub(super) fn on_offsets(
        &mut self,
        moment: &mut Moment<'_>,
        number: u64,
        asked: Vec<RoomName>,
        reply: Value,
    ) {
        let Some((epoch, seq)) = state_of(&reply) else {
            self.unasked.extend(asked);
            // Without a state there is no epoch: the greeting makes one.
            self.greet_again(moment.ms);
            return;
        };
        let offsets = reply.as_list().unwrap_or_default().iter().skip(2);
        for (room, offset) in asked.into_iter().zip(offsets) {
            let offset = offset
                .as_text()
                .and_then(|text| std::str::from_utf8(text).ok());
            let offset = offset.and_then(|text| text.parse().ok()).unwrap_or(0);
            let followed = self.rooms.get_mut(&room);
            if let Some(followed) = followed.filter(|it| it.opened_behind < number) {
                followed.wants_offset = false;
                followed.reached = Some((epoch, seq, offset));
                self.reaching.push(room);
            }
        }
        self.open_reached();
    }

    /// Rooms whose answer the order has come up to.
    pub(super) fn open_reached(&mut self) {
        let Some((epoch, seq, _)) = self.known() else {
            return;
        };
        for room in std::mem::take(&mut self.reaching) {
            let Some(followed) = self.rooms.get_mut(&room) else {
                continue;
            };
            let Some((at_epoch, at_seq, offset)) = followed.reached else {
                continue;
            };
            if at_epoch < epoch {
                // It was of an epoch that is over.
                followed.reached = None;
                followed.wants_offset = true;
                self.unasked.push(room);
                continue;
            }
            if (at_epoch, at_seq) > (epoch, seq) {
                self.reaching.push(room);
                continue;
            }
            followed.reached = None;
            let here = Position { epoch, offset };
            match followed.position {
                None => {
                    followed.position = Some(here);
                    let result = Ok(here);
                    self.push_ready(0, Outcome::Opened { room, result });
                }
                Some(position) if position.epoch == epoch && position.offset < offset => {
                    followed.position = Some(here);
                    let next = offset + 1;
                    self.push_ready(0, Outcome::Lost { room, epoch, next });
                }
                Some(_) => {}
            }
        }
    }

    /// The next item of the partition.
    pub(super) fn on_item(&mut self, item: Item) {
        self.log.push(&item);
        if self.publisher.unsettled() > 0 {
            let mut settled = Vec::new();
            self.publisher
                .on_own(&item.room, item.id, item.offset, &mut settled);
            self.settle(settled);
        }
        let skip = self.skips.take(&item.id);
        let arrived_us = self.arrivals.take(&item.id);
        let Item {
            place,
            room,
            offset,
            json,
            ..
        } = item;
        let epoch = place.epoch;
        let followed = match self.rooms.get_mut(&room) {
            Some(followed) => followed,
            // Its user may be here, without having joined.
            None if room.personal_user().is_some() => self.rooms.entry(room.clone()).or_default(),
            None => return,
        };
        let before = Position {
            epoch,
            offset: offset - 1,
        };
        let position = followed.position.replace(Position { epoch, offset });
        match position {
            None => {
                let (room, result) = (room.clone(), Ok(before));
                self.push_ready(0, Outcome::Opened { room, result });
            }
            Some(position) if position.epoch == epoch && position.offset >= offset => {
                followed.position = Some(position);
                return;
            }
            Some(position) if position.offset < before.offset => {
                let (room, next) = (room.clone(), offset);
                self.push_ready(0, Outcome::Lost { room, epoch, next });
            }
            Some(_) => {}
        }
        let elsewhere = || envelope::sent_at(&json).map_or(Begun::Unknown, Begun::Elsewhere);
        let begun = arrived_us.map_or_else(elsewhere, Begun::Here);
        let bytes = json.len();
        let deliver = Outcome::Deliver {
            room,
            epoch,
            offset,
            json,
            skip,
            begun,
        };
        self.push_ready(bytes, deliver);
    }

    /// From here on items are of a new epoch.
    pub(super) fn on_epoch(&mut self, epoch: Epoch) {
        self.counters.epochs += 1;
        self.saw_epoch(epoch);
        for followed in self.rooms.values_mut() {
            if let Some(position) = &mut followed.position {
                *position = Position { epoch, offset: 0 };
            }
        }
        self.push_ready(0, Outcome::Epoch(epoch));
    }

    /// Something is not in the stream any more: what was it?
    pub(super) fn on_hole(&mut self) {
        for (room, followed) in &mut self.rooms {
            if followed.position.is_some() && !followed.wants_offset {
                followed.wants_offset = true;
                self.unasked.push(room.clone());
            }
        }
    }
}
