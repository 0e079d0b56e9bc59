//! What a shard counts. Plain numbers of its own; `runtime/` copies them out for whoever asks.

use crate::backplane::Report;
use crate::model::latency::LATENCY_CELLS;
use crate::model::{CloseCode, ErrorCode, Latency};

/// Close codes that are counted apart.
pub const CLOSE_CODES: [u16; 15] = [
    1000, 1001, 1002, 1003, ABNORMAL, 1007, 1008, 1009, 1011, 1012, 1013, 4001, 4002, 4003, OTHER,
];
/// Of a WebSocket that ended without a close frame (RFC 6455, 7.1.5).
const ABNORMAL: u16 = 1006;
/// Stands for all other codes, which clients choose.
const OTHER: u16 = 0;
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
    /// Signals and presence that a member did not get: it was behind, or there were too many.
    pub signals_dropped: u64,
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
    pub limited: [u64; LIMITED_CELLS],
    /// Connections closed because they went on.
    pub limited_closed: u64,
    /// Upgrades refused because the address had too many connections.
    pub address_full: u64,
    /// Upgrades refused and requests that were no HTTP.
    pub refused: u64,
    /// Panics contained to one connection.
    pub panics: u64,
    /// From a publish's arrival to its home shard.
    pub to_home: Latency,
    /// From there till it is stored: the script's answer, or the commit.
    pub to_stored: Latency,
    /// Till it is back from Redis, in the order of all; alone nothing.
    pub to_envelope: Latency,
    /// Till it is written to the members of a shard.
    pub local: Latency,
    /// The same for what came in on another instance.
    pub remote: Latency,
    /// Closes by code, as [`CLOSE_CODES`].
    pub closes: [u64; CLOSE_CODES.len()],
    /// Error frames by code, as [`ERROR_CODES`].
    pub errors: [u64; ERROR_CODES.len()],
}

const PLAIN_CELLS: usize = 40;
const LIMITED_CELLS: usize = 3;
const LATENCIES: usize = 5;
/// How many numbers [`Counters`] are.
pub const CELLS: usize =
    PLAIN_CELLS + LIMITED_CELLS + LATENCIES * LATENCY_CELLS + CLOSE_CODES.len() + ERROR_CODES.len();

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
        let plain: [_; PLAIN_CELLS] = [
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
            &mut self.signals_dropped,
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
            &mut self.redis.breakers_half_open,
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
        ];
        let latencies: [_; LATENCIES] = [
            &mut self.to_home,
            &mut self.to_stored,
            &mut self.to_envelope,
            &mut self.local,
            &mut self.remote,
        ];
        let latencies = latencies.into_iter().flat_map(Latency::numbers);
        let plain = plain.into_iter().chain(latencies);
        plain
            .chain(&mut self.limited)
            .chain(&mut self.closes)
            .chain(&mut self.errors)
    }

    pub(super) fn count_close(&mut self, code: CloseCode) {
        let at = |code| CLOSE_CODES.iter().position(|&other| other == code);
        if let Some(at) = at(code.0).or_else(|| at(OTHER)) {
            self.closes[at] += 1;
        }
    }

    /// A WebSocket ended without a close frame.
    pub(super) fn count_abnormal_close(&mut self) {
        self.count_close(CloseCode(ABNORMAL));
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

    #[test]
    fn every_number_is_copied_out_and_back() {
        let mut counters = Counters::default();
        for (at, number) in counters.numbers().enumerate() {
            *number = 1 + at as u64;
        }
        assert_eq!(counters.numbers().count(), CELLS);
        assert_eq!(Counters::from_cells(counters.cells()), counters);
        let last = counters.errors[ERROR_CODES.len() - 1];
        assert_eq!(last, CELLS as u64);
        let mut twice = counters;
        twice.add(&counters);
        assert!(
            counters
                .numbers()
                .zip(twice.cells())
                .all(|(one, two)| 2 * *one == two)
        );
    }

    #[test]
    fn a_close_counts_by_its_code_or_as_another() {
        let mut counters = Counters::default();
        for code in [1000, 1001, 3456, 4999, 0] {
            counters.count_close(CloseCode(code));
        }
        counters.count_abnormal_close();
        let of = |code| counters.closes[CLOSE_CODES.iter().position(|&c| c == code).unwrap()];
        assert_eq!((of(1000), of(1001), of(ABNORMAL), of(OTHER)), (1, 1, 1, 3));
    }
}
