//! The server from outside: the real program, a directory and a free port for each test, and a
//! client that is not ours.
//!
//! Each file below is a theme; `support` starts and ends servers and speaks WebSocket to them.
//! `RINGCAST_TEST_ALL=1` makes the long variants long; nothing is left out without it. Tests wait
//! for what they test, by reading from the server with a deadline.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

#[path = "server/errors.rs"]
mod errors;
#[path = "server/ids.rs"]
mod ids;
#[path = "server/order.rs"]
mod order;
#[path = "server/personal.rs"]
mod personal;
#[path = "server/protocol.rs"]
mod protocol;
#[path = "server/resume.rs"]
mod resume;
#[allow(dead_code)]
#[path = "server/support.rs"]
mod support;
