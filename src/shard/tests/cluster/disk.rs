//! The spool of an instance, in memory: it answers late, fails, and outlives the instance.

use std::collections::VecDeque;

use fastrand::Rng;

use crate::backplane::redis::spool::{
    Page, Record, SpoolAsk, SpoolEvent, SpoolFailure, record_bytes,
};

/// Records of one page: few, so that pages are many.
const PAGE: usize = 5;

/// See the module.
#[derive(Default)]
pub(super) struct Disk {
    records: VecDeque<Record>,
    /// Records of this run that stood before the first one here.
    dropped: u64,
    released: u64,
    asked: VecDeque<(u64, SpoolAsk)>,
    answers: VecDeque<(u64, SpoolEvent)>,
}

impl Disk {
    /// A run of the instance begins; what the one before had asked was done or not.
    pub(super) fn open(&mut self, now_ms: u64, rng: &mut Rng) {
        let asked = std::mem::take(&mut self.asked);
        let done = rng.usize(0..=asked.len());
        for (_, ask) in asked.into_iter().take(done) {
            let _ = self.perform(ask, 0, rng);
        }
        // What was let go of is noted now and then.
        let noted = rng.u64(self.dropped..=self.released.max(self.dropped));
        self.drop_to(noted);
        (self.dropped, self.released) = (0, 0);
        let bytes = self
            .records
            .iter()
            .map(|record| record_bytes(&record.outgoing));
        let opened = SpoolEvent::Opened {
            records: self.records.len() as u64,
            bytes: bytes.sum(),
        };
        self.answers = [(now_ms, opened)].into();
    }

    pub(super) fn ask(&mut self, due_ms: u64, ask: SpoolAsk) {
        let last_ms = self.asked.back().map_or(0, |&(due_ms, _)| due_ms);
        self.asked.push_back((due_ms.max(last_ms), ask));
    }

    /// Does what is due, and gives the answers. `fails`: of a thousand.
    pub(super) fn run(&mut self, now_ms: u64, fails: u32, rng: &mut Rng) -> Vec<SpoolEvent> {
        while let Some(&(due_ms, _)) = self.asked.front()
            && due_ms <= now_ms
            && let Some((_, ask)) = self.asked.pop_front()
        {
            let answer = self.perform(ask, fails, rng);
            self.answers.extend(answer.map(|answer| (now_ms, answer)));
        }
        let answers = std::mem::take(&mut self.answers);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.answers.is_empty()
    }

    /// Records that are not let go of.
    pub(super) fn left(&self) -> u64 {
        self.dropped + self.records.len() as u64 - self.released.max(self.dropped)
    }

    fn perform(&mut self, ask: SpoolAsk, fails: u32, rng: &mut Rng) -> Option<SpoolEvent> {
        let failure = || SpoolFailure::Full("the simulator".into());
        let result = match rng.u32(..1000) < fails {
            true => Err(failure()),
            false => Ok(()),
        };
        match ask {
            SpoolAsk::Append(records) => {
                let count = records.len();
                if result.is_ok() {
                    self.records.extend(records);
                }
                Some(SpoolEvent::Appended { count, result })
            }
            SpoolAsk::Read { after } => {
                assert!(
                    self.dropped <= after,
                    "what was let go of is not read again"
                );
                let from = (after - self.dropped) as usize;
                let some = self.records.iter().skip(from).take(rng.usize(1..=PAGE));
                let records: Vec<_> = some.cloned().collect();
                let bytes = records.iter().map(|record| record_bytes(&record.outgoing));
                let page = Page {
                    lost: 0,
                    bytes: bytes.sum(),
                    records,
                };
                let result = result.map(|()| page);
                Some(SpoolEvent::Read { after, result })
            }
            SpoolAsk::Release { upto } => {
                assert!(upto <= self.dropped + self.records.len() as u64);
                self.released = upto;
                if rng.bool() {
                    self.drop_to(upto);
                }
                None
            }
        }
    }

    fn drop_to(&mut self, upto: u64) {
        while self.dropped < upto {
            self.records.pop_front();
            self.dropped += 1;
        }
    }
}
