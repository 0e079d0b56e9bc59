//! A connection seen from a room: a cursor and a few flags, 16 bytes.

use super::encoding::Encoding;

/// The number of a connection on its shard, while it lives.
pub type ConnIndex = u32;

/// A member of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The offset of the next frame that it is to get.
    pub cursor: u64,
    /// Its connection.
    pub conn: ConnIndex,
    /// Whether it wants presence events.
    pub presence: bool,
    /// Whether it came by itself (a user's own personal room), without joining.
    pub implicit: bool,
    /// The form of frames that it takes.
    pub encoding: Encoding,
    marks: u8,
}

/// It reads pages of the past, because the log does not reach back to its cursor.
const REPLAYS: u8 = 1;
/// There are offsets that it must not get (`echo:false`).
const SKIPS: u8 = 2;

impl Member {
    /// A member that gets frames from `cursor` on.
    pub fn new(conn: ConnIndex, cursor: u64) -> Self {
        Self::with_encoding(conn, cursor, Encoding::Plain)
    }

    /// The same for one that takes another form of them.
    pub fn with_encoding(conn: ConnIndex, cursor: u64, encoding: Encoding) -> Self {
        Self {
            cursor,
            conn,
            presence: false,
            implicit: false,
            encoding,
            marks: 0,
        }
    }

    pub(super) fn replays(&self) -> bool {
        self.marks & REPLAYS != 0
    }

    pub(super) fn skips(&self) -> bool {
        self.marks & SKIPS != 0
    }

    /// Whether it gets what is in the log, all of it, and nothing else.
    pub(super) fn is_ordinary(&self) -> bool {
        self.marks == 0
    }

    pub(super) fn set_replays(&mut self, replays: bool) {
        self.mark(REPLAYS, replays);
    }

    pub(super) fn set_skips(&mut self, skips: bool) {
        self.mark(SKIPS, skips);
    }

    fn mark(&mut self, mark: u8, set: bool) {
        self.marks = if set {
            self.marks | mark
        } else {
            self.marks & !mark
        };
    }
}

const _: () = assert!(size_of::<Member>() == 16);
