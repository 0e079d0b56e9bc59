//! What is committed is read back, in pages, byte for byte; what is refused leaves no trace.

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::store::{CommitError, DATABASE_FILE};

fn any_name() -> impl Strategy<Value = Name> {
    "[^\\p{Cc}]{1,32}".prop_map(Name::from)
}

prop_compose! {
    fn any_publication()(
        room in 0..4_usize,
        id in any::<u128>(),
        client_id_given in any::<bool>(),
        user_id in any_name(),
        username in proptest::option::of(any_name()),
        payload in "\\PC{0,80}|[\\x00-\\x7f]{0,20}",
        metadata in proptest::option::of("\\PC{0,40}"),
        sent_at in 0..u64::MAX >> 1,
    ) -> Publication {
        Publication {
            room: RoomName::parse(["a", "б", "房间 1", "@bob"][room]).unwrap(),
            epoch: epoch(),
            offset: 0,
            id: MessageId::from_u128(id),
            client_id_given,
            user_id,
            username,
            payload: Bytes::from(payload),
            metadata: metadata.map(Bytes::from),
            sent_at: Timestamp(sent_at),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_committed_is_read_back(
        mut all in proptest::collection::vec(any_publication(), 1..40),
        cuts in proptest::collection::vec(0..40_usize, 0..4),
    ) {
        let mut counters = std::collections::HashMap::new();
        for publication in &mut all {
            let counter = counters.entry(publication.room.clone()).or_insert(0);
            *counter += 1;
            publication.offset = *counter;
        }
        // Cut into batches, and the batches into two commits.
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
        cuts.extend([0, all.len()]);
        cuts.sort_unstable();
        let batches: Vec<&[Publication]> =
            cuts.windows(2).map(|cut| &all[cut[0]..cut[1]]).collect();
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir);
        let (first, second) = batches.split_at(batches.len() / 2);
        store.commit(first, NOW).unwrap();
        store.commit(second, NOW).unwrap();
        for name in counters.keys() {
            let expected: Vec<_> = all.iter().filter(|p| p.room == *name).cloned().collect();
            check_holds(&store, name.as_str(), &expected);
        }
        let remembered = store.recent_client_ids(Timestamp(0), usize::MAX).unwrap();
        prop_assert_eq!(remembered.len(), all.iter().filter(|p| p.client_id_given).count());
    }
}

#[test]
fn epoch_and_offsets_survive_a_reopen() {
    let dir = TempDir::new().unwrap();
    let all = publications("a", 1..=3);
    {
        let mut store = open(&dir);
        store.commit(&[&all[..2]], NOW).unwrap();
    }
    let mut store = Store::open(dir.path(), Epoch::new(1_800_000_000_000, 1)).unwrap();
    assert_eq!(
        store.epoch(),
        epoch(),
        "the fresh epoch is for new databases only"
    );
    check_holds(&store, "a", &all[..2]);
    store.commit(&[&all[2..]], NOW).unwrap();
    check_holds(&store, "a", &all);
}

#[test]
fn nothing_to_commit_is_no_error() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    store.commit(&[], NOW).unwrap();
    store.commit(&[&[], &[]], NOW).unwrap();
    check_holds(&store, "a", &[]);
}

#[test]
fn a_clash_is_named_and_nothing_is_written() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let stored = publications("a", 1..=5);
    store.commit(&[&stored], NOW).unwrap();
    let other = publications("b", 1..=4);
    let mut again = publications("a", 6..=9);
    again[2].id = stored[3].id;
    match store.commit(&[&other, &[], &again], NOW) {
        Err(CommitError::Clash {
            batch: 2,
            index: 2,
            existing_offset: 4,
            existing_epoch,
        }) => {
            assert_eq!(existing_epoch, epoch());
        }
        result => panic!("{result:?}"),
    }
    check_holds(&store, "a", &stored);
    check_holds(&store, "b", &[]);
    // As its text says: without the one, renumbered, the rest goes in.
    again.remove(2);
    again[2].offset = 8;
    store.commit(&[&other, &again], NOW).unwrap();
    check_holds(&store, "b", &other);
    // The same id in another room is another message.
    let mut twin = publication("c", 1);
    twin.id = stored[0].id;
    store.commit(&[&[twin.clone()]], NOW).unwrap();
    check_holds(&store, "c", &[twin]);
}

#[test]
fn an_id_twice_in_one_commit_clashes_with_the_earlier() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let mut both = publications("a", 1..=2);
    both[1].id = both[0].id;
    match store.commit(&[&both[..1], &both[1..]], NOW) {
        Err(CommitError::Clash {
            batch: 1,
            index: 0,
            existing_offset: 1,
            ..
        }) => {}
        result => panic!("{result:?}"),
    }
    check_holds(&store, "a", &[]);
}

#[test]
fn offsets_that_do_not_follow_are_refused() {
    /// Stored in the room before; offsets in two batches; batch, index and offset of the error.
    type Case<'a> = (u64, &'a [u64], &'a [u64], usize, usize, u64);
    let cases: [Case<'_>; 7] = [
        (0, &[2], &[], 0, 0, 1),
        (0, &[0], &[], 0, 0, 1),
        (0, &[1, 3], &[], 0, 1, 2),
        (0, &[1, 2], &[2], 1, 0, 3),
        (3, &[5], &[], 0, 0, 4),
        (3, &[3], &[], 0, 0, 4),
        (3, &[], &[1], 1, 0, 4),
    ];
    for (stored, one, two, at_batch, at_index, next) in cases {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir);
        let before = publications("a", 1..=stored);
        store.commit(&[&before], NOW).unwrap();
        let make = |offsets: &[u64]| -> Vec<_> {
            offsets
                .iter()
                .map(|&offset| publication("a", offset))
                .collect()
        };
        match store.commit(&[&make(one), &make(two)], NOW) {
            Err(CommitError::OutOfOrder {
                batch,
                index,
                expected,
            }) => {
                assert_eq!((batch, index, expected), (at_batch, at_index, next));
            }
            result => panic!("{stored} {one:?} {two:?}: {result:?}"),
        }
        check_holds(&store, "a", &before);
    }
}

#[test]
fn pages_keep_their_limits() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let all: Vec<_> = (1..=10)
        .map(|offset| Publication {
            payload: Bytes::from(vec![b'1'; 97]), // and 3 bytes of user id
            ..publication("a", offset)
        })
        .collect();
    store.commit(&[&all], NOW).unwrap();
    let mut reader = store.reader().unwrap();
    let full = usize::MAX;
    // (after, up_to, publications_max, bytes_max, offsets, end)
    let cases = [
        (0, 10, full, full, 1..=10, PageEnd::Reached),
        (0, 10, 10, 1000, 1..=10, PageEnd::Reached),
        (0, 10, 9, full, 1..=9, PageEnd::More),
        (0, 10, full, 999, 1..=9, PageEnd::More),
        (4, 10, 2, full, 5..=6, PageEnd::More),
        (4, 6, 2, full, 5..=6, PageEnd::Reached),
        (4, 10, 0, 0, 5..=5, PageEnd::More),
        (9, 10, 0, 0, 10..=10, PageEnd::Reached),
        (
            8,
            12,
            full,
            full,
            9..=10,
            PageEnd::Missing { from: 11, to: 12 },
        ),
    ];
    for (after, up_to, publications_max, bytes_max, offsets, end) in cases {
        let limits = PageLimits {
            publications_max,
            bytes_max,
        };
        let page = reader
            .page(&room("a"), epoch(), after, up_to, limits)
            .unwrap();
        let seen: Vec<_> = page.publications.iter().map(|p| p.offset).collect();
        assert_eq!(
            seen,
            offsets.clone().collect::<Vec<_>>(),
            "after {after} up to {up_to}"
        );
        assert_eq!(page.end, end, "after {after} up to {up_to}");
    }
    for (after, up_to) in [(10, 10), (11, 10), (u64::MAX, u64::MAX), (u64::MAX, 3)] {
        let page = reader
            .page(&room("a"), epoch(), after, up_to, NO_LIMITS)
            .unwrap();
        assert_eq!(
            page,
            Page {
                publications: vec![],
                end: PageEnd::Reached
            }
        );
    }
    let strange = Epoch::new(1, 1);
    let page = reader.page(&room("a"), strange, 2, 5, NO_LIMITS).unwrap();
    assert_eq!(page.end, PageEnd::Missing { from: 3, to: 5 });
}

#[test]
fn an_operator_can_read_the_views() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let mut all = publications("a", 1..=3);
    all[2].user_id = Name::from("bob");
    all[2].sent_at = Timestamp(4_102_444_799_999);
    all[0].id = MessageId::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    store
        .commit(&[&all, &publications("b", 1..=1)], NOW)
        .unwrap();
    let sqlite = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    let stats = |name: &str| -> (i64, i64, String, String) {
        sqlite
            .query_row(
                "select message_count, user_count, first_message_at, last_message_at
                 from room_stats where room_name = ?1",
                [name],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .unwrap()
    };
    let first = "2023-11-14T22:13:20.001Z".to_owned();
    assert_eq!(
        stats("a"),
        (3, 2, first.clone(), "2099-12-31T23:59:59.999Z".to_owned())
    );
    assert_eq!(stats("b"), (1, 1, first.clone(), first.clone()));
    let text: (String, String, String, String) = sqlite
        .query_row(
            r#"select id, payload ->> 'n', created_at, stored_at from messages_text
               where room_name = 'a' and "offset" = 1"#,
            [],
            |row| {
                let n: i64 = row.get(1)?;
                Ok((row.get(0)?, n.to_string(), row.get(2)?, row.get(3)?))
            },
        )
        .unwrap();
    assert_eq!(text.0, all[0].id.to_string());
    assert_eq!((text.1.as_str(), text.2), ("1", first));
    assert_eq!(text.3, "2023-11-14T22:13:21.234Z");
}
