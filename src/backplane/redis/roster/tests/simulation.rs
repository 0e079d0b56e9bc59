//! What holds whatever happens: views become right, and nobody is seen to leave who moved.

use proptest::prelude::*;

use super::super::*;
use super::world::{Faults, ROOMS, STEP_MS, World};
use crate::model::limits::ROSTER_LEAVE_DEBOUNCE_MS;

const FAULTS: Faults = Faults {
    lost: 50,
    twice: 50,
    cut: 3,
    deaf: 3,
    killed: 1,
    born: 20,
    drained: 1,
    stopped: 1,
    flushed: 1,
    unread: 100,
    delay_ms: 3000,
};

fn live(world: &mut World, steps: u64) {
    for _ in 0..steps {
        for _ in 0..world.chance.u64(..4) {
            let at = world.chance.usize(..world.runs.len());
            let in_room = ROOMS[world.chance.usize(..ROOMS.len())];
            let user = format!("user {}", world.chance.u64(..12));
            if world.chance.bool() {
                let username = [None, Some("Ann"), Some("Bo \" \\ é")];
                let username = username[world.chance.usize(..username.len())];
                world.join(at, in_room, &user, username);
            } else {
                world.leave(at, in_room, &user);
            }
        }
        world.step();
    }
}

fn heals(seed: u64) -> Result<(), TestCaseError> {
    let mut world = World::new(4, seed);
    for _ in 0..2 {
        world.faults = FAULTS;
        live(&mut world, 400);
        world.faults = Faults::default();
        world.mend();
        // What was sent late comes.
        world.steps(FAULTS.delay_ms);
        world.steps(ROSTER_LEASE_MS);
        let wrong = world.wrong();
        prop_assert!(wrong.is_empty(), "{:#?}", wrong);
    }
    Ok(())
}

/// Users move among three instances, and a fourth watches.
fn does_not_flicker(seed: u64) -> Result<(), TestCaseError> {
    let mut world = World::new(4, seed);
    let mut users: Vec<_> = (0..10)
        .map(|user| (format!("u{user}"), user % 3, 0))
        .collect();
    for (user, at, _) in &users {
        world.join(*at, "a", user, None);
    }
    world.steps(2000);
    let before = world.runs[3].as_ref().unwrap().shown.clone();
    prop_assert_eq!(before.len(), users.len());
    world.faults.twice = 100;
    for _ in 0..600 {
        for (user, at, back) in &mut users {
            if *back == 0 && world.chance.u64(..20) == 0 {
                world.leave(*at, "a", user);
                *at = world.chance.usize(..3);
                *back = world.now + world.chance.u64(..=ROSTER_LEAVE_DEBOUNCE_MS);
            } else if *back != 0 && *back <= world.now {
                world.join(*at, "a", user, None);
                *back = 0;
            }
        }
        world.step();
        let shown = &world.runs[3].as_ref().unwrap().shown;
        prop_assert_eq!(shown, &before);
    }
    Ok(())
}

/// Few, since each is minutes of several instances; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|cases| cases.parse().ok()).unwrap_or(8)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(), failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default()
    })]

    #[test]
    fn views_become_right_within_a_lease(seed in any::<u64>()) {
        heals(seed)?;
    }

    #[test]
    fn who_moves_is_not_seen_to_leave(seed in any::<u64>()) {
        does_not_flicker(seed)?;
    }
}

#[test]
fn without_faults_a_change_is_seen_within_two_steps() {
    let mut world = World::new(3, 1);
    world.steps(1000);
    live(&mut world, 400);
    world.steps(ROSTER_LEAVE_DEBOUNCE_MS + 500 + 500);
    assert_eq!(world.wrong(), [""; 0]);
    world.join(0, "a", "new", Some("New"));
    world.steps(2 * STEP_MS);
    assert_eq!(world.wrong(), [""; 0]);
    let counters = world.runs[0].as_ref().unwrap().roster.counters();
    assert_eq!((counters.mismatches, counters.rejected), (0, 0));
    assert!(counters.fetches <= 4, "{counters:?}");
}

#[test]
fn a_dead_instance_is_corrected_within_fifteen_seconds() {
    for seed in 0..20 {
        let mut world = World::new(3, seed);
        world.join(0, "a", "u", None);
        world.join(1, "a", "u", None);
        world.join(0, "a", "v", None);
        world.steps(7000 + 333 * seed);
        let dead_at = world.now;
        world.runs[0] = None;
        let has = |world: &World, user| world.runs[2].as_ref().unwrap().roster.has_user("a", user);
        while has(&world, "v") {
            world.step();
            assert!(world.now - dead_at <= 15_000);
        }
        assert!(world.now - dead_at > 8_000);
        assert!(has(&world, "u"), "it is on another instance");
    }
}

#[test]
fn a_stopped_redis_makes_nobody_vanish_and_a_stopped_instance_is_there_again() {
    let mut world = World::new(3, 3);
    for at in 0..3 {
        world.join(at, "a", &format!("u{at}"), None);
    }
    world.steps(3000);
    let before = world.runs[2].as_ref().unwrap().shown.clone();
    // Nothing passes, for everybody.
    world.faults.lost = 1000;
    for _ in 0..30_000 / STEP_MS {
        world.step();
        assert_eq!(world.runs[2].as_ref().unwrap().shown, before);
    }
    world.faults.lost = 0;
    world.steps(6000);
    assert_eq!(world.wrong(), [""; 0]);

    world.stop(0, 20_000);
    world.steps(16_000);
    let has = |world: &World| world.runs[2].as_ref().unwrap().roster.has_user("a", "u0");
    assert!(!has(&world));
    world.steps(5000);
    assert!(has(&world), "its lease was over, so it has stored all anew");
    assert_eq!(world.wrong(), [""; 0]);
}

#[test]
fn a_flush_that_nobody_is_told_of_is_mended_for_who_comes_new() {
    let mut world = World::new(3, 4);
    world.join(0, "a", "u", Some("U"));
    world.steps(3000);
    world.flush();
    world.kill(2);
    world.start(2);
    world.steps(2000);
    assert_eq!(world.wrong(), [""; 0]);
    assert!(world.runs[2].as_ref().unwrap().roster.has_user("a", "u"));
}

#[test]
fn users_of_an_instance_that_drains_or_begins_anew_linger_until_they_are_back() {
    for drains in [true, false] {
        let mut world = World::new(3, 5);
        world.join(0, "a", "stays", None);
        world.join(0, "a", "goes", None);
        world.steps(3000);
        let before = world.runs[2].as_ref().unwrap().shown.clone();
        if drains {
            world.drain(0);
        } else {
            world.kill(0);
            world.start(0);
        }
        world.steps(1500);
        assert_eq!(world.runs[2].as_ref().unwrap().shown, before);
        world.join(1, "a", "stays", None);
        world.steps(2500);
        let roster = &world.runs[2].as_ref().unwrap().roster;
        assert!(roster.has_user("a", "stays") && !roster.has_user("a", "goes"));
    }
}
