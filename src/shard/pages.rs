//! The way back: what a member missed is read from the home shard's room log or from the store.
//!
//! One read for all who wait for the same page. A join with `since` is answered once it is known
//! that everything after it can be had, and its first page was read; a member then takes page after
//! page until its own shard's log reaches back to its cursor. If a page can't be read now, since
//! the store or PostgreSQL is away, it is read again: only after [`PAGE_TRIES_MAX`] is the member
//! told that something is missing.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;

use super::Shard;
use super::event::{Join, Joined, Reply, Request, ShardId};
use crate::backplane::Resumed;
use crate::hub::{Chunk, RoomKey, RoomLog};
use crate::model::limits::{PAGE_BYTES_MAX, PAGE_RETRY_MS, PAGE_TRIES_MAX};
use crate::model::{Epoch, ErrorCode, Position, RoomName};
use crate::net::push_text;

/// A page that could not be read, and is tried again.
#[derive(Debug)]
pub(super) struct LatePage {
    due_ms: u64,
    to: ShardId,
    key: RoomKey,
    room: RoomName,
    from: u64,
    tries: u32,
}

/// Joins that wait to hear whether all from an offset on can be had.
pub(super) type Resuming = HashMap<(RoomKey, Epoch, u64), Vec<(ShardId, Join)>>;

/// Who waits for a page of the past.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A join with `since`.
    Join(ShardId, Join),
    /// A member on its way, and how often its page could not be read.
    Page(ShardId, u32),
    /// Who reads history over HTTP.
    History(u64),
}

impl Shard {
    /// Answers a join, at once or when the past was read.
    pub(super) fn answer_join(&mut self, from: ShardId, key: RoomKey, join: Join) {
        let Some(position) = self.position_of(key) else {
            let why = "the room is not open here";
            self.refuse_request(from, Request::Join(join), ErrorCode::Internal, why);
            return;
        };
        let recovered = match join.since {
            None => None,
            Some((Some(epoch), offset)) if epoch == position.epoch && offset <= position.offset => {
                let log = self.hub.room(key).and_then(|room| room.log());
                let kept = log.map_or(position.offset + 1, RoomLog::first);
                if offset + 1 >= kept {
                    // A shard without the room's log yet gets the past by pages.
                    Some(true)
                } else {
                    self.resume(key, epoch, offset + 1, kept, (from, join));
                    return;
                }
            }
            Some(_) => Some(false),
        };
        self.send_joined(from, key, join, recovered, None);
    }

    /// Asks whether all that a join missed can be had; once for all who missed the same.
    fn resume(&mut self, key: RoomKey, epoch: Epoch, from: u64, kept: u64, join: (ShardId, Join)) {
        let room = join.1.room.clone();
        let joins = self.home.resuming.entry((key, epoch, from)).or_default();
        joins.push(join);
        if joins.len() == 1 {
            self.home.backplane.resume(&room, epoch, from, kept);
        }
    }

    /// It is known whether all can be had, or why not.
    pub(super) fn on_resumed(&mut self, resumed: Resumed) {
        let Resumed {
            room,
            epoch,
            from,
            result,
        } = resumed;
        let key = self.hub.find(room.as_str());
        let joins = key.and_then(|key| self.home.resuming.remove(&(key, epoch, from)));
        let (Some(key), Some(joins)) = (key, joins) else {
            return;
        };
        let joins = joins.into_iter().map(|(to, join)| Waiter::Join(to, join));
        match result {
            Ok(Some(page)) if page.is_empty() => {
                joins.for_each(|join| self.read_page(key, room.clone(), epoch, from, join));
            }
            result => {
                let page = result.map(Option::unwrap_or_default);
                self.answer_waiters(key, &room, epoch, from, joins, page);
            }
        }
    }

    fn send_joined(
        &mut self,
        to: ShardId,
        key: RoomKey,
        join: Join,
        recovered: Option<bool>,
        page: Option<Arc<Chunk>>,
    ) {
        let Some(position) = self.position_of(key) else {
            return;
        };
        let joined = Joined {
            epoch: position.epoch,
            newest: position.offset,
            recovered,
            members: self.user_count(key),
            page,
            join,
        };
        self.reply(to, Reply::Joined(joined));
    }

    /// A member on another shard, or on this one, wants the past from `offset` on.
    pub(super) fn serve_page(&mut self, to: ShardId, key: RoomKey, room: RoomName, offset: u64) {
        let log = self.hub.room(key).and_then(|room| room.log());
        if let Some(page) = log.and_then(|log| log.page(offset, PAGE_BYTES_MAX)) {
            let page = Ok(Arc::new(page));
            self.reply(
                to,
                Reply::Page {
                    room,
                    from: offset,
                    page,
                },
            );
        } else {
            self.read_page_for(to, key, room, offset, 0);
        }
    }

    fn read_page_for(&mut self, to: ShardId, key: RoomKey, room: RoomName, from: u64, tries: u32) {
        if let Some(position) = self.position_of(key) {
            self.read_page(key, room, position.epoch, from, Waiter::Page(to, tries));
        }
    }

    /// Reads again what could not be read.
    pub(super) fn read_late_pages(&mut self) {
        while let Some(late) = self.home.late_pages.front()
            && late.due_ms <= self.now.ms
            && let Some(late) = self.home.late_pages.pop_front()
        {
            let LatePage {
                to,
                key,
                room,
                from,
                tries,
                ..
            } = late;
            self.read_page_for(to, key, room, from, tries);
        }
    }

    /// What a page should begin with is gone: the first offset that can be had instead.
    fn send_lost(
        &mut self,
        to: ShardId,
        key: RoomKey,
        room: RoomName,
        from: u64,
        first: Option<u64>,
    ) {
        let log_first = self
            .hub
            .room(key)
            .and_then(|room| room.log())
            .map(|log| log.first());
        let first = first.or(log_first).unwrap_or(0).max(from + 1);
        self.reply(
            to,
            Reply::Page {
                room,
                from,
                page: Err(first),
            },
        );
    }

    pub(super) fn read_page(
        &mut self,
        key: RoomKey,
        room: RoomName,
        epoch: Epoch,
        from: u64,
        waiter: Waiter,
    ) {
        let waiters = self.home.reads.entry((key, epoch, from)).or_default();
        waiters.push(waiter);
        if waiters.len() == 1 {
            self.home.backplane.read(&room, epoch, from);
        }
    }

    /// Where an open room stands.
    pub(super) fn position_of(&self, key: RoomKey) -> Option<Position> {
        self.home.rooms.get(&key).and_then(|room| room.position)
    }

    /// A page was read.
    pub(super) fn on_page_read(
        &mut self,
        room: &RoomName,
        epoch: Epoch,
        from: u64,
        frames: Result<Vec<(u64, Bytes)>, String>,
    ) {
        let Some(key) = self.hub.find(room.as_str()) else {
            return;
        };
        let Some(waiters) = self.home.reads.remove(&(key, epoch, from)) else {
            return;
        };
        let mut others = Vec::new();
        for waiter in waiters {
            match waiter {
                Waiter::History(id) => self.on_history_page(id, &frames),
                waiter => others.push(waiter),
            }
        }
        self.answer_waiters(key, room, epoch, from, others, frames);
    }

    /// Answers joins, and members on their way, with what was read for them.
    fn answer_waiters(
        &mut self,
        key: RoomKey,
        room: &RoomName,
        epoch: Epoch,
        from: u64,
        waiters: impl IntoIterator<Item = Waiter>,
        frames: Result<Vec<(u64, Bytes)>, String>,
    ) {
        // Of an epoch that is over nothing can be had.
        let is_over = self.position_of(key).map(|position| position.epoch) != Some(epoch);
        let frames = if is_over { Ok(Vec::new()) } else { frames };
        let first = frames.as_ref().ok().and_then(|page| page.first());
        let first = first.map(|&(offset, _)| offset);
        let page = match &frames {
            Ok(frames) if first == Some(from) => Some(Arc::new(chunk_of(from, frames))),
            _ => None,
        };
        let why = frames.err();
        for waiter in waiters {
            match (waiter, &page, &why) {
                (Waiter::History(_), ..) => {}
                (Waiter::Join(to, join), _, Some(why)) => {
                    // It was counted: its shard says whether it still needs the room.
                    let counted = (!join.again).then(|| join.user_id.clone());
                    let (code, why) = (ErrorCode::Unavailable, why.clone());
                    self.refuse_join(to, join, counted, code, why);
                }
                (Waiter::Join(to, join), Some(page), None) => {
                    self.send_joined(to, key, join, Some(true), Some(page.clone()));
                }
                (Waiter::Join(to, join), None, None) => {
                    self.send_joined(to, key, join, Some(false), None);
                }
                (Waiter::Page(to, _), Some(page), _) => {
                    let (room, page) = (room.clone(), Ok(page.clone()));
                    self.reply(to, Reply::Page { room, from, page });
                }
                (Waiter::Page(to, tries), None, Some(_)) if tries < PAGE_TRIES_MAX => {
                    self.home.late_pages.push_back(LatePage {
                        due_ms: self.now.ms + PAGE_RETRY_MS,
                        to,
                        key,
                        room: room.clone(),
                        from,
                        tries: tries + 1,
                    });
                }
                (Waiter::Page(to, _), None, _) => {
                    self.send_lost(to, key, room.clone(), from, first);
                }
            }
        }
    }
}

/// A page as the frames that members get.
fn chunk_of(first: u64, frames: &[(u64, Bytes)]) -> Chunk {
    let mut chunk = Chunk::with_capacity(first, 0);
    let mut frame = Vec::new();
    for (offset, json) in frames {
        if *offset != chunk.after() {
            break;
        }
        frame.clear();
        push_text(&mut frame, json);
        chunk.push(&frame);
    }
    chunk
}
