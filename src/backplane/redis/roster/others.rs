//! The other instances: the members of each, and up to which delta they are known.
//!
//! ```text
//! delta n = standing.n + 1 ─▶ applied                     any other ─▶ a snapshot is wanted
//! snapshot (nonce, n) + held deltas n+1, n+2, … ─▶ new members ─difference─▶ Present
//! ```
//!
//! Deltas that come while a snapshot is read are applied if they are next, and held too: the
//! snapshot may be older than they are. What differs is told only once both are put together, so a
//! repair shows nobody leave and come again.
//!
//! Which run of an instance is the newer one is not for messages to say, which may be late, but
//! for the snapshot.
//!
//! Invariants: `sum` is the sum over `members`; a user's `instances` in
//! [`Present`] is the number of peers whose members it is among; `entries` counts them all.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashMap;

use super::RosterEvent;
use super::present::Present;
use super::wire::{self, Delta, Digest, Row, Sum};
use crate::model::limits::{
    ROSTER_HELD_BYTES_MAX, ROSTER_INSTANCES_MAX, ROSTER_LEAVE_LINGER_MS, ROSTER_RETURN_LINGER_MS,
    ROSTER_SILENCE_MS,
};
use crate::model::{Name, RoomName};

/// Users by room, with the name they go by.
pub(super) type Members = HashMap<RoomName, HashMap<Name, Option<Name>>>;

/// The last delta of a run that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Which run of the instance.
    pub(super) nonce: u64,
    /// Counts its deltas, from 1.
    pub(super) n: u64,
}

impl Standing {
    /// Whether `self` is the delta after `before`.
    fn follows(self, before: Self) -> bool {
        self.nonce == before.nonce && before.n.checked_add(1) == Some(self.n)
    }
}

/// What a message or a snapshot comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is nothing to do.
    Fine,
    /// What is known was found right.
    Agrees,
    /// Something is missing: a snapshot is wanted.
    Behind,
    /// What is known is wrong, or what Redis has is: a snapshot is wanted, and if that does not
    /// help, the instance is to store all anew.
    Differs,
    /// Redis does not have what was told: the instance is to store all anew.
    Stale,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Others {
    peers: BTreeMap<Name, Peer>,
    pub(super) present: Present,
    entries: usize,
    users_max: usize,
    /// Joins for which there was no room.
    pub(super) dropped: u64,
    is_full: bool,
}

/// One other instance.
#[derive(Debug)]
struct Peer {
    members: Members,
    sum: Sum,
    /// What the members correspond to.
    standing: Option<Standing>,
    /// The last that was heard of.
    latest: Option<Standing>,
    /// When a message of the run that is known came.
    heard: u64,
    /// When the last message came, and of which run.
    said: (u64, u64),
    /// Some members had no room.
    is_truncated: bool,
    held: Held,
}

/// Deltas that came while a snapshot is read.
#[derive(Debug, Default)]
struct Held {
    deltas: Vec<(Standing, Delta)>,
    bytes: usize,
}

impl Others {
    pub(super) fn new(users_max: usize) -> Self {
        Self {
            peers: BTreeMap::new(),
            present: Present::default(),
            entries: 0,
            users_max,
            dropped: 0,
            is_full: false,
        }
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = &Name> {
        self.peers.keys()
    }

    /// The name of a user of a room, on whichever instance it has one.
    pub(super) fn username(&self, room: &str, user_id: &str) -> Option<&Name> {
        let mut peers = self.peers.values();
        peers.find_map(|peer| peer.members.get(room)?.get(user_id)?.as_ref())
    }

    /// A message of `instance` came. `false`: there are too many instances already.
    pub(super) fn hear(&mut self, now_ms: u64, instance: &Name, nonce: u64) -> bool {
        if !self.peers.contains_key(instance) && self.peers.len() >= ROSTER_INSTANCES_MAX {
            return false;
        }
        let peer = self.peers.entry(instance.clone()).or_insert_with(|| Peer {
            members: Members::new(),
            sum: Sum::default(),
            standing: None,
            latest: None,
            heard: now_ms,
            said: (now_ms, nonce),
            is_truncated: false,
            held: Held::default(),
        });
        peer.said = (now_ms, nonce);
        // Another run's message does not keep the members of the one that is known.
        if peer.standing.is_none_or(|standing| standing.nonce == nonce) {
            peer.heard = now_ms;
        }
        true
    }

    /// All are taken to have been heard of now: for a while nobody could be.
    pub(super) fn hear_all(&mut self, now_ms: u64) {
        for peer in self.peers.values_mut() {
            peer.heard = now_ms;
        }
    }

    /// Those that have been silent for too long.
    pub(super) fn silent(&self, now_ms: u64) -> Vec<Name> {
        let peers = self.peers.iter();
        let silent = peers.filter(|(_, peer)| peer.heard + ROSTER_SILENCE_MS <= now_ms);
        silent.map(|(instance, _)| instance.clone()).collect()
    }

    /// Whether `nonce` is not the run that is known.
    pub(super) fn is_news(&self, instance: &str, nonce: u64) -> bool {
        let standing = self.peers.get(instance).and_then(|peer| peer.standing);
        standing.is_none_or(|standing| standing.nonce != nonce)
    }

    /// Whether any of its members are known.
    pub(super) fn has_standing(&self, instance: &str) -> bool {
        let peer = self.peers.get(instance);
        peer.is_some_and(|peer| peer.standing.is_some())
    }

    /// An instance goes, at once or so that its users linger for a while.
    pub(super) fn forget(
        &mut self,
        now_ms: u64,
        instance: &str,
        lingers: bool,
        out: &mut Vec<RosterEvent>,
    ) {
        let Some(peer) = self.peers.remove(instance) else {
            return;
        };
        let until = lingers.then(|| now_ms.saturating_add(ROSTER_RETURN_LINGER_MS));
        for (room, users) in peer.members {
            self.entries -= users.len();
            for (user_id, username) in users {
                let key = (&room, user_id);
                self.present.remove(key, username, until, out);
            }
        }
    }

    /// A delta came. `is_fetching`: a snapshot is being read; `bytes`: how long its message was.
    pub(super) fn on_delta(
        &mut self,
        now_ms: u64,
        (instance, nonce): (&str, u64),
        delta: Delta,
        (is_fetching, bytes): (bool, usize),
        out: &mut Vec<RosterEvent>,
    ) -> Verdict {
        let Some(peer) = self.peers.get_mut(instance) else {
            return Verdict::Fine;
        };
        let standing = Standing { nonce, n: delta.n };
        peer.note(standing);
        if is_fetching {
            peer.held.push(standing, &delta, bytes);
        }
        match peer.standing {
            Some(known) if standing.follows(known) => {
                peer.standing = Some(standing);
                self.apply(now_ms, instance, delta, out);
                Verdict::Fine
            }
            Some(known) if known.nonce == nonce && delta.n <= known.n => Verdict::Fine,
            _ => Verdict::Behind,
        }
    }

    /// A digest came.
    pub(super) fn on_digest(&mut self, instance: &str, nonce: u64, digest: Digest) -> Verdict {
        let remembered = self.remembered();
        let Some(peer) = self.peers.get_mut(instance) else {
            return Verdict::Fine;
        };
        peer.note(Standing { nonce, n: digest.n });
        let Some(known) = peer.standing.filter(|known| known.nonce == nonce) else {
            return Verdict::Behind;
        };
        match digest.n.cmp(&known.n) {
            std::cmp::Ordering::Less => Verdict::Fine,
            std::cmp::Ordering::Greater => Verdict::Behind,
            // It can't agree; but once there is room, the rest can be read.
            std::cmp::Ordering::Equal if peer.is_truncated => {
                if remembered < self.users_max - self.users_max / 10 {
                    Verdict::Behind
                } else {
                    Verdict::Fine
                }
            }
            std::cmp::Ordering::Equal if peer.sum == digest.sum => Verdict::Agrees,
            std::cmp::Ordering::Equal => Verdict::Differs,
        }
    }

    /// From now on deltas of `instance` are held.
    pub(super) fn on_fetch(&mut self, instance: &str) {
        if let Some(peer) = self.peers.get_mut(instance) {
            peer.held = Held::default();
        }
    }

    /// A snapshot came.
    pub(super) fn on_snapshot(
        &mut self,
        now_ms: u64,
        instance: &str,
        fields: &[(Bytes, Bytes)],
        out: &mut Vec<RosterEvent>,
    ) -> Verdict {
        let Some(peer) = self.peers.get_mut(instance) else {
            return Verdict::Fine;
        };
        let held = std::mem::take(&mut peer.held);
        let Some((mut standing, mut members, _)) = wire::snapshot(fields, self.users_max) else {
            return Verdict::Stale;
        };
        for (held, delta) in held.deltas {
            if held.follows(standing) {
                standing = held;
                patch(&mut members, delta);
            }
        }
        let is_same_run = |known: Standing| known.nonce == standing.nonce;
        let same_run = peer.standing.filter(|known| is_same_run(*known));
        if same_run.is_some_and(|known| known.n > standing.n) {
            return Verdict::Stale;
        }
        let linger_ms = if same_run.is_some() {
            ROSTER_LEAVE_LINGER_MS
        } else {
            // That the hash of a run is there does not mean that it lives.
            if peer.said.1 == standing.nonce {
                peer.heard = peer.said.0;
            }
            ROSTER_RETURN_LINGER_MS
        };
        peer.standing = Some(standing);
        let latest = peer.latest;
        self.replace(instance, members, now_ms.saturating_add(linger_ms), out);
        match latest {
            Some(latest) if is_same_run(latest) && latest.n <= standing.n => Verdict::Fine,
            None => Verdict::Fine,
            Some(_) => Verdict::Differs,
        }
    }

    /// `members` take the place of those that `instance` had; only what differs is told.
    fn replace(
        &mut self,
        instance: &str,
        members: Members,
        until: u64,
        out: &mut Vec<RosterEvent>,
    ) {
        let Some(peer) = self.peers.get(instance) else {
            return;
        };
        let mut gone = Vec::new();
        for (room, users) in &peer.members {
            let remain = members.get(room);
            let remains = |user_id| remain.is_some_and(|users| users.contains_key(user_id));
            let missing = users.keys().filter(|user_id| !remains(*user_id));
            gone.extend(missing.map(|user_id| (room.clone(), user_id.clone())));
        }
        for (room, user_id) in gone {
            self.remove(instance, &room, &user_id, until, out);
        }
        if let Some(peer) = self.peers.get_mut(instance) {
            peer.is_truncated = false;
        }
        for (room, users) in members {
            for (user_id, username) in users {
                let room = room.clone();
                let row = Row {
                    room,
                    user_id,
                    username,
                };
                self.put(instance, row, out);
            }
        }
    }

    fn apply(&mut self, now_ms: u64, instance: &str, delta: Delta, out: &mut Vec<RosterEvent>) {
        let until = now_ms.saturating_add(ROSTER_LEAVE_LINGER_MS);
        for row in delta.leave {
            self.remove(instance, &row.room, &row.user_id, until, out);
        }
        for row in delta.join {
            self.put(instance, row, out);
        }
    }

    /// A user is among the members of `instance`.
    fn put(&mut self, instance: &str, row: Row, out: &mut Vec<RosterEvent>) {
        let remembered = self.remembered();
        let Some(peer) = self.peers.get_mut(instance) else {
            return;
        };
        let (room, user_id) = (row.room, row.user_id);
        let hash = |username: Option<&Name>| {
            wire::row_hash(room.as_str(), &user_id, username.map(Name::as_str))
        };
        let users = peer.members.get_mut(&room);
        if let Some(username) = users.and_then(|users| users.get_mut(&user_id)) {
            peer.sum.remove(hash(username.as_ref()));
            peer.sum.add(hash(row.username.as_ref()));
            *username = row.username;
            return;
        }
        if remembered >= self.users_max {
            peer.is_truncated = true;
            self.dropped += 1;
            if !std::mem::replace(&mut self.is_full, true) {
                let users_max = self.users_max;
                out.push(RosterEvent::Full { users_max });
            }
            return;
        }
        peer.sum.add(hash(row.username.as_ref()));
        let room = self.present.known(room);
        let username = row.username.as_ref();
        self.present.add(&room, &user_id, username, out);
        let users = peer.members.entry(room).or_default();
        users.insert(user_id, row.username);
        self.entries += 1;
    }

    /// A user is no longer among the members of `instance`.
    fn remove(
        &mut self,
        instance: &str,
        room: &RoomName,
        user_id: &Name,
        until: u64,
        out: &mut Vec<RosterEvent>,
    ) {
        let Some(peer) = self.peers.get_mut(instance) else {
            return;
        };
        let Some(users) = peer.members.get_mut(room) else {
            return;
        };
        let Some((user_id, username)) = users.remove_entry(user_id) else {
            return;
        };
        if users.is_empty() {
            peer.members.remove(room);
        }
        let row = wire::row_hash(room.as_str(), &user_id, username.as_deref());
        peer.sum.remove(row);
        self.entries -= 1;
        let key = (room, user_id);
        self.present.remove(key, username, Some(until), out);
    }

    /// How many users are remembered, those who linger too.
    pub(super) fn remembered(&self) -> usize {
        self.entries + self.present.lingering()
    }

    #[cfg(test)]
    pub(super) fn invariants(&self) {
        let mut entries = 0;
        let mut instances: HashMap<(&RoomName, &Name), u32> = HashMap::new();
        for peer in self.peers.values() {
            let mut sum = Sum::default();
            for (room, users) in &peer.members {
                assert!(!users.is_empty());
                for (user_id, username) in users {
                    let username = username.as_deref();
                    sum.add(wire::row_hash(room.as_str(), user_id, username));
                    *instances.entry((room, user_id)).or_default() += 1;
                    entries += 1;
                }
            }
            assert_eq!(sum, peer.sum);
            assert!(peer.held.bytes <= ROSTER_HELD_BYTES_MAX);
        }
        assert_eq!(entries, self.entries);
        assert!(self.remembered() <= self.users_max);
        let mut lingering = 0;
        for (room, user_id, count) in self.present.all() {
            assert_eq!(
                count,
                instances.remove(&(room, user_id)).unwrap_or_default()
            );
            lingering += usize::from(count == 0);
        }
        assert!(instances.is_empty());
        assert_eq!(lingering, self.present.lingering());
    }
}

impl Peer {
    /// Something was heard of.
    fn note(&mut self, standing: Standing) {
        match &mut self.latest {
            Some(latest) if latest.nonce == standing.nonce => latest.n = latest.n.max(standing.n),
            latest => *latest = Some(standing),
        }
    }
}

impl Held {
    /// Holds a delta; those for which there is no room are missed, which `latest` will show.
    fn push(&mut self, standing: Standing, delta: &Delta, bytes: usize) {
        if self.bytes + bytes <= ROSTER_HELD_BYTES_MAX {
            self.bytes += bytes;
            self.deltas.push((standing, delta.clone()));
        }
    }
}

/// Applies a delta to members that are not shown yet.
fn patch(members: &mut Members, delta: Delta) {
    for row in delta.leave {
        if let Some(users) = members.get_mut(&row.room) {
            users.remove(&row.user_id);
            if users.is_empty() {
                members.remove(&row.room);
            }
        }
    }
    for row in delta.join {
        let users = members.entry(row.room).or_default();
        users.insert(row.user_id, row.username);
    }
}
