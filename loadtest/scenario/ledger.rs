//! The ledger: what the server acked, written down as it is told, and checked afterwards, whatever
//! happened to the server in between.
//!
//! ```text
//! # run 1a2b3c4d
//! # room load-1a2b3c4d-0 EPOCH       one line each, before the first publish
//! load-1a2b3c4d-0 17 ID 4            room, offset, id, the publisher's number; flushed per read
//! # sent 3 1200                      publisher 3 sent 1,200, told when the run ends by itself
//! ```
//!
//! An id says which run, publisher and number it belongs to ([`Marker::id`]). `verify` prints five
//! numbers: acked, lost, duplicate, phantom, out of order. Of several instances each is read, and
//! the numbers but the first are sums. What happens live on several is [`super::receipts`]' to say.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::time::{Duration, Instant};

use crate::client::{Ending, Handler, Outbox};
use crate::flags::{Common, Ledger, Verify};
use crate::plan::{Pace, Plan};
use crate::poll::{Stop, Swarm, Target};
use crate::report::Report;
use crate::scenario::{World, check_files, room_names};
use crate::stat;
use crate::wire::{Frame, Marker};

/// Reading a room ends when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(3);
const PAGE: usize = 1000;

/// Publishes, and writes the ledger.
pub(crate) fn run(common: &Common, ledger: &Ledger, stop: &Stop) -> Result<Report, String> {
    if ledger.rooms == 0 || ledger.publishers == 0 || ledger.window == 0 {
        return Err("rooms, publishers and window must not be 0".into());
    }
    let (rooms, members) = (ledger.rooms, ledger.rooms * ledger.members);
    let run = fastrand::u32(..);
    let plan = Plan {
        run,
        rooms: room_names(run, rooms),
        members: (0..members).map(|i| i / ledger.members).collect(),
        publishers: (0..ledger.publishers)
            .map(|i| (members + i, i % rooms))
            .collect(),
        payload: common.payload,
        acked: true,
        ids: true,
        ..Plan::default()
    };
    let path = ledger.file.as_ref().ok_or("--file: where to write")?;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    let mut world = World::new(plan, common, stop)?;
    world.bring_up(0..world.fleet.plan().connections(), false)?;
    writeln!(file, "# run {run:08x}").map_err(failed)?;
    for (room, name) in world.fleet.plan().rooms.iter().enumerate() {
        // Without members the epoch is not known: any will do.
        let known = ledger.members > 0;
        let epoch = if known {
            world.fleet.checker.room_of(room * ledger.members).1
        } else {
            "-"
        };
        writeln!(file, "# room {name} {epoch}").map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    world.fleet.ledger = Some(Box::new(file));

    let before = world.mark();
    if let Some(count) = ledger.count {
        world.fleet.set_quota(count);
    }
    let pace = match ledger.rate {
        Some(rate) => Pace::Every {
            nanos: 1e9 / rate,
            start: world.swarm.now(),
        },
        None => Pace::Window(ledger.window),
    };
    world.fleet.set_pace(pace, &mut world.swarm);
    let until = world.swarm.now() + (common.seconds * 1e9) as u64;
    let counted = ledger.count.is_some();
    world.drive(|world| {
        let over = if counted {
            world.fleet.is_quota_done()
        } else {
            world.swarm.now() >= until
        };
        over || world.fleet.ready == 0
    })?;
    let after = world.mark();
    world.fleet.set_pace(Pace::Paused, &mut world.swarm);
    if world.fleet.ready > 0 {
        world.drain()?;
    }

    let mut report = Report::new("ledger");
    report.push("published", world.fleet.published);
    report.push("acked", world.fleet.acked);
    report.push(
        "unacked",
        world.fleet.published - world.fleet.acked - world.fleet.refused,
    );
    after.push_since(&before, &mut report);
    if let Some(mut file) = world.fleet.ledger.take() {
        for (publisher, sent) in world.fleet.sent().iter().enumerate() {
            writeln!(file, "# sent {publisher} {sent}").map_err(failed)?;
        }
        file.flush().map_err(failed)?;
    }
    if !world.fleet.endings.is_empty() {
        report.note("the server ended connections: `loadtest verify` tells what is left");
    }
    world.push_outcome(&mut report, true);
    Ok(report)
}

/// Publisher and number.
type Key = (u32, u32);

/// A ledger as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Acked {
    run: u32,
    /// Room, its epoch.
    rooms: Vec<(String, String)>,
    /// Room and offset of each acked publish.
    acks: HashMap<Key, (usize, u64)>,
    /// Offsets that were acked twice, or lines that can't be.
    odd: u64,
    sent: BTreeMap<u32, u32>,
}

impl Acked {
    fn read(lines: impl BufRead) -> Result<Self, String> {
        let mut acked = Self::default();
        let mut index = HashMap::new();
        for line in lines.lines() {
            let line = line.map_err(|error| format!("ledger: {error}"))?;
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["#", "run", run] => {
                    acked.run = u32::from_str_radix(run, 16).map_err(|_| "ledger: no run")?;
                }
                ["#", "room", room, epoch] => {
                    index.insert(room.to_string(), acked.rooms.len());
                    acked.rooms.push((room.to_string(), epoch.to_string()));
                }
                ["#", "sent", publisher, sent] => {
                    let numbers = publisher.parse::<u32>().ok().zip(sent.parse::<u32>().ok());
                    acked.sent.extend(numbers);
                }
                [room, offset, id, number] => {
                    let room = index.get(*room).copied();
                    let (offset, number) = (offset.parse().ok(), number.parse::<u32>().ok());
                    let ours = Marker::of_id(id).filter(|id| id.0 == acked.run);
                    match (room, offset, ours) {
                        (Some(room), Some(offset), Some((_, publisher, sequence)))
                            if number == Some(sequence) =>
                        {
                            let place = (room, offset);
                            let old = acked.acks.insert((publisher, sequence), place);
                            acked.odd += u64::from(old.is_some_and(|old| old != place));
                        }
                        _ => acked.odd += 1,
                    }
                }
                // The last line may be half written.
                _ => acked.odd += 1,
            }
        }
        Ok(acked)
    }
}

#[derive(Debug, Default)]
struct RoomRead {
    next: Option<u64>,
    recovered: bool,
    last: HashMap<u32, u32>,
}

/// Compares what comes with the ledger, message by message.
struct Verifier {
    acked: Acked,
    rooms: Vec<RoomRead>,
    seen: HashMap<Key, u64>,
    stored: u64,
    unacked_stored: u64,
    duplicate: u64,
    phantom: u64,
    out_of_order: u64,
    gaps: u64,
    ended: Option<Ending>,
}

impl Verifier {
    fn new(acked: Acked) -> Self {
        let rooms = acked.rooms.iter().map(|_| RoomRead::default()).collect();
        Self {
            acked,
            rooms,
            seen: HashMap::new(),
            stored: 0,
            unacked_stored: 0,
            duplicate: 0,
            phantom: 0,
            out_of_order: 0,
            gaps: 0,
            ended: None,
        }
    }

    fn on_message(&mut self, room: usize, offset: u64, id: &str, marker: Option<Marker>) {
        self.stored += 1;
        let state = &mut self.rooms[room];
        let expected = state.next.replace(offset + 1);
        self.out_of_order += u64::from(expected.is_some_and(|next| next != offset));
        let ours = Marker::of_id(id).filter(|(run, ..)| *run == self.acked.run);
        let marked = marker.map(|marker| (marker.run, marker.publisher, marker.sequence));
        let Some((_, publisher, sequence)) = ours.filter(|ours| Some(*ours) == marked) else {
            self.phantom += 1;
            return;
        };
        if self
            .acked
            .sent
            .get(&publisher)
            .is_some_and(|sent| sequence > *sent)
        {
            self.phantom += 1;
            return;
        }
        let key = (publisher, sequence);
        if self.seen.insert(key, offset).is_some() {
            self.duplicate += 1;
            return;
        }
        let last = state.last.insert(publisher, sequence).unwrap_or(0);
        match self.acked.acks.get(&key) {
            Some(&place) if place != (room, offset) => self.out_of_order += 1,
            Some(_) => self.out_of_order += u64::from(sequence <= last),
            None => self.unacked_stored += 1,
        }
    }

    /// What a `recovered:false` left out, page by page from the history.
    fn read_history(&mut self, room: usize, target: &Target) -> Result<(), String> {
        let (name, epoch) = self.acked.rooms[room].clone();
        let mut after = 0;
        self.rooms[room] = RoomRead::default();
        loop {
            let path =
                format!("/api/rooms/{name}/messages?epoch={epoch}&after={after}&limit={PAGE}");
            let (status, body) = stat::http_get(target.address, &path)?;
            if status != 200 {
                return Err(format!("GET {path}: status {status}"));
            }
            let page: serde_json::Value =
                serde_json::from_str(&body).map_err(|error| format!("GET {path}: {error}"))?;
            let messages = page["messages"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            for message in messages {
                let payload = message["payload"]
                    .as_str()
                    .and_then(|p| p.strip_prefix("rc:"));
                let marker = payload.and_then(|payload| Marker::read(payload.as_bytes()));
                let offset = message["offset"].as_u64().unwrap_or(0);
                if offset <= after {
                    return Err(format!("GET {path}: offset {offset} is not after {after}"));
                }
                after = offset;
                self.on_message(room, offset, message["id"].as_str().unwrap_or("-"), marker);
            }
            if messages.is_empty() {
                return Ok(());
            }
        }
    }

    /// Acked publications that were not read.
    fn lost(&self) -> u64 {
        let is_lost = |key: &&Key| !self.seen.contains_key(key);
        self.acked.acks.keys().filter(is_lost).count() as u64
    }
}

/// The numbers over what was read from each instance.
fn report(read: &[Verifier]) -> Report {
    let mut report = Report::new("verify");
    let sum = |number: fn(&Verifier) -> u64| read.iter().map(number).sum::<u64>();
    let first = read.first().map(|verifier| &verifier.acked);
    report.push("acked", first.map_or(0, |acked| acked.acks.len()));
    let numbers = [
        ("lost", sum(Verifier::lost)),
        ("duplicate", sum(|v| v.duplicate)),
        ("phantom", sum(|v| v.phantom)),
        ("out_of_order", sum(|v| v.out_of_order + v.gaps)),
    ];
    for (name, number) in numbers {
        report.push(name, number);
        if number > 0 {
            report.fault(format!("{name}: {number}"));
        }
    }
    report.push("stored", sum(|v| v.stored));
    report.push("unacked_stored", sum(|v| v.unacked_stored));
    let odd = first.map_or(0, |acked| acked.odd);
    report.push("odd_lines", odd);
    if odd > 1 {
        report.fault("the ledger has lines that can't be: two offsets for one publish?");
    }
    report
}

impl Handler for Verifier {
    fn on_open(&mut self, id: usize, out: &mut Outbox, _now: u64) {
        let (room, epoch) = &self.acked.rooms[id];
        let since = format!(r#"{{"epoch":"{epoch}","offset":0}}"#);
        out.text(format!(r#"{{"type":"join","room":"{room}","since":{since}}}"#).as_bytes());
    }

    fn on_text(&mut self, id: usize, _out: &mut Outbox, text: &[u8], _now: u64) {
        let Some(frame) = Frame::read(text) else {
            return;
        };
        let offset = frame.offset.unwrap_or(0);
        match frame.kind.as_ref() {
            "joined" => {
                self.rooms[id].recovered = frame.recovered == Some(true) && offset == 0;
                self.rooms[id].next = Some(offset + 1);
            }
            "message" if self.rooms[id].recovered => {
                self.on_message(
                    id,
                    offset,
                    frame.id.as_deref().unwrap_or("-"),
                    frame.marker(),
                );
            }
            "gap" => self.gaps += 1,
            _ => {}
        }
    }

    fn on_closed(&mut self, _id: usize, ending: &Ending, _now: u64) {
        self.ended = Some(ending.clone());
    }
}

/// Checks a ledger against the server.
pub(crate) fn verify(common: &Common, flags: &Verify, stop: &Stop) -> Result<Report, String> {
    let file =
        File::open(&flags.file).map_err(|error| format!("{}: {error}", flags.file.display()))?;
    let acked = Acked::read(BufReader::new(file))?;
    let rooms = acked.rooms.len();
    check_files(rooms)?;
    let targets = match flags.to.as_slice() {
        [] => vec![common.target()?],
        to => common.targets(to)?,
    };
    let (mut read, mut by_http) = (Vec::new(), 0);
    for target in &targets {
        let mut verifier = Verifier::new(acked.clone());
        if !flags.http {
            read_by_joining(target, stop, &mut verifier)?;
        }
        for room in 0..rooms {
            if !verifier.rooms[room].recovered && !stop.is_set() {
                verifier.read_history(room, target)?;
                by_http += 1;
            }
        }
        read.push(verifier);
    }
    let mut report = report(&read);
    report.push("rooms", rooms);
    report.push("rooms_by_history", by_http);
    if stop.is_set() {
        report.note("ended by Ctrl-C: the figures so far");
    }
    Ok(report)
}

fn read_by_joining(target: &Target, stop: &Stop, verifier: &mut Verifier) -> Result<(), String> {
    let mut swarm = Swarm::new(vec![target.clone()], Instant::now())?;
    let (mut begun, mut bytes, mut quiet) = (0, 0, Instant::now());
    while quiet.elapsed() < QUIET && !stop.is_set() {
        while begun < verifier.rooms.len() && !swarm.is_busy_connecting() {
            swarm.connect(begun, 0)?;
            begun += 1;
        }
        swarm.turn(verifier, Duration::from_millis(50))?;
        if let Some(ending) = &verifier.ended {
            return Err(format!("the server ended a connection: {}", ending.name()));
        }
        if bytes != swarm.traffic.bytes {
            (bytes, quiet) = (swarm.traffic.bytes, Instant::now());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Scenario};
    use crate::scenario::standin::StandIn;
    use clap::Parser;

    fn ledger(lines: &[String]) -> Acked {
        let head = ["# run 00000005", "# room r E", "# room s E", "# sent 0 9"].map(String::from);
        Acked::read([&head[..], lines].concat().join("\n").as_bytes()).unwrap()
    }

    /// Acks are (offset, number), stored messages too; all of publisher 0 in room `r`.
    fn check(acks: &[(u64, u32)], stored: &[(u64, u32)], expect: [u64; 5]) {
        let line = |(offset, n): &(u64, u32)| format!("r {offset} {} {n}", Marker::id(5, 0, *n));
        let lines: Vec<String> = acks.iter().map(line).collect();
        let mut verifier = Verifier::new(ledger(&lines));
        for &(offset, sequence) in stored {
            let marker = Marker {
                run: 5,
                publisher: 0,
                sequence,
                time: 0,
            };
            verifier.on_message(0, offset, &Marker::id(5, 0, sequence), Some(marker));
        }
        let report = report(&[verifier]);
        let names = ["acked", "lost", "duplicate", "phantom", "out_of_order"];
        let numbers = names.map(|name| report.figure(name).unwrap().as_u64().unwrap());
        assert_eq!(numbers, expect, "{acks:?} {stored:?}");
    }

    #[test]
    fn five_numbers() {
        check(&[(1, 1), (2, 2)], &[(1, 1), (2, 2)], [2, 0, 0, 0, 0]);
        check(&[(1, 1)], &[(1, 1), (2, 2)], [1, 0, 0, 0, 0]);
        check(&[(1, 1), (2, 2)], &[(1, 1)], [2, 1, 0, 0, 0]);
        check(&[(1, 1)], &[(1, 1), (2, 1)], [1, 0, 1, 0, 0]);
        check(&[(1, 1)], &[(1, 1), (2, 77)], [1, 0, 0, 1, 0]);
        check(&[(1, 1), (2, 2)], &[(1, 2), (2, 1)], [2, 0, 0, 0, 2]);
        check(&[(1, 1), (3, 3)], &[(1, 1), (3, 3)], [2, 0, 0, 0, 1]);
    }

    #[test]
    fn a_half_written_last_line_is_forgiven() {
        let acked = ledger(&[format!("r 1 {} 1", Marker::id(5, 0, 1)), "r 2 0000".into()]);
        assert_eq!((acked.acks.len(), acked.odd), (1, 1));
        assert!(report(&[Verifier::new(acked)]).figure("lost").is_some());
    }

    #[test]
    fn a_ledger_is_written_and_verified() {
        let standin = StandIn::start(false);
        let addr = standin.address.to_string();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger").display().to_string();
        let line = "--rooms 3 --members 2 --publishers 4 --count 50 --addr";
        let words = ["loadtest", "ledger", "--file", &file]
            .into_iter()
            .chain(line.split(' '));
        let flags = Flags::parse_from(words.chain([addr.as_str()]));
        let Scenario::Ledger(ledger) = &flags.scenario else {
            panic!("not ledger")
        };
        let report = run(&flags.common, ledger, &Stop::default()).unwrap();
        assert!(report.is_proven(), "{}", report.table());
        assert_eq!(report.figure("acked").unwrap(), 200);
        let flags = Flags::parse_from(["loadtest", "verify", "--file", &file, "--addr", &addr]);
        let Scenario::Verify(flags_verify) = &flags.scenario else {
            panic!("not verify")
        };
        let report = verify(&flags.common, flags_verify, &Stop::default()).unwrap();
        assert!(report.is_proven(), "{}", report.table());
        assert_eq!(report.figure("acked").unwrap(), 200);
    }
}
