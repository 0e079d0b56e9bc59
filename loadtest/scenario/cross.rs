//! Publishers on some instances, members of each room on all of them, open loop: whether all see
//! the same in the same order, and what it takes to reach another instance.
//!
//! Member j of room r is on instance (r + j) mod n; publishers are dealt out likewise over theirs.
//! Proven are the order at each member ([`crate::checker`]), that an offset is the same
//! publication everywhere, and that what was acked was received ([`crate::agreement`]).

use crate::flags::{Common, Cross};
use crate::plan::{Pace, Plan};
use crate::poll::{Stop, Target};
use crate::report::{Report, round};
use crate::scenario::{World, push_lag, room_names, search};

const PUBLISHERS_MIN: usize = 10;
/// A rate was kept if so much of it was published.
const KEPT: f64 = 0.98;

/// Runs the scenario.
pub(crate) fn run(common: &Common, cross: &Cross, stop: &Stop) -> Result<Report, String> {
    let targets = common.targets(&cross.to)?;
    if !cross.find_rate {
        return at_rate(common, cross, &targets, cross.rate, stop);
    }
    let (mut best, mut failed, mut broken) = (None, None, None);
    let mut steps = Vec::new();
    let highest = search::highest(cross.rate, |rate| {
        // Disorder ends the search: no rate is of worth then.
        if broken.is_some() {
            return Ok(false);
        }
        let report = at_rate(common, cross, &targets, rate, stop)?;
        if stop.is_set() {
            return Err("ended by Ctrl-C".into());
        }
        let p99 = worst_p99(&report);
        let kept = report.figure("publishes_per_second");
        let kept = kept.and_then(|kept| kept.as_f64()).unwrap_or(0.0) >= rate * KEPT;
        let holds = p99 < cross.p99_ms && kept;
        let verdict = if holds { "holds" } else { "too much" };
        eprintln!("{rate:.0}/s: P99 {p99:.1} ms, {verdict}");
        steps.push(format!("{rate:.0}/s: {p99:.1} ms"));
        match (report.is_proven(), holds) {
            (true, true) => best = Some(report),
            (true, false) => failed = Some(report),
            (false, _) => broken = Some(report),
        }
        Ok(holds && broken.is_none())
    })?;
    let is_bottleneck = |report: &Report| {
        ["own_is_bottleneck", "behind_schedule"]
            .iter()
            .any(|name| report.figure(name).is_some_and(|flag| *flag == true))
    };
    let limited = failed.as_ref().is_some_and(is_bottleneck);
    let mut report = broken.or(best).or(failed).ok_or("no rate was tried")?;
    report.push("p99_ms_max", cross.p99_ms);
    report.push("highest_rate", highest.map_or(0.0, f64::round));
    report.push("steps", steps);
    if highest.is_none() {
        report.note("not even the first rate held: the other figures are of a rate that failed");
    }
    if limited {
        report.note("the load generator was the bottleneck at a rate that failed");
    }
    Ok(report)
}

/// Of remote deliveries; where all is local, of those.
fn worst_p99(report: &Report) -> f64 {
    let figure = |name| report.figure(name).and_then(|value| value.as_f64());
    figure("remote_ms_p99")
        .or_else(|| figure("local_ms_p99"))
        .unwrap_or(f64::INFINITY)
}

fn plan(common: &Common, cross: &Cross) -> Result<Plan, String> {
    let (rooms, members, instances) = (cross.rooms, cross.members, cross.to.len());
    if rooms == 0 || members == 0 || !(cross.rate > 0.0 && cross.rate < 1e9) {
        return Err("--rooms, --members, --rate: must not be 0".into());
    }
    let publishers = match cross.publishers {
        0 => rooms.max(PUBLISHERS_MIN),
        publishers => publishers,
    };
    if publishers < rooms {
        return Err("--publishers: at least one for each room".into());
    }
    if cross.members_publish && (publishers > rooms * members || !cross.publishers_on.is_empty()) {
        return Err("--members-publish: one publisher a member, where the member is".into());
    }
    if let Some(on) = cross.publishers_on.iter().find(|on| **on >= instances) {
        return Err(format!("--publishers-on {on}: there are only {instances}"));
    }
    let all: Vec<usize> = (0..instances).collect();
    let on = match cross.publishers_on.as_slice() {
        [] => all.as_slice(),
        some => some,
    };
    let of_member = |i: usize| (i / members + i % members) % instances;
    let of_publisher = |i: usize| on[(i % rooms + i / rooms) % on.len()];
    let run = fastrand::u32(..);
    let connection = |i: usize| match cross.members_publish {
        true => i % rooms * members + i / rooms,
        false => rooms * members + i,
    };
    let apart = if cross.members_publish { 0 } else { publishers };
    Ok(Plan {
        run,
        rooms: room_names(run, rooms),
        members: (0..rooms * members).map(|i| i / members).collect(),
        publishers: (0..publishers)
            .map(|i| (connection(i), i % rooms))
            .collect(),
        instances: (0..rooms * members)
            .map(of_member)
            .chain((0..apart).map(of_publisher))
            .collect(),
        payload: common.payload,
        acked: true,
        agreement: true,
        ..Plan::default()
    })
}

fn at_rate(
    common: &Common,
    cross: &Cross,
    targets: &[Target],
    rate: f64,
    stop: &Stop,
) -> Result<Report, String> {
    let plan = plan(common, cross)?;
    let publishers = plan.publishers.len();
    let mut world = World::over(targets.to_vec(), plan, common, stop)?;
    world.bring_up(0..world.fleet.plan().connections(), false)?;
    world.drive_for(0.2)?;
    let start = world.swarm.now();
    let nanos = 1e9 / rate;
    world
        .fleet
        .set_pace(Pace::Every { nanos, start }, &mut world.swarm);
    world.drive_for(common.warmup)?;
    let before = world.mark();
    // What was due while Redis was asked is late, and not measured.
    world.drive_for(0.1)?;
    world.fleet.measured = world.swarm.now()..u64::MAX;
    world.drive_for(common.seconds)?;
    world.fleet.measured.end = world.swarm.now();
    let after = world.mark();
    world.fleet.set_pace(Pace::Paused, &mut world.swarm);
    world.settle(|fleet| {
        let unseen = fleet.checker.agreement.as_ref().map_or(0, |a| a.unseen());
        fleet.in_flight() == 0 && fleet.checker.outstanding() == 0 && unseen == 0
    })?;

    let mut report = Report::new("cross");
    for (name, value) in [
        ("instances", targets.len()),
        ("rooms", cross.rooms),
        ("members_per_room", cross.members),
        ("publishers", publishers),
        ("payload_bytes", common.payload),
    ] {
        report.push(name, value);
    }
    report.push("rate", round(rate));
    after.push_since(&before, &mut report);
    report.push_latency("remote", &world.fleet.remote);
    report.push_latency("local", &world.fleet.latency);
    report.push_latency("ack", &world.fleet.ack_latency);
    push_lag(&world, &mut report);
    world.push_outcome(&mut report, false);
    push_agreement(&world, &mut report);
    Ok(report)
}

fn push_agreement(world: &World<'_>, report: &mut Report) {
    let verdict = world.fleet.checker.verdict();
    let unacked = world.fleet.published - world.fleet.acked - world.fleet.refused;
    report.push("acked", verdict.acked);
    report.push("unacked", unacked);
    for (name, count, fault) in [
        (
            "acked_unseen",
            verdict.unseen + verdict.unseen_ahead,
            "acked, and no member got it",
        ),
        (
            "seen_twice",
            verdict.doubled,
            "one publication at two offsets",
        ),
        (
            "disagreements",
            verdict.disagreements,
            "one offset, two publications",
        ),
        ("phantom", verdict.phantom, "received, and never published"),
    ] {
        report.push(name, count);
        if count > 0 && !world.stop.is_set() {
            report.fault(format!("{name}: {count} ({fault})"));
        }
    }
    if unacked > 0 && !world.stop.is_set() {
        report.fault(format!("unacked: {unacked} publishes got no answer"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Scenario};
    use crate::scenario::standin::{Fault, StandIn};
    use clap::Parser;

    fn check(fault: Fault, flags: &str) -> Report {
        let standin = StandIn::start_several(3, fault);
        let to = standin.to();
        let line = format!("loadtest cross --seconds 0.5 --warmup 0.1 --to {to} {flags}");
        let flags = Flags::parse_from(line.split_whitespace());
        let Scenario::Cross(cross) = &flags.scenario else {
            panic!("not cross")
        };
        run(&flags.common, cross, &Stop::default()).unwrap()
    }

    #[test]
    fn remote_and_local_are_told_apart() {
        let report = check(
            Fault::None,
            "--rooms 4 --members 3 --publishers 8 --publishers-on 0,2 --rate 400",
        );
        assert!(report.is_proven(), "{}", report.table());
        for name in ["remote_ms_p99", "local_ms_p50", "ack_ms_p90"] {
            assert!(report.figure(name).is_some(), "{name}");
        }
        let deliveries = report.figure("deliveries").unwrap().as_u64().unwrap();
        assert!((400..=900).contains(&deliveries), "{deliveries}");
    }

    #[test]
    fn all_of_one_instance_is_local() {
        let standin = StandIn::start(false);
        let to = standin.address.to_string();
        let line = format!("loadtest cross --seconds 0.2 --warmup 0 --rate 100 --to {to}");
        let flags = Flags::parse_from(line.split(' ').chain(["--members", "2"]));
        let Scenario::Cross(cross) = &flags.scenario else {
            panic!("not cross")
        };
        let report = run(&flags.common, cross, &Stop::default()).unwrap();
        assert!(report.is_proven(), "{}", report.table());
        assert!(report.figure("remote_ms_p99").is_none());
    }

    #[test]
    fn instances_that_disagree_are_found_out() {
        let report = check(Fault::Disagrees, "--members 6 --rate 400");
        assert!(!report.is_proven());
        let counts = ["disagreements", "publisher_disorder"];
        let wrong = counts.map(|name| report.figure(name).unwrap().as_u64().unwrap());
        assert!(wrong[0] > 0, "{}", report.table());
        let report = check(Fault::LeavesOut, "--members 6 --rate 400");
        assert!(report.figure("lost").unwrap().as_u64().unwrap() > 0);
    }

    #[test]
    fn the_highest_rate_is_searched() {
        let flags = "--members 2 --rate 200 --find-rate --p99-ms 0.0001";
        let report = check(Fault::None, flags);
        assert_eq!(report.figure("highest_rate").unwrap(), 0.0);
        assert!(
            !report
                .figure("steps")
                .unwrap()
                .as_array()
                .unwrap()
                .is_empty()
        );
    }
}
