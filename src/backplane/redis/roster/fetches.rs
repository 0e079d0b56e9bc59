//! Which instances' snapshots are wanted, waited for and under way.
//!
//! ```text
//! Idle ─want─▶ Waiting ─pause over─▶ Ready ─poll─▶ UnderWay ─answered, timed out─▶ Idle
//! ```
//!
//! The first is ready at once. Each one more before `settled` waits twice as long, so that a hash
//! that never agrees costs a read now and then, and no more.
//!
//! Invariant: `under_way` counts those under way and is at most [`ROSTER_FETCHES_MAX`].

use std::collections::{BTreeMap, VecDeque};

use crate::model::Name;
use crate::model::limits::{ROSTER_FETCH_MS, ROSTER_FETCH_PAUSE_MS, ROSTER_FETCHES_MAX};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    fetches: BTreeMap<Name, Fetch>,
    ready: VecDeque<Name>,
    under_way: usize,
}

#[derive(Debug)]
struct Fetch {
    tries: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Waiting(u64),
    Ready,
    UnderWay(u64),
}

impl Fetches {
    /// A snapshot is wanted, if none is already. `chance` spreads those who want the same.
    pub(super) fn want(&mut self, now_ms: u64, instance: &Name, chance: u64) {
        let fetch = self.fetches.entry(instance.clone()).or_insert(Fetch {
            tries: 0,
            state: State::Idle,
        });
        if fetch.state != State::Idle {
            return;
        }
        fetch.tries = fetch.tries.saturating_add(1);
        if fetch.tries == 1 {
            fetch.state = State::Ready;
            self.ready.push_back(instance.clone());
        } else {
            let (first, longest) = ROSTER_FETCH_PAUSE_MS;
            let pause = (first << (fetch.tries - 2).min(16)).min(longest);
            let pause = pause - chance % (pause / 4);
            fetch.state = State::Waiting(now_ms.saturating_add(pause));
        }
    }

    /// The next one to read. Changes with `want`, `tick`, `answered` and `forget`.
    pub(super) fn poll(&mut self, now_ms: u64) -> Option<Name> {
        if self.under_way >= ROSTER_FETCHES_MAX {
            return None;
        }
        let instance = self.ready.pop_front()?;
        if let Some(fetch) = self.fetches.get_mut(&instance) {
            fetch.state = State::UnderWay(now_ms);
            self.under_way += 1;
        }
        Some(instance)
    }

    /// An answer came; `false`: none is waited for any more.
    pub(super) fn answered(&mut self, instance: &str) -> bool {
        let is_awaited = self.is_under_way(instance);
        if let Some(fetch) = self.fetches.get_mut(instance)
            && is_awaited
        {
            fetch.state = State::Idle;
            self.under_way -= 1;
        }
        is_awaited
    }

    pub(super) fn is_under_way(&self, instance: &str) -> bool {
        let fetch = self.fetches.get(instance);
        fetch.is_some_and(|fetch| matches!(fetch.state, State::UnderWay(_)))
    }

    /// How often a snapshot was wanted since the instance was last agreed with.
    pub(super) fn tries(&self, instance: &str) -> u32 {
        self.fetches.get(instance).map_or(0, |fetch| fetch.tries)
    }

    /// What is known of the instance is right.
    pub(super) fn settled(&mut self, instance: &str) {
        if let Some(fetch) = self.fetches.get_mut(instance) {
            fetch.tries = 0;
        }
    }

    /// The instance is gone.
    pub(super) fn forget(&mut self, instance: &str) {
        self.answered(instance);
        self.fetches.remove(instance);
        self.ready.retain(|ready| ready != instance);
    }

    /// Makes those ready whose pause is over, and names those whose answer does not come.
    pub(super) fn tick(&mut self, now_ms: u64) -> Vec<Name> {
        let mut late = Vec::new();
        for (instance, fetch) in &mut self.fetches {
            match fetch.state {
                State::Waiting(until) if until <= now_ms => {
                    fetch.state = State::Ready;
                    self.ready.push_back(instance.clone());
                }
                State::UnderWay(since) if since.saturating_add(ROSTER_FETCH_MS) <= now_ms => {
                    late.push(instance.clone());
                }
                _ => (),
            }
        }
        late
    }

    #[cfg(test)]
    pub(super) fn invariants(&self) {
        let states = self.fetches.values().map(|fetch| fetch.state);
        let under_way = states.filter(|state| matches!(state, State::UnderWay(_)));
        assert_eq!(under_way.count(), self.under_way);
        assert!(self.under_way <= ROSTER_FETCHES_MAX);
        for instance in &self.ready {
            assert_eq!(self.fetches[instance].state, State::Ready);
        }
    }
}
