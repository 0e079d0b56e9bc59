//! The store in memory: it answers late, fails at random, clashes and deletes as the real one.
//!
//! It holds the shards to its contract too: offsets that do not follow are a fault of theirs.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::setup::Setup;
use crate::backplane::history::Stretch;
use crate::backplane::{CommitFailure, StoreReply, StoreRequest};
use crate::model::{Epoch, Publication, RoomName};
use crate::shard::ShardId;

/// Publications of one page: few, so that pages are many.
const PAGE: usize = 7;

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) epoch: Epoch,
    /// All that was ever committed, in order; what is deleted is only not shown.
    pub(super) rooms: BTreeMap<RoomName, Vec<Publication>>,
    asked: Vec<(u64, ShardId, StoreRequest)>,
    answers: Vec<(u64, ShardId, StoreReply)>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            epoch: Epoch::new(1_700_000_000_000, 7),
            rooms: BTreeMap::new(),
            asked: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn ask(&mut self, due_ms: u64, shard: ShardId, request: StoreRequest) {
        self.asked.push((due_ms, shard, request));
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.answers.is_empty()
    }

    /// Does what is due, and gives the answers that are.
    pub(super) fn run(
        &mut self,
        now_ms: u64,
        setup: &Setup,
        faults: bool,
        rng: &mut Rng,
    ) -> Vec<(ShardId, StoreReply)> {
        for (due_ms, shard, request) in std::mem::take(&mut self.asked) {
            if due_ms > now_ms {
                self.asked.push((due_ms, shard, request));
                continue;
            }
            let reply = self.perform(request, setup, faults, rng);
            let due_ms = now_ms
                + if faults {
                    rng.u64(0..=setup.store_ms)
                } else {
                    0
                };
            self.answers.push((due_ms, shard, reply));
        }
        let (due, later) = std::mem::take(&mut self.answers)
            .into_iter()
            .partition(|&(due_ms, ..)| due_ms <= now_ms);
        self.answers = later;
        let mut due: Vec<_> = due;
        rng.shuffle(&mut due);
        due.into_iter()
            .map(|(_, shard, reply)| (shard, reply))
            .collect()
    }

    fn perform(
        &mut self,
        request: StoreRequest,
        setup: &Setup,
        faults: bool,
        rng: &mut Rng,
    ) -> StoreReply {
        let fails = |of: u32, rng: &mut Rng| faults && rng.u32(..1000) < of;
        match request {
            StoreRequest::Open(room) => {
                let last = self.rooms.get(&room).map_or(0, |rows| rows.len() as u64);
                let result = match fails(setup.reads_fail, rng) {
                    true => Err("the disk is away".into()),
                    false => Ok((self.epoch, last)),
                };
                StoreReply::Opened(room, result)
            }
            StoreRequest::Read { room, epoch, from } => {
                assert_eq!(epoch, self.epoch, "there is one epoch");
                let rows = self.rooms.get(&room).map_or(&[][..], Vec::as_slice);
                let first = floor(rows.len(), setup)
                    .max(from as usize - 1)
                    .min(rows.len());
                let page = rows[first..]
                    .iter()
                    .take(rng.usize(1..=PAGE))
                    .cloned()
                    .collect();
                let publications = match fails(setup.reads_fail, rng) {
                    true => Err("the disk is away".into()),
                    false => Ok(page),
                };
                StoreReply::Read {
                    room,
                    epoch,
                    from,
                    publications,
                }
            }
            StoreRequest::Missing(stretches) => {
                let missing = |stretch: Stretch| {
                    let rows = self.rooms.get(&stretch.room).map_or(0, Vec::len);
                    let floor = floor(rows, setup) as u64;
                    let first = match stretch.from <= floor {
                        true => stretch.from,
                        false => stretch.from.max(rows as u64 + 1),
                    };
                    Some(first).filter(|&first| first < stretch.until)
                };
                let missing = match fails(setup.reads_fail, rng) {
                    true => Err("the disk is away".into()),
                    false => Ok(stretches.into_iter().map(missing).collect()),
                };
                StoreReply::Missing(missing)
            }
            StoreRequest::Ends(..) | StoreRequest::Rooms(_) => panic!("nobody asks by HTTP"),
            StoreRequest::Commit(batch) => {
                let result = match fails(setup.commits_fail, rng) {
                    true => Err(CommitFailure::Unavailable("the disk is full".into())),
                    false => self.commit(&batch, setup),
                };
                StoreReply::Committed(batch, result)
            }
        }
    }

    fn commit(&mut self, batch: &[Publication], setup: &Setup) -> Result<(), CommitFailure> {
        let mut last: BTreeMap<&RoomName, u64> = BTreeMap::new();
        for publication in batch {
            let rows = self.rooms.get(&publication.room).map_or(0, Vec::len) as u64;
            let last = last.entry(&publication.room).or_insert(rows);
            assert_eq!(
                publication.offset,
                *last + 1,
                "offsets follow what is stored"
            );
            assert_eq!(publication.epoch, self.epoch, "there is one epoch");
            *last += 1;
        }
        for (index, publication) in batch.iter().enumerate() {
            let rows = self
                .rooms
                .get(&publication.room)
                .map_or(&[][..], Vec::as_slice);
            let kept = &rows[floor(rows.len(), setup)..];
            if let Some(earlier) = kept.iter().find(|row| row.id == publication.id) {
                return Err(CommitFailure::Clash {
                    index,
                    offset: earlier.offset,
                });
            }
        }
        for publication in batch {
            let rows = self.rooms.entry(publication.room.clone()).or_default();
            rows.push(publication.clone());
        }
        Ok(())
    }
}

/// How many of a room's rows are deleted.
fn floor(rows: usize, setup: &Setup) -> usize {
    match setup.retained as usize {
        0 => 0,
        retained => rows.saturating_sub(retained),
    }
}
