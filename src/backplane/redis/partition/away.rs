//! While Redis is away: what is published is held in the spool, and handed over when it is back.
//!
//! ```text
//! closed ─▶ open: told; publisher ─▶ spool            publishes ─▶ spool, previews
//!        ◀─ closed again: spool ─▶ publisher ─▶ Redis; told once all is handed over
//! ```
//!
//! Also before it is known what an earlier run has left in the spool, everything goes through it,
//! so that what was held first is stored first. The records of an earlier run go under that run's
//! producer, by a publisher of its own: what Redis had taken of them it skips.
//!
//! Invariants: `degraded` was told to the shard as often as its end, alternating; while it is, the
//! publisher is spooling.

use super::{Partition, Whose, preview};
use crate::backplane::redis::breaker::Change;
use crate::backplane::redis::publisher::Publisher;
use crate::backplane::redis::spool::{ProducerId, Run, SpoolEvent};
use crate::backplane::{Ask, Moment, Origin, Outcome};

/// The publisher of what an earlier run has left.
#[derive(Debug)]
pub(super) struct Earlier<T> {
    pub(super) producer: ProducerId,
    pub(super) publisher: Publisher<Whose<T>>,
}

impl<T: Origin> Partition<T> {
    pub(super) fn poll_breaker(&mut self, moment: &mut Moment<'_>) {
        let asked_ms = self.commands.asked_ms();
        let awake_ms = self.keep.awake_ms;
        self.breaker
            .on_waiting_since(asked_ms.map(|asked_ms| asked_ms.max(awake_ms)));
        while let Some(change) = self.breaker.poll_change(moment.ms, moment.rng.f64()) {
            match change {
                Change::Opened(why) => self.on_away(why),
                Change::Closed => {
                    // It may be another behind the same address, or have lost something.
                    self.greet_again(moment.ms);
                    self.spool.on_back();
                    self.roster.on_redis_back(moment.ms);
                }
            }
        }
        self.hand_over();
    }

    fn on_away(&mut self, why: String) {
        self.fail_opening(&why);
        // What has not been asked yet would wait until Redis is back.
        self.lose_floors();
        for (outgoing, whose) in self.publisher.unsettled_publishes() {
            if !std::mem::replace(&mut whose.is_held, true) {
                let (preview, origin) = (preview(outgoing), whose.origin.clone());
                whose.origin.hold();
                self.outcomes.push(Outcome::Held { preview, origin });
            }
        }
        self.spool.on_away(self.publisher.take_for_spool());
        if let Some(earlier) = &mut self.earlier {
            // What it had stays in the spool, and is read again.
            earlier.publisher.take_for_spool();
        }
        if !self.degraded {
            self.degraded = true;
            // Addresses and the like are for the log.
            let told = why.split(':').next().unwrap_or_default().to_owned();
            self.outcomes.push(Outcome::Degraded(Some(told)));
            self.asks.push(Ask::Warn(format!(
                "{why}; what is published is held in the spool"
            )));
        }
    }

    /// What the spool gives back goes to the publishers, as far as Redis has taken what went
    /// before; at the end they go on without it.
    pub(super) fn hand_over(&mut self) {
        let own = self.publisher.base();
        self.spool.on_taken(self.producer_id, own);
        if let Some(earlier) = &self.earlier {
            let (producer, base) = (earlier.producer, earlier.publisher.base());
            self.spool.on_taken(producer, base);
        }
        while let Some(Run {
            producer,
            messages,
            spooled,
        }) = self.spool.poll_run()
        {
            let publisher = match producer == self.producer_id {
                true => &mut self.publisher,
                false => self.earlier_publisher(producer),
            };
            for message in messages {
                publisher.hand_over(message, spooled);
            }
        }
        if self.publisher.is_spooling() && self.breaker.is_closed() && self.spool.is_handed_over() {
            self.publisher.end_spooling();
            self.earlier = None;
            if self.degraded {
                self.degraded = false;
                self.asks
                    .push(Ask::Note("Redis takes messages again".into()));
                self.outcomes.push(Outcome::Degraded(None));
            }
        }
    }

    fn earlier_publisher(&mut self, producer: ProducerId) -> &mut Publisher<Whose<T>> {
        let is_other = |earlier: &Earlier<T>| earlier.producer != producer;
        if self.earlier.as_ref().is_some_and(is_other) {
            self.earlier = None;
        }
        let earlier = self.earlier.get_or_insert_with(|| Earlier {
            producer,
            publisher: Publisher::new(),
        });
        &mut earlier.publisher
    }

    /// What was published goes to the spool, as long as it must.
    pub(super) fn feed_spool(&mut self, now_ms: u64) {
        if self.publisher.is_spooling() {
            self.spool.append(self.publisher.take_new_for_spool());
        }
        while let Some(ask) = self.spool.poll_ask(now_ms) {
            self.asks.push(Ask::Spool(ask));
        }
    }

    pub(in crate::backplane) fn on_spool(&mut self, moment: &mut Moment<'_>, event: SpoolEvent) {
        let is_opened = matches!(event, SpoolEvent::Opened { .. });
        let mut refused = Vec::new();
        self.spool.on_event(moment.ms, event, &mut refused);
        if is_opened && self.breaker.is_closed() {
            self.spool.on_back();
        }
        let mut settled = Vec::new();
        self.publisher.give_up(refused, &mut settled);
        self.settle(settled);
        self.hand_over();
        self.feed_spool(moment.ms);
    }
}
