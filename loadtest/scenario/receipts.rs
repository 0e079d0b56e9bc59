//! The ledger over several instances: every client is member and publisher of a room, comes back
//! to another instance with `since` whenever its connection ends, and sends again with the same id
//! what was not acked. At the end acks are held against what every client received.
//!
//! ```text
//! client i: room i mod rooms, first on instance (i / rooms) mod n
//! ended   -> next instance, after what `going_away` said or a pause that doubles
//! no ack for --patience -> the same
//! ```
//!
//! The verdict is over all instances:
//!
//! | | counts |
//! |---|---|
//! | acked | publications with an ack |
//! | lost | of these, those that no member got; and offsets that one member missed untold |
//! | behind at end | not received when `--settle` was over, with no sign that it would not be |
//! | lost, told | of an epoch that ended, and nobody got them since |
//! | skipped, told | covered by a `gap` or a `recovered:false` for all |
//! | doubled | one publication at two offsets, one offset twice at a member |
//! | out of order | offsets or a publisher's numbers that do not rise, instances that disagree |
//! | phantom | messages that nobody published, or of another room |

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::flags::{Common, Ledger};
use crate::plan::{Pace, Plan};
use crate::poll::Stop;
use crate::report::Report;
use crate::scenario::ways::Ways;
use crate::scenario::{World, push_lag, room_names};

/// How often it is looked whether the file of `--until` is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs the scenario.
pub(crate) fn run(common: &Common, ledger: &Ledger, stop: &Stop) -> Result<Report, String> {
    let targets = common.targets(&ledger.to)?;
    let (rooms, clients, instances) = (ledger.rooms, ledger.clients, targets.len());
    if rooms == 0 || clients < rooms || ledger.window == 0 {
        return Err("--rooms: at least 1, and no more than --clients; --window: not 0".into());
    }
    let run = fastrand::u32(..);
    let plan = Plan {
        run,
        rooms: room_names(run, rooms),
        members: (0..clients).map(|i| i % rooms).collect(),
        publishers: (0..clients).map(|i| (i, i % rooms)).collect(),
        instances: (0..clients).map(|i| i / rooms % instances).collect(),
        payload: common.payload,
        acked: true,
        ids: true,
        agreement: true,
        retry: true,
    };
    let mut world = World::over(targets, plan, common, stop)?;
    world.bring_up(0..clients, false)?;
    if let Some(path) = &ledger.file {
        world.fleet.ledger = Some(Box::new(open_ledger(path, &world)?));
    }
    let mut ways = Ways::new(&world, ledger.patience);
    let (before, start) = (world.mark(), world.swarm.now());
    world.fleet.measured = start..u64::MAX;
    world.fleet.published_max = ledger.messages.unwrap_or(u64::MAX);
    let pace = match ledger.rate {
        Some(rate) => Pace::Every {
            nanos: 1e9 / rate,
            start,
        },
        None => Pace::Window(ledger.window),
    };
    world.fleet.set_pace(pace, &mut world.swarm);
    let until = match (ledger.messages, &ledger.until) {
        (None, None) => start + (common.seconds * 1e9) as u64,
        _ => u64::MAX,
    };
    let published_max = world.fleet.published_max;
    let mut looked = Instant::now();
    ways.drive(&mut world, |world| {
        let published = world.fleet.published + world.fleet.left_out;
        let looks = looked.elapsed() > LOOK_EVERY;
        if looks {
            looked = Instant::now();
        }
        let is_told = looks && ledger.until.as_ref().is_some_and(|file| file.exists());
        world.swarm.now() >= until || published >= published_max || is_told
    })?;
    world.fleet.set_pace(Pace::Paused, &mut world.swarm);
    let after = world.mark();
    let settled = settle(&mut ways, &mut world, ledger.settle)?;
    if let (Some(path), Some(mut file)) = (&ledger.file, world.fleet.ledger.take()) {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        for (publisher, sent) in world.fleet.sent().iter().enumerate() {
            writeln!(file, "# sent {publisher} {sent}").map_err(failed)?;
        }
        file.flush().map_err(failed)?;
    }

    let mut report = Report::new("ledger");
    for (name, value) in [
        ("instances", instances),
        ("clients", ledger.clients),
        ("rooms", rooms),
    ] {
        report.push(name, value);
    }
    report.push("published", world.fleet.published);
    after.push_since(&before, &mut report);
    report.push_latency("remote", &world.fleet.remote);
    report.push_latency("local", &world.fleet.latency);
    report.push_latency("ack", &world.fleet.ack_latency);
    if ledger.rate.is_some() {
        push_lag(&world, &mut report);
    }
    if !settled {
        report.note("not everything had settled at the end: see --settle");
    }
    push_told(&world, &mut report);
    ways.push(&world, &mut report);
    push_verdict(&mut world, settled, &mut report);
    Ok(report)
}

fn open_ledger(path: &Path, world: &World<'_>) -> Result<BufWriter<File>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    let plan = world.fleet.plan();
    writeln!(file, "# run {:08x}", plan.run).map_err(failed)?;
    for (room, name) in plan.rooms.iter().enumerate() {
        // Client i is in room i, for the first ones.
        let epoch = world.fleet.checker.room_of(room).1;
        writeln!(file, "# room {name} {epoch}").map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    Ok(file)
}

/// Runs on until all is acked and received, for at most so many seconds.
fn settle(ways: &mut Ways, world: &mut World<'_>, seconds: f64) -> Result<bool, String> {
    let (start, mut looked) = (Instant::now(), Instant::now());
    let (mut settled, mut held) = (false, 0);
    let (mut delivered, mut quiet) = (0, Instant::now());
    ways.drive(world, |world| {
        // It looks at every member: not at each turn.
        if looked.elapsed() > Duration::from_millis(50) {
            looked = Instant::now();
            let fleet = &world.fleet;
            let unseen = fleet.checker.agreement.as_ref().map_or(0, |a| a.unseen());
            let calm = fleet.ready == fleet.plan().members.len() && fleet.in_flight() == 0;
            let whole = fleet.checker.outstanding() == 0;
            let now = fleet.checker.tally.delivered;
            if std::mem::replace(&mut delivered, now) != now {
                quiet = Instant::now();
            }
            // What a new epoch took will never be seen, but a late message shows within this.
            let is_done = calm && whole && (unseen == 0 || quiet.elapsed().as_secs_f64() > 3.0);
            held = if is_done { held + 1 } else { 0 };
            settled = held >= 3;
        }
        settled || start.elapsed().as_secs_f64() > seconds
    })?;
    Ok(settled)
}

fn push_told(world: &World<'_>, report: &mut Report) {
    let (fleet, tally) = (&world.fleet, &world.fleet.checker.tally);
    let told = fleet.told;
    for (name, count) in [
        ("degraded_told", told.degraded),
        ("healed_told", told.healed),
        ("pending_told", told.pending),
        ("going_away_told", told.going_away),
        ("new_epochs_told", tally.epoch_changes),
        ("unrecovered", tally.unrecovered),
        ("unrecovered_new_epoch", tally.unrecovered_epochs),
        ("gaps", tally.gaps),
        ("gap_offsets", tally.gap_offsets),
        ("retried", fleet.retried),
        ("refused", fleet.refused),
        ("left_out", fleet.left_out),
    ] {
        report.push(name, count);
    }
    if !fleet.endings.is_empty() {
        report.push("endings", format!("{:?}", fleet.endings));
    }
    if !fleet.errors.is_empty() {
        report.push("errors", format!("{:?}", fleet.errors));
    }
}

fn push_verdict(world: &mut World<'_>, settled: bool, report: &mut Report) {
    let mut verdict = world.fleet.checker.verdict();
    let mut behind = 0;
    if world.stop.is_set() {
        report.note("ended by Ctrl-C: the figures so far");
    } else if settled {
        // Nothing has come for a while, and nothing will.
        world.fleet.checker.finish();
        verdict.unseen += verdict.unseen_ahead;
    } else {
        behind = verdict.unseen_ahead + world.fleet.checker.outstanding();
    }
    let tally = world.fleet.checker.tally;
    let in_flight = world.fleet.in_flight();
    report.push("received", tally.delivered);
    report.push("unacked", in_flight);
    report.push("lost_everywhere", verdict.unseen);
    report.push("lost_at_members", tally.lost);
    report.push("lost_told", verdict.unseen_told);
    report.push("skipped_told", verdict.unseen_skipped);
    report.push("doubled_told", verdict.doubled_told);
    report.push("disagreements", verdict.disagreements);
    let out_of_order = tally.misordered
        + tally.publisher_disorder
        + tally.resumed_elsewhere
        + verdict.disagreements;
    report.push("acked", verdict.acked);
    for (name, count) in [
        ("lost", verdict.unseen + tally.lost),
        ("behind_at_end", behind),
        ("doubled", verdict.doubled + tally.doubled),
        ("out_of_order", out_of_order),
        ("phantom", verdict.phantom + tally.misrouted + tally.foreign),
    ] {
        report.push(name, count);
        if count > 0 && !world.stop.is_set() {
            report.fault(format!("{name}: {count}"));
        }
    }
    if verdict.acked == 0 {
        report.fault("nothing was acked");
    }
    if in_flight > 0 {
        report.note(format!(
            "{in_flight} publishes had no ack, though sent again"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Scenario};
    use crate::scenario::standin::{Fault, StandIn};
    use clap::Parser;

    /// 600 publishes of 6 clients in 2 rooms on 3 instances; the figures by name.
    fn check(fault: Fault, expect: &[(&str, u64)], proven: bool) -> Report {
        let report = check_settled(5, fault, expect);
        assert_eq!(report.is_proven(), proven, "{}", report.table());
        report
    }

    /// So many seconds are given to settle.
    fn check_settled(settle: u64, fault: Fault, expect: &[(&str, u64)]) -> Report {
        let standin = StandIn::start_several(3, fault);
        let to = standin.to();
        let line = "loadtest ledger --clients 6 --rooms 2 --rate 1500 --messages 600 --settle";
        let settle = settle.to_string();
        let flags = Flags::parse_from(line.split(' ').chain([&settle[..], "--to", &to]));
        let Scenario::Ledger(ledger) = &flags.scenario else {
            panic!("not ledger")
        };
        let report = run(&flags.common, ledger, &Stop::default()).unwrap();
        let table = report.table();
        for (name, expect) in expect {
            let got = report.figure(name).and_then(|figure| figure.as_u64());
            assert_eq!(got, Some(*expect), "{name}: {table}");
        }
        report
    }

    fn count(report: &Report, name: &str) -> u64 {
        report.figure(name).unwrap().as_u64().unwrap()
    }

    const WHOLE: [(&str, u64); 8] = [
        ("acked", 600),
        ("unacked", 0),
        ("lost", 0),
        ("doubled", 0),
        ("out_of_order", 0),
        ("phantom", 0),
        ("behind_at_end", 0),
        ("lost_told", 0),
    ];

    #[test]
    fn all_is_well() {
        let report = check(Fault::None, &WHOLE, true);
        assert_eq!(count(&report, "received"), 1800);
        assert_eq!(count(&report, "disconnected"), 0);
    }

    #[test]
    fn cuts_cost_nothing_but_retries() {
        let report = check(Fault::Cuts, &WHOLE, true);
        let disconnected = count(&report, "disconnected");
        assert!(disconnected >= 6, "{}", report.table());
        assert!(count(&report, "retried") > 0);
        assert_eq!(count(&report, "came_back"), disconnected);
        assert!(report.figure("away_ms_max").is_some());
        let busiest = count(&report, "busiest_second");
        assert!((1..=disconnected).contains(&busiest), "{}", report.table());
    }

    #[test]
    fn what_is_refused_for_now_is_sent_again() {
        let report = check(Fault::Refuses, &WHOLE, true);
        assert!(count(&report, "retried") > 0);
    }

    #[test]
    fn what_a_server_forgets_is_lost() {
        let report = check(Fault::Forgets, &[("acked", 600)], false);
        assert!(count(&report, "lost_everywhere") > 0);
    }

    /// What was under way when it ended was not lost, but it is not proven either.
    #[test]
    fn who_looks_too_early_finds_no_loss() {
        let report = check_settled(0, Fault::None, &[("lost", 0), ("doubled", 0)]);
        assert!(count(&report, "unacked") > 0, "{}", report.table());
    }

    #[test]
    fn what_a_new_epoch_tells_is_told() {
        let report = check(Fault::LosesTail, &WHOLE[..7], true);
        assert_eq!(count(&report, "new_epochs_told"), 6);
        assert_eq!(count(&report, "lost_told"), 10);
    }

    #[test]
    fn disagreement_and_loss_are_found_out() {
        let report = check(Fault::Disagrees, &[("acked", 600)], false);
        assert!(count(&report, "out_of_order") > 0);
        let report = check(Fault::LeavesOut, &[("acked", 600)], false);
        assert!(count(&report, "lost_at_members") > 0);
    }
}
