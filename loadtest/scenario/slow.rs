//! Members that stop reading, or read slowly: what they are told, and what the others notice.
//!
//! In pairs of phases: in the first all read; in the second the slow ones do not. The latencies are
//! those of the others in both, so that their ratio is the price of the slow ones.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::flags::{Common, Slow};
use crate::fleet::histogram;
use crate::plan::{Pace, Plan};
use crate::poll::Stop;
use crate::report::{Report, median, round};
use crate::scenario::{World, room_names};

/// How often the slow ones read, and the server's memory is looked at.
const STEP_SECONDS: f64 = 0.05;

/// Runs the scenario.
pub(crate) fn run(common: &Common, slow: &Slow, stop: &Stop) -> Result<Report, String> {
    if slow.slow + slow.publishers > slow.members || slow.publishers == 0 {
        return Err("--members: must be more than --slow and --publishers together".into());
    }
    let run = fastrand::u32(..);
    let plan = Plan {
        run,
        rooms: room_names(run, 1),
        members: vec![0; slow.members],
        publishers: (0..slow.publishers).map(|i| (i, 0)).collect(),
        payload: common.payload,
        acked: false,
        ..Plan::default()
    };
    let mut world = World::new(plan, common, stop)?;
    let quick = slow.members - slow.slow;
    world.fleet.measured_members = quick;
    world.bring_up(0..quick, false)?;
    let mut phases = Phases {
        slow,
        world,
        peak: 0,
        endings: BTreeMap::new(),
        quick_ended: 0,
    };
    phases.bring_up_slow()?;
    phases.run(Report::new("slow"))
}

struct Phases<'a> {
    slow: &'a Slow,
    world: World<'a>,
    peak: u64,
    endings: BTreeMap<String, u64>,
    quick_ended: usize,
}

impl Phases<'_> {
    fn slow_ids(&self) -> Vec<usize> {
        (self.slow.members - self.slow.slow..self.slow.members).collect()
    }

    fn bring_up_slow(&mut self) -> Result<(), String> {
        let gone: Vec<usize> = self
            .slow_ids()
            .into_iter()
            .filter(|id| !self.world.swarm.is_alive(*id))
            .collect();
        self.world.swarm.receive_buffer = Some(self.slow.receive_buffer);
        self.world.bring_up(gone.into_iter(), false)
    }

    fn run(mut self, mut report: Report) -> Result<Report, String> {
        let resident = self.world.mark().resident;
        let (mut without_all, mut with_all) = (histogram(), histogram());
        let (mut without_p99, mut with_p99, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut gaps, mut offsets) = (0, 0);
        for pair in 0..self.slow.pairs.max(1) {
            let without = self.phase(false)?;
            let before = self.world.fleet.checker.tally;
            let with = self.phase(true)?;
            if self.world.stop.is_set() {
                break;
            }
            gaps += self.world.fleet.checker.tally.gaps - before.gaps;
            offsets += self.world.fleet.checker.tally.gap_offsets - before.gap_offsets;
            let millis = |h: &Histogram<u64>| h.value_at_quantile(0.99) as f64 / 1e6;
            let (a, b) = (millis(&without), millis(&with));
            eprintln!("pair {pair}: P99 of the others {a:.3} ms without, {b:.3} ms with");
            without_p99.push(round(a));
            with_p99.push(round(b));
            ratios.push(round(b / a.max(1e-6)));
            for (all, one) in [(&mut without_all, &without), (&mut with_all, &with)] {
                all.add(one)
                    .map_err(|error| format!("histogram: {error}"))?;
            }
            self.bring_up_slow()?;
        }
        report.push("members", self.slow.members);
        report.push("slow", self.slow.slow);
        report.push("slow_read_rate", self.slow.read_rate);
        report.push_latency("without", &without_all);
        report.push_latency("with", &with_all);
        report.push("p99_ms_without", without_p99);
        report.push("p99_ms_with", with_p99);
        report.push("p99_ratios", ratios.clone());
        report.push_some("p99_ratio_median", median(&ratios).map(round));
        report.push("slow_gaps", gaps);
        report.push("slow_gap_offsets", offsets);
        report.push("slow_endings", format!("{:?}", self.endings));
        report.push(
            "slow_closed_4002",
            self.endings.get("4002").copied().unwrap_or(0),
        );
        report.push_some("server_resident_bytes_before", resident);
        report.push_some(
            "server_resident_bytes_peak",
            (self.peak > 0).then_some(self.peak),
        );
        if self.quick_ended > 0 {
            report.fault(format!(
                "{} connections that read were ended",
                self.quick_ended
            ));
        }
        self.world.push_outcome(&mut report, true);
        Ok(report)
    }

    /// One phase under load; the latencies of the others.
    fn phase(&mut self, with_slow: bool) -> Result<Histogram<u64>, String> {
        let pace = match self.slow.rate {
            rate if rate > 0.0 => Pace::Every {
                nanos: 1e9 / rate,
                start: self.world.swarm.now(),
            },
            _ => Pace::Window(self.slow.window),
        };
        let world = &mut self.world;
        world.fleet.latency.reset();
        world.fleet.set_pace(pace, &mut world.swarm);
        world.drive_for(world.common.warmup)?;
        if with_slow {
            for id in self.slow_ids() {
                if self.world.swarm.is_alive(id) {
                    self.world.swarm.pause(id, true);
                }
            }
        }
        let start = self.world.swarm.now();
        let end = start + (self.world.common.seconds * 1e9) as u64;
        self.world.fleet.measured = start..end;
        while self.world.swarm.now() < end && !self.world.stop.is_set() {
            self.world.drive_for(STEP_SECONDS)?;
            self.step(with_slow);
        }
        let world = &mut self.world;
        world.fleet.set_pace(Pace::Paused, &mut world.swarm);
        if with_slow {
            for id in self.slow_ids() {
                if self.world.swarm.is_alive(id) {
                    self.world.swarm.pause(id, false);
                }
            }
        }
        self.world.drain()?;
        self.note_endings();
        Ok(self.world.fleet.latency.clone())
    }

    fn step(&mut self, with_slow: bool) {
        let resident = self.world.common.server_resident();
        self.peak = self.peak.max(resident.unwrap_or(0));
        let bytes = (self.slow.read_rate as f64 * STEP_SECONDS) as usize;
        if with_slow && bytes > 0 {
            for id in self.slow_ids() {
                self.world.swarm.read_some(id, bytes, &mut self.world.fleet);
            }
        }
    }

    /// Endings of slow members are what is being looked for; of others a fault.
    fn note_endings(&mut self) {
        let quick = self.slow.members - self.slow.slow;
        let ended = std::mem::take(&mut self.world.fleet.ended);
        self.quick_ended += ended.iter().filter(|id| **id < quick).count();
        self.endings = self.world.fleet.endings.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Scenario};
    use crate::scenario::standin::StandIn;
    use clap::Parser;

    #[test]
    fn slow_members_catch_up_when_the_server_waits_for_them() {
        let standin = StandIn::start(false);
        let addr = standin.address.to_string();
        let line = "loadtest slow --members 5 --slow 2 --rate 200 --seconds 0.5 --warmup 0.1 \
                    --pairs 2 --read-rate 2000 --addr";
        let flags = Flags::parse_from(line.split_whitespace().chain([addr.as_str()]));
        let Scenario::Slow(slow) = &flags.scenario else {
            panic!("not slow")
        };
        let report = run(&flags.common, slow, &Stop::default()).unwrap();
        assert!(report.is_proven(), "{}", report.table());
        assert!(report.figure("p99_ratio_median").is_some());
    }
}
