//! The state of one connection to PostgreSQL. No I/O: bytes in, inputs out.
//!
//! ```text
//! [SSLRequest ─▶ S ─▶ TLS]                              the driver's, by `ssl_request`
//! begin: StartupMessage ─▶ authentication ─▶ ParameterStatus*, BackendKeyData ─▶ ReadyForQuery
//!        ─▶ SET …; SELECT pg_is_in_recovery() ─▶ Input::Ready
//! send:  Query | Parse Bind Describe Execute Sync | Query CopyData* CopyDone
//!        ─▶ RowDescription, DataRow*, CommandComplete | ErrorResponse ─▶ ReadyForQuery
//!        ─▶ Input::Answer
//! ```
//!
//! - Nothing of the caller's is sent before [`Input::Ready`]; then requests may be pipelined, and
//!   have one [`Input::Answer`] each, in order.
//! - The rows of a COPY follow its statement at once: if that fails, PostgreSQL passes over them.
//! - What a session gives does not depend on where reads cut the bytes.
//! - After [`Input::Refused`] and after a [`WireError`] nothing more comes: close the connection.
//! - Bounds: `PG_MESSAGE_BYTES_MAX` a message, `PG_ROWS_BYTES_MAX` of rows an answer,
//!   `PG_REQUESTS_MAX` requests without an answer.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::{backend, frontend};

use super::answer::{Answer, Row, Transaction};
use super::auth::{Auth, Step};
use super::link::Request;
use super::refusal::{Cause, Refusal};
use crate::model::limits::{
    PG_MESSAGE_BYTES_MAX, PG_NOTICES_MAX, PG_PARAMETERS_MAX, PG_REQUESTS_MAX, PG_ROWS_BYTES_MAX,
};

/// As whom to be at a PostgreSQL, and how. Its `Debug` does not show the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<String>,
    /// The database.
    pub database: String,
    /// What `pg_stat_activity` is to show.
    pub application_name: String,
    /// The startup parameter `options`: switches such as `-c search_path=app`.
    pub options: Option<String>,
    /// What is `SET` before anything else, such as `statement_timeout`.
    pub settings: Vec<(String, String)>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("application_name", &self.application_name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What stands between the session and whoever listens on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Secrecy {
    /// Nothing: no password is sent in clear.
    #[default]
    Plain,
    /// A socket of this machine: as good as TLS for a password in clear.
    Local,
    /// TLS; with what binds a login to it (see [`super::end_point_of`]), if it is known.
    Tls(Option<Vec<u8>>),
}

/// What is known of the server once a session is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its version: `15.10 (Debian …)`.
    pub version: String,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// Whether transactions are read-only unless they say otherwise; so on a standby.
    pub is_read_only: bool,
    /// The backend, as `pg_stat_activity` has it.
    pub process_id: i32,
    /// Where it is, for the log; filled in by the driver.
    pub place: String,
}

/// What a connection gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Logged in: requests may be sent.
    Ready(ServerInfo),
    /// Login failed.
    Refused(Refusal),
    /// The answer to the oldest request without one.
    Answer(Result<Answer, Refusal>),
    /// PostgreSQL says something besides.
    Notice(Refusal),
    /// PostgreSQL ends the connection, and says why.
    Ended(Refusal),
}

/// What came is not PostgreSQL's protocol, or goes beyond its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub String);

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Startup,
    /// Authenticated: parameters come, and the key.
    Welcome,
    /// The first statements of the session's own.
    Settling,
    Ready,
    Refused,
    /// There was a [`WireError`], or the server ended it.
    Broken,
}

/// The answer under way.
#[derive(Debug, Default)]
struct Pending {
    answer: Answer,
    failed: Option<Refusal>,
    bytes: usize,
    is_too_long: bool,
}

/// A request without an answer: whether its rows come in binary.
#[derive(Debug)]
struct Asked {
    is_binary: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    login: Login,
    secrecy: Secrecy,
    phase: Phase,
    auth: Auth,
    info: ServerInfo,
    secret_key: i32,
    parameters: usize,
    notices: usize,
    asked: VecDeque<Asked>,
    pending: Pending,
    buffer: BytesMut,
}

impl Session {
    /// The session of a connection that is being made.
    pub fn new(login: Login, secrecy: Secrecy) -> Self {
        Self {
            login,
            secrecy,
            phase: Phase::New,
            auth: Auth::default(),
            info: ServerInfo::default(),
            secret_key: 0,
            parameters: 0,
            notices: 0,
            asked: VecDeque::new(),
            pending: Pending::default(),
            buffer: BytesMut::new(),
        }
    }

    /// Whether requests may be sent.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// Whether one more request may be sent now.
    pub fn has_room(&self) -> bool {
        self.is_ready() && self.asked.len() < PG_REQUESTS_MAX
    }

    /// What to send on another connection to have the statement under way cancelled: see
    /// [`cancel_request`]. `None` before it is known.
    pub fn cancel_key(&self) -> Option<(i32, i32)> {
        (self.info.process_id != 0).then_some((self.info.process_id, self.secret_key))
    }

    /// Appends what is sent first. Once, when connected (and TLS is agreed).
    ///
    /// # Errors
    /// A part of the login has a NUL in it.
    pub fn begin(&mut self, out: &mut BytesMut) -> Result<(), WireError> {
        debug_assert!(self.phase == Phase::New, "a session begins once");
        self.phase = Phase::Startup;
        let login = &self.login;
        let mut parameters = vec![
            ("user", login.user.as_str()),
            ("database", login.database.as_str()),
            ("client_encoding", "UTF8"),
        ];
        if !login.application_name.is_empty() {
            parameters.push(("application_name", &login.application_name));
        }
        if let Some(options) = &login.options {
            parameters.push(("options", options));
        }
        frontend::startup_message(parameters, out)
            .map_err(|_| WireError("user, database and options must not contain NUL".into()))
    }

    /// Appends a request. Only if [`Session::has_room`]. Of a [`Request::Copy`] the rows are left
    /// in it: they are sent right behind `out`.
    ///
    /// # Errors
    /// It can't be written (a NUL in the statement); nothing was appended.
    pub fn send(&mut self, request: &Request, out: &mut BytesMut) -> Result<(), WireError> {
        debug_assert!(self.has_room(), "it is sent too early or too much");
        let start = out.len();
        let written = match request {
            Request::Simple(sql) | Request::Copy { sql, .. } => {
                frontend::query(sql, out).map_err(|error| error.to_string())
            }
            Request::Query { sql, params } => extended(sql, params, out),
        };
        if let Err(why) = written {
            out.truncate(start);
            return Err(WireError(format!("the request can't be sent: {why}")));
        }
        let is_binary = matches!(request, Request::Query { .. });
        self.asked.push_back(Asked { is_binary });
        Ok(())
    }

    /// Appends the farewell.
    pub fn end(&mut self, out: &mut BytesMut) {
        frontend::terminate(out);
    }

    /// Takes all of `bytes`; appends what must be sent now to `out`, and what came to `inputs`.
    ///
    /// # Errors
    /// What came is not PostgreSQL's protocol or goes beyond its limits; `inputs` has what came
    /// before.
    pub fn on_bytes(
        &mut self,
        bytes: &mut BytesMut,
        out: &mut BytesMut,
        inputs: &mut Vec<Input>,
    ) -> Result<(), WireError> {
        if matches!(self.phase, Phase::Refused | Phase::Broken) {
            bytes.clear();
            return Ok(());
        }
        if self.buffer.is_empty() {
            self.buffer = std::mem::take(bytes);
        } else {
            self.buffer.extend_from_slice(bytes);
            bytes.clear();
        }
        while !matches!(self.phase, Phase::Refused | Phase::Broken) {
            let result = match self.next_message() {
                Ok(Some(message)) => self.on_message(message, out, inputs),
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.phase = Phase::Broken;
                self.buffer = BytesMut::new();
                return Err(error);
            }
        }
        self.buffer = BytesMut::new();
        Ok(())
    }

    /// The next whole message that is of use.
    fn next_message(&mut self) -> Result<Option<backend::Message>, WireError> {
        let header = backend::Header::parse(&self.buffer).map_err(not_ours)?;
        let Some(header) = header else {
            return Ok(None);
        };
        // Parsed above: not negative, 4 at least.
        let len = header.len() as usize;
        if len > PG_MESSAGE_BYTES_MAX {
            // A server that is none shows it by its first bytes.
            let why = match self.phase {
                Phase::Startup => "what answers is not PostgreSQL".to_owned(),
                _ => format!("a message has {len} bytes; {PG_MESSAGE_BYTES_MAX} are the limit"),
            };
            return Err(WireError(why));
        }
        // A server of protocol 3.0 does not know options that begin with _pq_, and we send none.
        if header.tag() == b'v' && self.buffer.len() > len {
            self.buffer.advance(len + 1);
            return self.next_message();
        }
        backend::Message::parse(&mut self.buffer).map_err(not_ours)
    }

    fn on_message(
        &mut self,
        message: backend::Message,
        out: &mut BytesMut,
        inputs: &mut Vec<Input>,
    ) -> Result<(), WireError> {
        use backend::Message as M;
        match message {
            M::NoticeResponse(body) => {
                self.notices += 1;
                if self.notices <= PG_NOTICES_MAX {
                    inputs.push(Input::Notice(refusal_of(body.fields())));
                }
            }
            M::NotificationResponse(_) => {}
            M::ParameterStatus(body) => self.on_parameter(&body)?,
            M::ErrorResponse(body) => self.on_error(refusal_of(body.fields()), inputs),
            message if self.phase == Phase::Startup => {
                match self
                    .auth
                    .on_message(&message, &self.login, &self.secrecy, out)
                {
                    Step::More => {}
                    Step::Done => self.phase = Phase::Welcome,
                    Step::Refused(refusal) => {
                        self.phase = Phase::Refused;
                        inputs.push(Input::Refused(*refusal));
                    }
                    Step::Unexpected => return Err(unexpected("login")),
                }
            }
            M::BackendKeyData(body) if self.phase == Phase::Welcome => {
                self.info.process_id = body.process_id();
                self.secret_key = body.secret_key();
            }
            M::ReadyForQuery(_) if self.phase == Phase::Welcome => self.settle(out)?,
            M::ReadyForQuery(body) => self.on_ready(body.status(), inputs)?,
            message => self.on_answer(message)?,
        }
        Ok(())
    }

    fn on_parameter(&mut self, body: &backend::ParameterStatusBody) -> Result<(), WireError> {
        self.parameters += 1;
        if self.parameters > PG_PARAMETERS_MAX {
            return Err(WireError("too many parameters were told".into()));
        }
        if let ("server_version", value) = (
            body.name().map_err(not_ours)?,
            body.value().map_err(not_ours)?,
        ) {
            self.info.version = value.to_owned();
        }
        Ok(())
    }

    /// Logged in: says how the session is to be, and asks what the server is.
    fn settle(&mut self, out: &mut BytesMut) -> Result<(), WireError> {
        let mut sql = String::new();
        for (name, value) in &self.login.settings {
            debug_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            sql.push_str(&format!("SET {name} = '{}';", value.replace('\'', "''")));
        }
        sql.push_str("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')");
        frontend::query(&sql, out).map_err(not_ours)?;
        self.phase = Phase::Settling;
        Ok(())
    }

    fn on_error(&mut self, refusal: Refusal, inputs: &mut Vec<Input>) {
        match self.phase {
            Phase::Ready if !refusal.is_fatal() && !self.asked.is_empty() => {
                self.pending.failed.get_or_insert(refusal);
            }
            Phase::Ready => {
                self.phase = Phase::Broken;
                inputs.push(Input::Ended(refusal));
            }
            _ => {
                self.phase = Phase::Refused;
                inputs.push(Input::Refused(refusal));
            }
        }
    }

    /// A part of an answer.
    fn on_answer(&mut self, message: backend::Message) -> Result<(), WireError> {
        use backend::Message as M;
        let is_binary = match (self.phase, self.asked.front()) {
            (Phase::Settling, _) => false,
            (Phase::Ready, Some(asked)) => asked.is_binary,
            _ => return Err(unexpected("request")),
        };
        match message {
            M::DataRow(body) => {
                // Whole, or an error.
                body.ranges().for_each(|_| Ok(())).map_err(not_ours)?;
                let pending = &mut self.pending;
                pending.bytes += body.buffer().len() + size_of::<Row>();
                if pending.bytes > PG_ROWS_BYTES_MAX {
                    pending.is_too_long = true;
                    pending.answer.rows = Vec::new();
                } else {
                    let row = Row::new(body.buffer_bytes().clone(), is_binary);
                    pending.answer.rows.push(row);
                }
            }
            M::CommandComplete(body) => {
                let tag = body.tag().map_err(not_ours)?.to_owned();
                self.pending.answer.tags.push(tag);
            }
            M::CopyOutResponse(_) => return Err(unexpected("COPY TO")),
            _ => {}
        }
        Ok(())
    }

    /// The answer under way is at its end.
    fn on_ready(&mut self, status: u8, inputs: &mut Vec<Input>) -> Result<(), WireError> {
        let Pending {
            mut answer,
            failed,
            is_too_long,
            ..
        } = std::mem::take(&mut self.pending);
        self.notices = 0;
        answer.transaction = match status {
            b'T' => Transaction::Open,
            b'E' => Transaction::Failed,
            _ => Transaction::Idle,
        };
        if self.phase == Phase::Settling {
            let row = answer.rows.first();
            self.info.is_standby = row.and_then(|row| row.bool(0)).unwrap_or(false);
            self.info.is_read_only =
                self.info.is_standby || row.and_then(|row| row.text(1)) == Some("on");
            self.phase = Phase::Ready;
            inputs.push(Input::Ready(self.info.clone()));
            return Ok(());
        }
        if self.asked.pop_front().is_none() {
            return Err(unexpected("request"));
        }
        let answer = match failed {
            Some(refusal) => Err(refusal),
            None if is_too_long => Err(Refusal::of_way(
                Cause::Other,
                format!("the answer has more than {PG_ROWS_BYTES_MAX} bytes"),
            )),
            None => Ok(answer),
        };
        inputs.push(Input::Answer(answer));
        Ok(())
    }
}

/// Parse, Bind, Describe, Execute and Sync of the unnamed statement.
fn extended(sql: &str, params: &[super::Param], out: &mut BytesMut) -> Result<(), String> {
    let types = params.iter().map(super::Param::type_oid);
    frontend::parse("", sql, types, out).map_err(|error| error.to_string())?;
    let put = |param: &super::Param, out: &mut BytesMut| match param.put(out) {
        true => Ok(IsNull::No),
        false => Ok(IsNull::Yes),
    };
    // Binary in, binary out.
    frontend::bind("", "", [1], params, put, [1], out)
        .map_err(|_| "its parameters are too long".to_owned())?;
    frontend::describe(b'P', "", out).map_err(|error| error.to_string())?;
    frontend::execute("", 0, out).map_err(|error| error.to_string())?;
    frontend::sync(out);
    Ok(())
}

fn refusal_of(mut fields: backend::ErrorFields<'_>) -> Refusal {
    // What can't be read of it is left out.
    let fields = std::iter::from_fn(move || {
        let field = fields.next().ok().flatten()?;
        Some((field.type_(), field.value_bytes().to_vec()))
    });
    Refusal::of_fields(fields)
}

fn not_ours(error: impl std::fmt::Display) -> WireError {
    WireError(format!(
        "what came is not of PostgreSQL's protocol: {error}"
    ))
}

fn unexpected(of: &str) -> WireError {
    WireError(format!("PostgreSQL answers what was not asked: a {of}"))
}

/// What asks a server for TLS: it answers one byte, `S` or `N`, before anything else.
pub fn ssl_request(out: &mut BytesMut) {
    frontend::ssl_request(out);
}

/// What a connection of its own sends to have a statement cancelled; `key` is of
/// [`Session::cancel_key`]. It has no answer.
pub fn cancel_request(key: (i32, i32), out: &mut BytesMut) {
    frontend::cancel_request(key.0, key.1, out);
}

#[cfg(test)]
mod tests;
