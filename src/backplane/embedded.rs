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
//! Invariants: at most one batch is in flight; `last` of a room is the last offset committed.

use hashbrown::HashMap;

use super::{Outcome, Publish, Remembered};
use crate::model::limits::{COMMIT_PUBLICATIONS_MAX, REQUEST_OVERHEAD_BYTES};
use crate::model::{Epoch, ErrorCode, MessageId, Position, Publication, RoomName, Timestamp};

/// Why a batch was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitFailure {
    /// The publication at `index` has an id that the room had before, at `offset`.
    Clash {
        /// Which of the batch.
        index: usize,
        /// The offset of the first one with that id.
        offset: u64,
    },
    /// The store can't take anything now.
    Unavailable(String),
}

/// See the module.
#[derive(Debug)]
pub struct Embedded<T> {
    rooms: HashMap<RoomName, Position>,
    queue: Vec<(Publish, T)>,
    flight: Option<Flight<T>>,
    remembered: Remembered,
    stored: bool,
    batch_bytes_max: usize,
    /// A batch that clashed, without what clashed: it is handed over again before anything else.
    retry: Option<(Vec<Publication>, Flight<T>)>,
}

/// What is known of the batch that is being committed.
#[derive(Debug)]
struct Flight<T> {
    /// Whose each publication is.
    origins: Vec<T>,
    /// Repeats of an id within the batch: which publication it repeats.
    repeats: Vec<(usize, T)>,
}

impl<T> Embedded<T> {
    /// A backplane without rooms. `stored`: batches are committed before they have an outcome. A
    /// batch ends with the publication that takes it to `batch_bytes_max`.
    pub fn new(stored: bool, batch_bytes_max: usize, remembered: Remembered) -> Self {
        Self {
            rooms: HashMap::new(),
            queue: Vec::new(),
            flight: None,
            remembered,
            stored,
            batch_bytes_max,
            retry: None,
        }
    }

    /// Whether publications outlive the process.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// Ids that an earlier run remembered.
    pub fn remember(&mut self, at: Timestamp, room: &RoomName, id: MessageId, offset: u64) {
        self.remembered.insert(at, room, id, offset);
    }

    /// Begins to count the offsets of a room, from the last one given.
    pub fn open(&mut self, room: &RoomName, last: Position) {
        self.rooms.insert(room.clone(), last);
    }

    /// Stops counting the offsets of a room; nothing of it may be under way.
    pub fn close(&mut self, room: &RoomName) {
        self.rooms.remove(room);
    }

    /// Where the room stands: its last stored offset.
    pub fn position(&self, room: &RoomName) -> Option<Position> {
        self.rooms.get(room).copied()
    }

    /// Takes a message; its room must be open.
    pub fn publish(&mut self, publish: Publish, origin: T) {
        self.queue.push((publish, origin));
    }

    /// Hands over the next batch: returns what is to be committed, if a commit is needed and none
    /// is under way; otherwise outcomes only. `ids` makes ids for those who brought none.
    pub fn drive(
        &mut self,
        now: Timestamp,
        ids: &mut dyn FnMut() -> MessageId,
        outcomes: &mut Vec<Outcome<T>>,
    ) -> Option<Vec<Publication>> {
        if self.flight.is_some() {
            return None;
        }
        if let Some((batch, flight)) = self.retry.take() {
            self.flight = Some(flight);
            return Some(batch);
        }
        self.remembered.expire(now);
        let (batch, flight) = self.number(now, ids, outcomes);
        if self.stored && !batch.is_empty() {
            self.flight = Some(flight);
            return Some(batch);
        }
        self.settle(batch, flight, outcomes);
        None
    }

    /// Whether [`Embedded::drive`] has something to hand over.
    pub fn is_waiting(&self) -> bool {
        self.flight.is_none() && (!self.queue.is_empty() || self.retry.is_some())
    }

    /// The commit of the batch in flight has ended.
    pub fn on_committed(
        &mut self,
        mut batch: Vec<Publication>,
        result: Result<(), CommitFailure>,
        outcomes: &mut Vec<Outcome<T>>,
    ) {
        let Some(mut flight) = self.flight.take() else {
            return;
        };
        match result {
            Ok(()) => self.settle(batch, flight, outcomes),
            Err(CommitFailure::Clash { index, offset }) if index < batch.len() => {
                let clashed = batch.remove(index);
                for later in &mut batch[index..] {
                    later.offset -= u64::from(later.room == clashed.room);
                }
                let (same, others): (Vec<_>, Vec<_>) =
                    flight.repeats.into_iter().partition(|&(of, _)| of == index);
                let first = flight.origins.remove(index);
                let repeats = same.into_iter().map(|(_, origin)| origin);
                outcomes.extend([first].into_iter().chain(repeats).map(|origin| {
                    let (room, id) = (clashed.room.clone(), clashed.id);
                    Outcome::Repeated {
                        room,
                        id,
                        offset,
                        origin,
                    }
                }));
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
                    let (code, why) = (ErrorCode::Unavailable, why.clone());
                    outcomes.push(Outcome::Refused {
                        room,
                        code,
                        why,
                        origin,
                    });
                }
            }
        }
    }

    /// Takes messages from the queue and gives them offsets.
    fn number(
        &mut self,
        now: Timestamp,
        ids: &mut dyn FnMut() -> MessageId,
        outcomes: &mut Vec<Outcome<T>>,
    ) -> (Vec<Publication>, Flight<T>) {
        let mut batch: Vec<Publication> = Vec::new();
        let mut flight = Flight {
            origins: Vec::new(),
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
        for (publish, origin) in self.queue.drain(..count) {
            let Publish {
                room,
                id,
                user_id,
                username,
                payload,
                metadata,
            } = publish;
            let Some(last) = self.rooms.get(&room) else {
                let (code, why) = (ErrorCode::Internal, "the room is not open here".to_owned());
                outcomes.push(Outcome::Refused {
                    room,
                    code,
                    why,
                    origin,
                });
                continue;
            };
            if let Some(id) = id {
                if let Some(offset) = self.remembered.offset(&room, id) {
                    outcomes.push(Outcome::Repeated {
                        room,
                        id,
                        offset,
                        origin,
                    });
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
            batch.push(Publication {
                epoch: last.epoch,
                offset,
                id: id.unwrap_or_else(&mut *ids),
                client_id_given: id.is_some(),
                room,
                user_id,
                username,
                payload,
                metadata,
                sent_at: now,
            });
        }
        (batch, flight)
    }

    /// What was numbered is true now.
    fn settle(
        &mut self,
        batch: Vec<Publication>,
        flight: Flight<T>,
        outcomes: &mut Vec<Outcome<T>>,
    ) {
        for (of, origin) in flight.repeats {
            let (room, id, offset) = (batch[of].room.clone(), batch[of].id, batch[of].offset);
            outcomes.push(Outcome::Repeated {
                room,
                id,
                offset,
                origin,
            });
        }
        for (publication, origin) in batch.into_iter().zip(flight.origins) {
            if let Some(last) = self.rooms.get_mut(&publication.room) {
                debug_assert_eq!(last.offset + 1, publication.offset, "offsets rise by one");
                last.offset = publication.offset;
            }
            if publication.client_id_given {
                let Publication {
                    sent_at,
                    room,
                    id,
                    offset,
                    ..
                } = &publication;
                self.remembered.insert(*sent_at, room, *id, *offset);
            }
            outcomes.push(Outcome::Published {
                publication,
                origin,
            });
        }
    }
}

/// The epoch of a room that has no store, from the time it begins.
pub(crate) fn fresh_position(now: Timestamp, random: u32) -> Position {
    Position {
        epoch: Epoch::new(now.0, random),
        offset: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn publish(room: &str, id: Option<u128>) -> Publish {
        Publish {
            room: RoomName::parse(room).unwrap(),
            id: id.map(MessageId::from_u128),
            user_id: "u".into(),
            username: None,
            payload: Bytes::from_static(b"1"),
            metadata: None,
        }
    }

    fn embedded(stored: bool) -> Embedded<u32> {
        let mut embedded = Embedded::new(stored, 1 << 20, Remembered::new(1000, 100));
        for room in ["a", "b"] {
            embedded.open(
                &RoomName::parse(room).unwrap(),
                fresh_position(Timestamp(1), 1),
            );
        }
        embedded
    }

    /// Outcomes in short: origin, what, offset.
    fn short(outcomes: &mut Vec<Outcome<u32>>) -> Vec<(u32, char, u64)> {
        let short = |outcome| match outcome {
            Outcome::Published {
                publication,
                origin,
            } => (origin, 'p', publication.offset),
            Outcome::Repeated { offset, origin, .. } => (origin, 'r', offset),
            Outcome::Refused { origin, .. } => (origin, 'x', 0),
        };
        let mut all: Vec<_> = outcomes.drain(..).map(short).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn memory_settles_at_once() {
        let (mut embedded, mut out) = (embedded(false), Vec::new());
        for (origin, (room, id)) in [
            ("a", None),
            ("b", Some(7)),
            ("a", Some(7)),
            ("b", Some(7)),
            ("c", None),
        ]
        .into_iter()
        .enumerate()
        {
            embedded.publish(publish(room, id), origin as u32);
        }
        assert!(
            embedded
                .drive(Timestamp(5), &mut MessageId::nil, &mut out)
                .is_none()
        );
        assert_eq!(
            short(&mut out),
            [
                (0, 'p', 1),
                (1, 'p', 1),
                (2, 'p', 2),
                (3, 'r', 1),
                (4, 'x', 0)
            ]
        );
        embedded.publish(publish("b", Some(7)), 9);
        embedded.drive(Timestamp(6), &mut MessageId::nil, &mut out);
        assert_eq!(short(&mut out), [(9, 'r', 1)]);
        embedded.publish(publish("b", Some(7)), 10);
        embedded.drive(Timestamp(1006), &mut MessageId::nil, &mut out);
        assert_eq!(short(&mut out), [(10, 'p', 2)], "the window is over");
    }

    #[test]
    fn one_batch_is_in_flight_and_a_failed_one_gives_its_offsets_back() {
        let (mut embedded, mut out) = (embedded(true), Vec::new());
        embedded.publish(publish("a", None), 0);
        let batch = embedded
            .drive(Timestamp(1), &mut MessageId::nil, &mut out)
            .unwrap();
        embedded.publish(publish("a", None), 1);
        assert!(
            embedded
                .drive(Timestamp(1), &mut MessageId::nil, &mut out)
                .is_none()
        );
        assert!(out.is_empty(), "no outcome before the commit");
        embedded.on_committed(
            batch,
            Err(CommitFailure::Unavailable("full".into())),
            &mut out,
        );
        assert_eq!(short(&mut out), [(0, 'x', 0)]);
        let batch = embedded
            .drive(Timestamp(1), &mut MessageId::nil, &mut out)
            .unwrap();
        assert_eq!(batch[0].offset, 1);
        embedded.on_committed(batch, Ok(()), &mut out);
        assert_eq!(short(&mut out), [(1, 'p', 1)]);
        assert_eq!(
            embedded
                .position(&RoomName::parse("a").unwrap())
                .unwrap()
                .offset,
            1
        );
    }

    #[test]
    fn what_clashes_is_a_repeat_and_the_rest_goes_again_without_a_hole() {
        let (mut embedded, mut out) = (embedded(true), Vec::new());
        for (origin, (room, id)) in [
            ("a", None),
            ("a", Some(5)),
            ("a", None),
            ("b", None),
            ("a", Some(5)),
        ]
        .into_iter()
        .enumerate()
        {
            embedded.publish(publish(room, id), origin as u32);
        }
        let batch = embedded
            .drive(Timestamp(1), &mut MessageId::nil, &mut out)
            .unwrap();
        assert_eq!(batch.len(), 4);
        let clash = CommitFailure::Clash {
            index: 1,
            offset: 77,
        };
        embedded.on_committed(batch, Err(clash), &mut out);
        assert_eq!(short(&mut out), [(1, 'r', 77), (4, 'r', 77)]);
        let batch = embedded
            .drive(Timestamp(1), &mut MessageId::nil, &mut out)
            .unwrap();
        let offsets: Vec<_> = batch
            .iter()
            .map(|p| (p.room.as_str().to_owned(), p.offset))
            .collect();
        assert_eq!(offsets, [("a".into(), 1), ("a".into(), 2), ("b".into(), 1)]);
        embedded.on_committed(batch, Ok(()), &mut out);
        assert_eq!(short(&mut out), [(0, 'p', 1), (2, 'p', 2), (3, 'p', 1)]);
    }
}
