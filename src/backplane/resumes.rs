//! Whether those who come back can have all that they missed: known before `joined` is told.
//!
//! ```text
//! want ─▶ a look at what is stored: the first offset that is missing
//!           ├─ none before what is in memory ─────────────────────────▶ whole
//!           └─ one ─▶ sought elsewhere ─┬─ in the stream ─────────────▶ whole
//!                       (as a page is)  ├─ stored meanwhile: looks on
//!                                       └─ nowhere ───────────────────▶ not whole
//! ```
//!
//! What the stream has of a room has no end before memory begins: a stream loses only its
//! beginning. So one offset that is found there proves all behind it.
//!
//! Looks are made once for all who wait: one at a time for all rooms, and in a room from where the
//! one that has waited longest is, for everybody whom it comes by. Each is bounded
//! ([`RESUME_LOOK_OFFSETS_MAX`]), so a past of millions takes many and holds nobody else up. No
//! I/O, and no clock. Rows are not held: the page that a resume begins with is read behind this.
//!
//! Invariants: each want has one [`Resumed`]; at most [`RESUMES_WAITING_MAX`] wait; all from a
//! resume's `from` up to its `at` can be had.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;

use super::history::Stretch;
use crate::model::limits::{
    HISTORY_WANTS_MAX, RESUME_LOOK_OFFSETS_MAX, RESUME_TRIES_MAX, RESUMES_WAITING_MAX,
};
use crate::model::{Epoch, RoomName};

/// Whether all of a room from an offset on can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The room.
    pub room: RoomName,
    /// The epoch.
    pub epoch: Epoch,
    /// The offset that was asked for.
    pub from: u64,
    /// See [`Whole`].
    pub result: Whole,
}

/// `None`: something is missing. Else what was found of it on the way: offsets and frames, from
/// the one that was asked for on and without a hole, or nothing; or why that can't be told now.
pub type Whole = Result<Option<Vec<(u64, Bytes)>>, String>;

/// What is missing where a look was made, and is to be sought elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seek {
    pub(super) room: RoomName,
    pub(super) epoch: Epoch,
    pub(super) at: u64,
    /// It may be stored, but that could not be looked at: why.
    pub(super) failed: Option<String>,
}

/// What came of a [`Seek`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    /// It is in the stream: frames from there on.
    Streamed(Vec<(u64, Bytes)>),
    /// It is stored meanwhile, and so is what is before this offset.
    Stored(u64),
    /// Nobody has it.
    Lost,
    /// That can't be told now: why.
    Failed(String),
}

/// Who waits.
#[derive(Debug)]
struct Resume {
    from: u64,
    /// All before it can be had.
    at: u64,
    /// From here on all is in memory.
    until: u64,
    /// How often something was missing that was there a moment later.
    tries: u32,
    is_seeking: bool,
}

/// Those of a room, and whether a look at it is due or under way.
#[derive(Debug, Default)]
struct Waiting {
    resumes: Vec<Resume>,
    is_queued: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Resumes {
    rooms: HashMap<(RoomName, Epoch), Waiting>,
    waiting: usize,
    /// Rooms to look at.
    queue: VecDeque<(RoomName, Epoch)>,
    /// The look that is under way.
    looks: Vec<Stretch>,
    seeks: Vec<Seek>,
    resumed: Vec<Resumed>,
}

impl Resumes {
    /// Whether all of a room from `from` on can be had is wanted; what is in memory begins at
    /// `until`. False: too many wait.
    pub(super) fn want(&mut self, room: &RoomName, epoch: Epoch, from: u64, until: u64) -> bool {
        if self.waiting >= RESUMES_WAITING_MAX {
            return false;
        }
        let key = (room.clone(), epoch);
        let waiting = self.rooms.entry(key.clone()).or_default();
        let is_known = waiting.resumes.iter().any(|resume| resume.from == from);
        debug_assert!(!is_known, "it is wanted once");
        waiting.resumes.push(Resume {
            from,
            at: from,
            until,
            tries: 0,
            is_seeking: false,
        });
        self.waiting += 1;
        self.queue(key);
        true
    }

    /// What is to be looked at, unless a look is under way. Changes with every other call.
    pub(super) fn poll_look(&mut self) -> Option<Vec<Stretch>> {
        if !self.looks.is_empty() {
            return None;
        }
        let mut offsets = RESUME_LOOK_OFFSETS_MAX;
        while self.looks.len() < HISTORY_WANTS_MAX
            && offsets > 0
            && let Some(key) = self.queue.pop_front()
        {
            let waiting = self.rooms.get_mut(&key);
            let first = waiting.and_then(|waiting| {
                let first = waiting.resumes.iter().find(|resume| !resume.is_seeking);
                waiting.is_queued = first.is_some();
                first
            });
            let Some(first) = first else { continue };
            let (room, epoch) = key;
            let until = first.until.min(first.at.saturating_add(offsets));
            offsets -= until - first.at;
            self.looks.push(Stretch {
                room,
                epoch,
                from: first.at,
                until,
            });
        }
        (!self.looks.is_empty()).then(|| self.looks.clone())
    }

    /// What was looked at: of each stretch the first offset that is missing.
    pub(super) fn on_looked(&mut self, missing: Result<Vec<Option<u64>>, String>) {
        let looks = std::mem::take(&mut self.looks);
        let (missing, why) = match missing {
            Ok(missing) => (missing, None),
            Err(why) => (
                looks.iter().map(|look| Some(look.from)).collect(),
                Some(why),
            ),
        };
        for (look, missing) in looks.into_iter().zip(missing) {
            let key = (look.room.clone(), look.epoch);
            let Some(waiting) = self.rooms.get_mut(&key) else {
                continue;
            };
            waiting.is_queued = false;
            let reached = missing.unwrap_or(look.until);
            let mut is_missed = false;
            for resume in &mut waiting.resumes {
                if !resume.is_seeking && (look.from..=reached).contains(&resume.at) {
                    resume.at = reached;
                    resume.is_seeking = missing.is_some() && reached < resume.until;
                    is_missed |= resume.is_seeking;
                }
            }
            self.end(&key, |resume| (resume.at >= resume.until).then(whole));
            if is_missed {
                let Stretch { room, epoch, .. } = look;
                self.seeks.push(Seek {
                    room,
                    epoch,
                    at: reached,
                    failed: why.clone(),
                });
            }
            self.queue(key);
        }
    }

    /// What was sought.
    pub(super) fn on_sought(&mut self, room: &RoomName, epoch: Epoch, at: u64, sought: Sought) {
        let key = (room.clone(), epoch);
        let is_here = |resume: &Resume| resume.is_seeking && resume.at == at;
        match sought {
            Sought::Streamed(frames) => self.end(&key, |resume| {
                let page = || match resume.from == at {
                    true => frames.clone(),
                    // It is read when it is known that all is there.
                    false => Vec::new(),
                };
                (resume.at >= at).then(|| Ok(Some(page())))
            }),
            Sought::Stored(next) => {
                let waiting = self.rooms.get_mut(&key);
                let resumes = waiting.map(|waiting| waiting.resumes.iter_mut());
                for resume in resumes.into_iter().flatten().filter(|it| is_here(it)) {
                    resume.at = next;
                    resume.tries += 1;
                    resume.is_seeking = false;
                }
                self.end(&key, |resume| match resume {
                    _ if resume.at >= resume.until => Some(whole()),
                    _ if resume.tries > RESUME_TRIES_MAX => {
                        Some(Err("what is stored changes too fast; try again".to_owned()))
                    }
                    _ => None,
                });
            }
            // Who has not come as far as that needs it too.
            Sought::Lost => self.end(&key, |resume| (resume.at <= at).then_some(Ok(None))),
            Sought::Failed(why) => self.end(&key, |it| is_here(it).then(|| Err(why.clone()))),
        }
        self.queue(key);
    }

    /// Takes what is to be sought.
    pub(super) fn take_seeks(&mut self) -> Vec<Seek> {
        std::mem::take(&mut self.seeks)
    }

    /// Takes what became of wants.
    pub(super) fn take_resumed(&mut self) -> Vec<Resumed> {
        std::mem::take(&mut self.resumed)
    }

    /// Has a room looked at, if somebody waits for that and it is not due already.
    fn queue(&mut self, key: (RoomName, Epoch)) {
        if let Some(waiting) = self.rooms.get_mut(&key)
            && !waiting.is_queued
            && waiting.resumes.iter().any(|resume| !resume.is_seeking)
        {
            waiting.is_queued = true;
            self.queue.push_back(key);
        }
    }

    /// Answers those of a room for whom there is an answer.
    fn end(&mut self, key: &(RoomName, Epoch), mut answer: impl FnMut(&Resume) -> Option<Whole>) {
        let Some(waiting) = self.rooms.get_mut(key) else {
            return;
        };
        let (room, epoch) = key;
        let before = waiting.resumes.len();
        waiting.resumes.retain(|resume| {
            let result = answer(resume);
            let goes_on = result.is_none();
            self.resumed.extend(result.map(|result| Resumed {
                room: room.clone(),
                epoch: *epoch,
                from: resume.from,
                result,
            }));
            goes_on
        });
        self.waiting -= before - waiting.resumes.len();
        if waiting.resumes.is_empty() {
            self.rooms.remove(key);
        }
    }
}

/// All can be had; nothing of it was read.
fn whole() -> Whole {
    Ok(Some(Vec::new()))
}

#[cfg(test)]
mod tests;
