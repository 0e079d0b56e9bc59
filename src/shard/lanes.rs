//! The mail that waits to be carried to the other shards, one lane each.
//!
//! ```text
//! requests, replies ──▶ lane: bounded by credits, never dropped
//! deliveries ─────────▶ lane: up to LANE_DELIVERY_BYTES_MAX; what is over is not put in: the room
//! is                       noted as behind for that shard and read on from the home's log later
//! whispers ───────────▶ lane: dropped where deliveries would be
//! ```
//!
//! Invariant: a room is behind for a shard from the first offset that was not put in its lane, and
//! no later one is put in until the room has caught up, so a shard sees offsets in order.

use hashbrown::HashMap;

use super::event::{ConnId, Delivery, Lost, Mail, ShardId};
use crate::hub::RoomKey;
use crate::model::limits::LANE_DELIVERY_BYTES_MAX;

/// Where a room that is behind for a shard is to be read on, and at which offsets from there on an
/// ack takes the message's place, and whose.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) offset: u64,
    pub(super) skips: Vec<(u64, ConnId)>,
}

/// One shard's lane.
#[derive(Debug, Default)]
struct Lane {
    mail: Vec<Mail>,
    delivery_bytes: usize,
    behind: HashMap<RoomKey, Behind>,
}

/// All lanes of a shard.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    delivery_bytes_max: usize,
}

impl Lanes {
    /// Lanes to so many shards (one of them oneself, never used), each with room for so many bytes
    /// of deliveries, or [`LANE_DELIVERY_BYTES_MAX`].
    pub(super) fn new(shards: u16, delivery_bytes_max: usize) -> Self {
        Self {
            lanes: (0..shards).map(|_| Lane::default()).collect(),
            delivery_bytes_max: delivery_bytes_max.min(LANE_DELIVERY_BYTES_MAX),
        }
    }

    /// Lets rooms fall behind sooner.
    #[cfg(test)]
    pub(super) fn set_bytes_max(&mut self, delivery_bytes_max: usize) {
        self.delivery_bytes_max = delivery_bytes_max;
    }

    /// Puts in what must arrive; whoever sends it holds a credit for it.
    pub(super) fn post(&mut self, to: ShardId, mail: Mail) {
        self.lanes[usize::from(to)].mail.push(mail);
    }

    /// Puts in what may be dropped.
    pub(super) fn post_whisper(&mut self, to: ShardId, bytes: usize, mail: Mail) {
        let lane = &mut self.lanes[usize::from(to)];
        if lane.delivery_bytes + bytes <= self.delivery_bytes_max {
            lane.delivery_bytes += bytes;
            lane.mail.push(mail);
        }
    }

    /// Puts in a delivery, or notes that the room is behind for that shard.
    pub(super) fn post_delivery(&mut self, to: ShardId, key: RoomKey, delivery: Delivery) {
        let lane = &mut self.lanes[usize::from(to)];
        let Delivery { offset, skip, .. } = delivery;
        let skip = skip.map(|conn| (offset, conn));
        if let Some(behind) = lane.behind.get_mut(&key) {
            behind.skips.extend(skip);
            return;
        }
        let bytes = lane.delivery_bytes + delivery.frame.len();
        if bytes > self.delivery_bytes_max && lane.delivery_bytes > 0 {
            let skips = skip.into_iter().collect();
            lane.behind.insert(key, Behind { offset, skips });
            return;
        }
        lane.delivery_bytes += delivery.frame.len();
        lane.mail.push(Mail::Deliver(delivery));
    }

    /// Puts in that a room's offsets below `lost.next` are lost; where the room is behind, the log
    /// that it reads on from says so.
    pub(super) fn post_lost(&mut self, to: ShardId, key: RoomKey, lost: Lost) {
        let lane = &mut self.lanes[usize::from(to)];
        if !lane.behind.contains_key(&key) {
            lane.mail.push(Mail::Lost(lost));
        }
    }

    /// Whether anything waits for that shard.
    pub(super) fn is_waiting(&self, to: ShardId) -> bool {
        let lane = &self.lanes[usize::from(to)];
        !lane.mail.is_empty() || !lane.behind.is_empty()
    }

    /// Takes what waits for a shard; rooms that were behind are returned with the offset from which
    /// they are to be read on.
    pub(super) fn take(&mut self, to: ShardId) -> Vec<Mail> {
        let lane = &mut self.lanes[usize::from(to)];
        lane.delivery_bytes = 0;
        std::mem::take(&mut lane.mail)
    }

    /// Takes the rooms that are behind for a shard whose lane has room again.
    pub(super) fn take_behind(&mut self, to: ShardId) -> Vec<(RoomKey, Behind)> {
        let lane = &mut self.lanes[usize::from(to)];
        if lane.mail.is_empty() && !lane.behind.is_empty() {
            lane.behind.drain().collect()
        } else {
            Vec::new()
        }
    }

    /// Whether a room is behind for any shard.
    pub(super) fn is_behind(&self, key: RoomKey) -> bool {
        self.lanes.iter().any(|lane| lane.behind.contains_key(&key))
    }

    /// Forgets a room that is dropped: its key may become another's.
    pub(super) fn forget(&mut self, key: RoomKey) {
        for lane in &mut self.lanes {
            lane.behind.remove(&key);
        }
    }

    /// Notes a room as behind again.
    pub(super) fn set_behind(&mut self, to: ShardId, key: RoomKey, behind: Behind) {
        self.lanes[usize::from(to)].behind.insert(key, behind);
    }

    /// Whether a delivery of `bytes` has room.
    pub(super) fn has_room(&self, to: ShardId, bytes: usize) -> bool {
        let waiting = self.lanes[usize::from(to)].delivery_bytes;
        // One goes in, however large.
        waiting == 0 || waiting + bytes <= self.delivery_bytes_max
    }

    /// Whether any room is behind for any shard.
    pub(super) fn is_any_behind(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.behind.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backplane::Begun;
    use crate::hub::Hub;
    use crate::model::{Epoch, RoomName};

    #[test]
    fn a_room_that_is_behind_keeps_whose_ack_takes_the_messages_place() {
        let room = RoomName::parse("r").unwrap();
        let key = Hub::new(0).find_or_make(&room);
        let mut lanes = Lanes::new(2, 10);
        let conn = ConnId {
            index: 7,
            generation: 1,
        };
        for offset in 1..=4 {
            let delivery = Delivery {
                room: room.clone(),
                epoch: Epoch::new(1, 1),
                offset,
                frame: Bytes::from_static(b"12345678"),
                skip: (offset == 2 || offset == 4).then_some(conn),
                begun: Begun::Unknown,
            };
            lanes.post_delivery(1, key, delivery);
        }
        assert_eq!(lanes.take(1).len(), 1, "one goes in");
        let behind = lanes.take_behind(1);
        assert_eq!(behind.len(), 1);
        assert_eq!(behind[0].1.offset, 2);
        assert_eq!(behind[0].1.skips, [(2, conn), (4, conn)]);
        assert!(!lanes.is_any_behind());
    }
}
