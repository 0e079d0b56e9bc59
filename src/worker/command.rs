//! What a worker asks of Redis, and what it is answered: values <-> commands and replies.
//!
//! Not here: connections, and what to do with an answer.

use uuid::Uuid;

use super::row::{self, Refused, Row, namespace};
use crate::model::EntryId;
use crate::model::limits::{CLAIM_ENTRIES_MAX, CLAIM_IDLE_MS, CONSUME_BLOCK_MS, TRIM_ENTRIES_MAX};
use crate::resp::{Cause, Command, Refusal, Value, push_command};

const KEEP: &[u8] = include_bytes!("keep.lua");
const SET_ASIDE: &[u8] = include_bytes!("set_aside.lua");
const PEEK: &[u8] = include_bytes!("peek.lua");
/// The consumer group of all workers (PROTOCOL 5).
pub(super) const GROUP: &str = "persist-workers";

/// The stream that is consumed, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// The stream of the dead.
    pub dead: String,
    /// This consumer's name.
    pub consumer: String,
    /// What of it stays at least, in ms; 0: all.
    pub retention_ms: u64,
    pub(super) namespace: Uuid,
}

impl Stream {
    /// The stream of that name.
    pub fn new(name: String, dead: String, consumer: String, retention_ms: u64) -> Self {
        Self {
            namespace: namespace(&name),
            name,
            dead,
            consumer,
            retention_ms,
        }
    }

    /// The namespace of its entries' ids.
    pub fn namespace(&self) -> &Uuid {
        &self.namespace
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The group be there, at the beginning of the stream.
    Group,
    /// Own pending entries behind that one.
    Own {
        /// The last one known.
        after: EntryId,
        /// Entries at most.
        count: usize,
    },
    /// Entries that nobody has read; waits for one.
    New {
        /// Entries at most.
        count: usize,
    },
    /// The first own pending entry behind that one, and not what is in it.
    Peek {
        /// The last one known.
        after: EntryId,
    },
    /// Be heard of, take over, trim, count.
    Keep {
        /// Whether consumers that are not heard of are dead.
        may_claim: bool,
    },
    /// These are stored.
    Ack(Vec<EntryId>),
    /// These can't be.
    SetAside(Vec<Refused>),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The group is there; whether it was not before.
    Group(bool),
    /// Entries in the order of the stream: each as a row, or refused, or gone from the stream.
    Entries(Vec<(EntryId, Option<Result<Row, Refused>>)>),
    /// The entry, if there is one, and how many bytes a reply with it has at most.
    Peeked(Option<(EntryId, u64)>),
    /// See [`Kept`].
    Kept(Kept),
    /// So many.
    Done(u64),
}

/// What `keep.lua` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Entries pending with any worker.
    pub pending: u64,
    /// Entries that no worker has read.
    pub lag: u64,
    /// How long ago the oldest of both was added, in ms; 0 if there is none.
    pub oldest_ms: u64,
    /// Entries that were set aside.
    pub dead: u64,
    /// Entries that were taken over.
    pub claimed: u64,
    /// Entries that were trimmed.
    pub trimmed: u64,
    /// Consumers that were removed.
    pub removed: u64,
}

/// Appends the command of an ask.
pub fn encode(stream: &Stream, ask: &Ask, out: &mut Vec<u8>) {
    let (name, group) = (stream.name.as_bytes(), GROUP.as_bytes());
    let (consumer, dead) = (stream.consumer.as_bytes(), stream.dead.as_bytes());
    match ask {
        Ask::Group => push_command(out, &[b"XGROUP", b"CREATE", name, group, b"0", b"MKSTREAM"]),
        Ask::Own { after, count } => {
            let mut command = read(stream, 9, *count, out);
            command.arg(b"STREAMS").arg(name);
            command.arg(after.to_string().as_bytes());
        }
        Ask::New { count } => {
            let mut command = read(stream, 11, *count, out);
            command.arg(b"BLOCK").number(CONSUME_BLOCK_MS);
            command.arg(b"STREAMS").arg(name).arg(b">");
        }
        Ask::Peek { after } => {
            let after = after.to_string();
            push_command(
                out,
                &[b"EVAL", PEEK, b"1", name, group, consumer, after.as_bytes()],
            );
        }
        Ask::Keep { may_claim } => {
            let mut command = Command::new(out, 11);
            command.arg(b"EVAL").arg(KEEP).arg(b"2").arg(name).arg(dead);
            command.arg(group).arg(consumer);
            command.number(if *may_claim { CLAIM_IDLE_MS } else { 0 });
            command.number(CLAIM_ENTRIES_MAX as u64);
            command.number(stream.retention_ms).number(TRIM_ENTRIES_MAX);
        }
        Ask::Ack(entries) => {
            let mut command = Command::new(out, 3 + entries.len());
            command.arg(b"XACK").arg(name).arg(group);
            for entry in entries {
                command.arg(entry.to_string().as_bytes());
            }
        }
        Ask::SetAside(entries) => {
            let mut command = Command::new(out, 6 + 3 * entries.len());
            command
                .arg(b"EVAL")
                .arg(SET_ASIDE)
                .arg(b"2")
                .arg(name)
                .arg(dead);
            command.arg(group);
            for Refused {
                entry,
                sqlstate,
                reason,
            } in entries
            {
                command.arg(entry.to_string().as_bytes());
                command.arg(sqlstate.as_bytes()).arg(reason.as_bytes());
            }
        }
    }
}

/// Begins a command of so many words that reads `count` entries as the group's consumer.
fn read<'a>(stream: &Stream, words: usize, count: usize, out: &'a mut Vec<u8>) -> Command<'a> {
    let mut command = Command::new(out, words);
    command
        .arg(b"XREADGROUP")
        .arg(b"GROUP")
        .arg(GROUP.as_bytes());
    command.arg(stream.consumer.as_bytes());
    command.arg(b"COUNT").number(count as u64);
    command
}

/// What the reply to an ask says.
///
/// # Errors
/// Redis refuses, or answers what it should not.
pub fn decode(stream: &Stream, ask: &Ask, value: &Value) -> Result<Reply, Refusal> {
    if let Value::Error(refusal) = value {
        return match (ask, refusal.cause) {
            (Ask::Group, Cause::BusyGroup) => Ok(Reply::Group(false)),
            _ => Err(refusal.clone()),
        };
    }
    let odd = || Refusal::new("ERR a reply that is none to what was asked");
    let number = || value.as_number().and_then(|n| u64::try_from(n).ok());
    match ask {
        Ask::Group => Ok(Reply::Group(true)),
        Ask::Own { .. } | Ask::New { .. } => entries(stream, value).ok_or_else(odd),
        Ask::Peek { .. } => {
            let found = match value.as_list().ok_or_else(odd)? {
                [id, bytes] => {
                    let bytes = bytes.as_number().and_then(|n| u64::try_from(n).ok());
                    Some((entry_id(id).ok_or_else(odd)?, bytes.ok_or_else(odd)?))
                }
                _ => None,
            };
            Ok(Reply::Peeked(found))
        }
        Ask::Keep { .. } => kept(value).map(Reply::Kept).ok_or_else(odd),
        Ask::Ack(_) | Ask::SetAside(_) => number().map(Reply::Done).ok_or_else(odd),
    }
}

/// `[[stream, [[id, [name, value, …]], …]]]`, or by RESP3 `[stream, [[id, …], …]]`.
fn entries(stream: &Stream, value: &Value) -> Option<Reply> {
    let list = match value {
        Value::Nil => return Some(Reply::Entries(Vec::new())),
        value => value.as_list()?,
    };
    let of_stream = match list {
        [Value::List(of_stream)] => &of_stream[..],
        flat => flat,
    };
    let [_, Value::List(list)] = of_stream else {
        return None;
    };
    let read = |one: &Value| {
        let [id, fields] = one.as_list()? else {
            return None;
        };
        let id = entry_id(id)?;
        let fields = fields.as_list();
        Some((
            id,
            fields.map(|fields| row::read(&stream.namespace, id, fields)),
        ))
    };
    list.iter()
        .map(read)
        .collect::<Option<_>>()
        .map(Reply::Entries)
}

pub(super) fn entry_id(value: &Value) -> Option<EntryId> {
    EntryId::parse(std::str::from_utf8(value.as_text()?).ok()?)
}

fn kept(value: &Value) -> Option<Kept> {
    let numbers = value.as_list()?.iter();
    let numbers: Option<Vec<u64>> = numbers
        .map(|value| u64::try_from(value.as_number()?).ok())
        .collect();
    let [pending, lag, oldest, now, dead, claimed, trimmed, removed] = numbers?[..] else {
        return None;
    };
    let oldest_ms = if oldest == 0 {
        0
    } else {
        now.saturating_sub(oldest)
    };
    Some(Kept {
        pending,
        lag,
        oldest_ms,
        dead,
        claimed,
        trimmed,
        removed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new("s".into(), "d".into(), "c".into(), 5)
    }

    fn text(text: &str) -> Value {
        Value::Text(bytes::Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn commands_are_what_redis_takes() {
        let entry = EntryId { ms: 7, n: 1 };
        let check = |ask: Ask, want: &str| {
            let mut out = Vec::new();
            encode(&stream(), &ask, &mut out);
            let words: Vec<_> = std::str::from_utf8(&out).unwrap().split("\r\n").collect();
            let words = words.iter().filter(|word| !word.starts_with(['*', '$']));
            let words: Vec<_> = words.copied().filter(|word| !word.is_empty()).collect();
            let line = words.join(" ");
            assert!(line.ends_with(want), "{line}");
        };
        check(Ask::Group, "XGROUP CREATE s persist-workers 0 MKSTREAM");
        check(
            Ask::Own {
                after: entry,
                count: 9,
            },
            "XREADGROUP GROUP persist-workers c COUNT 9 STREAMS s 7-1",
        );
        check(
            Ask::New { count: 9 },
            "XREADGROUP GROUP persist-workers c COUNT 9 BLOCK 1000 STREAMS s >",
        );
        check(Ask::Peek { after: entry }, "1 s persist-workers c 7-1");
        check(Ask::Ack(vec![entry; 2]), "XACK s persist-workers 7-1 7-1");
        check(
            Ask::Keep { may_claim: true },
            "2 s d persist-workers c 15000 1000 5 100000",
        );
        let refused = Refused {
            entry,
            sqlstate: "22P05".into(),
            reason: "why".into(),
        };
        check(
            Ask::SetAside(vec![refused]),
            "2 s d persist-workers 7-1 22P05 why",
        );
    }

    #[test]
    fn replies_are_read_by_either_protocol() {
        let fields = ["room_name", "r", "payload", "1"].map(text).to_vec();
        let entry = Value::List(vec![text("7-1"), Value::List(fields)]);
        let gone = Value::List(vec![text("7-2"), Value::Nil]);
        let flat = vec![text("s"), Value::List(vec![entry, gone])];
        let ask = Ask::New { count: 1 };
        let resp3 = decode(&stream(), &ask, &Value::List(flat.clone())).unwrap();
        let resp2 = Value::List(vec![Value::List(flat)]);
        assert_eq!(decode(&stream(), &ask, &resp2).unwrap(), resp3);
        let Reply::Entries(entries) = resp3 else {
            panic!("{resp3:?}");
        };
        let row = entries[0].1.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(row.room.as_str(), "r");
        assert_eq!((entries[1].0.n, &entries[1].1), (2, &None));
        let none = decode(&stream(), &ask, &Value::Nil).unwrap();
        assert_eq!(none, Reply::Entries(vec![]));
    }

    #[test]
    fn the_rest_of_the_replies() {
        let stream = stream();
        let busy = Value::Error(Refusal::new("BUSYGROUP there"));
        assert_eq!(decode(&stream, &Ask::Group, &busy), Ok(Reply::Group(false)));
        let gone = Value::Error(Refusal::new("NOGROUP No such key"));
        let refusal = decode(&stream, &Ask::New { count: 1 }, &gone).unwrap_err();
        assert_eq!(refusal.cause, Cause::NoGroup);
        let ack = Ask::Ack(vec![]);
        assert_eq!(decode(&stream, &ack, &Value::Number(3)), Ok(Reply::Done(3)));
        assert!(decode(&stream, &ack, &text("x")).is_err());
        let numbers = [2, 3, 1_000, 1_700, 4, 5, 6, 7].map(Value::Number);
        let keep = Ask::Keep { may_claim: false };
        let kept = decode(&stream, &keep, &Value::List(numbers.to_vec()));
        let Ok(Reply::Kept(kept)) = kept else {
            panic!("{kept:?}");
        };
        assert_eq!((kept.pending, kept.lag, kept.oldest_ms), (2, 3, 700));
        assert_eq!((kept.dead, kept.claimed, kept.removed), (4, 5, 7));
        let peek = Ask::Peek {
            after: EntryId::default(),
        };
        let list = Value::List(vec![text("7-1"), Value::Number(9)]);
        let found = Some((EntryId { ms: 7, n: 1 }, 9));
        assert_eq!(decode(&stream, &peek, &list), Ok(Reply::Peeked(found)));
        let none = decode(&stream, &peek, &Value::List(vec![]));
        assert_eq!(none, Ok(Reply::Peeked(None)));
    }
}
