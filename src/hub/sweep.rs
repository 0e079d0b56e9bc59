//! The sweep: one send to each member of all between its cursor and the log's end.
//!
//! The bytes go out straight from the log's chunk (or a page of the past). Of a frame that the
//! socket took in part, the rest is given to the outlet to keep, so the cursor always stands
//! between frames and no chunk is pinned by a slow member. A member whose connection takes no more
//! is passed by until the outlet says that it is ready again; its cursor waits, and nobody else
//! does.

use std::sync::Arc;

use super::chunk::Chunk;
use super::room::Room;
use super::{ConnIndex, HubCounters, Member, RoomKey};
use crate::model::RoomName;

/// Where a sweep sends to.
pub trait Outlet {
    /// Whether `conn` can take bytes now.
    fn ready(&mut self, conn: ConnIndex) -> bool;

    /// Sends `bytes`, behind what is to go before them; returns how many were taken. Fewer than
    /// all: no more can be taken now.
    fn send(&mut self, conn: ConnIndex, bytes: &[u8]) -> usize;

    /// Keeps the rest of a frame that was sent in part; it goes before all else.
    fn keep(&mut self, conn: ConnIndex, rest: &[u8]);

    /// Tells `conn` that it does not get the offsets `from ..= to`: because it was `slow`, or
    /// because they are lost. `false`: the connection is being closed instead.
    fn gap(&mut self, conn: ConnIndex, room: &RoomName, from: u64, to: u64, slow: bool) -> bool;

    /// Asks for a page of the past that begins at `offset`.
    fn want_page(&mut self, room: RoomKey, offset: u64);
}

/// How a member's turn ended.
#[derive(PartialEq, Eq)]
enum Step {
    /// Something was done: look again.
    Again,
    /// It has all there is.
    CaughtUp,
    /// It waits: for its socket, for a page, or it is being closed.
    Waits,
}

impl Room {
    /// Sweeps members from where the last call stopped. Returns whether the room is done.
    pub(super) fn sweep(
        &mut self,
        key: RoomKey,
        outlet: &mut impl Outlet,
        left: &mut usize,
        pages: &mut usize,
        counters: &mut HubCounters,
    ) -> bool {
        loop {
            let next = self.log().map_or(0, super::RoomLog::next);
            if self.at == 0 {
                self.again = false;
                self.lane_carried = self.lane.len();
                self.swept_to = next;
            }
            while self.at < self.members().len() {
                if *left == 0 {
                    return false;
                }
                if self.lane_carried == 0 && self.sweep_alike(outlet, left, counters) {
                    continue;
                }
                let place = self.at;
                self.at += 1;
                if self.members()[place].cursor < next || self.lane_carried > 0 {
                    *left -= 1;
                    self.sweep_member(place, key, outlet, pages, counters);
                }
            }
            self.at = 0;
            let swept_to = self.swept_to;
            if let Some(logs) = self.logs_mut() {
                logs.swept_to(swept_to);
            }
            self.lane.drop_first(self.lane_carried);
            self.lane_carried = 0;
            if !self.again && self.lane.is_empty() {
                return true;
            }
        }
    }

    /// Sends to members in a row that want the same frames, as nearly all do: what they want is
    /// looked up once. Returns whether there was one; none: the next is a case of its own.
    fn sweep_alike(
        &mut self,
        outlet: &mut impl Outlet,
        left: &mut usize,
        counters: &mut HubCounters,
    ) -> bool {
        let from = self.at;
        let (Some(logs), members) = self.parts() else {
            return false;
        };
        let Member {
            cursor, encoding, ..
        } = members[from];
        let Some(chunk) = logs
            .of(encoding)
            .and_then(|log| log.chunk(cursor))
            .filter(|chunk| chunk.after() == logs.plain.next())
        else {
            return false;
        };
        let (bytes, after) = (chunk.from(cursor), chunk.after());
        let is_alike = |m: &Member| m.cursor == cursor && m.encoding == encoding && m.is_ordinary();
        let alike = members[from..].iter_mut().take(*left);
        let mut met = 0;
        for member in alike.take_while(|member| is_alike(member)) {
            met += 1;
            if outlet.ready(member.conn) {
                member.cursor = match outlet.send(member.conn, bytes) {
                    sent if sent == bytes.len() => after,
                    sent => cut_short(chunk, cursor, sent, member.conn, outlet),
                };
                counters.delivered += member.cursor - cursor;
            }
        }
        self.at += met;
        *left -= met;
        met > 0
    }

    fn sweep_member(
        &mut self,
        place: usize,
        key: RoomKey,
        outlet: &mut impl Outlet,
        pages: &mut usize,
        counters: &mut HubCounters,
    ) {
        if !outlet.ready(self.members()[place].conn) {
            counters.signals_dropped += self.lane_carried as u64;
            return;
        }
        let end = loop {
            let member = self.members()[place];
            let step = if self.log().is_none_or(|log| member.cursor >= log.next()) {
                Step::CaughtUp
            } else if member.replays() {
                self.replay_step(place, key, outlet, pages, counters)
            } else {
                self.live_step(place, outlet, counters)
            };
            if step != Step::Again {
                break step;
            }
        };
        if end != Step::CaughtUp {
            counters.signals_dropped += self.lane_carried as u64;
        } else if self.lane_carried > 0 {
            let member = self.members()[place];
            for (at, bytes) in self.lane.pieces_for(&member, self.lane_carried) {
                let sent = outlet.send(member.conn, bytes);
                if sent < bytes.len() {
                    let rest = self.lane.rest(at + sent);
                    if sent > 0 && !rest.is_empty() {
                        outlet.keep(member.conn, rest);
                    }
                    return;
                }
            }
        }
    }

    /// Sends from the log.
    fn live_step(
        &mut self,
        place: usize,
        outlet: &mut impl Outlet,
        counters: &mut HubCounters,
    ) -> Step {
        let member = self.members()[place];
        let Some(logs) = self.logs() else {
            return Step::CaughtUp;
        };
        match logs.chunk(member.encoding, member.cursor) {
            Some(chunk) => {
                let until = self.skip_until(place);
                let (cursor, step) = send_from(chunk, member.cursor, until, member.conn, outlet);
                counters.delivered += cursor - member.cursor;
                self.pass_to(place, cursor);
                step
            }
            None => {
                let first = logs.first(member.encoding);
                let slow = member.cursor >= logs.plain.lost_before();
                self.tell_gap(place, first, slow, outlet, counters)
            }
        }
    }

    /// Sends from a page of the past, or asks for one, until the log reaches back far enough.
    fn replay_step(
        &mut self,
        place: usize,
        key: RoomKey,
        outlet: &mut impl Outlet,
        pages: &mut usize,
        counters: &mut HubCounters,
    ) -> Step {
        let member = self.members()[place];
        if self
            .logs()
            .is_some_and(|logs| member.cursor >= logs.first(member.encoding))
        {
            self.set_cursor(place, member.cursor);
            return Step::Again;
        }
        let Some(replay) = self.replays.get_mut(&member.conn) else {
            return Step::Waits;
        };
        if member.cursor < replay.lost_before {
            let lost_before = replay.lost_before;
            return self.tell_gap(place, lost_before, false, outlet, counters);
        }
        let page = replay.page.take().filter(|page| page.covers(member.cursor));
        if let Some(page) = page {
            return self.send_page(place, page, outlet, counters);
        }
        if self.asked.contains(&member.cursor) {
            return Step::Waits;
        }
        if *pages == 0 {
            self.starved = true;
        } else {
            *pages -= 1;
            self.asked.push(member.cursor);
            outlet.want_page(key, member.cursor);
        }
        Step::Waits
    }

    fn send_page(
        &mut self,
        place: usize,
        page: Arc<Chunk>,
        outlet: &mut impl Outlet,
        counters: &mut HubCounters,
    ) -> Step {
        let member = self.members()[place];
        // Where the log takes over, the page ends: frames may stand in both.
        let until = self
            .logs()
            .map_or(u64::MAX, |logs| logs.first(member.encoding))
            .min(self.skip_until(place));
        let (cursor, step) = send_from(&page, member.cursor, until, member.conn, outlet);
        counters.delivered += cursor - member.cursor;
        counters.replayed += cursor - member.cursor;
        self.pass_to(place, cursor);
        step
    }

    fn tell_gap(
        &mut self,
        place: usize,
        first: u64,
        slow: bool,
        outlet: &mut impl Outlet,
        counters: &mut HubCounters,
    ) -> Step {
        let member = self.members()[place];
        if !outlet.gap(member.conn, &self.name, member.cursor, first - 1, slow) {
            return Step::Waits;
        }
        if slow {
            counters.slow_gaps += 1;
        } else {
            counters.lost_gaps += 1;
        }
        self.pass_to(place, first);
        if outlet.ready(member.conn) {
            Step::Again
        } else {
            Step::Waits
        }
    }

    /// The first offset that the member must not get.
    fn skip_until(&self, place: usize) -> u64 {
        let member = self.members()[place];
        if !member.skips() {
            return u64::MAX;
        }
        self.skips
            .get(&member.conn)
            .and_then(|offsets| offsets.front().copied())
            .unwrap_or(u64::MAX)
    }

    /// Moves a cursor on, and past what is skipped there.
    fn pass_to(&mut self, place: usize, mut cursor: u64) {
        let conn = self.members()[place].conn;
        let mut skips = self.members()[place].skips();
        if skips && let Some(offsets) = self.skips.get_mut(&conn) {
            while let Some(&offset) = offsets.front()
                && offset <= cursor
            {
                cursor += u64::from(offset == cursor);
                offsets.pop_front();
            }
            if offsets.is_empty() {
                self.skips.remove(&conn);
                skips = false;
            }
        }
        self.update(place, cursor, skips);
    }
}

/// Sends the frames of `chunk` from `cursor` on, below `until`. Returns the new cursor.
fn send_from(
    chunk: &Chunk,
    cursor: u64,
    until: u64,
    conn: ConnIndex,
    outlet: &mut impl Outlet,
) -> (u64, Step) {
    let after = chunk.after().min(until);
    if after <= cursor {
        return (cursor, Step::Again);
    }
    let bytes = if after == chunk.after() {
        chunk.from(cursor)
    } else {
        chunk.range(cursor, after)
    };
    let sent = outlet.send(conn, bytes);
    if sent == bytes.len() {
        return (after, Step::Again);
    }
    (cut_short(chunk, cursor, sent, conn, outlet), Step::Waits)
}

/// Of the frames of `chunk` from `cursor` on only `sent` bytes were taken: keeps the rest of the
/// frame that was cut. Returns the new cursor.
fn cut_short(
    chunk: &Chunk,
    cursor: u64,
    sent: usize,
    conn: ConnIndex,
    outlet: &mut impl Outlet,
) -> u64 {
    let (next, rest) = chunk.cut(cursor, sent);
    if !rest.is_empty() {
        outlet.keep(conn, rest);
    }
    next
}
