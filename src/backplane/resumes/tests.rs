//! Resumes over a past that is as simple as can be: what is lost, from where on the stream has all,
//! and what is stored.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn room(n: u64) -> RoomName {
    RoomName::parse(&format!("r{n}")).unwrap()
}

fn epoch() -> Epoch {
    Epoch::new(1, 0)
}

/// Every room's past. All before `stored` is stored, but for what is lost, and of what is behind
/// some; the stream has what is not `trimmed`.
struct Past {
    lost: BTreeSet<u64>,
    stored: u64,
    trimmed: u64,
    is_stored: fn(u64) -> bool,
}

impl Past {
    fn has_stored(&self, offset: u64) -> bool {
        match offset < self.stored {
            true => !self.lost.contains(&offset),
            false => (self.is_stored)(offset),
        }
    }

    /// What a look finds.
    fn missing(&self, look: &Stretch) -> Option<u64> {
        (look.from..look.until).find(|&offset| !self.has_stored(offset))
    }

    /// What a search finds: what was stored meanwhile as a page of ten.
    fn seek(&self, at: u64) -> Sought {
        if self.lost.contains(&at) {
            return Sought::Lost;
        }
        if at >= self.trimmed {
            return Sought::Streamed(vec![(at, Bytes::new())]);
        }
        let next = (at..at + 10).find(|&offset| !self.has_stored(offset));
        Sought::Stored(next.unwrap_or(at + 10))
    }

    fn is_whole(&self, from: u64, until: u64) -> bool {
        self.lost.range(from..until).next().is_none()
    }
}

/// All that they ask for is answered, until nobody waits; how many looks that took.
fn answer_all(resumes: &mut Resumes, past: &mut Past, mut turn: impl FnMut(&mut Past)) -> usize {
    let mut looks = 0;
    loop {
        let seeks = resumes.take_seeks();
        let is_done = seeks.is_empty();
        for seek in seeks {
            let sought = past.seek(seek.at);
            resumes.on_sought(&seek.room, seek.epoch, seek.at, sought);
        }
        let Some(look) = resumes.poll_look() else {
            if is_done {
                return looks;
            }
            continue;
        };
        assert_eq!(resumes.poll_look(), None, "one at a time");
        let offsets: u64 = look.iter().map(|it| it.until - it.from).sum();
        assert!(offsets <= RESUME_LOOK_OFFSETS_MAX && look.len() <= HISTORY_WANTS_MAX);
        let missing = look.iter().map(|stretch| past.missing(stretch)).collect();
        resumes.on_looked(Ok(missing));
        looks += 1;
        assert!(looks < 5_000, "it looks without end");
        turn(past);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is lost, and while a worker goes on storing: whole is said of what is, and of
    /// nothing else, and each is answered once.
    #[test]
    fn whole_is_said_of_what_is(
        lost in proptest::collection::btree_set(1..200_000_u64, 0..6),
        (stored, steps, kept) in (1..220_000_u64, 0..40_000_u64, 0..100_000_u64),
        wants in proptest::collection::btree_set((0..4_u64, 1..200_000_u64), 1..40),
        until in 150_000..250_000_u64,
    ) {
        let lost = lost.into_iter().filter(|&offset| offset < stored).collect();
        let is_stored = |offset| offset % 5 < 2;
        let mut past = Past { lost, stored, trimmed: 0, is_stored };
        let mut resumes = Resumes::default();
        let wants: Vec<_> = wants.into_iter().filter(|&(_, from)| from < until).collect();
        for &(n, from) in &wants {
            prop_assert!(resumes.want(&room(n), epoch(), from, until));
        }
        answer_all(&mut resumes, &mut past, |past| {
            past.stored += steps;
            past.trimmed = past.stored.saturating_sub(kept);
        });
        let mut told: Vec<_> = resumes.take_resumed();
        told.sort_by_key(|it| (it.room.clone(), it.from));
        let mut want = wants.iter();
        for resumed in told {
            let &(n, from) = want.next().unwrap();
            prop_assert_eq!((&resumed.room, resumed.from), (&room(n), from));
            match resumed.result {
                Ok(page) => {
                    let is_whole = past.is_whole(from, until);
                    prop_assert_eq!(page.is_some(), is_whole, "from {}", from);
                }
                // What is missed is stored and trimmed before it can be sought.
                Err(why) => prop_assert!(kept < steps, "{}", why),
            }
        }
        prop_assert!(want.next().is_none(), "each is answered");
        prop_assert_eq!((resumes.waiting, resumes.rooms.len()), (0, 0));
    }
}

fn past(lost: &[u64], stored: u64) -> Past {
    Past {
        lost: lost.iter().copied().collect(),
        stored,
        trimmed: stored,
        is_stored: |_| false,
    }
}

/// What is told of each, in the order in which they are told.
fn told(resumes: &mut Resumes) -> Vec<(u64, Whole)> {
    let resumed = resumes.take_resumed().into_iter();
    resumed.map(|it| (it.from, it.result)).collect()
}

#[test]
fn a_thousand_in_one_room_take_as_many_looks_as_one() {
    let mut looks = Vec::new();
    for count in [1, 1_000] {
        let mut resumes = Resumes::default();
        for from in 1..=count {
            assert!(resumes.want(&room(1), epoch(), from, 180_000));
        }
        looks.push(answer_all(&mut resumes, &mut past(&[], 200_000), |_| {}));
        let told = told(&mut resumes);
        assert_eq!(told.len() as u64, count);
        assert!(told.iter().all(|(_, result)| *result == whole()));
    }
    assert_eq!(looks, [4, 4]);
}

#[test]
fn rooms_share_a_look_and_a_long_past_holds_nobody_up() {
    let mut resumes = Resumes::default();
    assert!(resumes.want(&room(0), epoch(), 1, 10_000_000));
    let first = resumes.poll_look().unwrap();
    assert_eq!(first.len(), 1);
    for n in 1..=50 {
        assert!(resumes.want(&room(n), epoch(), 1, 101));
    }
    resumes.on_looked(Ok(vec![None]));
    let second = resumes.poll_look().unwrap();
    assert_eq!(
        second.len(),
        51,
        "all that wait, and what is left for the long one"
    );
    resumes.on_looked(Ok(vec![None; 51]));
    assert_eq!(told(&mut resumes).len(), 50);
}

#[test]
fn what_is_found_in_the_stream_comes_along() {
    let mut resumes = Resumes::default();
    for from in [5, 9, 3] {
        assert!(resumes.want(&room(1), epoch(), from, 20));
    }
    answer_all(&mut resumes, &mut past(&[], 5), |_| {});
    let page = Ok(Some(vec![(5, Bytes::new())]));
    let want = [(5, page), (9, whole()), (3, whole())];
    assert_eq!(told(&mut resumes), want);
}

#[test]
fn who_begins_behind_a_hole_is_whole() {
    let mut resumes = Resumes::default();
    for from in [7, 8, 6, 1] {
        assert!(resumes.want(&room(1), epoch(), from, 20));
    }
    answer_all(&mut resumes, &mut past(&[7], 20), |_| {});
    let mut told = told(&mut resumes);
    told.sort_by_key(|it| it.0);
    let want = [(1, Ok(None)), (6, Ok(None)), (7, Ok(None)), (8, whole())];
    assert_eq!(told, want);
}

#[test]
fn nothing_is_lost_because_nobody_answers() {
    let mut resumes = Resumes::default();
    assert!(resumes.want(&room(1), epoch(), 1, 20));
    assert!(resumes.poll_look().is_some());
    resumes.on_looked(Err("PostgreSQL is away".into()));
    let seek = resumes.take_seeks().remove(0);
    assert_eq!(
        (seek.at, seek.failed.as_deref()),
        (1, Some("PostgreSQL is away"))
    );
    resumes.on_sought(&room(1), epoch(), 1, Sought::Failed("away".into()));
    assert_eq!(told(&mut resumes), [(1, Err("away".into()))]);
    assert_eq!(resumes.poll_look(), None);
}

#[test]
fn what_is_stored_a_moment_later_again_and_again_ends_it() {
    let mut resumes = Resumes::default();
    assert!(resumes.want(&room(1), epoch(), 1, 1_000));
    let mut at = 1;
    while let Some(look) = resumes.poll_look() {
        assert_eq!(look[0].from, at);
        resumes.on_looked(Ok(vec![Some(at)]));
        assert_eq!(resumes.take_seeks().len(), 1);
        resumes.on_sought(&room(1), epoch(), at, Sought::Stored(at + 1));
        at += 1;
    }
    assert!(told(&mut resumes)[0].1.is_err());
    assert_eq!(at, 2 + u64::from(RESUME_TRIES_MAX));
}

#[test]
fn no_more_wait_than_may() {
    let mut resumes = Resumes::default();
    for from in 1..=RESUMES_WAITING_MAX as u64 {
        assert!(resumes.want(&room(from % 7), epoch(), from, 100_000));
    }
    assert!(!resumes.want(&room(1), epoch(), 50_000, 100_000));
}
