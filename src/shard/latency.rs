//! How long publications take, hop by hop, for the metrics.
//!
//! ```text
//! arrival ─▶ home ─▶ stored ─▶ envelope (of a cluster) ─▶ written to the members here
//!     each is measured from the arrival on, by the clock of the turn in which it happens
//! ```
//!
//! Measured once for a publication, on its home shard; the writing on each shard with members, once
//! for all of them: when the sweep has offered it to the last. Who was full then gets it later, and
//! does not count. What came in on another instance is measured by the two hosts' clocks.
//!
//! Invariant: what waits to be timed is of rooms with members, and [`TIMED_MAX`] at most.

use super::Shard;
use super::home::Origin;
use super::options::Keeping;
use super::{Counters, Now};
use crate::backplane::Begun;
use crate::hub::RoomKey;
use crate::model::latency::IS_MEASURED;

/// Publications that are on their way to members; what is beyond is not timed.
const TIMED_MAX: usize = 16 * 1024;

/// One that is in its room's log, and is being swept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    room: RoomKey,
    offset: u64,
    begun: Begun,
}

impl Shard {
    /// A publication is stored, or its id was there before.
    pub(super) fn note_stored(&mut self, origin: &Origin, is_repeat: bool) {
        if is_repeat {
            self.counters.repeated += 1;
        } else {
            self.counters.stored += 1;
            let after_us = self.now.us.saturating_sub(origin.arrived_us);
            self.counters.to_stored.record(after_us);
        }
    }

    /// A publication came back from Redis, in the order of all.
    pub(super) fn note_envelope(&mut self, begun: Begun) {
        if let (Begun::Here(us), Keeping::Redis(_)) = (begun, &self.options.keeping) {
            let after_us = self.now.us.saturating_sub(us);
            self.counters.to_envelope.record(after_us);
        }
    }

    /// A publication is in its room's log here.
    pub(super) fn time_delivery(&mut self, room: RoomKey, offset: u64, begun: Begun) {
        let has_members = |shard: &Self| {
            let room = shard.hub.room(room);
            room.is_some_and(|room| !room.members().is_empty())
        };
        if IS_MEASURED
            && begun != Begun::Unknown
            && self.timed.len() < TIMED_MAX
            && has_members(self)
        {
            let timed = Timed {
                room,
                offset,
                begun,
            };
            self.timed.push(timed);
        }
    }

    /// Whether a sweep that has ended is to be told to [`Shard::on_swept`].
    pub fn is_timing(&self) -> bool {
        !self.timed.is_empty()
    }

    /// A sweep has ended, and this is the time.
    pub fn on_swept(&mut self, now: Now) {
        let (hub, counters) = (&self.hub, &mut self.counters);
        self.timed.retain(|timed| {
            let Some(log) = hub.room(timed.room).and_then(crate::hub::Room::log) else {
                return false;
            };
            let is_waiting = (log.swept()..log.next()).contains(&timed.offset);
            if !is_waiting {
                counters.record_written(now, timed.begun);
            }
            is_waiting
        });
    }
}

impl Counters {
    fn record_written(&mut self, now: Now, begun: Begun) {
        match begun {
            Begun::Here(us) => self.local.record(now.us.saturating_sub(us)),
            Begun::Elsewhere(sent_at) => {
                let after_ms = now.wall.0.saturating_sub(sent_at.0);
                self.remote.record(after_ms.saturating_mul(1000));
            }
            Begun::Unknown => {}
        }
    }
}
