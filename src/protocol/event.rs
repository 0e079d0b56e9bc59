//! What the server sends: one JSON object a frame (PROTOCOL 3).
//!
//! Each function appends one whole WebSocket text frame to a buffer of the caller's. Members
//! without a value are left out. It decides nothing: who gets a frame, and when, is elsewhere.
//!
//! ```text
//!   {"type":"message","room":R,"offset":N,"id":I,"user_id":U,"username":U?,"payload":P,…}
//!                        └ escaped ┘            └──── escaped ────┘           └ spliced raw
//! ```
//!
//! Written by hand and not by a serializer: `message` is encoded once for a whole room and is what
//! a server spends its own time on, and the others would be no shorter.

use crate::model::{ClientId, Epoch, ErrorCode, MessageId, Publication, Timestamp};
use crate::net::{begin_text, end_text};

/// What [`welcome`] says.
#[derive(Clone, Copy, Debug)]
pub struct Welcome<'a> {
    /// This connection.
    pub client_id: ClientId,
    /// Its user.
    pub user_id: &'a str,
    /// This instance.
    pub instance_id: &'a str,
    /// Where the connection lives.
    pub shard: usize,
    /// How often the server pings.
    pub heartbeat_ms: u64,
}

/// What [`joined`] says.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    /// The room.
    pub room: &'a str,
    /// The room's epoch.
    pub epoch: Epoch,
    /// The next message for this member is one more.
    pub offset: u64,
    /// Only if the client sent `since`, or the epoch has changed.
    pub recovered: Option<bool>,
    /// How many members the room has.
    pub members: u64,
    /// The JSON text of the join's `ref`.
    pub reference: Option<&'a str>,
}

/// What [`pending`] says.
#[derive(Clone, Copy, Debug)]
pub struct Pending<'a> {
    /// The room.
    pub room: &'a str,
    /// The id that the message will have.
    pub id: MessageId,
    /// Who publishes.
    pub user_id: &'a str,
    /// Under what name, if any.
    pub username: Option<&'a str>,
    /// JSON text.
    pub payload: &'a [u8],
    /// When it came.
    pub sent_at: Timestamp,
}

/// What [`presence`] tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A user's first connection joined.
    Join,
    /// A user's last connection left.
    Leave,
}

/// The first frame of every connection.
pub fn welcome(out: &mut Vec<u8>, welcome: &Welcome<'_>) {
    frame(out, |out| {
        push(
            out,
            r#"{"type":"welcome","protocol":"ringcast.v1","client_id":""#,
        );
        push(out, welcome.client_id.as_str());
        push(out, r#"","user_id":"#);
        push_string(out, welcome.user_id);
        push(out, r#","instance_id":"#);
        push_string(out, welcome.instance_id);
        push(out, r#","shard":"#);
        push_number(out, welcome.shard as u64);
        push(out, r#","heartbeat_ms":"#);
        push_number(out, welcome.heartbeat_ms);
        push(out, "}");
    });
}

/// The answer to a join, and unasked the news of a new epoch.
pub fn joined(out: &mut Vec<u8>, joined: &Joined<'_>) {
    frame(out, |out| joined_json(out, joined));
}

/// The same as JSON text.
pub fn joined_json(out: &mut Vec<u8>, joined: &Joined<'_>) {
    push(out, r#"{"type":"joined","room":"#);
    push_string(out, joined.room);
    push(out, r#","epoch":""#);
    push(out, joined.epoch.as_str());
    push(out, r#"","offset":"#);
    push_number(out, joined.offset);
    match joined.recovered {
        Some(true) => push(out, r#","recovered":true"#),
        Some(false) => push(out, r#","recovered":false"#),
        None => {}
    }
    push(out, r#","members":"#);
    push_number(out, joined.members);
    push_reference_and_end(out, joined.reference);
}

/// The answer to a leave.
pub fn left(out: &mut Vec<u8>, room: &str, reference: Option<&str>) {
    frame(out, |out| {
        push(out, r#"{"type":"left","room":"#);
        push_string(out, room);
        push_reference_and_end(out, reference);
    });
}

/// One message of a room, as JSON text without a WebSocket header: it goes into envelopes, history
/// and logs of several encodings.
pub fn message(out: &mut Vec<u8>, publication: &Publication) {
    let metadata_len = publication
        .metadata
        .as_ref()
        .map_or(0, |metadata| metadata.len());
    // Names seldom need escapes, and the rest is about 250 bytes.
    out.reserve(256 + publication.room.as_str().len() + publication.payload.len() + metadata_len);
    push(out, r#"{"type":"message","room":"#);
    push_string(out, publication.room.as_str());
    push(out, r#","offset":"#);
    push_number(out, publication.offset);
    push(out, r#","id":"#);
    push_id(out, publication.id);
    push_user(out, &publication.user_id, publication.username.as_deref());
    push(out, r#","payload":"#);
    out.extend_from_slice(&publication.payload);
    if let Some(metadata) = &publication.metadata {
        push(out, r#","metadata":"#);
        out.extend_from_slice(metadata);
    }
    push(out, r#","sent_at":"#);
    push_time(out, publication.sent_at);
    push(out, "}");
}

/// Something passing, such as "types".
pub fn signal(
    out: &mut Vec<u8>,
    room: &str,
    user_id: &str,
    username: Option<&str>,
    payload: &[u8],
) {
    frame(out, |out| {
        push(out, r#"{"type":"signal","room":"#);
        push_string(out, room);
        push_user(out, user_id, username);
        push(out, r#","payload":"#);
        out.extend_from_slice(payload);
        push(out, "}");
    });
}

/// The preview of a message that is held while Redis is away.
pub fn pending(out: &mut Vec<u8>, pending: &Pending<'_>) {
    frame(out, |out| {
        push(out, r#"{"type":"pending","room":"#);
        push_string(out, pending.room);
        push(out, r#","id":"#);
        push_id(out, pending.id);
        push_user(out, pending.user_id, pending.username);
        push(out, r#","payload":"#);
        out.extend_from_slice(pending.payload);
        push(out, r#","sent_at":"#);
        push_time(out, pending.sent_at);
        push(out, "}");
    });
}

/// The publish with this `ref` is stored.
pub fn ack(out: &mut Vec<u8>, reference: Option<&str>, id: MessageId, offset: u64) {
    frame(out, |out| {
        push(out, r#"{"type":"ack","#);
        if let Some(reference) = reference {
            push(out, r#""ref":"#);
            push(out, reference);
            push(out, ",");
        }
        push(out, r#""id":"#);
        push_id(out, id);
        push(out, r#","offset":"#);
        push_number(out, offset);
        push(out, "}");
    });
}

/// The messages `from` to `to`, both included, were skipped or lost.
pub fn gap(out: &mut Vec<u8>, room: &str, from: u64, to: u64) {
    frame(out, |out| gap_json(out, room, from, to));
}

/// The same as JSON text.
pub fn gap_json(out: &mut Vec<u8>, room: &str, from: u64, to: u64) {
    push(out, r#"{"type":"gap","room":"#);
    push_string(out, room);
    push(out, r#","from":"#);
    push_number(out, from);
    push(out, r#","to":"#);
    push_number(out, to);
    push(out, "}");
}

/// Somebody came or went; `members` are there now.
pub fn presence(
    out: &mut Vec<u8>,
    room: &str,
    change: Change,
    user_id: &str,
    username: Option<&str>,
    members: u64,
) {
    frame(out, |out| {
        push(out, r#"{"type":"presence","room":"#);
        push_string(out, room);
        push(
            out,
            match change {
                Change::Join => r#","event":"join""#,
                Change::Leave => r#","event":"leave""#,
            },
        );
        push_user(out, user_id, username);
        push(out, r#","members":"#);
        push_number(out, members);
        push(out, "}");
    });
}

/// Who is there: users as `(user_id, username)`, and how many there are in all.
pub fn members<'a>(
    out: &mut Vec<u8>,
    room: &str,
    users: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    count: u64,
    reference: Option<&str>,
) {
    frame(out, |out| {
        push(out, r#"{"type":"members","room":"#);
        push_string(out, room);
        push(out, r#","members":["#);
        for (i, (user_id, username)) in users.into_iter().enumerate() {
            push(
                out,
                if i == 0 {
                    r#"{"user_id":"#
                } else {
                    r#",{"user_id":"#
                },
            );
            push_string(out, user_id);
            if let Some(username) = username {
                push(out, r#","username":"#);
                push_string(out, username);
            }
            push(out, "}");
        }
        push(out, r#"],"count":"#);
        push_number(out, count);
        push_reference_and_end(out, reference);
    });
}

/// The instance lost its backplane, or found it again.
pub fn degraded(out: &mut Vec<u8>, degraded: bool, reason: Option<&str>) {
    frame(out, |out| {
        push(out, r#"{"type":"degraded","degraded":"#);
        push(out, if degraded { "true" } else { "false" });
        if let Some(reason) = reason {
            push(out, r#","reason":"#);
            push_string(out, reason);
        }
        push(out, "}");
    });
}

/// The instance drains: reconnect after so many milliseconds.
pub fn going_away(out: &mut Vec<u8>, reconnect_in_ms: u64) {
    frame(out, |out| {
        push(out, r#"{"type":"going_away","reconnect_in_ms":"#);
        push_number(out, reconnect_in_ms);
        push(out, "}");
    });
}

/// What the client asked for was not done.
pub fn error(out: &mut Vec<u8>, code: ErrorCode, message: &str, reference: Option<&str>) {
    frame(out, |out| {
        push(out, r#"{"type":"error","code":""#);
        push(out, code.as_str());
        push(out, r#"","message":"#);
        push_string(out, message);
        push_reference_and_end(out, reference);
    });
}

/// The token of a `refresh` is taken. PROTOCOL 3 names no answer to it: one comes only to who has
/// sent a `ref`, to wait for it.
pub fn refreshed(out: &mut Vec<u8>, reference: &str) {
    frame(out, |out| {
        push(out, r#"{"type":"refreshed""#);
        push_reference_and_end(out, Some(reference));
    });
}

/// The answer to a ping.
pub fn pong(out: &mut Vec<u8>, reference: Option<&str>) {
    frame(out, |out| {
        push(out, r#"{"type":"pong""#);
        push_reference_and_end(out, reference);
    });
}

fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // Nearly all are shorter: one growth of the buffer, and not one for each part.
    out.reserve(128);
    let mark = begin_text(out);
    write(out);
    end_text(out, mark);
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn push_reference_and_end(out: &mut Vec<u8>, reference: Option<&str>) {
    if let Some(reference) = reference {
        push(out, r#","ref":"#);
        push(out, reference);
    }
    push(out, "}");
}

fn push_user(out: &mut Vec<u8>, user_id: &str, username: Option<&str>) {
    push(out, r#","user_id":"#);
    push_string(out, user_id);
    if let Some(username) = username {
        push(out, r#","username":"#);
        push_string(out, username);
    }
}

/// A JSON string. Most need no escape, and are copied whole.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    // No early end: a loop without one is done sixteen bytes at a time.
    let escapes = text.bytes().fold(false, |any, b| {
        any | (b < 0x20) | (b == b'"') | (b == b'\\')
    });
    if escapes {
        // Writing to a Vec does not fail, and a str always serializes.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.push(b'"');
        push(out, text);
        out.push(b'"');
    }
}

/// A whole number in decimal digits.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A message's id as a JSON string, lower-cased.
pub fn push_id(out: &mut Vec<u8>, id: MessageId) {
    let mut text = [b'"'; 2 + uuid::fmt::Hyphenated::LENGTH];
    id.hyphenated().encode_lower(&mut text[1..]);
    out.extend_from_slice(&text);
}

/// A time as a JSON string: RFC 3339 in UTC with milliseconds.
pub fn push_time(out: &mut Vec<u8>, time: Timestamp) {
    let (days, ms) = (time.0 / 86_400_000, time.0 % 86_400_000);
    let (year, month, day) = civil(days);
    let mut text = *b"\"0000-00-00T00:00:00.000Z\"";
    let mut put = |at: usize, len: usize, mut value: u64| {
        for place in text[at..at + len].iter_mut().rev() {
            *place = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(1, 4, year);
    put(6, 2, month);
    put(9, 2, day);
    put(12, 2, ms / 3_600_000);
    put(15, 2, ms / 60_000 % 60);
    put(18, 2, ms / 1000 % 60);
    put(21, 3, ms % 1000);
    out.extend_from_slice(&text);
}

/// Year, month and day of a day since 1970: Howard Hinnant's `civil_from_days`, for days from
/// 1970 on. Years begin in March there, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
