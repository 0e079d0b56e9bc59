//! Envelopes of the channel and entries of the stream, read into items.
//!
//! ```text
//!   {"instance_id":S,"epoch":"E","seq":n,"entry":"ms-n","payload":{"type":"message","room":R,
//!    "offset":N,"id":"I",…,"sent_at":"T"}}
//! ```
//!
//! What the script wrote has exactly this form and is read by looking at its two ends: nothing is
//! copied, and what lies between is not looked at. All else (signals, foreign writers, our own in
//! another spelling) is read as JSON, of which `instance_id` and `payload` suffice. It is not
//! where items are put in order ([`super::order`]), nor where entries of foreign writers are dealt
//! with: those are the worker's only.
//!
//! Invariants: a payload is a slice of the envelope it came in; what is passed on to clients is
//! UTF-8 and one JSON value, nested no deeper than [`JSON_DEPTH_MAX`]; an entry gives the very
//! bytes that its envelope had.

mod texts;

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use self::texts::{depth, entry_of, id_of, leading_number, split_at_byte, whole_number};
use super::{Encode, Item, Place};
use crate::model::limits::{ENVELOPE_BYTES_MAX, JSON_DEPTH_MAX, METADATA_BYTES_MAX};
use crate::model::publication::TIMESTAMP_BYTES;
use crate::model::{
    EntryId, Epoch, MessageId, Name, Publication, RoomName, Timestamp, name_is_valid,
};

/// What stands on the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Who wrote it.
    pub instance_id: Name,
    /// Where it stands; a signal and what foreign writers send have no place.
    pub place: Option<Place>,
    /// The frame for clients: JSON text.
    pub payload: &'a str,
}

/// Why something on the channel is no envelope: count it and go on. If it was one of ours, it is
/// a hole, and is mended from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too long.
    #[error("an envelope has at most {ENVELOPE_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON, or `instance_id` or `payload` is missing or of the wrong type.
    #[error("an envelope is a JSON object with \"instance_id\" (a name) and \"payload\"")]
    Malformed,
    /// Too many brackets within each other.
    #[error("an envelope's payload is nested at most {JSON_DEPTH_MAX} deep")]
    TooDeep,
    /// Some of `epoch`, `seq` and `entry` are there but not all, or one can't be read.
    #[error("an envelope has a good \"epoch\", \"seq\" and \"entry\", or none of the three")]
    Place,
    /// It has a place but is no `message`, or one without an offset from 1 on.
    #[error("an envelope with a place has a \"message\" frame with an offset as its payload")]
    NotMessage,
    /// The payload's room is none.
    #[error("the payload's \"room\" is not a room's name")]
    Room,
}

/// The beginning of a `message` frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The room.
    pub room: RoomName,
    /// The offset in it.
    pub offset: u64,
    /// The message's id.
    pub id: MessageId,
}

/// What came by the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A publication.
    Item {
        /// Who published it.
        instance_id: Name,
        /// The publication.
        item: Item,
    },
    /// A signal or a foreign message: delivered at once and kept by nobody.
    Passing {
        /// Who wrote it.
        instance_id: Name,
        /// Whose members get it; `None`: all connections.
        room: Option<RoomName>,
        /// JSON text.
        json: Bytes,
    },
}

/// A publication as the stream has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryItem {
    /// Who published it.
    pub instance_id: Name,
    /// The publication.
    pub item: Item,
}

/// Why an entry of ours can't be read: it counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The field is missing.
    #[error("the entry has no \"{0}\"")]
    Missing(&'static str),
    /// The field has a value that the script never writes.
    #[error("the entry's \"{0}\" can't be read")]
    Damaged(&'static str),
}

/// Reads what stands on the channel.
///
/// # Errors
/// See [`EnvelopeError`].
pub fn parse(bytes: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(EnvelopeError::TooLong);
    }
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| EnvelopeError::Malformed)?;
    match parse_own(text) {
        Some(envelope) => Ok(envelope),
        None => parse_any(text),
    }
}

/// Reads what the script wrote; `None`: it did not write this.
fn parse_own(text: &str) -> Option<Envelope<'_>> {
    let rest = text.strip_prefix(r#"{"instance_id":""#)?;
    let (instance_id, rest) = split_at_byte(rest, b'"')?;
    let rest = rest.strip_prefix(r#","epoch":""#)?;
    let (epoch, rest) = rest.split_at_checked(20)?;
    let rest = rest.strip_prefix(r#"","seq":"#)?;
    let (seq, rest) = leading_number(rest)?;
    let rest = rest.strip_prefix(r#","entry":""#)?;
    let (entry, rest) = split_at_byte(rest, b'"')?;
    let rest = rest.strip_prefix(r#","payload":"#)?;
    let payload = rest.strip_suffix('}')?;
    if instance_id.contains('\\')
        || !name_is_valid(instance_id)
        || !payload.starts_with(r#"{"type":"message","room":"#)
        || sent_at(payload.as_bytes()).is_none()
    {
        return None;
    }
    Some(Envelope {
        instance_id: instance_id.into(),
        place: Some(Place {
            epoch: Epoch::parse(epoch)?,
            seq,
            entry: entry_of(entry)?,
        }),
        payload,
    })
}

#[derive(serde::Deserialize)]
struct RawEnvelope<'a> {
    #[serde(borrow)]
    instance_id: Cow<'a, str>,
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
    #[serde(borrow)]
    entry: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Reads any JSON that will do.
fn parse_any(text: &str) -> Result<Envelope<'_>, EnvelopeError> {
    let raw: RawEnvelope<'_> = serde_json::from_str(text).map_err(|_| EnvelopeError::Malformed)?;
    if !name_is_valid(&raw.instance_id) {
        return Err(EnvelopeError::Malformed);
    }
    let payload = raw.payload.get();
    if depth(payload) > JSON_DEPTH_MAX {
        return Err(EnvelopeError::TooDeep);
    }
    let place = match (raw.epoch, raw.seq, raw.entry) {
        (None, None, None) => None,
        (Some(epoch), Some(seq), Some(entry)) => {
            let read = || {
                let epoch: Cow<'_, str> = serde_json::from_str(epoch.get()).ok()?;
                let entry: Cow<'_, str> = serde_json::from_str(entry.get()).ok()?;
                Some(Place {
                    epoch: Epoch::parse(&epoch)?,
                    seq: whole_number(seq.get())?,
                    entry: entry_of(&entry)?,
                })
            };
            Some(read().ok_or(EnvelopeError::Place)?)
        }
        _ => return Err(EnvelopeError::Place),
    };
    Ok(Envelope {
        instance_id: raw.instance_id.as_ref().into(),
        place,
        payload,
    })
}

/// Whose `message` frame this is; `None`: it is none.
pub fn frame_of(payload: &str) -> Option<FrameHead> {
    frame_of_own(payload).or_else(|| frame_of_any(payload))
}

/// When a `message` frame was sent, if it ends as `protocol` writes it.
pub fn sent_at(payload: &[u8]) -> Option<Timestamp> {
    let rest = payload.strip_suffix(br#""}"#)?;
    let (rest, time) = rest.split_at_checked(rest.len().checked_sub(TIMESTAMP_BYTES)?)?;
    Timestamp::parse(time).filter(|_| rest.ends_with(br#","sent_at":""#))
}

/// Reads a frame as `protocol` writes it, if its room needs no escapes.
fn frame_of_own(text: &str) -> Option<FrameHead> {
    let rest = text.strip_prefix(r#"{"type":"message","room":""#)?;
    let (room, rest) = split_at_byte(rest, b'"')?;
    if room.contains('\\') {
        return None;
    }
    let (offset, rest) = leading_number(rest.strip_prefix(r#","offset":"#)?)?;
    let (id, rest) = rest.strip_prefix(r#","id":""#)?.split_at_checked(36)?;
    rest.strip_prefix(r#"","#)?;
    Some(FrameHead {
        room: RoomName::parse(room).ok()?,
        offset,
        id: id_of(id)?,
    })
}

#[derive(serde::Deserialize)]
struct RawFrame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    room: Cow<'a, str>,
    #[serde(borrow)]
    offset: &'a RawValue,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

fn frame_of_any(text: &str) -> Option<FrameHead> {
    let raw: RawFrame<'_> = serde_json::from_str(text).ok()?;
    if raw.kind != "message" {
        return None;
    }
    Some(FrameHead {
        room: RoomName::parse(&raw.room).ok()?,
        offset: whole_number(raw.offset.get())?,
        id: id_of(&raw.id)?,
    })
}

/// Reads what stands on the channel, frame and all.
///
/// # Errors
/// See [`EnvelopeError`].
pub fn item(bytes: &Bytes) -> Result<Received, EnvelopeError> {
    let Envelope {
        instance_id,
        place,
        payload,
    } = parse(bytes)?;
    let json = bytes.slice_ref(payload.as_bytes());
    let Some(place) = place else {
        return Ok(Received::Passing {
            room: room_of(payload)?,
            instance_id,
            json,
        });
    };
    let FrameHead { room, offset, id } = frame_of(payload).ok_or(EnvelopeError::NotMessage)?;
    if offset == 0 {
        return Err(EnvelopeError::NotMessage);
    }
    Ok(Received::Item {
        instance_id,
        item: Item {
            place,
            room,
            offset,
            id,
            json,
        },
    })
}

/// Whose members a payload without a place is for. No room, or an empty one, means all.
fn room_of(payload: &str) -> Result<Option<RoomName>, EnvelopeError> {
    #[derive(serde::Deserialize)]
    struct OfRoom<'a> {
        #[serde(borrow)]
        room: Option<&'a RawValue>,
    }
    // An array would be read as an object's members in order.
    if !payload.starts_with('{') {
        return Ok(None);
    }
    let room = match serde_json::from_str::<OfRoom<'_>>(payload) {
        Ok(OfRoom { room: Some(room) }) => serde_json::from_str::<Cow<'_, str>>(room.get()),
        Ok(OfRoom { room: None }) => return Ok(None),
        Err(_) => return Err(EnvelopeError::Malformed),
    };
    match room {
        Ok(room) if room.is_empty() => Ok(None),
        Ok(room) => RoomName::parse(&room)
            .map(Some)
            .map_err(|_| EnvelopeError::Room),
        Err(_) => Err(EnvelopeError::Room),
    }
}

/// Reads an entry of the stream. `None`: a foreign writer's, which has no place.
///
/// # Errors
/// See [`EntryError`].
pub fn entry(
    id: EntryId,
    fields: &[(Bytes, Bytes)],
    encode: Encode,
) -> Result<Option<EntryItem>, EntryError> {
    let fields = Fields(fields);
    if ["epoch", "offset", "seq"]
        .iter()
        .all(|name| fields.optional(name).is_none())
    {
        return Ok(None);
    }
    let place = Place {
        epoch: fields.read("epoch", Epoch::parse)?,
        seq: fields.read("seq", whole_number)?,
        entry: id,
    };
    let name = |text: &str| name_is_valid(text).then(|| Name::from(text));
    let username = match fields.optional("username") {
        Some(_) => Some(fields.read("username", name)?),
        None => None,
    };
    let metadata = match fields.optional("metadata") {
        Some(metadata) if metadata.len() > METADATA_BYTES_MAX => {
            return Err(EntryError::Damaged("metadata"));
        }
        Some(_) => Some(fields.json("metadata")?),
        None => None,
    };
    let publication = Publication {
        room: fields.read("room_name", |text| RoomName::parse(text).ok())?,
        epoch: place.epoch,
        offset: fields.read("offset", |text| whole_number(text).filter(|&it| it > 0))?,
        id: fields.read("id", id_of)?,
        client_id_given: false,
        user_id: fields.read("user_id", name)?,
        username,
        payload: fields.json("payload")?,
        metadata,
        sent_at: fields.read("sent_at", |text| Timestamp::parse(text.as_bytes()))?,
    };
    let mut json = Vec::new();
    encode(&mut json, &publication);
    Ok(Some(EntryItem {
        instance_id: fields.read("instance_id", name)?,
        item: Item {
            place,
            room: publication.room,
            offset: publication.offset,
            id: publication.id,
            json: json.into(),
        },
    }))
}

/// The fields of an entry by name; one without a value is the empty text.
struct Fields<'a>(&'a [(Bytes, Bytes)]);

impl<'a> Fields<'a> {
    fn optional(&self, name: &str) -> Option<&'a Bytes> {
        let found = self.0.iter().find(|(field, _)| field == name.as_bytes());
        found.map(|(_, value)| value).filter(|it| !it.is_empty())
    }

    fn read<V>(
        &self,
        name: &'static str,
        read: impl FnOnce(&str) -> Option<V>,
    ) -> Result<V, EntryError> {
        let value = self.optional(name).ok_or(EntryError::Missing(name))?;
        simdutf8::basic::from_utf8(value)
            .ok()
            .and_then(read)
            .ok_or(EntryError::Damaged(name))
    }

    fn json(&self, name: &'static str) -> Result<Bytes, EntryError> {
        let is_json = |text: &str| {
            serde_json::from_str::<&RawValue>(text).is_ok() && depth(text) <= JSON_DEPTH_MAX
        };
        self.read(name, |text| is_json(text).then_some(()))?;
        self.optional(name)
            .cloned()
            .ok_or(EntryError::Missing(name))
    }
}

#[cfg(test)]
mod tests;
