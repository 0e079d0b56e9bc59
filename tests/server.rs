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

#[path = "server/access.rs"]
mod access;
#[path = "server/api.rs"]
mod api;
#[path = "server/browser.rs"]
mod browser;
#[path = "server/churn.rs"]
mod churn;
#[path = "server/counters.rs"]
mod counters;
#[path = "server/crash.rs"]
mod crash;
#[path = "server/crowd.rs"]
mod crowd;
#[path = "server/deflate.rs"]
mod deflate;
#[path = "server/drain.rs"]
mod drain;
#[path = "server/errors.rs"]
mod errors;
#[path = "server/events.rs"]
mod events;
#[path = "server/frames.rs"]
mod frames;
#[path = "server/half_closed.rs"]
mod half_closed;
#[path = "server/half_open.rs"]
mod half_open;
#[path = "server/history.rs"]
mod history;
#[path = "server/hostile.rs"]
mod hostile;
#[path = "server/http.rs"]
mod http;
#[path = "server/http_rates.rs"]
mod http_rates;
#[path = "server/ids.rs"]
mod ids;
#[path = "server/limits.rs"]
mod limits;
#[path = "server/logs.rs"]
mod logs;
#[path = "server/metrics.rs"]
mod metrics;
#[path = "server/namespace.rs"]
mod namespace;
#[path = "server/npm.rs"]
mod npm;
#[path = "server/openapi.rs"]
mod openapi;
#[path = "server/order.rs"]
mod order;
#[path = "server/page.rs"]
mod page;
#[path = "server/page_token.rs"]
mod page_token;
#[path = "server/personal.rs"]
mod personal;
#[path = "server/profile.rs"]
mod profile;
#[path = "server/program.rs"]
mod program;
#[path = "server/protocol.rs"]
mod protocol;
#[path = "server/rates.rs"]
mod rates;
#[path = "server/refusing.rs"]
mod refusing;
#[path = "server/resume.rs"]
mod resume;
#[path = "server/sealed.rs"]
mod sealed;
#[path = "server/slow.rs"]
mod slow;
#[path = "server/stock.rs"]
mod stock;
#[path = "server/storm.rs"]
mod storm;
#[path = "server/support.rs"]
mod support;
#[path = "server/tls.rs"]
mod tls;
#[path = "tokens/mod.rs"]
mod tokens;
#[path = "server/valgrind.rs"]
mod valgrind;
