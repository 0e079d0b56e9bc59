//! What the checker counts, event by event.

use super::*;

/// Offset, publisher, sequence; or what a gap skipped.
type Event = Result<(u64, u32, u32), (u64, u64)>;

/// Plays events for one member of room `r` (joined at 0) and two publishers.
fn play(events: &[Event]) -> Tally {
    let mut checker = Checker::new(5, &["r".into()], &[0], &[0, 0]);
    checker.on_joined(0, "e", 0, None, None);
    for event in events {
        match *event {
            Ok((offset, publisher, sequence)) => {
                let marker = Some(Marker {
                    run: 5,
                    publisher,
                    sequence,
                    time: 0,
                });
                checker.on_message(0, b"r", offset, marker);
            }
            Err((from, to)) => checker.on_gap(0, from, to),
        }
    }
    checker.finish();
    checker.tally
}

fn check(events: &[Event], expect: Tally, proven: bool) {
    let tally = play(events);
    let messages = events.iter().filter(|event| event.is_ok()).count() as u64;
    assert_eq!(
        tally,
        Tally {
            delivered: messages,
            ..expect
        }
    );
    assert_eq!(tally.is_proven(0), proven, "{tally:?}");
}

#[test]
fn what_the_checker_counts() {
    let none = Tally::default();
    check(&[Ok((1, 0, 1)), Ok((2, 1, 1)), Ok((3, 0, 2))], none, true);
    check(
        &[Ok((1, 0, 1)), Ok((3, 0, 3))],
        Tally { lost: 1, ..none },
        false,
    );
    check(
        &[Ok((1, 0, 1)), Ok((1, 0, 1))],
        Tally { doubled: 1, ..none },
        false,
    );
    let swapped = [Ok((1, 0, 1)), Ok((3, 0, 3)), Ok((2, 0, 2))];
    check(
        &swapped,
        Tally {
            misordered: 1,
            ..none
        },
        false,
    );
    let gap = [Ok((1, 0, 1)), Err((2, 4)), Ok((5, 0, 5))];
    check(
        &gap,
        Tally {
            gaps: 1,
            gap_offsets: 3,
            ..none
        },
        true,
    );
    let short_gap = [Ok((1, 0, 1)), Err((3, 4)), Ok((5, 0, 5))];
    check(
        &short_gap,
        Tally {
            gaps: 1,
            gap_offsets: 2,
            lost: 1,
            ..none
        },
        false,
    );
    let hole = [Ok((1, 0, 1)), Ok((2, 0, 3))];
    check(
        &hole,
        Tally {
            publisher_holes: 1,
            ..none
        },
        false,
    );
    let disorder = [Ok((1, 0, 2)), Ok((2, 0, 1))];
    check(
        &disorder,
        Tally {
            publisher_disorder: 1,
            ..none
        },
        false,
    );
    let swapped_in_gap = [Ok((1, 0, 1)), Err((2, 2)), Ok((3, 0, 4))];
    let expect = Tally {
        gaps: 1,
        gap_offsets: 1,
        publisher_holes: 1,
        ..none
    };
    check(&swapped_in_gap, expect, false);
}

#[test]
fn the_tail_counts_as_lost() {
    let mut checker = Checker::new(5, &["r".into()], &[0, 0], &[0]);
    checker.on_joined(0, "e", 7, None, None);
    checker.on_joined(1, "e", 7, None, None);
    checker.on_message(0, b"r", 8, None);
    checker.on_ack(0, 0, None, Some(9));
    assert_eq!(checker.outstanding(), 3);
    checker.on_left(0);
    checker.finish();
    assert_eq!(checker.tally.lost, 2);
    assert_eq!(checker.tally.foreign, 1);
}

#[test]
fn a_wrong_room_and_an_unjoined_member_are_misrouted() {
    let mut checker = Checker::new(5, &["r".into()], &[0], &[0]);
    checker.on_message(0, b"r", 1, None);
    checker.on_joined(0, "e", 0, None, None);
    checker.on_message(0, b"s", 1, None);
    assert_eq!(checker.tally.misrouted, 2);
}

#[test]
fn resume_is_exact_or_told() {
    let mut checker = Checker::new(5, &["r".into()], &[0], &[0]);
    checker.on_joined(0, "e", 0, None, None);
    checker.on_joined(0, "e", 4, Some(true), Some(4));
    assert!(checker.tally.is_proven(0));
    checker.on_joined(0, "e", 9, Some(false), Some(4));
    assert_eq!(checker.tally.unrecovered, 1);
    checker.on_joined(0, "f", 0, Some(false), None);
    assert_eq!(checker.tally.epoch_changes, 1);
    checker.on_joined(0, "f", 3, Some(true), Some(2));
    assert!(!checker.tally.is_proven(0));
}

#[test]
fn members_of_one_room_come_to_a_new_epoch_one_by_one() {
    let mut checker = Checker::new(5, &["r".into()], &[0, 0], &[0]);
    let marker = |sequence| {
        let (run, publisher, time) = (5, 0, 0);
        Some(Marker {
            run,
            publisher,
            sequence,
            time,
        })
    };
    for member in 0..2 {
        checker.on_joined(member, "e1", 0, None, None);
    }
    checker.on_message(0, b"r", 1, marker(1));
    checker.on_joined(0, "e2", 0, Some(false), None);
    checker.on_message(0, b"r", 1, marker(2));
    // The other one is still in the old epoch, and comes back with that.
    assert_eq!(checker.outstanding(), 2);
    checker.on_message(1, b"r", 1, marker(1));
    checker.on_left(1);
    assert_eq!((checker.seen(1), checker.room_of(1)), (Some(1), (0, "e1")));
    checker.on_joined(1, "e2", 1, Some(false), Some(1));
    assert_eq!(checker.outstanding(), 0);
    checker.finish();
    assert!(checker.tally.is_proven(0), "{:?}", checker.tally);
    assert_eq!(checker.tally.unrecovered_epochs, 1);
    // A recovery that is of another epoch is none.
    checker.on_left(1);
    checker.on_joined(1, "e3", 1, Some(true), Some(1));
    assert!(!checker.tally.is_proven(0));
}
