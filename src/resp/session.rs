//! The state of one connection to Redis. No I/O: bytes in, inputs out.
//!
//! ```text
//! begin ─▶ HELLO 3 AUTH u p SETNAME n ─▶ [SELECT db] ─▶ Ready: replies and pushes, as they come
//!              │ not known there (Redis 5, proxies)
//!              └▶ [AUTH] ─▶ CLIENT SETNAME ─▶ [SELECT db] ─▶ Ready (RESP2)
//! ```
//!
//! - Nothing of the caller's is sent before [`Input::Ready`]; then replies come in the order of the
//!   commands, one each, pushes between them. `SUBSCRIBE` and its like have no reply but
//!   [`Input::Subscribed`].
//! - In RESP2 a message is an array like any other, so only a [`Kind::Subscriber`] takes it for
//!   one; its `PING` is answered by the array `pong ""`, which is a [`Input::Reply`].
//! - What a session gives does not depend on where reads cut the bytes.
//! - After [`Input::Refused`] and after a [`WireError`] nothing more comes: close the connection.

use bytes::{Bytes, BytesMut};

use super::command::{Command, push_command};
use super::frame::{Frame, Gauge, WireError};
use super::message;
use super::refusal::{Cause, Refusal};
use super::value::Value;

/// As whom to be at a Redis. Its `Debug` does not show the password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; none: the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database.
    pub database: u32,
    /// What `CLIENT LIST` is to show.
    pub name: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("name", &self.name)
            .finish()
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Commands and their replies.
    Commands,
    /// Channels and their messages.
    Subscriber,
}

/// What a connection gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Logged in: commands may be sent.
    Ready {
        /// The version of Redis, where it says so.
        version: Option<String>,
        /// `master` or `replica`, where it says so.
        role: Option<String>,
        /// Whether RESP3 was agreed.
        resp3: bool,
    },
    /// Login failed.
    Refused(Refusal),
    /// The reply to the oldest command without one.
    Reply(Value),
    /// A message of a channel.
    Message {
        /// The channel.
        channel: Bytes,
        /// What was published.
        payload: Bytes,
    },
    /// The channel is subscribed.
    Subscribed(Bytes),
    /// The channel is not subscribed any more, whether that was asked for or not: a Redis Cluster
    /// does it to a sharded channel whose slot moves.
    Unsubscribed(Bytes),
}

/// Whose reply comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Hello,
    Auth,
    SetName,
    Select,
    Ready,
    Refused,
    /// There was a [`WireError`].
    Broken,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    login: Login,
    kind: Kind,
    phase: Phase,
    resp3: bool,
    version: Option<String>,
    role: Option<String>,
    mode: Option<String>,
    buffer: BytesMut,
    gauge: Gauge,
}

impl Session {
    /// The session of a connection that is being made.
    pub fn new(login: Login, kind: Kind) -> Self {
        Self {
            login,
            kind,
            phase: Phase::New,
            resp3: false,
            version: None,
            role: None,
            mode: None,
            buffer: BytesMut::new(),
            gauge: Gauge::default(),
        }
    }

    /// Whether commands may be sent.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether RESP3 was agreed.
    pub fn is_resp3(&self) -> bool {
        self.resp3
    }

    /// `standalone`, `cluster` or `sentinel`, where it says so (RESP3).
    pub fn mode(&self) -> Option<&str> {
        self.mode.as_deref()
    }

    /// Appends what is sent first. Once, when connected.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        debug_assert!(self.phase == Phase::New, "a session begins once");
        self.phase = Phase::Hello;
        let name = sendable(&self.login.name);
        let user = self.login.user.as_deref().unwrap_or("default");
        let password = self.login.password.as_deref();
        let argc = 2 + if password.is_some() { 3 } else { 0 } + if name.is_empty() { 0 } else { 2 };
        let mut hello = Command::new(out, argc);
        hello.arg(b"HELLO").arg(b"3");
        if let Some(password) = password {
            hello
                .arg(b"AUTH")
                .arg(user.as_bytes())
                .arg(password.as_bytes());
        }
        if !name.is_empty() {
            hello.arg(b"SETNAME").arg(name.as_bytes());
        }
    }

    /// Takes all of `bytes`; appends what must be sent now to `out`, and what came to `inputs`.
    ///
    /// # Errors
    /// What came is not Redis's protocol or goes beyond its limits; `inputs` has what came before.
    pub fn on_bytes(
        &mut self,
        bytes: &mut BytesMut,
        out: &mut Vec<u8>,
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
        while self.phase != Phase::Refused {
            if self.buffer.is_empty() {
                return Ok(());
            }
            if self.phase == Phase::Ready
                && (self.resp3 || self.kind == Kind::Subscriber)
                && self.gauge.is_fresh()
                && let Some((channel, payload)) = message::take(&mut self.buffer, self.resp3)
            {
                inputs.push(Input::Message { channel, payload });
                continue;
            }
            match self.gauge.next(&mut self.buffer) {
                Ok(Some(frame)) => self.on_frame(frame, out, inputs),
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.phase = Phase::Broken;
                    self.buffer = BytesMut::new();
                    return Err(error);
                }
            }
        }
        self.buffer = BytesMut::new();
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame, out: &mut Vec<u8>, inputs: &mut Vec<Input>) {
        let Frame { value, is_push } = frame;
        let may_be_push = is_push || (!self.resp3 && self.kind == Kind::Subscriber);
        match self.phase {
            Phase::Ready => match value {
                Value::List(list) if may_be_push => match pushed(list) {
                    Ok(input) => inputs.push(input),
                    // Pushes of other kinds are nobody's here.
                    Err(_) if is_push => {}
                    Err(list) => inputs.push(Input::Reply(Value::List(list))),
                },
                value => inputs.push(Input::Reply(value)),
            },
            _ if is_push => {}
            _ => self.on_login(value, out, inputs),
        }
    }

    /// A reply before the session is ready.
    fn on_login(&mut self, value: Value, out: &mut Vec<u8>, inputs: &mut Vec<Input>) {
        let refusal = match value {
            Value::Error(refusal) => refusal,
            value => {
                if self.phase == Phase::Hello {
                    self.resp3 = true;
                    self.on_hello(&value);
                }
                return self.go_on(out, inputs);
            }
        };
        let has_password = self.login.password.is_some();
        match (self.phase, refusal.cause) {
            // An older Redis or a proxy: what HELLO would have done is done one by one.
            (Phase::Hello, Cause::Other | Cause::NoPerm) => self.go_on(out, inputs),
            (Phase::Hello, Cause::NoAuth) if has_password => self.go_on(out, inputs),
            // The name is for people only.
            (Phase::SetName, _) => self.go_on(out, inputs),
            // There is no password where one is given: as good as having given the right one.
            (Phase::Auth, Cause::Other) if is_needless(&refusal.text) => self.go_on(out, inputs),
            _ => {
                self.phase = Phase::Refused;
                inputs.push(Input::Refused(refusal));
            }
        }
    }

    /// What HELLO says of the server: pairs of names and values.
    fn on_hello(&mut self, value: &Value) {
        for pair in value.as_list().unwrap_or_default().chunks_exact(2) {
            match pair[0].as_text().map(|name| &name[..]) {
                Some(b"version") => self.version = pair[1].to_text(),
                Some(b"mode") => self.mode = pair[1].to_text(),
                Some(b"role") => self.role = pair[1].to_text(),
                _ => {}
            }
        }
    }

    /// Sends what comes after the phase that has ended well (or need not have).
    fn go_on(&mut self, out: &mut Vec<u8>, inputs: &mut Vec<Input>) {
        let login = &self.login;
        loop {
            self.phase = match self.phase {
                Phase::Hello if !self.resp3 => Phase::Auth,
                Phase::Auth => Phase::SetName,
                Phase::Hello | Phase::SetName => Phase::Select,
                _ => Phase::Ready,
            };
            let name = sendable(&login.name);
            match (self.phase, &login.password, &login.user) {
                (Phase::Auth, Some(password), Some(user)) => {
                    push_command(out, &[b"AUTH", user.as_bytes(), password.as_bytes()]);
                }
                (Phase::Auth, Some(password), None) => {
                    push_command(out, &[b"AUTH", password.as_bytes()]);
                }
                (Phase::SetName, ..) if !name.is_empty() => {
                    push_command(out, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
                }
                (Phase::Select, ..) if login.database != 0 => {
                    let mut select = Command::new(out, 2);
                    select.arg(b"SELECT").number(login.database.into());
                }
                (Phase::Ready, ..) => {
                    inputs.push(Input::Ready {
                        version: self.version.take(),
                        role: self.role.take(),
                        resp3: self.resp3,
                    });
                }
                _ => continue,
            }
            return;
        }
    }
}

/// A name as Redis takes it: printable, without blanks.
fn sendable(name: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '-' };
    name.chars().map(printable).collect()
}

/// Whether AUTH failed only because the user has no password.
fn is_needless(text: &str) -> bool {
    text.contains("without any password configured") || text.contains("no password is set")
}

/// What a push says, if it is of Pub/Sub; else it as it came.
fn pushed(list: Vec<Value>) -> Result<Input, Vec<Value>> {
    use Value::Text;
    let Some(Text(word)) = list.first() else {
        return Err(list);
    };
    Ok(match (&word[..], &list[1..]) {
        (b"message" | b"smessage", [Text(channel), Text(payload)])
        | (b"pmessage", [_, Text(channel), Text(payload)]) => Input::Message {
            channel: channel.clone(),
            payload: payload.clone(),
        },
        (b"subscribe" | b"ssubscribe" | b"psubscribe", [Text(channel), _]) => {
            Input::Subscribed(channel.clone())
        }
        (b"unsubscribe" | b"sunsubscribe" | b"punsubscribe", [channel, _]) => {
            // Of all, and there was none: it has no name.
            Input::Unsubscribed(channel.as_text().cloned().unwrap_or_default())
        }
        _ => return Err(list),
    })
}

#[cfg(test)]
mod tests;
