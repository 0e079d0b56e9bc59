//! The publishing half of a fleet: the schedule, the windows, and what is sent again.

use super::Fleet;
use crate::client::Outbox;
use crate::plan::Pace;
use crate::poll::Swarm;
use crate::publisher::{UNACKED_MAX, write_publish};
use crate::wire::Marker;

impl Fleet {
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
        self.send_put_off(swarm);
        while self.due() <= now && !self.publishers.is_empty() {
            if self.published >= self.published_max {
                return;
            }
            let publisher = (self.scheduled % self.publishers.len() as u64) as usize;
            let id = self.publishers[publisher].connection;
            let due = self.due();
            if swarm.is_open(id) {
                if swarm.outbox(id).is_full() {
                    break;
                }
                self.publish(publisher, Some(swarm.outbox(id)), due, now);
                swarm.flush(id, self);
                if self.measured.contains(&due) {
                    self.lag.saturating_record((swarm.now() - due).max(1));
                }
            } else if self.plan.retry {
                if self.publishers[publisher].unacked.len() < UNACKED_MAX {
                    self.publish(publisher, None, due, now);
                } else {
                    self.left_out += 1;
                }
            }
            self.scheduled += 1;
        }
    }

    pub(super) fn fill_window(&mut self, publisher: usize, out: &mut Outbox, now: u64) {
        let Pace::Window(window) = self.pace else {
            return;
        };
        loop {
            let state = &self.publishers[publisher];
            let over = state.sent >= state.quota || self.published >= self.published_max;
            if over || state.in_flight() >= window || out.is_full() {
                return;
            }
            self.publish(publisher, Some(out), now, now);
        }
    }

    fn publish(&mut self, publisher: usize, out: Option<&mut Outbox>, time: u64, now: u64) {
        let state = &mut self.publishers[publisher];
        let sequence = state.next(self.plan.acked, time, now);
        self.published += 1;
        self.checker.on_sent(publisher, state.room);
        if let Some(out) = out {
            self.write(publisher, sequence, time, out);
        }
    }

    fn write(&mut self, publisher: usize, sequence: u32, time: u64, out: &mut Outbox) {
        let room = &self.plan.rooms[self.publishers[publisher].room];
        let marker = Marker {
            run: self.plan.run,
            publisher: publisher as u32,
            sequence,
            time,
        };
        let (payload, id, acked) = (self.plan.payload, self.plan.ids, self.plan.acked);
        write_publish(&mut self.text, room, marker, payload, id, acked);
        out.text(&self.text);
    }

    /// All that is unacked, in the order of its first sending.
    pub(super) fn send_unacked(&mut self, publisher: usize, out: &mut Outbox, now: u64) {
        for place in 0..self.publishers[publisher].unacked.len() {
            let unacked = &mut self.publishers[publisher].unacked[place];
            unacked.touched = now;
            self.waiting -= usize::from(unacked.retry_at.take().is_some());
            let (sequence, time) = (unacked.sequence, unacked.time);
            self.retried += 1;
            self.write(publisher, sequence, time, out);
        }
    }

    /// What was refused for now and is due again.
    fn send_put_off(&mut self, swarm: &mut Swarm) {
        let now = swarm.now();
        if self.waiting == 0 {
            return;
        }
        for publisher in 0..self.publishers.len() {
            let id = self.publishers[publisher].connection;
            if !swarm.is_open(id) {
                continue;
            }
            for place in 0..self.publishers[publisher].unacked.len() {
                let unacked = &mut self.publishers[publisher].unacked[place];
                if unacked.retry_at.take_if(|at| *at <= now).is_some() {
                    unacked.touched = now;
                    let (sequence, time) = (unacked.sequence, unacked.time);
                    self.waiting -= 1;
                    self.retried += 1;
                    self.write(publisher, sequence, time, swarm.outbox(id));
                }
            }
            swarm.flush(id, self);
        }
    }
}
