//! Publishers and members of rooms: throughput, latency and order, in closed or open loop; and the
//! same against the bare server, turn by turn.

use crate::flags::{Common, Fanout};
use crate::plan::{Pace, Plan};
use crate::poll::Stop;
use crate::report::{Report, median, round};
use crate::scenario::bare::{Bare, Load};
use crate::scenario::{World, push_lag, room_names};
use crate::stat::Metrics;

/// What one run showed of how the server sends.
struct Shape {
    deliveries: u64,
    deliveries_per_cpu_second: Option<f64>,
    frame_bytes: f64,
    /// Messages a send, and whether the server's own counters said so.
    batch: (f64, bool),
    own_busy: f64,
    frames_per_read: f64,
}

/// Runs the scenario.
pub(crate) fn run(common: &Common, fanout: &Fanout, stop: &Stop) -> Result<Report, String> {
    if fanout.versus_bare {
        return versus_bare(common, fanout, stop);
    }
    if fanout.versus_plain {
        return versus_plain(common, fanout, stop);
    }
    let mut world = bring_up(common, fanout, stop)?;
    measure(&mut world, fanout).map(|(report, _)| report)
}

fn plan(common: &Common, fanout: &Fanout) -> Result<Plan, String> {
    let (rooms, members) = (fanout.rooms, fanout.members);
    if rooms == 0 || fanout.publishers == 0 || fanout.window == 0 {
        return Err("rooms, publishers and window must not be 0".into());
    }
    if !fanout.separate_publishers && fanout.publishers.div_ceil(rooms) > members {
        return Err("more publishers than members: see --separate-publishers".into());
    }
    if fanout.rate.is_some_and(|rate| !(rate > 0.0 && rate < 1e9)) {
        return Err("--rate: out of range".into());
    }
    let run = fastrand::u32(..);
    let publisher = |i: usize| match fanout.separate_publishers {
        true => (rooms * members + i, i % rooms),
        false => ((i % rooms) * members + i / rooms, i % rooms),
    };
    Ok(Plan {
        run,
        rooms: room_names(run, rooms),
        members: (0..rooms * members).map(|i| i / members).collect(),
        publishers: (0..fanout.publishers).map(publisher).collect(),
        payload: common.payload,
        acked: fanout.separate_publishers,
        ..Plan::default()
    })
}

fn bring_up<'a>(common: &'a Common, fanout: &Fanout, stop: &'a Stop) -> Result<World<'a>, String> {
    let mut world = World::new(plan(common, fanout)?, common, stop)?;
    world.bring_up(0..world.fleet.plan().connections(), false)?;
    world.drive_for(0.2)?;
    Ok(world)
}

fn measure(world: &mut World<'_>, fanout: &Fanout) -> Result<(Report, Shape), String> {
    let common = world.common;
    let address = common.target()?.address;
    for histogram in [
        &mut world.fleet.latency,
        &mut world.fleet.round_trip,
        &mut world.fleet.lag,
    ] {
        histogram.reset();
    }
    let (metrics, traffic) = (Metrics::scrape(address), world.swarm.traffic);
    let pace = match fanout.rate {
        Some(rate) => Pace::Every {
            nanos: 1e9 / rate,
            start: world.swarm.now(),
        },
        None => Pace::Window(fanout.window),
    };
    world.fleet.set_pace(pace, &mut world.swarm);
    world.drive_for(common.warmup)?;
    let before = world.mark();
    world.fleet.measured = world.swarm.now()..u64::MAX;
    world.drive_for(common.seconds)?;
    world.fleet.measured.end = world.swarm.now();
    let after = world.mark();
    world.fleet.set_pace(Pace::Paused, &mut world.swarm);
    world.drain()?;
    let grown = Metrics::scrape(address);

    let mut report = Report::new("fanout");
    for (name, value) in [
        ("rooms", fanout.rooms),
        ("members_per_room", fanout.members),
    ] {
        report.push(name, value);
    }
    report.push("publishers", fanout.publishers);
    report.push_some("rate", fanout.rate);
    if fanout.rate.is_none() {
        report.push("window", fanout.window);
    }
    report.push("payload_bytes", common.payload);
    after.push_since(&before, &mut report);
    report.push_latency("latency", &world.fleet.latency);
    report.push_latency("round_trip", &world.fleet.round_trip);
    report.push_latency("ack", &world.fleet.ack_latency);
    push_lag(world, &mut report);
    let frames = (world.swarm.traffic.frames - traffic.frames).max(1) as f64;
    let reads = (world.swarm.traffic.reads - traffic.reads).max(1) as f64;
    let bytes = (world.swarm.traffic.bytes - traffic.bytes) as f64;
    let sends = grown
        .since(&metrics, "ringcast_sends_total")
        .filter(|sends| *sends > 0.0);
    let told = [
        "ringcast_deliveries_total",
        "ringcast_messages_delivered_total",
    ]
    .into_iter()
    .find_map(|name| grown.since(&metrics, name));
    let batch = match (fanout.batch, sends) {
        (Some(batch), _) => (batch, true),
        (None, Some(sends)) => (told.unwrap_or(frames) / sends, true),
        (None, None) => (frames / reads, false),
    };
    let shape = Shape {
        deliveries: after.delivered - before.delivered,
        own_busy: (after.own_cpu - before.own_cpu) / ((after.now - before.now) as f64 / 1e9),
        frames_per_read: frames / reads,
        deliveries_per_cpu_second: after.deliveries_per_cpu_second(&before),
        frame_bytes: bytes / frames,
        batch,
    };
    report.push("frame_bytes", round(shape.frame_bytes));
    report.push("frames_per_send", round(batch.0));
    report.push("frames_per_send_from_server", batch.1);
    world.push_outcome(&mut report, false);
    Ok((report, shape))
}

/// A, B, A, B, …: the server's run, then the bare server at the same bytes and sends. Both keep
/// their connections throughout, so a turn may be short: what the machine does to one it does to
/// the other.
fn versus_bare(common: &Common, fanout: &Fanout, stop: &Stop) -> Result<Report, String> {
    let mut world = bring_up(common, fanout, stop)?;
    let members = world.fleet.plan().members.len();
    let publishers = fanout.publishers.min(members);
    let mut bare = Bare::start(world.fleet.plan(), publishers, fanout.server_core, stop)?;
    let (mut ours, mut bare_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for turn in 0..fanout.turns.max(1) {
        let (mut report, shape) = measure(&mut world, fanout)?;
        if stop.is_set() {
            return Ok(report);
        }
        let our_rate = shape
            .deliveries_per_cpu_second
            .ok_or("no CPU seconds were read: is --pid the server's?")?;
        let frames = shape.deliveries as f64 / members as f64;
        let load = |share: f64| Load {
            frame_bytes: shape.frame_bytes.round() as usize,
            frames: (frames * share).ceil() as u64,
            rounds: (frames * share / shape.batch.0).ceil() as u64,
            window: fanout.window as u64 * publishers as u64,
        };
        bare.run(&load(common.warmup / common.seconds))?;
        let result = bare.run(&load(1.0))?;
        let bare_rate = result.deliveries_per_cpu_second();
        let (server_busy, own_busy) = result.busy;
        eprintln!(
            "turn {turn}: {our_rate:.0} deliveries per server-CPU-second, bare {bare_rate:.0}: \
             {:.3} of its CPU; {:.0} bytes, {:.1} a send; reader busy {:.2}, for bare \
             {own_busy:.2}; {:.0} a read, for bare {:.0}; bare busy {server_busy:.2}, {} sends cut",
            bare_rate / our_rate,
            shape.frame_bytes,
            shape.batch.0,
            shape.own_busy,
            shape.frames_per_read,
            result.frames_per_read,
            result.cut,
        );
        ours.push(our_rate);
        bare_rates.push(bare_rate);
        ratios.push(bare_rate / our_rate);
        if !report.is_proven() {
            report.note("this turn ended the comparison");
            return Ok(report);
        }
        last = Some(report);
    }
    let mut report = last.ok_or("no turn")?;
    let list = |values: &[f64]| values.iter().map(|v| round(*v)).collect::<Vec<_>>();
    report.push("versus_ours", list(&ours));
    report.push("versus_bare", list(&bare_rates));
    report.push("versus_cpu_per_delivery", list(&ratios));
    report.push_some("versus_ours_median", median(&ours).map(f64::round));
    report.push_some("versus_bare_median", median(&bare_rates).map(f64::round));
    let ratio = median(&ratios).map(round);
    report.push_some("versus_cpu_per_delivery_median", ratio);
    Ok(report)
}

/// A, B, A, B, …: members who take their room deflated, then as many who take it as it is. All
/// keep their connections to the one server throughout.
fn versus_plain(common: &Common, fanout: &Fanout, stop: &Stop) -> Result<Report, String> {
    let with = |deflate| Common {
        deflate,
        ..common.clone()
    };
    let (deflated, plain) = (with(true), with(false));
    let mut worlds = [&deflated, &plain].map(|common| bring_up(common, fanout, stop));
    let [Ok(deflated), Ok(plain)] = &mut worlds else {
        let failed = worlds.into_iter().find_map(Result::err);
        return Err(failed.unwrap_or_default());
    };
    let mut rates = [const { Vec::new() }; 2];
    let mut ratios = Vec::new();
    let mut last = None;
    for turn in 0..fanout.turns.max(1) {
        let mut shown = Vec::new();
        for (world, rates) in [&mut *deflated, &mut *plain].into_iter().zip(&mut rates) {
            let (mut report, shape) = measure(world, fanout)?;
            if stop.is_set() || !report.is_proven() {
                report.note("this turn ended the comparison");
                return Ok(report);
            }
            let rate = shape
                .deliveries_per_cpu_second
                .ok_or("no CPU seconds were read: is --pid the server's?")?;
            rates.push(rate);
            shown.push((rate, shape.frame_bytes, shape.batch.0));
            last.get_or_insert(report);
        }
        let [(ours, small, batch), (theirs, large, plain_batch)] = shown[..] else {
            continue;
        };
        ratios.push(theirs / ours);
        eprintln!(
            "turn {turn}: deflated {ours:.0} deliveries per server-CPU-second, {small:.0} bytes, \
             {batch:.1} a send; plain {theirs:.0}, {large:.0} bytes, {plain_batch:.1} a send: \
             {:.3} of its CPU a delivery",
            theirs / ours,
        );
    }
    let mut report = last.ok_or("no turn")?;
    let list = |values: &[f64]| values.iter().map(|v| round(*v)).collect::<Vec<_>>();
    report.push("versus_deflated", list(&rates[0]));
    report.push("versus_plain", list(&rates[1]));
    report.push("versus_cpu_per_delivery", list(&ratios));
    let ratio = median(&ratios).map(round);
    report.push_some("versus_cpu_per_delivery_median", ratio);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Scenario};
    use crate::scenario::standin::StandIn;
    use clap::Parser;

    fn check(faulty: bool, flags: &[&str]) -> Report {
        let standin = StandIn::start(faulty);
        let addr = standin.address.to_string();
        let base = [
            "loadtest",
            "fanout",
            "--addr",
            &addr,
            "--seconds",
            "0.5",
            "--warmup",
            "0.1",
        ];
        let flags = Flags::parse_from(base.iter().chain(flags));
        let Scenario::Fanout(fanout) = &flags.scenario else {
            panic!("not fanout")
        };
        run(&flags.common, fanout, &Stop::default()).unwrap()
    }

    #[test]
    fn closed_loop_with_members_as_publishers() {
        let report = check(
            false,
            &["--rooms", "3", "--members", "4", "--publishers", "6"],
        );
        assert!(report.is_proven(), "{}", report.table());
        assert!(report.figure("deliveries").unwrap().as_u64().unwrap() > 100);
        assert!(report.figure("round_trip_ms_p50").is_some());
    }

    #[test]
    fn closed_loop_by_acks() {
        let flags = [
            "--members",
            "5",
            "--publishers",
            "2",
            "--separate-publishers",
        ];
        let report = check(false, &[&flags[..], &["--window", "4"]].concat());
        assert!(report.is_proven(), "{}", report.table());
        assert!(report.figure("deliveries").unwrap().as_u64().unwrap() > 100);
    }

    #[test]
    fn acked_publishes_without_members() {
        let flags = "--members 0 --publishers 2 --separate-publishers --window 64";
        let report = check(false, &flags.split(' ').collect::<Vec<_>>());
        assert!(report.is_proven(), "{}", report.table());
        assert!(report.figure("acked_per_second").unwrap().as_f64().unwrap() > 100.0);
        assert!(report.figure("ack_ms_p99").is_some());
    }

    #[test]
    fn open_loop_keeps_its_rate() {
        let report = check(false, &["--members", "5", "--rate", "200"]);
        assert!(report.is_proven(), "{}", report.table());
        let deliveries = report.figure("deliveries").unwrap().as_u64().unwrap();
        assert!((400..=600).contains(&deliveries), "{deliveries}");
        assert!(report.figure("latency_ms_p99").is_some());
    }

    #[test]
    fn a_server_that_loses_is_found_out() {
        let report = check(true, &["--members", "5", "--window", "4"]);
        assert!(!report.is_proven());
        assert!(report.figure("lost").unwrap().as_u64().unwrap() > 0);
    }
}
