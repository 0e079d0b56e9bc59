//! Reading the stream for those who come back, once for all who wait (to be replaced).
use super::stream_page::StreamPage;
use crate::model::{EntryId, Epoch, RoomName};
use bytes::Bytes;
/// R
#[derive(Debug)]
pub enum StreamRead {
    /// B
    Back {
        /// b
        before: Option<EntryId>,
        /// c
        count: usize,
    },
    /// F
    Forward {
        /// f
        from: EntryId,
        /// c
        count: usize,
    },
}
/// E
#[derive(Debug)]
pub enum RecallError {
    /// L
    Lost {
        /// f
        first: Option<u64>,
    },
    /// U
    Unavailable,
}
/// R
#[derive(Debug)]
pub struct Recalled {
    /// r
    pub room: RoomName,
    /// e
    pub epoch: Epoch,
    /// f
    pub from: u64,
    /// r
    pub result: Result<Vec<(u64, Bytes)>, RecallError>,
}
/// R
#[derive(Debug, Default)]
pub struct Recall(Vec<Recalled>);
impl Recall {
    /// N
    pub fn new() -> Self {
        Self::default()
    }
    /// W
    pub fn want(&mut self, room: &RoomName, epoch: Epoch, from: u64, _: u64, _: Option<EntryId>) {
        self.0.push(Recalled {
            room: room.clone(),
            epoch,
            from,
            result: Err(RecallError::Unavailable),
        });
    }
    /// P
    pub fn poll_read(&mut self) -> Option<StreamRead> {
        None
    }
    /// P
    pub fn on_page(&mut self, _: StreamPage) {}
    /// F
    pub fn on_failed(&mut self) {}
    /// R
    pub fn poll_recalled(&mut self) -> Option<Recalled> {
        self.0.pop()
    }
}
