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
/// Bytes of a token; in a query it has to fit the target, too.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How far ahead the clock of whoever makes tokens may be, in ms: of `nbf`, and not of `exp`.
pub const TOKEN_LEEWAY_MS: u64 = 5_000;
/// Keys of one `--jwt-key-file`.
pub const TOKEN_KEYS_MAX: usize = 64;
/// Bytes of a `--jwt-key-file`.
pub const TOKEN_KEY_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Keys of `--api-key`, and bytes of one.
pub const API_KEYS_MAX: usize = 16;
/// See [`API_KEYS_MAX`].
pub const API_KEY_BYTES_MAX: usize = 1024;
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

/// How many seconds' worth of a rate limit may come at once (PROTOCOL 1).
pub const RATE_BURST_SECONDS: u32 = 2;
/// How many seconds' worth of messages may be refused, beyond a second's worth in every second,
/// before the connection is closed.
pub const RATE_REFUSED_SECONDS: u32 = 4;
/// How often a shard says that an address is limited, in ms.
pub const RATE_WARN_MS: u64 = 60_000;
/// Addresses that a shard counts apart.
pub const ADDRESSES_MAX: usize = 1 << 20;
/// In how many parts all shards together tell an address' home of a burst.
pub const ADDRESS_REPORTS: u32 = 8;

/// Bytes that wait in a connection's outbox for the socket, beyond which it is not read: what can
/// still come is what was let in before, which credits bound.
pub const OUTBOX_BYTES_MAX: usize = 64 * 1024;
/// How long a blocked socket may take no byte before it is closed, in ms (PROTOCOL 4).
pub const NO_PROGRESS_MS: u64 = 10_000;
/// How long a connection that was told to close may take to do so, in ms.
pub const CLOSING_MS: u64 = 2_000;
/// How long a connection may wait for its next HTTP request, in ms.
pub const KEEP_ALIVE_MS: u64 = 15_000;
/// How long the body of a request may take, in ms.
pub const BODY_MS: u64 = 30_000;
/// Within how long a publish over HTTP is answered, in ms, if only by `unavailable` (PROTOCOL 2).
pub const PUBLISH_ANSWER_MS: u64 = 5_000;
/// Bytes of requests that wait behind the one that is worked on, beyond which a connection is not
/// read; one read may go beyond it.
pub const PIPELINE_BYTES_MAX: usize = HEAD_BYTES_MAX;
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
/// After how long a page that could not be read is read again, in ms, and how often.
pub const PAGE_RETRY_MS: u64 = 500;
/// See [`PAGE_RETRY_MS`].
pub const PAGE_TRIES_MAX: u32 = 60;
/// Bytes of a message from which on it is deflated: below that there is nothing to gain.
pub const DEFLATED_BYTES_MIN: usize = 64;
/// Bytes that an inflater keeps for the next message; a larger one's are given back.
pub const INFLATED_KEPT_BYTES_MAX: usize = 128 * 1024;
/// Deflate streams of which one message may be made: nobody needs more than one, and each costs.
pub const INFLATED_STREAMS_MAX: usize = 64;
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
const _: () = assert!(TOKEN_BYTES_MAX + API_KEY_BYTES_MAX < HEAD_BYTES_MAX);
const _: () = assert!(METADATA_BYTES_MAX < OUTBOX_BYTES_MAX);

/// Bytes of one reply of Redis.
pub const RESP_REPLY_BYTES_MAX: usize = 72 * 1024 * 1024;
/// Elements of one reply of Redis, those of all levels together.
pub const RESP_ELEMENTS_MAX: usize = 1 << 20;
/// Levels of one reply of Redis.
pub const RESP_DEPTH_MAX: usize = 32;
/// Bytes of a line of Redis (a simple string, an error, a number) before its end must have come.
pub const RESP_LINE_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(RESP_LINE_BYTES_MAX < RESP_REPLY_BYTES_MAX);
/// How long a connect to Redis may take, its name's lookup and TLS included, in ms.
pub const LINK_CONNECT_MS: u64 = 2_000;
/// Messages of one call of the script that publishes: above it nothing is gained.
pub const CALL_MESSAGES_MAX: usize = 64;
/// Bytes of one such call; a larger message goes alone.
pub const CALL_BYTES_MAX: usize = 256 * 1024;
/// Such calls of one partition that are not answered yet.
pub const CALLS_IN_FLIGHT_MAX: usize = 8;
/// How long the own item of a message is awaited that Redis says it has taken, in ms. Then its
/// publisher is told that nobody knows.
pub const UNKNOWN_MS: u64 = 5_000;
/// How long at most, though it is known why it is late.
pub const UNKNOWN_LATE_MS: u64 = 60_000;
/// How long a call may go unanswered before Redis counts as away, in ms.
pub const BREAKER_SILENCE_MS: u64 = 2_000;
/// How long there may be no connection before Redis counts as away, in ms.
pub const BREAKER_AWAY_MS: u64 = 1_000;
/// The shortest and the longest pause between two tries to connect or to probe, in ms.
pub const BREAKER_PAUSES_MS: (u64, u64) = (100, 2_000);
/// How long one WAIT for replicas may hold up what was asked behind it, in ms.
pub const REPLICAS_WAIT_MS: u64 = 250;
/// How long there may be too few replicas before that counts as a refusal, in ms.
pub const REPLICAS_AWAY_MS: u64 = 1_000;
/// Bytes of a spool's file, after which the next begins; a larger record has one of its own.
pub const SPOOL_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of one page that is read back from the spool; a larger record comes alone.
pub const SPOOL_PAGE_BYTES: usize = 1024 * 1024;
/// Bytes of records that were read back and are not stored by Redis yet, beyond which no further
/// page is read.
pub const SPOOL_HANDED_BYTES_MAX: u64 = 2 * SPOOL_PAGE_BYTES as u64;
/// Bytes of one record.
pub const SPOOL_RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Records that are left to hand over, from which on new ones wait in memory and no longer go
/// through the disk, so that the hand-over comes to its end under load too.
pub const SPOOL_LAST_RECORDS: u64 = 4096;
/// Records that are handed over, after which the spool's position is written down.
pub const SPOOL_POSITION_RECORDS: u64 = 4096;
/// How long a spool that could not be written refuses before it is tried again, in ms.
pub const SPOOL_RETRY_MS: u64 = 1_000;

const _: () = assert!(CALL_BYTES_MAX <= SPOOL_PAGE_BYTES);
const _: () = assert!(SPOOL_PAGE_BYTES as u64 <= SPOOL_SEGMENT_BYTES);
const _: () = assert!(SPOOL_RECORD_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(BREAKER_PAUSES_MS.0 < BREAKER_PAUSES_MS.1);
const _: () = assert!(BREAKER_AWAY_MS < BREAKER_SILENCE_MS && BREAKER_SILENCE_MS < UNKNOWN_MS);
// Who waits for replicas must not look silent.
const _: () = assert!(2 * REPLICAS_WAIT_MS < REPLICAS_AWAY_MS);
const _: () = assert!(REPLICAS_AWAY_MS + REPLICAS_WAIT_MS < BREAKER_SILENCE_MS);
/// Bytes that one read of a link to Redis takes at most: all that came while the last turn's sends
/// were made, so that a shard that is behind sends each member several messages at once and not
/// one. By 64 KiB a turn brought a message a room, however much waited.
pub const LINK_READ_BYTES_MAX: usize = 1024 * 1024;

const _: () = assert!(LINK_READ_BYTES_MAX <= READY_BYTES_MAX);
/// Bytes that wait to be sent to Redis while a write is under way. What is asked of Redis and not
/// answered has its own limits; beyond this the link is ended.
pub const LINK_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Messages that one call of `publish.lua` takes: it spreads lists of twice as many values, and
/// Lua ends near 8,000.
pub const SCRIPT_MESSAGES_MAX: usize = 1000;
/// Ids supplied by clients that one generation in Redis remembers, for a partition; there are two.
pub const SCRIPT_IDS_MAX: usize = 1_000_000;

const _: () = assert!(SCRIPT_MESSAGES_MAX <= SCRIPT_IDS_MAX);
/// Users on other instances that the roster remembers, one for each room and instance they are in.
pub const ROSTER_USERS_MAX: usize = 1_000_000;
/// Other instances that the roster remembers.
pub const ROSTER_INSTANCES_MAX: usize = 1000;
/// Bytes of one message on the control channel, and about as many of one change in Redis.
pub const ROSTER_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of such a message beside its rows.
pub const ROSTER_HEAD_BYTES_MAX: usize = 1024;
/// Bytes of such a message's longest row: three texts, each character escaped.
pub const ROSTER_ROW_BYTES_MAX: usize = 2 * (ROOM_NAME_BYTES_MAX + 2 * NAME_BYTES_MAX) + 16;
/// Kicks that wait for Redis.
pub const ROSTER_KICKS_MAX: usize = 1024;
/// Snapshots of other instances that are read at a time.
pub const ROSTER_FETCHES_MAX: usize = 4;
/// Bytes of deltas that are held while one snapshot is read.
pub const ROSTER_HELD_BYTES_MAX: usize = 1024 * 1024;
/// How long an instance's members stay in Redis if it does not renew them, in ms.
pub const ROSTER_LEASE_MS: u64 = 15_000;
/// How long an instance may be silent before its members vanish, in ms: below the lease, so that
/// they are gone by its end, whenever the next tick is.
pub const ROSTER_SILENCE_MS: u64 = 14_000;
/// How often an instance says where it stands, and renews its lease, in ms.
pub const ROSTER_DIGEST_MS: u64 = 5_000;
/// How long an instance may not hear itself before it doubts the channel, not the others, in ms.
pub const ROSTER_ECHO_MS: u64 = 8_000;
/// How long those who watch a room are not told that a user has left it, in ms: as long as an
/// instance takes to tell the others, and these to believe it.
pub const LEAVE_DEBOUNCE_MS: u64 = ROSTER_LEAVE_DEBOUNCE_MS + ROSTER_LEAVE_LINGER_MS;
/// Leaves of one shard's rooms that are held back; one more is told at once.
pub const LEAVING_MAX: usize = 100_000;
/// How long a user's leaving is held back, in ms.
pub const ROSTER_LEAVE_DEBOUNCE_MS: u64 = 1_000;
/// How long a user whose leaving was told stays, in ms: a join elsewhere may be on its way.
pub const ROSTER_LEAVE_LINGER_MS: u64 = 500;
/// How long the users of an instance that drained or began anew stay, in ms: they come back.
pub const ROSTER_RETURN_LINGER_MS: u64 = 3_000;
/// After how long a snapshot that does not come is asked for again, in ms.
pub const ROSTER_FETCH_MS: u64 = 5_000;
/// The first and the longest pause before a snapshot is asked for again, in ms.
pub const ROSTER_FETCH_PAUSE_MS: (u64, u64) = (250, 5_000);
/// Within how long one who says hello is answered, in ms.
pub const ROSTER_HELLO_MS: u64 = 500;
/// How often all members are stored anew at most because others ask for it, in ms.
pub const ROSTER_RESTORE_MS: u64 = 2_000;

const _: () = assert!(ROSTER_HEAD_BYTES_MAX >= 2 * NAME_BYTES_MAX + 256);
const _: () = assert!(ROSTER_HEAD_BYTES_MAX + 8 * ROSTER_ROW_BYTES_MAX <= ROSTER_MESSAGE_BYTES_MAX);
const _: () = assert!(ROSTER_MESSAGE_BYTES_MAX <= ROSTER_HELD_BYTES_MAX);
// Two digests may be lost; and the channel is doubted before those are who share it.
const _: () = assert!(2 * ROSTER_DIGEST_MS < ROSTER_SILENCE_MS);
const _: () = assert!(ROSTER_SILENCE_MS < ROSTER_LEASE_MS);
const _: () = assert!(ROSTER_DIGEST_MS < ROSTER_ECHO_MS);
const _: () = assert!(ROSTER_ECHO_MS + ROSTER_DIGEST_MS < ROSTER_SILENCE_MS);
const _: () = assert!(ROSTER_HELLO_MS < ROSTER_DIGEST_MS);
// The way from Redis: envelopes, order, the partition log, recall.

/// Bytes of an envelope: the largest message that `--max-message-bytes` allows, and what is
/// around it.
pub const ENVELOPE_BYTES_MAX: usize = 65 * 1024 * 1024;
/// Items that wait behind a hole until it is mended; what is over is read from the stream.
pub const HELD_ITEMS_MAX: usize = 16 * 1024;
/// Bytes of such items.
pub const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Places of a partition that Redis has told of and whose items are not passed on yet.
pub const TOLD_MAX: usize = 1024;
/// How long what is known to exist may take to come by the channel, in ms.
pub const REPAIR_GRACE_MS: u64 = 1_000;
/// First and longest wait before a failed read of the stream is tried again, in ms.
pub const READ_RETRY_MS_MIN: u64 = 50;
/// See [`READ_RETRY_MS_MIN`].
pub const READ_RETRY_MS_MAX: u64 = 2_000;
/// Entries of one read of the stream.
pub const READ_ENTRIES_MAX: usize = 1000;
/// Bytes that a read of the stream aims at: how many entries it asks for follows from how long the
/// last ones were.
pub const READ_BYTES_AIM: usize = 1024 * 1024;

const _: () = assert!(ENVELOPE_BYTES_MAX > (64 << 20) + METADATA_BYTES_MAX + 4 * NAME_BYTES_MAX);
const _: () = assert!(READ_ENTRIES_MAX < HELD_ITEMS_MAX && READ_BYTES_AIM < HELD_BYTES_MAX);
const _: () = assert!(READ_RETRY_MS_MIN < READ_RETRY_MS_MAX);

/// Bytes of what stands in a partition's order and waits for the shard, beyond which the
/// subscriber is not read.
pub const READY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that wait to be written to Redis, beyond which signals are dropped.
pub const PASSING_BYTES_MAX: usize = 1024 * 1024;
/// How often a partition is asked how far it is, in ms.
pub const POLL_MS: u64 = 1_000;
/// How long a subscriber may not answer before it counts as gone, in ms.
pub const SUBSCRIBER_SILENCE_MS: u64 = 3_000;
/// A tick that comes so much after the last one, in ms, says that the shard did not run meanwhile.
pub const STARVED_MS: u64 = 500;
/// How long an INSTANCE_ID is leased, and after what time that is renewed, in ms (PROTOCOL 5).
pub const LEASE_MS: u64 = 5_000;
/// See [`LEASE_MS`].
pub const LEASE_RENEW_MS: u64 = 1_500;
/// How long to wait before Redis is greeted again that refused to be, in ms.
pub const HELLO_RETRY_MS: u64 = 500;
/// How often a stream is trimmed that no group consumes, in ms, and how many entries at once.
pub const TRIM_MS: u64 = 5_000;
/// See [`TRIM_MS`].
pub const TRIM_ENTRIES_MAX: u64 = 100_000;
/// Rooms whose offsets are asked for at once.
pub const OFFSETS_ASKED_MAX: usize = 500;

const _: () = assert!(2 * LEASE_RENEW_MS < LEASE_MS);
const _: () = assert!(POLL_MS < SUBSCRIBER_SILENCE_MS);
/// Pages of rooms that wait for the stream to be read at once.
pub const RECALL_WAITING_MAX: usize = 10_000;
/// Bytes of frames that are collected for them.
pub const RECALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Places in the stream that are remembered, at which a room's next page begins.
pub const RECALL_BOOKMARKS_MAX: usize = 10_000;

const _: () = assert!(PAGE_BYTES_MAX < RECALL_BYTES_MAX);
// PostgreSQL.

/// Bytes of one message of PostgreSQL: a row with the largest payload, and what is around it.
pub const PG_MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of the rows of one answer.
pub const PG_ROWS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Requests of one connection without an answer.
pub const PG_REQUESTS_MAX: usize = 64;
/// Notices that are told during one request; what is over is dropped.
pub const PG_NOTICES_MAX: usize = 16;
/// Parameters (ParameterStatus) that a server tells in the life of a connection.
pub const PG_PARAMETERS_MAX: usize = 100_000;
/// Hosts of one connection string.
pub const PG_HOSTS_MAX: usize = 16;
/// The shortest and the longest pause between two tries to connect, in ms.
pub const PG_PAUSES_MS: (u64, u64) = (100, 5_000);
/// How long a connect to one host may take unless `connect_timeout` says otherwise, in ms, TLS and
/// login included.
pub const PG_CONNECT_MS: u64 = 5_000;
/// How long a cancelled request may take to end before its connection is given up, in ms.
pub const PG_CANCEL_MS: u64 = 2_000;
/// Bytes of one CopyData, after which the next begins with the next row.
pub const COPY_FRAME_BYTES: usize = 64 * 1024;

const _: () = assert!(PG_PAUSES_MS.0 < PG_PAUSES_MS.1);
const _: () = assert!(COPY_FRAME_BYTES < PG_MESSAGE_BYTES_MAX);

/// Pages of rooms that one question to PostgreSQL is for.
pub const HISTORY_WANTS_MAX: usize = 100;
/// Questions about the past that wait for PostgreSQL.
pub const HISTORY_ASKS_MAX: usize = 10_000;
/// Within how long such a question is answered, if only by an error, in ms.
pub const HISTORY_MS: u64 = 1_400;
/// How long one of its statements may take, in ms, and wait for a lock.
pub const HISTORY_STATEMENT_MS: u64 = 1_000;
/// Offsets that one look for what is missing goes through at most: some 20 ms of PostgreSQL's.
pub const RESUME_LOOK_OFFSETS_MAX: u64 = 50_000;
/// Resumes that wait for such looks, each from another offset.
pub const RESUMES_WAITING_MAX: usize = 10_000;
/// How often what a resume misses may be stored a moment later, before it is told to come again.
pub const RESUME_TRIES_MAX: u32 = 32;
/// Requests for history that one home shard works on at once; others wait their turn. Their pages
/// are asked for in one statement, and each is rows, frames and an answer at once: some 2 MiB.
pub const HISTORIES_MAX: usize = 8;
/// Requests that wait for it.
pub const HISTORIES_WAITING_MAX: usize = 10_000;
/// Bytes of one answer with history.
pub const HISTORY_BYTES_MAX: usize = 1024 * 1024;
/// Messages of one answer with history, and how many where nobody says.
pub const HISTORY_MESSAGES_MAX: usize = 1000;
/// See [`HISTORY_MESSAGES_MAX`].
pub const HISTORY_MESSAGES: usize = 100;
/// Within how long a request for history or rooms is answered, in ms, if only by `unavailable`.
pub const HISTORY_ANSWER_MS: u64 = 1_900;
/// Rooms of one answer, and how many where nobody says.
pub const ROOMS_LISTED_MAX: usize = 1000;
/// See [`ROOMS_LISTED_MAX`].
pub const ROOMS_LISTED: usize = 100;
/// Prefixes of a token within what is listed: each is one look at all rooms.
pub const ROOMS_PREFIXES_MAX: usize = 32;

const _: () = assert!(HISTORY_STATEMENT_MS < HISTORY_MS && HISTORY_MS < HISTORY_ANSWER_MS);
const _: () = assert!(HISTORY_BYTES_MAX >= PAGE_BYTES_MAX);
const _: () = assert!(HISTORY_MESSAGES <= HISTORY_MESSAGES_MAX);
const _: () = assert!(HISTORY_WANTS_MAX * PAGE_BYTES_MAX < PG_ROWS_BYTES_MAX);
// The worker.

/// Bytes of the rows of one batch, beyond which nothing more is read for it; one larger entry goes
/// alone.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Rows of one batch that `BATCH_SIZE` may ask for.
pub const BATCH_ROWS_MAX: usize = 100_000;
/// Entries of one read of the stream by a worker.
pub const CONSUME_ENTRIES_MAX: usize = 1000;
/// Bytes that such a read aims at; how many entries it asks for follows from how long the last ones
/// were.
pub const CONSUME_BYTES_AIM: usize = 2 * 1024 * 1024;
/// How long a read of the stream waits for an entry, in ms.
pub const CONSUME_BLOCK_MS: u64 = 1_000;
/// How often a worker is heard of in Redis, looks after what others left, trims and counts, in ms.
pub const KEEP_MS: u64 = 1_000;
/// How long a worker may not be heard of before what is pending with it is taken over, in ms.
/// Whoever is heard of keeps what it has, however long PostgreSQL is away.
pub const CLAIM_IDLE_MS: u64 = 15_000;
/// Entries that are taken over at once.
pub const CLAIM_ENTRIES_MAX: usize = 1000;
/// Entries that are set aside by one call, and that wait for it before reading stops.
pub const ASIDE_ENTRIES_MAX: usize = 256;
/// See [`ASIDE_ENTRIES_MAX`].
pub const ASIDE_WAITING_MAX: usize = 16 * 1024;
/// Bytes of what is said of an entry that is set aside.
pub const ASIDE_REASON_BYTES_MAX: usize = 500;
/// How long Redis may not answer a worker before the connection is given up, in ms.
pub const WORKER_SILENCE_MS: u64 = 10_000;
/// The shortest and the longest pause of a worker between two tries, in ms.
pub const WORKER_PAUSES_MS: (u64, u64) = (100, 3_000);
/// How often the same trouble is told again, and how often at most another one, in ms.
pub const TROUBLE_AGAIN_MS: (u64, u64) = (60_000, 3_000);
/// How often the tables are looked at while they are written to, in ms.
pub const SCHEMA_CHECK_MS: u64 = 5_000;
/// How often deltas of `room_stats` are summed up, in ms.
pub const COMPACT_MS: u64 = 30_000;
/// How often a worker looks for what `--retention` deletes, in ms; and for users to forget.
pub const RETAIN_MS: u64 = 30_000;
/// See [`RETAIN_MS`].
pub const FORGET_MS: u64 = 3_600_000;
/// (room, user) pairs that a worker remembers to be in the table, and for how long, in ms.
pub const SEEN_PAIRS_MAX: usize = 200_000;
/// See [`SEEN_PAIRS_MAX`].
pub const SEEN_MS: u64 = 3_600_000;
/// Connections to a worker's port.
pub const WORKER_CONNECTIONS_MAX: usize = 64;
/// Bytes of a field that `ringcast dead list` shows.
pub const DEAD_SHOWN_BYTES_MAX: usize = 200;

// An entry of the largest message fits a reply, and a reply a batch's memory.
const _: () = assert!(ENVELOPE_BYTES_MAX < RESP_REPLY_BYTES_MAX);
const _: () = assert!(CONSUME_ENTRIES_MAX * 64 < RESP_ELEMENTS_MAX);
const _: () = assert!(CONSUME_BYTES_AIM < BATCH_BYTES_MAX);
// A live worker is heard of many times before it counts as dead, also while a read waits.
const _: () = assert!(5 * (KEEP_MS + CONSUME_BLOCK_MS) < CLAIM_IDLE_MS);
const _: () = assert!(CONSUME_BLOCK_MS < WORKER_SILENCE_MS);
const _: () = assert!(WORKER_PAUSES_MS.0 < WORKER_PAUSES_MS.1);
const _: () = assert!(TROUBLE_AGAIN_MS.1 < TROUBLE_AGAIN_MS.0);
