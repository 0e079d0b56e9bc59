//! The ids that clients supplied, remembered for the dedupe window, with their offsets.
//!
//! Invariant: at most `at_most` ids; the oldest go first, in the order in which they came. What is
//! forgotten here is still found by the embedded store's primary key.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::model::{MessageId, RoomName, Timestamp};

/// Remembered ids.
#[derive(Debug)]
pub struct Remembered {
    offsets: HashMap<(RoomName, MessageId), u64>,
    order: VecDeque<(Timestamp, RoomName, MessageId)>,
    window_ms: u64,
    at_most: usize,
}

impl Remembered {
    /// Remembers ids for `window_ms`, `at_most` of them.
    pub fn new(window_ms: u64, at_most: usize) -> Self {
        Self {
            offsets: HashMap::new(),
            order: VecDeque::new(),
            window_ms,
            at_most,
        }
    }

    /// The offset under which the id was published, if it is remembered.
    pub fn offset(&self, room: &RoomName, id: MessageId) -> Option<u64> {
        // A lookup by parts would save this clone of an Arc; only ids of clients come here.
        self.offsets.get(&(room.clone(), id)).copied()
    }

    /// Remembers an id, and forgets what is too old or too much.
    pub fn insert(&mut self, at: Timestamp, room: &RoomName, id: MessageId, offset: u64) {
        if self.offsets.insert((room.clone(), id), offset).is_none() {
            self.order.push_back((at, room.clone(), id));
        }
        while self.order.len() > self.at_most {
            self.forget_oldest();
        }
    }

    /// Forgets what is older than the window.
    pub fn expire(&mut self, now: Timestamp) {
        while self
            .order
            .front()
            .is_some_and(|(at, ..)| at.0 + self.window_ms <= now.0)
        {
            self.forget_oldest();
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, room, id)) = self.order.pop_front() {
            self.offsets.remove(&(room, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_by_age_and_number() {
        let room = RoomName::parse("r").unwrap();
        let mut remembered = Remembered::new(1000, 3);
        for n in 0..5_u128 {
            remembered.insert(
                Timestamp(n as u64),
                &room,
                MessageId::from_u128(n),
                n as u64,
            );
        }
        assert_eq!(remembered.len(), 3);
        assert_eq!(remembered.offset(&room, MessageId::from_u128(1)), None);
        assert_eq!(remembered.offset(&room, MessageId::from_u128(2)), Some(2));
        remembered.expire(Timestamp(1003));
        assert_eq!(remembered.offset(&room, MessageId::from_u128(3)), None);
        assert_eq!(remembered.offset(&room, MessageId::from_u128(4)), Some(4));
    }
}
