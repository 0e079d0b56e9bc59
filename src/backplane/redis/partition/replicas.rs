//! Acks that wait for replicas: `--ack-replicas`.
//!
//! ```text
//! the calls of a turn, WAIT n ─▶ replies: withheld ─▶ n have it ─▶ publisher: acks
//!                          └◀─ asked by the next tick ───┴─ too few; for long: Redis is away
//! ```
//!
//! WAIT speaks for all that was written before it, so the calls of a turn need one. Until it is
//! answered well, a call is one without an answer to the publisher: if the connection breaks, it is
//! sent again, and the replica that was promoted stores what it did not have and answers 0 for what
//! it had. Own items that come by the channel are no proof either
//! ([`Publisher::withholding`](super::super::publisher::Publisher::withholding)).
//!
//! Too few replicas for long are a Redis that refuses: the breaker opens, what is published is held
//! in the spool, and the probe that closes it ends with a WAIT too. Delivery waits for nothing:
//! what a failover takes back may have been seen, and a new epoch tells so.
//!
//! Invariants: without replicas to wait for nothing is withheld; while something is, a WAIT is
//! under way, or comes with the next tick or probe. It is bounded by the calls in flight.

use super::Partition;
use super::replies::Question;
use crate::backplane::redis::publisher::Status;
use crate::backplane::redis::script::publish::PublishReply;
use crate::backplane::redis::spool::ProducerId;
use crate::backplane::{Ask, Moment, Origin};
use crate::model::limits::{REPLICAS_AWAY_MS, REPLICAS_WAIT_MS};
use crate::model::{EntryId, Epoch};
use crate::resp::{Value, push_command};

/// A call that is answered, and its messages not acked.
#[derive(Debug)]
pub(super) struct Withheld {
    pub(super) producer: ProducerId,
    pub(super) call: u64,
    pub(super) status: Status,
    pub(super) results: Vec<i64>,
    pub(super) place: (Epoch, u64, Option<EntryId>),
}

impl Withheld {
    pub(super) fn new(
        producer: ProducerId,
        call: u64,
        status: Status,
        reply: PublishReply,
    ) -> Self {
        Self {
            producer,
            call,
            status,
            place: (reply.epoch, reply.seq, reply.entry),
            results: reply.results,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    needed: u32,
    withheld: Vec<Withheld>,
    /// WAITs that have no reply.
    asked: u32,
    /// Since when there have been too few.
    short_since_ms: Option<u64>,
}

impl Replicas {
    pub(super) fn new(needed: u32) -> Self {
        Self {
            needed,
            ..Self::default()
        }
    }

    pub(super) fn are_needed(&self) -> bool {
        self.needed > 0
    }

    pub(super) fn withhold(&mut self, withheld: Withheld) {
        debug_assert!(self.are_needed(), "nobody waits for replicas");
        self.withheld.push(withheld);
    }

    /// The connection is gone: what is withheld is sent again.
    pub(super) fn forget(&mut self) {
        self.withheld.clear();
        (self.asked, self.short_since_ms) = (0, None);
    }
}

impl<T: Origin> Partition<T> {
    /// Asks whether enough replicas have what was written.
    pub(super) fn ask_replicas(&mut self, now_ms: u64, is_probe: bool) {
        let (needed, ms) = (
            self.replicas.needed.to_string(),
            REPLICAS_WAIT_MS.to_string(),
        );
        self.replicas.asked += 1;
        let out = self.commands.ask(now_ms, Question::Replicas { is_probe });
        push_command(out, &[b"WAIT", needed.as_bytes(), ms.as_bytes()]);
        self.counters.commands += 1;
    }

    /// Asks once more for what is withheld. While Redis is away the probes do.
    pub(super) fn ask_replicas_again(&mut self, now_ms: u64) {
        let waits = !self.replicas.withheld.is_empty() && self.replicas.asked == 0;
        if waits && self.can_publish() {
            self.ask_replicas(now_ms, false);
        }
    }

    /// So many replicas have what was written before the WAIT.
    pub(super) fn on_replicas(&mut self, moment: &mut Moment<'_>, is_probe: bool, value: Value) {
        self.replicas.asked = self.replicas.asked.saturating_sub(1);
        let needed = self.replicas.needed;
        match value {
            Value::Number(count) if count >= i64::from(needed) => {
                self.replicas.short_since_ms = None;
                // All replies until now are of calls before this WAIT.
                for withheld in std::mem::take(&mut self.replicas.withheld) {
                    self.release(withheld);
                }
                if is_probe && self.keep.is_greeted() {
                    self.breaker.on_probe_ok();
                }
            }
            Value::Number(count) => {
                let since_ms = self.replicas.short_since_ms.get_or_insert(moment.ms);
                let is_long = *since_ms + REPLICAS_AWAY_MS <= moment.ms;
                if is_probe || is_long {
                    let why = format!(
                        "{count} of {needed} replicas have what was written (--ack-replicas): is \
                         one down, or far behind?"
                    );
                    let random = moment.rng.f64();
                    self.breaker.on_refused(moment.ms, true, &why, random);
                }
            }
            Value::Error(refusal) => self.on_refusal(moment, &refusal),
            _ => self.asks.push(Ask::Warn("Redis does not know WAIT".into())),
        }
    }
}
