//! The members on this instance: what they are, and what of it the others were told.
//!
//! ```text
//! join ──────────────▶ dirty ─▶ batch: changes for Redis, a delta for the channel ─▶ told
//! leave ─▶ leaving ─debounce─▶ dirty
//! ```
//!
//! Nothing is queued but keys: what a batch says of a user is what holds when it is made. So what
//! waits while Redis is away is bounded by the members that are and the members that were told.
//!
//! Invariants: a user is dirty only if what was told differs from what is; `told` is the sum over
//! what was told; a user that is gone and was not told, or whose leaving was told, is forgotten.

use std::collections::BTreeSet;

use bytes::Bytes;
use hashbrown::HashMap;

use super::others::Standing;
use super::wire::{self, Sum};
use crate::model::limits::{
    ROSTER_HEAD_BYTES_MAX, ROSTER_LEAVE_DEBOUNCE_MS, ROSTER_MESSAGE_BYTES_MAX,
};
use crate::model::{Name, RoomName};

/// Changes of fields of the members' hash; without a value the field goes.
pub type Changes = Vec<(Bytes, Option<Bytes>)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Own {
    rooms: HashMap<RoomName, HashMap<Name, Member>>,
    dirty: BTreeSet<(RoomName, Name)>,
    leaving: BTreeSet<(u64, RoomName, Name)>,
    nonce: u64,
    /// The last delta's number.
    n: u64,
    /// How often all was stored anew.
    generation: u64,
    told: Sum,
}

#[derive(Debug)]
struct Member {
    username: Option<Name>,
    state: State,
    /// The hash of the row that was told.
    told: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Here,
    /// Gone from then on, if it does not come back.
    Leaving(u64),
    Gone,
}

impl Own {
    pub(super) fn new(nonce: u64) -> Self {
        Self {
            rooms: HashMap::new(),
            dirty: BTreeSet::new(),
            leaving: BTreeSet::new(),
            nonce,
            n: 0,
            generation: 0,
            told: Sum::default(),
        }
    }

    pub(super) fn join(&mut self, room: &RoomName, user_id: &Name, username: Option<&Name>) {
        let users = self.rooms.entry_ref(room).or_default();
        let member = users.entry_ref(user_id).or_insert(Member {
            username: None,
            state: State::Gone,
            told: None,
        });
        if let State::Leaving(until) = member.state {
            let key = (until, room.clone(), user_id.clone());
            self.leaving.remove(&key);
        }
        member.state = State::Here;
        member.username = username.cloned();
        let row = wire::row_hash(room.as_str(), user_id, username.map(Name::as_str));
        let key = (room.clone(), user_id.clone());
        if member.told == Some(row) {
            self.dirty.remove(&key);
        } else {
            self.dirty.insert(key);
        }
    }

    pub(super) fn leave(&mut self, now_ms: u64, room: &RoomName, user_id: &Name) {
        let users = self.rooms.get_mut(room);
        let member = users.and_then(|users| users.get_mut(user_id));
        let Some(member) = member.filter(|member| member.state == State::Here) else {
            return;
        };
        if member.told.is_none() {
            self.dirty.remove(&(room.clone(), user_id.clone()));
            self.forget(room, user_id);
        } else {
            let until = now_ms.saturating_add(ROSTER_LEAVE_DEBOUNCE_MS);
            member.state = State::Leaving(until);
            let key = (until, room.clone(), user_id.clone());
            self.leaving.insert(key);
        }
    }

    /// Those who did not come back are gone.
    pub(super) fn tick(&mut self, now_ms: u64) {
        while self
            .leaving
            .first()
            .is_some_and(|(until, ..)| *until <= now_ms)
        {
            let Some((_, room, user_id)) = self.leaving.pop_first() else {
                return;
            };
            let users = self.rooms.get_mut(&room);
            if let Some(member) = users.and_then(|users| users.get_mut(&user_id)) {
                member.state = State::Gone;
                self.dirty.insert((room, user_id));
            }
        }
    }

    /// The next delta: the changes for Redis, which are to be there first, and the message.
    pub(super) fn batch(&mut self, instance_id: &str) -> Option<(Changes, Vec<u8>)> {
        let (mut join, mut leave, mut row) = (Vec::new(), Vec::new(), Vec::new());
        let (mut set, mut unset) = (Changes::new(), Changes::new());
        while let Some((room, user_id)) = self.dirty.first() {
            let users = self.rooms.get_mut(room);
            let Some(member) = users.and_then(|users| users.get_mut(user_id)) else {
                debug_assert!(false, "who is dirty is a member");
                self.dirty.pop_first();
                continue;
            };
            let is_gone = member.state == State::Gone;
            let username = member.username.as_deref().filter(|_| !is_gone);
            row.clear();
            wire::push_row(&mut row, room.as_str(), user_id, username);
            let bytes = join.len() + leave.len() + row.len() + 1;
            if bytes > ROSTER_MESSAGE_BYTES_MAX - ROSTER_HEAD_BYTES_MAX {
                break;
            }
            let field = wire::field(room.as_str(), user_id);
            let rows = if is_gone {
                unset.push((field, None));
                &mut leave
            } else {
                let value = Bytes::copy_from_slice(username.unwrap_or_default().as_bytes());
                set.push((field, Some(value)));
                &mut join
            };
            if !rows.is_empty() {
                rows.push(b',');
            }
            rows.extend_from_slice(&row);
            let told = wire::row_hash(room.as_str(), user_id, username);
            let told = (!is_gone).then_some(told);
            if let Some(before) = std::mem::replace(&mut member.told, told) {
                self.told.remove(before);
            }
            if let Some(told) = told {
                self.told.add(told);
            }
            if let Some((room, user_id)) = self.dirty.pop_first()
                && is_gone
            {
                self.forget(&room, &user_id);
            }
        }
        if set.is_empty() && unset.is_empty() {
            return None;
        }
        self.n += 1;
        let mut message = wire::head(instance_id, self.nonce);
        message.extend_from_slice(format!("\"members\":{{\"n\":{},\"join\":[", self.n).as_bytes());
        message.extend_from_slice(&join);
        message.extend_from_slice(b"],\"leave\":[");
        message.extend_from_slice(&leave);
        message.extend_from_slice(b"]}}");
        debug_assert!(message.len() <= ROSTER_MESSAGE_BYTES_MAX);
        unset.append(&mut set);
        unset.push(self.standing_change());
        Some((unset, message))
    }

    /// All that was told, in parts; where it stands comes last, so that a part is not taken for
    /// the whole.
    pub(super) fn all(&mut self) -> Vec<Changes> {
        self.generation += 1;
        let (mut parts, mut part, mut bytes) = (Vec::new(), Changes::new(), 0);
        for (room, users) in &self.rooms {
            for (user_id, member) in users {
                if member.told.is_none() {
                    continue;
                }
                let field = wire::field(room.as_str(), user_id);
                let username = member.username.as_deref().unwrap_or_default();
                bytes += field.len() + username.len();
                part.push((field, Some(Bytes::copy_from_slice(username.as_bytes()))));
                if bytes >= ROSTER_MESSAGE_BYTES_MAX {
                    parts.push(std::mem::take(&mut part));
                    bytes = 0;
                }
            }
        }
        part.push(self.standing_change());
        parts.push(part);
        parts
    }

    /// What was told, in short.
    pub(super) fn digest(&self, instance_id: &str) -> Vec<u8> {
        let mut message = wire::head(instance_id, self.nonce);
        let (n, Sum { count, hash }) = (self.n, self.told);
        let digest =
            format!("\"digest\":{{\"n\":{n},\"count\":{count},\"hash\":\"{hash:016x}\"}}}}");
        message.extend_from_slice(digest.as_bytes());
        message
    }

    fn standing_change(&self) -> (Bytes, Option<Bytes>) {
        let standing = Standing {
            nonce: self.nonce,
            n: self.n,
        };
        let value = wire::standing(standing, self.generation);
        (
            Bytes::from_static(wire::STANDING_FIELD.as_bytes()),
            Some(value),
        )
    }

    fn forget(&mut self, room: &RoomName, user_id: &Name) {
        if let Some(users) = self.rooms.get_mut(room) {
            users.remove(user_id);
            if users.is_empty() {
                self.rooms.remove(room);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn invariants(&self) {
        let mut told = Sum::default();
        let (mut leaving, mut dirty) = (0, 0);
        for (room, users) in &self.rooms {
            assert!(!users.is_empty());
            for (user_id, member) in users {
                let row = wire::row_hash(room.as_str(), user_id, member.username.as_deref());
                let is_dirty = self.dirty.contains(&(room.clone(), user_id.clone()));
                dirty += usize::from(is_dirty);
                if let Some(row) = member.told {
                    told.add(row);
                }
                match member.state {
                    State::Leaving(until) => {
                        leaving += 1;
                        let key = (until, room.clone(), user_id.clone());
                        assert!(self.leaving.contains(&key));
                    }
                    State::Here => assert_eq!(is_dirty, member.told != Some(row)),
                    State::Gone => assert!(is_dirty && member.told.is_some()),
                }
            }
        }
        assert_eq!(told, self.told);
        assert_eq!((leaving, dirty), (self.leaving.len(), self.dirty.len()));
    }
}
