//! Deleting by age, the holes it leaves, and the ids that a start remembers again.

use rusqlite::Connection;

use super::*;
use crate::store::DATABASE_FILE;
use crate::store::reader::{SELECT_OFFSETS, SELECT_PAGE};
use crate::store::writer::{DELETE_OLDEST, SELECT_REMEMBERED};

/// Sent at 1000 times its offset.
fn aged(name: &str, offset: u64) -> Publication {
    Publication {
        sent_at: Timestamp(1000 * offset),
        ..publication(name, offset)
    }
}

#[test]
fn what_is_old_is_deleted_in_batches_and_offsets_go_on() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let all: Vec<_> = (1..=10).map(|offset| aged("a", offset)).collect();
    store.commit(&[&all], NOW).unwrap();
    assert_eq!(
        store.delete_before(Timestamp(1000), 100).unwrap(),
        0,
        "not the cutoff itself"
    );
    assert_eq!(store.delete_before(Timestamp(6000), 3).unwrap(), 3);
    assert_eq!(store.delete_before(Timestamp(6000), 3).unwrap(), 2);
    assert_eq!(store.delete_before(Timestamp(6000), 3).unwrap(), 0);

    let mut reader = store.reader().unwrap();
    let page = read_all(&mut reader, "a", 2);
    assert_eq!(
        page.end,
        PageEnd::Missing { from: 3, to: 5 },
        "not recoverable"
    );
    assert_eq!(page.publications, []);
    let page = read_all(&mut reader, "a", 5);
    assert_eq!(
        (page.publications.as_slice(), page.end),
        (&all[5..], PageEnd::Reached)
    );

    assert_eq!(store.delete_before(Timestamp(u64::MAX), 100).unwrap(), 5);
    assert_eq!(
        reader.last_offset(&room("a")).unwrap(),
        10,
        "the offset outlives its row"
    );
    drop((reader, store));

    let mut store = open(&dir);
    let mut reader = store.reader().unwrap();
    assert_eq!(reader.last_offset(&room("a")).unwrap(), 10, "and a restart");
    assert!(
        store.commit(&[&[aged("a", 1)]], NOW).is_err(),
        "an offset comes only once"
    );
    store.commit(&[&[aged("a", 11)]], NOW).unwrap();
    assert_eq!(read_all(&mut reader, "a", 10).publications, [aged("a", 11)]);
}

#[test]
fn a_clock_that_was_wrong_leaves_a_hole_that_is_told() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let mut all: Vec<_> = (1..=5).map(|offset| aged("a", offset)).collect();
    all[1].sent_at = Timestamp(9_000_000);
    store.commit(&[&all], NOW).unwrap();
    assert_eq!(store.delete_before(Timestamp(5000), 100).unwrap(), 3);
    let mut reader = store.reader().unwrap();
    let page = read_all(&mut reader, "a", 1);
    assert_eq!(page.publications, [all[1].clone()]);
    assert_eq!(page.end, PageEnd::Missing { from: 3, to: 4 });
    assert_eq!(read_all(&mut reader, "a", 4).publications, [all[4].clone()]);
    for (from, until, missing) in [
        (1, 6, Some(1)),
        (2, 6, Some(3)),
        (2, 3, None),
        (4, 5, Some(4)),
        (5, 6, None),
        (5, 7, Some(6)),
        (6, 6, None),
    ] {
        let found = reader.missing(&room("a"), epoch(), from, until).unwrap();
        assert_eq!(found, missing, "{from}..{until}");
    }
}

#[test]
fn the_ids_of_the_window_are_remembered() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let mut all = Vec::new();
    for offset in 1..=10 {
        for name in ["a", "b"] {
            // Clients supplied the ids of the even offsets of "a".
            let client_id_given = name == "a" && offset % 2 == 0;
            all.push(Publication {
                client_id_given,
                ..aged(name, offset)
            });
        }
    }
    store.commit(&[&all], NOW).unwrap();
    drop(store);
    let mut store = open(&dir);
    // (since, at_most, offsets)
    let cases: [(u64, usize, &[u64]); 5] = [
        (0, 100, &[10, 8, 6, 4, 2]),
        (6000, 100, &[10, 8, 6]),
        (6001, 100, &[10, 8]),
        (0, 2, &[10, 8]),
        (10_001, 100, &[]),
    ];
    for (since, at_most, offsets) in cases {
        let seen = store.recent_client_ids(Timestamp(since), at_most).unwrap();
        let seen_offsets: Vec<_> = seen.iter().map(|id| id.offset).collect();
        assert_eq!(seen_offsets, offsets, "since {since}");
        for remembered in seen {
            let original = aged("a", remembered.offset);
            assert_eq!(
                (remembered.room, remembered.id),
                (original.room, original.id)
            );
            assert_eq!(remembered.at, original.sent_at);
        }
    }
}

#[test]
fn no_query_reads_or_sorts_the_whole_table() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let sqlite = Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    for sql in [
        SELECT_PAGE,
        SELECT_OFFSETS,
        SELECT_REMEMBERED,
        DELETE_OLDEST,
    ] {
        let mut explain = sqlite
            .prepare(&format!("explain query plan {sql}"))
            .unwrap();
        let unbound = vec![rusqlite::types::Null; explain.parameter_count()];
        let plan: Vec<String> = explain
            .query_map(rusqlite::params_from_iter(unbound), |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(
            plan.iter()
                .any(|step| step.contains("USING") && step.contains("INDEX")),
            "{plan:?}"
        );
        assert!(
            !plan.iter().any(|step| step.starts_with("SCAN")),
            "{plan:?}"
        );
        assert!(
            !plan.iter().any(|step| step.contains("TEMP B-TREE")),
            "{plan:?}"
        );
    }
}
