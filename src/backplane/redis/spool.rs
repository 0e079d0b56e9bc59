//! The records of what is held on disk while Redis is away.
//!
//! ```text
//! append ─▶ gathering ─Append─▶ disk ─Read─▶ pages ─poll_run─▶ a publisher ─on_taken─▶ Release
//!               └───────── poll_run, when little is left ────────▶┘
//! ```
//!
//! [`SpoolState`] is the bookkeeping: what is to be written, read back and let go of. It does
//! nothing itself: [`SpoolState::poll_ask`] says what the thread that owns the files is to do, and
//! [`SpoolState::on_event`] takes its answers. One append is under way at a time while the next
//! gathers, which is group commit. How a record looks: [`record`].
//!
//! Records are handed over in the order of appending, those of an earlier run first and under
//! their own producer; another producer's begin only when all of the one before are taken. When
//! Redis goes away again, what was handed over and is not taken is read again from the disk.
//!
//! Under load something is always on its way to the disk, and the hand-over would never end. So
//! once no more than `SPOOL_LAST_RECORDS` are left, what comes waits in memory, as it does while
//! Redis is there, and is handed over from there.
//!
//! # Invariants
//!
//! - `released <= taken <= read <= end`, which count records of the disk in order of appending.
//! - Memory: what is gathered and appended is bounded by the credits of whoever publishes; what was
//!   read back by `SPOOL_HANDED_BYTES_MAX` and two pages.
//! - `bytes() < bytes_max` when a publish is let in. What is in flight when Redis goes away is
//!   appended in any case. Files are deleted whole, so the disk may hold two of them more.

pub mod record;

use std::collections::VecDeque;

pub use self::record::{Decoded, ProducerId, Record, decode, encode, record_bytes};
use super::publisher::Outgoing;
use crate::model::limits::{SPOOL_HANDED_BYTES_MAX, SPOOL_LAST_RECORDS, SPOOL_RETRY_MS};

/// Why the disk did not do what was asked. Nothing of it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolFailure {
    /// No room on the disk: it works again once there is.
    #[error("the disk of the spool is full ({0}): free some room in --data-dir, it then goes on")]
    Full(String),
    /// An operator must act.
    #[error(
        "the spool may not be written ({0}): \
         check owner, mode and mount of `spool` in --data-dir"
    )]
    ReadOnly(String),
    /// A failing disk, as a rule.
    #[error("the spool failed ({0}): see the system's log for errors of the disk of --data-dir")]
    Other(String),
}

/// What the thread of the files is to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum SpoolAsk {
    /// Write these behind the others; answered by [`SpoolEvent::Appended`].
    Append(Vec<Record>),
    /// Read a page of what follows upon so many records; answered by [`SpoolEvent::Read`].
    Read {
        /// Records before the page.
        after: u64,
    },
    /// So many records are needed no longer; not answered.
    Release {
        /// Counted from the first one ever.
        upto: u64,
    },
}

/// A page that was read back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// What could be read, in order of appending.
    pub records: Vec<Record>,
    /// Records that could not: damaged on the disk.
    pub lost: u64,
    /// What both have on the disk.
    pub bytes: u64,
}

/// What the thread of the files says.
#[derive(Debug, PartialEq, Eq)]
pub enum SpoolEvent {
    /// What an earlier run left was looked through. The first event, said once.
    Opened {
        /// How many records there are.
        records: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// An append has ended: all of it is durable, or nothing of it is there.
    Appended {
        /// How many records it was.
        count: usize,
        /// Whether they are durable.
        result: Result<(), SpoolFailure>,
    },
    /// A page was read.
    Read {
        /// As it was asked.
        after: u64,
        /// The page.
        result: Result<Page, SpoolFailure>,
    },
}

/// Records that are to go to Redis, of one producer and rising by number.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Under whose number they go.
    pub producer: ProducerId,
    /// The messages.
    pub messages: Vec<Outgoing>,
    /// They stay in the spool until they are taken; else they never came there.
    pub spooled: bool,
}

/// A run of the disk's.
#[derive(Debug)]
struct Stretch {
    producer: ProducerId,
    messages: Vec<Outgoing>,
    /// 0: there is none that could be read.
    last_number: u64,
    /// The count of records up to its end.
    upto: u64,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SpoolState {
    producer: ProducerId,
    bytes_max: u64,
    is_open: bool,
    handing_over: bool,
    released: u64,
    taken: u64,
    read: u64,
    end: u64,
    lost: u64,
    /// Of what is on the disk or on its way there, and not taken.
    disk_bytes: u64,
    gathering: Vec<Record>,
    gathering_bytes: u64,
    /// The numbers and the bytes of the append under way.
    appending: Option<(Vec<u64>, u64)>,
    reading: bool,
    pages: VecDeque<Stretch>,
    handed: VecDeque<Stretch>,
    /// Until when publishes are refused, and why.
    failing: Option<(u64, SpoolFailure)>,
    /// When the next page may be asked for.
    read_at: u64,
}

impl SpoolState {
    /// The spool of a producer, not open yet. `bytes_max` is `--spool-bytes`.
    pub fn new(producer: ProducerId, bytes_max: u64) -> Self {
        Self {
            producer,
            bytes_max,
            is_open: false,
            handing_over: false,
            released: 0,
            taken: 0,
            read: 0,
            end: 0,
            lost: 0,
            disk_bytes: 0,
            gathering: Vec::new(),
            gathering_bytes: 0,
            appending: None,
            reading: false,
            pages: VecDeque::new(),
            handed: VecDeque::new(),
            failing: None,
            read_at: 0,
        }
    }

    /// Whether one more may be published, while it would go to the spool.
    ///
    /// # Errors
    ///
    /// The text for the `unavailable` that its publisher gets.
    pub fn admits(&self, now_ms: u64) -> Result<(), String> {
        match &self.failing {
            Some((until, failure)) if now_ms < *until => {
                return Err(format!("Redis is away, and {failure}"));
            }
            _ => {}
        }
        if self.bytes() < self.bytes_max {
            return Ok(());
        }
        let max = self.bytes_max;
        Err(format!(
            "Redis is away, and the spool has its {max} bytes: try again later, \
             or give it more with --spool-bytes"
        ))
    }

    /// Whether nothing more is let in, or nothing could be written when it was last tried.
    pub fn is_full_or_failing(&self) -> bool {
        self.failing.is_some() || self.bytes() >= self.bytes_max
    }

    /// Takes messages of this producer that were published meanwhile.
    pub fn append(&mut self, messages: impl IntoIterator<Item = Outgoing>) {
        for outgoing in messages {
            self.gathering_bytes += record_bytes(&outgoing);
            let producer = self.producer;
            self.gathering.push(Record { producer, outgoing });
        }
    }

    /// Redis takes messages: what is held is to be handed over.
    pub fn on_back(&mut self) {
        self.handing_over = true;
    }

    /// Redis is away. What was handed over and is not taken will be read again, so publishers must
    /// have dropped it; `unsettled` is what they had that is not in the spool
    /// ([`super::publisher::Publisher::take_for_spool`]).
    pub fn on_away(&mut self, unsettled: impl IntoIterator<Item = Outgoing>) {
        self.handing_over = false;
        self.pages.clear();
        self.handed.clear();
        self.read = self.taken;
        self.append(unsettled);
        // What was handed over from memory belongs before what was gathered since. None of that is
        // on its way to the disk yet: see `ends` in `poll_ask`.
        self.gathering.sort_by_key(|record| record.outgoing.number);
    }

    /// What the thread is to do next: after anything happened, and while the disk fails each
    /// `SPOOL_RETRY_MS`.
    pub fn poll_ask(&mut self, now_ms: u64) -> Option<SpoolAsk> {
        if !self.is_open {
            return None;
        }
        if self.released < self.taken {
            self.released = self.taken;
            return Some(SpoolAsk::Release { upto: self.taken });
        }
        let ends = self.handing_over && self.end - self.read <= SPOOL_LAST_RECORDS;
        if !self.gathering.is_empty() && self.appending.is_none() && !ends {
            let records = std::mem::take(&mut self.gathering);
            let numbers = records.iter().map(|record| record.outgoing.number);
            let bytes = std::mem::take(&mut self.gathering_bytes);
            self.appending = Some((numbers.collect(), bytes));
            self.disk_bytes += bytes;
            return Some(SpoolAsk::Append(records));
        }
        let wanted = self.handing_over && self.read < self.end && self.pages.is_empty();
        let handed: u64 = self.handed.iter().map(|stretch| stretch.bytes).sum();
        let may = !self.reading && handed < SPOOL_HANDED_BYTES_MAX && self.read_at <= now_ms;
        (wanted && may).then(|| {
            self.reading = true;
            SpoolAsk::Read { after: self.read }
        })
    }

    /// The thread has answered. `refused` gets the numbers that could not be written: their
    /// publishers are to be told, and the numbers will never come.
    pub fn on_event(&mut self, now_ms: u64, event: SpoolEvent, refused: &mut Vec<u64>) {
        match event {
            SpoolEvent::Opened { records, bytes } => {
                self.is_open = true;
                self.end = records;
                self.disk_bytes = bytes;
            }
            SpoolEvent::Appended { count, result } => {
                let Some((numbers, bytes)) = self.appending.take() else {
                    return;
                };
                debug_assert_eq!(count, numbers.len(), "one append is under way");
                match result {
                    Ok(()) => {
                        self.end += numbers.len() as u64;
                        self.failing = None;
                    }
                    Err(failure) => {
                        self.disk_bytes = self.disk_bytes.saturating_sub(bytes);
                        self.failing = Some((now_ms + SPOOL_RETRY_MS, failure));
                        refused.extend(numbers);
                    }
                }
            }
            SpoolEvent::Read { after, result } => {
                self.reading = false;
                match result {
                    // Else Redis went away meanwhile, and it will be asked for again.
                    Ok(_) if after != self.read || !self.handing_over => {}
                    Ok(page) if !page.records.is_empty() || page.lost > 0 => self.take_page(page),
                    Ok(_) | Err(_) => self.read_at = now_ms + SPOOL_RETRY_MS,
                }
            }
        }
    }

    /// What is to be handed over next: to the publisher of that producer, with
    /// [`super::publisher::Publisher::hand_over`].
    pub fn poll_run(&mut self) -> Option<Run> {
        if !self.handing_over {
            return None;
        }
        while let Some(next) = self.pages.front() {
            let before = self.handed.back();
            if before.is_some_and(|before| before.producer != next.producer) {
                return None;
            }
            let mut next = self.pages.pop_front()?;
            let messages = std::mem::take(&mut next.messages);
            let producer = next.producer;
            self.handed.push_back(next);
            if !messages.is_empty() {
                return Some(Run {
                    producer,
                    messages,
                    spooled: true,
                });
            }
            self.on_taken(producer, 0);
        }
        let producer = self.producer;
        let is_ours = self.handed.iter().all(|before| before.producer == producer);
        let nothing_between = self.appending.is_none() && self.read == self.end;
        if self.gathering.is_empty() || !self.is_open || !is_ours || !nothing_between {
            return None;
        }
        self.gathering_bytes = 0;
        let records = self.gathering.drain(..);
        Some(Run {
            producer,
            messages: records.map(|record| record.outgoing).collect(),
            spooled: false,
        })
    }

    /// Redis has all that was handed over of this producer with a number below `base`
    /// ([`super::publisher::Publisher::base`]).
    pub fn on_taken(&mut self, producer: ProducerId, base: u64) {
        let is_taken = |of: &Stretch| {
            of.last_number == 0 || (of.producer == producer && of.last_number < base)
        };
        while self.handed.front().is_some_and(is_taken)
            && let Some(stretch) = self.handed.pop_front()
        {
            self.taken = stretch.upto;
            self.disk_bytes = self.disk_bytes.saturating_sub(stretch.bytes);
        }
    }

    /// Whether all of it was handed over: then whoever publishes need not go through the spool any
    /// more ([`super::publisher::Publisher::end_spooling`]).
    pub fn is_handed_over(&self) -> bool {
        let all = self.is_open && self.handing_over && self.pages.is_empty();
        let nothing_comes = self.gathering.is_empty() && self.appending.is_none();
        let of_others = |of: &Stretch| of.producer != self.producer;
        all && nothing_comes && self.read == self.end && !self.handed.iter().any(of_others)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.is_open && self.records() == 0
    }

    /// Whether what an earlier run left is known. Until then whatever is published must be spooled.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// How many messages are held, those on their way to the disk among them.
    pub fn records(&self) -> u64 {
        let appending = self.appending.as_ref().map_or(0, |(some, _)| some.len());
        self.end - self.taken + (self.gathering.len() + appending) as u64
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.disk_bytes + self.gathering_bytes
    }

    /// How many were found damaged when they were read.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// A page goes into stretches of one producer each; the last has what is lost.
    fn take_page(&mut self, page: Page) {
        let mut left = page.bytes;
        for Record { producer, outgoing } in page.records {
            self.read += 1;
            let bytes = record_bytes(&outgoing).min(left);
            left -= bytes;
            let number = outgoing.number;
            match self.pages.back_mut() {
                Some(last) if last.producer == producer => last.add(outgoing, self.read, bytes),
                _ => self.pages.push_back(Stretch {
                    producer,
                    messages: vec![outgoing],
                    last_number: number,
                    upto: self.read,
                    bytes,
                }),
            }
        }
        self.read += page.lost;
        self.lost += page.lost;
        if self.pages.is_empty() {
            let producer = self
                .handed
                .back()
                .map_or(self.producer, |last| last.producer);
            self.pages.push_back(Stretch {
                producer,
                messages: Vec::new(),
                last_number: 0,
                upto: self.read,
                bytes: 0,
            });
        }
        if let Some(last) = self.pages.back_mut() {
            last.upto = self.read;
            last.bytes += left;
        }
        debug_assert!(self.read <= self.end, "{self:?}");
    }
}

impl Stretch {
    fn add(&mut self, outgoing: Outgoing, upto: u64, bytes: u64) {
        self.last_number = outgoing.number;
        self.messages.push(outgoing);
        self.upto = upto;
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests;
