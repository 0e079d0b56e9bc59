//! The wire of Redis: commands out, replies and pushes in, the state of a session. No I/O.
//!
//! ```text
//! Address ─▶ Login ─▶ Session ◀─ bytes read        Command ─▶ bytes to write
//!                        │ frame: where a reply ends, within bounds; then it is decoded
//!                        ▼
//!           Input: Ready | Reply(Value) | Message | … ; WireError ends the connection
//! ```
//!
//! | file | what |
//! |---|---|
//! | `command` | commands, written straight into the buffer that is sent |
//! | `frame` | the bytes of a connection -> [`Value`]s |
//! | `message` | what a channel brings, taken apart in one look |
//! | `plain` | frames of the kinds that nearly all are made of |
//! | `value` | a reply, whichever RESP it came by |
//! | `refusal` | what an error of Redis means, and what mends it |
//! | `session` | login, RESP3 or RESP2, pushes among replies |
//! | `address` | where a Redis is, and as whom to log in |

mod address;
mod command;
mod frame;
mod message;
mod plain;
mod refusal;
mod session;
mod value;

pub use address::Address;
pub use command::{Command, push_command};
pub use frame::WireError;
pub use refusal::{Cause, Refusal};
pub use session::{Input, Kind, Login, Session};
pub use value::Value;
