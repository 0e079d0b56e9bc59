//! The publisher against a model of the script, with every fault between them.

use std::collections::HashMap as Map;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::Timestamp;

fn message(room: &str, id: u128, client_given: bool, payload: usize) -> Outgoing {
    Outgoing {
        number: 0,
        id: MessageId::from_u128(id),
        client_given,
        room: RoomName::parse(room).unwrap(),
        user_id: "u".into(),
        username: None,
        payload: Bytes::from(vec![b'1'; payload]),
        metadata: None,
        sent_at: Timestamp(1),
    }
}

/// Call, base, numbers.
fn poll(publisher: &mut Publisher<u32>) -> Option<(u64, u64, Vec<u64>)> {
    let call = publisher.poll_call()?;
    let numbers: Vec<_> = call.messages().map(|message| message.number).collect();
    assert_eq!(numbers[0], call.first_number);
    let numbered = (call.call, call.base, numbers);
    publisher.invariants();
    Some(numbered)
}

fn published(count: u32) -> Publisher<u32> {
    let mut publisher = Publisher::new();
    for origin in 0..count {
        publisher.publish(message("r", u128::from(origin) + 1, false, 1), origin);
    }
    publisher
}

/// Origin, what, offset.
fn short(settled: &mut Vec<Settled<u32>>) -> Vec<(u32, char, u64)> {
    let short = |settled| match settled {
        Settled::Stored { origin, offset, .. } => (origin, 's', offset),
        Settled::Repeated { origin, offset, .. } => (origin, 'r', offset),
        Settled::Unknown { origin, .. } => (origin, 'u', 0),
    };
    settled.drain(..).map(short).collect()
}

#[test]
fn calls_have_a_size_and_a_number() {
    let mut publisher = published(64 * 9 + 1);
    for call in 1..=8 {
        let (ticket, base, numbers) = poll(&mut publisher).unwrap();
        assert_eq!((ticket, base, numbers.len()), (call, 1, 64));
    }
    assert_eq!(poll(&mut publisher), None, "8 are in flight");
    let mut out = Vec::new();
    publisher.on_reply(1, Status::Ok, &[5; 64], &mut out);
    assert_eq!(out.len(), 64);
    let (_, base, numbers) = poll(&mut publisher).unwrap();
    assert_eq!((base, numbers[0], numbers.len()), (65, 513, 64));

    let mut publisher = Publisher::new();
    for (origin, bytes) in [300_000, 200_000, 60_000, 60_000].into_iter().enumerate() {
        let one = message("r", origin as u128, false, bytes);
        publisher.publish(one, origin as u32);
    }
    let calls: Vec<_> = std::iter::from_fn(|| poll(&mut publisher)).collect();
    let numbers: Vec<_> = calls.into_iter().map(|(.., numbers)| numbers).collect();
    assert_eq!(numbers, [vec![1], vec![2, 3], vec![4]]);
}

#[test]
fn a_call_that_stopped_goes_on_behind_what_was_taken() {
    let mut publisher = published(130);
    let mut out = Vec::new();
    while poll(&mut publisher).is_some() {}
    let results: Vec<_> = (1..=10).collect();
    publisher.on_reply(1, Status::Error, &results, &mut out);
    assert_eq!(short(&mut out)[9], (9, 's', 10));
    assert_eq!(poll(&mut publisher), None, "the others are in flight");
    publisher.on_reply(2, Status::Behind, &[], &mut out);
    publisher.on_reply(3, Status::Behind, &[], &mut out);
    let (call, base, numbers) = poll(&mut publisher).unwrap();
    assert_eq!((call, base, numbers.len()), (4, 11, 64));
    assert!(out.is_empty());
}

#[test]
fn what_is_unanswered_is_sent_again_and_settled_once() {
    let mut publisher = published(3);
    let mut out = Vec::new();
    poll(&mut publisher);
    publisher.on_disconnected();
    let room = RoomName::parse("r").unwrap();
    publisher.on_own(&room, MessageId::from_u128(2), 8, &mut out);
    assert_eq!(poll(&mut publisher), Some((2, 1, vec![1])));
    publisher.on_reply(1, Status::Ok, &[1, 1, 1], &mut out);
    assert_eq!(short(&mut out), [(1, 's', 8)], "an old ticket is nobody's");
    publisher.on_reply(2, Status::Ok, &[0], &mut out);
    assert_eq!(poll(&mut publisher), Some((3, 3, vec![3])));
    publisher.on_reply(3, Status::Ok, &[-4], &mut out);
    publisher.on_own(&room, MessageId::from_u128(2), 8, &mut out);
    assert_eq!(short(&mut out), [(2, 'r', 4)]);
    publisher.expire(100, false, &mut out);
    publisher.expire(100 + UNKNOWN_MS - 1, false, &mut out);
    assert!(out.is_empty());
    publisher.expire(100 + UNKNOWN_MS, false, &mut out);
    assert_eq!(short(&mut out), [(0, 'u', 0)]);
    assert!(publisher.is_idle());
}

#[test]
fn an_item_that_is_late_is_awaited_for_longer() {
    for (late_ms, want_ms) in [
        (0, UNKNOWN_MS),
        (7_000, 7_000 + UNKNOWN_MS),
        (100_000, UNKNOWN_LATE_MS),
    ] {
        let mut publisher = published(1);
        let mut out = Vec::new();
        poll(&mut publisher);
        publisher.on_reply(1, Status::Ok, &[0], &mut out);
        let told = (0..).map(|tick| tick * 500).find(|&now_ms| {
            publisher.expire(now_ms, 0 < late_ms && now_ms <= late_ms, &mut out);
            !out.is_empty()
        });
        assert_eq!(told, Some(want_ms));
    }
}

#[test]
fn an_own_item_is_no_answer_where_acks_wait_for_more() {
    let mut publisher = Publisher::withholding();
    for origin in 0..3 {
        publisher.publish(message("r", u128::from(origin) + 1, false, 1), origin);
    }
    let (mut out, room) = (Vec::new(), RoomName::parse("r").unwrap());
    let own = |publisher: &mut Publisher<u32>, id: u64, out: &mut Vec<_>| {
        publisher.on_own(&room, MessageId::from_u128(id.into()), id, out);
        publisher.invariants();
    };
    poll(&mut publisher);
    own(&mut publisher, 1, &mut out);
    assert!(out.is_empty(), "not acked by what was seen");
    // Its primary is lost: all is sent again, to one who has the first two.
    publisher.on_disconnected();
    assert_eq!(poll(&mut publisher), Some((2, 1, vec![1, 2, 3])));
    publisher.on_reply(2, Status::Ok, &[0, 0, 3], &mut out);
    assert_eq!(short(&mut out), [(0, 's', 1), (2, 's', 3)]);
    own(&mut publisher, 2, &mut out);
    assert_eq!(short(&mut out), [(1, 's', 2)]);
    assert!(publisher.is_idle());
}

#[test]
fn the_same_id_of_a_client_joins_what_is_held() {
    let mut publisher = Publisher::new();
    let mut out = Vec::new();
    let one = |room| message(room, 7, true, 1);
    assert_eq!(publisher.publish(one("a"), 0), Taken::Queued);
    assert_eq!(publisher.publish(one("a"), 1), Taken::Joined);
    assert_eq!(publisher.publish(one("b"), 2), Taken::Queued);
    assert_eq!(poll(&mut publisher), Some((1, 1, vec![1, 2])));
    publisher.on_reply(1, Status::Ok, &[5, 6], &mut out);
    assert_eq!(short(&mut out), [(0, 's', 5), (1, 'r', 5), (2, 's', 6)]);
    assert_eq!(publisher.publish(one("a"), 3), Taken::Queued);
}

#[test]
fn a_spooled_message_keeps_its_number_and_a_lost_one_leaves_a_hole() {
    let mut publisher = published(3);
    let mut out = Vec::new();
    poll(&mut publisher);
    let spooled = publisher.take_for_spool();
    publisher.publish(message("r", 9, false, 1), 3);
    assert_eq!(poll(&mut publisher), None, "it goes to the spool");
    let more = publisher.take_new_for_spool();
    publisher.give_up([2], &mut out);
    assert_eq!(short(&mut out), [(1, 'u', 0)]);
    let numbers: Vec<_> = spooled.iter().chain(&more).map(|one| one.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    for one in spooled
        .into_iter()
        .chain(more)
        .filter(|one| one.number != 2)
    {
        publisher.hand_over(one, true);
    }
    publisher.end_spooling();
    publisher.publish(message("r", 10, false, 1), 4);
    assert_eq!(poll(&mut publisher), Some((2, 1, vec![1])));
    assert_eq!(poll(&mut publisher), None, "not past the hole");
    publisher.on_reply(1, Status::Ok, &[1, 2, 3], &mut out);
    assert_eq!(short(&mut out), [(0, 's', 1), (2, 's', 3)], "a late answer");
    publisher.on_reply(2, Status::Ok, &[0], &mut out);
    assert_eq!(poll(&mut publisher), Some((3, 4, vec![4, 5])));
    let again = publisher.take_for_spool();
    assert_eq!(again.len(), 1, "number 4 is in the spool already");
    assert_eq!(again[0].number, 5);
}

/// A call as it went out.
#[derive(Clone)]
struct Sent {
    call: u64,
    base: u64,
    messages: Vec<Outgoing>,
}

/// What the script does, by its rule.
#[derive(Default)]
struct Script {
    last: u64,
    offsets: Map<RoomName, i64>,
    ids: Map<(RoomName, MessageId), i64>,
    log: Vec<(u64, RoomName, MessageId, i64)>,
}

impl Script {
    /// Runs a call; an error stops it after so many messages.
    fn run(&mut self, sent: &Sent, stop: Option<usize>) -> (Status, Vec<i64>) {
        let mut results = Vec::new();
        for (i, one) in sent.messages.iter().enumerate() {
            if stop == Some(i) {
                return (Status::Error, results);
            }
            let expected = self.last.max(sent.base - 1) + 1;
            if one.number > expected {
                return (Status::Behind, results);
            }
            if one.number < expected {
                results.push(0);
                continue;
            }
            self.last = one.number;
            let key = (one.room.clone(), one.id);
            if let Some(first) = self.ids.get(&key) {
                results.push(-first);
                continue;
            }
            let offset = self.offsets.entry(one.room.clone()).or_default();
            *offset += 1;
            if one.client_given {
                self.ids.insert(key, *offset);
            }
            self.log
                .push((one.number, one.room.clone(), one.id, *offset));
            results.push(*offset);
        }
        (Status::Ok, results)
    }
}

#[derive(Clone, Debug)]
enum Act {
    Publish {
        room: u8,
        client_id: Option<u8>,
    },
    Poll,
    /// Redis runs the next call, up to an error.
    Run(Option<usize>),
    /// Redis runs the next call of a connection that was closed.
    RunOld(prop::sample::Index),
    Reply,
    Item,
    /// Replies on their way are lost; what Redis did not read runs later, or never.
    Disconnect {
        runs_later: bool,
    },
    /// The breaker opens, or new messages go to the spool.
    Spool,
    HandOver,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let client_id = prop_oneof![3 => Just(None), 1 => (0..6_u8).prop_map(Some)];
    let publish =
        (0..2_u8, client_id).prop_map(|(room, client_id)| Act::Publish { room, client_id });
    let act = prop_oneof![
        8 => publish,
        6 => Just(Act::Poll),
        6 => prop::option::weighted(0.2, 0..4_usize).prop_map(Act::Run),
        3 => any::<prop::sample::Index>().prop_map(Act::RunOld),
        6 => Just(Act::Reply),
        4 => Just(Act::Item),
        1 => any::<bool>().prop_map(|runs_later| Act::Disconnect { runs_later }),
        1 => Just(Act::Spool),
        2 => Just(Act::HandOver),
    ];
    prop::collection::vec(act, 1..300)
}

#[derive(Default)]
struct World {
    publisher: Publisher<u32>,
    script: Script,
    /// Sent, and not run.
    pipe: VecDeque<Sent>,
    replies: VecDeque<(u64, Status, Vec<i64>)>,
    /// What closed connections left behind, each in its order.
    old: Vec<VecDeque<Sent>>,
    items_seen: usize,
    /// All that was spooled; what of it was read back.
    spool: Vec<Outgoing>,
    handed: usize,
    settled: Vec<Settled<u32>>,
    published: Vec<(RoomName, MessageId, bool)>,
}

impl World {
    fn act(&mut self, act: Act) {
        match act {
            Act::Publish { room, client_id } => self.publish(room, client_id),
            Act::Poll => self.poll(),
            Act::Run(stop) => {
                if let Some(sent) = self.pipe.pop_front() {
                    let (status, results) = self.script.run(&sent, stop);
                    self.replies.push_back((sent.call, status, results));
                }
            }
            Act::RunOld(which) => {
                self.old.retain(|calls| !calls.is_empty());
                if !self.old.is_empty() {
                    let at = which.index(self.old.len());
                    let sent = self.old[at].pop_front().unwrap();
                    self.script.run(&sent, None);
                }
            }
            Act::Reply => {
                if let Some((call, status, results)) = self.replies.pop_front() {
                    self.publisher
                        .on_reply(call, status, &results, &mut self.settled);
                }
            }
            Act::Item => {
                if let Some((_, room, id, offset)) = self.script.log.get(self.items_seen) {
                    let offset = *offset as u64;
                    self.items_seen += 1;
                    self.publisher.on_own(room, *id, offset, &mut self.settled);
                }
            }
            Act::Disconnect { runs_later } => {
                self.replies.clear();
                let left = std::mem::take(&mut self.pipe);
                self.old.extend(runs_later.then_some(left));
                self.publisher.on_disconnected();
            }
            Act::Spool => {
                self.spool.extend(self.publisher.take_for_spool());
                // What was handed over and not taken is read again.
                self.handed = 0;
            }
            Act::HandOver => self.hand_over(),
        }
        self.publisher.invariants();
    }

    fn publish(&mut self, room: u8, client_id: Option<u8>) {
        let origin = self.published.len() as u32;
        let id = client_id.map_or(1000 + u128::from(origin), u128::from);
        let room = if room == 0 { "a" } else { "b" };
        let one = message(room, id, client_id.is_some(), 50_000);
        self.published
            .push((one.room.clone(), one.id, one.client_given));
        self.publisher.publish(one, origin);
    }

    fn poll(&mut self) {
        if let Some(call) = self.publisher.poll_call() {
            let messages: Vec<_> = call.messages().cloned().collect();
            let (call, base) = (call.call, call.base);
            self.pipe.push_back(Sent {
                call,
                base,
                messages,
            });
        }
    }

    fn hand_over(&mut self) {
        if !self.publisher.is_spooling() {
            return;
        }
        self.spool.extend(self.publisher.take_new_for_spool());
        for one in self.spool[self.handed..].iter().take(3) {
            self.publisher.hand_over(one.clone(), true);
            self.handed += 1;
        }
        if self.handed == self.spool.len() {
            self.publisher.end_spooling();
        }
    }

    /// No more faults: everything comes to its end.
    fn finish(&mut self) {
        self.act(Act::Disconnect { runs_later: true });
        for _ in 0..10_000 {
            self.hand_over();
            for act in [Act::Poll, Act::Run(None), Act::Reply, Act::Item] {
                self.act(act);
            }
            let seen = self.items_seen == self.script.log.len();
            if seen && self.publisher.queue.is_empty() && !self.publisher.is_spooling() {
                break;
            }
        }
        self.publisher.expire(0, false, &mut self.settled);
        self.publisher.expire(UNKNOWN_MS, false, &mut self.settled);
    }

    fn check(&self) {
        assert!(self.publisher.is_idle(), "{:?}", self.publisher);
        let numbers = self.script.log.iter().map(|(number, ..)| number);
        assert!(numbers.is_sorted_by(|a, b| a < b), "in number order");
        let mut stored: Map<_, Vec<u64>> = Map::new();
        for (_, room, id, offset) in &self.script.log {
            let of = stored.entry((room.clone(), *id)).or_default();
            of.push(*offset as u64);
        }
        let mut told = vec![0; self.published.len()];
        for settled in &self.settled {
            let (origin, room, id, offset) = match settled {
                Settled::Stored {
                    origin,
                    room,
                    id,
                    offset,
                }
                | Settled::Repeated {
                    origin,
                    room,
                    id,
                    offset,
                } => (*origin, room, id, Some(*offset)),
                Settled::Unknown { origin, room, id } => (*origin, room, id, None),
            };
            told[origin as usize] += 1;
            let (of_room, of_id, client_given) = &self.published[origin as usize];
            assert_eq!((room, id), (of_room, of_id));
            let first = &stored[&(room.clone(), *id)];
            match offset {
                Some(offset) => assert_eq!(first[..], [offset]),
                // A repeat has no item of its own, and its answer was lost.
                None => assert!(client_given),
            }
        }
        assert!(told.iter().all(|&times| times == 1), "{told:?}");
        assert!(stored.values().all(|offsets| offsets.len() == 1));
        for (room, id, _) in &self.published {
            assert!(stored.contains_key(&(room.clone(), *id)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_message_is_stored_once_in_order_and_told_once(acts in acts()) {
        let mut world = World::default();
        for act in acts {
            world.act(act);
        }
        world.finish();
        world.check();
    }
}
