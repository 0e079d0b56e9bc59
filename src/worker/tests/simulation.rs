//! Workers that are killed, cut off and told nothing, by seeds: every entry is stored once.

use std::collections::VecDeque;

use super::super::{Ask, Effect, Event, Settings, Side, Stream, Worker};
use super::world::{Kind, World};
use crate::pg::{Cause, Event as PgEvent, Refusal as PgRefusal, Request, ServerInfo};

/// A worker and what is on its way to it.
struct Process {
    name: String,
    worker: Worker,
    /// What was asked and is not answered, by connection.
    asked: [VecDeque<Ask>; 2],
    requests: VecDeque<Request>,
    is_pg_up: bool,
    events: VecDeque<Event>,
    has_ended: bool,
}

fn start(name: &str, batch_rows: usize, seed: u64) -> Process {
    let stream = Stream::new("s".into(), "d".into(), name.into(), 0);
    let settings = Settings {
        stream,
        batch_rows,
        batch_ms: 50,
        retention_ms: None,
        drain_ms: 5_000,
    };
    Process {
        name: name.into(),
        worker: Worker::new(settings, seed),
        asked: Default::default(),
        requests: VecDeque::new(),
        is_pg_up: false,
        events: VecDeque::new(),
        has_ended: false,
    }
}

fn at(side: Side) -> usize {
    usize::from(side == Side::Commands)
}

impl Process {
    fn handle(&mut self, now: u64, event: Event) {
        let mut effects = Vec::new();
        self.worker.handle(now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Connect(side) => {
                    self.asked[at(side)].clear();
                    self.events.push_back(Event::RedisUp(side));
                }
                Effect::Close(side) => self.asked[at(side)].clear(),
                Effect::Ask(side, ask) => self.asked[at(side)].push_back(ask),
                Effect::Pg(request) => {
                    assert!(self.is_pg_up, "asked while it is down");
                    self.requests.push_back(request);
                    let len = self.requests.len();
                    let are_rows = |one: &Request| matches!(one, Request::Copy { .. });
                    assert!(len == 1 || len == 2 && self.requests.iter().all(are_rows));
                }
                Effect::Say(_, text) if is_told() => {
                    println!("{now} {}: {text}", self.name);
                }
                Effect::Say(..) | Effect::Committed => {}
                Effect::End => self.has_ended = true,
            }
        }
    }

    /// One thing happens to it.
    fn step(&mut self, now: u64, world: &mut World, rng: &mut fastrand::Rng, chaos: f64) {
        if let Some(event) = self.events.pop_front() {
            return self.handle(now, event);
        }
        let goes_wrong = rng.f64() < chaos;
        match rng.u32(..4) {
            0 | 1 => {
                let side = if rng.bool() {
                    Side::Reader
                } else {
                    Side::Commands
                };
                let Some(ask) = self.asked[at(side)].pop_front() else {
                    return;
                };
                // It may be done and not answered.
                let is_done = !goes_wrong || rng.bool();
                let reply = is_done.then(|| world.redis(now, &self.name, &ask));
                let is_too_large = std::mem::take(&mut world.is_overfull);
                let goes_wrong = goes_wrong || is_too_large;
                match reply {
                    Some(reply) if !goes_wrong => self.handle(now, Event::Reply(ask, reply)),
                    _ => {
                        self.asked[at(side)].clear();
                        let why = "cut".into();
                        self.handle(
                            now,
                            Event::RedisDown {
                                side,
                                why,
                                is_too_large,
                            },
                        );
                    }
                }
            }
            2 if !self.is_pg_up => {
                self.is_pg_up = true;
                self.handle(now, Event::Pg(PgEvent::Up(ServerInfo::default())));
            }
            2 => {
                let Some(request) = self.requests.pop_front() else {
                    return;
                };
                let is_done = !goes_wrong || rng.bool();
                let answer = is_done.then(|| world.postgres(&request));
                match answer {
                    Some(answer) if !goes_wrong => {
                        let answer = answer.map_err(|why| *why);
                        self.handle(now, Event::Pg(PgEvent::Answer(answer)));
                    }
                    _ => {
                        self.is_pg_up = false;
                        // What was sent behind it may be done too.
                        self.lose_requests(is_done, world, rng);
                        let why = PgRefusal::of_way(Cause::Away, "cut");
                        let retry_ms = 1;
                        self.handle(now, Event::Pg(PgEvent::Down { why, retry_ms }));
                    }
                }
            }
            _ => self.handle(now, Event::Tick),
        }
    }
}

impl Process {
    /// Its requests are not answered: the first ones may be done, if any may.
    fn lose_requests(&mut self, may_be_done: bool, world: &mut World, rng: &mut fastrand::Rng) {
        for request in std::mem::take(&mut self.requests) {
            if !may_be_done || rng.bool() {
                break;
            }
            let _ = world.postgres(&request);
        }
    }
}

fn kind(rng: &mut fastrand::Rng) -> Kind {
    match rng.u32(..30) {
        0 => Kind::Doubtful,
        1 => Kind::Hidden,
        2 => Kind::Malformed,
        3 => Kind::Large,
        _ => Kind::Good,
    }
}

/// Three workers over some hundred entries: cut, killed, started again by the same or another name.
fn simulate(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::default();
    let batch_rows = rng.usize(1..40);
    let mut workers: Vec<_> = (0..3)
        .map(|n| start(&format!("w{n}"), batch_rows, rng.u64(..)))
        .collect();
    let entries = rng.u64(50..300);
    let (mut now, mut added, mut names) = (0, 0, 3);
    let mut steps = 0;
    while added < entries || !world.pending.is_empty() || is_behind(&world) {
        now += rng.u64(..20);
        steps += 1;
        assert!(steps < 400_000, "seed {seed}: it never ends");
        if added < entries && rng.u32(..10) == 0 {
            added += 1;
            world.add(added, kind(&mut rng));
        }
        // In the end all is well, so that it has one.
        let is_calm = added == entries && steps > 20_000;
        let at = rng.usize(..workers.len());
        if !is_calm && rng.u32(..1_000) == 0 {
            // Killed: whatever was on its way is not answered, and may be done.
            let name = match rng.bool() {
                true => workers[at].name.clone(),
                false => {
                    names += 1;
                    format!("w{names}")
                }
            };
            workers[at].lose_requests(true, &mut world, &mut rng);
            workers[at] = start(&name, batch_rows, rng.u64(..));
        }
        if !is_calm && rng.u32(..20_000) == 0 {
            world.lose_group();
        }
        let chaos = if is_calm { 0.0 } else { 0.02 };
        workers[at].step(now, &mut world, &mut rng, chaos);
    }
    world.check(seed);
    end(seed, now, &mut workers, &mut world, &mut rng);
}

/// Whether there are entries that nobody has read or that are neither stored nor dead.
fn is_behind(world: &World) -> bool {
    let dead: std::collections::BTreeSet<_> = world.dead.iter().collect();
    let stored: std::collections::BTreeSet<_> = world.rows.values().collect();
    let is_done = |id| dead.contains(id) || stored.contains(id);
    !world.stream.keys().all(is_done)
}

/// All of them end when they are told to. What was on its way to one then, and could not be read,
/// stays pending, and is done when it starts anew.
fn end(
    seed: u64,
    mut now: u64,
    workers: &mut [Process],
    world: &mut World,
    rng: &mut fastrand::Rng,
) {
    for process in workers.iter_mut() {
        if is_told() {
            println!("{now} {} is to end", process.name);
        }
        process.handle(now, Event::Stop);
        for _ in 0..100_000 {
            if process.has_ended {
                break;
            }
            now += 1;
            process.step(now, world, rng, 0.0);
        }
        let name = &process.name;
        assert!(process.has_ended, "seed {seed}: {name} does not end");
        let mut again = start(name, 40, rng.u64(..));
        for _ in 0..100_000 {
            if !world.pending.values().any(|of| of == name) {
                break;
            }
            now += 1;
            again.step(now, world, rng, 0.0);
        }
    }
    world.check(seed);
}

/// Whether one seed is looked at, with what is said.
fn is_told() -> bool {
    std::env::var_os("RINGCAST_TEST_SEED").is_some()
}

#[test]
fn every_entry_is_stored_once_whatever_happens() {
    let runs = match std::env::var_os("RINGCAST_TEST_ALL") {
        Some(_) => 3_000,
        None => 150,
    };
    // RINGCAST_TEST_SEED=n: that one, with what is said.
    if let Some(seed) = std::env::var_os("RINGCAST_TEST_SEED") {
        return simulate(seed.to_str().unwrap().parse().unwrap());
    }
    let first = fastrand::u64(..1 << 40);
    println!("seeds from {first}");
    for seed in first..first + runs {
        simulate(seed);
    }
}
