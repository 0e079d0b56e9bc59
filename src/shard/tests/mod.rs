//! A simulator: real shards, all else in memory, all chance from one seed.
//!
//! | file | what |
//! |---|---|
//! | `setup` | what a run is: how many of what, which limits, which faults |
//! | `world` | drives the shards as `runtime/` does; mail, clock, faults; what must hold at rest |
//! | `wires`, `store` | sockets and the store, in memory, slow and failing |
//! | `client`, `frames` | clients that know PROTOCOL only, and complain |
//! | `oracle` | what all clients and the store know together |
//! | `stage` | shards without chance: all moves when a test says so |
//! | `regressions` | what broke once, there |
//! | `pages` | pages of the past that could not be read at once, there |
//! | `half_closed` | clients that send nothing more, or are gone, at each stage of a request |
//! | `cluster` | a simulator of several instances over a fake Redis |
//!
//! `RINGCAST_SIM_SEEDS=n` runs n seeds, `RINGCAST_SIM_SEED=s` that one, `RINGCAST_SIM_FROM=s`
//! begins there, `RINGCAST_SIM_TRACE=1` prints every frame. A failure names its seed.
//!
//! In the quick set are 1,000 runs of one server (36 ms each, built for debugging) and 2,000 of
//! clusters (75 ms): a minute and a half of two cores. Nothing stands out in their profile; built
//! with `opt-level = 1` a run takes a seventh, but building the tests so takes a minute longer,
//! which is all that it would save. Who wants many more sets `CARGO_PROFILE_DEV_OPT_LEVEL=1`.

mod client;
mod cluster;
mod frames;
mod half_closed;
mod oracle;
mod pages;
mod regressions;
mod setup;
mod stage;
mod store;
mod wires;
mod world;

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, ScopedJoinHandle};

use fastrand::Rng;

use setup::Setup;
use world::World;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Which of the seeds that are asked for do not hold; `count` without a setting. On all cores.
fn broken(count: u64, holds: impl Fn(u64) -> bool + Sync) -> Vec<u64> {
    let (from, count) = match number("RINGCAST_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("RINGCAST_SIM_FROM").unwrap_or(1),
            number("RINGCAST_SIM_SEEDS").unwrap_or(count),
        ),
    };
    let (holds, cores) = (
        &holds,
        thread::available_parallelism().map_or(1, usize::from),
    );
    let share = |core: usize| (from + core as u64..from + count).step_by(cores);
    let mut broken: Vec<u64> = thread::scope(|scope| {
        let run =
            |core: usize| scope.spawn(move || share(core).filter(|&seed| !holds(seed)).collect());
        let running: Vec<ScopedJoinHandle<'_, Vec<u64>>> = (0..cores).map(run).collect();
        let done = running
            .into_iter()
            .map(|core| core.join().expect("it ends"));
        done.flatten().collect()
    });
    broken.sort_unstable();
    broken
}

/// Whether the run of a seed keeps every promise; if not, what it broke is printed.
fn holds<S: Clone + Debug>(seed: u64, draw: fn(&mut Rng) -> S, run: fn(S, Rng)) -> bool {
    let mut rng = Rng::with_seed(seed);
    let setup = draw(&mut rng);
    let run = catch_unwind(AssertUnwindSafe(|| run(setup.clone(), rng)));
    if run.is_err() {
        eprintln!("RINGCAST_SIM_SEED={seed} fails with {setup:?}");
    }
    run.is_ok()
}

#[test]
fn every_promise_holds_in_every_run() {
    let run = |setup, rng| World::new(setup, rng).run();
    let broken = broken(1_000, |seed| holds(seed, Setup::draw, run));
    assert!(broken.is_empty(), "seeds {broken:?} fail");
}
