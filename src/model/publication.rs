//! One message accepted into a room.

use bytes::Bytes;

use super::{Epoch, Name, RoomName};

/// The id of a publication: the client's own, or a UUIDv7 of the server's.
pub type MessageId = uuid::Uuid;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// Bytes of a time as text.
pub const TIMESTAMP_BYTES: usize = SHAPE.len();
/// A time as text; where it has a `0` any digit may stand.
const SHAPE: &[u8; 24] = b"0000-00-00T00:00:00.000Z";

impl Timestamp {
    /// The time that `text` has: RFC 3339 in UTC with milliseconds, from 1970 on, as `protocol`
    /// writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: &[u8; TIMESTAMP_BYTES] = text.as_bytes().try_into().ok()?;
        // All at once, without an early end: each envelope has one.
        let is_shaped = bytes.iter().zip(SHAPE).fold(true, |all, (&byte, shape)| {
            all & match shape {
                b'0' => byte.is_ascii_digit(),
                mark => byte == *mark,
            }
        });
        if !is_shaped {
            return None;
        }
        let digit = |at: usize| u64::from(bytes[at] & 15);
        let two = |at: usize| digit(at) * 10 + digit(at + 1);
        let (year, month, day) = (two(0) * 100 + two(2), two(5), two(8));
        let (hour, minute, second) = (two(11), two(14), two(17));
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let month_days = match month {
            2 => 28 + u64::from(is_leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let is_time = hour < 24 && minute < 60 && second < 60;
        if year < 1970 || !(1..=month_days).contains(&day) || !is_time {
            return None;
        }
        // Howard Hinnant's `days_from_civil`: years begin in March, so the leap day is the last.
        let from_march = year - u64::from(month <= 2);
        let (era, year_of_era) = (from_march / 400, from_march % 400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
        Some(Self(seconds * 1000 + two(20) * 10 + digit(22)))
    }
}

/// One message accepted into a room, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The room.
    pub room: RoomName,
    /// The life of the room's offsets that `offset` belongs to.
    pub epoch: Epoch,
    /// From 1, without holes within an epoch.
    pub offset: u64,
    /// Unique within the room.
    pub id: MessageId,
    /// Whether the client supplied the id, which is then remembered for `--dedupe-window`.
    pub client_id_given: bool,
    /// Who published.
    pub user_id: Name,
    /// Under what name, if any.
    pub username: Option<Name>,
    /// The payload: JSON text, byte for byte as it was sent.
    pub payload: Bytes,
    /// The metadata: JSON text, byte for byte as it was sent.
    pub metadata: Option<Bytes>,
    /// When the home shard took it.
    pub sent_at: Timestamp,
}
