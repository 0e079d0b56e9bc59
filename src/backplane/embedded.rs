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

use bytes::Bytes;
use hashbrown::HashMap;

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

/// What is known of the batch that is being committed.
#[derive(Debug)]
struct Flight<T> {
    /// Whose each publication is.
    origins: Vec<T>,
    /// Whether they want it themselves.
    echoes: Vec<bool>,
    /// When each came, as [`Publish::arrived_us`].
    arrivals: Vec<u64>,
    /// Repeats of an id within the batch: which publication it repeats.
    repeats: Vec<(usize, T)>,
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
                let clashed = batch.remove(index);
                for later in &mut batch[index..] {
                    later.offset -= u64::from(later.room == clashed.room);
                }
                let (same, others): (Vec<_>, Vec<_>) =
                    flight.repeats.into_iter().partition(|&(of, _)| of == index);
                let first = flight.origins.remove(index);
                flight.echoes.remove(index);
                let repeats = same.into_iter().map(|(_, origin)| origin);
                for origin in [first].into_iter().chain(repeats) {
                    self.repeated(clashed.room.clone(), clashed.id, offset, origin);
                }
                let renumbered = |(of, origin)| (of - usize::from(of > index), origin);
                flight.repeats = others.into_iter().map(renumbered).collect();
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
                let repeats = flight.repeats.into_iter();
                let repeated = repeats.map(|(of, origin)| (batch[of].room.clone(), origin));
                for (room, origin) in rooms.zip(flight.origins).chain(repeated) {
                    self.refuse(room, why.clone(), origin);
                }
            }
        }
    }

    /// Takes messages from the queue and gives them offsets.
    fn number(&mut self, moment: &mut Moment<'_>) -> (Vec<Publication>, Flight<T>) {
        let mut batch: Vec<Publication> = Vec::new();
        let mut flight = Flight {
            origins: Vec::new(),
            echoes: Vec::new(),
            arrivals: Vec::new(),
            repeats: Vec::new(),
        };
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
            flight.origins.push(origin);
            flight.echoes.push(echo);
            flight.arrivals.push(arrived_us);
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
        let whose = flight.origins.into_iter().zip(flight.echoes);
        let whose = whose.zip(flight.arrivals);
        for (publication, ((origin, echo), arrived_us)) in batch.into_iter().zip(whose) {
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
                skip: (!echo).then(|| origin.clone()),
                begun: Begun::Here(arrived_us),
            });
            self.outcomes.push(Outcome::Stored {
                room,
                id,
                offset,
                is_repeat: false,
                origin,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn publish(name: &str, id: Option<u128>) -> Publish {
        Publish {
            room: room(name),
            id: id.map(MessageId::from_u128),
            user_id: "u".into(),
            username: None,
            payload: Bytes::from_static(b"1"),
            metadata: None,
            echo: true,
            arrived_us: 0,
        }
    }

    /// A backplane, the rooms `a` and `b` open.
    struct Alone(Embedded<u32>, fastrand::Rng);

    impl Alone {
        fn new(stored: bool) -> Self {
            let encode: Encode = |out, publication| out.extend_from_slice(&publication.payload);
            let remembered = Remembered::new(1000, 100);
            let embedded = Embedded::new(stored, 1 << 20, remembered, encode);
            let mut alone = Self(embedded, fastrand::Rng::with_seed(1));
            for name in ["a", "b"] {
                alone.open(name);
                if stored {
                    alone.0.asks.clear();
                    let opened = Ok((Epoch::new(1, 1), 0));
                    alone.0.on_store(StoreReply::Opened(room(name), opened));
                }
            }
            alone.outcomes();
            alone
        }

        fn open(&mut self, name: &str) {
            let Self(embedded, rng) = self;
            let wall = Timestamp(1);
            embedded.open(&mut Moment { wall, ms: 1, rng }, &room(name));
        }

        /// Hands over; what is to be committed.
        fn drive(&mut self, wall: u64) -> Option<Vec<Publication>> {
            let Self(embedded, rng) = self;
            let wall = Timestamp(wall);
            embedded.drive(&mut Moment { wall, ms: 1, rng });
            match embedded.asks.pop()? {
                Ask::Store(StoreRequest::Commit(batch)) => Some(batch),
                other => panic!("{other:?}"),
            }
        }

        /// Outcomes in short: origin, what, offset.
        fn outcomes(&mut self) -> Vec<(u32, char, u64)> {
            let (mut outcomes, mut asks) = (Vec::new(), Vec::new());
            self.0.poll(&mut outcomes, &mut asks);
            let short = |outcome| match outcome {
                Outcome::Stored {
                    offset,
                    origin,
                    is_repeat,
                    ..
                } => Some((origin, if is_repeat { 'r' } else { 'p' }, offset)),
                Outcome::Refused { origin, .. } => Some((origin, 'x', 0)),
                _ => None,
            };
            let mut all: Vec<_> = outcomes.drain(..).filter_map(short).collect();
            all.sort_unstable();
            all
        }
    }

    #[test]
    fn memory_settles_at_once() {
        let mut alone = Alone::new(false);
        let all = [
            ("a", None),
            ("b", Some(7)),
            ("a", Some(7)),
            ("b", Some(7)),
            ("c", None),
        ];
        for (origin, (name, id)) in all.into_iter().enumerate() {
            alone.0.publish(publish(name, id), origin as u32);
        }
        drive_memory(&mut alone, 5);
        assert_eq!(
            alone.outcomes(),
            [
                (0, 'p', 1),
                (1, 'p', 1),
                (2, 'p', 2),
                (3, 'r', 1),
                (4, 'x', 0)
            ]
        );
        alone.0.publish(publish("b", Some(7)), 9);
        drive_memory(&mut alone, 6);
        assert_eq!(alone.outcomes(), [(9, 'r', 1)]);
        alone.0.publish(publish("b", Some(7)), 10);
        drive_memory(&mut alone, 1006);
        assert_eq!(alone.outcomes(), [(10, 'p', 2)], "the window is over");
    }

    fn drive_memory(alone: &mut Alone, wall: u64) {
        let Alone(embedded, rng) = alone;
        let wall = Timestamp(wall);
        embedded.drive(&mut Moment { wall, ms: 1, rng });
    }

    #[test]
    fn what_is_published_while_a_room_is_opened_waits_for_it() {
        let mut alone = Alone::new(true);
        for name in ["c", "d"] {
            alone.open(name);
            alone.0.publish(publish(name, None), 1);
        }
        assert!(!alone.0.is_waiting());
        let opened = Ok((Epoch::new(1, 1), 41));
        alone.0.on_store(StoreReply::Opened(room("c"), opened));
        let failed = Err("the disk is away".to_owned());
        alone.0.on_store(StoreReply::Opened(room("d"), failed));
        assert_eq!(alone.outcomes(), [(1, 'x', 0)]);
        let batch = alone.drive(1).unwrap();
        assert_eq!((batch.len(), batch[0].offset), (1, 42));
    }

    #[test]
    fn one_batch_is_in_flight_and_a_failed_one_gives_its_offsets_back() {
        let mut alone = Alone::new(true);
        alone.0.publish(publish("a", None), 0);
        let batch = alone.drive(1).unwrap();
        alone.0.publish(publish("a", None), 1);
        assert!(alone.drive(1).is_none());
        assert!(alone.outcomes().is_empty(), "no outcome before the commit");
        let full = Err(CommitFailure::Unavailable("full".into()));
        alone.0.on_store(StoreReply::Committed(batch, full));
        assert_eq!(alone.outcomes(), [(0, 'x', 0)]);
        let batch = alone.drive(1).unwrap();
        assert_eq!(batch[0].offset, 1);
        alone.0.on_store(StoreReply::Committed(batch, Ok(())));
        assert_eq!(alone.outcomes(), [(1, 'p', 1)]);
    }

    #[test]
    fn what_clashes_is_a_repeat_and_the_rest_goes_again_without_a_hole() {
        let mut alone = Alone::new(true);
        let all = [
            ("a", None),
            ("a", Some(5)),
            ("a", None),
            ("b", None),
            ("a", Some(5)),
        ];
        for (origin, (name, id)) in all.into_iter().enumerate() {
            alone.0.publish(publish(name, id), origin as u32);
        }
        let batch = alone.drive(1).unwrap();
        assert_eq!(batch.len(), 4);
        let clash = Err(CommitFailure::Clash {
            index: 1,
            offset: 77,
        });
        alone.0.on_store(StoreReply::Committed(batch, clash));
        assert_eq!(alone.outcomes(), [(1, 'r', 77), (4, 'r', 77)]);
        let batch = alone.drive(1).unwrap();
        let offsets: Vec<_> = batch
            .iter()
            .map(|p| (p.room.as_str().to_owned(), p.offset))
            .collect();
        assert_eq!(offsets, [("a".into(), 1), ("a".into(), 2), ("b".into(), 1)]);
        alone.0.on_store(StoreReply::Committed(batch, Ok(())));
        assert_eq!(alone.outcomes(), [(0, 'p', 1), (2, 'p', 2), (3, 'p', 1)]);
    }
}
