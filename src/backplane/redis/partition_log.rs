//! The recent items of a partition, by room and offset (to be replaced).
use super::Item;
use crate::model::{EntryId, Epoch};
use bytes::Bytes;
/// P
#[derive(Debug)]
pub enum Page {
    /// F
    Frames(Vec<(u64, Bytes)>),
    /// O
    Older,
}
/// L
#[derive(Debug)]
pub struct PartitionLog(Vec<Item>);
impl PartitionLog {
    /// N
    pub fn new(_: usize) -> Self {
        Self(Vec::new())
    }
    /// P
    pub fn push(&mut self, item: &Item) {
        self.0.push(item.clone());
    }
    /// R
    pub fn reset(&mut self, _: Epoch, _: u64, _: EntryId) {
        self.0.clear();
    }
    /// F
    pub fn first(&self) -> Option<EntryId> {
        self.0.first().map(|i| i.place.entry)
    }
    /// P
    pub fn page(
        &self,
        room: &str,
        epoch: Epoch,
        from: u64,
        newest: u64,
        _: usize,
        count: usize,
    ) -> Page {
        let all: Vec<_> = self
            .0
            .iter()
            .filter(|i| i.room.as_str() == room && i.place.epoch == epoch && i.offset >= from)
            .collect();
        if from > newest {
            return Page::Frames(Vec::new());
        }
        match all.first() {
            Some(first) if first.offset == from => Page::Frames(
                all.iter()
                    .take(count)
                    .map(|i| (i.offset, i.json.clone()))
                    .collect(),
            ),
            _ => Page::Older,
        }
    }
}
