//! Members and publishers of a run: who joins what, who publishes when, what is measured.
//!
//! Connections 0..members are members; separate publishers follow. A publisher keeps a window of
//! publishes in flight (closed when its own message, or its `ack`, comes back), or all publish by
//! one schedule. Every message goes through the [`Checker`]. A member's delivery is *remote* if its
//! publisher is on another instance.
//!
//! With `retry` a schedule goes on while a publisher's connection is away: what it should have
//! published waits in its outbox, and all that is unacked is sent when it is back.

mod publishing;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use hdrhistogram::Histogram;

use crate::agreement::Agreement;
use crate::checker::Checker;
use crate::client::{Ending, Handler, Outbox};
use crate::plan::{Pace, Plan};
use crate::poll::Swarm;
use crate::publisher::Publisher;
use crate::wire::{Frame, Marker, Scanner};

const LATENCY_NANOS_MAX: u64 = 600_000_000_000;
/// Different endings and errors that are told apart; the rest is counted as `other`.
const NAMES_MAX: usize = 64;
/// A publish that was refused for now is sent again after this.
const RETRY_NANOS: u64 = 200_000_000;
/// Errors that say "not now".
const RETRIED: [&str; 3] = ["unavailable", "overloaded", "rate_limited"];

#[derive(Debug, Default)]
struct Seat {
    publisher: Option<usize>,
    /// The instance, by its place among the targets.
    instance: usize,
    ready: bool,
    since: Option<u64>,
    /// When it is to come back, by the server's `going_away`.
    reconnect_at: Option<u64>,
}

/// What clients were told besides messages, with counts of frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    pub(crate) degraded: u64,
    /// That it is over.
    pub(crate) healed: u64,
    pub(crate) pending: u64,
    pub(crate) going_away: u64,
}

/// The handler of a run.
pub(crate) struct Fleet {
    plan: Plan,
    pub(crate) checker: Checker,
    scanner: Scanner,
    seats: Vec<Seat>,
    publishers: Vec<Publisher>,
    pace: Pace,
    scheduled: u64,
    /// Publishes that were refused for now.
    waiting: usize,
    text: Vec<u8>,
    /// Of messages meant to be sent within `measured`, to members below `measured_members` on the
    /// publisher's own instance.
    pub(crate) latency: Histogram<u64>,
    /// The same to members elsewhere.
    pub(crate) remote: Histogram<u64>,
    /// From when it was meant to be sent to its ack.
    pub(crate) ack_latency: Histogram<u64>,
    /// The publishers' own messages back at themselves.
    pub(crate) round_trip: Histogram<u64>,
    /// How far behind its schedule a publish was handed to the socket.
    pub(crate) lag: Histogram<u64>,
    pub(crate) measured: Range<u64>,
    pub(crate) measured_members: usize,
    pub(crate) ready: usize,
    pub(crate) published: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    /// Publishes that were sent again.
    pub(crate) retried: u64,
    /// Publishes that a schedule left out, since the outbox was full.
    pub(crate) left_out: u64,
    /// The schedule ends at so many publishes.
    pub(crate) published_max: u64,
    pub(crate) told: Told,
    pub(crate) pongs: u64,
    /// Close codes and the like of connections that ended, with counts.
    pub(crate) endings: BTreeMap<String, u64>,
    /// The connections that ended, newest last; who looks at it clears it.
    pub(crate) ended: Vec<usize>,
    /// The members that joined, or publishers that connected, likewise.
    pub(crate) joined: Vec<usize>,
    /// Error codes and frames that were not expected, with counts.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Gets a line `room offset id n` for each ack.
    pub(crate) ledger: Option<Box<dyn Write>>,
    /// The ledger could not be written.
    pub(crate) trouble: Option<String>,
}

pub(crate) fn histogram() -> Histogram<u64> {
    // The bounds are constants that the crate accepts.
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).unwrap_or_else(|_| unreachable!())
}

pub(crate) fn count(names: &mut BTreeMap<String, u64>, name: &str) {
    let known = names.len() < NAMES_MAX || names.contains_key(name);
    *names
        .entry(if known { name } else { "other" }.into())
        .or_default() += 1;
}

impl Fleet {
    /// A fleet that has not yet connected.
    pub(crate) fn new(plan: Plan) -> Self {
        let rooms: Vec<usize> = plan.publishers.iter().map(|(_, room)| *room).collect();
        let mut checker = Checker::new(plan.run, &plan.rooms, &plan.members, &rooms);
        if plan.agreement {
            checker.agreement = Some(Agreement::new(plan.rooms.len(), &plan.members, &rooms));
        }
        let seat = |connection| Seat {
            instance: plan.instance(connection),
            ..Seat::default()
        };
        let mut seats: Vec<Seat> = (0..plan.connections()).map(seat).collect();
        let mut publishers = Vec::new();
        for (i, &(connection, room)) in plan.publishers.iter().enumerate() {
            seats[connection].publisher = Some(i);
            publishers.push(Publisher::new(connection, room));
        }
        Self {
            checker,
            scanner: Scanner::default(),
            seats,
            publishers,
            pace: Pace::Paused,
            scheduled: 0,
            text: Vec::new(),
            latency: histogram(),
            remote: histogram(),
            ack_latency: histogram(),
            round_trip: histogram(),
            lag: histogram(),
            measured: 0..0,
            measured_members: plan.members.len(),
            ready: 0,
            published: 0,
            acked: 0,
            refused: 0,
            retried: 0,
            left_out: 0,
            published_max: u64::MAX,
            told: Told::default(),
            waiting: 0,
            pongs: 0,
            endings: BTreeMap::new(),
            ended: Vec::new(),
            joined: Vec::new(),
            errors: BTreeMap::new(),
            ledger: None,
            trouble: None,
            plan,
        }
    }

    /// Who takes part.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Publishes sent and not yet answered.
    pub(crate) fn in_flight(&self) -> u64 {
        self.publishers
            .iter()
            .map(|publisher| u64::from(publisher.in_flight()))
            .sum()
    }

    /// How many messages each publisher has sent.
    pub(crate) fn sent(&self) -> Vec<u32> {
        self.publishers
            .iter()
            .map(|publisher| publisher.sent)
            .collect()
    }

    /// Lets every publisher publish `more` messages and then stop.
    pub(crate) fn set_quota(&mut self, more: u32) {
        for publisher in &mut self.publishers {
            publisher.quota = publisher.sent.saturating_add(more);
        }
    }

    /// Whether every publisher has reached its quota and all is answered.
    pub(crate) fn is_quota_done(&self) -> bool {
        self.publishers
            .iter()
            .all(|p| p.sent >= p.quota && p.in_flight() == 0)
    }

    /// Connects `id` anew; a member resumes after what it saw, if `since`.
    pub(crate) fn reconnect(
        &mut self,
        id: usize,
        since: bool,
        swarm: &mut Swarm,
    ) -> Result<(), String> {
        self.take_off(id);
        self.seats[id].since = None;
        if id < self.plan.members.len() {
            if since {
                self.seats[id].since = self.checker.seen(id);
            }
            self.checker.on_left(id);
        }
        swarm.connect(id, self.seats[id].instance)
    }

    /// The instance that connection `id` is at, or will be.
    pub(crate) fn instance(&self, id: usize) -> usize {
        self.seats[id].instance
    }

    /// Its next connection goes to another instance.
    pub(crate) fn send_to(&mut self, id: usize, instance: usize) {
        self.seats[id].instance = instance;
    }

    /// Whether connection `id` is up, and a member joined.
    pub(crate) fn is_ready(&self, id: usize) -> bool {
        self.seats[id].ready
    }

    /// When the server asked connection `id` to come back, told once.
    pub(crate) fn take_reconnect_at(&mut self, id: usize) -> Option<u64> {
        self.seats[id].reconnect_at.take()
    }

    /// When the oldest publish of connection `id` that waits for its ack was sent.
    pub(crate) fn oldest_unacked(&self, id: usize) -> Option<u64> {
        let publisher = &self.publishers[self.seats[id].publisher?];
        let oldest = publisher.unacked.iter().find(|u| u.retry_at.is_none())?;
        Some(oldest.touched)
    }

    /// The connection is no longer there.
    pub(crate) fn take_off(&mut self, id: usize) {
        let seat = &mut self.seats[id];
        if std::mem::take(&mut seat.ready) {
            self.ready -= 1;
        }
        if let Some(publisher) = seat.publisher {
            self.publishers[publisher].on_gone(self.plan.retry);
        }
    }

    fn on_message(
        &mut self,
        id: usize,
        room: &[u8],
        offset: u64,
        marker: Option<Marker>,
        now: u64,
    ) {
        if id >= self.plan.members.len() {
            self.checker.tally.misrouted += 1;
            return;
        }
        self.checker.on_message(id, room, offset, marker);
        let Some(marker) = marker.filter(|marker| marker.run == self.plan.run) else {
            return;
        };
        let nanos = now.saturating_sub(marker.time).max(1);
        let measured = self.measured.contains(&marker.time);
        if measured && id < self.measured_members {
            let publisher = self.publishers.get(marker.publisher as usize);
            let from = publisher.map_or(0, |p| self.seats[p.connection].instance);
            if from == self.seats[id].instance {
                self.latency.saturating_record(nanos);
            } else {
                self.remote.saturating_record(nanos);
            }
        }
        if self.seats[id].publisher == Some(marker.publisher as usize) {
            if measured {
                self.round_trip.saturating_record(nanos);
            }
            if !self.plan.acked {
                self.publishers[marker.publisher as usize].on_back();
            }
        }
    }

    fn on_frame(&mut self, id: usize, frame: &Frame<'_>, now: u64) {
        let is_member = id < self.plan.members.len();
        match frame.kind.as_ref() {
            "message" => {
                let room = frame.room.as_deref().unwrap_or_default().as_bytes();
                self.on_message(id, room, frame.offset.unwrap_or(0), frame.marker(), now);
            }
            "joined" if is_member => self.on_joined(id, frame),
            "gap" if is_member => {
                let (from, to) = (frame.from.unwrap_or(0), frame.to.unwrap_or(0));
                self.checker.on_gap(id, from, to);
            }
            "ack" => self.on_ack(id, frame, now),
            "error" => self.on_error(id, frame, now),
            "degraded" if frame.degraded == Some(true) => self.told.degraded += 1,
            "degraded" => self.told.healed += 1,
            "pending" => self.told.pending += 1,
            "going_away" => {
                self.told.going_away += 1;
                let wait = frame.reconnect_in_ms.map(|ms| ms.saturating_mul(1_000_000));
                self.seats[id].reconnect_at = wait.map(|wait| now.saturating_add(wait));
            }
            "welcome" | "presence" | "pong" => {}
            other => count(&mut self.errors, other),
        }
    }

    fn on_error(&mut self, id: usize, frame: &Frame<'_>, now: u64) {
        let code = frame.code.as_deref().unwrap_or("without code");
        count(&mut self.errors, code);
        let Some(publisher) = self.seats[id].publisher else {
            return;
        };
        let state = &mut self.publishers[publisher];
        let Some(sequence) = frame.number() else {
            state.on_back();
            self.refused += 1;
            return;
        };
        if self.plan.retry && RETRIED.contains(&code) {
            if state.put_off(sequence, now + RETRY_NANOS) {
                self.waiting += 1;
                self.checker.let_reorder(publisher as u32, sequence);
            }
        } else if state.on_answer(sequence).is_some() {
            self.refused += 1;
        } else {
            state.on_back();
        }
    }

    fn on_joined(&mut self, id: usize, frame: &Frame<'_>) {
        let epoch = frame.epoch.as_deref().unwrap_or_default();
        let since = self.seats[id].since.take();
        let offset = frame.offset.unwrap_or(0);
        self.checker
            .on_joined(id, epoch, offset, frame.recovered, since);
        self.get_ready(id);
    }

    fn get_ready(&mut self, id: usize) {
        if !std::mem::replace(&mut self.seats[id].ready, true) {
            self.ready += 1;
            self.joined.push(id);
        }
    }

    fn on_ack(&mut self, id: usize, frame: &Frame<'_>, now: u64) {
        let Some(publisher) = self.seats[id].publisher else {
            return;
        };
        let state = &mut self.publishers[publisher];
        let number = frame.number();
        let unacked = number.and_then(|number| state.on_answer(number));
        self.checker
            .on_ack(state.room, publisher, number, frame.offset);
        // A retry's ack may come after the first one's.
        let Some(unacked) = unacked else {
            return;
        };
        self.waiting -= usize::from(unacked.retry_at.is_some());
        self.acked += 1;
        if self.measured.contains(&unacked.time) {
            let nanos = now.saturating_sub(unacked.time).max(1);
            self.ack_latency.saturating_record(nanos);
        }
        if let Some(ledger) = &mut self.ledger {
            let room = &self.plan.rooms[state.room];
            let id = frame.id.as_deref().unwrap_or("-");
            let offset = frame.offset.unwrap_or(0);
            let number = unacked.sequence;
            if let Err(error) = writeln!(ledger, "{room} {offset} {id} {number}") {
                self.trouble = Some(format!("ledger: {error}"));
            }
        }
    }
}

impl Handler for Fleet {
    fn on_open(&mut self, id: usize, out: &mut Outbox, now: u64) {
        match self.plan.members.get(id) {
            Some(&room) => {
                let name = &self.plan.rooms[room];
                let since = self.seats[id].since.map_or(String::new(), |offset| {
                    let epoch = self.checker.room_of(id).1;
                    format!(r#","since":{{"epoch":"{epoch}","offset":{offset}}}"#)
                });
                out.text(format!(r#"{{"type":"join","room":"{name}"{since}}}"#).as_bytes());
            }
            None => self.get_ready(id),
        }
        if let Some(publisher) = self.seats[id].publisher.filter(|_| self.plan.retry) {
            self.send_unacked(publisher, out, now);
        }
    }

    fn on_text(&mut self, id: usize, _out: &mut Outbox, text: &[u8], now: u64) {
        if let Some(message) = self.scanner.message(text) {
            return self.on_message(id, message.room, message.offset, message.marker, now);
        }
        match Frame::read(text) {
            Some(frame) => self.on_frame(id, &frame, now),
            None => count(&mut self.errors, "unreadable frame"),
        }
    }

    fn on_drained(&mut self, id: usize, out: &mut Outbox, now: u64) {
        if let Some(publisher) = self.seats[id].publisher {
            self.fill_window(publisher, out, now);
        }
        if let Some(ledger) = &mut self.ledger
            && let Err(error) = ledger.flush()
        {
            self.trouble = Some(format!("ledger: {error}"));
        }
    }

    fn on_pong(&mut self, _id: usize) {
        self.pongs += 1;
    }

    fn on_closed(&mut self, id: usize, ending: &Ending, _now: u64) {
        self.take_off(id);
        if id < self.plan.members.len() {
            self.checker.on_left(id);
        }
        count(&mut self.endings, &ending.name());
        self.ended.push(id);
    }
}

#[cfg(test)]
mod tests;
