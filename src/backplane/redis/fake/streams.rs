//! The streams of the fake Redis.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::wire::Reply;
use crate::model::EntryId;

pub(crate) type Fields = Vec<(Bytes, Bytes)>;

pub(crate) const LAST: EntryId = EntryId {
    ms: u64::MAX,
    n: u64::MAX,
};

/// A stream. One without entries still is one, and remembers its last id.
#[derive(Clone, Default)]
pub(crate) struct Stream {
    pub(crate) entries: BTreeMap<EntryId, Fields>,
    pub(crate) last: EntryId,
    pub(crate) groups: BTreeMap<Bytes, EntryId>,
    pub(crate) max_deleted: EntryId,
    pub(crate) added: u64,
}

/// What is to be kept of a stream.
#[derive(Clone, Copy)]
pub(crate) enum Keep {
    Entries(u64),
    From(EntryId),
}

impl Stream {
    /// Adds an entry under that id, or the next one there is at `now_ms`.
    pub(crate) fn add(
        &mut self,
        now_ms: u64,
        id: Option<EntryId>,
        fields: Fields,
    ) -> Result<EntryId, String> {
        let next = EntryId { ms: now_ms, n: 0 };
        let id = id.unwrap_or_else(|| next.max(self.last.next()));
        if id == EntryId::default() {
            return Err("ERR The ID specified in XADD must be greater than 0-0".into());
        }
        if id <= self.last {
            return Err(
                "ERR The ID specified in XADD is equal or smaller than the target stream \
                        top item"
                    .into(),
            );
        }
        self.entries.insert(id, fields);
        self.last = id;
        self.added += 1;
        Ok(id)
    }

    /// Removes the oldest entries, at most `limit` (0: all) of what is not to be kept.
    pub(crate) fn trim(&mut self, keep: Keep, limit: u64) -> i64 {
        let surplus = match keep {
            Keep::Entries(kept) => (self.entries.len() as u64).saturating_sub(kept),
            Keep::From(first) => self.entries.range(..first).count() as u64,
        };
        let removed = if limit == 0 {
            surplus
        } else {
            surplus.min(limit)
        };
        for _ in 0..removed {
            if let Some((id, _)) = self.entries.pop_first() {
                self.max_deleted = id;
            }
        }
        removed as i64
    }

    pub(crate) fn delete(&mut self, ids: &[EntryId]) -> i64 {
        let deleted = ids.iter().filter(|id| {
            let found = self.entries.remove(id).is_some();
            if found {
                self.max_deleted = self.max_deleted.max(**id);
            }
            found
        });
        deleted.count() as i64
    }

    /// The entries of a range, as replies.
    pub(crate) fn range(&self, range: RangeInclusive<EntryId>, count: usize, back: bool) -> Reply {
        if range.start() > range.end() {
            return Reply::List(vec![]);
        }
        let entries = self.entries.range(range).map(entry);
        Reply::List(if back {
            entries.rev().take(count).collect()
        } else {
            entries.take(count).collect()
        })
    }

    /// About what it takes: as much as its fields, and something for each.
    pub(crate) fn bytes(&self) -> u64 {
        let sizes = self.entries.values().flatten();
        let sizes = sizes.map(|(field, value)| (field.len() + value.len() + 4) as u64);
        256 + 16 * self.entries.len() as u64 + sizes.sum::<u64>()
    }
}

fn entry((id, fields): (&EntryId, &Fields)) -> Reply {
    let fields = fields.iter().flat_map(|(field, value)| [field, value]);
    Reply::List(vec![
        Reply::text(&id.to_string()),
        Reply::List(fields.map(Reply::bulk).collect()),
    ])
}

/// An entry id as it may be written in a command: `ms-n`, or `ms`, which stands for its first.
pub(crate) fn parse_id(text: &[u8]) -> Result<EntryId, String> {
    parse_bound(text, 0, false)
}

fn parse_bound(text: &[u8], n: u64, may_be_end: bool) -> Result<EntryId, String> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let id = match text {
        "-" if may_be_end => Some(EntryId::default()),
        "+" if may_be_end => Some(LAST),
        _ if text.contains('-') => EntryId::parse(text),
        _ => text.parse().ok().map(|ms| EntryId { ms, n }),
    };
    id.ok_or_else(|| "ERR Invalid stream ID specified as stream command argument".into())
}

/// The bounds of XRANGE: `(` leaves the id itself out. `None`: nothing can be between them.
pub(crate) fn parse_range(
    start: &[u8],
    end: &[u8],
) -> Result<Option<RangeInclusive<EntryId>>, String> {
    let first = match start.strip_prefix(b"(") {
        None => parse_bound(start, 0, true)?,
        Some(id) => {
            let id = parse_bound(id, 0, false)?;
            if id == LAST {
                return Err("ERR invalid start ID for the interval".into());
            }
            id.next()
        }
    };
    let last = match end.strip_prefix(b"(") {
        None => parse_bound(end, u64::MAX, true)?,
        Some(id) => match parse_bound(id, u64::MAX, false)? {
            EntryId { ms: 0, n: 0 } => return Err("ERR invalid end ID for the interval".into()),
            EntryId { ms, n: 0 } => EntryId {
                ms: ms - 1,
                n: u64::MAX,
            },
            EntryId { ms, n } => EntryId { ms, n: n - 1 },
        },
    };
    Ok((first <= last).then_some(first..=last))
}
