//! Another line in the place of ours.

use super::*;

/// Nothing comes of the other line: the poll shows that its last one is not ours.
#[test]
fn a_line_exactly_as_long_that_is_silent_is_a_doubt() {
    for (before, live) in [(0, true), (5, false)] {
        let mut world = World::new(before, live);
        world.step(&Step::Poll);
        assert!(!world.order.is_in_doubt());
        world.step(&Step::Fork {
            count: 2,
            published: 2,
            is_heard: false,
        });
        world.step(&Step::Poll);
        assert!(world.order.is_in_doubt());
        world.rest();
        assert_eq!(world.last, (epoch(2), 0));
    }
}

/// It was started with the newest entry of the stream, which is somebody else's, or older: the last
/// one was deleted by hand.
#[test]
fn the_entry_of_the_last_one_before_the_start_is_learnt() {
    let at = |ms| EntryId { ms, n: 0 };
    let place = |ms| item(epoch(1), 5, at(ms)).place;
    for newest in [900, 700] {
        let (mut order, mut out) = (Order::new(), vec![]);
        order.start(epoch(1), 5, at(newest), &mut out);
        order.on_stored(Place {
            entry: EntryId::default(),
            ..place(0)
        });
        for _ in 0..2 {
            order.on_stored(place(800));
            assert!(!order.is_in_doubt(), "{newest}");
        }
        order.on_stored(place(801));
        assert!(order.is_in_doubt(), "{newest}");
    }
}

/// The clock of the one that took its place is behind.
#[test]
fn a_number_given_again_at_an_earlier_entry_is_a_doubt() {
    let (mut order, mut out) = (started(0), vec![]);
    order.on_live(plain(1, 1), &mut out);
    let earlier = EntryId { ms: 999, n: 0 };
    order.on_live(item(epoch(1), 1, earlier), &mut out);
    assert!(order.is_in_doubt());
}

/// 3 was passed on, 4 is a hole, as all was trimmed: the entry of the last one was never seen.
#[test]
fn a_number_given_twice_before_a_hole_is_a_doubt() {
    let mut world = World::new(0, true);
    for step in [
        Step::Publish { count: 1, fate: 0 },
        Step::Resubscribe,
        Step::Fork {
            count: 2,
            published: 3,
            is_heard: true,
        },
        Step::Trim(5),
        Step::Ask,
        Step::Execute { at_most: 2 },
        Step::Answer { fails: false },
        Step::Publish { count: 2, fate: 0 },
    ] {
        world.step(&step);
    }
    assert_eq!(world.last, (epoch(1), 4));
    world.step(&Step::Deliver { index: 0, count: 9 });
    assert!(world.order.is_in_doubt());
    world.rest();
    assert_eq!(world.last, (epoch(2), 0));
}
