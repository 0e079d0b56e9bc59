//! ringcast: a real-time message server.
//!
//! Clients join rooms over WebSocket and publish; every member gets every message once and in
//! order, and misses nothing when it comes back. This is the map of the code; what clients and
//! operators see is in `README.md`.
//!
//! # Bird's-eye view
//!
//! ```text
//!              one pinned thread a core                                  threads that may wait
//!  ┌───────────────────────────────────────────────────────────┐      ┌─────────────────────┐
//!  │ socket ─▶ net: head, frames ─▶ protocol: Command          │      │ store-write: commit │
//!  │                                     │                     │      │ store-read: pages   │
//!  │   Shard::handle(now, Event) ◀───────┘                     │ mail │ signals             │
//!  │     request ─▶ home of the room ─▶ backplane ─▶ outcomes  │◀────▶│ drain-socket        │
//!  │     hub: room log, cursors ◀─ deliver ◀───────────┘       │      └─────────────────────┘
//!  │ socket ◀─ sweep: one send a member                        │
//!  └───────────────────────────────────────────────────────────┘
//!        ▲ mail, in order, a wake only for who sleeps ▼
//!  ┌───────────────────────────── next shard ──────────────────┐
//! ```
//!
//! One way for every message: its room's *home shard* has it ordered and kept by the backplane,
//! then delivers it to each shard that has members; there it is appended, encoded once, to the
//! *room log*, and members are cursors into it. An ack follows the commit, and so does every
//! delivery.
//!
//! # Layers
//!
//! Imports run downward only; `tests/tidy.rs` holds it.
//!
//! | room | what | may import |
//! |---|---|---|
//! | [`model`] | words: ids, positions, publications, codes, limits | - |
//! | [`net`] | HTTP heads, upgrades, WebSocket frames: bytes <-> values | model |
//! | [`protocol`] | the native JSON frames | net, model |
//! | [`access`] | tokens, API keys, grants: who may do what | model |
//! | [`resp`] | the wire of Redis | model |
//! | [`pg`] | the wire of PostgreSQL | model |
//! | [`hub`] | a shard's rooms: logs, cursors, the sweep | model |
//! | [`store`] | the embedded store | model |
//! | [`backplane`] | what orders and keeps publications: embedded, or Redis | resp, model |
//! | [`worker`] | the stream into PostgreSQL: batches, exactly once | resp, pg, model |
//! | [`shard`] | `Event` -> `Shard::handle` -> `Effect` | the above but store, pg, worker |
//! | [`runtime`] | the machine room: threads, sockets, mail, clocks, signals | all |
//! | [`config`], [`web`] | the porch: settings, the page | net, resp, pg, model |
//! | [`telemetry`] | the porch: log and metrics | backplane, worker, model |
//!
//! # Invariants of the architecture
//!
//! - Only `runtime` knows monoio, `async`, sockets, threads and clocks. All else is plain calls:
//!   `now` and chance are arguments, so every edge case is a unit test, and a seeded simulation of
//!   several shards (`src/shard/tests`) is the whole server but for its sockets.
//! - No `RefCell` is borrowed across an `await`: tasks call into their shard's core and return.
//! - Nothing is shared between shards but bytes and mailboxes. No lock stands on a message's way.
//! - A shard never waits for another: it always empties its mailbox; requests hold credits that the
//!   answer gives back; deliveries are not queued beyond a bound but read on from the room log.
//! - Everything that can grow has a maximum in [`model::limits`] or a setting.
//! - What a peer sends can end its own connection and nothing else.
//!
//! # Decisions
//!
//! Where the code does otherwise than the design had it, and why.
//!
//! - **Interest.** There is no shared table of which shards have members of a room. Joins and
//!   leaves pass through the room's home shard anyway, since `joined` has its place in the room's
//!   order, so the home knows it exactly: a bit a shard in the room itself, no atomics, no false
//!   positives.
//! - **Writable sockets.** What does not fit a socket waits in the connection's outbox, and a task
//!   waits for writability; then the sweep sends on. The design left it to an owned io_uring write.
//!   So there is one way to send, no buffer in flight that must outlive its connection, and it is
//!   the same on epoll. The sweep's plain nonblocking `send` was kept: measured as good as the bare
//!   loop.
//! - **Offsets of a batch** are given by the home shard when the batch is handed to the store, and
//!   count only once it is committed: while one batch commits the next gathers, which is group
//!   commit without a timer. An id that clashes with one beyond the dedupe window is answered as a
//!   repeat, and the batch goes again without it.
//! - **The past in pages.** A member whose offset its log does not reach back to reads pages from
//!   the home shard's log or the store, one read for all who wait for the same page, and lets a
//!   page go when its socket is full: what slow members hold is bounded, whatever they missed.
//! - **Empty rooms** linger on their home shard only; other shards drop a room with its last
//!   member.
//! - **Personal rooms** cost nothing until something is published there: then the user's
//!   connections on each shard become members by themselves.
//! - **Epochs** are the store's (one for a database); with `--store memory` each room has its own.
//! - **Other forms of frames** (deflate, server-sent events) are logs beside a room's first, made
//!   once a shard for all who take them. Who deflates takes plain frames too, and gets the past so:
//!   what is read for a few who come back would be compressed for each.
//! - **No context on `/ws`**, the clients' neither: permessage-deflate is answered with both
//!   `no_context_takeover`, so one inflater a shard serves all, and who waits holds nothing. What
//!   one connection alone gets (acks, errors, `joined`), and signals, go uncompressed.
//! - **Huge pages are off** for the heap: they doubled what an idle connection costs.
//! - **redis_protocol** decodes whole frames of the rarer kinds only; where one ends is found by a
//!   walk of our own, which has bounds and does not begin anew, and texts, numbers, lists and maps
//!   are decoded by one more pass: a worker reads nothing else, and it took most of its time.
//! - **The past is joined page by page**: PostgreSQL, then the stream from the floor, then
//!   PostgreSQL once more, for the page that is wanted. Whether anything is missing deeper in is
//!   known before `joined` all the same, and no page is read for it: behind a floor, the index is
//!   looked through for the first offset that is not stored, 50,000 at a time (some 20 ms) and once
//!   for all who wait; if there is one, it is sought in the stream. Found there it proves all
//!   behind it, as a stream loses only its beginning; not found, the hole is final:
//!   `recovered:false`. The embedded store is looked through in the same way, since its retention
//!   may leave a hole where the clock went back. What is set aside, or deleted, while a resume is
//!   under way is told by `gap`.
//! - **What a session of PostgreSQL is** (time-outs) is said by SET behind the login and not in the
//!   startup packet, which poolers refuse.
//! - **The script stores, then counts, then tells**: XADDs, one HSET for the whole call, PUBLISHes.
//!   Only the first write can be refused for want of memory, and if the HSET is, the entries are
//!   taken back, so an error midway leaves nothing that was told and does not count.
//! - **A `since` above the newest offset** does not begin a new epoch by itself, as the design had
//!   it: a client could then end everybody's epoch. What instances themselves have delivered is the
//!   proof; the client gets `recovered:false`.
//! - **A room's place in the order** is read with the partition's number (HMGET) and counts once
//!   the order has come to that number: a join needs no lock in Redis and no extra message.
//! - **Spooled publishes hold no credit of the shard's**, only of their connection: who does not
//!   publish goes on to signal and to join while Redis is away.
//! - **Leaves are counted at once and told late.** Only the event is debounced, so that `members`
//!   is never wrong; who begins to watch meanwhile finds what was held back told.
//! - **Acks that wait for replicas** (`--ack-replicas`) are calls without an answer until WAIT is
//!   answered well, so a failover needs nothing of its own: they are sent again. Too few replicas
//!   are a Redis that is away.
//! - **The subscription is younger than the commands link**, and what it brings counts only once
//!   that link has answered something asked behind it. What a Redis had sent before it was lost may
//!   come behind the greeting of the next one, which gives the same numbers anew: it would move
//!   the known place over the loss, and ack what is not there (simulator, seed 1685). It costs a
//!   resubscription and a repair for each commands link that is made anew.
//! - **A Redis may be replaced while no connection breaks** (a replica promoted behind a proxy),
//!   and go on with less within the epoch. Entries show it, as they rise with the numbers: an
//!   item, an ack or a page that contradicts what is known stops the order until a greeting says
//!   whose line that Redis has (`order/doubt`). After each refusal it is greeted before it is
//!   written to; and who says READONLY is left, as the address may lead to another now.
//! - **Offsets of rooms stay in Redis' state** as long as their epoch, also when nothing of the
//!   room is in the stream any more: a room that began anew at 1 would give an offset twice, and
//!   one that began at a floor common to all would tell members of losses that were none.
//! - **Who is dead is a matter of consumers**, not of entries: XAUTOCLAIM goes by how long an entry
//!   is idle, and so would take what a live worker holds while PostgreSQL is away, to and fro. A
//!   script claims (XCLAIM) what belongs to consumers that are not heard of, and each says every
//!   second that it is there.
//! - **A batch is one message to PostgreSQL**: COPY of the rows, COPY of the rooms' counts, and
//!   what else belongs to the transaction, are statements of one text, sent with all their rows.
//! - **What PostgreSQL may refuse is found before the COPY** (JSON is checked as at a server's
//!   door) and goes alone; halving a batch, by the line that PostgreSQL names, is for what is not
//!   foreseen.
//! - **A message whose id another one has** (used again after `--dedupe-window`) is stored by an id
//!   made of its entry's: it was acked.
//! - **Retrying a dead entry** stores it there and then, and does not add it to the stream again,
//!   where it would stand at a place that its number contradicts.
//! - **What is not read to its end ends the connection**: a request whose body is refused is
//!   answered and its connection closed, rather than drained; what stands behind it is never read
//!   as a request.
//! - **Chunks are read strictly** (no extensions, no trailer), as heads are: what nobody sends and
//!   two parsers read differently is refused.
//! - **Connections in `GET …/members`** are known of this instance's users only; a user's on
//!   another instance count as one, since instances tell each other users.
//! - **Addresses have home shards** as rooms have: the others take messages by a copy and tell the
//!   home what they took. The alternatives were atomics on a message's way, or leases that refuse
//!   a burst which is within the limit because the shard that it came to had a small one.
//! - **What is over a rate is refused and not held back**: a socket that is not read would make the
//!   client's own queue the one that grows, unseen, and the heartbeat a liar.
//! - **TLS has no buffers**: rustls' unbuffered sessions decrypt from and encrypt into one buffer a
//!   shard; what a socket did not take is the only thing that waits, and while it does nothing more
//!   is encrypted. So the shard's rules for slow consumers hold unseen.
//! - **Latency is measured once a publication and shard**, when the sweep has offered it to the
//!   last member, and not once a member; that takes one more look at the clock a turn.
//! - **Reasons for clients name no address**: what ails Redis in detail is for the log.

pub mod access;
pub mod backplane;
pub mod config;
pub mod hub;
pub mod model;
pub mod net;
pub mod pg;
pub mod protocol;
pub mod resp;
pub mod runtime;
pub mod shard;
pub mod store;
pub mod telemetry;
pub mod web;
pub mod worker;
