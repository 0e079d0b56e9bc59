//! What a shard counts. Plain numbers of its own; `runtime/` copies them out for whoever asks.

use crate::backplane::Report;
use crate::model::{CloseCode, ErrorCode};

/// Close codes that are counted apart.
pub const CLOSE_CODES: [u16; 12] = [
    1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1013, 4001, 4002, 4003,
];
/// Error codes in the order in which they are counted.
pub const ERROR_CODES: [ErrorCode; 13] = [
    ErrorCode::BadJson,
    ErrorCode::BadFrame,
    ErrorCode::UnknownType,
    ErrorCode::BadRoom,
    ErrorCode::NotJoined,
    ErrorCode::TooLarge,
    ErrorCode::RateLimited,
    ErrorCode::Unauthorized,
    ErrorCode::Forbidden,
    ErrorCode::TooManyRooms,
    ErrorCode::Overloaded,
    ErrorCode::Unavailable,
    ErrorCode::Internal,
];

/// Counts since the shard began, but for those that say what is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Sockets that are open now.
    pub connections: u64,
    /// WebSockets that speak the protocol now.
    pub clients: u64,
    /// How it stands with Redis.
    pub redis: Report,
    /// Rooms whose home is here, now.
    pub rooms: u64,
    /// Members of all rooms on this shard, now.
    pub members: u64,
    /// Bytes of the room logs, now.
    pub log_bytes: u64,
    /// Bytes read from sockets.
    pub bytes_in: u64,
    /// Bytes written to sockets.
    pub bytes_out: u64,
    /// Calls that wrote them.
    pub sends: u64,
    /// Publishes taken in.
    pub published: u64,
    /// Publications stored and delivered by this shard as home.
    pub stored: u64,
    /// Publishes answered with the offset of an earlier one.
    pub repeated: u64,
    /// Publishes held because the backplane was away.
    pub held: u64,
    /// Frames written to members from the logs.
    pub delivered: u64,
    /// Of these, frames of the past.
    pub replayed: u64,
    /// Members told that they were too slow.
    pub gaps_slow: u64,
    /// Members told that something was lost.
    pub gaps_lost: u64,
    /// Slow consumers closed.
    pub slow_closed: u64,
    /// Upgrades refused because there were too many connections.
    pub turned_away: u64,
    /// Messages that were not taken: over the connection's messages, its bytes, its address'
    /// messages.
    pub limited: [u64; 3],
    /// Connections closed because they went on.
    pub limited_closed: u64,
    /// Upgrades refused because the address had too many connections.
    pub address_full: u64,
    /// Upgrades refused and requests that were no HTTP.
    pub refused: u64,
    /// Panics contained to one connection.
    pub panics: u64,
    /// Closes by code, as [`CLOSE_CODES`].
    pub closes: [u64; CLOSE_CODES.len()],
    /// Error frames by code, as [`ERROR_CODES`].
    pub errors: [u64; ERROR_CODES.len()],
}

/// How many numbers [`Counters`] are.
pub const CELLS: usize = 41 + CLOSE_CODES.len() + ERROR_CODES.len();

impl Counters {
    /// All numbers, in an order of their own.
    pub fn cells(&self) -> [u64; CELLS] {
        let mut copy = *self;
        let mut cells = [0; CELLS];
        for (cell, number) in cells.iter_mut().zip(copy.numbers()) {
            *cell = *number;
        }
        cells
    }

    /// What [`Counters::cells`] made numbers of.
    pub fn from_cells(cells: [u64; CELLS]) -> Self {
        let mut counters = Self::default();
        for (number, cell) in counters.numbers().zip(cells) {
            *number = cell;
        }
        counters
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        for (number, cell) in self.numbers().zip(other.cells()) {
            *number += cell;
        }
    }

    fn numbers(&mut self) -> impl Iterator<Item = &mut u64> {
        [
            &mut self.accepted,
            &mut self.connections,
            &mut self.clients,
            &mut self.rooms,
            &mut self.members,
            &mut self.log_bytes,
            &mut self.bytes_in,
            &mut self.bytes_out,
            &mut self.sends,
            &mut self.published,
            &mut self.stored,
            &mut self.repeated,
            &mut self.held,
            &mut self.delivered,
            &mut self.replayed,
            &mut self.gaps_slow,
            &mut self.gaps_lost,
            &mut self.slow_closed,
            &mut self.turned_away,
            &mut self.refused,
            &mut self.panics,
            &mut self.limited_closed,
            &mut self.address_full,
            &mut self.redis.partitions,
            &mut self.redis.up,
            &mut self.redis.breakers_open,
            &mut self.redis.commands,
            &mut self.redis.pipeline,
            &mut self.redis.connects,
            &mut self.redis.gaps_seen,
            &mut self.redis.gaps_mended,
            &mut self.redis.items_lost,
            &mut self.redis.epochs,
            &mut self.redis.unreadable,
            &mut self.redis.spool_entries,
            &mut self.redis.spool_bytes,
            &mut self.redis.refusing,
            &mut self.redis.instances,
        ]
        .into_iter()
        .chain(&mut self.limited)
        .chain(&mut self.closes)
        .chain(&mut self.errors)
    }

    pub(super) fn count_close(&mut self, code: CloseCode) {
        if let Some(at) = CLOSE_CODES.iter().position(|&other| other == code.0) {
            self.closes[at] += 1;
        }
    }

    pub(super) fn count_error(&mut self, code: ErrorCode) {
        if let Some(at) = ERROR_CODES.iter().position(|&other| other == code) {
            self.errors[at] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last one was none once, and `internal` errors were not counted.
    #[test]
    fn every_number_has_a_cell() {
        let mut counters = Counters::default();
        assert_eq!(counters.numbers().count(), CELLS);
        (1..)
            .zip(counters.numbers())
            .for_each(|(n, number)| *number = n);
        assert_eq!(Counters::from_cells(counters.cells()), counters);
    }
}
