//! Entries that were set aside: what stands in the stream of the dead, and how to get at it.
//!
//! ```text
//! entry ms-n  sqlstate 22P05  error …  │ the fields of the original, byte for byte
//! ```
//!
//! Retrying stores the row itself, as a worker would that meets it again, and does not put the
//! entry back into the stream: there it would stand at another place than its number says.

use uuid::Uuid;

use super::command::entry_id;
use super::row::{self, Refused, Row};
use crate::model::EntryId;
use crate::model::limits::DEAD_SHOWN_BYTES_MAX;
use crate::resp::{Command, Value, push_command};

const LIST: &[u8] = include_bytes!("dead_list.lua");
/// Entries of one page.
pub const PAGE_ENTRIES: usize = 100;
/// The fields before the original's.
const OURS: usize = 3;

/// An entry of the dead as it is listed: values are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its own id, by which it is retried and dropped.
    pub id: EntryId,
    /// Names, the beginnings of values, and their whole lengths in bytes: first `entry`, `sqlstate`
    /// and `error`, then those of the original.
    pub fields: Vec<(String, String, u64)>,
}

/// Appends the command for a page behind `after`.
pub fn push_list(out: &mut Vec<u8>, dead: &str, after: EntryId) {
    let mut command = Command::new(out, 7);
    command
        .arg(b"EVAL")
        .arg(LIST)
        .arg(b"1")
        .arg(dead.as_bytes());
    command.arg(after.to_string().as_bytes());
    command
        .number(PAGE_ENTRIES as u64)
        .number(DEAD_SHOWN_BYTES_MAX as u64);
}

/// The page that was answered.
pub fn page_of(value: &Value) -> Option<Vec<Shown>> {
    value.as_list()?.iter().map(shown).collect()
}

fn shown(value: &Value) -> Option<Shown> {
    let [id, fields @ ..] = value.as_list()? else {
        return None;
    };
    let text = |value: &Value| Some(String::from_utf8_lossy(value.as_text()?).into_owned());
    let field = |triple: &[Value]| {
        let bytes = u64::try_from(triple[2].as_number()?).ok()?;
        Some((text(&triple[0])?, text(&triple[1])?, bytes))
    };
    Some(Shown {
        id: entry_id(id)?,
        fields: fields.chunks_exact(3).map(field).collect::<Option<_>>()?,
    })
}

/// Appends the command that reads one entry whole.
pub fn push_read(out: &mut Vec<u8>, dead: &str, id: EntryId) {
    let id = id.to_string();
    push_command(
        out,
        &[b"XRANGE", dead.as_bytes(), id.as_bytes(), id.as_bytes()],
    );
}

/// The row that the original of an entry makes, from the answer to [`push_read`]; `None`: there is
/// no such entry.
///
/// # Errors
/// It still can't be one.
pub fn row_of(namespace: &Uuid, value: &Value) -> Option<Result<Row, Refused>> {
    let [Value::List(found)] = value.as_list()? else {
        return None;
    };
    let [_, Value::List(fields)] = &found[..] else {
        return None;
    };
    let original = entry_id(fields.get(1)?)?;
    Some(row::read(namespace, original, fields.get(2 * OURS..)?))
}

/// Appends the command that takes entries out.
pub fn push_drop(out: &mut Vec<u8>, dead: &str, ids: &[EntryId]) {
    let mut command = Command::new(out, 2 + ids.len());
    command.arg(b"XDEL").arg(dead.as_bytes());
    for id in ids {
        command.arg(id.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(bytes::Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn entries_are_shown_and_read() {
        let names = ["entry", "7-1", "sqlstate", "22P05", "error", "why"];
        let original = ["room_name", "r", "payload", "1"];
        let fields = names.iter().chain(&original).map(|one| text(one)).collect();
        let found = Value::List(vec![text("9-0"), Value::List(fields)]);
        let namespace = row::namespace("s");
        let row = row_of(&namespace, &Value::List(vec![found]))
            .unwrap()
            .unwrap();
        assert_eq!(row.entry, EntryId { ms: 7, n: 1 });
        assert_eq!(row.id, row::id_of_entry(&namespace, row.entry));
        assert_eq!(row_of(&namespace, &Value::List(vec![])), None);

        let one = vec![text("9-0"), text("error"), text("wh"), Value::Number(3)];
        let page = page_of(&Value::List(vec![Value::List(one)])).unwrap();
        assert_eq!(page[0].fields, [("error".into(), "wh".into(), 3)]);
        assert_eq!(page_of(&Value::Nil), None);
    }
}
