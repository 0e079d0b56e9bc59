//! The wire of PostgreSQL (protocol 3.0): requests out, answers in, the state of a session. No I/O.
//!
//! ```text
//! Conninfo ─▶ Login ─▶ Session ◀─ bytes read       Request ─▶ bytes to write
//!                        │ postgres_protocol decodes, within bounds
//!                        ▼
//!           Input: Ready | Answer | Notice | …     WireError ends the connection
//!
//! rows ─▶ CopyBuffer ─▶ Request::Copy              what a caller of the machine room sees:
//!                                                  link::{Request, Event}
//! ```
//!
//! | file | what |
//! |---|---|
//! | `answer` | what a request is answered: rows, tags |
//! | `auth` | SCRAM-SHA-256 (-PLUS), md5, cleartext within TLS |
//! | `backoff` | pauses between two tries to connect |
//! | `certificate` | what binds a login to the TLS connection (RFC 5929) |
//! | `conninfo` | `POSTGRES_URL` and the `PG*` variables |
//! | `copy` | rows as COPY BINARY, straight into the buffer that is sent |
//! | `link` | a connection as its user sees it: requests, events |
//! | `param` | parameters of a query |
//! | `passfile` | passwords out of a file |
//! | `refusal` | what an error of PostgreSQL means, and what mends it |
//! | `session` | startup, login, requests and their answers |
//!
//! Not here: sockets, TLS, time-outs (`runtime::pg`), and what is stored (`worker`, history).

mod answer;
mod auth;
mod backoff;
mod certificate;
mod conninfo;
mod copy;
pub mod link;
mod param;
pub mod passfile;
mod refusal;
mod session;

pub use answer::{Answer, Row, Transaction};
pub use backoff::Backoff;
pub use certificate::end_point_of;
pub use conninfo::{Conninfo, Given, Host, PassFile, Place, SessionAttrs, SslMode};
pub use copy::{CopyBuffer, CopyRow};
pub use link::{Event, Request};
pub use param::Param;
pub use refusal::{Cause, Refusal, Remedy};
pub use session::{
    Input, Login, Secrecy, ServerInfo, Session, WireError, cancel_request, ssl_request,
};
