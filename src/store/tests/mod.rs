//! Tests of the store against real files, by what they are about; here is what they share.

mod commit;
mod durability;
mod faults;
mod retention;

use bytes::Bytes;
use tempfile::TempDir;

use super::{Page, PageEnd, PageLimits, Reader, Store};
use crate::model::{Epoch, MessageId, Name, Publication, RoomName, Timestamp};

const NO_LIMITS: PageLimits = PageLimits {
    publications_max: usize::MAX,
    bytes_max: usize::MAX,
};
const NOW: Timestamp = Timestamp(1_700_000_001_234);

fn epoch() -> Epoch {
    Epoch::new(1_700_000_000_000, 7)
}

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path(), epoch()).unwrap()
}

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

/// A small publication; its id says its room (by the first bytes) and offset.
fn publication(name: &str, offset: u64) -> Publication {
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(name.bytes().take(8)) {
        *to = from;
    }
    id[8..].copy_from_slice(&offset.to_be_bytes());
    Publication {
        room: room(name),
        epoch: epoch(),
        offset,
        id: MessageId::from_bytes(id),
        client_id_given: false,
        user_id: Name::from("ann"),
        username: None,
        payload: Bytes::from(format!(r#"{{"n":{offset}}}"#)),
        metadata: None,
        sent_at: Timestamp(1_700_000_000_000 + offset),
    }
}

fn publications(name: &str, offsets: std::ops::RangeInclusive<u64>) -> Vec<Publication> {
    offsets.map(|offset| publication(name, offset)).collect()
}

/// All that the room holds from `after` to its last offset.
fn read_all(reader: &mut Reader, name: &str, after: u64) -> Page {
    let room = room(name);
    let last = reader.last_offset(&room).unwrap();
    reader.page(&room, epoch(), after, last, NO_LIMITS).unwrap()
}

/// The room holds exactly `expected`, and its last offset is that of the last.
fn check_holds(store: &Store, name: &str, expected: &[Publication]) {
    let mut reader = store.reader().unwrap();
    let last = expected.last().map_or(0, |publication| publication.offset);
    assert_eq!(
        reader.last_offset(&room(name)).unwrap(),
        last,
        "last offset of {name}"
    );
    let page = read_all(&mut reader, name, 0);
    assert_eq!(page.end, PageEnd::Reached);
    assert_eq!(page.publications, expected);
}
