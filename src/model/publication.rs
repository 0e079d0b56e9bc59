//! One message accepted into a room.

use bytes::Bytes;

use super::{Epoch, Name, RoomName};

/// The id of a publication: the client's own, or a UUIDv7 of the server's.
pub type MessageId = uuid::Uuid;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

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
