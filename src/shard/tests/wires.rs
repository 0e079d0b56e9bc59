//! The sockets of one shard, in memory: they take some bytes, block, break, and come back.

use fastrand::Rng;

use crate::hub::ConnIndex;
use crate::shard::{Gone, Socket};

/// One socket, seen from the server.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) client: usize,
    /// From the client, not read yet.
    pub(super) inbound: Vec<u8>,
    /// To the client, not read yet.
    pub(super) outbound: Vec<u8>,
    pub(super) capacity: usize,
    /// It took less than it was given, and has not said since that it takes more.
    pub(super) full: bool,
    pub(super) awaiting: bool,
    pub(super) paused: bool,
    /// The server ended its direction.
    pub(super) fin: bool,
    /// The client is gone: a send fails.
    pub(super) reset: bool,
}

/// All of a shard.
#[derive(Debug)]
pub(super) struct Wires {
    pub(super) slots: Vec<Option<Wire>>,
    pub(super) rng: Rng,
    pub(super) faults: bool,
}

impl Wires {
    /// Plugs a client in under a free number.
    pub(super) fn insert(&mut self, wire: Wire) -> ConnIndex {
        let at = match self.slots.iter().position(Option::is_none) {
            Some(at) => at,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[at] = Some(wire);
        at as ConnIndex
    }

    pub(super) fn get(&mut self, index: ConnIndex) -> Option<&mut Wire> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// Changes that wire, if it is there.
    pub(super) fn with(&mut self, index: ConnIndex, change: impl FnOnce(&mut Wire)) {
        if let Some(wire) = self.get(index) {
            change(wire);
        }
    }

    pub(super) fn take(&mut self, index: ConnIndex) -> Option<Wire> {
        self.slots.get_mut(index as usize)?.take()
    }

    /// The numbers in use, in a random order.
    pub(super) fn shuffled(&mut self) -> Vec<ConnIndex> {
        let used = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.is_some());
        let mut used: Vec<_> = used.map(|(at, _)| at as ConnIndex).collect();
        self.rng.shuffle(&mut used);
        used
    }
}

impl Socket for Wires {
    fn send(&mut self, index: ConnIndex, bytes: &[u8]) -> Result<usize, Gone> {
        let little = self.faults && self.rng.u32(..10) == 0;
        let some = self.rng.f64();
        let wire = self.get(index).filter(|wire| !wire.reset).ok_or(Gone)?;
        assert!(!wire.fin, "nothing is sent behind the end");
        assert!(
            !wire.full,
            "a socket that blocked is not tried before it is writable"
        );
        let mut taken = bytes
            .len()
            .min(wire.capacity.saturating_sub(wire.outbound.len()));
        if little {
            taken = (taken as f64 * some) as usize;
        }
        wire.outbound.extend_from_slice(&bytes[..taken]);
        wire.full = taken < bytes.len();
        Ok(taken)
    }

    fn holds_back(&mut self, _: ConnIndex) -> bool {
        false
    }
}
