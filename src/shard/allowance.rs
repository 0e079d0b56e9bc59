//! What one connection may still send: token buckets of messages and of bytes, and how much of what
//! it sent was refused.
//!
//! A bucket is kept as its level: the time that the limit needs to work off what was taken from it,
//! in [`SECOND`]s. It falls as time goes by; what would lift it beyond a burst is refused and lifts
//! nothing, so who sends at twice the rate gets half of it through, and who has waited has a burst.
//!
//! ```text
//!            burst ─┤     refused: only `refused` rises
//!   level ▲         │▒▒▒▒
//!         │   ▒▒▒   │▒▒▒▒▒▒▒     a message at R/s lifts it by SECOND/R,
//!         │ ▒▒▒▒▒▒▒▒│▒▒▒▒▒▒▒▒▒▒  a second lowers it by SECOND
//! ```
//!
//! Not here: addresses (`addresses`), and what becomes of who is refused (`limited`).
//!
//! Invariants: in any time span T a connection gets through at most `rate * (T + burst)`, but for
//! one message that is larger than a burst, which passes when the bucket is full and is worked off
//! like any other; levels of an idle connection are 0; all of it is 20 bytes a connection.

use crate::model::limits::{RATE_BURST_SECONDS, RATE_REFUSED_SECONDS};

/// A second of a limit's time: fine enough for a million messages in it, and a minute fits 32 bits.
const SECOND: u32 = 1 << 26;
const BURST: u32 = RATE_BURST_SECONDS * SECOND;
const REFUSED_MAX: u32 = RATE_REFUSED_SECONDS * SECOND;
/// The largest message takes a level no further than this: see [`Rates::bytes`].
const _: () = assert!(u32::MAX / SECOND >= 63);

/// How much may come in. Nothing is limited by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages a second of a connection, at most a million; 0: no limit.
    pub messages: u32,
    /// Bytes a second of a connection; 0: no limit. Of one message at most 63 seconds' worth count.
    pub bytes: u64,
    /// Messages a second of an address; 0: no limit.
    pub address_messages: u32,
    /// WebSockets and streams of events of an address at a time; 0: no limit.
    pub address_connections: u32,
}

impl Rates {
    /// Whether an address is limited in any way.
    pub(super) fn know_addresses(&self) -> bool {
        self.address_messages > 0 || self.address_connections > 0
    }

    /// Whether what comes in is limited in any way.
    pub(super) fn limit_messages(&self) -> bool {
        self.messages > 0 || self.bytes > 0 || self.address_messages > 0
    }

    fn message_cost(&self) -> u32 {
        SECOND.checked_div(self.messages).unwrap_or(0)
    }

    /// As how many messages of its address something by HTTP counts: as many as a connection of
    /// its own would take for its bytes, since it may be a connection's only one.
    pub(super) fn worth(&self, bytes: usize) -> u32 {
        let worth = self.bytes_cost(bytes).checked_div(self.message_cost());
        worth.unwrap_or(1).max(1)
    }

    fn bytes_cost(&self, bytes: usize) -> u32 {
        let cost = (bytes as u64).saturating_mul(SECOND.into());
        let cost = cost.checked_div(self.bytes).unwrap_or(0);
        cost.min(63 * u64::from(SECOND)) as u32
    }
}

/// Which limit it is that a message is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Messages of the connection.
    Messages,
    /// Bytes of the connection.
    Bytes,
    /// Messages of the address.
    Address,
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance {
    /// When the levels were lowered last, in ms; a life of it is 49 days, and who is silent for so
    /// long is closed before.
    at_ms: u32,
    messages: u32,
    bytes: u32,
    refused: u32,
    /// Bytes that were read of a message that is not whole yet.
    unfinished: u32,
}

impl Allowance {
    /// All of it.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            at_ms: now_ms as u32,
            ..Self::default()
        }
    }

    /// Time has passed.
    pub(super) fn refill(&mut self, now_ms: u64) {
        let elapsed_ms = (now_ms as u32).wrapping_sub(self.at_ms);
        if elapsed_ms == 0 {
            return;
        }
        self.at_ms = now_ms as u32;
        let fallen = u64::from(elapsed_ms) * u64::from(SECOND) / 1000;
        let fallen = u32::try_from(fallen).unwrap_or(u32::MAX);
        for level in [&mut self.messages, &mut self.bytes, &mut self.refused] {
            *level = level.saturating_sub(fallen);
        }
    }

    /// So many bytes came of a message that is not whole yet.
    pub(super) fn begin(&mut self, bytes: usize) {
        self.unfinished = self.unfinished.saturating_add(bytes as u32);
    }

    /// A message is whole whose last part had so many bytes; returns how many it is in all.
    pub(super) fn finish(&mut self, bytes: usize) -> usize {
        std::mem::take(&mut self.unfinished) as usize + bytes
    }

    /// Takes a message in, or says which limit it is over.
    pub(super) fn take(&mut self, rates: &Rates, bytes: usize) -> Result<(), Limit> {
        let (message, size) = (rates.message_cost(), rates.bytes_cost(bytes));
        if !fits(self.messages, message) {
            return Err(Limit::Messages);
        }
        if !fits(self.bytes, size) {
            return Err(Limit::Bytes);
        }
        self.messages += message;
        self.bytes = self.bytes.saturating_add(size);
        Ok(())
    }

    /// Notes that a message was refused. Returns whether that is enough: it counts as much as it
    /// would have taken, and more than its limits' worth was refused for seconds.
    pub(super) fn refuse(&mut self, rates: &Rates, bytes: usize) -> bool {
        let own = rates.message_cost().max(rates.bytes_cost(bytes));
        let cost = match own {
            0 => SECOND.checked_div(rates.address_messages).unwrap_or(0),
            own => own,
        };
        self.refused = self.refused.saturating_add(cost);
        self.refused > REFUSED_MAX
    }
}

fn fits(level: u32, cost: u32) -> bool {
    level == 0 || level.saturating_add(cost) <= BURST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGES: Rates = Rates {
        messages: 1000,
        bytes: 0,
        address_messages: 0,
        address_connections: 0,
    };
    const BYTES: Rates = Rates {
        messages: 0,
        bytes: 1 << 20,
        ..MESSAGES
    };

    /// How many of `count` messages are taken at once.
    fn taken(allowance: &mut Allowance, rates: &Rates, bytes: usize, count: usize) -> usize {
        (0..count)
            .filter(|_| allowance.take(rates, bytes).is_ok())
            .count()
    }

    #[test]
    fn a_burst_is_twice_the_rate_and_then_it_is_the_rate() {
        for rate in [1, 3, 7, 1000, 65_537, 1_000_000] {
            let rates = Rates {
                messages: rate,
                ..MESSAGES
            };
            let mut allowance = Allowance::new(5);
            let burst = taken(&mut allowance, &rates, 10, 3 * rate as usize + 3);
            let (least, most) = (2 * rate as usize, 2 * rate as usize + rate as usize / 100);
            assert!(burst >= least && burst <= most, "{rate}: {burst}");
            allowance.refill(1005);
            let second = taken(&mut allowance, &rates, 10, 2 * rate as usize);
            assert!(second >= rate as usize, "{rate}: {second}");
            assert!(second <= (rate + rate / 100) as usize, "{rate}: {second}");
            // Who waits long has a burst again and no more.
            allowance.refill(u64::from(u32::MAX));
            assert_eq!(taken(&mut allowance, &rates, 10, 3 * burst), burst);
        }
    }

    #[test]
    fn bytes_are_limited_apart() {
        let mut allowance = Allowance::new(0);
        assert_eq!(taken(&mut allowance, &BYTES, 64 << 10, 100), 32);
        assert_eq!(allowance.take(&BYTES, 1), Err(Limit::Bytes));
        allowance.refill(500);
        assert_eq!(taken(&mut allowance, &BYTES, 64 << 10, 100), 8);
        let both = Rates {
            messages: 10,
            ..BYTES
        };
        let mut allowance = Allowance::new(0);
        assert_eq!(taken(&mut allowance, &both, 1, 100), 20);
        assert_eq!(allowance.take(&both, 1), Err(Limit::Messages));
    }

    #[test]
    fn a_message_larger_than_a_burst_passes_when_nothing_else_did() {
        let mut allowance = Allowance::new(0);
        assert_eq!(allowance.take(&BYTES, 16 << 20), Ok(()));
        assert_eq!(allowance.take(&BYTES, 1), Err(Limit::Bytes));
        allowance.refill(14_000);
        assert_eq!(allowance.take(&BYTES, 1), Err(Limit::Bytes));
        allowance.refill(14_010);
        assert_eq!(allowance.take(&BYTES, 1), Ok(()));
        assert_eq!(allowance.take(&BYTES, 16 << 20), Err(Limit::Bytes));
    }

    #[test]
    fn by_http_a_long_message_is_worth_several() {
        let both = Rates {
            messages: 1000,
            ..BYTES
        };
        for (bytes, worth) in [(0, 1), (1_000, 1), (1_100, 1), (2_100, 2), (64 << 10, 62)] {
            assert_eq!(both.worth(bytes), worth, "{bytes}");
            assert_eq!((MESSAGES.worth(bytes), BYTES.worth(bytes)), (1, 1));
        }
    }

    #[test]
    fn what_is_not_limited_is_not() {
        let mut allowance = Allowance::new(0);
        let none = Rates::default();
        assert_eq!(taken(&mut allowance, &none, 1 << 30, 100_000), 100_000);
        assert!(!none.limit_messages() && !none.know_addresses());
    }

    /// Twice the rate is told and stays; ten times is ended within a second.
    #[test]
    fn who_goes_on_is_too_much_by_how_far_it_is_over() {
        for (times, ends) in [(1, None), (2, None), (3, Some(7_000)), (10, Some(1_000))] {
            let mut allowance = Allowance::new(0);
            let mut ended = None;
            for ms in 1..60_000u64 {
                allowance.refill(ms);
                for _ in 0..times {
                    if allowance.take(&MESSAGES, 10).is_err() && allowance.refuse(&MESSAGES, 10) {
                        ended = ended.or(Some(ms));
                    }
                }
            }
            assert_eq!(ended.is_some(), ends.is_some(), "{times}");
            assert!(ended <= ends, "{times} times: {ended:?}");
        }
    }

    #[test]
    fn it_is_small_and_survives_its_clock() {
        assert!(size_of::<Allowance>() <= 20);
        let mut allowance = Allowance::new(u64::from(u32::MAX) - 10);
        taken(&mut allowance, &MESSAGES, 1, 5_000);
        allowance.refill(u64::from(u32::MAX) + 990);
        assert_eq!(taken(&mut allowance, &MESSAGES, 1, 5_000), 1000);
    }

    proptest! {
        /// Whatever comes when, no more than rate and burst gets through, and who keeps to its rate
        /// is never refused.
        #[test]
        fn never_more_than_rate_and_burst(
            rate in 1u32..5_000,
            steps in proptest::collection::vec((0u64..700, 0usize..3_000), 1..40),
        ) {
            let rates = Rates { messages: rate, ..MESSAGES };
            let mut allowance = Allowance::new(0);
            let (mut now_ms, mut through) = (0, 0);
            for (pause_ms, count) in steps {
                now_ms += pause_ms;
                allowance.refill(now_ms);
                through += taken(&mut allowance, &rates, 1, count);
                let most = f64::from(rate) * (now_ms as f64 / 1000.0 + 2.0);
                // A message's share of a second is rounded down.
                prop_assert!(through as f64 <= most * 1.0001 + 1.0, "{through} of {most}");
            }
            let mut steady = Allowance::new(0);
            for n in 0..u64::from(rate) * 5 {
                steady.refill(n * 1000 / u64::from(rate));
                prop_assert_eq!(steady.take(&rates, 1), Ok(()));
            }
        }
    }
}
