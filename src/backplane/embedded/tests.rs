//! Offsets, commits that fail and clash, and repeats, over a store that is played by hand.

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
