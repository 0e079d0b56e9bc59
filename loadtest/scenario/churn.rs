//! Connect, join, one message, close, over and over: connects a second and a server-CPU-second, and
//! whether any fails. `--rst` cuts by RST at a chosen stage instead.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{Ending, Handler, Outbox};
use crate::flags::{Churn, Common, Stage};
use crate::fleet::{count, histogram};
use crate::poll::{Stop, Swarm};
use crate::report::{Report, round};
use crate::scenario::{check_files, room_names};
use crate::stat;
use crate::wire::{self, Frame, Marker, Scanner, opcode};

/// A round that takes longer has failed.
const ROUND_NANOS_MAX: u64 = 10_000_000_000;

#[derive(Debug, Clone, Copy, Default)]
struct Round {
    number: u32,
    begun: u64,
    /// The close frame is sent: the end is welcome.
    closing: bool,
}

struct Rounds {
    run: u32,
    rooms: Vec<String>,
    payload: usize,
    /// `None`: close by the book.
    cut: Option<Stage>,
    rounds: Vec<Round>,
    scanner: Scanner,
    done: u64,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    /// To be reset once everything is sent.
    cuts: Vec<usize>,
    /// Free for the next round.
    free: Vec<usize>,
}

/// Runs the scenario.
pub(crate) fn run(common: &Common, churn: &Churn, stop: &Stop) -> Result<Report, String> {
    check_files(churn.concurrency)?;
    let run = fastrand::u32(..);
    let mut rounds = Rounds {
        run,
        rooms: room_names(run, churn.rooms.max(1)),
        payload: common.payload,
        cut: churn.rst.then_some(churn.stage),
        rounds: vec![Round::default(); churn.concurrency],
        scanner: Scanner::default(),
        done: 0,
        errors: BTreeMap::new(),
        latency: histogram(),
        cuts: Vec::new(),
        free: (0..churn.concurrency).rev().collect(),
    };
    let mut swarm = Swarm::new(vec![common.target()?], Instant::now())?;
    swarm.upgrade = rounds.cut != Some(Stage::Head);
    let figures = || {
        let pid = common.pid.first().copied();
        let cpu = pid.and_then(stat::cpu_seconds);
        (
            cpu,
            pid.and_then(stat::resident_bytes),
            pid.and_then(stat::open_files),
        )
    };
    let (before, own_cpu) = (figures(), stat::own_cpu_seconds());
    let ended = drive(common, churn, stop, &mut swarm, &mut rounds)?;
    let (seconds, own_cpu) = (ended as f64 / 1e9, stat::own_cpu_seconds() - own_cpu);
    let cpu = figures()
        .0
        .zip(before.0)
        .map(|(after, before)| after - before);
    std::thread::sleep(Duration::from_millis(500));
    let after = figures();

    let mut report = Report::new("churn");
    report.push("concurrency", churn.concurrency);
    report.push("measured_seconds", round(seconds));
    report.push("connects", rounds.done);
    report.push(
        "connects_per_second",
        (rounds.done as f64 / seconds).round(),
    );
    report.push_some("server_cpu_seconds", cpu.map(round));
    let rate = cpu
        .filter(|cpu| *cpu > 0.0)
        .map(|cpu| (rounds.done as f64 / cpu).round());
    report.push_some("connects_per_server_cpu_second", rate);
    report.push_latency("round", &rounds.latency);
    report.push_some("server_resident_bytes_before", before.1);
    report.push_some("server_resident_bytes_after", after.1);
    report.push_some("server_files_before", before.2);
    report.push_some("server_files_after", after.2);
    report.push_own_busy(own_cpu / seconds);
    report.push("failed", rounds.errors.values().sum::<u64>());
    if !rounds.errors.is_empty() {
        report.fault(format!("rounds failed: {:?}", rounds.errors));
    }
    if stop.is_set() {
        report.note("ended by Ctrl-C: the figures so far");
    }
    Ok(report)
}

/// Runs rounds until it is time, lets those under way end, and returns the time of the last start.
fn drive(
    common: &Common,
    churn: &Churn,
    stop: &Stop,
    swarm: &mut Swarm,
    rounds: &mut Rounds,
) -> Result<u64, String> {
    let (mut begun, mut ended, mut told) = (0u64, None, 0);
    loop {
        let now = swarm.now();
        let seconds = now as f64 / 1e9;
        let over = churn
            .total
            .map_or(seconds >= common.seconds, |total| begun >= total);
        if (over || stop.is_set()) && ended.is_none() {
            ended = Some(now);
        }
        if ended.is_some() && (rounds.free.len() == churn.concurrency || stop.is_set()) {
            return Ok(if churn.total.is_some() {
                now
            } else {
                ended.unwrap_or(now)
            });
        }
        let allowed = if churn.rate == 0 {
            u64::MAX
        } else {
            (seconds * churn.rate as f64) as u64
        };
        let wanted = allowed.min(churn.total.unwrap_or(u64::MAX));
        while ended.is_none() && begun < wanted && !swarm.is_busy_connecting() {
            let Some(id) = rounds.free.pop() else { break };
            swarm.connect(id, 0)?;
            begun += 1;
            rounds.rounds[id] = Round {
                number: begun as u32,
                begun: now,
                closing: false,
            };
            if rounds.cut == Some(Stage::Head) {
                let head = wire::upgrade_request("loadtest", "/ws", false);
                swarm.outbox(id).raw(&head[..head.len() / 2]);
                rounds.cuts.push(id);
            }
        }
        swarm.turn(rounds, Duration::from_millis(1))?;
        cut(swarm, rounds);
        if now / 1_000_000_000 > told {
            told = now / 1_000_000_000;
            eprintln!("{} rounds, {:?} failed", rounds.done, rounds.errors);
            give_up_on_stuck(now, swarm, rounds);
        }
    }
}

fn cut(swarm: &mut Swarm, rounds: &mut Rounds) {
    for id in std::mem::take(&mut rounds.cuts) {
        if !swarm.is_alive(id) {
            continue;
        }
        if swarm.is_sent(id) {
            swarm.drop_connection(id, true);
            rounds.finish(id, swarm.now());
        } else {
            rounds.cuts.push(id);
        }
    }
}

fn give_up_on_stuck(now: u64, swarm: &mut Swarm, rounds: &mut Rounds) {
    for id in 0..rounds.rounds.len() {
        if swarm.is_alive(id) && now.saturating_sub(rounds.rounds[id].begun) > ROUND_NANOS_MAX {
            swarm.drop_connection(id, true);
            count(&mut rounds.errors, "no answer within 10 s");
            rounds.free.push(id);
        }
    }
}

impl Rounds {
    fn finish(&mut self, id: usize, now: u64) {
        self.done += 1;
        self.latency
            .saturating_record((now - self.rounds[id].begun).max(1));
        self.free.push(id);
    }

    fn on_frame(&mut self, id: usize, out: &mut Outbox, text: &[u8]) {
        let Some(frame) = Frame::read(text) else {
            return;
        };
        match frame.kind.as_ref() {
            "joined" => {
                let sequence = self.rounds[id].number;
                let marker = Marker {
                    run: self.run,
                    publisher: id as u32,
                    sequence,
                    time: 0,
                };
                let room = &self.rooms[id % self.rooms.len()];
                let mut publish =
                    format!(r#"{{"type":"publish","room":"{room}","payload":"#).into_bytes();
                marker.write(&mut publish, self.payload);
                publish.push(b'}');
                out.text(&publish);
            }
            "message" => self.on_marker(id, out, frame.marker()),
            "error" => count(&mut self.errors, frame.code.as_deref().unwrap_or("error")),
            _ => {}
        }
    }

    fn on_marker(&mut self, id: usize, out: &mut Outbox, marker: Option<Marker>) {
        let round = self.rounds[id];
        let own = (self.run, id as u32, round.number);
        if marker.map(|m| (m.run, m.publisher, m.sequence)) != Some(own) {
            return;
        }
        match self.cut {
            Some(Stage::Message) => self.cuts.push(id),
            cut => {
                self.rounds[id].closing = true;
                out.frame(opcode::CLOSE, &1000u16.to_be_bytes());
                if cut == Some(Stage::Close) {
                    self.cuts.push(id);
                }
            }
        }
    }
}

impl Handler for Rounds {
    fn on_open(&mut self, id: usize, out: &mut Outbox, _now: u64) {
        match self.cut {
            Some(Stage::Open) => self.cuts.push(id),
            Some(Stage::Frame) => {
                out.raw(&[0x81, 0x80 | 60, 1, 2, 3, 4, b'{', b'"']);
                self.cuts.push(id);
            }
            _ => {
                let room = &self.rooms[id % self.rooms.len()];
                out.text(format!(r#"{{"type":"join","room":"{room}"}}"#).as_bytes());
            }
        }
    }

    fn on_text(&mut self, id: usize, out: &mut Outbox, text: &[u8], _now: u64) {
        match self.scanner.message(text) {
            Some(message) => self.on_marker(id, out, message.marker),
            None => self.on_frame(id, out, text),
        }
    }

    fn on_closed(&mut self, id: usize, ending: &Ending, now: u64) {
        if self.rounds[id].closing {
            return self.finish(id, now);
        }
        count(&mut self.errors, &ending.name());
        self.free.push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, Scenario};
    use crate::scenario::standin::StandIn;
    use clap::Parser;

    fn check(flags: &str) {
        let standin = StandIn::start(false);
        let addr = standin.address.to_string();
        let line = "loadtest churn --concurrency 4 --total 40 --addr";
        let words = line
            .split(' ')
            .chain([addr.as_str()])
            .chain(flags.split_whitespace());
        let flags = Flags::parse_from(words);
        let Scenario::Churn(churn) = &flags.scenario else {
            panic!("not churn")
        };
        let report = run(&flags.common, churn, &Stop::default()).unwrap();
        assert!(report.is_proven(), "{}", report.table());
        assert_eq!(report.figure("connects").unwrap(), 40);
    }

    #[test]
    fn rounds_end_by_the_book_or_by_rst_at_any_stage() {
        check("");
        for stage in ["head", "open", "frame", "message", "close"] {
            check(&format!("--rst --stage {stage}"));
        }
    }
}
