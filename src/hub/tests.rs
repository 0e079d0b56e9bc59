//! The hub against a naive model: what each member must have received, offset by offset.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use proptest::prelude::*;

use super::*;

mod forms;

/// An outlet of memory: each connection takes bytes while it has allowance.
#[derive(Default)]
struct Sockets {
    allowance: HashMap<ConnIndex, usize>,
    rest: HashMap<ConnIndex, Vec<u8>>,
    received: HashMap<ConnIndex, Vec<u8>>,
    gaps: HashMap<ConnIndex, Vec<(u64, u64)>>,
    wanted: Vec<(RoomKey, u64)>,
    sends: usize,
}

impl Outlet for Sockets {
    fn ready(&mut self, conn: ConnIndex) -> bool {
        let rest = self.rest.remove(&conn).unwrap_or_default();
        let sent = self.send(conn, &rest);
        if sent < rest.len() {
            self.rest.insert(conn, rest[sent..].to_vec());
            return false;
        }
        self.allowance.get(&conn).is_some_and(|&bytes| bytes > 0)
    }

    fn send(&mut self, conn: ConnIndex, bytes: &[u8]) -> usize {
        self.sends += 1;
        let allowance = self.allowance.entry(conn).or_default();
        let sent = bytes.len().min(*allowance);
        *allowance -= sent;
        self.received
            .entry(conn)
            .or_default()
            .extend_from_slice(&bytes[..sent]);
        sent
    }

    fn keep(&mut self, conn: ConnIndex, rest: &[u8]) {
        assert!(
            self.rest.insert(conn, rest.to_vec()).is_none(),
            "one rest at a time"
        );
    }

    fn gap(&mut self, conn: ConnIndex, _: &RoomName, from: u64, to: u64, _: bool) -> bool {
        // Stands in the order of what is received, as the frame would.
        let mark = format!("<gap {from} {to}>");
        self.gaps.entry(conn).or_default().push((from, to));
        self.rest
            .entry(conn)
            .or_default()
            .extend_from_slice(mark.as_bytes());
        true
    }

    fn want_page(&mut self, room: RoomKey, offset: u64) {
        self.wanted.push((room, offset));
    }
}

fn frame(offset: u64) -> Vec<u8> {
    format!("<{offset}:{}>", "x".repeat((offset * 37 % 90) as usize)).into_bytes()
}

/// The offsets in what was received, gaps as the offsets they tell.
fn offsets(received: &[u8]) -> Vec<u64> {
    let text = std::str::from_utf8(received).unwrap();
    let mut offsets = Vec::new();
    for item in text.split_terminator('>') {
        let item = item.strip_prefix('<').unwrap();
        match item.strip_prefix("gap ") {
            Some(range) => {
                let (from, to) = range.split_once(' ').unwrap();
                offsets.extend(from.parse().unwrap()..=to.parse::<u64>().unwrap());
            }
            None => offsets.push(item.split_once(':').unwrap().0.parse().unwrap()),
        }
    }
    offsets
}

#[derive(Clone, Debug)]
enum Op {
    Publish(u8),
    Join(u8, u64),
    Leave(u8),
    Allow(u8, usize),
    Sweep(usize),
    Pages,
    EchoOff(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1_u8..20).prop_map(Op::Publish),
        2 => (0_u8..8, 0_u64..200).prop_map(|(c, back)| Op::Join(c, back)),
        1 => (0_u8..8).prop_map(Op::Leave),
        4 => (0_u8..8, 0_usize..3000).prop_map(|(c, bytes)| Op::Allow(c, bytes)),
        4 => (1_usize..20).prop_map(Op::Sweep),
        3 => Just(Op::Pages),
        1 => (0_u8..8).prop_map(Op::EchoOff),
    ]
}

struct World {
    hub: Hub,
    sockets: Sockets,
    key: RoomKey,
    epoch: Epoch,
    next: u64,
    /// connection -> (first offset it must get, offsets it must not get)
    expected: HashMap<ConnIndex, (u64, HashSet<u64>)>,
    serial: u32,
    alive: HashMap<u8, ConnIndex>,
}

impl World {
    fn place(&self, conn: ConnIndex) -> usize {
        let room = self.hub.room(self.key).unwrap();
        room.members()
            .iter()
            .position(|member| member.conn == conn)
            .unwrap()
    }

    fn answer_pages(&mut self, gone_below: u64) {
        for (key, offset) in std::mem::take(&mut self.sockets.wanted) {
            let page = if offset < gone_below {
                Err(gone_below)
            } else {
                let mut page = Chunk::with_capacity(offset, 0);
                (offset..self.next.min(offset + 7)).for_each(|at| page.push(&frame(at)));
                Ok(Arc::new(page))
            };
            self.hub.page_arrived(key, offset, page);
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish(n) => {
                for _ in 0..n {
                    assert!(
                        self.hub
                            .publish(self.key, self.epoch, self.next, &frame(self.next))
                    );
                    self.next += 1;
                }
            }
            Op::Join(who, back) if !self.alive.contains_key(&who) => {
                self.serial += 1;
                let cursor = self.next.saturating_sub(back).max(1);
                let member = Member::with_encoding(self.serial, cursor, forms::of(self.serial));
                self.hub.room_mut(self.key).unwrap().add(member);
                self.hub.mark_dirty(self.key);
                self.alive.insert(who, self.serial);
                self.expected.insert(self.serial, (cursor, HashSet::new()));
            }
            Op::Leave(who) => {
                if let Some(conn) = self.alive.remove(&who) {
                    let place = self.place(conn);
                    self.hub.room_mut(self.key).unwrap().remove(place);
                    self.check(conn, false);
                    self.expected.remove(&conn);
                }
            }
            Op::Allow(who, bytes) => {
                if let Some(&conn) = self.alive.get(&who) {
                    *self.sockets.allowance.entry(conn).or_default() += bytes;
                    self.hub.mark_dirty(self.key);
                }
            }
            Op::Sweep(sends) => {
                self.hub.sweep(&mut self.sockets, sends);
            }
            Op::Pages => self.answer_pages(0),
            Op::EchoOff(who) => {
                if let Some(&conn) = self.alive.get(&who) {
                    let (place, offset) = (self.place(conn), self.next);
                    self.hub.room_mut(self.key).unwrap().skip(place, offset);
                    if let Some((cursor, skipped)) = self.expected.get_mut(&conn)
                        && *cursor <= offset
                    {
                        skipped.insert(offset);
                    }
                    self.apply(Op::Publish(1));
                }
            }
            Op::Join(..) => {}
        }
        self.hub.invariants();
    }

    /// What `conn` received are the offsets from its first on, each once, in order.
    fn check(&self, conn: ConnIndex, all: bool) {
        let (first, skipped) = &self.expected[&conn];
        let mut text = self
            .sockets
            .received
            .get(&conn)
            .cloned()
            .unwrap_or_default();
        let whole = text.iter().rposition(|&b| b == b'>').map_or(0, |at| at + 1);
        assert!(!all || whole == text.len(), "ends between frames");
        text.truncate(whole);
        forms::check(forms::of(conn), &text);
        let got = offsets(&text);
        let want: Vec<u64> = (*first..self.next)
            .filter(|at| !skipped.contains(at))
            .collect();
        let told: HashSet<u64> = self
            .sockets
            .gaps
            .get(&conn)
            .into_iter()
            .flatten()
            .flat_map(|&(from, to)| from..=to)
            .collect();
        // A gap may name an offset that would have been skipped anyway.
        let got: Vec<u64> = got
            .into_iter()
            .filter(|at| !(skipped.contains(at) && told.contains(at)))
            .collect();
        assert!(want.starts_with(&got), "{conn}: {got:?} of {want:?}");
        assert!(
            !all || got.len() == want.len(),
            "{conn}: {got:?} of {want:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_member_gets_every_offset_once_in_order_or_is_told(
        ops in prop::collection::vec(op(), 1..120),
        log_bytes_max in 800_usize..20_000,
    ) {
        let mut hub = Hub::with_encode(log_bytes_max, Box::new(forms::Forms::default()));
        let key = hub.find_or_make(&RoomName::parse("r").unwrap());
        hub.room_mut(key).unwrap().is_home = true;
        let epoch = Epoch::new(1, 1);
        hub.begin_log(key, epoch, 1);
        let mut world = World {
            hub, sockets: Sockets::default(), key, epoch, next: 1,
            expected: HashMap::new(), serial: 0, alive: HashMap::new(),
        };
        for op in ops {
            world.apply(op);
        }
        // In the end all sockets drain and all pages come: everybody has everything.
        for _ in 0..10_000 {
            for &conn in world.alive.values() {
                world.sockets.allowance.insert(conn, 1 << 20);
                // As the shard does for a connection that is writable again.
                world.sockets.ready(conn);
            }
            world.hub.mark_dirty(key);
            while world.hub.sweep(&mut world.sockets, 1000) {}
            if world.sockets.wanted.is_empty() { break }
            world.answer_pages(0);
        }
        for &conn in world.alive.values() {
            world.check(conn, true);
        }
        prop_assert!(world.hub.log_bytes() <= log_bytes_max.max(65_536));
    }
}

fn hub_with_member(cursor: u64) -> (Hub, RoomKey, Sockets) {
    let mut hub = Hub::new(1 << 20);
    let key = hub.find_or_make(&RoomName::parse("r").unwrap());
    hub.begin_log(key, Epoch::new(1, 1), 10);
    hub.room_mut(key).unwrap().add(Member::new(1, cursor));
    (hub, key, Sockets::default())
}

#[test]
fn past_that_is_gone_is_told_as_a_gap() {
    let (mut hub, key, mut sockets) = hub_with_member(3);
    sockets.allowance.insert(1, 1 << 20);
    hub.publish(key, Epoch::new(1, 1), 10, &frame(10));
    hub.sweep(&mut sockets, 100);
    assert_eq!(sockets.wanted, [(key, 3)]);
    hub.page_arrived(key, 3, Err(8));
    hub.sweep(&mut sockets, 100);
    assert_eq!(sockets.gaps[&1], [(3, 7)]);
    assert_eq!(sockets.wanted, [(key, 3), (key, 8)]);
    hub.invariants();
}

#[test]
fn signals_reach_who_is_caught_up_but_not_their_sender() {
    let (mut hub, key, mut sockets) = hub_with_member(10);
    for conn in 2..=3 {
        hub.room_mut(key).unwrap().add(Member::new(conn, 10));
    }
    hub.room_mut(key).unwrap().set_flags(2, true, false);
    sockets.allowance.extend([(1, 1000), (2, 1000), (3, 1000)]);
    hub.whisper(key, Audience::AllBut(Some(1)), b"<s>");
    hub.whisper(key, Audience::Presence, b"<p>");
    hub.whisper(key, Audience::AllBut(None), b"<t>");
    assert!(!hub.sweep(&mut sockets, 100));
    let received = |conn| String::from_utf8_lossy(&sockets.received[&conn]).into_owned();
    assert_eq!(
        (received(1), received(2), received(3)),
        ("<t>".into(), "<s><t>".into(), "<s><p><t>".into())
    );
    assert!(!hub.is_dirty());
}

#[test]
fn signals_in_a_row_are_one_send_and_are_cut_between_frames() {
    for (allowance, want, rest) in [
        (1000, "<s><p><t>", ""),
        (6, "<s><p>", ""),
        (5, "<s><p", ">"),
        (0, "", ""),
    ] {
        let (mut hub, key, mut sockets) = hub_with_member(10);
        sockets.allowance.insert(1, allowance);
        hub.room_mut(key).unwrap().set_flags(0, true, false);
        hub.whisper(key, Audience::AllBut(None), b"<s>");
        hub.whisper(key, Audience::Presence, b"<p>");
        hub.whisper(key, Audience::AllBut(Some(2)), b"<t>");
        hub.sweep(&mut sockets, 100);
        let text = |bytes: Option<&Vec<u8>>| {
            String::from_utf8_lossy(bytes.map_or(&[][..], |bytes| bytes)).into_owned()
        };
        assert_eq!(text(sockets.received.get(&1)), want, "{allowance}");
        assert_eq!(text(sockets.rest.get(&1)), rest, "{allowance}");
        assert!(sockets.sends <= 2, "one send, and one of an empty rest");
    }
}

#[test]
fn a_hole_in_what_comes_is_told_to_all() {
    let (mut hub, key, mut sockets) = hub_with_member(10);
    sockets.allowance.insert(1, 1 << 20);
    hub.publish(key, Epoch::new(1, 1), 10, &frame(10));
    hub.sweep(&mut sockets, 100);
    hub.publish(key, Epoch::new(1, 1), 14, &frame(14));
    assert!(
        !hub.publish(key, Epoch::new(1, 1), 14, &frame(14)),
        "a repeat is ignored"
    );
    hub.sweep(&mut sockets, 100);
    assert_eq!(offsets(&sockets.received[&1]), [10, 11, 12, 13, 14]);
    assert_eq!(sockets.gaps[&1], [(11, 13)]);
    assert_eq!(hub.counters.lost_gaps, 1);
}
