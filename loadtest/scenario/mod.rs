//! What can be run, and what all of it shares: the world of a run, its loop, its measured window.

pub(crate) mod bare;
pub(crate) mod churn;
pub(crate) mod cross;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod ledger;
pub(crate) mod mark;
pub(crate) mod receipts;
pub(crate) mod resume;
pub(crate) mod search;
pub(crate) mod slow;
#[cfg(test)]
mod standin;
mod ways;

use std::time::{Duration, Instant};

use crate::flags::Common;
use crate::fleet::Fleet;
use crate::plan::Plan;
use crate::poll::{Stop, Swarm, Target};
use crate::report::Report;

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
        Self::over(vec![common.target()?], plan, common, stop)
    }

    /// The same over several instances; the plan says who is where.
    pub(crate) fn over(
        targets: Vec<Target>,
        plan: Plan,
        common: &'a Common,
        stop: &'a Stop,
    ) -> Result<Self, String> {
        check_files(plan.connections())?;
        let swarm = Swarm::new(targets, Instant::now())?;
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
            self.step(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// One turn of the loop, which waits no longer than `wait`.
    pub(crate) fn step(&mut self, wait: Duration) -> Result<(), String> {
        let due = self.fleet.due_in(self.swarm.now()).unwrap_or(u64::MAX);
        self.swarm
            .turn(&mut self.fleet, wait.min(Duration::from_nanos(due)))?;
        self.fleet.tick(&mut self.swarm);
        self.progress.line(&self.fleet);
        match self.fleet.trouble.take() {
            Some(trouble) => Err(trouble),
            None => Ok(()),
        }
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

/// A schedule that is further behind than this for one publish in a hundred was not kept.
const LAG_MILLIS_MAX: f64 = 5.0;

/// Says how far behind its schedule the load generator published.
pub(crate) fn push_lag(world: &World<'_>, report: &mut Report) {
    let lag = &world.fleet.lag;
    report.push_latency("schedule_lag", lag);
    let millis = lag.value_at_quantile(0.99) as f64 / 1e6;
    report.push("behind_schedule", millis > LAG_MILLIS_MAX);
    if millis > LAG_MILLIS_MAX {
        report.note(format!(
            "the load generator was behind its schedule (P99 {millis:.1} ms): the latencies \
             are its own as much as the server's"
        ));
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
