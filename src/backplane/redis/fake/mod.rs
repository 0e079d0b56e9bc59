//! A Redis in memory, for tests: bytes in, bytes out, no I/O, its clock given.
//!
//! ```text
//! connect ─▶ on_bytes ─▶ wire: commands ─▶ run ─▶ data: keys      take ─▶ bytes
//!                                           ├──▶ models: the Lua scripts in Rust
//!                                           └──▶ subscribers' outputs
//! ```
//!
//! It is what the simulator of several instances talks to, so it does what a real one does where
//! that matters: the words of its errors, what a full output buffer leads to, what it remembers
//! when it comes back with less, which writes it refuses when it is full. It knows the commands
//! that ringcast uses and no more; options that nobody here uses are syntax errors. Scripts are
//! known by their text and run as models; `tests` runs the same commands through it and through a
//! real Redis, and compares.
//!
//! What differs on purpose: trimming is exact although asked for approximately, `MEMORY USAGE` is
//! a rough sum, and a script's SHA-1 is none.

mod commands;
mod data;
mod models;
mod streams;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use super::script::Script;
use data::Data;
use wire::{Reply, next_command};

/// See the module.
pub(crate) struct FakeRedis {
    data: Data,
    loaded: BTreeSet<usize>,
    connections: BTreeMap<u32, Connection>,
    last_connection: u32,
    pubsub_output_max: usize,
    password: Option<Vec<u8>>,
    refusal: Option<String>,
    /// How many replicas have all that was written.
    replicas: i64,
    counts: BTreeMap<String, u64>,
}

/// What a Redis had at some time: see [`FakeRedis::restore`].
#[derive(Clone)]
pub(crate) struct Snapshot(Data);

struct Connection {
    input: BytesMut,
    output: Vec<u8>,
    is_resp3: bool,
    is_known: bool,
    channels: BTreeSet<Bytes>,
}

/// Which writes are refused, and by what words; what one script has written already.
pub(crate) struct Guard {
    refusal: Option<String>,
    is_dirty: bool,
}

/// What a command does to the data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    /// Writes, but takes no memory.
    Write,
    /// Writes, and may take memory.
    Grow,
}

impl Guard {
    /// Whether a command of that kind may run. One that has run makes the script dirty: from then
    /// on a full Redis lets it go on.
    pub(crate) fn check(&mut self, kind: Kind) -> Result<(), String> {
        if kind == Kind::Read {
            return Ok(());
        }
        if let Some(refusal) = &self.refusal {
            let is_full = refusal.starts_with("OOM");
            if !is_full || (kind == Kind::Grow && !self.is_dirty) {
                return Err(refusal.clone());
            }
        }
        self.is_dirty = true;
        Ok(())
    }
}

/// What a command comes to, beside what it answers.
pub(crate) struct Context<'a> {
    pub(crate) data: &'a mut Data,
    pub(crate) guard: Guard,
    /// What it publishes: channel, message.
    pub(crate) published: Vec<(Bytes, Bytes)>,
}

impl FakeRedis {
    /// An empty one, in the year 1970.
    pub(crate) fn new() -> Self {
        Self {
            data: Data::default(),
            loaded: BTreeSet::new(),
            connections: BTreeMap::new(),
            last_connection: 0,
            pubsub_output_max: 32 << 20,
            password: None,
            refusal: None,
            replicas: 0,
            counts: BTreeMap::new(),
        }
    }

    /// The time, in ms since 1970. It may go back, as clocks do.
    pub(crate) fn set_now(&mut self, now_ms: u64) {
        self.data.now_ms = now_ms;
    }

    /// A new connection.
    pub(crate) fn connect(&mut self) -> u32 {
        self.last_connection += 1;
        let connection = Connection {
            input: BytesMut::new(),
            output: vec![],
            is_resp3: false,
            is_known: self.password.is_none(),
            channels: BTreeSet::new(),
        };
        self.connections.insert(self.last_connection, connection);
        self.last_connection
    }

    /// Bytes that came by a connection: parts of commands, or many. On one that is cut: nothing.
    pub(crate) fn on_bytes(&mut self, id: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.input.extend_from_slice(bytes);
        while let Some(connection) = self.connections.get_mut(&id) {
            match next_command(&mut connection.input) {
                Ok(None) => return,
                Ok(Some(command)) if command.is_empty() => {}
                Ok(Some(command)) => {
                    let reply = self.run(id, &command);
                    self.send(id, &reply);
                }
                Err(why) => {
                    // A real one says why and hangs up; the words are still to be had.
                    self.send(id, &Reply::Error(format!("ERR Protocol error: {why}")));
                    let output = self.take(id);
                    self.connections.remove(&id);
                    assert!(!output.is_empty(), "a test sent what no client does: {why}");
                    return;
                }
            }
        }
    }

    /// What it has to say on a connection since the last time.
    pub(crate) fn take(&mut self, id: u32) -> Vec<u8> {
        let connection = self.connections.get_mut(&id);
        connection.map_or(vec![], |connection| std::mem::take(&mut connection.output))
    }

    /// Whether the connection is there.
    pub(crate) fn is_open(&self, id: u32) -> bool {
        self.connections.contains_key(&id)
    }

    /// Cuts a connection, with what was not taken from it.
    pub(crate) fn kill(&mut self, id: u32) {
        self.connections.remove(&id);
    }

    /// The reply to a command of a connection of its own; `kind`: what it begins with.
    pub(crate) fn ask_apart(&mut self, command: &[u8], kind: &str) -> Vec<u8> {
        let id = self.connect();
        self.on_bytes(id, command);
        let reply = self.take(id);
        let text = String::from_utf8_lossy(&reply);
        assert!(text.starts_with(kind), "{text}");
        self.kill(id);
        reply
    }

    /// Bytes that may wait on a connection that subscribes, beyond which it is cut.
    pub(crate) fn set_pubsub_output_max(&mut self, bytes: usize) {
        self.pubsub_output_max = bytes;
    }

    /// Asks new connections for a password.
    pub(crate) fn set_password(&mut self, password: Option<&str>) {
        self.password = password.map(|text| text.as_bytes().to_vec());
    }

    /// Refuses writes with that error until told otherwise. `OOM …` refuses those that take
    /// memory, `LOADING …` everything but HELLO, any other (`READONLY …`, `MISCONF …`) all writes.
    pub(crate) fn refuse_writes(&mut self, refusal: Option<&str>) {
        self.refusal = refusal.map(Into::into);
    }

    /// So many replicas have all that is written. `WAIT` does not wait for more.
    pub(crate) fn set_replicas(&mut self, replicas: i64) {
        self.replicas = replicas;
    }

    /// What it holds now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.data.clone())
    }

    /// It goes, and comes back with what it had then: connections are cut, scripts forgotten.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) {
        self.replace(snapshot);
        self.loaded.clear();
        self.connections.clear();
    }

    /// Another takes its place, with what it had then, and no connection breaks: a replica that
    /// is promoted, behind a proxy that speaks Redis.
    pub(crate) fn replace(&mut self, snapshot: &Snapshot) {
        let now_ms = self.data.now_ms;
        self.data = snapshot.0.clone();
        self.data.now_ms = now_ms;
    }

    /// FLUSHALL.
    pub(crate) fn flush(&mut self) {
        self.data.clear();
    }

    /// How often a command was run: `"XRANGE"`; a script: `"publish.lua"`.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// The data, for tests that look into it.
    pub(crate) fn data(&mut self) -> &mut Data {
        &mut self.data
    }

    fn send(&mut self, id: u32, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            reply.push(&mut connection.output, connection.is_resp3);
        }
    }

    fn run(&mut self, id: u32, command: &[Bytes]) -> Reply {
        let name = String::from_utf8_lossy(&command[0]).to_ascii_uppercase();
        let Some(&(_, arity, kind)) = commands::COMMANDS.iter().find(|(is, ..)| *is == name) else {
            return Reply::Error(commands::unknown(command));
        };
        *self.counts.entry(name.clone()).or_default() += 1;
        if command.len() < arity.unsigned_abs() || (arity > 0 && command.len() > arity as usize) {
            return Reply::Error(commands::wrong_number(&name));
        }
        self.run_known(id, &name, kind, &command[1..])
            .unwrap_or_else(Reply::Error)
    }

    fn run_known(
        &mut self,
        id: u32,
        name: &str,
        kind: Kind,
        args: &[Bytes],
    ) -> Result<Reply, String> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err("ERR the connection is gone".into());
        };
        if !connection.is_known && !matches!(name, "AUTH" | "HELLO") {
            return Err("NOAUTH Authentication required.".into());
        }
        if let Some(refusal) = &self.refusal
            && refusal.starts_with("LOADING")
            && name != "HELLO"
        {
            return Err(refusal.clone());
        }
        let is_subscribed = !connection.is_resp3 && !connection.channels.is_empty();
        if is_subscribed && !matches!(name, "SUBSCRIBE" | "UNSUBSCRIBE" | "PING") {
            return Err(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
                 RESET are allowed in this context",
                name.to_ascii_lowercase()
            ));
        }
        match name {
            "HELLO" => self.hello(id, args),
            "AUTH" => self.login(id, &args[args.len() - 1]),
            "SELECT" if &*args[0] == b"0" => Ok(Reply::OK),
            "SELECT" => Err("ERR DB index is out of range".into()),
            "CLIENT" if args[0].eq_ignore_ascii_case(b"ID") => Ok(Reply::Number(id.into())),
            "CLIENT" => Ok(Reply::OK),
            "PING" if is_subscribed => Ok(Reply::texts(["pong", ""])),
            "PING" => Ok(args.first().map_or(Reply::Simple("PONG"), Reply::bulk)),
            "SUBSCRIBE" | "UNSUBSCRIBE" => Ok(self.subscribe(id, name, args)),
            "SCRIPT" => self.load(args),
            "WAIT" => Ok(Reply::Number(self.replicas)),
            _ => self.run_on_data(name, kind, args),
        }
    }

    fn run_on_data(&mut self, name: &str, kind: Kind, args: &[Bytes]) -> Result<Reply, String> {
        let script = match name {
            "EVALSHA" => Some(self.script_of_sha(&args[0])?),
            "EVAL" => Some(script_of_text(&args[0])?),
            _ => None,
        };
        let mut context = Context {
            data: &mut self.data,
            guard: Guard {
                refusal: self.refusal.clone(),
                is_dirty: false,
            },
            published: vec![],
        };
        let reply = match script {
            Some(script) => {
                let name = ["publish.lua", "hello.lua", "trim.lua", "lease.lua"][script as usize];
                *self.counts.entry(name.into()).or_default() += 1;
                models::run(&mut context, script, &args[1..])
            }
            None => {
                context.guard.check(kind)?;
                commands::run(&mut context, name, args)
            }
        };
        let published = context.published;
        let mut receivers = 0;
        for (channel, message) in &published {
            receivers = self.publish(channel, message);
        }
        if name == "PUBLISH" {
            return Ok(Reply::Number(receivers));
        }
        reply
    }

    fn publish(&mut self, channel: &Bytes, message: &Bytes) -> i64 {
        let parts = ["message".into(), channel.clone(), message.clone()];
        let push = Reply::Push(parts.iter().map(Reply::bulk).collect());
        let mut receivers = 0;
        let limit = self.pubsub_output_max;
        self.connections.retain(|_, connection| {
            if connection.channels.contains(channel) {
                receivers += 1;
                push.push(&mut connection.output, connection.is_resp3);
            }
            connection.channels.is_empty() || connection.output.len() <= limit
        });
        receivers
    }

    fn subscribe(&mut self, id: u32, name: &str, args: &[Bytes]) -> Reply {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Reply::Several(vec![]);
        };
        let mut channels: Vec<Option<Bytes>> = args.iter().cloned().map(Some).collect();
        if channels.is_empty() {
            channels = connection.channels.iter().cloned().map(Some).collect();
        }
        if channels.is_empty() {
            channels.push(None);
        }
        let kind = Bytes::from(name.to_ascii_lowercase());
        let told = channels.into_iter().map(|channel| {
            if let Some(channel) = &channel {
                if name == "SUBSCRIBE" {
                    connection.channels.insert(channel.clone());
                } else {
                    connection.channels.remove(channel);
                }
            }
            Reply::Push(vec![
                Reply::bulk(&kind),
                channel.as_ref().map_or(Reply::Nil, Reply::bulk),
                Reply::Number(connection.channels.len() as i64),
            ])
        });
        Reply::Several(told.collect())
    }

    fn login(&mut self, id: u32, password: &[u8]) -> Result<Reply, String> {
        match (&self.password, self.connections.get_mut(&id)) {
            (None, _) => Err(
                "ERR AUTH <password> called without any password configured for the \
                              default user. Are you sure your configuration is correct?"
                    .into(),
            ),
            (Some(want), Some(connection)) if want == password => {
                connection.is_known = true;
                Ok(Reply::OK)
            }
            _ => Err("WRONGPASS invalid username-password pair or user is disabled.".into()),
        }
    }

    /// `HELLO [version [AUTH user password] [SETNAME name]]`
    fn hello(&mut self, id: u32, args: &[Bytes]) -> Result<Reply, String> {
        let version = match args.first().map(|version| &**version) {
            None => None,
            Some(b"2") => Some(false),
            Some(b"3") => Some(true),
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
        };
        let mut rest = args.get(1..).unwrap_or_default();
        while let Some((option, more)) = rest.split_first() {
            rest = match more {
                [_, password, rest @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                    self.login(id, password)?;
                    rest
                }
                [_, rest @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => rest,
                _ => return Err("ERR Syntax error in HELLO".into()),
            };
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err("ERR the connection is gone".into());
        };
        if !connection.is_known {
            return Err(
                "NOAUTH HELLO must be called with the client already authenticated, \
                        otherwise the HELLO <proto> AUTH <user> <pass> option can be used to \
                        authenticate the client and select the RESP protocol version at the same \
                        time"
                    .into(),
            );
        }
        connection.is_resp3 = version.unwrap_or(connection.is_resp3);
        let proto = if connection.is_resp3 { 3 } else { 2 };
        Ok(Reply::Map(vec![
            (Reply::text("server"), Reply::text("redis")),
            (Reply::text("version"), Reply::text(commands::VERSION)),
            (Reply::text("proto"), Reply::Number(proto)),
            (Reply::text("id"), Reply::Number(id.into())),
            (Reply::text("mode"), Reply::text("standalone")),
            (Reply::text("role"), Reply::text("master")),
            (Reply::text("modules"), Reply::List(vec![])),
        ]))
    }

    fn load(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        match args {
            [load, text] if load.eq_ignore_ascii_case(b"LOAD") => {
                let script = script_of_text(text)?;
                self.loaded.insert(script as usize);
                Ok(Reply::text(&sha_of(script)))
            }
            [flush, ..] if flush.eq_ignore_ascii_case(b"FLUSH") => {
                self.loaded.clear();
                Ok(Reply::OK)
            }
            _ => Err("ERR only SCRIPT LOAD and FLUSH are known here".into()),
        }
    }

    fn script_of_sha(&self, sha: &[u8]) -> Result<Script, String> {
        let mut scripts = Script::ALL.into_iter();
        scripts
            .find(|&script| {
                self.loaded.contains(&(script as usize)) && sha_of(script).as_bytes() == sha
            })
            .ok_or_else(|| "NOSCRIPT No matching script. Please use EVAL.".into())
    }
}

fn script_of_text(text: &[u8]) -> Result<Script, String> {
    let mut scripts = Script::ALL.into_iter();
    scripts
        .find(|script| script.source().as_bytes() == text)
        .ok_or_else(|| "ERR this script has no model".into())
}

fn sha_of(script: Script) -> String {
    format!("{:040x}", script as usize + 1)
}

#[cfg(test)]
mod tests;
