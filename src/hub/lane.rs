//! The lane of a turn: signals and presence, encoded once, sent to members who are caught up and
//! then forgotten. Never kept, never repeated; what is over the bound is dropped.

use super::members::{ConnIndex, Member};
use crate::model::limits::LANE_TURN_BYTES_MAX;

/// Who gets a frame of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All members but one connection of this shard: a signal, not echoed to its sender.
    AllBut(Option<ConnIndex>),
    /// Members who asked for presence.
    Presence,
}

impl Audience {
    /// Whether `member` is of it.
    pub(super) fn has(self, member: &Member) -> bool {
        match self {
            Self::AllBut(except) => except != Some(member.conn),
            Self::Presence => member.presence,
        }
    }
}

/// Frames of one turn, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Lane {
    bytes: Vec<u8>,
    items: Vec<(Audience, u32)>,
}

impl Lane {
    /// Appends a frame; `false` if there was no room for it.
    pub(super) fn push(&mut self, audience: Audience, frame: &[u8]) -> bool {
        if self.bytes.len() + frame.len() > LANE_TURN_BYTES_MAX && !self.bytes.is_empty() {
            return false;
        }
        self.bytes.extend_from_slice(frame);
        self.items.push((audience, self.bytes.len() as u32));
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many frames it has.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Drops the first `items` frames.
    pub(super) fn drop_first(&mut self, items: usize) {
        if items >= self.items.len() {
            *self = Self::default();
            return;
        }
        let cut = if items == 0 {
            0
        } else {
            self.items[items - 1].1
        };
        self.bytes.drain(..cut as usize);
        self.items.drain(..items);
        for item in &mut self.items {
            item.1 -= cut;
        }
    }

    /// The frames for `member` among the first `items`, each.
    pub(super) fn frames_for<'a>(
        &'a self,
        member: &'a Member,
        items: usize,
    ) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut start = 0;
        self.items[..items.min(self.items.len())]
            .iter()
            .filter_map(move |&(audience, end)| {
                let frame = &self.bytes[start as usize..end as usize];
                start = end;
                audience.has(member).then_some(frame)
            })
    }
}
