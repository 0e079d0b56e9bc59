//! One publisher: what it sent, what is in flight, and its outbox of what is not acked yet.
//!
//! The outbox holds numbers, not bytes: a publish is a function of run, publisher, sequence and
//! time, and is written anew when it must be sent again. It is in the order of sending, and no
//! longer than the window, or [`UNACKED_MAX`] where a schedule publishes.

use std::collections::VecDeque;

use crate::wire::Marker;

/// What a publisher may have unacked while a schedule goes on without it.
pub(crate) const UNACKED_MAX: usize = 1 << 16;

/// A publish that was not acked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unacked {
    pub(crate) sequence: u32,
    /// When it was meant to be sent.
    pub(crate) time: u64,
    /// When it was last sent, or put aside for want of a connection.
    pub(crate) touched: u64,
    /// It was refused for now: when to send it again.
    pub(crate) retry_at: Option<u64>,
}

/// One publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) connection: usize,
    pub(crate) room: usize,
    pub(crate) sent: u32,
    /// It stops at this sequence number.
    pub(crate) quota: u32,
    /// Without acks: how many have not come back.
    in_flight: u32,
    pub(crate) unacked: VecDeque<Unacked>,
}

impl Publisher {
    /// One that has sent nothing.
    pub(crate) fn new(connection: usize, room: usize) -> Self {
        Self {
            connection,
            room,
            sent: 0,
            quota: u32::MAX,
            in_flight: 0,
            unacked: VecDeque::new(),
        }
    }

    /// Publishes sent and not yet answered.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight + self.unacked.len() as u32
    }

    /// The next sequence number, sent or put aside at `now`.
    pub(crate) fn next(&mut self, acked: bool, time: u64, now: u64) -> u32 {
        self.sent += 1;
        let sequence = self.sent;
        if acked {
            self.unacked.push_back(Unacked {
                sequence,
                time,
                touched: now,
                retry_at: None,
            });
        } else {
            self.in_flight += 1;
        }
        sequence
    }

    /// Its own message came back, or an answer that says not to which publish.
    pub(crate) fn on_back(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Takes the publish out of the outbox that an answer is about.
    pub(crate) fn on_answer(&mut self, sequence: u32) -> Option<Unacked> {
        self.unacked.remove(self.place(sequence)?)
    }

    /// The publish was refused for now.
    pub(crate) fn put_off(&mut self, sequence: u32, until: u64) -> bool {
        let place = self.place(sequence);
        let unacked = place.and_then(|place| self.unacked.get_mut(place));
        unacked.map(|u| u.retry_at = Some(until)).is_some()
    }

    /// Answers come in the order of the publishes, but for retries.
    fn place(&self, sequence: u32) -> Option<usize> {
        self.unacked.iter().position(|u| u.sequence == sequence)
    }

    /// Its connection is gone; `retry`: what is unacked stays.
    pub(crate) fn on_gone(&mut self, retry: bool) {
        self.in_flight = 0;
        if !retry {
            self.unacked.clear();
        }
    }
}

/// Writes a `publish` frame's text.
pub(crate) fn write_publish(
    text: &mut Vec<u8>,
    room: &str,
    marker: Marker,
    payload: usize,
    id: bool,
    acked: bool,
) {
    text.clear();
    text.extend_from_slice(br#"{"type":"publish","room":""#);
    text.extend_from_slice(room.as_bytes());
    text.extend_from_slice(br#"","payload":"#);
    marker.write(text, payload);
    if id {
        text.extend_from_slice(br#","id":""#);
        let id = Marker::id(marker.run, marker.publisher, marker.sequence);
        text.extend_from_slice(id.as_bytes());
        text.push(b'"');
    }
    if acked {
        text.extend_from_slice(format!(r#","ref":"{}""#, marker.sequence).as_bytes());
    }
    text.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outbox_keeps_what_is_unacked() {
        let mut publisher = Publisher::new(0, 0);
        for time in 1..=4 {
            assert_eq!(publisher.next(true, time, time), time as u32);
        }
        assert_eq!(publisher.on_answer(2).map(|u| u.time), Some(2));
        assert_eq!(publisher.on_answer(2), None);
        assert!(publisher.put_off(3, 9) && !publisher.put_off(2, 9));
        publisher.on_gone(true);
        let left: Vec<_> = publisher.unacked.iter().map(|u| u.sequence).collect();
        assert_eq!(left, [1, 3, 4]);
        publisher.on_gone(false);
        assert_eq!(publisher.in_flight(), 0);
    }

    #[test]
    fn without_acks_it_only_counts() {
        let mut publisher = Publisher::new(0, 0);
        publisher.next(false, 1, 1);
        publisher.next(false, 2, 2);
        publisher.on_back();
        assert_eq!(publisher.in_flight(), 1);
    }
}
