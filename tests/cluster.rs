//! Several instances over one Redis, from outside: real processes, and what goes wrong with them.
//!
//! | file | what |
//! |---|---|
//! | `ledger` | the faults under load, each with a verdict over all that was acked and received |
//! | `rooms` | what two instances do together when all is well |
//! | `storm` | all come back at once |
//! | `page` | tabs on several instances |
//! | `away` | what one sees while Redis is away, and after |
//! | `standstill` | an instance, and Redis, that stand still; counters of years |
//! | `refusals` | a Redis that refuses: passwords, rights, replicas, no memory |
//! | `metrics` | how long messages take, by where they came in |
//! | `names` | what stands in Redis, foreign writers, trimming, INSTANCE_ID |
//! | `listing` | the list of rooms, from all instances and what is stored |
//! | `history` | the past in PostgreSQL and stream, joined |
//! | `redis`, `postgres`, `talk`, `proxy`, `instances`, `hand` | what the tests are made of |
//!
//! `RINGCAST_TEST_REDIS=/path/to/server` runs them over that server: another version of Redis, or
//! Valkey. `RINGCAST_TEST_ALL=1` makes the ledgers long: 100,000 messages, faults of ten seconds.
//! Tests wait for what they test, by asking with a deadline; where a fault lasts a while, that is
//! its length and not a wait for something.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

#[path = "cluster/away.rs"]
mod away;
#[path = "server/browser.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod browser;
#[path = "cluster/hand.rs"]
mod hand;
#[path = "cluster/history.rs"]
mod history;
#[path = "cluster/instances.rs"]
#[allow(dead_code, reason = "the tests of nginx use the rest of it")]
mod instances;
#[path = "cluster/ledger.rs"]
mod ledger;
#[path = "cluster/listing.rs"]
mod listing;
#[path = "cluster/metrics.rs"]
mod metrics;
#[path = "cluster/names.rs"]
mod names;
#[path = "server/namespace.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod namespace;
#[path = "cluster/page.rs"]
mod page;
#[path = "cluster/postgres.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod postgres;
#[path = "cluster/proxy.rs"]
mod proxy;
#[path = "cluster/redis.rs"]
mod redis;
#[path = "cluster/refusals.rs"]
mod refusals;
#[path = "cluster/rooms.rs"]
mod rooms;
#[path = "cluster/standstill.rs"]
mod standstill;
#[path = "cluster/storm.rs"]
mod storm;
#[path = "server/support.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod support;
#[path = "postgres/talk.rs"]
mod talk;
#[path = "tokens/mod.rs"]
mod tokens;
