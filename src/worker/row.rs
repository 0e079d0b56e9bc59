//! An entry of the stream as a row of `messages`, or why it can't be one.
//!
//! ```text
//! ours:     room_name user_id username payload metadata id epoch offset seq sent_at instance_id
//! foreign:  room_name user_id username payload metadata
//! ```
//!
//! Refused here is what no table should have: an entry without a room or a payload, a name that is
//! none, bytes that are no UTF-8, ours in a form that we do not write. What is doubtful (JSON that
//! PostgreSQL may refuse) is only marked: it goes alone, so that it spoils no batch, and
//! PostgreSQL has the last word.
//!
//! Texts are views of the reply that they came in.

use bytes::Bytes;
use uuid::Uuid;

use crate::model::{EntryId, Epoch, MessageId, RoomName, Timestamp, storable};
use crate::resp::Value;

/// One row, in the order of the table's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The entry that it was.
    pub entry: EntryId,
    /// A room's name.
    pub room: Text,
    /// The entry's own id; of foreign ones one made of where they stand.
    pub id: MessageId,
    /// Epoch and offset; foreign entries have none.
    pub position: Option<(Epoch, u64)>,
    /// Who published; may be empty in foreign ones.
    pub user_id: Text,
    /// Under what name, if any.
    pub username: Option<Text>,
    /// JSON text.
    pub payload: Text,
    /// JSON text.
    pub metadata: Option<Text>,
    /// `sent_at`; of foreign ones the time of their entry id.
    pub created_at: Timestamp,
    /// Whether PostgreSQL may refuse its JSON.
    pub is_doubtful: bool,
}

impl Row {
    /// Bytes of its texts, and some for the rest.
    pub fn bytes(&self) -> usize {
        let texts = [&self.room, &self.user_id, &self.payload];
        let optional = [&self.username, &self.metadata];
        let optional = optional.into_iter().flatten();
        texts
            .into_iter()
            .chain(optional)
            .map(Text::len)
            .sum::<usize>()
            + ROW_BYTES
    }
}

/// About what a row takes beside its texts.
const ROW_BYTES: usize = 128;

/// Bytes that were found to be UTF-8 without NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Bytes);

impl Text {
    /// The bytes as text, if they are.
    pub fn of(bytes: &Bytes) -> Option<Self> {
        let good = simdutf8::basic::from_utf8(bytes).is_ok() && memchr::memchr(0, bytes).is_none();
        good.then(|| Self(bytes.clone()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Checked when it was made, so the fallback is never taken.
        simdutf8::basic::from_utf8(&self.0).unwrap_or_default()
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An entry that can't be stored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The entry.
    pub entry: EntryId,
    /// PostgreSQL's SQLSTATE, or the one that it would give; empty where it has none.
    pub sqlstate: String,
    /// Why, in words.
    pub reason: String,
}

/// The id of an entry that has none: UUIDv5 of stream name and entry id (PROTOCOL 5). The stream's
/// own namespace is the UUIDv5 of its name among the OIDs of RFC 9562; see [`namespace`].
pub(super) fn id_of_entry(namespace: &Uuid, entry: EntryId) -> MessageId {
    Uuid::new_v5(namespace, entry.to_string().as_bytes())
}

/// The namespace of a stream's entries.
pub(super) fn namespace(stream: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, stream.as_bytes())
}

/// SQLSTATE `character_not_in_repertoire`: what PostgreSQL says of bytes that are no UTF-8.
const NOT_UTF8: &str = "22021";

/// Where a field stands in what is gathered, if it is one that is read.
fn place_of(name: &[u8]) -> Option<usize> {
    Some(match name {
        b"room_name" => 0,
        b"user_id" => 1,
        b"username" => 2,
        b"payload" => 3,
        b"metadata" => 4,
        b"id" => 5,
        b"epoch" => 6,
        b"offset" => 7,
        b"sent_at" => 8,
        _ => return None,
    })
}

/// The row that an entry's fields make: names and values, in turn. Of a field that is there twice
/// the first counts.
///
/// # Errors
/// It can't be one.
pub(super) fn read(namespace: &Uuid, entry: EntryId, fields: &[Value]) -> Result<Row, Refused> {
    let refuse = |sqlstate: &str, reason: String| Refused {
        entry,
        sqlstate: sqlstate.to_owned(),
        reason,
    };
    let mut texts: [Option<Text>; 9] = Default::default();
    for pair in fields.chunks_exact(2) {
        let (Value::Text(name), Value::Text(value)) = (&pair[0], &pair[1]) else {
            continue;
        };
        let Some(at) = place_of(name) else {
            continue;
        };
        if texts[at].is_none() {
            let bad = || {
                let name = String::from_utf8_lossy(name);
                refuse(NOT_UTF8, format!("the field {name} is no UTF-8 text"))
            };
            texts[at] = Some(Text::of(value).ok_or_else(bad)?);
        }
    }
    let [
        room,
        user_id,
        username,
        payload,
        metadata,
        id,
        epoch,
        offset,
        sent_at,
    ] = texts;
    let missing = |name: &str| refuse("", format!("there is no field {name}"));
    let room = room.ok_or_else(|| missing("room_name"))?;
    RoomName::check(room.as_str()).map_err(|error| refuse("", error.to_string()))?;
    let payload = payload.ok_or_else(|| missing("payload"))?;
    let metadata = metadata.filter(|text| !text.is_empty());
    let odd = |name: &str| refuse("", format!("the field {name} is none that ringcast writes"));
    let is_doubtful =
        !is_good_json(&payload) || metadata.as_ref().is_some_and(|m| !is_good_json(m));
    Ok(Row {
        entry,
        id: match id {
            Some(id) => Uuid::try_parse(id.as_str()).map_err(|_| odd("id"))?,
            None => id_of_entry(namespace, entry),
        },
        position: match (epoch, offset) {
            (Some(epoch), Some(offset)) => {
                let epoch = Epoch::parse(epoch.as_str()).ok_or_else(|| odd("epoch"))?;
                let offset = offset.as_str().parse().ok();
                let offset = offset.filter(|&n: &u64| n <= i64::MAX as u64);
                Some((epoch, offset.ok_or_else(|| odd("offset"))?))
            }
            (None, None) => None,
            (Some(_), None) => return Err(missing("offset")),
            (None, Some(_)) => return Err(missing("epoch")),
        },
        created_at: match sent_at {
            Some(text) => {
                Timestamp::parse(text.as_str().as_bytes()).ok_or_else(|| odd("sent_at"))?
            }
            None => Timestamp(entry.ms),
        },
        room,
        user_id: user_id.unwrap_or_default(),
        username: username.filter(|text| !text.is_empty()),
        payload,
        metadata,
        is_doubtful,
    })
}

/// Whether PostgreSQL will surely take it.
fn is_good_json(text: &Text) -> bool {
    let text = text.as_str();
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() && storable::check(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &[u8])]) -> Vec<Value> {
        let text = |bytes: &[u8]| Value::Text(Bytes::copy_from_slice(bytes));
        let pairs = pairs.iter();
        pairs
            .flat_map(|(name, value)| [text(name.as_bytes()), text(value)])
            .collect()
    }

    const ENTRY: EntryId = EntryId {
        ms: 1_700_000_000_123,
        n: 4,
    };

    fn read_pairs(pairs: &[(&str, &[u8])]) -> Result<Row, Refused> {
        read(
            &namespace("gosocket:messages:stream"),
            ENTRY,
            &fields(pairs),
        )
    }

    const OURS: [(&str, &[u8]); 11] = [
        ("room_name", b"r"),
        ("user_id", b"u"),
        ("username", b""),
        ("payload", b"{\"a\":1}"),
        ("metadata", b""),
        ("id", b"0190a000-0000-7000-8000-000000000004"),
        ("epoch", b"018bcfe5680000000001"),
        ("offset", b"7"),
        ("seq", b"9"),
        ("sent_at", b"2023-11-14T22:13:20.456Z"),
        ("instance_id", b"a"),
    ];

    #[test]
    fn our_own_entries() {
        let row = read_pairs(&OURS).unwrap();
        assert_eq!(row.room.as_str(), "r");
        assert_eq!((row.username, row.metadata), (None, None));
        let epoch = Epoch::parse("018bcfe5680000000001").unwrap();
        assert_eq!(row.position, Some((epoch, 7)));
        assert_eq!(row.created_at, Timestamp(1_700_000_000_456));
        assert!(!row.is_doubtful);
    }

    #[test]
    fn foreign_entries_get_an_id_and_a_time_of_their_place() {
        let row = read_pairs(&OURS[..5]).unwrap();
        assert_eq!((row.position, row.created_at), (None, Timestamp(ENTRY.ms)));
        assert_eq!(row.id.get_version_num(), 5);
        assert_eq!(row.id, read_pairs(&OURS[..5]).unwrap().id);
        let elsewhere = read(&namespace("other"), ENTRY, &fields(&OURS[..5])).unwrap();
        assert_ne!(row.id, elsewhere.id);
        assert_eq!(
            read_pairs(&[OURS[0], OURS[3]]).unwrap().user_id.as_str(),
            ""
        );
    }

    #[test]
    fn what_is_refused_and_what_is_doubted() {
        let with = |name: &str, value: &'static [u8]| {
            let mut pairs = OURS.to_vec();
            let at = pairs.iter().position(|pair| pair.0 == name).unwrap();
            pairs[at].1 = value;
            read_pairs(&pairs)
        };
        let long = "x".repeat(256).into_bytes().leak();
        let deep = "[".repeat(20_000).into_bytes().leak();
        for (name, value, sqlstate) in [
            ("room_name", &b""[..], ""),
            ("room_name", b"a\nb", ""),
            ("room_name", long, ""),
            ("room_name", b"\xff", NOT_UTF8),
            ("payload", b"\"\xff\"", NOT_UTF8),
            ("user_id", b"a\0b", NOT_UTF8),
            ("id", b"x", ""),
            ("offset", b"-1", ""),
            ("offset", b"9223372036854775808", ""),
            ("epoch", b"e", ""),
            ("sent_at", b"yesterday", ""),
        ] {
            let refused = with(name, value).unwrap_err();
            assert_eq!(refused.sqlstate, sqlstate, "{name}: {refused:?}");
        }
        for value in [
            &b"\"\\u0000\""[..],
            b"\"\\ud800\"",
            b"1e200000",
            b"",
            b"no json",
            deep,
        ] {
            assert!(with("payload", value).unwrap().is_doubtful, "{value:?}");
            let metadata = with("metadata", value).unwrap();
            assert_eq!(metadata.is_doubtful, !value.is_empty());
        }
        assert!(read_pairs(&OURS[1..]).is_err(), "no room");
        assert!(read_pairs(&OURS[..3]).is_err(), "no payload");
        assert!(read_pairs(&OURS[..7]).is_err(), "an epoch and no offset");
        assert!(read_pairs(&[]).is_err());
    }
}
