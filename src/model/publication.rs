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
    pub fn parse(text: &[u8]) -> Option<Self> {
        let bytes: &[u8; TIMESTAMP_BYTES] = text.try_into().ok()?;
        if !has_shape(bytes) {
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

/// Whether all digits and marks are where they belong; eight bytes at a time, for each envelope has
/// such a text.
fn has_shape(text: &[u8; TIMESTAMP_BYTES]) -> bool {
    const TOPS: u64 = 0x8080_8080_8080_8080;
    /// What makes the top bit of any byte above 9, and of none below.
    const ABOVE_9: u64 = 0x7676_7676_7676_7676;
    let words = |bytes: &[u8; TIMESTAMP_BYTES]| {
        let (words, _) = bytes.as_chunks::<8>();
        [0, 1, 2].map(|at| u64::from_le_bytes(words[at]))
    };
    let mut is_off = 0;
    for (word, shape) in words(text).into_iter().zip(words(SHAPE)) {
        // What a digit stands for, and 0 where a mark is as it should be.
        let is = word ^ shape;
        let marks = shape
            .to_le_bytes()
            .map(|b| if b == b'0' { 0 } else { 0xff });
        is_off |= is & u64::from_le_bytes(marks);
        is_off |= (is | is.wrapping_add(ABOVE_9)) & TOPS;
    }
    is_off == 0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", Some(0)),
            ("2023-11-14T22:13:20.123Z", Some(1_700_000_000_123)),
            ("2024-02-29T23:59:59.999Z", Some(1_709_251_199_999)),
            ("2023-02-29T00:00:00.000Z", None),
            ("2023-13-01T00:00:00.000Z", None),
            ("2023-00-01T00:00:00.000Z", None),
            ("2023-01-01T24:00:00.000Z", None),
            ("2023-01-01 00:00:00.000Z", None),
            ("1969-12-31T00:00:00.000Z", None),
            ("2023-01-01T00:00:00Z", None),
            ("2023-01-01T00:00:0+.000Z", None),
        ] {
            assert_eq!(
                Timestamp::parse(text.as_bytes()),
                ms.map(Timestamp),
                "{text}"
            );
        }
    }

    #[test]
    fn a_time_has_digits_and_marks_where_they_belong_and_nowhere_else() {
        let good = b"2023-11-14T22:13:20.123Z";
        for at in 0..TIMESTAMP_BYTES {
            for byte in 0..=u8::MAX {
                let mut text = *good;
                text[at] = byte;
                let belongs = match SHAPE[at] {
                    b'0' => byte.is_ascii_digit(),
                    mark => byte == mark,
                };
                assert_eq!(has_shape(&text), belongs, "{byte} at {at}");
            }
        }
    }
}
