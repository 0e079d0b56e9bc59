//! The ways back: a client whose connection ends comes back to another instance with `since`, and
//! what came of it: for how long it was away, and how many came back at once.
//!
//! ```text
//! ended, and was told `going_away` -> back when it was told to be
//! ended, and was told nothing      -> back after a pause that doubles, with jitter
//! no ack for --patience            -> the same
//! ```
//!
//! With one target (a proxy before several instances) who is asked is not for the client to say.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::fleet::histogram;
use crate::report::Report;
use crate::scenario::World;

/// The first pause before a client comes back, and the longest.
const PAUSE_MILLIS: (u64, u64) = (50, 1000);
/// A connection that is not joined after this is given up.
const JOIN_NANOS_MAX: u64 = 5_000_000_000;
/// How often clients look at their clocks.
const LOOK_NANOS: u64 = 100_000_000;
const SECOND_NANOS: u64 = 1_000_000_000;

/// One client's way back.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    /// When to connect again.
    due: Option<u64>,
    /// When it connected last.
    begun: u64,
    attempts: u32,
    was_ready: bool,
    /// Since when it is not joined, though it was.
    away: Option<u64>,
}

/// All clients' ways back, and what was counted on them.
pub(crate) struct Ways {
    ways: Vec<Way>,
    patience: u64,
    looked: u64,
    /// Clients that were joined and whose connection ended.
    disconnected: u64,
    /// Tries to come back that failed.
    failed: u64,
    /// Connections given up for want of an ack or of `joined`.
    given_up: u64,
    /// From the end of a joined client's connection to its next `joined`.
    away: Histogram<u64>,
    /// How many came back in each second of the run.
    seconds: BTreeMap<u64, u64>,
    silence: Silence,
}

/// The longest time in which nobody received anything, though something came after it.
#[derive(Debug, Clone, Copy, Default)]
struct Silence {
    received: u64,
    since: u64,
    longest: u64,
}

impl Silence {
    fn look(&mut self, received: u64, now: u64) {
        if received > self.received {
            self.longest = self.longest.max(now.saturating_sub(self.since));
            (self.received, self.since) = (received, now);
        }
    }
}

impl Ways {
    /// Of a world whose clients are all joined.
    pub(crate) fn new(world: &World<'_>, patience: f64) -> Self {
        let way = Way {
            was_ready: true,
            ..Way::default()
        };
        Self {
            ways: vec![way; world.fleet.plan().members.len()],
            patience: (patience * 1e9) as u64,
            looked: 0,
            disconnected: 0,
            failed: 0,
            given_up: 0,
            away: histogram(),
            seconds: BTreeMap::new(),
            silence: Silence {
                received: world.fleet.checker.tally.delivered,
                since: world.swarm.now(),
                longest: 0,
            },
        }
    }

    /// Runs until `done` says so, or Ctrl-C, and brings back whoever is gone.
    pub(crate) fn drive(
        &mut self,
        world: &mut World<'_>,
        mut done: impl FnMut(&World<'_>) -> bool,
    ) -> Result<(), String> {
        while !world.stop.is_set() && !done(world) {
            world.step(Duration::from_millis(5))?;
            let now = world.swarm.now();
            for id in std::mem::take(&mut world.fleet.joined) {
                self.on_joined(id, now);
            }
            for id in std::mem::take(&mut world.fleet.ended) {
                self.on_ended(id, world);
            }
            self.silence.look(world.fleet.checker.tally.delivered, now);
            if now - self.looked > LOOK_NANOS {
                self.looked = now;
                self.give_up(now, world);
            }
            self.reconnect(now, world)?;
        }
        Ok(())
    }

    fn on_joined(&mut self, id: usize, now: u64) {
        let Some(way) = self.ways.get_mut(id) else {
            return;
        };
        (way.was_ready, way.attempts) = (true, 0);
        if let Some(since) = way.away.take() {
            self.away
                .saturating_record(now.saturating_sub(since).max(1));
            *self.seconds.entry(now / SECOND_NANOS).or_default() += 1;
        }
    }

    /// A pause, and then the next instance.
    fn on_ended(&mut self, id: usize, world: &mut World<'_>) {
        let (way, now) = (&mut self.ways[id], world.swarm.now());
        if std::mem::take(&mut way.was_ready) {
            self.disconnected += 1;
            way.away = Some(now);
        } else {
            self.failed += 1;
        }
        let (shortest, longest) = PAUSE_MILLIS;
        let pause = (shortest << way.attempts.min(10)).min(longest);
        let pause = (pause / 2 + fastrand::u64(..=pause / 2)) * 1_000_000;
        way.attempts += 1;
        way.due = Some(match world.fleet.take_reconnect_at(id) {
            Some(told) => told.max(now),
            None => now + pause,
        });
        let instances = world.swarm.targets();
        let next = (world.fleet.instance(id) + 1) % instances;
        world.fleet.send_to(id, next);
    }

    fn give_up(&mut self, now: u64, world: &mut World<'_>) {
        for id in 0..self.ways.len() {
            if self.ways[id].due.is_some() {
                continue;
            }
            let ready = world.fleet.is_ready(id);
            let unacked = world.fleet.oldest_unacked(id).filter(|_| ready);
            let late = unacked.is_some_and(|sent| now.saturating_sub(sent) > self.patience);
            let stuck = !ready && now.saturating_sub(self.ways[id].begun) > JOIN_NANOS_MAX;
            if late || stuck {
                self.given_up += 1;
                world.swarm.drop_connection(id, false);
                world.fleet.take_off(id);
                world.fleet.checker.on_left(id);
                self.on_ended(id, world);
            }
        }
    }

    fn reconnect(&mut self, now: u64, world: &mut World<'_>) -> Result<(), String> {
        for id in 0..self.ways.len() {
            if self.ways[id].due.is_some_and(|due| due <= now) {
                self.ways[id].due = None;
                self.ways[id].begun = now;
                world.fleet.reconnect(id, true, &mut world.swarm)?;
            }
        }
        Ok(())
    }

    /// Adds what was counted.
    pub(crate) fn push(&self, world: &World<'_>, report: &mut Report) {
        let came_back: u64 = self.seconds.values().sum();
        for (name, count) in [
            ("disconnected", self.disconnected),
            ("reconnects_failed", self.failed),
            ("given_up", self.given_up),
            ("away_at_end", (self.ways.len() - world.fleet.ready) as u64),
            ("came_back", came_back),
            (
                "busiest_second",
                self.seconds.values().max().copied().unwrap_or(0),
            ),
            ("longest_silence_ms", self.silence.longest / 1_000_000),
        ] {
            report.push(name, count);
        }
        report.push_latency("away", &self.away);
        if let (Some((first, _)), Some((last, _))) = (
            self.seconds.first_key_value(),
            self.seconds.last_key_value(),
        ) {
            let of = |second| self.seconds.get(&second).copied().unwrap_or(0);
            let each: Vec<u64> = (*first..=*last).map(of).collect();
            report.push("came_back_by_second", each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_once_something_comes() {
        let mut silence = Silence::default();
        for (received, now, longest) in [(1, 5, 5), (1, 50, 5), (2, 60, 55), (9, 61, 55)] {
            silence.look(received, now);
            assert_eq!(silence.longest, longest);
        }
        silence.look(9, 1000);
        assert_eq!(silence.longest, 55);
    }
}
