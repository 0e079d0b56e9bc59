//! A connection seen from a room: a cursor and a few flags, 16 bytes.

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
    /// Whether it reads pages of the past, because the log does not reach back to its cursor.
    pub(super) replays: bool,
    /// Whether there are offsets that it must not get (`echo:false`).
    pub(super) skips: bool,
}

impl Member {
    /// A member that gets frames from `cursor` on.
    pub fn new(conn: ConnIndex, cursor: u64) -> Self {
        Self {
            cursor,
            conn,
            presence: false,
            implicit: false,
            replays: false,
            skips: false,
        }
    }
}

const _: () = assert!(size_of::<Member>() == 16);
