//! Who is in which room on the other instances; kicks.
//!
//! ```text
//! local_join, local_leave ─▶ own ─▶ Store (the hash), then Publish (a delta)
//! on_control ─▶ wire ─▶ others ─▶ present ─▶ Joined, Left
//!                          └ a hole, a wrong digest, a new run ─▶ fetches ─▶ Fetch ─▶ on_snapshot
//! ```
//!
//! Each instance keeps its members in a hash of its own, and tells the others by deltas what
//! changes. Deltas are fast and may get lost; the hash is the truth that mends it; digests say when
//! it must. Users, not connections; and not what the shards of one instance tell each other.
//!
//! # The control channel
//!
//! JSON, each message with `"instance_id":S,"nonce":N`, a nonce being one run of an instance:
//!
//! | member | meaning |
//! |---|---|
//! | `"members":{"n":k,"join":[[room,user_id,username?],…],"leave":[[room,user_id],…]}` | the run's k-th delta, from 1. A join of one who is there changes the username |
//! | `"digest":{"n":k,"count":c,"hash":"<16 hex digits>"}` | after delta k there are c members, and `hash` is the sum of their rows' hashes. Every 5 s |
//! | `"hello":true` | I am new here, or was deaf: say where you stand. Answered by a digest within 0.5 s |
//! | `"bye":true` | I have drained: forget me |
//! | `"restore":{"instance_id":S}` | S: what your hash says is not what you say. Store it anew |
//! | `"kick":{"user_id":U}` | close that user's connections. Needs neither instance_id nor nonce |
//!
//! Unknown members are ignored; what is malformed or has over 64 KiB is counted and ignored.
//!
//! # The hash of an instance
//!
//! | field | value |
//! |---|---|
//! | `room NUL user_id` | the username, or the empty text |
//! | the empty text | `<nonce> <n> <generation>`: all up to delta n is in it; how often all was stored anew |
//!
//! A delta is stored before it is published, so whoever reads the hash after it heard of delta n
//! finds n or more. Within one store the empty field comes last; when all is stored anew it is
//! missing until the end, and then of another generation. [`RosterAsk`] says what a reader must
//! keep to.
//!
//! # Time
//!
//! An instance is silent for [`ROSTER_SILENCE_MS`]: its members vanish. Redis brings each instance
//! its own messages too, and while these are missing it is the channel that is silent: then nobody
//! vanishes, and when it is heard again everybody's time begins anew.
//!
//! A leave is told after [`ROSTER_LEAVE_DEBOUNCE_MS`], and who has no other instance then lingers
//! on the others for [`ROSTER_LEAVE_LINGER_MS`], so that one who moves is never seen to leave. The
//! users of an instance that drains or begins anew linger for [`ROSTER_RETURN_LINGER_MS`].
//!
//! # Invariants
//!
//! - For each (room, user) `Joined` and `Left` alternate, and [`Roster::has_user`] is true between.
//! - Without further faults every view is right within a lease.
//! - What waits for Redis is bounded by the members of this instance and the limits.

mod fetches;
mod others;
mod own;
mod present;
#[cfg(test)]
mod tests;
mod wire;
mod words;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::backplane::history::RoomsQuery;
use crate::model::limits::{
    ROSTER_DIGEST_MS, ROSTER_ECHO_MS, ROSTER_HELLO_MS, ROSTER_KICKS_MAX, ROSTER_LEASE_MS,
    ROSTER_RESTORE_MS,
};
#[cfg(doc)]
use crate::model::limits::{
    ROSTER_LEAVE_DEBOUNCE_MS, ROSTER_LEAVE_LINGER_MS, ROSTER_RETURN_LINGER_MS, ROSTER_SILENCE_MS,
};
use crate::model::{Name, RoomName};
use fetches::Fetches;
use others::{Others, Verdict};
pub use own::Changes;
use own::Own;
pub use words::{RosterAsk, RosterCounters, RosterEvent, RosterOptions};

/// How often a snapshot may fail to help before the instance is asked to store it anew.
const TRIES_BEFORE_RESTORE: u32 = 2;

/// See the module. `now_ms` may be any clock that does not go back, the same in every call.
#[derive(Debug)]
pub struct Roster {
    instance_id: Name,
    nonce: u64,
    chance: fastrand::Rng,
    now_ms: u64,
    own: Own,
    others: Others,
    fetches: Fetches,
    asks: VecDeque<RosterAsk>,
    kicks: VecDeque<Name>,
    /// Instances that are to store all anew.
    unsound: BTreeSet<Name>,
    restore: bool,
    hello: bool,
    digest: bool,
    digest_at: u64,
    renewed_at: u64,
    restored_at: Option<u64>,
    /// When the channel last brought a message of our own.
    echo_at: Option<u64>,
    has_ended: bool,
    counters: RosterCounters,
}

impl Roster {
    /// The roster of one run of an instance; `nonce` is no other run's.
    pub fn new(instance_id: Name, nonce: u64, options: &RosterOptions) -> Self {
        Self {
            instance_id,
            nonce,
            chance: fastrand::Rng::with_seed(options.seed),
            now_ms: 0,
            own: Own::new(nonce),
            others: Others::new(options.users_max),
            fetches: Fetches::default(),
            asks: VecDeque::new(),
            kicks: VecDeque::new(),
            unsound: BTreeSet::new(),
            restore: true,
            hello: true,
            digest: true,
            digest_at: 0,
            renewed_at: 0,
            restored_at: None,
            echo_at: None,
            has_ended: false,
            counters: RosterCounters::default(),
        }
    }

    /// The first connection of a user joined a room here, or the user's name there changed.
    pub fn local_join(
        &mut self,
        now_ms: u64,
        room: &RoomName,
        user_id: &Name,
        username: Option<&Name>,
    ) {
        self.now_ms = now_ms;
        self.own.join(room, user_id, username);
    }

    /// The last connection of a user left a room here. It is told if the user does not join again
    /// within [`ROSTER_LEAVE_DEBOUNCE_MS`].
    pub fn local_leave(&mut self, now_ms: u64, room: &RoomName, user_id: &Name) {
        self.now_ms = now_ms;
        self.own.leave(now_ms, room, user_id);
    }

    /// The other instances are to close the user's connections; those here are the caller's. Told
    /// once Redis is there; `false`: too many wait, this one is not told.
    pub fn kick(&mut self, user_id: &Name) -> bool {
        let is_taken = self.kicks.len() < ROSTER_KICKS_MAX;
        if is_taken {
            self.kicks.push_back(user_id.clone());
        }
        is_taken
    }

    /// A message came on the control channel: all of them are to come here, our own too.
    pub fn on_control(&mut self, now_ms: u64, bytes: &[u8], out: &mut Vec<RosterEvent>) {
        self.now_ms = now_ms;
        let Some(message) = wire::parse(bytes) else {
            self.counters.rejected += 1;
            return;
        };
        let wire::Message {
            instance_id,
            nonce,
            kick,
            ..
        } = &message;
        let instance = instance_id.as_ref().map(|valid| &valid.0);
        let is_own_id = instance == Some(&self.instance_id);
        let is_own = is_own_id && *nonce == Some(self.nonce);
        if let Some(kick) = kick
            && !is_own
        {
            let user_id = kick.user_id.0.clone();
            out.push(RosterEvent::Kick { user_id });
        }
        let (Some(instance), Some(nonce)) = (instance, *nonce) else {
            return;
        };
        if is_own {
            self.on_echo(now_ms);
        } else if is_own_id {
            self.counters.conflicts += 1;
        } else {
            self.on_message(now_ms, &instance.clone(), nonce, message, bytes.len(), out);
        }
    }

    /// We hear ourselves, so the others can be heard.
    fn on_echo(&mut self, now_ms: u64) {
        let before = self.echo_at.replace(now_ms);
        if before.is_none_or(|before| now_ms.saturating_sub(before) > ROSTER_ECHO_MS) {
            self.others.hear_all(now_ms);
        }
    }

    fn on_message(
        &mut self,
        now_ms: u64,
        instance: &Name,
        nonce: u64,
        message: wire::Message,
        bytes: usize,
        out: &mut Vec<RosterEvent>,
    ) {
        let wire::Message {
            members,
            digest,
            restore,
            hello,
            bye,
            ..
        } = message;
        if bye {
            // The late farewell of a run before does not end the one that is known.
            let is_late =
                self.others.has_standing(instance) && self.others.is_news(instance, nonce);
            if !is_late {
                self.forget(now_ms, instance, true, out);
            }
            return;
        }
        if !(hello || members.is_some() || digest.is_some() || restore.is_some()) {
            return;
        }
        if !self.others.hear(now_ms, instance, nonce) {
            self.counters.rejected += 1;
            return;
        }
        if hello {
            let soon = now_ms.saturating_add(self.chance.u64(..ROSTER_HELLO_MS));
            self.digest_at = self.digest_at.min(soon);
        }
        if restore.is_some_and(|restore| restore.instance_id.0 == self.instance_id) {
            self.on_restore(now_ms);
        }
        let mut verdict = Verdict::Fine;
        if let Some(delta) = members {
            let held = (self.fetches.is_under_way(instance), bytes);
            let from = (instance.as_str(), nonce);
            verdict = self.others.on_delta(now_ms, from, delta, held, out);
        } else if let Some(digest) = digest {
            verdict = self.others.on_digest(instance, nonce, digest);
        } else if self.others.is_news(instance, nonce) {
            verdict = Verdict::Behind;
        }
        self.act(now_ms, instance, verdict);
    }

    /// Somebody found our hash wanting.
    fn on_restore(&mut self, now_ms: u64) {
        let is_due = |at: u64| at.saturating_add(ROSTER_RESTORE_MS) <= now_ms;
        if self.restored_at.is_none_or(is_due) {
            self.restored_at = Some(now_ms);
            self.restore = true;
            self.digest = true;
        }
    }

    fn act(&mut self, now_ms: u64, instance: &Name, verdict: Verdict) {
        match verdict {
            Verdict::Fine => return,
            Verdict::Agrees => {
                self.unsound.remove(instance);
                return self.fetches.settled(instance);
            }
            Verdict::Behind => (),
            Verdict::Differs => {
                self.counters.mismatches += 1;
                if self.fetches.tries(instance) >= TRIES_BEFORE_RESTORE {
                    self.unsound.insert(instance.clone());
                }
            }
            Verdict::Stale => {
                self.unsound.insert(instance.clone());
            }
        }
        let chance = self.chance.u64(..);
        self.fetches.want(now_ms, instance, chance);
    }

    /// The answer to [`RosterAsk::Fetch`]: the fields, `None` if there is no such hash, an error if
    /// it could not be read.
    #[allow(clippy::type_complexity, reason = "what it says is said plainest so")]
    pub fn on_snapshot(
        &mut self,
        now_ms: u64,
        instance: &Name,
        result: Result<Option<Vec<(Bytes, Bytes)>>, ()>,
        out: &mut Vec<RosterEvent>,
    ) {
        self.now_ms = now_ms;
        if !self.fetches.answered(instance) {
            return;
        }
        let verdict = match result {
            Err(()) => Verdict::Behind,
            Ok(None) => Verdict::Stale,
            Ok(Some(fields)) => self.others.on_snapshot(now_ms, instance, &fields, out),
        };
        self.act(now_ms, instance, verdict);
    }

    /// The control channel is subscribed to, for the first time or again: what was said meanwhile
    /// was missed, so all are asked where they stand, and who is not there where it is thought to
    /// be is read.
    pub fn on_resubscribed(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.others.hear_all(now_ms);
        self.hello = true;
    }

    /// Redis can be asked again; asks may have got lost, or all that it had: all is stored anew.
    pub fn on_redis_back(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.restore = true;
        self.digest = true;
    }

    /// The instance has drained: its members go from Redis, and the others forget it. The last call
    /// of all; after it there are only these asks.
    pub fn bye(&mut self) {
        self.has_ended = true;
        let mut message = wire::head(&self.instance_id, self.nonce);
        message.extend_from_slice(b"\"bye\":true}");
        let store = RosterAsk::Store {
            replace: true,
            changes: Changes::new(),
            lease_ms: ROSTER_LEASE_MS,
        };
        self.asks = [store, RosterAsk::Publish(message)].into();
    }

    /// Time passes: to be called a few times a second.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<RosterEvent>) {
        self.now_ms = now_ms;
        self.own.tick(now_ms);
        self.others.present.tick(now_ms, out);
        if self.digest_at <= now_ms {
            let early = self.chance.u64(..ROSTER_DIGEST_MS / 10);
            self.digest_at = now_ms.saturating_add(ROSTER_DIGEST_MS - early);
            self.digest = true;
        }
        if self.renewed_at.saturating_add(ROSTER_LEASE_MS) <= now_ms {
            self.restore = true;
        }
        let is_heard = |echo_at: u64| now_ms.saturating_sub(echo_at) <= ROSTER_ECHO_MS;
        if self.echo_at.is_some_and(is_heard) {
            for instance in self.others.silent(now_ms) {
                self.forget(now_ms, &instance, false, out);
            }
        }
        for instance in self.fetches.tick(now_ms) {
            self.fetches.answered(&instance);
            self.act(now_ms, &instance, Verdict::Behind);
        }
    }

    fn forget(&mut self, now_ms: u64, instance: &Name, lingers: bool, out: &mut Vec<RosterEvent>) {
        self.others.forget(now_ms, instance, lingers, out);
        self.fetches.forget(instance);
        self.unsound.remove(instance);
    }

    /// What Redis is to do next, if it can be asked. Any other call may bring something new.
    pub fn poll_ask(&mut self) -> Option<RosterAsk> {
        loop {
            while let Some(ask) = self.asks.pop_front() {
                let is_store = matches!(ask, RosterAsk::Store { .. } | RosterAsk::Renew { .. });
                if is_store && !self.has_ended {
                    if self.restore {
                        // All that it says comes anew, and must not look whole before.
                        continue;
                    }
                    self.renewed_at = self.now_ms;
                }
                return Some(ask);
            }
            if self.has_ended || !self.gather() {
                return None;
            }
        }
    }

    /// Gathers the next asks, the small ones first. `false`: there are none.
    fn gather(&mut self) -> bool {
        let lease_ms = ROSTER_LEASE_MS;
        if std::mem::take(&mut self.restore) {
            self.counters.restores += 1;
            for (at, changes) in self.own.all().into_iter().enumerate() {
                self.asks.push_back(RosterAsk::Store {
                    replace: at == 0,
                    changes,
                    lease_ms,
                });
            }
        } else if std::mem::take(&mut self.hello) {
            self.publish("\"hello\":true");
        } else if let Some(user_id) = self.kicks.pop_front() {
            self.publish_name("kick", "user_id", &user_id);
        } else if let Some(instance) = self.fetches.poll(self.now_ms) {
            self.counters.fetches += 1;
            self.others.on_fetch(&instance);
            self.asks.push_back(RosterAsk::Fetch { instance });
        } else if let Some(instance) = self.unsound.pop_first() {
            self.publish_name("restore", "instance_id", &instance);
        } else if std::mem::take(&mut self.digest) {
            self.asks.push_back(RosterAsk::Renew { lease_ms });
            let digest = self.own.digest(&self.instance_id);
            self.asks.push_back(RosterAsk::Publish(digest));
        } else if let Some((changes, delta)) = self.own.batch(&self.instance_id) {
            let replace = false;
            self.asks.push_back(RosterAsk::Store {
                replace,
                changes,
                lease_ms,
            });
            self.asks.push_back(RosterAsk::Publish(delta));
        } else {
            return false;
        }
        true
    }

    fn publish(&mut self, members: &str) {
        let mut message = wire::head(&self.instance_id, self.nonce);
        message.extend_from_slice(members.as_bytes());
        message.push(b'}');
        self.asks.push_back(RosterAsk::Publish(message));
    }

    fn publish_name(&mut self, member: &str, what: &str, name: &Name) {
        let mut members = format!("\"{member}\":{{\"{what}\":").into_bytes();
        wire::push_text(&mut members, name);
        let mut message = wire::head(&self.instance_id, self.nonce);
        message.append(&mut members);
        message.extend_from_slice(b"}}");
        self.asks.push_back(RosterAsk::Publish(message));
    }

    /// The users of a room on the other instances, in no order, the names they go by, and on how
    /// many they are (0: one has left and may be on its way to another).
    pub fn users_of<'a>(
        &'a self,
        room: &'a str,
    ) -> impl Iterator<Item = (&'a Name, Option<&'a Name>, u32)> {
        let users = self.others.present.users(room).into_iter().flatten();
        users.map(move |(user_id, presence)| {
            let username = presence.last_username();
            let username = username.or_else(|| self.others.username(room, user_id));
            (user_id, username, presence.instances)
        })
    }

    /// On how many other instances a user is in a room.
    pub fn instances_of(&self, room: &str, user_id: &str) -> u32 {
        let users = self.others.present.users(room);
        let presence = users.and_then(|users| users.get(user_id));
        presence.map_or(0, |presence| presence.instances)
    }

    /// Whether a user is in a room on another instance.
    pub fn has_user(&self, room: &str, user_id: &str) -> bool {
        let users = self.others.present.users(room);
        users.is_some_and(|users| users.contains_key(user_id))
    }

    /// The first rooms of a query in which there are users on other instances.
    pub fn rooms(&self, query: &RoomsQuery) -> Vec<RoomName> {
        let rooms = self.others.present.rooms();
        let rooms = rooms.filter(|room| query.wants(room.as_str())).collect();
        let first = query.first(rooms, |room| room.as_str());
        first.into_iter().cloned().collect()
    }

    /// How many users of a room are on other instances.
    pub fn user_count(&self, room: &str) -> usize {
        self.others
            .present
            .users(room)
            .map_or(0, |users| users.len())
    }

    /// The other instances that are known.
    pub fn instances(&self) -> impl Iterator<Item = &Name> {
        self.others.instances()
    }

    /// What has happened so far.
    pub fn counters(&self) -> RosterCounters {
        RosterCounters {
            dropped: self.others.dropped,
            ..self.counters
        }
    }

    #[cfg(test)]
    fn invariants(&self) {
        self.own.invariants();
        self.others.invariants();
        self.fetches.invariants();
    }
}
