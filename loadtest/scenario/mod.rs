//! What can be run, and what all of it shares: the world of a run, its loop, its measured window.

pub(crate) mod bare;
pub(crate) mod churn;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod ledger;
pub(crate) mod resume;
pub(crate) mod slow;
#[cfg(test)]
mod standin;

use std::time::{Duration, Instant};

use crate::flags::Common;
use crate::fleet::{Fleet, Plan};
use crate::poll::{Stop, Swarm, Traffic};
use crate::report::{Report, round};
use crate::stat;

const BRING_UP_SECONDS: u64 = 120;
/// Draining ends when nothing came for so long.
const QUIET_MILLIS: u64 = 5000;

/// A run: the sockets, who is on them, and how it was asked for.
pub(crate) struct World<'a> {
    pub(crate) swarm: Swarm,
    pub(crate) fleet: Fleet,
    pub(crate) common: &'a Common,
    pub(crate) stop: &'a Stop,
    progress: Progress,
}

impl<'a> World<'a> {
    /// Nobody is connected yet.
    pub(crate) fn new(plan: Plan, common: &'a Common, stop: &'a Stop) -> Result<Self, String> {
        check_files(plan.connections())?;
        let swarm = Swarm::new(common.target()?, Instant::now())?;
        let progress = Progress::default();
        Ok(Self {
            swarm,
            fleet: Fleet::new(plan),
            common,
            stop,
            progress,
        })
    }

    /// Connects `ids` at `--connect-rate` and waits until all are ready.
    pub(crate) fn bring_up(
        &mut self,
        ids: impl ExactSizeIterator<Item = usize>,
        since: bool,
    ) -> Result<(), String> {
        let start = Instant::now();
        let wanted = self.fleet.ready + ids.len();
        let endings: u64 = self.fleet.endings.values().sum();
        let (mut ids, mut begun) = (ids.peekable(), 0u64);
        while self.fleet.ready < wanted && !self.stop.is_set() {
            let allowed = match self.common.connect_rate {
                0 => u64::MAX,
                rate => (start.elapsed().as_secs_f64() * rate as f64) as u64 + 1,
            };
            while begun < allowed && !self.swarm.is_busy_connecting() {
                let Some(id) = ids.next() else { break };
                self.fleet.reconnect(id, since, &mut self.swarm)?;
                begun += 1;
            }
            let more = ids.peek().is_some();
            self.swarm.turn(
                &mut self.fleet,
                Duration::from_millis(if more { 1 } else { 100 }),
            )?;
            if self.fleet.endings.values().sum::<u64>() > endings {
                return Err(format!(
                    "connections failed while connecting: {:?} {:?}",
                    self.fleet.endings, self.fleet.errors
                ));
            }
            if start.elapsed() > Duration::from_secs(BRING_UP_SECONDS) {
                let (ready, errors) = (self.fleet.ready, &self.fleet.errors);
                return Err(format!(
                    "{ready} of {wanted} ready after 120 s; errors {errors:?}"
                ));
            }
            self.progress.line(&self.fleet);
        }
        Ok(())
    }

    /// Runs until `done` says so, or Ctrl-C.
    pub(crate) fn drive(&mut self, mut done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        while !self.stop.is_set() && !done(self) {
            let due = self.fleet.due_in(self.swarm.now()).unwrap_or(u64::MAX);
            let wait = Duration::from_nanos(due).min(Duration::from_millis(50));
            self.swarm.turn(&mut self.fleet, wait)?;
            self.fleet.tick(&mut self.swarm);
            if let Some(trouble) = self.fleet.trouble.take() {
                return Err(trouble);
            }
            self.progress.line(&self.fleet);
        }
        Ok(())
    }

    /// Runs for so many seconds.
    pub(crate) fn drive_for(&mut self, seconds: f64) -> Result<(), String> {
        let until = self.swarm.now() + (seconds * 1e9) as u64;
        self.drive(|world| world.swarm.now() >= until)
    }

    /// Runs until everyone has everything, or nothing has come for 5 s.
    pub(crate) fn drain(&mut self) -> Result<bool, String> {
        self.settle(|fleet| fleet.in_flight() == 0 && fleet.checker.outstanding() == 0)
    }

    /// Runs until `done` has held for 100 ms, or nothing has come for 5 s; says whether it holds.
    /// It is asked only now and then, so it may look at every member.
    pub(crate) fn settle(&mut self, done: impl Fn(&Fleet) -> bool) -> Result<bool, String> {
        let (mut bytes, mut quiet) = (self.swarm.traffic.bytes, Instant::now());
        while !self.stop.is_set() {
            self.drive_for(0.02)?;
            if self.swarm.traffic.bytes != bytes {
                (bytes, quiet) = (self.swarm.traffic.bytes, Instant::now());
            }
            let is_done = done(&self.fleet);
            let millis = quiet.elapsed().as_millis() as u64;
            if is_done && millis > 100 || millis > QUIET_MILLIS {
                return Ok(is_done);
            }
        }
        Ok(false)
    }

    /// The counters as they stand.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            now: self.swarm.now(),
            delivered: self.fleet.checker.tally.delivered,
            published: self.fleet.published,
            traffic: self.swarm.traffic,
            server_cpu: self.common.pid.and_then(stat::cpu_seconds),
            resident: self.common.pid.and_then(stat::resident_bytes),
            own_cpu: stat::own_cpu_seconds(),
        }
    }

    /// Adds what the checker counted and how connections ended; `expected` endings are no fault.
    pub(crate) fn push_outcome(&mut self, report: &mut Report, endings_expected: bool) {
        if self.stop.is_set() {
            report.note("ended by Ctrl-C: the figures so far");
        } else {
            self.fleet.checker.finish();
        }
        report.push_tally(&self.fleet.checker.tally, self.fleet.refused);
        if !self.fleet.endings.is_empty() {
            report.push("endings", format!("{:?}", self.fleet.endings));
            if !endings_expected {
                report.fault("connections ended that should not have");
            }
        }
        if !self.fleet.errors.is_empty() {
            report.push("errors", format!("{:?}", self.fleet.errors));
        }
        if self.fleet.errors.contains_key("rate_limited") {
            report.note("the server's rate limit held the publishers back: see --rate-limit");
        }
    }
}

/// Counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) now: u64,
    pub(crate) delivered: u64,
    pub(crate) published: u64,
    pub(crate) traffic: Traffic,
    pub(crate) server_cpu: Option<f64>,
    pub(crate) resident: Option<u64>,
    pub(crate) own_cpu: f64,
}

impl Mark {
    /// Deliveries per CPU second of the server since `before`.
    pub(crate) fn deliveries_per_cpu_second(&self, before: &Self) -> Option<f64> {
        let cpu = self.server_cpu? - before.server_cpu?;
        (cpu > 0.0).then(|| (self.delivered - before.delivered) as f64 / cpu)
    }

    /// Adds the figures of the window between the two.
    pub(crate) fn push_since(&self, before: &Self, report: &mut Report) {
        let seconds = (self.now - before.now) as f64 / 1e9;
        let deliveries = (self.delivered - before.delivered) as f64;
        report.push("measured_seconds", round(seconds));
        report.push("deliveries", self.delivered - before.delivered);
        report.push(
            "publishes_per_second",
            ((self.published - before.published) as f64 / seconds).round(),
        );
        report.push("deliveries_per_second", (deliveries / seconds).round());
        if let (Some(after), Some(before)) = (self.server_cpu, before.server_cpu) {
            let cpu = after - before;
            report.push("server_cpu_seconds", round(cpu));
            report.push("server_busy", round(cpu / seconds));
            if deliveries > 0.0 {
                report.push("server_cpu_us_per_delivery", round(cpu / deliveries * 1e6));
            }
        }
        let rate = self.deliveries_per_cpu_second(before);
        report.push_some("deliveries_per_server_cpu_second", rate.map(f64::round));
        report.push_some("server_resident_bytes_before", before.resident);
        report.push_some("server_resident_bytes_after", self.resident);
        let reads = self.traffic.reads - before.traffic.reads;
        if reads > 0 {
            let frames = (self.traffic.frames - before.traffic.frames) as f64;
            report.push("frames_per_read", round(frames / reads as f64));
        }
        report.push_own_busy((self.own_cpu - before.own_cpu) / seconds);
    }
}

/// A line on stderr once a second.
#[derive(Debug, Default)]
struct Progress {
    last: Option<Instant>,
    delivered: u64,
    published: u64,
}

impl Progress {
    fn line(&mut self, fleet: &Fleet) {
        let seconds = self
            .last
            .map_or(f64::MAX, |last| last.elapsed().as_secs_f64());
        if seconds < 1.0 {
            return;
        }
        let tally = &fleet.checker.tally;
        if self.last.is_some() {
            let delivered = (tally.delivered - self.delivered) as f64 / seconds;
            let published = (fleet.published - self.published) as f64 / seconds;
            let bad = tally.lost + tally.doubled + tally.misordered + tally.publisher_disorder;
            eprintln!(
                "{} ready, {published:.0} published/s, {delivered:.0} delivered/s, {bad} wrong, \
                 {} gaps",
                fleet.ready, tally.gaps
            );
        }
        self.last = Some(Instant::now());
        (self.delivered, self.published) = (tally.delivered, fleet.published);
    }
}

/// Fails early when there can't be so many sockets.
pub(crate) fn check_files(connections: usize) -> Result<(), String> {
    let limit = crate::poll::raise_files_limit();
    if connections as u64 + 32 > limit {
        return Err(format!(
            "{connections} connections, but only {limit} open files are allowed"
        ));
    }
    Ok(())
}

/// Room names that no other run has.
pub(crate) fn room_names(run: u32, count: usize) -> Vec<String> {
    (0..count)
        .map(|room| format!("load-{run:08x}-{room}"))
        .collect()
}
