//! The call of `publish.lua`: messages out, what became of each back.
//!
//! The frame that clients get has the offset in its midst, which only the script knows. So Rust
//! writes the frame once, by [`Encode`], and cuts it; the script joins it again around the offset,
//! byte for byte what [`Encode`] would have written:
//!
//! ```text
//! {"type":"message","room":R,"offset":N,"id":I,…,"payload":P,"metadata":M,"sent_at":"T"}
//! └────────────── head ──────────────┘└────── mid ────────┘└ payload, metadata, sent_at
//! ```

use bytes::Bytes;

use super::{ReplyError, entry, epoch, list, natural, number, push_call, text};
use crate::backplane::redis::Encode;
use crate::backplane::redis::names::Names;
use crate::model::limits::{SCRIPT_IDS_MAX, SCRIPT_MESSAGES_MAX};
use crate::model::{EntryId, Epoch, Publication};
use crate::resp::{Refusal, Value};

/// Arguments of a call before its messages, and of each message.
const HEADER: usize = 9;
const FIELDS: usize = 10;
/// About what a message takes beyond its payload and metadata, names of usual length in it; and
/// what a call takes beyond its messages.
const MESSAGE_BYTES: usize = 512;

/// Who calls: what is the same in all calls of an instance on a partition.
#[derive(Clone, Debug)]
pub struct Caller {
    names: Names,
    instance: String,
    instance_json: String,
    dedupe_window_ms: u64,
    encode: Encode,
}

/// One call: messages with consecutive numbers.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Whose numbers these are.
    pub producer: &'a str,
    /// The producer's first number that isn't settled: what is below will not be sent again.
    pub base: u64,
    /// The number of the first message. At least `base`; from 1.
    pub first_number: u64,
    /// One to [`SCRIPT_MESSAGES_MAX`]. Their epochs and offsets don't matter.
    pub messages: &'a [Publication],
}

impl Caller {
    /// Calls for that instance. `dedupe_window_ms`: how long ids of clients are remembered.
    pub fn new(names: Names, instance: &str, dedupe_window_ms: u64, encode: Encode) -> Self {
        Self {
            names,
            instance: instance.into(),
            // JSON of a str does not fail.
            instance_json: serde_json::to_string(instance).unwrap_or_default(),
            dedupe_window_ms,
            encode,
        }
    }

    /// Appends the call. `candidate` is the epoch to begin if Redis has lost its state.
    pub fn push(&self, out: &mut Vec<u8>, sha: &[u8], candidate: Epoch, call: &Call<'_>) {
        debug_assert!((1..=SCRIPT_MESSAGES_MAX).contains(&call.messages.len()));
        debug_assert!(call.first_number >= 1 && call.base >= 1);
        let Names {
            state, stream, ids, ..
        } = &self.names;
        let keys = [&**state, &**stream, &*ids[0], &*ids[1]];
        let bytes = |message: &Publication| {
            let metadata = message.metadata.as_ref().map_or(0, Bytes::len);
            MESSAGE_BYTES + message.payload.len() + metadata
        };
        out.reserve(MESSAGE_BYTES + call.messages.iter().map(bytes).sum::<usize>());
        let mut command = push_call(out, sha, &keys, HEADER + FIELDS * call.messages.len());
        command.arg(self.names.broadcast.as_bytes());
        command.arg(self.instance_json.as_bytes());
        command.arg(self.instance.as_bytes());
        command.arg(candidate.as_str().as_bytes());
        command.arg(call.producer.as_bytes());
        command.number(call.base).number(call.first_number);
        command.number(self.dedupe_window_ms);
        command.number(SCRIPT_IDS_MAX as u64);
        let mut frame = Vec::new();
        for message in call.messages {
            frame.clear();
            (self.encode)(&mut frame, message);
            // Frames are our own: one that can't be cut is a bug, which every test would meet.
            let parts = Parts::of(&frame, message).expect("a frame has offset, payload, sent_at");
            let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
            let id = message.id.hyphenated().encode_lower(&mut id);
            command.arg(message.room.as_str().as_bytes());
            command.arg(message.user_id.as_bytes());
            command.arg(message.username.as_deref().unwrap_or_default().as_bytes());
            command.arg(&message.payload);
            command.arg(message.metadata.as_deref().unwrap_or_default());
            command.arg(id.as_bytes());
            command.arg(if message.client_id_given { b"1" } else { b"0" });
            command.arg(parts.sent_at).arg(parts.head).arg(parts.mid);
        }
    }
}

/// A frame, cut where the script joins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Up to the offset.
    pub head: &'a [u8],
    /// From behind the offset to the payload.
    pub mid: &'a [u8],
    /// The time in it, without quotes.
    pub sent_at: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Cuts the frame of that publication; `None` if it is no such frame.
    pub fn of(frame: &'a [u8], publication: &Publication) -> Option<Self> {
        const OFFSET: &[u8] = br#","offset":"#;
        // From the end: what is known there has a known length.
        let rest = frame.strip_suffix(br#""}"#)?;
        let quote = memchr::memrchr(b'"', rest)?;
        let (rest, sent_at) = (rest.get(..quote)?, rest.get(quote + 1..)?);
        let mut rest = rest.strip_suffix(br#","sent_at":"#)?;
        if let Some(metadata) = &publication.metadata {
            rest = rest.strip_suffix(&**metadata)?;
            rest = rest.strip_suffix(br#","metadata":"#)?;
        }
        let rest = rest.strip_suffix(&*publication.payload)?;
        // The first one is it: before it is the room, where a quote is escaped.
        let is_it = |&at: &usize| rest[at..].starts_with(OFFSET);
        let offset = memchr::memchr_iter(b',', rest).find(is_it)? + OFFSET.len();
        let (head, rest) = rest.split_at(offset);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mid = rest.get(digits..)?;
        (digits > 0 && mid.ends_with(br#","payload":"#)).then_some(Self { head, mid, sent_at })
    }
}

/// How far a call came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// To its end.
    Done,
    /// Nowhere: numbers before its first are missing.
    Behind,
    /// To the message that Redis refused to store: the one behind the last result.
    Refused(Refusal),
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishReply {
    /// The epoch of the offsets.
    pub epoch: Epoch,
    /// The partition's last number after this call: the last message stored here has it.
    pub seq: u64,
    /// The entry of the last message stored here, if any was.
    pub entry: Option<EntryId>,
    /// How far it came.
    pub status: Status,
    /// A result a message: above 0: stored, at that offset; below 0: the client's id was
    /// published before, at minus that; 0: that number was taken before.
    pub results: Vec<i64>,
    /// It is stored, but something was refused afterwards (telling it, remembering the ids).
    pub warning: Option<Refusal>,
}

impl PublishReply {
    /// Reads the reply to a call of `messages` messages.
    pub fn decode(reply: Value, messages: usize) -> Result<Self, ReplyError> {
        let mut reply = list(reply)?.into_iter();
        let epoch = epoch(reply.next())?;
        let seq = natural(number(reply.next())?)?;
        let status = text(reply.next())?;
        let why = text(reply.next())?;
        let entry = entry(reply.next())?;
        let results = reply.map(|result| number(Some(result)));
        let results = results.collect::<Result<Vec<_>, _>>()?;
        let (status, warning) = match &*status {
            b"ok" if results.len() == messages => {
                (Status::Done, (!why.is_empty()).then(|| refusal(&why)))
            }
            b"behind" if results.is_empty() => (Status::Behind, None),
            b"error" if results.len() < messages => (Status::Refused(refusal(&why)), None),
            b"ok" | b"behind" | b"error" => {
                return Err(ReplyError::Malformed(
                    "it has not as many results as its status says",
                ));
            }
            _ => return Err(ReplyError::Malformed("its status is none")),
        };
        // Numbers rise, so those that were taken before come first.
        let taken = results.iter().take_while(|&&result| result == 0).count();
        let stored = results.iter().filter(|&&result| result > 0).count();
        if results[taken..].contains(&0) || results.contains(&i64::MIN) || seq < stored as u64 {
            return Err(ReplyError::Malformed("its results contradict each other"));
        }
        Ok(Self {
            epoch,
            seq,
            entry,
            status,
            results,
            warning,
        })
    }
}

fn refusal(text: &Bytes) -> Refusal {
    Refusal::new(String::from_utf8_lossy(text))
}

#[cfg(test)]
mod tests;
