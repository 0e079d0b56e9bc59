//! Members and publishers of a run: who joins what, who publishes when, what is measured.
//!
//! Connections 0..members are members; separate publishers follow. A publisher keeps a window of
//! publishes in flight (closed when its own message, or its `ack`, comes back), or all publish by
//! one schedule. Every message goes through the [`Checker`].

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use hdrhistogram::Histogram;

use crate::checker::Checker;
use crate::client::{Ending, Handler, Outbox};
use crate::poll::Swarm;
use crate::wire::{Frame, Marker, Scanner};

const LATENCY_NANOS_MAX: u64 = 600_000_000_000;
/// Different endings and errors that are told apart; the rest is counted as `other`.
const NAMES_MAX: usize = 64;

/// Who takes part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) run: u32,
    pub(crate) rooms: Vec<String>,
    /// The room of each member.
    pub(crate) members: Vec<usize>,
    /// Connection and room of each publisher.
    pub(crate) publishers: Vec<(usize, usize)>,
    /// Bytes of a payload, quotes included.
    pub(crate) payload: usize,
    /// Publishes ask for an `ack`, and that is what closes the window.
    pub(crate) acked: bool,
    /// Publishes bear an id.
    pub(crate) ids: bool,
}

impl Plan {
    /// How many connections it needs.
    pub(crate) fn connections(&self) -> usize {
        let last = self
            .publishers
            .iter()
            .map(|(connection, _)| connection + 1)
            .max();
        self.members.len().max(last.unwrap_or(0))
    }
}

/// When publishers publish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Not at all.
    Paused,
    /// So many in flight each.
    Window(u32),
    /// All together one every so many nanoseconds, from a time on.
    Every { nanos: f64, start: u64 },
}

#[derive(Debug, Default)]
struct Seat {
    publisher: Option<usize>,
    ready: bool,
    since: Option<u64>,
}

#[derive(Debug)]
struct Publisher {
    connection: usize,
    room: usize,
    sent: u32,
    in_flight: u32,
    /// It stops at this sequence number.
    quota: u32,
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
    text: Vec<u8>,
    /// Of messages meant to be sent within `measured`, to members below `measured_members`.
    pub(crate) latency: Histogram<u64>,
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
    pub(crate) pongs: u64,
    /// Close codes and the like of connections that ended, with counts.
    pub(crate) endings: BTreeMap<String, u64>,
    /// The connections that ended, newest last; who looks at it clears it.
    pub(crate) ended: Vec<usize>,
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
        let publisher_rooms: Vec<usize> = plan.publishers.iter().map(|(_, room)| *room).collect();
        let checker = Checker::new(plan.run, &plan.rooms, &plan.members, &publisher_rooms);
        let mut seats: Vec<Seat> = Vec::new();
        seats.resize_with(plan.connections(), Seat::default);
        let mut publishers = Vec::new();
        for (i, &(connection, room)) in plan.publishers.iter().enumerate() {
            seats[connection].publisher = Some(i);
            let quota = u32::MAX;
            publishers.push(Publisher {
                connection,
                room,
                sent: 0,
                in_flight: 0,
                quota,
            });
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
            round_trip: histogram(),
            lag: histogram(),
            measured: 0..0,
            measured_members: plan.members.len(),
            ready: 0,
            published: 0,
            acked: 0,
            refused: 0,
            pongs: 0,
            endings: BTreeMap::new(),
            ended: Vec::new(),
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
            .map(|publisher| u64::from(publisher.in_flight))
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
            .all(|p| p.sent >= p.quota && p.in_flight == 0)
    }

    /// Sets when publishers publish, and starts them.
    pub(crate) fn set_pace(&mut self, pace: Pace, swarm: &mut Swarm) {
        self.pace = pace;
        self.scheduled = 0;
        for publisher in 0..self.publishers.len() {
            let id = self.publishers[publisher].connection;
            if swarm.is_open(id) {
                let now = swarm.now();
                self.fill_window(publisher, swarm.outbox(id), now);
                swarm.flush(id, self);
            }
        }
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
        swarm.connect(id)
    }

    /// The connection is no longer there.
    pub(crate) fn take_off(&mut self, id: usize) {
        let seat = &mut self.seats[id];
        if std::mem::take(&mut seat.ready) {
            self.ready -= 1;
        }
        if let Some(publisher) = seat.publisher {
            self.publishers[publisher].in_flight = 0;
        }
    }

    /// Nanoseconds until the schedule wants something, from `now` on.
    pub(crate) fn due_in(&self, now: u64) -> Option<u64> {
        match self.pace {
            Pace::Every { .. } => Some(self.due().saturating_sub(now)),
            _ => None,
        }
    }

    fn due(&self) -> u64 {
        match self.pace {
            Pace::Every { nanos, start } => start + (self.scheduled as f64 * nanos) as u64,
            _ => u64::MAX,
        }
    }

    /// Publishes what the schedule wants by now. A publisher whose outbox is full is waited for:
    /// the schedule goes on, and the delay counts as latency.
    pub(crate) fn tick(&mut self, swarm: &mut Swarm) {
        let now = swarm.now();
        while self.due() <= now && !self.publishers.is_empty() {
            let publisher = (self.scheduled % self.publishers.len() as u64) as usize;
            let id = self.publishers[publisher].connection;
            if swarm.is_open(id) {
                if swarm.outbox(id).is_full() {
                    break;
                }
                let due = self.due();
                self.publish(publisher, swarm.outbox(id), due);
                swarm.flush(id, self);
                if self.measured.contains(&due) {
                    self.lag.saturating_record((swarm.now() - due).max(1));
                }
            }
            self.scheduled += 1;
        }
    }

    fn fill_window(&mut self, publisher: usize, out: &mut Outbox, now: u64) {
        let Pace::Window(window) = self.pace else {
            return;
        };
        loop {
            let state = &self.publishers[publisher];
            if state.in_flight >= window || state.sent >= state.quota || out.is_full() {
                return;
            }
            self.publish(publisher, out, now);
        }
    }

    fn publish(&mut self, publisher: usize, out: &mut Outbox, time: u64) {
        let state = &mut self.publishers[publisher];
        state.sent += 1;
        state.in_flight += 1;
        self.published += 1;
        let (run, sequence) = (self.plan.run, state.sent);
        let marker = Marker {
            run,
            publisher: publisher as u32,
            sequence,
            time,
        };
        let text = &mut self.text;
        text.clear();
        text.extend_from_slice(br#"{"type":"publish","room":""#);
        text.extend_from_slice(self.plan.rooms[state.room].as_bytes());
        text.extend_from_slice(br#"","payload":"#);
        marker.write(text, self.plan.payload);
        if self.plan.ids {
            text.extend_from_slice(br#","id":""#);
            text.extend_from_slice(Marker::id(run, marker.publisher, sequence).as_bytes());
            text.push(b'"');
        }
        if self.plan.acked {
            text.extend_from_slice(format!(r#","ref":"{sequence}""#).as_bytes());
        }
        text.push(b'}');
        out.text(text);
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
            self.latency.saturating_record(nanos);
        }
        if self.seats[id].publisher == Some(marker.publisher as usize) {
            if measured {
                self.round_trip.saturating_record(nanos);
            }
            if !self.plan.acked {
                let state = &mut self.publishers[marker.publisher as usize];
                state.in_flight = state.in_flight.saturating_sub(1);
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
            "ack" => self.on_ack(id, frame),
            "error" => {
                count(
                    &mut self.errors,
                    frame.code.as_deref().unwrap_or("without code"),
                );
                if let Some(publisher) = self.seats[id].publisher {
                    self.refused += 1;
                    let state = &mut self.publishers[publisher];
                    state.in_flight = state.in_flight.saturating_sub(1);
                }
            }
            "welcome" | "presence" | "pong" => {}
            other => count(&mut self.errors, other),
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
        }
    }

    fn on_ack(&mut self, id: usize, frame: &Frame<'_>) {
        let Some(publisher) = self.seats[id].publisher else {
            return;
        };
        self.acked += 1;
        let state = &mut self.publishers[publisher];
        state.in_flight = state.in_flight.saturating_sub(1);
        let offset = frame.offset.unwrap_or(0);
        self.checker.on_ack(state.room, offset);
        if let Some(ledger) = &mut self.ledger {
            let room = &self.plan.rooms[state.room];
            let id = frame.id.as_deref().unwrap_or("-");
            let number = frame.number().unwrap_or(0);
            if let Err(error) = writeln!(ledger, "{room} {offset} {id} {number}") {
                self.trouble = Some(format!("ledger: {error}"));
            }
        }
    }
}

impl Handler for Fleet {
    fn on_open(&mut self, id: usize, out: &mut Outbox, _now: u64) {
        let Some(&room) = self.plan.members.get(id) else {
            return self.get_ready(id);
        };
        let name = &self.plan.rooms[room];
        let since = self.seats[id].since.map_or(String::new(), |offset| {
            let epoch = self.checker.room_of(id).1;
            format!(r#","since":{{"epoch":"{epoch}","offset":{offset}}}"#)
        });
        out.text(format!(r#"{{"type":"join","room":"{name}"{since}}}"#).as_bytes());
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
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::client::Client;
    use crate::wire::{ACCEPT, opcode, write_server_frame};

    /// The generator must not be the bottleneck. To measure:
    /// `FRAME_TURNS=20000 cargo test --release --bin loadtest frames_ -- --nocapture`.
    #[test]
    fn frames_are_checked_fast() {
        const FRAMES: u32 = 64;
        let turns = std::env::var("FRAME_TURNS").map_or(20, |turns| turns.parse::<u32>().unwrap());
        let plan = Plan {
            run: 5,
            rooms: vec!["load-00000005-0".into()],
            members: vec![0],
            publishers: vec![(1, 0)],
            payload: 128,
            ..Plan::default()
        };
        let (mut fleet, mut client) = (Fleet::new(plan), Client::default());
        fleet.measured = 0..u64::MAX;
        let head = format!("HTTP/1.1 101 S\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
        client.on_bytes(0, head.as_bytes(), 0, &mut fleet).unwrap();
        fleet.checker.on_joined(0, "e", 0, None, None);
        let cpu = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let mut nanos = 0;
        for turn in 0..turns {
            let mut bytes = Vec::new();
            for i in 0..FRAMES {
                let (sequence, time) = (turn * FRAMES + i + 1, 7);
                let mut text = format!(
                    concat!(
                        r#"{{"type":"message","room":"load-00000005-0","offset":{},"#,
                        r#""id":"{}","user_id":"abcdefghijklmnop","#,
                        r#""username":"abcdefghijklmnop","payload":"#
                    ),
                    sequence,
                    Marker::id(5, 0, sequence)
                )
                .into_bytes();
                Marker {
                    run: 5,
                    publisher: 0,
                    sequence,
                    time,
                }
                .write(&mut text, 128);
                text.extend_from_slice(br#","sent_at":"2026-11-22T00:00:00.000Z"}"#);
                write_server_frame(&mut bytes, opcode::TEXT, &text);
            }
            let start = cpu();
            client.on_bytes(0, &bytes, 1000, &mut fleet).unwrap();
            nanos += cpu() - start;
        }
        assert!(
            fleet.checker.tally.is_proven(0),
            "{:?}",
            fleet.checker.tally
        );
        println!("{} ns a frame", nanos / i64::from(FRAMES * turns));
    }
}
