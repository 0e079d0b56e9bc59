//! The rooms of a partition, for a list of them: those with users on other instances, how far they
//! are, and those that are stored.
//!
//! ```text
//! query ─▶ names: the roster ─▶ offsets: Redis ─▶ stored: PostgreSQL ─▶ Outcome::Rooms
//!                    └─ none, or Redis is away ────▶┘
//! ```
//!
//! Rooms that are open here are their home shard's to list. With Redis away the list is what is
//! stored; without a PostgreSQL there is none then, and that is said.
//!
//! Invariant: each query has one outcome.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::Partition;
use super::replies::{Question, state_of};
use crate::backplane::history::{HistoryAsk, RoomsQuery, StoredRoom};
use crate::backplane::{Ask, Origin, Outcome};
use crate::model::RoomName;
use crate::resp::{Command, Value};

/// Queries under way, by their ids.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Whose names are known, and not how far they are.
    named: HashMap<u64, (RoomsQuery, Vec<RoomName>)>,
    /// Of these, what is not asked yet.
    unasked: Vec<u64>,
    /// What was found when PostgreSQL was asked for the rest.
    found: HashMap<u64, Vec<StoredRoom>>,
}

impl<T: Origin> Partition<T> {
    pub(in crate::backplane) fn rooms(&mut self, query: RoomsQuery) {
        // Sooner than the breaker opens: what is asked of a Redis that is gone waits.
        let names = match self.can_publish() {
            false => Vec::new(),
            true => self.roster.rooms(&query),
        };
        if names.is_empty() {
            self.list_stored(query, Vec::new());
            return;
        }
        self.listing.unasked.push(query.id);
        self.listing.named.insert(query.id, (query, names));
    }

    /// Asks how far the rooms are.
    pub(super) fn ask_listed(&mut self, now_ms: u64) {
        for id in std::mem::take(&mut self.listing.unasked) {
            let Some((_, names)) = self.listing.named.get(&id) else {
                continue;
            };
            let out = self.commands.ask(now_ms, Question::Listed(id));
            let mut command = Command::new(out, 4 + names.len());
            command.arg(b"HMGET").arg(self.names.state.as_bytes());
            command.arg(b"epoch").arg(b"seq");
            for name in names {
                command.arg(format!("o:{}", name.as_str()).as_bytes());
            }
            self.counters.commands += 1;
        }
    }

    /// How far the rooms are.
    pub(super) fn on_listed(&mut self, id: u64, value: &Value) {
        let Some((query, names)) = self.listing.named.remove(&id) else {
            return;
        };
        let offsets = value.as_list().unwrap_or_default().iter().skip(2);
        let offsets = offsets.map(|value| value.as_number().and_then(|n| u64::try_from(n).ok()));
        // Without a state nothing was published yet, and nothing can be said.
        let found = state_of(value).map(|(epoch, _)| {
            let rooms = names.into_iter().zip(offsets);
            let rooms = rooms.map(|(room, offset)| StoredRoom {
                members: self.roster.user_count(room.as_str()) as u64,
                room,
                epoch,
                offset: offset.unwrap_or(0),
            });
            rooms.collect()
        });
        self.list_stored(query, found.unwrap_or_default());
    }

    /// The commands wire is gone, and with it what was asked.
    pub(super) fn lose_listings(&mut self) {
        self.listing.unasked.clear();
        for (_, (query, _)) in std::mem::take(&mut self.listing.named) {
            self.list_stored(query, Vec::new());
        }
    }

    /// Goes on with what is stored.
    fn list_stored(&mut self, query: RoomsQuery, found: Vec<StoredRoom>) {
        if self.past.has_store() {
            self.listing.found.insert(query.id, found);
            self.asks.push(Ask::History(HistoryAsk::Rooms(query)));
            return;
        }
        let rooms = match self.can_publish() {
            false => Err("Redis is away; try again when it is back".to_owned()),
            true => Ok(found),
        };
        self.outcomes.push(Outcome::Rooms(query, rooms));
    }

    /// What is stored, besides what was found before.
    pub(super) fn on_stored_rooms(
        &mut self,
        query: RoomsQuery,
        stored: Result<Vec<StoredRoom>, String>,
    ) {
        let found = self.listing.found.remove(&query.id).unwrap_or_default();
        let all = stored.map(|stored| {
            let by_name =
                |rooms: Vec<StoredRoom>| rooms.into_iter().map(|it| (it.room.clone(), it));
            // What was found is further than what is stored.
            let all: BTreeMap<_, _> = by_name(stored).chain(by_name(found)).collect();
            all.into_values().collect()
        });
        self.outcomes.push(Outcome::Rooms(query, all));
    }
}
