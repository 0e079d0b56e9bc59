//! What is spoken with PostgreSQL, against the real one: logins, statements, COPY BINARY, errors.
//!
//! | file | what |
//! |---|---|
//! | `statements` | parameters, errors |
//! | `copy` | what the encoder writes is what PostgreSQL reads back |
//! | `talk` | a session over a blocking socket: what the others are made of |

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

#[path = "postgres/copy.rs"]
mod copy;
#[path = "cluster/postgres.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod postgres;
#[path = "cluster/redis.rs"]
#[allow(dead_code, reason = "only a free port is taken from it")]
mod redis;
#[path = "postgres/statements.rs"]
mod statements;
#[path = "server/support.rs"]
#[allow(dead_code, reason = "the tests of one server use the rest of it")]
mod support;
#[path = "postgres/talk.rs"]
mod talk;
