//! The wire of the roster: messages on the control channel, fields of the members' hash.
//!
//! What comes is checked here: a text that is no message of ours is an error, a name that breaks
//! the rules of `model` too, and nothing half read gets out. The forms are in the module above.

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

use super::others::{Members, Standing};
use crate::model::limits::ROSTER_MESSAGE_BYTES_MAX;
use crate::model::{Name, RoomName, name_is_valid};

/// The field of the hash that says which delta it corresponds to.
pub(super) const STANDING_FIELD: &str = "";

/// One message on the control channel.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Message {
    pub(super) instance_id: Option<Valid>,
    pub(super) nonce: Option<u64>,
    pub(super) members: Option<Delta>,
    pub(super) digest: Option<Digest>,
    pub(super) kick: Option<Kick>,
    pub(super) restore: Option<Restore>,
    pub(super) hello: bool,
    pub(super) bye: bool,
}

/// What has changed on an instance.
#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct Delta {
    pub(super) n: u64,
    #[serde(default)]
    pub(super) join: Vec<Row>,
    #[serde(default)]
    pub(super) leave: Vec<Row>,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(super) struct Digest {
    pub(super) n: u64,
    #[serde(flatten)]
    pub(super) sum: Sum,
}

/// A set of members in short. Order plays no part: `hash` is the sum of the rows' hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Sum {
    pub(super) count: u64,
    #[serde(deserialize_with = "hex")]
    pub(super) hash: u64,
}

impl Sum {
    pub(super) fn add(&mut self, row: u64) {
        self.count += 1;
        self.hash = self.hash.wrapping_add(row);
    }

    pub(super) fn remove(&mut self, row: u64) {
        self.count = self.count.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(row);
    }
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Kick {
    pub(super) user_id: Valid,
}

#[derive(Debug, serde::Deserialize)]
pub(super) struct Restore {
    pub(super) instance_id: Valid,
}

/// A name by `model`'s rules.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "Name")]
pub(super) struct Valid(pub(super) Name);

impl TryFrom<Name> for Valid {
    type Error = &'static str;

    fn try_from(name: Name) -> Result<Self, Self::Error> {
        if name_is_valid(&name) {
            Ok(Self(name))
        } else {
            Err("no valid name")
        }
    }
}

/// A user in a room: `[room, user_id, username?]`.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) room: RoomName,
    pub(super) user_id: Name,
    pub(super) username: Option<Name>,
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Row;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[room, user_id, username?]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<Row, A::Error> {
        let short = |at| A::Error::invalid_length(at, &self);
        let room: Name = row.next_element()?.ok_or_else(|| short(0))?;
        let Valid(user_id) = row.next_element()?.ok_or_else(|| short(1))?;
        let username = row.next_element::<Option<Valid>>()?.flatten();
        while row.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Row {
            room: RoomName::parse(&room).map_err(A::Error::custom)?,
            user_id,
            username: username.map(|Valid(username)| username),
        })
    }
}

fn hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = Name::deserialize(deserializer)?;
    u64::from_str_radix(&text, 16).map_err(D::Error::custom)
}

/// Reads a message; `None`: it is none.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    // serde would read an array as the members in turn.
    let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
    if !is_object || bytes.len() > ROSTER_MESSAGE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// Appends `text` as JSON.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "text into memory can always be written");
}

/// Appends a row. A username has no place in a leave.
pub(super) fn push_row(out: &mut Vec<u8>, room: &str, user_id: &str, username: Option<&str>) {
    out.push(b'[');
    push_text(out, room);
    out.push(b',');
    push_text(out, user_id);
    if let Some(username) = username {
        out.push(b',');
        push_text(out, username);
    }
    out.push(b']');
}

/// A message's beginning: whose it is, and of which run.
pub(super) fn head(instance_id: &str, nonce: u64) -> Vec<u8> {
    let mut out = b"{\"instance_id\":".to_vec();
    push_text(&mut out, instance_id);
    out.extend_from_slice(format!(",\"nonce\":{nonce},").as_bytes());
    out
}

/// A row's hash, the same on every instance whatever its version: FNV-1a over
/// `room NUL user_id NUL username`, then mixed, since rows' hashes are summed.
pub(super) fn row_hash(room: &str, user_id: &str, username: Option<&str>) -> u64 {
    let parts = [room, "\0", user_id, "\0", username.unwrap_or_default()];
    let hash = parts.iter().flat_map(|part| part.bytes());
    let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The field of a user in a room.
pub(super) fn field(room: &str, user_id: &str) -> Bytes {
    [room, "\0", user_id].concat().into()
}

/// The value of [`STANDING_FIELD`].
pub(super) fn standing(standing: Standing, generation: u64) -> Bytes {
    format!("{} {} {generation}", standing.nonce, standing.n).into()
}

/// What the fields of a hash say: its members, and which delta they correspond to. `None`: it is
/// not whole, or was being stored anew while it was read.
pub(super) fn snapshot(
    fields: &[(Bytes, Bytes)],
    users_max: usize,
) -> Option<(Standing, Members, Sum)> {
    let (mut members, mut sum) = (Members::new(), Sum::default());
    let mut first: Option<(Standing, u64)> = None;
    for (field, value) in fields {
        let (Ok(field), Ok(value)) = (str::from_utf8(field), str::from_utf8(value)) else {
            continue;
        };
        if field == STANDING_FIELD {
            let (standing, generation) = parse_standing(value)?;
            let (known, known_generation) = *first.get_or_insert((standing, generation));
            if (known.nonce, known_generation) != (standing.nonce, generation) {
                return None;
            }
        } else if let Some((room, user_id, username)) = parse_field(field, value) {
            if sum.count >= users_max as u64 {
                // What is beyond is not remembered, and the digest says so.
                break;
            }
            let row = row_hash(room.as_str(), &user_id, username.as_deref());
            let users = members.entry(room).or_default();
            if users.insert(user_id, username).is_none() {
                sum.add(row);
            }
        }
    }
    Some((first?.0, members, sum))
}

fn parse_standing(value: &str) -> Option<(Standing, u64)> {
    let mut numbers = value.split(' ').map(|number| number.parse().ok());
    let (nonce, n, generation) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((Standing { nonce, n }, generation))
}

fn parse_field(field: &str, value: &str) -> Option<(RoomName, Name, Option<Name>)> {
    let (room, user_id) = field.split_once('\0')?;
    if !name_is_valid(user_id) || !(value.is_empty() || name_is_valid(value)) {
        return None;
    }
    let username = (!value.is_empty()).then(|| value.into());
    Some((RoomName::parse(room).ok()?, user_id.into(), username))
}
