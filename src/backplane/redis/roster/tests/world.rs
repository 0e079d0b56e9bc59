//! Several rosters, a Redis of sorts between them, and faults by chance.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::*;

pub(super) const STEP_MS: u64 = 50;
type Key = (String, String);
type Fields = BTreeMap<Bytes, Bytes>;

/// How likely what is, a step or a message, in thousandths.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) twice: u64,
    /// A command link that ends: what is asked meanwhile is lost.
    pub(super) cut: u64,
    /// A subscriber link that ends.
    pub(super) deaf: u64,
    pub(super) killed: u64,
    /// An instance that is not there begins anew.
    pub(super) born: u64,
    pub(super) drained: u64,
    pub(super) stopped: u64,
    pub(super) flushed: u64,
    pub(super) unread: u64,
    pub(super) delay_ms: u64,
}

pub(super) struct Run {
    pub(super) roster: Roster,
    /// What its events made of it.
    pub(super) shown: BTreeSet<Key>,
    pub(super) events: Vec<RosterEvent>,
    stopped_until: u64,
    cut_until: Option<u64>,
    deaf_until: Option<u64>,
}

struct Hash {
    fields: Fields,
    expires: u64,
}

enum Mail {
    Control(Vec<u8>),
    Answer {
        instance: Name,
        nonce: u64,
        /// `None`: it could not be read.
        first: Option<Option<Fields>>,
    },
}

pub(super) struct World {
    pub(super) chance: fastrand::Rng,
    pub(super) now: u64,
    pub(super) faults: Faults,
    pub(super) runs: Vec<Option<Run>>,
    /// Where users are: instance -> (room, user) -> username.
    pub(super) truth: Vec<BTreeMap<Key, Option<Name>>>,
    redis: BTreeMap<Name, Hash>,
    mail: BTreeMap<(u64, u64), (usize, Mail)>,
    sent: u64,
    nonces: u64,
}

pub(super) fn instance(at: usize) -> Name {
    format!("i{at}").into()
}

pub(super) fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

impl World {
    pub(super) fn new(instances: usize, seed: u64) -> Self {
        let mut world = Self {
            chance: fastrand::Rng::with_seed(seed),
            now: 1_000_000,
            faults: Faults::default(),
            runs: (0..instances).map(|_| None).collect(),
            truth: vec![BTreeMap::new(); instances],
            redis: BTreeMap::new(),
            mail: BTreeMap::new(),
            sent: 0,
            nonces: 0,
        };
        (0..instances).for_each(|at| world.start(at));
        world
    }

    pub(super) fn start(&mut self, at: usize) {
        self.nonces += 1;
        let seed = self.chance.u64(..);
        let options = RosterOptions {
            seed,
            ..RosterOptions::default()
        };
        let mut roster = Roster::new(instance(at), self.nonces, &options);
        roster.on_resubscribed(self.now);
        self.runs[at] = Some(Run {
            roster,
            shown: BTreeSet::new(),
            events: Vec::new(),
            stopped_until: 0,
            cut_until: None,
            deaf_until: None,
        });
    }

    pub(super) fn kill(&mut self, at: usize) {
        self.runs[at] = None;
        self.truth[at].clear();
        self.mail.retain(|_, (to, _)| *to != at);
    }

    pub(super) fn drain(&mut self, at: usize) {
        if let Some(run) = &mut self.runs[at] {
            run.roster.bye();
            self.ask(at);
        }
        self.kill(at);
    }

    pub(super) fn stop(&mut self, at: usize, ms: u64) {
        if let Some(run) = &mut self.runs[at] {
            run.stopped_until = self.now + ms;
        }
    }

    pub(super) fn join(&mut self, at: usize, in_room: &str, user: &str, username: Option<&str>) {
        let username = username.map(Name::from);
        if let Some(run) = &mut self.runs[at] {
            let key = (in_room.to_owned(), user.to_owned());
            self.truth[at].insert(key, username.clone());
            let (in_room, user) = (room(in_room), Name::from(user));
            run.roster
                .local_join(self.now, &in_room, &user, username.as_ref());
        }
    }

    pub(super) fn leave(&mut self, at: usize, in_room: &str, user: &str) {
        if let Some(run) = &mut self.runs[at] {
            self.truth[at].remove(&(in_room.to_owned(), user.to_owned()));
            run.roster
                .local_leave(self.now, &room(in_room), &user.into());
        }
    }

    /// What is stopped goes on, and links are whole from the next step.
    pub(super) fn mend(&mut self) {
        for run in self.runs.iter_mut().flatten() {
            run.stopped_until = self.now;
            run.cut_until = run.cut_until.and(Some(self.now));
            run.deaf_until = run.deaf_until.and(Some(self.now));
        }
    }

    pub(super) fn flush(&mut self) {
        self.redis.clear();
    }

    /// One step of time for all.
    pub(super) fn step(&mut self) {
        self.now += STEP_MS;
        let now = self.now;
        self.redis.retain(|_, hash| hash.expires > now);
        if self.happens(self.faults.flushed) {
            self.flush();
        }
        for at in 0..self.runs.len() {
            self.strike(at);
        }
        self.deliver();
        for at in 0..self.runs.len() {
            let Some(run) = self.runs[at]
                .as_mut()
                .filter(|run| run.stopped_until <= now)
            else {
                continue;
            };
            if run.cut_until.is_some_and(|until| until <= now) {
                run.cut_until = None;
                run.roster.on_redis_back(now);
            }
            if run.deaf_until.is_some_and(|until| until <= now) {
                run.deaf_until = None;
                run.roster.on_resubscribed(now);
            }
            if (now / STEP_MS + at as u64).is_multiple_of(4) {
                run.roster.tick(now, &mut run.events);
            }
            self.ask(at);
            self.check(at);
        }
    }

    pub(super) fn steps(&mut self, ms: u64) {
        (0..ms / STEP_MS).for_each(|_| self.step());
    }

    fn happens(&mut self, thousandths: u64) -> bool {
        self.chance.u64(..1000) < thousandths
    }

    fn strike(&mut self, at: usize) {
        let (faults, now) = (self.faults, self.now);
        if self.runs[at].is_none() {
            if self.happens(faults.born) {
                self.start(at);
            }
            return;
        }
        if self.happens(faults.killed) {
            return self.kill(at);
        }
        if self.happens(faults.drained) {
            return self.drain(at);
        }
        let (stopped, cut) = (self.happens(faults.stopped), self.happens(faults.cut));
        let deaf = self.happens(faults.deaf);
        let mut within = |ms| now + self.chance.u64(..ms);
        let (stop, cut_until, deaf_until) = (within(20_000), within(8000), within(8000));
        let run = self.runs[at].as_mut().unwrap();
        if stopped {
            run.stopped_until = stop;
        }
        if cut && run.cut_until.is_none() {
            run.cut_until = Some(cut_until);
        }
        if deaf && run.deaf_until.is_none() {
            run.deaf_until = Some(deaf_until);
        }
    }

    /// Does what an instance asks.
    fn ask(&mut self, at: usize) {
        loop {
            let Some(run) = &mut self.runs[at] else {
                return;
            };
            // Half of what is cut is asked and lost, the other half is not asked.
            if run.cut_until.is_some() && self.chance.bool() {
                return;
            }
            let Some(ask) = run.roster.poll_ask() else {
                return;
            };
            if run.cut_until.is_none() {
                self.serve(at, ask);
            }
        }
    }

    fn serve(&mut self, at: usize, ask: RosterAsk) {
        match ask {
            RosterAsk::Publish(message) => {
                assert!(message.len() <= 64 * 1024);
                serde_json::from_slice::<serde_json::Value>(&message).unwrap();
                for to in 0..self.runs.len() {
                    if self.happens(self.faults.lost) {
                        continue;
                    }
                    let copies = 1 + usize::from(self.happens(self.faults.twice));
                    for _ in 0..copies {
                        self.send(to, Mail::Control(message.clone()));
                    }
                }
            }
            RosterAsk::Store {
                replace,
                changes,
                lease_ms,
            } => {
                if replace {
                    self.redis.remove(&instance(at));
                }
                if changes.is_empty() {
                    return;
                }
                let expires = self.now + lease_ms;
                let hash = self.redis.entry(instance(at)).or_insert(Hash {
                    fields: Fields::new(),
                    expires,
                });
                hash.expires = expires;
                for (field, value) in changes {
                    match value {
                        Some(value) => hash.fields.insert(field, value),
                        None => hash.fields.remove(&field),
                    };
                }
            }
            RosterAsk::Renew { lease_ms } => {
                if let Some(hash) = self.redis.get_mut(&instance(at)) {
                    hash.expires = self.now + lease_ms;
                }
            }
            RosterAsk::Fetch { instance } => {
                let fields = self.redis.get(&instance).map(|hash| hash.fields.clone());
                let first = (!self.happens(self.faults.unread)).then_some(fields);
                let nonce = self.runs[at].as_ref().unwrap().roster.nonce;
                let answer = Mail::Answer {
                    instance,
                    nonce,
                    first,
                };
                self.send(at, answer);
            }
        }
    }

    fn send(&mut self, to: usize, mail: Mail) {
        self.sent += 1;
        let late = match self.faults.delay_ms {
            0 => 0,
            _ if matches!(mail, Mail::Control(_)) && !self.chance.u64(..8).is_multiple_of(8) => 0,
            delay_ms => self.chance.u64(..delay_ms),
        };
        self.mail.insert((self.now + late, self.sent), (to, mail));
    }

    fn deliver(&mut self) {
        let now = self.now;
        let mut wait = BTreeMap::new();
        while let Some(first) = self.mail.first_entry() {
            if first.key().0 > now {
                break;
            }
            let (key, (to, mail)) = first.remove_entry();
            let Some(run) = &mut self.runs[to] else {
                continue;
            };
            if run.stopped_until > now {
                wait.insert(key, (to, mail));
                continue;
            }
            match mail {
                Mail::Control(message) if run.deaf_until.is_none() => {
                    run.roster.on_control(now, &message, &mut run.events);
                }
                Mail::Control(_) => (),
                Mail::Answer {
                    instance,
                    nonce,
                    first,
                } if nonce == run.roster.nonce => {
                    let now_there = self.redis.get(&instance).map(|hash| &hash.fields);
                    let result = first.ok_or(()).map(|first| read(first, now_there));
                    run.roster
                        .on_snapshot(now, &instance, result, &mut run.events);
                }
                Mail::Answer { .. } => (),
            }
            self.check(to);
        }
        self.mail.append(&mut wait);
    }

    /// Events alternate, and agree with what can be asked.
    fn check(&mut self, at: usize) {
        let Some(run) = &mut self.runs[at] else {
            return;
        };
        for event in run.events.drain(..) {
            match event {
                RosterEvent::Joined { room, user_id, .. } => {
                    let key = (room.as_str().to_owned(), user_id.to_string());
                    assert!(
                        run.shown.insert(key.clone()),
                        "{key:?} joined twice at {at}"
                    );
                }
                RosterEvent::Left { room, user_id, .. } => {
                    let key = (room.as_str().to_owned(), user_id.to_string());
                    assert!(run.shown.remove(&key), "{key:?} left twice at {at}");
                }
                RosterEvent::Kick { .. } | RosterEvent::Full { .. } => (),
            }
        }
        run.roster.invariants();
        let mut count = 0;
        for in_room in ROOMS {
            let users: Vec<_> = run.roster.users_of(in_room).collect();
            assert_eq!(users.len(), run.roster.user_count(in_room));
            count += users.len();
            for (user_id, ..) in users {
                let key = (in_room.to_string(), user_id.to_string());
                assert!(run.shown.contains(&key), "{key:?} is not shown at {at}");
                assert!(run.roster.has_user(in_room, user_id));
            }
        }
        assert_eq!(count, run.shown.len(), "at {at}");
    }

    /// Whose view is not the truth, and how.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = vec![];
        for (at, run) in self.runs.iter().enumerate() {
            let Some(run) = run else { continue };
            let mut truth: BTreeMap<Key, BTreeSet<Option<Name>>> = BTreeMap::new();
            for (other, members) in self.truth.iter().enumerate() {
                for (key, username) in members.iter().filter(|_| other != at) {
                    let usernames = truth.entry(key.clone()).or_default();
                    usernames.insert(username.clone());
                }
            }
            for in_room in ROOMS {
                for (user_id, username, _) in run.roster.users_of(in_room) {
                    let key = (in_room.to_string(), user_id.to_string());
                    let usernames = truth.remove(&key).unwrap_or_default();
                    // On one of several instances it may have none; then another's is shown.
                    if !usernames.contains(&username.cloned()) {
                        wrong.push(format!("{at} has {key:?} {username:?}, not {usernames:?}"));
                    }
                }
            }
            wrong.extend(truth.keys().map(|key| format!("{at} misses {key:?}")));
        }
        wrong
    }
}

pub(super) const ROOMS: [&str; 3] = ["a", "b", "raum é"];

/// A hash by pages: some of it as it was when the read began, the rest as it is.
fn read(first: Option<Fields>, now: Option<&Fields>) -> Option<Vec<(Bytes, Bytes)>> {
    let first = first?;
    let standing = first.get(&b""[..])?.clone();
    let is_early = |field: &Bytes| field.last().is_some_and(|last| last.is_multiple_of(2));
    let mut fields = vec![(Bytes::new(), standing)];
    let owned = |(field, value): (&Bytes, &Bytes)| (field.clone(), value.clone());
    fields.extend(first.iter().filter(|(field, _)| is_early(field)).map(owned));
    let late = now.into_iter().flatten();
    fields.extend(late.filter(|(field, _)| !is_early(field)).map(owned));
    Some(fields)
}
