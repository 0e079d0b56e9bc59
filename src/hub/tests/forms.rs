//! Other forms of frames: made once for all who take them, and only while somebody does.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Frames that show their form: `<7:x…>` plain, `<7:d…>` deflate, `<7:e…>` events.
#[derive(Debug, Default)]
pub(super) struct Forms {
    made: Arc<AtomicUsize>,
}

impl Encode for Forms {
    fn encode(&mut self, encoding: Encoding, position: Position, plain: &[u8], out: &mut Vec<u8>) {
        self.made.fetch_add(1, Ordering::Relaxed);
        let offset = position.offset;
        assert!(plain.starts_with(format!("<{offset}:").as_bytes()));
        let (letter, len) = match encoding {
            Encoding::Plain => unreachable!("that is there already"),
            Encoding::Deflate => ("d", plain.len() / 3),
            Encoding::Events => ("e", plain.len() + 20),
        };
        out.extend_from_slice(format!("<{offset}:{}>", letter.repeat(len)).as_bytes());
    }
}

/// Which form the connection of that number takes.
pub(super) fn of(conn: ConnIndex) -> Encoding {
    match conn % 3 {
        0 => Encoding::Events,
        1 => Encoding::Plain,
        _ => Encoding::Deflate,
    }
}

/// Whether all of what was received may be in what a member of `encoding` gets.
pub(super) fn check(encoding: Encoding, received: &[u8]) {
    let taken = match encoding {
        Encoding::Plain => "x",
        Encoding::Deflate => "xd",
        Encoding::Events => "e",
    };
    let text = std::str::from_utf8(received).unwrap();
    for (_, filling) in text.split_terminator('>').filter_map(|f| f.split_once(':')) {
        assert!(
            filling.chars().all(|c| taken.contains(c)),
            "{encoding:?} got {filling}"
        );
    }
}

struct Room {
    hub: Hub,
    key: RoomKey,
    made: Arc<AtomicUsize>,
    sockets: Sockets,
    next: u64,
}

impl Room {
    fn new(log_bytes_max: usize) -> Self {
        let forms = Forms::default();
        let made = forms.made.clone();
        let mut hub = Hub::with_encode(log_bytes_max, Box::new(forms));
        let key = hub.find_or_make(&RoomName::parse("r").unwrap());
        hub.begin_log(key, Epoch::new(1, 1), 1);
        Self {
            hub,
            key,
            made,
            sockets: Sockets::default(),
            next: 1,
        }
    }

    fn join(&mut self, conn: ConnIndex, cursor: u64, encoding: Encoding) -> usize {
        self.sockets.allowance.insert(conn, 1 << 20);
        let room = self.hub.room_mut(self.key).unwrap();
        let place = room.add(Member::with_encoding(conn, cursor, encoding));
        self.hub.mark_dirty(self.key);
        place
    }

    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            let frame = frame(self.next);
            assert!(
                self.hub
                    .publish(self.key, Epoch::new(1, 1), self.next, &frame)
            );
            self.next += 1;
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        while self.hub.sweep(&mut self.sockets, 100) {}
        self.hub.invariants();
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    fn received(&self, conn: ConnIndex) -> &str {
        std::str::from_utf8(&self.sockets.received[&conn]).unwrap()
    }
}

#[test]
fn a_form_is_made_once_for_all_who_take_it_and_only_while_somebody_does() {
    let mut room = Room::new(1 << 20);
    for conn in 0..10 {
        room.join(conn, 1, Encoding::Plain);
    }
    room.publish(5);
    assert_eq!(room.made(), 0);
    for conn in 10..30 {
        room.join(conn, 6, Encoding::Deflate);
    }
    room.publish(5);
    assert_eq!(room.made(), 5);
    for conn in 10..30 {
        check(Encoding::Deflate, room.received(conn).as_bytes());
        assert_eq!(offsets(room.received(conn).as_bytes()), [6, 7, 8, 9, 10]);
        assert!(!room.received(conn).contains('x'));
    }
    let with = room.hub.log_bytes();
    for _ in 10..30 {
        room.hub.room_mut(room.key).unwrap().remove(10);
    }
    room.publish(1);
    assert_eq!(room.made(), 5);
    assert!(room.hub.log_bytes() < with, "its log is gone");
    assert_eq!(offsets(room.received(3).as_bytes()).len(), 11);
}

#[test]
fn who_takes_both_gets_what_the_other_log_has_of_the_past() {
    let mut room = Room::new(1 << 20);
    room.join(1, 1, Encoding::Plain);
    room.publish(5);
    room.join(2, 3, Encoding::Deflate);
    room.publish(2);
    assert!(room.sockets.wanted.is_empty(), "nothing is read anew");
    let received = room.received(2);
    assert_eq!(offsets(received.as_bytes()), [3, 4, 5, 6, 7]);
    assert!(
        received.contains("<3:x") && received.contains("<7:d"),
        "{received}"
    );
}

#[test]
fn a_page_is_made_once_for_all_who_read_it() {
    let mut room = Room::new(1 << 20);
    room.next = 20;
    room.hub.lose(room.key, Epoch::new(1, 1), 20);
    room.join(1, 10, Encoding::Events);
    room.join(2, 10, Encoding::Events);
    room.join(3, 10, Encoding::Plain);
    room.sweep();
    assert_eq!(room.sockets.wanted, [(room.key, 10)]);
    let mut page = Chunk::with_capacity(10, 0);
    (10..20).for_each(|offset| page.push(&frame(offset)));
    let page = Arc::new(page);
    // One that comes with its page, as a join that had to be looked up does.
    let place = room.join(4, 10, Encoding::Events);
    room.hub.give_page(room.key, place, &page);
    room.hub.page_arrived(room.key, 10, Ok(page));
    room.sweep();
    assert_eq!(room.made(), 10);
    let want: Vec<u64> = (10..20).collect();
    for conn in 1..=4 {
        assert_eq!(offsets(room.received(conn).as_bytes()), want, "{conn}");
    }
    check(Encoding::Plain, room.received(3).as_bytes());
    check(Encoding::Events, room.received(4).as_bytes());
}

#[test]
fn signals_are_in_the_plain_form_and_events_have_none() {
    let mut room = Room::new(1 << 20);
    room.join(1, 1, Encoding::Deflate);
    room.join(2, 1, Encoding::Events);
    room.hub.whisper(room.key, Audience::AllBut(None), b"<s>");
    room.publish(1);
    assert!(room.received(1).ends_with("<s>"));
    assert!(!room.received(2).contains("<s>"));
}
