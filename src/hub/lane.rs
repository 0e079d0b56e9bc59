//! The lane of a turn: signals and presence, encoded once, sent to members who are caught up and
//! then forgotten. Never kept, never repeated; what is over the bound is dropped. There is the
//! plain form only: most are too small to gain by another.

use super::encoding::Encoding;
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
        // Events are of publications only.
        if member.encoding == Encoding::Events {
            return false;
        }
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

    /// What `member` is to get of the first `items` frames: pieces of one or more frames that lie
    /// one behind the other, each with the place where it begins.
    pub(super) fn pieces_for<'a>(
        &'a self,
        member: &'a Member,
        items: usize,
    ) -> impl Iterator<Item = (usize, &'a [u8])> + 'a {
        let items = &self.items[..items.min(self.items.len())];
        items
            .chunk_by(move |a, b| a.0.has(member) == b.0.has(member))
            .scan(0, |start, frames| {
                let from = std::mem::replace(start, frames[frames.len() - 1].1 as usize);
                Some((frames[0].0, from, *start))
            })
            .filter(|(audience, ..)| audience.has(member))
            .map(|(_, from, to)| (from, &self.bytes[from..to]))
    }

    /// The rest of the frame that ends or is cut at the place `at`.
    pub(super) fn rest(&self, at: usize) -> &[u8] {
        let index = self.items.partition_point(|item| (item.1 as usize) < at);
        &self.bytes[at..self.items.get(index).map_or(at, |item| item.1 as usize)]
    }
}
