//! A simulator of a cluster: real shards and backplanes of several instances, a fake Redis, all
//! else in memory, all chance from one seed.
//!
//! | file | what |
//! |---|---|
//! | `setup` | what a run is: how many of what, which faults |
//! | `world` | instances, clients, Redis and the clock; what must hold at rest |
//! | `instance` | drives the shards of one instance as `runtime/` does |
//! | `redis` | the fake Redis, and the network to it |
//! | `disk` | the spools |
//! | `client` | clients that know PROTOCOL only, and complain |
//! | `oracle` | what all clients and the stream know together |
//!
//! It takes the settings of its parent: `RINGCAST_SIM_SEED=s` runs that one, and so on. After the
//! faults comes the calm; then everything must come to rest, everybody must have everything, and
//! everybody who comes back, wherever, gets it again.

mod client;
mod disk;
mod instance;
mod oracle;
mod redis;
mod setup;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;

use self::setup::Setup;
use self::world::World;
use super::broken;

/// Whether the run of a seed keeps every promise; if not, what it broke is printed.
fn holds(seed: u64) -> bool {
    let mut rng = Rng::with_seed(seed);
    let setup = Setup::draw(&mut rng);
    let run = catch_unwind(AssertUnwindSafe(|| {
        World::new(setup.clone(), rng).run();
    }));
    if run.is_err() {
        eprintln!("RINGCAST_SIM_SEED={seed} fails with {setup:?}");
    }
    run.is_ok()
}

#[test]
fn a_cluster_keeps_every_promise_in_every_run() {
    let broken = broken(2_000, holds);
    assert!(broken.is_empty(), "seeds {broken:?} fail");
}
