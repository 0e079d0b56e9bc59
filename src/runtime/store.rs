//! The threads that wait for the disk, so that no shard does: one commits, one reads.
//!
//! The writer takes the batches of all shards that have come meanwhile into one transaction, and if
//! that fails each by itself, so that one shard's clash is not another's. Bounded: a shard has one
//! commit under way, and reads only what its connections' credits have let in.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::mailbox::{Letter, Post};
use super::stats::Stats;
use crate::backplane::history::{EpochEnds, RoomsQuery, StoredRoom, Stretch};
use crate::backplane::{Answer, CommitFailure, StoreReply, StoreRequest};
use crate::model::limits::{PAGE_BYTES_MAX, PAGE_PUBLICATIONS_MAX};
use crate::model::{Epoch, Publication, RoomName, Timestamp};
use crate::shard::ShardId;
use crate::store::{CommitError, PageLimits, Reader, Store};

/// Rows that retention deletes in one transaction.
const DELETE_ROWS_MAX: usize = 1000;
/// How often it looks, at most and at least.
const RETENTION_PERIODS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Now, by the wall clock.
pub(super) fn wall_clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(since.as_millis() as u64)
}

/// What the reader is asked.
enum Read {
    Open(RoomName),
    Page {
        room: RoomName,
        epoch: Epoch,
        from: u64,
    },
    Missing(Vec<Stretch>),
    Ends(RoomName, Epoch),
    Rooms(RoomsQuery),
}

/// The way to both threads.
#[derive(Clone)]
pub(super) struct StoreHandle {
    commits: Sender<(ShardId, Vec<Publication>)>,
    reads: Sender<(ShardId, Read)>,
}

impl StoreHandle {
    /// Passes a shard's question on; its answer comes by mail.
    pub(super) fn ask(&self, shard: ShardId, request: StoreRequest) {
        // The threads end only when every handle is gone.
        let _ = match request {
            StoreRequest::Commit(batch) => self.commits.send((shard, batch)).is_ok(),
            StoreRequest::Open(room) => self.reads.send((shard, Read::Open(room))).is_ok(),
            StoreRequest::Read { room, epoch, from } => self
                .reads
                .send((shard, Read::Page { room, epoch, from }))
                .is_ok(),
            StoreRequest::Missing(stretches) => {
                self.reads.send((shard, Read::Missing(stretches))).is_ok()
            }
            StoreRequest::Ends(room, epoch) => {
                self.reads.send((shard, Read::Ends(room, epoch))).is_ok()
            }
            StoreRequest::Rooms(query) => self.reads.send((shard, Read::Rooms(query))).is_ok(),
        };
    }
}

/// Starts both threads; they end when every handle is dropped.
pub(super) fn start(
    store: Store,
    retention: Option<Duration>,
    post: Post,
    stats: Arc<Stats>,
) -> Result<(StoreHandle, Vec<JoinHandle<()>>), String> {
    let epoch = store.epoch();
    let reader = store.reader().map_err(|error| error.to_string())?;
    let (commits, commit_queue) = unbounded();
    let (reads, read_queue) = unbounded();
    let writer = Writer {
        store,
        retention,
        post: post.clone(),
        stats,
    };
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        thread::Builder::new()
            .name(name.into())
            .spawn(super::or_abort(run))
    };
    let threads = [
        spawn("store-write", Box::new(move || writer.run(&commit_queue))),
        spawn(
            "store-read",
            Box::new(move || read_all(reader, epoch, &read_queue, &post)),
        ),
    ];
    let threads: std::io::Result<Vec<_>> = threads.into_iter().collect();
    let threads = threads.map_err(|error| format!("cannot start the store's threads: {error}"))?;
    Ok((StoreHandle { commits, reads }, threads))
}

struct Writer {
    store: Store,
    retention: Option<Duration>,
    post: Post,
    stats: Arc<Stats>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<(ShardId, Vec<Publication>)>) {
        let period = self.retention.map_or(RETENTION_PERIODS.1, |retention| {
            (retention / 10).clamp(RETENTION_PERIODS.0, RETENTION_PERIODS.1)
        });
        let mut pause = period;
        loop {
            match queue.recv_timeout(pause) {
                Ok(first) => {
                    let mut batches = vec![first];
                    batches.extend(queue.try_iter());
                    self.commit(batches);
                }
                Err(RecvTimeoutError::Timeout) => {
                    // What is left over is deleted soon, but commits go before it.
                    let more = self.delete_old();
                    pause = if more {
                        Duration::from_millis(1)
                    } else {
                        period
                    };
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn commit(&mut self, batches: Vec<(ShardId, Vec<Publication>)>) {
        let all: Vec<&[Publication]> = batches.iter().map(|(_, batch)| &batch[..]).collect();
        let together = self.store.commit(&all, wall_clock());
        let alone = all.len() == 1;
        let together = match together {
            Err(error) if alone => Err(Some(error)),
            Err(_) => Err(None),
            Ok(()) => Ok(()),
        };
        let mut together = Some(together);
        for (shard, batch) in batches {
            let result = match together.take() {
                Some(Err(Some(error))) => Err(error),
                Some(Ok(())) => {
                    together = Some(Ok(()));
                    Ok(())
                }
                _ => self.store.commit(&[&batch], wall_clock()),
            };
            self.note(&result);
            let result = result.map_err(failure);
            let reply = StoreReply::Committed(batch, result);
            self.post.send(shard, Letter::Answer(Answer::Store(reply)));
        }
    }

    fn note(&self, result: &Result<(), CommitError>) {
        self.stats.commits.fetch_add(1, Ordering::Relaxed);
        let fails = matches!(result, Err(CommitError::Unavailable(_)));
        if fails {
            self.stats.commits_failed.fetch_add(1, Ordering::Relaxed);
        }
        let failed = self.stats.store_fails.swap(fails, Ordering::Relaxed);
        match result {
            Err(CommitError::Unavailable(error)) if !failed => {
                tracing::error!(%error, "the store takes nothing; publishes get unavailable");
            }
            Ok(()) if failed => tracing::info!("the store takes commits again"),
            _ => {}
        }
    }

    /// Deletes some of what is too old. Returns whether there is more.
    fn delete_old(&mut self) -> bool {
        let Some(retention) = self.retention else {
            return false;
        };
        let cutoff = wall_clock().0.saturating_sub(retention.as_millis() as u64);
        match self.store.delete_before(Timestamp(cutoff), DELETE_ROWS_MAX) {
            Ok(deleted) => deleted == DELETE_ROWS_MAX,
            Err(error) => {
                tracing::warn!(%error, "old messages could not be deleted; it is tried again");
                false
            }
        }
    }
}

fn failure(error: CommitError) -> CommitFailure {
    match error {
        CommitError::Clash {
            index,
            existing_offset,
            ..
        } => CommitFailure::Clash {
            index,
            offset: existing_offset,
        },
        error @ (CommitError::OutOfOrder { .. } | CommitError::Unavailable(_)) => {
            CommitFailure::Unavailable(error.to_string())
        }
    }
}

fn read_all(mut reader: Reader, epoch: Epoch, queue: &Receiver<(ShardId, Read)>, post: &Post) {
    for (shard, read) in queue {
        let reply = match read {
            Read::Open(room) => {
                let last = reader.last_offset(&room);
                let result = last
                    .map(|last| (epoch, last))
                    .map_err(|error| error.to_string());
                StoreReply::Opened(room, result)
            }
            Read::Page { room, epoch, from } => {
                let publications = read_page(&mut reader, &room, epoch, from);
                StoreReply::Read {
                    room,
                    epoch,
                    from,
                    publications,
                }
            }
            Read::Missing(stretches) => {
                let first = |it: Stretch| reader.missing(&it.room, it.epoch, it.from, it.until);
                let missing: Result<_, _> = stretches.into_iter().map(first).collect();
                StoreReply::Missing(missing.map_err(|error| error.to_string()))
            }
            Read::Ends(room, epoch) => {
                let ends = reader.ends(&room, epoch);
                let ends = ends.map(|(last, previous)| EpochEnds { last, previous });
                StoreReply::Ends(room, epoch, ends.map_err(|error| error.to_string()))
            }
            Read::Rooms(query) => {
                let rooms = reader.rooms(&query.prefix, &query.after, query.limit);
                let stored = |(room, offset)| StoredRoom {
                    room,
                    epoch,
                    offset,
                    members: 0,
                };
                let rooms = rooms.map(|rooms| rooms.into_iter().map(stored).collect());
                StoreReply::Rooms(query, rooms.map_err(|error| error.to_string()))
            }
        };
        post.send(shard, Letter::Answer(Answer::Store(reply)));
    }
}

/// What there is from `from` on; if that is gone, what there is behind it.
fn read_page(
    reader: &mut Reader,
    room: &RoomName,
    epoch: Epoch,
    from: u64,
) -> Result<Vec<Publication>, String> {
    use crate::store::PageEnd;
    let limits = PageLimits {
        publications_max: PAGE_PUBLICATIONS_MAX,
        bytes_max: PAGE_BYTES_MAX,
    };
    let mut page = |after| {
        let page = reader.page(room, epoch, after, i64::MAX as u64, limits);
        page.map_err(|error| error.to_string())
    };
    let first = page(from - 1)?;
    match first.end {
        PageEnd::Missing { to, .. } if first.publications.is_empty() => Ok(page(to)?.publications),
        _ => Ok(first.publications),
    }
}
