//! Recall against a stream in a vector: results exact, and reads that do not grow with the rooms.

use proptest::prelude::*;

use super::*;
use crate::backplane::redis::Place;
use crate::model::MessageId;

fn epoch(n: u64) -> Epoch {
    Epoch::new(n, 0)
}

fn room(n: u64) -> RoomName {
    RoomName::parse(&format!("room-{n}")).unwrap()
}

/// `count` entries of `rooms` rooms, of which the first third is of an older epoch.
fn stream(count: u64, rooms: u64, old: u64) -> Vec<Item> {
    let mut offsets = HashMap::new();
    let item = |i: u64| {
        let of = if i <= old { 1 } else { 2 };
        let room = room((i * i + i / 3) % rooms);
        let offset = offsets.entry((of, room.clone())).or_insert(0);
        *offset += 1;
        let place = Place {
            epoch: epoch(of),
            seq: i,
            entry: EntryId { ms: i, n: 0 },
        };
        Item {
            place,
            room,
            offset: *offset,
            id: MessageId::nil(),
            json: Bytes::from(vec![b'1'; 2 + i as usize % 50]),
        }
    };
    (1..=count).map(item).collect()
}

fn page(stream: &[Item], read: StreamRead, at_most: usize) -> StreamPage {
    match read {
        StreamRead::Back { before, count } => {
            let count = count.min(at_most);
            let end = stream.partition_point(|item| item.place.entry < before);
            let items = stream[end.saturating_sub(count)..end].to_vec();
            StreamPage {
                reached: items.first().map(|item| item.place.entry),
                end: items.len() < count,
                items,
            }
        }
        StreamRead::Forward { from, count } => {
            let count = count.min(at_most);
            let start = stream.partition_point(|item| item.place.entry < from);
            let items: Vec<_> = stream[start..].iter().take(count).cloned().collect();
            StreamPage {
                reached: items.last().map(|item| item.place.entry),
                end: items.len() < count,
                items,
            }
        }
    }
}

/// What the stream has before `before` of a room, from `from` on, without holes.
fn naive(stream: &[Item], name: &RoomName, from: u64, before: EntryId) -> Vec<(u64, Bytes)> {
    let mut frames = vec![];
    for item in stream.iter().filter(|item| item.place.entry < before) {
        let is_wanted = item.room == *name && item.place.epoch == epoch(2);
        if is_wanted && item.offset == from + frames.len() as u64 {
            frames.push((item.offset, item.json.clone()));
        }
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Clients read on, page by page, while others come and the stream is trimmed.
    #[test]
    fn results_are_exact(
        (count, rooms, old) in (20..400_u64, 1..9_u64, 0..60_u64),
        trims in proptest::collection::vec(0..60_usize, 0..3),
        wants in proptest::collection::vec((0..9_u64, 1..40_u64, 0..9_usize), 1..20),
        at_most in 2..60_usize,
    ) {
        let mut stream = stream(count, rooms, old);
        let before = EntryId { ms: count * 3 / 4, n: 0 };
        let (mut recall, mut out, mut told) = (Recall::new(), vec![], 0);
        let (mut reads, mut wanted, mut trims) = (0, 0, trims.into_iter());
        let mut wants = wants.into_iter().peekable();
        let newest = count;
        loop {
            while let Some((of, from, _)) = wants.next_if(|&(.., at)| at <= reads || reads > 99) {
                let waiting = recall.waiting();
                recall.want(&room(of % rooms), epoch(2), from, newest, before, EntryId::default());
                wanted += recall.waiting() - waiting;
            }
            let Some(read) = recall.poll_read() else {
                if wants.peek().is_none() {
                    break;
                }
                reads += 1;
                continue;
            };
            prop_assert_eq!(recall.poll_read(), None, "one at a time");
            if reads % 3 == 2 {
                stream.drain(..trims.next().unwrap_or(0).min(stream.len()));
            }
            recall.on_page(&page(&stream, read, at_most), &mut out);
            reads += 1;
            prop_assert!(reads < 2000, "it reads without end");
            for Recalled { room, from, result, .. } in out.drain(..) {
                told += 1;
                // What comes was there when it was read; what is lost is not there now.
                let all = self::stream(count, rooms, old);
                let truth = naive(&all, &room, from, EntryId { ms: count + 1, n: 0 });
                match result {
                    Ok(frames) => {
                        prop_assert!(!frames.is_empty());
                        prop_assert_eq!(&frames[..], &truth[..frames.len()]);
                        // Read on to the end of what is before the log.
                        let next = from + frames.len() as u64;
                        if !naive(&stream, &room, next, before).is_empty() {
                            let waiting = recall.waiting();
                            recall.want(&room, epoch(2), next, newest, before, EntryId::default());
                            wanted += recall.waiting() - waiting;
                        }
                    }
                    Err(RecallError::Lost { first }) => {
                        prop_assert_eq!(naive(&stream, &room, from, before), vec![]);
                        prop_assert!(first.is_none_or(|first| first > from));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        prop_assert_eq!((told, recall.waiting()), (wanted, 0));
    }
}

#[test]
fn many_rooms_cost_one_pass() {
    let (entries, rooms) = (20_000, 500);
    let stream = stream(entries, rooms, 0);
    let before = EntryId {
        ms: entries + 1,
        n: 0,
    };
    let (mut recall, mut out) = (Recall::new(), vec![]);
    let present: Vec<_> = (0..rooms)
        .filter(|&n| stream.iter().any(|it| it.room == room(n)))
        .collect();
    for &n in &present {
        assert!(recall.want(&room(n), epoch(2), 1, entries, before, EntryId::default()));
        assert!(
            recall.want(&room(n), epoch(2), 1, entries, before, EntryId::default()),
            "once"
        );
    }
    let mut reads = 0;
    while let Some(read) = recall.poll_read() {
        recall.on_page(&page(&stream, read, 1000), &mut out);
        reads += 1;
    }
    assert!(reads < 30, "{reads}");
    assert_eq!((recall.passes(), out.len()), (1, present.len()));
    assert!(out.iter().all(|it| it.result.is_ok()));
}

/// Who gives up before a long pass has come to its page, and asks again, does not have it begin
/// anew.
#[test]
fn a_page_that_is_wanted_again_is_found_at_once() {
    let (entries, rooms) = (20_000, 5);
    let stream = stream(entries, rooms, 0);
    let before = EntryId {
        ms: entries + 1,
        n: 0,
    };
    let (mut recall, mut out, mut reads) = (Recall::new(), vec![], vec![]);
    for _ in 0..2 {
        assert!(recall.want(&room(1), epoch(2), 3, entries, before, EntryId::default()));
        let mut count = 0;
        while let Some(read) = recall.poll_read() {
            recall.on_page(&page(&stream, read, 1000), &mut out);
            count += 1;
        }
        reads.push(count);
    }
    assert!(reads[0] >= 20, "{reads:?}");
    assert!(reads[1] <= 6, "as much as a page is: {reads:?}");
    let (first, again) = (
        out[0].result.as_ref().unwrap(),
        out[1].result.as_ref().unwrap(),
    );
    let both = first.len().min(again.len());
    assert!(both > 0 && first[0].0 == 3);
    assert_eq!(first[..both], again[..both]);
}

#[test]
fn a_failed_read_is_told_to_all_and_too_many_may_not_wait() {
    let (mut recall, mut out) = (Recall::new(), vec![]);
    for n in 0..RECALL_WAITING_MAX as u64 {
        assert!(recall.want(
            &room(n),
            epoch(2),
            1,
            1,
            EntryId { ms: 1, n: 0 },
            EntryId::default()
        ));
    }
    assert!(!recall.want(
        &room(1),
        epoch(2),
        2,
        2,
        EntryId { ms: 1, n: 0 },
        EntryId::default()
    ));
    assert!(recall.poll_read().is_some());
    recall.on_failed(&mut out);
    assert_eq!((out.len(), recall.waiting()), (RECALL_WAITING_MAX, 0));
    assert!(
        out.iter()
            .all(|it| it.result == Err(RecallError::Unavailable))
    );
}
