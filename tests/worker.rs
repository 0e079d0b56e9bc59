//! Workers over a real Redis and a real PostgreSQL, from outside, and what goes wrong with them.
//!
//! | file | what |
//! |---|---|
//! | `rows` | what gets into the table, how, and what is counted |
//! | `kills` | workers and PostgreSQL killed under load: every row once |
//! | `faults` | what PostgreSQL and Redis refuse, one after the other |
//! | `poison` | entries that can't be stored, and `ringcast dead` |
//! | `workers` | workers, and a stream that is written by hand |
//!
//! `RINGCAST_TEST_ALL=1` makes them long: a million messages, faults of half a minute.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

#[path = "worker/faults.rs"]
mod faults;
#[path = "cluster/instances.rs"]
#[allow(dead_code, reason = "the tests of a cluster use the rest of it")]
mod instances;
#[path = "worker/kills.rs"]
mod kills;
#[path = "worker/poison.rs"]
mod poison;
#[path = "cluster/postgres.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod postgres;
#[path = "cluster/redis.rs"]
#[allow(dead_code, reason = "the tests of a cluster use the rest of it")]
mod redis;
#[path = "worker/rows.rs"]
mod rows;
#[path = "server/support.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod support;
#[path = "postgres/talk.rs"]
#[allow(dead_code, reason = "the tests of the wire use the rest of it")]
mod talk;
#[path = "worker/workers.rs"]
mod workers;
