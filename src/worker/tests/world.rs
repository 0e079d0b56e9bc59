//! A Redis and a PostgreSQL as far as a worker sees them, and as wicked as they may be.
//!
//! Redis is a stream, a group and its pending entries. PostgreSQL is a table by key and the sums of
//! its deltas; it takes a request as a whole or not at all, and may be cut off before or after. It
//! reads what the encoder wrote, so the bytes of COPY are looked at too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::command::{Ask, Kept, Reply};
use super::{fields, row_of};
use crate::model::EntryId;
use crate::model::limits::CLAIM_IDLE_MS;
use crate::pg::{Answer, Refusal as PgRefusal, Request};
use crate::resp::Refusal;
use crate::worker::Refused;
use crate::worker::copy::COPY_MESSAGES;

/// What an entry is to PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    /// Refused, and seen to be doubtful before.
    Doubtful,
    /// Refused, and nothing showed it.
    Hidden,
    /// Not even a row.
    Malformed,
    /// No reply brings it.
    Large,
}

/// What hidden poison has as its payload: the fake table refuses it.
const POISON: &str = "\"hidden poison\"";

impl Kind {
    fn fields(self, n: u64) -> Vec<(String, String)> {
        match self {
            Self::Good | Self::Large => fields(n, "1"),
            Self::Doubtful => fields(n, "\"\\u0000\""),
            Self::Hidden => fields(n, POISON),
            Self::Malformed => fields(n, "1").split_off(1),
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct World {
    pub(super) stream: BTreeMap<EntryId, Kind>,
    last_delivered: EntryId,
    /// Whose each pending entry is.
    pub(super) pending: BTreeMap<EntryId, String>,
    /// When each consumer was last heard of.
    heard: HashMap<String, u64>,
    pub(super) dead: Vec<EntryId>,
    pub(super) has_group: bool,
    /// Rows by room and id, with the entry that made them.
    pub(super) rows: BTreeMap<(String, u128), EntryId>,
    /// Rows by room, as the deltas have it.
    pub(super) counts: BTreeMap<String, i64>,
    pub(super) deliveries: BTreeMap<EntryId, u32>,
    /// Whether the last reply was larger than may be.
    pub(super) is_overfull: bool,
}

impl World {
    pub(super) fn add(&mut self, n: u64, kind: Kind) {
        self.stream.insert(EntryId { ms: n, n: 0 }, kind);
    }

    /// Redis answers.
    pub(super) fn redis(&mut self, now: u64, me: &str, ask: &Ask) -> Result<Reply, Refusal> {
        if !self.has_group && *ask != Ask::Group {
            return match ask {
                Ask::Ack(_) | Ask::SetAside(_) => Ok(Reply::Done(0)),
                _ => Err(Refusal::new("NOGROUP No such key")),
            };
        }
        if !matches!(ask, Ask::Ack(_) | Ask::SetAside(_) | Ask::Group) {
            self.heard.insert(me.to_owned(), now);
        }
        Ok(match ask {
            Ask::Group => Reply::Group(!std::mem::replace(&mut self.has_group, true)),
            Ask::Own { after, count } => {
                let own = self
                    .pending
                    .iter()
                    .filter(|(id, of)| *of == me && **id > *after);
                let ids: Vec<_> = own.map(|(id, _)| *id).take(*count).collect();
                self.deliver(&ids)
            }
            Ask::New { count } => {
                let new = self.stream.range(self.last_delivered.next()..);
                let ids: Vec<_> = new.map(|(id, _)| *id).take(*count).collect();
                for id in &ids {
                    self.last_delivered = *id;
                    self.pending.insert(*id, me.to_owned());
                }
                self.deliver(&ids)
            }
            Ask::Peek { after } => {
                let mut own = self
                    .pending
                    .iter()
                    .filter(|(id, of)| *of == me && **id > *after);
                let bytes = |id| match self.stream[id] {
                    Kind::Large => u64::from(u32::MAX),
                    _ => 100,
                };
                Reply::Peeked(own.next().map(|(id, _)| (*id, bytes(id))))
            }
            Ask::Keep { may_claim } => Reply::Kept(self.keep(now, me, *may_claim)),
            Ask::Ack(ids) => {
                ids.iter().for_each(|id| drop(self.pending.remove(id)));
                Reply::Done(ids.len() as u64)
            }
            Ask::SetAside(entries) => Reply::Done(self.set_aside(entries)),
        })
    }

    fn deliver(&mut self, ids: &[EntryId]) -> Reply {
        let entry = |id: &EntryId| {
            *self.deliveries.entry(*id).or_default() += 1;
            let kind = self.stream[id];
            self.is_overfull |= kind == Kind::Large;
            let content = match kind {
                Kind::Malformed => Err(Refused {
                    entry: *id,
                    sqlstate: String::new(),
                    reason: "no room".into(),
                }),
                kind => Ok(row_of(*id, &kind.fields(id.ms))),
            };
            (*id, Some(content))
        };
        Reply::Entries(ids.iter().map(entry).collect())
    }

    fn keep(&mut self, now: u64, me: &str, may_claim: bool) -> Kept {
        let is_dead = |of: &String| {
            let heard = self.heard.get(of).copied().unwrap_or(0);
            of != me && heard + CLAIM_IDLE_MS <= now
        };
        let mut claimed = 0;
        if may_claim {
            for of in self.pending.values_mut().filter(|of| is_dead(of)) {
                me.clone_into(of);
                claimed += 1;
            }
        }
        Kept {
            pending: self.pending.len() as u64,
            claimed,
            ..Kept::default()
        }
    }

    fn set_aside(&mut self, entries: &[Refused]) -> u64 {
        let mut count = 0;
        for refused in entries {
            if self.pending.remove(&refused.entry).is_some() {
                self.dead.push(refused.entry);
                count += 1;
            }
        }
        count
    }

    /// Redis forgets its group.
    pub(super) fn lose_group(&mut self) {
        self.has_group = false;
        self.last_delivered = EntryId::default();
        self.pending.clear();
    }

    /// PostgreSQL answers.
    pub(super) fn postgres(&mut self, request: &Request) -> Result<Answer, Box<PgRefusal>> {
        let Request::Copy { sql, rows } = request else {
            return Ok(Answer::default());
        };
        let is_plain = sql.starts_with(COPY_MESSAGES);
        let rows = read_copy(rows);
        let poison = rows.iter().position(|row| {
            let payload = std::str::from_utf8(&row[6][1..]).unwrap();
            payload == POISON || payload.contains("\\u0000")
        });
        if let Some(at) = poison {
            let name = if is_plain { "messages" } else { "staged" };
            return Err(refusal(
                "22P05",
                &format!("COPY {name}, line {}, column payload", at + 1),
            ));
        }
        let keys: Vec<_> = rows.iter().map(|row| key(row)).collect();
        let is_new = |key: &(String, u128)| !self.rows.contains_key(key);
        let distinct: BTreeSet<_> = keys.iter().collect();
        if is_plain && (distinct.len() < keys.len() || !keys.iter().all(is_new)) {
            return Err(refusal("23505", "COPY messages, line 1"));
        }
        let mut added = 0_i64;
        for (row, key) in rows.iter().zip(keys) {
            if !self.rows.contains_key(&key) {
                // Foreign rows: their time is that of their entry.
                let micros = i64::from_be_bytes(row[8][..].try_into().unwrap());
                let ms = (micros / 1000 + 946_684_800_000) as u64;
                *self.counts.entry(key.0.clone()).or_default() += 1;
                self.rows.insert(key, EntryId { ms, n: 0 });
                added += 1;
            }
        }
        let tags = vec![format!("COPY {}", rows.len())];
        let number = |n: i64| crate::pg::Row::of_texts(&[&n.to_string()]);
        let rows = if is_plain {
            vec![]
        } else {
            vec![number(added), number(0), number(0)]
        };
        Ok(Answer {
            rows,
            tags,
            ..Answer::default()
        })
    }

    /// What must hold when all is done.
    pub(super) fn check(&self, seed: u64) {
        let good: Vec<_> = self
            .stream
            .iter()
            .filter(|(_, kind)| **kind == Kind::Good)
            .collect();
        let bad = self.stream.len() - good.len();
        let entries: BTreeSet<_> = self.rows.values().collect();
        assert_eq!(
            self.rows.len(),
            good.len(),
            "seed {seed}: each good one once"
        );
        let stored = good.iter().all(|(id, _)| entries.contains(id));
        assert!(stored, "seed {seed}: every good one");
        let mut dead = self.dead.clone();
        dead.sort_unstable();
        dead.dedup();
        assert_eq!(dead.len(), bad, "seed {seed}: every bad one is set aside");
        let counted: i64 = self.counts.values().sum();
        assert_eq!(counted, good.len() as i64, "seed {seed}: counts of rooms");
        assert!(self.pending.is_empty(), "seed {seed}: {:?}", self.pending);
    }
}

fn key(row: &[Vec<u8>]) -> (String, u128) {
    let room = String::from_utf8(row[0].clone()).unwrap();
    (room, u128::from_be_bytes(row[1][..].try_into().unwrap()))
}

fn refusal(sqlstate: &str, context: &str) -> Box<PgRefusal> {
    let cause = crate::pg::Cause::of_sqlstate(sqlstate);
    Box::new(PgRefusal {
        sqlstate: sqlstate.into(),
        context: Some(context.into()),
        ..PgRefusal::of_way(cause, "no")
    })
}

/// The rows of the first COPY, each a list of columns.
fn read_copy(mut bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut data = Vec::new();
    while bytes[0] == b'd' {
        let len = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        data.extend_from_slice(&bytes[5..1 + len]);
        bytes = &bytes[1 + len..];
    }
    assert_eq!(bytes[0], b'c');
    let mut data = &data[19..];
    let mut rows = Vec::new();
    loop {
        let columns = i16::from_be_bytes(data[..2].try_into().unwrap());
        data = &data[2..];
        if columns < 0 {
            return rows;
        }
        let mut row = Vec::new();
        for _ in 0..columns {
            let len = i32::from_be_bytes(data[..4].try_into().unwrap());
            let len = usize::try_from(len).unwrap_or(0);
            row.push(data[4..4 + len].to_vec());
            data = &data[4 + len..];
        }
        rows.push(row);
    }
}
