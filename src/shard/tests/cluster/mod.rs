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

use std::sync::Arc;

use fastrand::Rng;

use self::setup::Setup;
use self::world::World;
use super::{broken, holds};
use crate::backplane::Backplane;
use crate::model::{Epoch, Position, RoomName};
use crate::shard::Shard;

#[test]
fn a_cluster_keeps_every_promise_in_every_run() {
    let run = |setup, rng| World::new(setup, rng).run();
    let broken = broken(2_000, |seed| holds(seed, Setup::draw, run));
    assert!(broken.is_empty(), "seeds {broken:?} fail");
}

/// What is published in a personal room, wherever, opens it on all instances. Where there was no
/// room for one more, it was followed for ever all the same.
#[test]
fn a_personal_room_for_which_there_is_no_room_is_not_followed() {
    let mut options = (*Setup::draw(&mut Rng::with_seed(1)).options(0)).clone();
    options.rooms_max = 1;
    let mut shard = Shard::new(0, Arc::new(options), 1);
    let last = Position {
        epoch: Epoch::new(1, 0),
        offset: 0,
    };
    for name in ["@ann", "@bob"] {
        let name = RoomName::parse(name).unwrap();
        let (backplane, mut moment) = shard.backplane();
        backplane.open(&mut moment, &name);
        shard.on_opened(&name, Ok(last));
        for room in shard.home.rooms.values_mut() {
            room.subscribers = 1;
        }
        let Backplane::Redis(partition) = &shard.home.backplane else {
            panic!("a cluster");
        };
        assert_eq!((shard.home.len(), partition.followed()), (1, 1), "{name:?}");
    }
}
