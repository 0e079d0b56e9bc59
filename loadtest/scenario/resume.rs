//! The resume storm: all members go, messages are missed, all come back at once with `since`. Each
//! must get exactly what it missed.
//!
//! With `--to` they come back to another instance, and with several to one after the other, each
//! time with messages missed anew. With `--redis` what each instance reads of the stream is
//! counted: nothing else reads then.

use crate::flags::{Common, Resume};
use crate::plan::{Pace, Plan};
use crate::poll::Stop;
use crate::report::{Report, round};
use crate::scenario::{World, room_names};

/// Publishes in flight in each room: the storm is about reading.
const WINDOW: u32 = 64;

/// Runs the scenario.
pub(crate) fn run(common: &Common, resume: &Resume, stop: &Stop) -> Result<Report, String> {
    let (clients, rooms) = (resume.clients, resume.rooms);
    if rooms == 0 || clients < rooms {
        return Err("--rooms: at least 1, and no more than --clients".into());
    }
    let run = fastrand::u32(..);
    let plan = Plan {
        run,
        rooms: room_names(run, rooms),
        members: (0..clients).map(|i| i % rooms).collect(),
        publishers: (0..rooms).map(|room| (clients + room, room)).collect(),
        payload: common.payload,
        acked: true,
        ..Plan::default()
    };
    let mut targets = vec![common.target()?];
    targets.extend(common.targets(&resume.to)?);
    let instances = targets.len();
    let mut world = World::over(targets, plan, common, stop)?;
    let mut report = Report::new("resume");
    report.push("clients", clients);
    report.push("rooms", rooms);
    report.push("missed_each", resume.missed);
    world.bring_up(0..clients + rooms, false)?;
    publish(&mut world, resume.messages)?;
    if !world.drain()? {
        report.fault("not all messages came even before the storm");
    }
    let mut reads = Vec::new();
    for instance in instances.min(2) - 1..instances {
        if let Some(count) = storm(&mut world, resume, instance, &mut report)? {
            reads.push(count);
        }
    }
    if !reads.is_empty() {
        report.push("redis_stream_reads_by_instance", reads);
    }
    let unrecovered = world.fleet.checker.tally.unrecovered;
    report.push("unrecovered", unrecovered);
    if unrecovered > 0 {
        report.fault(format!("{unrecovered} clients were told recovered:false"));
    }
    world.push_outcome(&mut report, false);
    Ok(report)
}

/// All go, miss something, and come to `instance`; says what it read of the stream.
fn storm(
    world: &mut World<'_>,
    resume: &Resume,
    instance: usize,
    report: &mut Report,
) -> Result<Option<u64>, String> {
    let clients = resume.clients;
    for id in 0..clients {
        world.swarm.drop_connection(id, false);
        world.fleet.take_off(id);
        world.fleet.send_to(id, instance);
    }
    publish(world, resume.missed)?;
    world.drive_for(0.5)?;

    let before = world.mark();
    world.bring_up(0..clients, true)?;
    let joined = world.swarm.now();
    while world.fleet.checker.outstanding() > 0 && !world.stop.is_set() {
        if world.swarm.now() - joined > 60_000_000_000 {
            report.fault("not all were caught up after 60 s");
            break;
        }
        world.drive_for(0.005)?;
    }
    let after = world.mark();
    world.drain()?;

    let storm = (after.now - before.now) as f64 / 1e9;
    report.push(
        "all_joined_seconds",
        round((joined - before.now) as f64 / 1e9),
    );
    report.push("all_caught_up_seconds", round(storm));
    let wanted = clients as u64 * u64::from(resume.missed);
    let got = world.mark().delivered - before.delivered;
    report.push("missed_wanted", wanted);
    report.push("missed_received", got);
    after.push_since(&before, report);
    if wanted != got && !world.stop.is_set() {
        report.fault("what was missed is not what was received");
    }
    Ok(after.redis_since(&before).map(|since| since.stream_reads()))
}

fn publish(world: &mut World<'_>, each: u32) -> Result<(), String> {
    world.fleet.set_quota(each);
    world.fleet.set_pace(Pace::Window(WINDOW), &mut world.swarm);
    if !world.settle(|fleet| fleet.is_quota_done())? && !world.stop.is_set() {
        let errors = &world.fleet.errors;
        return Err(format!(
            "the publishers did not get their acks; errors {errors:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Scenario};
    use crate::scenario::standin::{Fault, StandIn};
    use clap::Parser;

    #[test]
    fn all_come_back_to_what_they_missed() {
        let standin = StandIn::start(false);
        let addr = standin.address.to_string();
        let line = "loadtest resume --clients 20 --rooms 4 --messages 10 --missed 7 --addr";
        let flags = Flags::parse_from(line.split(' ').chain([addr.as_str()]));
        let Scenario::Resume(resume) = &flags.scenario else {
            panic!("not resume")
        };
        let report = run(&flags.common, resume, &Stop::default()).unwrap();
        assert!(report.is_proven(), "{}", report.table());
        assert_eq!(report.figure("missed_received").unwrap(), 140);
    }

    #[test]
    fn all_come_to_one_other_instance_after_the_other() {
        let standin = StandIn::start_several(3, Fault::None);
        let to = standin.to();
        let (first, others) = to.split_once(',').unwrap();
        let line = "loadtest resume --clients 20 --rooms 4 --messages 10 --missed 7";
        let words = line.split(' ').chain(["--addr", first, "--to", others]);
        let flags = Flags::parse_from(words);
        let Scenario::Resume(resume) = &flags.scenario else {
            panic!("not resume")
        };
        let report = run(&flags.common, resume, &Stop::default()).unwrap();
        assert!(report.is_proven(), "{}", report.table());
        assert_eq!(report.figure("received").unwrap(), 20 * (10 + 7 + 7));
    }
}
