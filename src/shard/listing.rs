//! The list of rooms over HTTP: `GET /api/rooms` (PROTOCOL 2).
//!
//! ```text
//! asked on shard A ─▶ every shard: its home rooms that are open ────┐
//!                  └▶ one of them, or each partition's home: ───────┼─▶ A: merged ─▶ answer
//!                     rooms that are stored, or somebody is in elsewhere
//! ```
//!
//! Each source gives its first names, in order, up to the limit; so the first of them all together,
//! up to the limit, are the first there are. Of a room that is open what its home says counts.
//!
//! Whom a token lets see some rooms only, sees those: the names and prefixes that it grants are
//! asked for one after the other, in order, so that no name but theirs is ever in the answer, nor
//! in its cursor.

use std::collections::{BTreeMap, VecDeque};

use super::event::{ConnId, Mail, ShardId};
use super::{Backplane, Shard};
use crate::access::Grants;
use crate::backplane::history::{RoomsQuery, StoredRoom};
use crate::hub::{ConnIndex, RoomKey};
use crate::model::limits::{HISTORY_ANSWER_MS, ROOMS_PREFIXES_MAX};
use crate::model::{Epoch, RoomName};
use crate::net::{Response, response};

/// A room of the list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The room.
    pub room: RoomName,
    /// Users in it.
    pub members: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its last offset.
    pub offset: u64,
}

/// What one shard answers.
#[derive(Debug)]
pub struct Listing {
    /// The query's id.
    pub id: u64,
    /// Its home rooms.
    pub open: Vec<Listed>,
    /// If it was asked for them, those that are stored.
    pub stored: Result<Vec<StoredRoom>, String>,
}

/// One that is gathered, on the shard that was asked.
#[derive(Debug)]
struct Gathering {
    conn: ConnId,
    query: RoomsQuery,
    /// So many more at most.
    wanted: usize,
    /// What is asked for when that is answered: names (`true`) and prefixes.
    next: VecDeque<(String, bool)>,
    /// What was found before.
    found: Vec<Listed>,
    /// Shards that have not answered.
    left: u16,
    rooms: BTreeMap<String, Listed>,
    /// Whether some source had more.
    has_more: bool,
    deadline_ms: u64,
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Listings {
    ids: u64,
    gathering: Vec<Gathering>,
    /// Those that go on to their next query.
    ready: Vec<Gathering>,
    /// Whether that is being done.
    is_asking: bool,
    /// Who waits for what is stored, and what is open here.
    listing: Vec<(ShardId, Listing)>,
}

impl Shard {
    /// Begins to gather a list for a connection.
    pub(super) fn list_rooms(
        &mut self,
        index: ConnIndex,
        prefix: &str,
        after: String,
        limit: usize,
        of: &Grants,
    ) {
        let Some(conn) = self.conn_mut(index).map(|conn| conn.id(index)) else {
            return;
        };
        let next: VecDeque<_> = of.within(prefix).collect();
        if next.iter().filter(|(_, exact)| !exact).count() > ROOMS_PREFIXES_MAX {
            let why = format!(
                "the token has more than {ROOMS_PREFIXES_MAX} prefixes: say by ?prefix= which rooms"
            );
            let answer = response::error(400, "bad_request", &why, &[]);
            self.on_answered(conn, answer);
            return;
        }
        let gathering = Gathering {
            conn,
            query: RoomsQuery {
                id: 0,
                prefix: String::new(),
                exact: false,
                after,
                limit,
            },
            wanted: limit,
            next,
            found: Vec::new(),
            left: 0,
            rooms: BTreeMap::new(),
            has_more: false,
            deadline_ms: self.now.ms + HISTORY_ANSWER_MS,
        };
        self.listings.ready.push(gathering);
        self.gather();
    }

    /// Asks for what is next. What is answered at once comes back here, and not upon itself.
    fn gather(&mut self) {
        if std::mem::replace(&mut self.listings.is_asking, true) {
            return;
        }
        while let Some(gathering) = self.listings.ready.pop() {
            self.ask_sources(gathering);
        }
        self.listings.is_asking = false;
    }

    /// Asks all sources for what is next; answers if that is nothing.
    fn ask_sources(&mut self, mut gathering: Gathering) {
        if self.find_conn(gathering.conn).is_none() {
            return;
        }
        if !gathering.proceed() {
            let answer = gathering.answer();
            self.on_answered(gathering.conn, answer);
            return;
        }
        self.listings.ids += 1;
        // No two shards' are the same: what is stored is found by it.
        gathering.query.id = self.listings.ids << 16 | u64::from(self.id);
        gathering.left = self.options.shards;
        let query = gathering.query.clone();
        self.listings.gathering.push(gathering);
        for to in 0..self.options.shards {
            if to == self.id {
                self.on_list_rooms(to, query.clone());
            } else {
                self.lanes.post(to, Mail::ListRooms(query.clone()));
            }
        }
    }

    /// Another shard, or this one, gathers a list.
    pub(super) fn on_list_rooms(&mut self, from: ShardId, query: RoomsQuery) {
        let listing = Listing {
            id: query.id,
            open: self.open_rooms(&query),
            stored: Ok(Vec::new()),
        };
        // Alone all shards have one store; in a cluster each partition's home knows its own.
        let asks_store = match &self.home.backplane {
            Backplane::Embedded(_) => from == self.id && self.options.keeping.partitions() == 0,
            Backplane::Redis(_) => true,
        };
        if asks_store {
            self.listings.listing.push((from, listing));
            self.home.backplane.rooms(query);
        } else {
            self.give_listing(from, listing);
        }
    }

    pub(super) fn on_rooms(&mut self, id: u64, stored: Result<Vec<StoredRoom>, String>) {
        let waits = |(_, listing): &(ShardId, Listing)| listing.id == id;
        if let Some(at) = self.listings.listing.iter().position(waits) {
            let (from, mut listing) = self.listings.listing.swap_remove(at);
            listing.stored = stored;
            self.give_listing(from, listing);
        }
    }

    fn give_listing(&mut self, to: ShardId, listing: Listing) {
        if to == self.id {
            self.on_listing(listing);
        } else {
            self.lanes.post(to, Mail::Listing(listing));
        }
    }

    /// The first rooms that are open here.
    fn open_rooms(&self, query: &RoomsQuery) -> Vec<Listed> {
        let keys: Box<dyn Iterator<Item = RoomKey> + '_> = match query.exact {
            true => Box::new(self.hub.find(&query.prefix).into_iter()),
            false => Box::new(self.home.rooms.keys().copied()),
        };
        let open = keys.filter_map(|key| {
            let room = self.home.rooms.get(&key)?;
            let name = room.name.as_str();
            let position = room.position.filter(|_| query.wants(name))?;
            let members = self.user_count(key);
            (members > 0 || position.offset > 0).then(|| Listed {
                room: room.name.clone(),
                members,
                epoch: position.epoch,
                offset: position.offset,
            })
        });
        query.first(open.collect(), |listed| listed.room.as_str())
    }

    pub(super) fn on_listing(&mut self, listing: Listing) {
        let of = |gathering: &Gathering| gathering.query.id == listing.id;
        let Some(at) = self.listings.gathering.iter().position(of) else {
            return;
        };
        let gathering = &mut self.listings.gathering[at];
        gathering.left -= 1;
        let limit = gathering.query.limit;
        let stored = match listing.stored {
            Ok(stored) => stored,
            Err(why) => {
                let gathering = self.listings.gathering.swap_remove(at);
                self.refuse_listing(gathering.conn, &why);
                return;
            }
        };
        gathering.has_more |= listing.open.len() >= limit || stored.len() >= limit;
        for StoredRoom {
            room,
            epoch,
            offset,
            members,
        } in stored
        {
            let name = room.as_str().to_owned();
            let listed = gathering.rooms.entry(name).or_insert(Listed {
                room,
                members,
                epoch,
                offset,
            });
            // Of a partition that is another shard's not all is known.
            listed.members = listed.members.max(members);
            (listed.epoch, listed.offset) = (listed.epoch, listed.offset).max((epoch, offset));
        }
        for listed in listing.open {
            let name = listed.room.as_str().to_owned();
            gathering.rooms.insert(name, listed);
        }
        if gathering.left == 0 {
            let mut gathering = self.listings.gathering.swap_remove(at);
            gathering.take();
            self.listings.ready.push(gathering);
            self.gather();
        }
    }

    fn refuse_listing(&mut self, conn: ConnId, why: &str) {
        let again = [("Retry-After", "1")];
        let answer = response::error(503, "unavailable", why, &again);
        self.on_answered(conn, answer);
    }

    /// Answers those who have waited too long.
    pub(super) fn expire_listings(&mut self) {
        let now_ms = self.now.ms;
        while let Some(at) = self
            .listings
            .gathering
            .iter()
            .position(|gathering| gathering.deadline_ms <= now_ms)
        {
            let gathering = self.listings.gathering.swap_remove(at);
            let why = "the rooms can't be listed now; try again later";
            self.refuse_listing(gathering.conn, why);
        }
    }
}

impl Gathering {
    /// Goes on to the next query, if one is to be made.
    fn proceed(&mut self) -> bool {
        if self.wanted == 0 {
            return false;
        }
        let after = &self.query.after;
        while let Some((text, exact)) = self.next.pop_front() {
            // Nothing of what stands before the cursor is wanted again.
            let is_past = text.as_str() <= after.as_str();
            if is_past && (exact || !after.starts_with(text.as_str())) {
                continue;
            }
            (self.query.prefix, self.query.exact) = (text, exact);
            // What else begins so was not asked for.
            self.query.limit = if exact { 1 } else { self.wanted };
            return true;
        }
        false
    }

    /// Takes what all sources together have found.
    fn take(&mut self) {
        let (limit, exact) = (self.query.limit, self.query.exact);
        let has_more = self.has_more || self.rooms.len() > limit;
        let name = self.query.prefix.as_str();
        let rooms = std::mem::take(&mut self.rooms).into_values().take(limit);
        let rooms = rooms.filter(|listed| !exact || listed.room.as_str() == name);
        let before = self.found.len();
        self.found.extend(rooms);
        self.wanted -= self.found.len() - before;
        self.has_more = has_more && !exact && self.wanted == 0;
    }

    fn answer(&self) -> Response {
        let rooms = self.found.iter().map(|listed| {
            serde_json::json!({
                "room": listed.room.as_str(),
                "members": listed.members,
                "epoch": listed.epoch.as_str(),
                "offset": listed.offset,
            })
        });
        let mut body = serde_json::json!({ "rooms": rooms.collect::<Vec<_>>() });
        let has_more = self.has_more || !self.next.is_empty();
        if let Some(last) = self.found.last().filter(|_| has_more) {
            body["cursor"] = last.room.as_str().into();
        }
        let body = body.to_string();
        response::build(200, response::JSON, &[], body.as_bytes())
    }
}
