//! Many connections that do nothing: the server's memory for each, and whether all stay alive.

use crate::flags::{Common, Idle};
use crate::plan::Plan;
use crate::poll::Stop;
use crate::report::{Report, round};
use crate::scenario::{World, room_names};
use crate::wire::opcode;

const PONG_SECONDS: u64 = 10;

/// Runs the scenario.
pub(crate) fn run(common: &Common, idle: &Idle, stop: &Stop) -> Result<Report, String> {
    let run = fastrand::u32(..);
    let rooms = idle.rooms.clamp(1, idle.connections.max(1));
    let plan = Plan {
        run,
        rooms: room_names(run, rooms),
        members: (0..idle.connections).map(|i| i % rooms).collect(),
        payload: common.payload,
        ..Plan::default()
    };
    let mut world = World::new(plan, common, stop)?;
    let before = world.mark();
    world.bring_up(0..idle.connections, false)?;
    world.drive_for(1.0)?;
    let connected = world.mark();
    world.drive_for(common.seconds)?;
    let held = world.mark();
    let alive = ping_all(&mut world)?;

    let mut report = Report::new("idle");
    report.push("connections", idle.connections);
    report.push("rooms", rooms);
    report.push(
        "connect_seconds",
        round((connected.now - before.now) as f64 / 1e9 - 1.0),
    );
    report.push(
        "held_seconds",
        round((held.now - connected.now) as f64 / 1e9),
    );
    report.push("alive", alive);
    report.push_some("server_resident_bytes_before", before.resident);
    report.push_some("server_resident_bytes_connected", connected.resident);
    report.push_some("server_resident_bytes_held", held.resident);
    let each = |after: Option<u64>| {
        let grown = after?.saturating_sub(before.resident?);
        Some((grown as f64 / idle.connections.max(1) as f64).round())
    };
    report.push_some("bytes_per_connection_connected", each(connected.resident));
    report.push_some("bytes_per_connection", each(held.resident));
    if let (Some(a), Some(b)) = (connected.server_cpu, held.server_cpu) {
        report.push("server_busy_held", round((b - a) / common.seconds));
    }
    if alive < idle.connections as u64 && !stop.is_set() {
        report.fault(format!(
            "{} connections did not answer",
            idle.connections as u64 - alive
        ));
    }
    world.push_outcome(&mut report, false);
    Ok(report)
}

fn ping_all(world: &mut World<'_>) -> Result<u64, String> {
    for id in 0..world.swarm.len() {
        if world.swarm.is_open(id) {
            world.swarm.outbox(id).frame(opcode::PING, b"alive?");
            world.swarm.flush(id, &mut world.fleet);
        }
    }
    let wanted = world.swarm.len() as u64;
    let until = world.swarm.now() + PONG_SECONDS * 1_000_000_000;
    world.drive(|world| world.fleet.pongs >= wanted || world.swarm.now() > until)?;
    Ok(world.fleet.pongs)
}
