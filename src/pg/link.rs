//! A connection to PostgreSQL as its user sees it: it asks, the machine room answers.
//!
//! ```text
//! open ─▶ Up ─▶ requests, one Answer each, in order; Notices between them ─▶ close
//!   ▲     └─▶ Down ─┐
//!   └── a pause ────┘  by itself, jittered, until it is closed
//! ```
//!
//! - Requests are sent between an [`Event::Up`] and the next [`Event::Down`] only; they may be
//!   pipelined, up to `PG_REQUESTS_MAX` of them.
//! - After `Down` it is not known what became of those without an answer: each was done wholly or
//!   not at all, and none is sent again by the link.
//! - A request that is not answered in the time set for the link is cancelled; if that does not
//!   help either, the link is ended: `Down` with [`super::Cause::Silent`].
//! - A failed statement of a [`Request::Simple`] ends that request; what follows in the pipeline is
//!   still run. Within an open transaction everything up to its end is refused
//!   ([`super::Cause::InFailedTransaction`]), and a `COMMIT` then answers the tag `ROLLBACK`: look
//!   at [`super::Answer::tag`].

use std::borrow::Cow;

use super::{Answer, Param, Refusal, ServerInfo};

/// What is asked of PostgreSQL.
#[derive(Clone, PartialEq)]
pub enum Request {
    /// One statement or several, separated by `;`, in one transaction unless they say otherwise.
    /// Rows come as text.
    Simple(Cow<'static, str>),
    /// One statement with parameters `$1`, `$2` …; rows come in binary.
    Query {
        /// The statement.
        sql: Cow<'static, str>,
        /// Its parameters.
        params: Vec<Param>,
    },
    /// `COPY … FROM STDIN (FORMAT binary)`, statements before it in the same text allowed (such as
    /// `BEGIN;`), and its rows.
    Copy {
        /// The statement.
        sql: Cow<'static, str>,
        /// What [`super::CopyBuffer::finish`] gave; comes back by [`Event::Returned`].
        rows: Vec<u8>,
    },
}

impl Request {
    /// A [`Request::Simple`].
    pub fn simple(sql: impl Into<Cow<'static, str>>) -> Self {
        Self::Simple(sql.into())
    }

    /// A [`Request::Query`].
    pub fn query(sql: impl Into<Cow<'static, str>>, params: Vec<Param>) -> Self {
        let sql = sql.into();
        Self::Query { sql, params }
    }

    /// A [`Request::Copy`].
    pub fn copy(sql: impl Into<Cow<'static, str>>, rows: Vec<u8>) -> Self {
        let sql = sql.into();
        Self::Copy { sql, rows }
    }
}

/// Without what stands in rows and parameters.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Simple(sql) => write!(f, "Simple({sql:?})"),
            Self::Query { sql, params } => {
                write!(f, "Query({sql:?}, {} parameters)", params.len())
            }
            Self::Copy { sql, rows } => write!(f, "Copy({sql:?}, {} bytes)", rows.len()),
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Logged in: requests may be sent.
    Up(ServerInfo),
    /// Not connected, or not any more, why and what mends it. It is tried again after `retry_ms`.
    Down {
        /// Why.
        why: Refusal,
        /// The pause before the next try, in ms.
        retry_ms: u64,
    },
    /// The answer to the oldest request without one.
    Answer(Result<Answer, Refusal>),
    /// PostgreSQL says something besides: a warning, a log line. For the log.
    Notice(Refusal),
    /// The emptied buffer of a [`Request::Copy`] that was written (or never will be): to be used
    /// again by [`super::CopyBuffer::reuse`].
    Returned(Vec<u8>),
}
