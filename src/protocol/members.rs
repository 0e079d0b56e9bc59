//! The members of a client's frame, or of a body that is posted, as raw JSON text.
//!
//! It knows which names there are and not what they mean: serde_json splits the object, each value
//! stays the text it was, and what is no name of ours is skipped.
//!
//! Invariant: each text is one valid JSON value, without white space around it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members that any command or publication has, as raw text.
#[derive(Default)]
pub(super) struct Members<'a> {
    members: [Option<&'a RawValue>; Member::COUNT],
    /// A member that stands there twice.
    pub(super) twice: Option<Member>,
}

#[derive(Clone, Copy)]
pub(super) enum Member {
    Type,
    Room,
    Payload,
    Metadata,
    Id,
    Echo,
    Ref,
    Username,
    Since,
    Presence,
    Token,
    UserId,
}

impl Member {
    const COUNT: usize = 12;
    const NAMES: [&'static str; Self::COUNT] = [
        "type", "room", "payload", "metadata", "id", "echo", "ref", "username", "since",
        "presence", "token", "user_id",
    ];

    pub(super) const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "type" => Self::Type,
            "room" => Self::Room,
            "payload" => Self::Payload,
            "metadata" => Self::Metadata,
            "id" => Self::Id,
            "echo" => Self::Echo,
            "ref" => Self::Ref,
            "username" => Self::Username,
            "since" => Self::Since,
            "presence" => Self::Presence,
            "token" => Self::Token,
            "user_id" => Self::UserId,
            _ => return None,
        })
    }
}

impl<'a> Members<'a> {
    /// The member's raw text.
    pub(super) fn raw(&self, member: Member) -> Option<&'a str> {
        self.members[member as usize].map(RawValue::get)
    }

    /// The member's raw text; `null` counts as absent.
    pub(super) fn optional(&self, member: Member) -> Option<&'a str> {
        self.raw(member).filter(|raw| *raw != "null")
    }
}

/// The string that `raw`, a valid JSON value, is; borrowed if it has no escapes.
pub(super) fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some(Key(member)) = map.next_key()? {
            let Some(member) = member else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let raw = map.next_value::<&RawValue>()?;
            match &mut members.members[member as usize] {
                Some(_) => members.twice = Some(member),
                empty => *empty = Some(raw),
            }
        }
        Ok(members)
    }
}

/// A member's name; `None`: not one of ours.
struct Key(Option<Member>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(Key(Member::parse(name)))
            }
        }
        deserializer.deserialize_identifier(KeyVisitor)
    }
}
