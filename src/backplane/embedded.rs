//! The backplane of an instance that runs alone: counts offsets, and has the store commit them.
//!
//! ```text
//! publish ─▶ queue ─drive─▶ numbered batch ─▶ store thread (group commit)
//!                              │ one in flight          │
//!    outcomes, in order ◀──────┴───── on_committed ◀────┘
//! ```
//!
//! While one batch is being committed the next gathers: group commit without a timer. Offsets are
//! given when a batch is handed over and become true when it is committed; if the commit fails,
//! they are given again to others, since nobody has seen them.
//!
//! With `--store memory` there is no commit: `drive` yields the outcomes at once, and each room has
//! an epoch of its own that begins when the room does.
//!
//! Invariants: at most one batch is in flight; `last` of a room is the last offset committed; what
//! is in the queue is of open rooms, what is published to others waits beside them.

mod flight;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use hashbrown::HashMap;

use self::flight::{Flight, Whose};

use super::history::{EpochEnds, RoomsQuery};
use super::resumes::{Resumed, Resumes, Sought};
use super::{
    Ask, Begun, CommitFailure, Encode, Moment, Outcome, Publish, Remembered, StoreReply,
    StoreRequest, give,
};
use crate::model::limits::{COMMIT_PUBLICATIONS_MAX, REQUEST_OVERHEAD_BYTES};
use crate::model::{Epoch, ErrorCode, MessageId, Position, Publication, RoomName, Timestamp};

/// A room that is followed.
#[derive(Debug)]
enum Room<T> {
    /// The store was asked where it stands; what is published meanwhile.
    Opening(Vec<(Publish, T)>),
    /// The last offset that counts.
    Open(Position),
}

/// See the module.
#[derive(Debug)]
pub struct Embedded<T> {
    rooms: HashMap<RoomName, Room<T>>,
    queue: Vec<(Publish, T)>,
    flight: Option<Flight<T>>,
    remembered: Remembered,
    stored: bool,
    batch_bytes_max: usize,
    /// A batch that clashed, without what clashed: it is handed over again before anything else.
    retry: Option<(Vec<Publication>, Flight<T>)>,
    encode: Encode,
    resumes: Resumes,
    outcomes: Vec<Outcome<T>>,
    asks: Vec<Ask>,
}

impl<T: Clone> Embedded<T> {
    /// A backplane without rooms. `stored`: batches are committed before they have an outcome. A
    /// batch ends with the publication that takes it to `batch_bytes_max`.
    pub fn new(
        stored: bool,
        batch_bytes_max: usize,
        remembered: Remembered,
        encode: Encode,
    ) -> Self {
        Self {
            rooms: HashMap::new(),
            queue: Vec::new(),
            flight: None,
            remembered,
            stored,
            batch_bytes_max,
            retry: None,
            encode,
            resumes: Resumes::default(),
            outcomes: Vec::new(),
            asks: Vec::new(),
        }
    }

    pub(super) fn remember(&mut self, at: Timestamp, room: &RoomName, id: MessageId, offset: u64) {
        self.remembered.insert(at, room, id, offset);
    }

    pub(super) fn open(&mut self, moment: &mut Moment<'_>, room: &RoomName) {
        if self.stored {
            self.rooms.insert(room.clone(), Room::Opening(Vec::new()));
            self.ask(StoreRequest::Open(room.clone()));
        } else {
            let epoch = Epoch::new(moment.wall.0, moment.rng.u32(..));
            self.on_opened(room.clone(), Ok(Position { epoch, offset: 0 }));
        }
    }

    pub(super) fn close(&mut self, room: &RoomName) {
        self.rooms.remove(room);
    }

    pub(super) fn publish(&mut self, publish: Publish, origin: T) {
        match self.rooms.get_mut(&publish.room) {
            Some(Room::Opening(waiting)) => waiting.push((publish, origin)),
            Some(Room::Open(_)) => self.queue.push((publish, origin)),
            None => {
                let (room, code) = (publish.room, ErrorCode::Internal);
                let why = "the room is not open here".to_owned();
                self.outcomes.push(Outcome::Refused {
                    room,
                    code,
                    why,
                    origin,
                });
            }
        }
    }

    pub(super) fn read(&mut self, room: &RoomName, epoch: Epoch, from: u64) {
        let room = room.clone();
        if self.stored {
            self.ask(StoreRequest::Read { room, epoch, from });
        } else {
            let page = Ok(Vec::new());
            self.outcomes.push(Outcome::Page {
                room,
                epoch,
                from,
                page,
            });
        }
    }

    pub(super) fn resume(&mut self, room: &RoomName, epoch: Epoch, from: u64, kept: u64) {
        let result = match self.stored {
            // What is not in memory was not kept.
            false => Ok(None),
            true if self.resumes.want(room, epoch, from, kept) => return,
            true => Err("too many come back at once; try again later".into()),
        };
        self.outcomes.push(Outcome::Resumed(Resumed {
            room: room.clone(),
            epoch,
            from,
            result,
        }));
    }

    pub(super) fn ends(&mut self, room: &RoomName, epoch: Epoch) {
        if self.stored {
            self.ask(StoreRequest::Ends(room.clone(), epoch));
        } else {
            let ends = Outcome::Ends(room.clone(), epoch, Ok(EpochEnds::default()));
            self.outcomes.push(ends);
        }
    }

    pub(super) fn rooms(&mut self, query: RoomsQuery) {
        if self.stored {
            self.ask(StoreRequest::Rooms(query));
        } else {
            self.outcomes.push(Outcome::Rooms(query, Ok(Vec::new())));
        }
    }

    /// Hands over the next batch, if none is being committed.
    pub(super) fn drive(&mut self, moment: &mut Moment<'_>) {
        if self.flight.is_some() {
            return;
        }
        if let Some((batch, flight)) = self.retry.take() {
            self.flight = Some(flight);
            self.ask(StoreRequest::Commit(batch));
            return;
        }
        self.remembered.expire(moment.wall);
        let (batch, flight) = self.number(moment);
        if self.stored && !batch.is_empty() {
            self.flight = Some(flight);
            self.ask(StoreRequest::Commit(batch));
        } else {
            self.settle(batch, flight);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.flight.is_none() && (!self.queue.is_empty() || self.retry.is_some())
    }

    pub(super) fn poll(&mut self, outcomes: &mut Vec<Outcome<T>>, asks: &mut Vec<Ask>) {
        // There is no stream that could have what is not stored.
        for seek in self.resumes.take_seeks() {
            let sought = seek.failed.map_or(Sought::Lost, Sought::Failed);
            self.resumes
                .on_sought(&seek.room, seek.epoch, seek.at, sought);
        }
        let resumed = self.resumes.take_resumed().into_iter();
        self.outcomes.extend(resumed.map(Outcome::Resumed));
        if let Some(look) = self.resumes.poll_look() {
            self.ask(StoreRequest::Missing(look));
        }
        give(&mut self.outcomes, outcomes);
        give(&mut self.asks, asks);
    }

    pub(super) fn on_store(&mut self, reply: StoreReply) {
        match reply {
            StoreReply::Opened(room, result) => {
                let result = result.map(|(epoch, offset)| Position { epoch, offset });
                self.on_opened(room, result);
            }
            StoreReply::Read {
                room,
                epoch,
                from,
                publications,
            } => {
                let encode = |publication: &Publication| {
                    let mut json = Vec::new();
                    (self.encode)(&mut json, publication);
                    (publication.offset, json.into())
                };
                let page = publications.map(|page| page.iter().map(encode).collect());
                self.outcomes.push(Outcome::Page {
                    room,
                    epoch,
                    from,
                    page,
                });
            }
            StoreReply::Missing(missing) => self.resumes.on_looked(missing),
            StoreReply::Ends(room, epoch, ends) => {
                self.outcomes.push(Outcome::Ends(room, epoch, ends));
            }
            StoreReply::Rooms(query, rooms) => self.outcomes.push(Outcome::Rooms(query, rooms)),
            StoreReply::Committed(batch, result) => self.on_committed(batch, result),
        }
    }

    fn ask(&mut self, request: StoreRequest) {
        self.asks.push(Ask::Store(request));
    }

    fn on_opened(&mut self, room: RoomName, result: Result<Position, String>) {
        let state = result.as_ref().ok().map(|&last| Room::Open(last));
        let before = match state {
            Some(state) => self.rooms.insert(room.clone(), state),
            None => self.rooms.remove(&room),
        };
        if let Some(Room::Opening(waiting)) = before {
            match &result {
                Ok(_) => self.queue.extend(waiting),
                Err(why) => {
                    for (publish, origin) in waiting {
                        self.refuse(publish.room, why.clone(), origin);
                    }
                }
            }
        }
        self.outcomes.push(Outcome::Opened { room, result });
    }

    fn refuse(&mut self, room: RoomName, why: String, origin: T) {
        let code = ErrorCode::Unavailable;
        self.outcomes.push(Outcome::Refused {
            room,
            code,
            why,
            origin,
        });
    }

    fn repeated(&mut self, room: RoomName, id: MessageId, offset: u64, origin: T) {
        self.outcomes.push(Outcome::Stored {
            room,
            id,
            offset,
            is_repeat: true,
            origin,
        });
    }

    /// The commit of the batch in flight has ended.
    fn on_committed(&mut self, mut batch: Vec<Publication>, result: Result<(), CommitFailure>) {
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        match result {
            Ok(()) => self.settle(batch, flight),
            Err(CommitFailure::Clash { index, offset }) if index < batch.len() => {
                let (clashed, origins) = flight.take_out(&mut batch, index);
                for origin in origins {
                    self.repeated(clashed.room.clone(), clashed.id, offset, origin);
                }
                if !batch.is_empty() {
                    self.retry = Some((batch, flight));
                }
            }
            Err(failure) => {
                let why = match failure {
                    CommitFailure::Unavailable(why) => why,
                    CommitFailure::Clash { .. } => "the store named a row it was not given".into(),
                };
                let rooms = batch.iter().map(|publication| publication.room.clone());
                let origins = flight.whose.into_iter().map(|whose| whose.origin);
                let repeats = flight.repeats.into_iter();
                let repeated = repeats.map(|(of, origin)| (batch[of].room.clone(), origin));
                for (room, origin) in rooms.zip(origins).chain(repeated) {
                    self.refuse(room, why.clone(), origin);
                }
            }
        }
    }

    /// Takes messages from the queue and gives them offsets.
    fn number(&mut self, moment: &mut Moment<'_>) -> (Vec<Publication>, Flight<T>) {
        let mut batch: Vec<Publication> = Vec::new();
        let mut flight = Flight::new();
        let mut given: HashMap<RoomName, u64> = HashMap::new();
        let mut seen: HashMap<(RoomName, MessageId), usize> = HashMap::new();
        let mut bytes = 0;
        let count = self
            .queue
            .iter()
            .take(COMMIT_PUBLICATIONS_MAX)
            .take_while(|(publish, _)| {
                let within = bytes < self.batch_bytes_max;
                let metadata = publish
                    .metadata
                    .as_ref()
                    .map_or(0, |metadata| metadata.len());
                bytes += publish.payload.len() + metadata + REQUEST_OVERHEAD_BYTES;
                within
            });
        let count = count.count();
        let taken: Vec<_> = self.queue.drain(..count).collect();
        for (publish, origin) in taken {
            let Publish {
                room,
                id,
                user_id,
                username,
                payload,
                metadata,
                echo,
                arrived_us,
            } = publish;
            let Some(&Room::Open(last)) = self.rooms.get(&room) else {
                self.refuse(room, "the room is not open here".into(), origin);
                continue;
            };
            if let Some(id) = id {
                if let Some(offset) = self.remembered.offset(&room, id) {
                    self.repeated(room, id, offset, origin);
                    continue;
                }
                if let Some(&of) = seen.get(&(room.clone(), id)) {
                    flight.repeats.push((of, origin));
                    continue;
                }
                seen.insert((room.clone(), id), batch.len());
            }
            let offset = match given.get_mut(&room) {
                Some(offset) => {
                    *offset += 1;
                    *offset
                }
                None => *given.entry(room.clone()).insert(last.offset + 1).get(),
            };
            flight.whose.push(Whose {
                origin,
                echo,
                arrived_us,
            });
            batch.push(Publication {
                epoch: last.epoch,
                offset,
                id: id.unwrap_or_else(|| moment.new_id()),
                client_id_given: id.is_some(),
                room,
                user_id,
                username,
                payload,
                metadata,
                sent_at: moment.wall,
            });
        }
        (batch, flight)
    }

    /// What was numbered is true now.
    fn settle(&mut self, batch: Vec<Publication>, flight: Flight<T>) {
        for (of, origin) in flight.repeats {
            let Publication {
                room, id, offset, ..
            } = &batch[of];
            self.repeated(room.clone(), *id, *offset, origin);
        }
        for (publication, whose) in batch.into_iter().zip(flight.whose) {
            if let Some(Room::Open(last)) = self.rooms.get_mut(&publication.room) {
                debug_assert_eq!(last.offset + 1, publication.offset, "offsets rise by one");
                last.offset = publication.offset;
            }
            let mut json = Vec::new();
            (self.encode)(&mut json, &publication);
            let Publication {
                sent_at,
                room,
                epoch,
                id,
                offset,
                client_id_given,
                ..
            } = publication;
            if client_id_given {
                self.remembered.insert(sent_at, &room, id, offset);
            }
            self.outcomes.push(Outcome::Deliver {
                room: room.clone(),
                epoch,
                offset,
                json: Bytes::from(json),
                skip: (!whose.echo).then(|| whose.origin.clone()),
                begun: Begun::Here(whose.arrived_us),
            });
            self.outcomes.push(Outcome::Stored {
                room,
                id,
                offset,
                is_repeat: false,
                origin: whose.origin,
            });
        }
    }
}
