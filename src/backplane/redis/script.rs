//! The Lua scripts: their arguments and replies.
//!
//! | script | what |
//! |---|---|
//! | `publish.lua` | gives a call's messages their offsets, stores and tells them ([`publish`]) |
//! | `hello.lua` | is what is known still there; begins epochs ([`hello`]) |
//! | `trim.lua` | trims a stream that no group consumes |
//! | `lease.lua` | takes and renews the lease of an INSTANCE_ID |
//!
//! What each does, and what its arguments are, stands at its head. Here commands are written and
//! replies are checked: one that is not as the script makes it is [`ReplyError::Malformed`].
//! Nothing is decided here.

pub mod hello;
pub mod publish;

use bytes::Bytes;

use super::names::Names;
use crate::model::{EntryId, Epoch};
use crate::resp::{Command, Refusal, Value, push_command};

/// The scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Script {
    /// `publish.lua`
    Publish,
    /// `hello.lua`
    Hello,
    /// `trim.lua`
    Trim,
    /// `lease.lua`
    Lease,
}

impl Script {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Hello, Self::Trim, Self::Lease];

    /// Its text.
    pub fn source(self) -> &'static str {
        match self {
            Self::Publish => include_str!("publish.lua"),
            Self::Hello => include_str!("hello.lua"),
            Self::Trim => include_str!("trim.lua"),
            Self::Lease => include_str!("lease.lua"),
        }
    }

    /// Appends the command that has Redis keep it; the reply is the SHA-1 to call it by.
    pub fn push_load(self, out: &mut Vec<u8>) {
        push_command(out, &[b"SCRIPT", b"LOAD", self.source().as_bytes()]);
    }
}

/// Why there is no answer in a script's reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Redis refused, and nothing was done.
    #[error("{0}")]
    Refused(Refusal),
    /// The names are those of another number of partitions.
    #[error("the names in Redis are recorded for {0} partitions: set that, or another prefix")]
    Partitions(u16),
    /// No script of ours answers so.
    #[error("a script's reply is not understood: {0}")]
    Malformed(&'static str),
}

/// Begins the call of a script; `arguments` more must follow.
fn push_call<'a>(out: &'a mut Vec<u8>, sha: &[u8], keys: &[&str], arguments: usize) -> Command<'a> {
    let mut command = Command::new(out, 3 + keys.len() + arguments);
    command.arg(b"EVALSHA").arg(sha).number(keys.len() as u64);
    for key in keys {
        command.arg(key.as_bytes());
    }
    command
}

/// Appends a call of `trim.lua`. A `retention_ms` or `bytes_max` of 0 is no limit; at most
/// `entries_max` go by age and as many by size.
pub fn push_trim(
    out: &mut Vec<u8>,
    sha: &[u8],
    names: &Names,
    retention_ms: u64,
    bytes_max: u64,
    entries_max: u64,
) {
    let mut command = push_call(out, sha, &[&names.stream], 3);
    command.number(retention_ms).number(bytes_max);
    command.number(entries_max);
}

/// What `trim.lua` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trimmed {
    /// So many entries are gone.
    Entries(u64),
    /// A group consumes the stream: nothing was done.
    Consumed,
}

impl Trimmed {
    /// Reads a reply.
    pub fn decode(reply: Value) -> Result<Self, ReplyError> {
        match number(Some(reply))? {
            -1 => Ok(Self::Consumed),
            removed => Ok(Self::Entries(natural(removed)?)),
        }
    }
}

/// Appends a call of `lease.lua`: `lease` is [`Names::instance`].
pub fn push_lease(out: &mut Vec<u8>, sha: &[u8], lease: &str, nonce: &str, ttl_ms: u64) {
    let mut command = push_call(out, sha, &[lease], 2);
    command.arg(nonce.as_bytes()).number(ttl_ms);
}

/// What `lease.lua` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It is held by who asked, for the time asked.
    Held,
    /// Somebody else holds it.
    Other {
        /// The holder's.
        nonce: Bytes,
        /// What is left of it; `None`: it never ends.
        ttl_ms: Option<u64>,
    },
}

impl Lease {
    /// Reads a reply.
    pub fn decode(reply: Value) -> Result<Self, ReplyError> {
        let mut reply = list(reply)?.into_iter();
        let status = text(reply.next())?;
        let nonce = text(reply.next())?;
        let ttl_ms = u64::try_from(number(reply.next())?).ok();
        match &*status {
            b"held" => Ok(Self::Held),
            b"other" => Ok(Self::Other { nonce, ttl_ms }),
            _ => Err(ReplyError::Malformed(
                "a lease that is neither held nor another's",
            )),
        }
    }
}

fn list(value: Value) -> Result<Vec<Value>, ReplyError> {
    match value {
        Value::List(list) => Ok(list),
        other => Err(wrong(other, "no list")),
    }
}

fn text(value: Option<Value>) -> Result<Bytes, ReplyError> {
    match value {
        Some(Value::Text(text)) => Ok(text),
        Some(other) => Err(wrong(other, "no text where one belongs")),
        None => Err(ReplyError::Malformed("it is too short")),
    }
}

fn number(value: Option<Value>) -> Result<i64, ReplyError> {
    match value {
        Some(Value::Number(number)) => Ok(number),
        Some(other) => Err(wrong(other, "no number where one belongs")),
        None => Err(ReplyError::Malformed("it is too short")),
    }
}

fn natural(number: i64) -> Result<u64, ReplyError> {
    u64::try_from(number).map_err(|_| ReplyError::Malformed("a number below zero"))
}

fn entry(value: Option<Value>) -> Result<Option<EntryId>, ReplyError> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(&text).ok();
    let entry = text.and_then(EntryId::parse);
    entry
        .map(Some)
        .ok_or(ReplyError::Malformed("an entry id that is none"))
}

fn epoch(value: Option<Value>) -> Result<Epoch, ReplyError> {
    let text = text(value)?;
    let text = std::str::from_utf8(&text).ok();
    text.and_then(Epoch::parse)
        .ok_or(ReplyError::Malformed("an epoch that is none"))
}

/// An error says itself what is the matter.
fn wrong(value: Value, otherwise: &'static str) -> ReplyError {
    match value {
        Value::Error(refusal) => ReplyError::Refused(refusal),
        _ => ReplyError::Malformed(otherwise),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_commands() {
        let check = |out: Vec<u8>, want: &str| {
            let got = out.escape_ascii().to_string();
            assert_eq!(got.replace(r"\r\n", " "), want);
        };
        let names = Names::new("g", 0, 1);
        let mut out = vec![];
        push_trim(&mut out, b"abc", &names, 5, 0, 100);
        check(
            out,
            "*7 $7 EVALSHA $3 abc $1 1 $17 g:messages:stream $1 5 $1 0 $3 100 ",
        );
        let mut out = vec![];
        push_lease(&mut out, b"abc", &names.instance("a"), "me", 5000);
        check(
            out,
            "*6 $7 EVALSHA $3 abc $1 1 $12 g:instance:a $2 me $4 5000 ",
        );
        let mut out = vec![];
        Script::Lease.push_load(&mut out);
        assert!(out.starts_with(b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$"));
    }

    #[test]
    fn replies_are_checked() {
        let text = |text: &'static str| Value::Text(text.into());
        let refusal = Refusal::new("WRONGTYPE x");
        assert_eq!(Trimmed::decode(Value::Number(-1)), Ok(Trimmed::Consumed));
        assert_eq!(Trimmed::decode(Value::Number(7)), Ok(Trimmed::Entries(7)));
        assert!(Trimmed::decode(Value::Number(-2)).is_err());
        assert_eq!(
            Trimmed::decode(Value::Error(refusal.clone())),
            Err(ReplyError::Refused(refusal))
        );
        let lease = |parts| Lease::decode(Value::List(parts));
        let held = vec![text("held"), text(""), Value::Number(9)];
        assert_eq!(lease(held), Ok(Lease::Held));
        for (ttl, want) in [(9, Some(9)), (-1, None)] {
            let other = vec![text("other"), text("you"), Value::Number(ttl)];
            let nonce = "you".into();
            assert_eq!(
                lease(other),
                Ok(Lease::Other {
                    nonce,
                    ttl_ms: want
                })
            );
        }
        assert!(lease(vec![text("held"), text("")]).is_err());
        assert!(lease(vec![text("lost"), text(""), Value::Number(9)]).is_err());
        assert!(Lease::decode(Value::Nil).is_err());
    }
}
