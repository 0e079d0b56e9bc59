//! One record of the spool as bytes.
//!
//! ```text
//! ┌───────┬────────┬──────────────────────────── length bytes ───────────────────────────────┐
//! │length │ crc32  │ version │ producer │ number │ id │ sent_at │ flags │ room │ user_id │ … │
//! │u32    │ u32    │ u8: 1   │ 16       │ u64    │ 16 │ u64     │ u8    │ u16+ │ u16+    │   │
//! └───────┴────────┴──────────────────────────────────────────────────────────────────────────┘
//!   … username: u16+, payload: u32+, metadata: u32+        (u16+: length, then so many bytes)
//! ```
//!
//! Numbers are little-endian. The checksum is over the length and all that follows itself. Flags: 1
//! the client gave the id, 2 there is a username, 4 there is metadata; what is not there has the
//! length 0.
//!
//! Invariant: what decodes is what was encoded, or the bytes were forged.

use bytes::Bytes;

use super::super::publisher::Outgoing;
use crate::model::limits::SPOOL_RECORD_BYTES_MAX;
use crate::model::{MessageId, Name, RoomName, Timestamp};

/// Which run of which instance numbered a message.
pub type ProducerId = [u8; 16];

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8;
/// Version, producer, number, id, time, flags, and five lengths.
const FIXED_BYTES: usize = 1 + 16 + 8 + 16 + 8 + 1 + 3 * 2 + 2 * 4;
const CLIENT_GIVEN: u8 = 1;
const USERNAME: u8 = 2;
const METADATA: u8 = 4;

/// A held message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose number it has.
    pub producer: ProducerId,
    /// The message.
    pub outgoing: Outgoing,
}

/// What stands at the beginning of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A record, of so many bytes.
    Whole(Record, usize),
    /// The bytes end before the record does; so many are needed, as far as can be seen.
    Short(usize),
    /// No record, or not the one that was written.
    Damaged,
}

/// The bytes that a message's record has.
pub fn record_bytes(outgoing: &Outgoing) -> u64 {
    (HEAD_BYTES + FIXED_BYTES + outgoing.bytes()) as u64
}

/// Appends a record's bytes to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let one = &record.outgoing;
    let start = out.len();
    let length = record_bytes(one) as usize - HEAD_BYTES;
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(VERSION);
    out.extend_from_slice(&record.producer);
    out.extend_from_slice(&one.number.to_le_bytes());
    out.extend_from_slice(one.id.as_bytes());
    out.extend_from_slice(&one.sent_at.0.to_le_bytes());
    let username = one.username.as_ref().map_or(0, |_| USERNAME);
    let metadata = one.metadata.as_ref().map_or(0, |_| METADATA);
    let client_given = u8::from(one.client_given) * CLIENT_GIVEN;
    out.push(client_given | username | metadata);
    let username = one.username.as_deref().unwrap_or_default();
    for text in [one.room.as_str(), &one.user_id, username] {
        out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    for json in [Some(&one.payload), one.metadata.as_ref()] {
        let json = json.map(|json| &json[..]).unwrap_or_default();
        out.extend_from_slice(&(json.len() as u32).to_le_bytes());
        out.extend_from_slice(json);
    }
    debug_assert_eq!(out.len() - start, HEAD_BYTES + length);
    let sum = checksum(&out[start..]);
    out[start + 4..start + HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// Reads the record at the beginning of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded {
    let (Some(length), Some(sum)) = (number_at(bytes, 0), number_at(bytes, 4)) else {
        return Decoded::Short(HEAD_BYTES);
    };
    let whole = HEAD_BYTES + length as usize;
    if !(HEAD_BYTES + FIXED_BYTES..=SPOOL_RECORD_BYTES_MAX).contains(&whole) {
        return Decoded::Damaged;
    }
    let Some(bytes) = bytes.get(..whole) else {
        return Decoded::Short(whole);
    };
    if checksum(bytes) != sum {
        return Decoded::Damaged;
    }
    let record = body(&mut Fields(&bytes[HEAD_BYTES..]));
    record.map_or(Decoded::Damaged, |record| Decoded::Whole(record, whole))
}

/// Of a record's bytes, whatever stands where the checksum is to stand.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..4]);
    hasher.update(&bytes[HEAD_BYTES..]);
    hasher.finalize()
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..at + 4)?;
    number.try_into().ok().map(u32::from_le_bytes)
}

/// What is left of a record's body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.bytes(usize::from(length))?).ok()
    }

    fn json(&mut self) -> Option<Bytes> {
        let length = u32::from_le_bytes(self.array()?);
        self.bytes(length as usize).map(Bytes::copy_from_slice)
    }
}

fn body(fields: &mut Fields<'_>) -> Option<Record> {
    if fields.array()? != [VERSION] {
        return None;
    }
    let producer = fields.array()?;
    let number = fields.number()?;
    let id = MessageId::from_bytes(fields.array()?);
    let sent_at = Timestamp(fields.number()?);
    let [flags] = fields.array()?;
    let room = RoomName::parse(fields.text()?).ok()?;
    let user_id = Name::from(fields.text()?);
    let username = fields.text()?;
    let payload = fields.json()?;
    let metadata = fields.json()?;
    let outgoing = Outgoing {
        number,
        id,
        client_given: flags & CLIENT_GIVEN != 0,
        room,
        user_id,
        username: (flags & USERNAME != 0).then(|| username.into()),
        payload,
        metadata: (flags & METADATA != 0).then_some(metadata),
        sent_at,
    };
    fields.0.is_empty().then_some(Record { producer, outgoing })
}

#[cfg(test)]
pub(in super::super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super::super) fn record(producer: u8, number: u64, payload: usize) -> Record {
        Record {
            producer: [producer; 16],
            outgoing: Outgoing {
                number,
                id: MessageId::from_u128(u128::from(number)),
                client_given: false,
                room: RoomName::parse("room").unwrap(),
                user_id: "user".into(),
                username: None,
                payload: Bytes::from(vec![b'7'; payload]),
                metadata: None,
                sent_at: Timestamp(number),
            },
        }
    }

    prop_compose! {
        fn records()(
            producer: [u8; 16],
            number: u64,
            id: u128,
            client_given: bool,
            room in "[a-zé@]{1,30}",
            user_id in "[a-zé]{0,60}",
            username in prop::option::of("[a-z ]{0,20}"),
            payload in prop::collection::vec(any::<u8>(), 0..200),
            metadata in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
            sent_at: u64,
        ) -> Record {
            let outgoing = Outgoing {
                number,
                id: MessageId::from_u128(id),
                client_given,
                room: RoomName::parse(&room).unwrap(),
                user_id: user_id.into(),
                username: username.map(Into::into),
                payload: payload.into(),
                metadata: metadata.map(Into::into),
                sent_at: Timestamp(sent_at),
            };
            Record { producer, outgoing }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_its_prefixes_are_short(record in records()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            let whole = bytes.len();
            prop_assert_eq!(whole as u64, record_bytes(&record.outgoing));
            for end in 0..whole {
                let need = if end < HEAD_BYTES { HEAD_BYTES } else { whole };
                prop_assert_eq!(decode(&bytes[..end]), Decoded::Short(need));
            }
            bytes.extend_from_slice(b"the next");
            prop_assert_eq!(decode(&bytes), Decoded::Whole(record, whole));
        }

        #[test]
        fn a_flipped_bit_is_found(record in records(), bit: prop::sample::Index) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(decode(&bytes), Decoded::Whole(..)));
        }

        #[test]
        fn whatever_it_is_it_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!matches!(decode(&bytes), Decoded::Whole(..)));
        }
    }

    #[test]
    fn a_sound_sum_over_nonsense_is_no_record() {
        let mut bytes = Vec::new();
        encode(&record(1, 1, 3), &mut bytes);
        for (at, value) in [(8, 2), (8 + 50, 0xff), (8 + 52, 0x0a), (8 + 53, 0xff)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            let sum = checksum(&bytes).to_le_bytes();
            bytes[4..8].copy_from_slice(&sum);
            assert_eq!(decode(&bytes), Decoded::Damaged, "{at}");
        }
        let zeros = [0; 100];
        assert_eq!(decode(&zeros), Decoded::Damaged, "a file's hole");
    }
}
