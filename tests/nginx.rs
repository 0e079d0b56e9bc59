//! Instances behind a real nginx, with the configuration that is shipped.
//!
//! | file | what |
//! |---|---|
//! | `rolling` | restarts, reloads and kills under load: nobody misses anything |
//! | `passing` | what is passed on, and what is not: addresses, tokens, private paths, the page |
//! | `failing` | instances that are not there, that answer nothing, that come and go in DNS |
//! | `front`, `dns` | what the tests are made of |
//!
//! With `RINGCAST_TEST_ALL=1` and `--release` it is 2,000 clients and 1,000 messages/s.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

#[path = "nginx/dns.rs"]
mod dns;
#[path = "nginx/failing.rs"]
mod failing;
#[path = "nginx/front.rs"]
mod front;
#[path = "cluster/instances.rs"]
#[allow(dead_code, reason = "the tests of a cluster use the rest of it")]
mod instances;
#[path = "nginx/passing.rs"]
mod passing;
#[path = "cluster/redis.rs"]
#[allow(dead_code, reason = "the tests of a cluster use the rest of it")]
mod redis;
#[path = "nginx/rolling.rs"]
mod rolling;
#[path = "server/support.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod support;
#[path = "tokens/mod.rs"]
mod tokens;
