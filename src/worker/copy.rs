//! Rows as one request to PostgreSQL: one round trip, one transaction.
//!
//! ```text
//! plain:   copy messages; copy room_deltas [; copy seen_users; insert into room_users …]
//! staged:  copy staged; insert into messages … on conflict do nothing; the same with spare ids
//! ```
//!
//! Several statements in one text are one transaction, and what each COPY takes follows in order:
//! if one fails, the rest is passed over and nothing is there.

use super::row::{Row, id_of_entry};
use super::seen::Pair;
use crate::pg::{CopyBuffer, Request};

use uuid::Uuid;

/// Rows go into the table by this, in the order of [`push_columns`].
pub(super) const COPY_MESSAGES: &str = "copy messages (room_name, id, epoch, \"offset\", user_id, \
    username, payload, metadata, created_at) from stdin (format binary)";
const COPY_DELTAS: &str = "copy room_deltas (room_name, message_count, first_message_at, \
    last_message_at) from stdin (format binary)";
const COPY_USERS: &str = "copy seen_users (room_name, user_id) from stdin (format binary)";
const COPY_STAGED: &str = "copy staged (room_name, id, epoch, \"offset\", user_id, username, \
    payload, metadata, created_at, spare_id) from stdin (format binary)";
const USERS: &str = include_str!("sql/users.sql");
const STAGE: &str = include_str!("sql/stage.sql");

/// Appends a row as [`COPY_MESSAGES`] takes it, or with a spare id as [`COPY_STAGED`] does.
fn push_columns(buffer: &mut CopyBuffer, row: &Row, spare: Option<Uuid>) {
    let mut columns = buffer.row(9 + u16::from(spare.is_some()));
    columns.text(row.room.as_str()).uuid(row.id);
    match &row.position {
        Some((epoch, offset)) => columns.text(epoch.as_str()).bigint(*offset as i64),
        None => columns.null().null(),
    };
    columns
        .text(row.user_id.as_str())
        .optional_text(row.username.as_ref().map(|text| text.as_str()))
        .jsonb(row.payload.as_bytes())
        .optional_jsonb(row.metadata.as_ref().map(|text| text.as_bytes()))
        .timestamptz(row.created_at.0);
    if let Some(spare) = spare {
        columns.uuid(spare);
    }
}

/// Rows that are in the table if it has none of them, and else nothing; `users`: the pairs of them
/// that may not be counted yet. Its first tag says how many.
pub(super) fn plain(rows: &[Row], users: &[Pair], buffer: Vec<u8>) -> Request {
    let mut copy = CopyBuffer::reuse(buffer);
    rows.iter()
        .for_each(|row| push_columns(&mut copy, row, None));
    let mut bytes = copy.finish();
    push_deltas(rows, &mut bytes);
    let mut sql = format!("{COPY_MESSAGES};{COPY_DELTAS}");
    if !users.is_empty() {
        let mut copy = CopyBuffer::default();
        for (room, user) in users {
            copy.row(2).text(room).text(user);
        }
        bytes.extend_from_slice(&copy.finish());
        sql.push_str(&format!(";{COPY_USERS};{}", plain_sql(USERS)));
    }
    Request::copy(sql, bytes)
}

/// One row for each run of a room's rows, which stand together: how many, the first, the last.
fn push_deltas(rows: &[Row], bytes: &mut Vec<u8>) {
    let mut copy = CopyBuffer::default();
    for run in rows.chunk_by(|row, next| row.room == next.room) {
        let times = || run.iter().map(|row| row.created_at.0);
        let (first, last) = (times().min(), times().max());
        let mut columns = copy.row(4);
        columns.text(run[0].room.as_str()).bigint(run.len() as i64);
        columns.timestamptz(first.unwrap_or_default());
        columns.timestamptz(last.unwrap_or_default());
    }
    bytes.extend_from_slice(&copy.finish());
}

/// Rows of which some may be in the table. It answers three rows: how many were added, how many
/// more by a spare id, because a message at another position has theirs, and at how many positions
/// other messages stand.
pub fn staged(namespace: &Uuid, rows: &[Row], buffer: Vec<u8>) -> Request {
    let mut copy = CopyBuffer::reuse(buffer);
    for row in rows {
        push_columns(&mut copy, row, Some(id_of_entry(namespace, row.entry)));
    }
    Request::copy(format!("{COPY_STAGED};{}", plain_sql(STAGE)), copy.finish())
}

/// A statement without its comments, which PostgreSQL would log with every error.
pub(super) fn plain_sql(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("--"));
    lines.collect::<Vec<_>>().join("\n")
}
