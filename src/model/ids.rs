//! Names and ids: of clients, users and rooms.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;

use super::limits::{NAME_BYTES_MAX, ROOM_NAME_BYTES_MAX};

/// A user's id or display name: at most [`NAME_BYTES_MAX`] bytes, no control characters
/// (see [`name_is_valid`]). Up to 24 bytes stand in place, without an allocation.
pub type Name = CompactString;

/// Whether `text` may be a user id or a display name.
pub fn name_is_valid(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !has_control(text)
}

/// Whether a control character is in `text`.
fn has_control(text: &str) -> bool {
    // No early end: a loop without one is done sixteen bytes at a time.
    let is_odd = |any, byte: u8| any | !(0x20..0x7f).contains(&byte);
    text.bytes().fold(false, is_odd) && text.chars().any(char::is_control)
}

/// One connection's id: 16 characters of `A–Z a–z 0–9 - _` (PROTOCOL 3), 96 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId([u8; 16]);

impl ClientId {
    /// The id made of 96 random bits (the low ones of `bits`).
    pub fn from_bits(bits: u128) -> Self {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = [0; 16];
        for (i, byte) in text.iter_mut().enumerate() {
            *byte = ALPHABET[(bits >> (6 * i)) as usize & 63];
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // The alphabet is ASCII, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A room's name: 1 to 128 bytes of UTF-8 without control characters (PROTOCOL 3). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

/// Why a text is no room name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomNameError {
    /// The empty text.
    #[error("a room's name must not be empty")]
    Empty,
    /// Over 128 bytes.
    #[error("a room's name has at most {ROOM_NAME_BYTES_MAX} bytes")]
    TooLong,
    /// A control character is in it.
    #[error("a room's name must not contain control characters")]
    Control,
}

impl RoomName {
    /// Checks `text` without allocating.
    pub fn check(text: &str) -> Result<(), RoomNameError> {
        if text.is_empty() {
            Err(RoomNameError::Empty)
        } else if text.len() > ROOM_NAME_BYTES_MAX {
            Err(RoomNameError::TooLong)
        } else if has_control(text) {
            Err(RoomNameError::Control)
        } else {
            Ok(())
        }
    }

    /// The room named `text`.
    pub fn parse(text: &str) -> Result<Self, RoomNameError> {
        Self::check(text).map(|()| Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user whose personal room this is: `@` + user_id.
    pub fn personal_user(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }

    /// Which of `partitions` the room belongs to: CRC16 as Redis Cluster has it (PROTOCOL 5).
    pub fn partition(&self, partitions: u16) -> u16 {
        let crc = self.0.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                (crc << 1) ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 }
            })
        });
        crc % partitions.max(1)
    }

    /// The shard of `shards` on which this room's offsets are counted when the instance runs
    /// alone: FNV-1a of the name, so that every shard computes the same without asking.
    pub fn home(&self, shards: usize) -> usize {
        let hash = self
            .0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        ((hash ^ (hash >> 32)) % shards.max(1) as u64) as usize
    }
}

impl Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_id_has_the_alphabet_of_the_protocol() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567] {
            let id = ClientId::from_bits(bits);
            assert_eq!(id.as_str().len(), 16);
            assert!(
                id.as_str()
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            );
        }
    }

    #[test]
    fn room_names() {
        assert_eq!(RoomName::check(""), Err(RoomNameError::Empty));
        assert_eq!(RoomName::check(&"x".repeat(128)), Ok(()));
        assert_eq!(
            RoomName::check(&"é".repeat(65)),
            Err(RoomNameError::TooLong)
        );
        assert_eq!(RoomName::check("a\nb"), Err(RoomNameError::Control));
        assert_eq!(RoomName::check("a\u{85}b"), Err(RoomNameError::Control));
        assert_eq!(
            RoomName::parse("@bob").unwrap().personal_user(),
            Some("bob")
        );
    }

    #[test]
    fn partitions_are_those_of_the_protocol() {
        // The check value of CRC16/XMODEM.
        let room = RoomName::parse("123456789").unwrap();
        assert_eq!(room.partition(u16::MAX), 0x31c3);
        assert_eq!(room.partition(1), 0);
    }

    #[test]
    fn homes_are_spread() {
        let mut seen = [0; 4];
        for i in 0..1000 {
            seen[RoomName::parse(&format!("room-{i}")).unwrap().home(4)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 150), "{seen:?}");
    }
}
