//! What clients send: one JSON object a frame (PROTOCOL 3).
//!
//! ```text
//!   {"type":"publish","room":"a","payload":{…},"metadata":{…},"id":"…","echo":false,"ref":1}
//!            │               │          └──── raw text, borrowed ────┘              └ raw text
//!            └ which command └ borrowed unless it has escapes
//! ```
//!
//! A frame is read in three steps: [`storable`] looks at the raw text, serde_json
//! splits the object into raw members, and each command takes and checks the members it knows.
//! Unknown members are ignored. A member that is `null` counts as absent, but for `payload`, of
//! which `null` is a value.
//!
//! Invariants: `payload`, `metadata` and `reference` of an accepted command are valid, storable
//! JSON; rooms and names are valid; a [`Refusal`] bears the frame's `ref` whenever that could be
//! read.

use std::borrow::Cow;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::members::{Member, Members, text};
use super::storable::{self, Unstorable};
use crate::model::limits::{METADATA_BYTES_MAX, NAME_BYTES_MAX, REF_BYTES_MAX};
use crate::model::{Epoch, ErrorCode, RoomName, name_is_valid};

/// Offsets above this lose digits in clients whose numbers are doubles.
const OFFSET_MAX: u64 = 1 << 53;
/// Characters of an unknown `type` that are told back.
const TOLD_CHARS_MAX: usize = 32;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Join a room.
    Join {
        /// A valid room name.
        room: Cow<'a, str>,
        /// A valid name.
        username: Option<Cow<'a, str>>,
        /// First replay what came after this.
        since: Option<Since>,
        /// Tell me who comes and goes.
        presence: bool,
    },
    /// Leave a room.
    Leave {
        /// A valid room name.
        room: Cow<'a, str>,
    },
    /// Publish a message.
    Publish {
        /// A valid room name.
        room: Cow<'a, str>,
        /// JSON text.
        payload: &'a str,
        /// JSON text.
        metadata: Option<&'a str>,
        /// The client's own id.
        id: Option<Uuid>,
        /// Whether the message itself is to come back, if the sender is a member.
        echo: bool,
    },
    /// Tell the members now, and store nothing.
    Signal {
        /// A valid room name.
        room: Cow<'a, str>,
        /// JSON text.
        payload: &'a str,
    },
    /// Who is there? Always with a `ref`.
    Members {
        /// A valid room name.
        room: Cow<'a, str>,
    },
    /// A new token for this connection.
    Refresh {
        /// Not checked.
        token: Cow<'a, str>,
    },
    /// Answered by `pong`.
    Ping,
}

/// Where a client that comes back has left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// `None`: not one of ours, so that nothing can be resumed.
    pub epoch: Option<Epoch>,
    /// At most 2^53.
    pub offset: u64,
}

/// A frame that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked for.
    pub command: Command<'a>,
    /// The JSON text of `ref`, to be given back with the answer.
    pub reference: Option<&'a str>,
}

/// A frame that was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// What kind of wrong.
    pub code: ErrorCode,
    /// What to do about it.
    pub message: Cow<'static, str>,
    /// The JSON text of `ref`, if it could be read.
    pub reference: Option<&'a str>,
}

/// An error still without its `ref`.
pub(super) type Fault = (ErrorCode, Cow<'static, str>);

/// Reads one text frame.
///
/// # Errors
/// The [`Refusal`] to be told to the client. The connection goes on.
pub fn parse(text: &str) -> Result<Request<'_>, Refusal<'_>> {
    let storable = storable::check(text);
    let members = serde_json::from_str::<Members<'_>>(text).map_err(|error| Refusal {
        code: ErrorCode::BadJson,
        message: match storable {
            Err(reason @ Unstorable::TooDeep) => reason.to_string().into(),
            _ => format!("send one JSON object a frame: {error}").into(),
        },
        reference: None,
    })?;
    let reference = members.reference();
    let command = match storable {
        Err(reason) => Err((ErrorCode::BadJson, reason.to_string().into())),
        Ok(()) => members.command(),
    };
    match command {
        Ok(command) => Ok(Request { command, reference }),
        Err((code, message)) => Err(Refusal {
            code,
            message,
            reference,
        }),
    }
}

impl<'a> Members<'a> {
    /// The `ref`, if it is one that can be given back.
    fn reference(&self) -> Option<&'a str> {
        self.optional(Member::Ref)
            .filter(|raw| raw.len() <= REF_BYTES_MAX && storable::check_within(raw, 1).is_ok())
    }

    fn command(&self) -> Result<Command<'a>, Fault> {
        self.check_once()?;
        let kind = self.text(Member::Type)?;
        if self
            .optional(Member::Ref)
            .is_some_and(|raw| raw.len() > REF_BYTES_MAX)
        {
            return Err(bad_frame(format!(
                "\"ref\" has at most {REF_BYTES_MAX} bytes"
            )));
        }
        match &*kind {
            "publish" => Ok(Command::Publish {
                room: self.room()?,
                payload: self.payload()?,
                metadata: self.metadata()?,
                id: self.id()?,
                echo: self.flag(Member::Echo)?.unwrap_or(true),
            }),
            "signal" => Ok(Command::Signal {
                room: self.room()?,
                payload: self.payload()?,
            }),
            "join" => Ok(Command::Join {
                room: self.room()?,
                username: self.username()?,
                since: self.since()?,
                presence: self.flag(Member::Presence)?.unwrap_or(false),
            }),
            "leave" => Ok(Command::Leave { room: self.room()? }),
            "members" if self.optional(Member::Ref).is_none() => Err(bad_frame(
                "\"members\" needs a \"ref\", to tell its answer by",
            )),
            "members" => Ok(Command::Members { room: self.room()? }),
            "refresh" => Ok(Command::Refresh {
                token: self.text(Member::Token)?,
            }),
            "ping" => Ok(Command::Ping),
            other => Err(unknown_type(other)),
        }
    }

    /// No member stands there twice.
    pub(super) fn check_once(&self) -> Result<(), Fault> {
        self.twice.map_or(Ok(()), |member| {
            Err(bad_frame(format!("send \"{}\" once", member.name())))
        })
    }

    fn room(&self) -> Result<Cow<'a, str>, Fault> {
        let room = self.text(Member::Room)?;
        RoomName::check(&room)
            .map_err(|error| (ErrorCode::BadRoom, Cow::Owned(error.to_string())))?;
        Ok(room)
    }

    /// JSON `null` is a payload like any other.
    pub(super) fn payload(&self) -> Result<&'a str, Fault> {
        self.raw(Member::Payload).ok_or_else(|| {
            bad_frame("\"payload\" is missing: send any JSON value, null if need be")
        })
    }

    pub(super) fn metadata(&self) -> Result<Option<&'a str>, Fault> {
        let metadata = self.optional(Member::Metadata);
        if metadata.is_some_and(|raw| raw.len() > METADATA_BYTES_MAX) {
            let message = format!("\"metadata\" has at most {METADATA_BYTES_MAX} bytes");
            return Err((ErrorCode::TooLarge, message.into()));
        }
        Ok(metadata)
    }

    pub(super) fn id(&self) -> Result<Option<Uuid>, Fault> {
        let Some(raw) = self.optional(Member::Id) else {
            return Ok(None);
        };
        // Of the forms of a UUID only the one that is told back, so that a client knows its own.
        text(raw)
            .filter(|id| id.len() == uuid::fmt::Hyphenated::LENGTH)
            .and_then(|id| Uuid::try_parse(&id).ok())
            .map(Some)
            .ok_or_else(|| bad_frame("\"id\" must be a UUID of 36 characters, with hyphens"))
    }

    fn username(&self) -> Result<Option<Cow<'a, str>>, Fault> {
        self.name_of(Member::Username)
    }

    /// A name, if it is there.
    pub(super) fn name_of(&self, member: Member) -> Result<Option<Cow<'a, str>>, Fault> {
        let Some(raw) = self.optional(member) else {
            return Ok(None);
        };
        text(raw)
            .filter(|name| name_is_valid(name))
            .map(Some)
            .ok_or_else(|| {
                bad_frame(format!(
                    "\"{}\" must be a string of 1 to {NAME_BYTES_MAX} bytes without control \
                     characters",
                    member.name()
                ))
            })
    }

    fn since(&self) -> Result<Option<Since>, Fault> {
        let Some(raw) = self.optional(Member::Since) else {
            return Ok(None);
        };
        let since = serde_json::from_str::<RawSince<'_>>(raw).ok();
        since
            .and_then(|since| {
                let epoch = Epoch::parse(&text(since.epoch.get())?);
                let offset = since
                    .offset
                    .get()
                    .parse()
                    .ok()
                    .filter(|&n| n <= OFFSET_MAX)?;
                Some(Some(Since { epoch, offset }))
            })
            .ok_or_else(|| {
                bad_frame(
                    "\"since\" must be {\"epoch\":string,\"offset\":whole number from 0 to 2^53}",
                )
            })
    }

    fn flag(&self, member: Member) -> Result<Option<bool>, Fault> {
        match self.optional(member) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad_frame(format!(
                "\"{}\" must be true or false",
                member.name()
            ))),
        }
    }

    /// A string that must be there.
    fn text(&self, member: Member) -> Result<Cow<'a, str>, Fault> {
        let name = member.name();
        let raw = self
            .optional(member)
            .ok_or_else(|| bad_frame(format!("\"{name}\" is missing: send it as a string")))?;
        text(raw).ok_or_else(|| bad_frame(format!("\"{name}\" must be a string")))
    }
}

#[derive(serde::Deserialize)]
struct RawSince<'a> {
    #[serde(borrow)]
    epoch: &'a RawValue,
    #[serde(borrow)]
    offset: &'a RawValue,
}

fn bad_frame(message: impl Into<Cow<'static, str>>) -> Fault {
    (ErrorCode::BadFrame, message.into())
}

fn unknown_type(kind: &str) -> Fault {
    let told: String = kind
        .chars()
        .filter(|c| !c.is_control())
        .take(TOLD_CHARS_MAX)
        .collect();
    let message =
        format!("\"{told}\" is none of join, leave, publish, signal, members, refresh, ping");
    (ErrorCode::UnknownType, message.into())
}

#[cfg(test)]
mod tests;
