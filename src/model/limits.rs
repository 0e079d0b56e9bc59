//! Every named maximum that is no setting, and how they relate.

/// Bytes of a room's name.
pub const ROOM_NAME_BYTES_MAX: usize = 128;
/// Bytes of a user id or display name.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of a frame's `ref`, as JSON text.
pub const REF_BYTES_MAX: usize = 256;
/// Bytes of a publication's metadata, as JSON text.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
/// Nesting of a frame, its payload and metadata included.
pub const JSON_DEPTH_MAX: usize = 128;
/// Bytes of an HTTP request's head.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request's target (path and query).
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Header fields of a request.
pub const HEADERS_MAX: usize = 100;
/// Bytes that one read takes from a socket at most.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// Users that a `members` frame lists at most.
pub const MEMBERS_LISTED_MAX: usize = 1000;

/// Publishes of one connection that are not acked yet.
pub const CONNECTION_CREDITS: u32 = 1024;
/// Bytes of such publishes; one more is let in while below it.
pub const CONNECTION_CREDIT_BYTES: usize = 1024 * 1024;
/// Requests from one shard to another that are not answered yet.
pub const SHARD_CREDITS: u32 = 16 * 1024;
/// Bytes of such requests.
pub const SHARD_CREDIT_BYTES: usize = 32 * 1024 * 1024;
/// Batches of mail in a shard's mailbox.
pub const MAILBOX_BATCHES: usize = 256;
/// Bytes of deliveries that wait for room in another shard's mailbox, before that shard reads on
/// from the home shard's room log instead.
pub const LANE_DELIVERY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that wait in a connection's outbox for the socket, beyond which it is not read: what can
/// still come is what was let in before, which credits bound.
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024;
/// How long a blocked socket may take no byte before it is closed, in ms (PROTOCOL 4).
pub const NO_PROGRESS_MS: u64 = 10_000;
/// How long a connection that was told to close may take to do so, in ms.
pub const CLOSING_MS: u64 = 2_000;
/// Ticks in which all connections are looked at once: what is due is done within a second, also
/// when the ticks come late.
pub const TICKS_A_ROUND: usize = 8;
/// Bytes of credit that a request takes beyond what it carries, for the answer to it.
pub const REQUEST_OVERHEAD_BYTES: usize = 256;
/// Bytes of credit that a `members` request takes: its answer may be long.
pub const MEMBERS_CREDIT_BYTES: usize = 128 * 1024;
/// Bytes of signals and presence that a room gathers in one turn; what is over is dropped.
pub const LANE_TURN_BYTES_MAX: usize = 64 * 1024;
/// First and largest size of a room log's chunk; a larger frame gets a chunk of its own.
pub const CHUNK_BYTES_MIN: usize = 256;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one page of a resume.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Publications of one page of a resume.
pub const PAGE_PUBLICATIONS_MAX: usize = 1000;
/// Sends of one room's sweep before others are read.
pub const SWEEP_SENDS_MAX: usize = 200;

/// Publications of one commit to the embedded store.
pub const COMMIT_PUBLICATIONS_MAX: usize = 4096;
/// Client-supplied message ids that one shard remembers.
pub const REMEMBERED_IDS_MAX: usize = 1_000_000;

const _: () = assert!(CHUNK_BYTES_MIN <= CHUNK_BYTES_MAX);
const _: () = assert!(CONNECTION_CREDITS <= SHARD_CREDITS);
const _: () = assert!(CONNECTION_CREDIT_BYTES <= SHARD_CREDIT_BYTES);
const _: () = assert!(HEAD_BYTES_MAX <= READ_BYTES_MAX);
const _: () = assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
const _: () = assert!(METADATA_BYTES_MAX < OUTBOX_BYTES_MAX);
