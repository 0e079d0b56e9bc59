//! What the worker's tests share, and the simulation.

mod simulation;
mod world;

use bytes::Bytes;

use super::row::{Row, namespace, read};
use crate::model::EntryId;
use crate::resp::Value;

/// The fields of entry `n`, as a foreign writer has them.
pub(super) fn fields(n: u64, payload: &str) -> Vec<(String, String)> {
    let pairs = [
        ("room_name", format!("room {}", n % 3)),
        ("user_id", format!("user {}", n % 5)),
        ("username", String::new()),
        ("payload", payload.to_owned()),
        ("metadata", String::new()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// The row of entry `n-0`.
pub(super) fn row(n: u64) -> Row {
    row_of(EntryId { ms: n, n: 0 }, &fields(n, "1"))
}

/// The row of an entry.
pub(super) fn row_of(entry: EntryId, fields: &[(String, String)]) -> Row {
    let text = |text: &String| Value::Text(Bytes::copy_from_slice(text.as_bytes()));
    let values = fields
        .iter()
        .flat_map(|(name, value)| [text(name), text(value)]);
    read(&namespace("s"), entry, &values.collect::<Vec<_>>()).unwrap()
}
