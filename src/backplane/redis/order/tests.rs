//! The order against a Redis in a few lines that loses, repeats, swaps, trims and forgets.
//!
//! The truth is what was ever stored. After each step: what came out rises, is what was stored, and
//! leaves out nothing that the stream still has; a hole names only what the stream has lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::limits::READ_ENTRIES_MAX;
use crate::model::{MessageId, RoomName};

mod lines;

fn epoch(n: u64) -> Epoch {
    Epoch::new(n, 0)
}

fn item(epoch: Epoch, seq: u64, entry: EntryId) -> Item {
    Item {
        place: Place { epoch, seq, entry },
        room: RoomName::parse("a").unwrap(),
        offset: seq,
        id: MessageId::nil(),
        json: Bytes::from(format!("{epoch:?} {seq} {entry}")),
    }
}

fn plain(n: u64, seq: u64) -> Item {
    let id = EntryId {
        ms: 1000 * n,
        n: seq,
    };
    item(epoch(n), seq, id)
}

/// Redis: entries by id, of which foreign ones have no item.
#[derive(Default)]
struct Redis {
    stream: Vec<(EntryId, Option<Item>)>,
    epoch: u64,
    seq: u64,
    clock_ms: u64,
    /// Trimming leaves it as it is.
    last: EntryId,
    /// The entries of all numbers that were given; of one that was given twice, the last.
    given: BTreeMap<Key, EntryId>,
}

impl Redis {
    fn next_id(&self) -> EntryId {
        let by_clock = EntryId {
            ms: self.clock_ms,
            n: 0,
        };
        self.last.next().max(by_clock)
    }

    fn publish(&mut self) -> Item {
        self.seq += 1;
        let item = item(epoch(self.epoch), self.seq, self.next_id());
        self.last = item.place.entry;
        self.stream.push((self.last, Some(item.clone())));
        self.given.insert(key_of(&item), self.last);
        item
    }

    /// The place of the last one stored, as the state has it.
    fn place(&self) -> Place {
        let (epoch, seq) = (epoch(self.epoch), self.seq);
        let entry = self.given.get(&(epoch, seq)).copied();
        let entry = entry.unwrap_or_default();
        Place { epoch, seq, entry }
    }

    fn page(&self, read: Read, at_most: usize) -> StreamPage {
        let count = read.count.min(at_most);
        let beyond: Vec<_> = self.stream.iter().filter(|it| it.0 > read.after).collect();
        let page = &beyond[..count.min(beyond.len())];
        StreamPage {
            items: page.iter().filter_map(|it| it.1.clone()).collect(),
            reached: page.last().map(|it| it.0),
            end: beyond.len() < count,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish {
        count: u8,
        fate: u8,
    },
    Foreign(u8),
    Deliver {
        index: u8,
        count: u8,
    },
    Trim(u8),
    /// Redis comes back with less than it had, maybe nothing, its clock behind or not.
    LoseTail {
        count: u8,
        clock_back_ms: u32,
        published: u8,
    },
    Poll,
    Resubscribe,
    /// Redis comes back without some of what was not passed on, and is greeted: within the epoch.
    LoseUnpassed {
        count: u8,
        published: u8,
    },
    /// Another takes its place that has less, and goes on within the epoch, as far as this one as
    /// often as not; nothing of that is heard, or most of it.
    Fork {
        count: u8,
        published: u8,
        is_heard: bool,
    },
    /// If there is a doubt, it is greeted.
    Greet,
    /// The read is asked for; Redis does it later.
    Ask,
    Execute {
        at_most: u8,
    },
    Answer {
        fails: bool,
    },
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..20_u8, any::<u8>()).prop_map(|(count, fate)| Step::Publish { count, fate }),
        1 => (1..5_u8).prop_map(Step::Foreign),
        5 => (0..4_u8, 1..20_u8).prop_map(|(index, count)| Step::Deliver { index, count }),
        1 => (0..40_u8).prop_map(Step::Trim),
        1 => (0..30_u8, 0..3000_u32, 0..3_u8).prop_map(|(count, back, published)| {
            let (count, clock_back_ms) = (if count == 29 { 255 } else { count }, back * back / 9);
            Step::LoseTail { count, clock_back_ms, published }
        }),
        3 => Just(Step::Poll),
        1 => Just(Step::Resubscribe),
        1 => (0..30_u8, 0..30_u8)
            .prop_map(|(count, published)| Step::LoseUnpassed { count, published }),
        1 => (1..30_u8, 0..80_u8, any::<bool>()).prop_map(|(count, published, is_heard)| {
            let published = if published < 40 { published } else { count };
            Step::Fork { count, published, is_heard }
        }),
        5 => Just(Step::Greet),
        5 => Just(Step::Ask),
        5 => (2..30_u8).prop_map(|at_most| Step::Execute { at_most }),
        5 => (0..5_u8).prop_map(|n| Step::Answer { fails: n == 0 }),
        3 => (0..1500_u16).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..150)
}

/// The order, Redis, and what lies between.
struct World {
    redis: Redis,
    order: Order,
    channel: VecDeque<Item>,
    asked: Option<Read>,
    page: Option<StreamPage>,
    now_ms: u64,
    stored: BTreeSet<(u64, u64)>,
    start: Key,
    last: Key,
    passed: BTreeMap<Key, Item>,
    /// What the channel brought; all of it fits into what may be held.
    brought: BTreeSet<Key>,
    /// Epochs in which numbers were given twice.
    forked: BTreeSet<Epoch>,
    /// One of which the channel has brought another item than was passed on: it is over, unless a
    /// greeting says that what was passed on is there.
    contradicted: Option<Epoch>,
}

impl World {
    fn new(before: u8, live: bool) -> Self {
        let mut redis = Redis {
            epoch: 1,
            clock_ms: 1_000_000,
            ..Redis::default()
        };
        for _ in 0..before {
            redis.publish();
        }
        let start = (epoch(1), redis.seq);
        let mut world = Self {
            order: Order::new(),
            channel: VecDeque::new(),
            asked: None,
            page: None,
            now_ms: 0,
            stored: (1..=redis.seq).map(|seq| (1, seq)).collect(),
            last: start,
            passed: BTreeMap::new(),
            brought: BTreeSet::new(),
            forked: BTreeSet::new(),
            contradicted: None,
            start,
            redis,
        };
        let entry = world.redis.last;
        if live {
            world.step(&Step::Publish { count: 3, fate: 0 });
            world.step(&Step::Deliver { index: 0, count: 3 });
        }
        let mut out = vec![];
        world.order.start(start.0, start.1, entry, &mut out);
        assert_eq!(out.len(), if live { 3 } else { 0 });
        world.check(out);
        world
    }

    fn publish(&mut self, fate: u8) {
        let item = self.redis.publish();
        self.stored.insert((self.redis.epoch, self.redis.seq));
        match fate % 8 {
            1 => {}
            2 => self.channel.extend([item.clone(), item]),
            _ => self.channel.push_back(item),
        }
    }

    fn step(&mut self, step: &Step) {
        let mut out = vec![];
        match *step {
            Step::Publish { count, fate } => (0..count).for_each(|i| {
                self.redis.clock_ms += u64::from(i % 3);
                // Mostly whole bursts come, or parts of them.
                self.publish(if fate < 100 {
                    0
                } else {
                    fate.wrapping_mul(i | 1)
                });
            }),
            Step::Foreign(count) => {
                for _ in 0..count {
                    self.redis.last = self.redis.next_id();
                    self.redis.stream.push((self.redis.last, None));
                }
            }
            Step::Deliver { index, count } => {
                for _ in 0..count {
                    let at = usize::from(index).min(self.channel.len().saturating_sub(1));
                    if let Some(item) = self.channel.remove(at) {
                        self.look_at(&item);
                        self.brought.insert(key_of(&item));
                        self.order.on_live(item, &mut out);
                        self.check(std::mem::take(&mut out));
                    }
                }
            }
            Step::Trim(count) => {
                let count = usize::from(count).min(self.redis.stream.len());
                self.redis.stream.drain(..count);
            }
            Step::LoseTail {
                count,
                clock_back_ms,
                published,
            } => {
                let stream = &mut self.redis.stream;
                stream.truncate(stream.len().saturating_sub(count.into()));
                self.redis.last = stream.last().map_or(EntryId::default(), |it| it.0);
                let clock = &mut self.redis.clock_ms;
                *clock = clock.saturating_sub(clock_back_ms.into());
                self.redis.epoch += 1;
                self.redis.seq = 0;
                (0..published).for_each(|i| self.publish(i));
            }
            Step::Poll => {
                let (entry, seq) = (self.redis.last, self.redis.seq);
                self.order.on_stored(self.redis.place());
                if (epoch(self.redis.epoch), seq) < self.last {
                    self.greet(&mut out);
                } else {
                    self.order
                        .on_seen(self.now_ms, epoch(self.redis.epoch), seq, entry);
                }
            }
            Step::Resubscribe => {
                self.channel.clear();
                self.order
                    .on_resubscribed(epoch(self.redis.epoch), self.redis.seq);
            }
            Step::LoseUnpassed { count, published } => self.lose_unpassed(count, published),
            Step::Fork {
                count,
                published,
                is_heard,
            } => self.fork(count, published, is_heard),
            Step::Greet if self.order.is_in_doubt() => self.greet(&mut out),
            Step::Greet => {}
            Step::Ask => {
                if let Some(read) = self.order.poll_read(self.now_ms) {
                    assert!(
                        self.asked.is_none() && self.page.is_none(),
                        "one read at a time"
                    );
                    assert!(read.count <= READ_ENTRIES_MAX + 1);
                    self.asked = Some(read);
                }
            }
            Step::Execute { at_most } => {
                if let Some(read) = self.asked.take() {
                    self.page = Some(self.redis.page(read, at_most.into()));
                }
            }
            Step::Answer { fails } => match self.page.take() {
                Some(_) if fails => self.order.on_read_failed(self.now_ms),
                Some(page) => self.order.on_page(page, &mut out),
                None => {}
            },
            Step::Pass(ms) => {
                self.now_ms += u64::from(ms);
                self.redis.clock_ms += u64::from(ms);
            }
        }
        self.check(out);
    }

    fn look_at(&mut self, item: &Item) {
        let passed = self.passed.get(&key_of(item));
        let position = self.order.position();
        if passed.is_some_and(|passed| passed != item)
            && position.is_some_and(|(.., entry)| entry < item.place.entry)
        {
            self.contradicted = Some(item.place.epoch);
        }
    }

    fn fork(&mut self, count: u8, published: u8, is_heard: bool) {
        let of_epoch = epoch(self.redis.epoch);
        let stream = &mut self.redis.stream;
        let lost = stream.drain(stream.len().saturating_sub(count.into())..);
        let lost = lost.filter_map(|it| it.1);
        self.redis.seq -= lost.filter(|it| it.place.epoch == of_epoch).count() as u64;
        self.redis.last = stream.last().map_or(EntryId::default(), |it| it.0);
        self.forked.insert(of_epoch);
        self.redis.clock_ms += 1;
        (0..published).for_each(|i| self.publish(if is_heard { i } else { 1 }));
    }

    /// As hello.lua does.
    fn greet(&mut self, out: &mut Vec<Ordered>) {
        let (known_epoch, known_seq, known) = self.order.position().expect("it was started");
        let newest = self.redis.stream.iter().rfind(|(id, _)| *id <= known);
        let mut items = self.redis.stream.iter().filter_map(|it| it.1.as_ref());
        let is_same = known_epoch == epoch(self.redis.epoch);
        let is_gone = match newest {
            _ if known == EntryId::default() || known_seq == 0 => false,
            Some((id, _)) if *id != known => true,
            Some((_, found)) => found
                .as_ref()
                .is_some_and(|it| key_of(it) != (known_epoch, known_seq)),
            None => items
                .next()
                .is_some_and(|it| it.place.epoch == known_epoch && it.place.seq <= known_seq),
        };
        let is_lost = self.redis.seq < known_seq || is_gone || self.order.is_contradicted();
        let is_lost = is_same && is_lost;
        if is_lost {
            self.redis.epoch += 1;
            self.redis.seq = 0;
        }
        let (epoch, seq) = (epoch(self.redis.epoch), self.redis.seq);
        self.contradicted = self.contradicted.filter(|_| is_lost || !is_same);
        self.order.on_greeted(epoch, seq, is_lost, out);
    }

    fn lose_unpassed(&mut self, count: u8, published: u8) {
        let (last, stream) = (self.last, &mut self.redis.stream);
        let is_unpassed = |it: &Option<Item>| it.as_ref().is_none_or(|it| key_of(it) > last);
        let unpassed = stream.iter().rev().take_while(|it| is_unpassed(&it.1));
        let lost = unpassed.count().min(count.into());
        let items = stream.drain(stream.len() - lost..).filter_map(|it| it.1);
        let of_epoch = epoch(self.redis.epoch);
        for item in items {
            self.stored.remove(&(item.place.epoch.ms(), item.place.seq));
            self.redis.seq -= u64::from(item.place.epoch == of_epoch);
        }
        self.redis.clock_ms += 1;
        self.redis.last = self.redis.next_id();
        self.channel.clear();
        self.brought.retain(|&key| key <= last);
        if self.asked.take().is_some() || self.page.take().is_some() {
            self.order.on_read_failed(self.now_ms);
        }
        self.order.forget_heard();
        let mut out = vec![];
        self.greet(&mut out);
        self.check(out);
        (0..published).for_each(|i| self.publish(i));
    }

    fn check(&mut self, out: Vec<Ordered>) {
        for ordered in out {
            match ordered {
                Ordered::Item(item) => {
                    let key = key_of(&item);
                    assert_eq!(key, (self.last.0, self.last.1 + 1), "the next one");
                    assert_ne!(self.contradicted, Some(key.0), "it is of another line");
                    self.last = key;
                    self.passed.insert(key, item);
                }
                Ordered::Epoch(epoch) => {
                    assert!(epoch > self.last.0, "epochs rise");
                    self.last = (epoch, 0);
                }
                Ordered::Hole {
                    epoch,
                    from_seq,
                    to_seq,
                } => {
                    assert_eq!((epoch, from_seq), (self.last.0, self.last.1 + 1));
                    assert!(from_seq <= to_seq);
                    let place = (epoch.ms(), to_seq);
                    assert!(self.stored.contains(&place), "lost is what there was");
                    let lost = (epoch, from_seq)..=(epoch, to_seq);
                    let is_forked = self.forked.contains(&epoch);
                    let was_here = self.brought.range(lost).next();
                    assert_eq!(was_here.filter(|_| !is_forked), None, "it was here");
                    self.last.1 = to_seq;
                }
            }
        }
        self.order.invariants();
        if let Some((epoch, seq, _)) = self.order.position() {
            assert_eq!((epoch, seq), self.last);
        }
        for item in self.redis.stream.iter().filter_map(|it| it.1.as_ref()) {
            let key = key_of(item);
            let is_due = key > self.start && key <= self.last && !self.forked.contains(&key.0);
            assert!(
                !is_due || self.passed.get(&key) == Some(item),
                "{key:?} was left out, or is another's"
            );
        }
    }

    /// Without faults it comes to rest, at the end of what there is.
    fn rest(&mut self) {
        let reads_max = self.redis.stream.len() / 10 + 40;
        self.step(&Step::Deliver {
            index: 0,
            count: 255,
        });
        self.step(&Step::Pass(READ_RETRY_MS_MAX as u16));
        let mut reads = 0;
        for _ in 0..8 {
            self.step(&Step::Greet);
            self.step(&Step::Poll);
            while let Some(at_ms) = self
                .order
                .wake_at()
                .or(Some(0).filter(|_| self.asked.is_some() || self.page.is_some()))
            {
                self.now_ms = self.now_ms.max(at_ms);
                self.step(&Step::Ask);
                self.step(&Step::Execute { at_most: 25 });
                self.step(&Step::Answer { fails: false });
                reads += 1;
                assert!(reads < reads_max, "it reads without end");
            }
        }
        assert_eq!(self.last, (epoch(self.redis.epoch), self.redis.seq));
        if let Some(passed) = self.passed.get(&self.last) {
            assert_eq!(passed.place, self.redis.place(), "it is of this line");
        }
        assert!(!self.order.is_repairing());
        assert_eq!(self.order.poll_read(u64::MAX), None);
        assert!(self.order.held.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 300,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_comes_out_is_the_truth_in_order(before in 0..9_u8, live: bool, steps in steps()) {
        let mut world = World::new(before, live);
        for step in &steps {
            world.step(step);
        }
        world.rest();
    }
}

/// An order that has passed on 1 to `seq` of epoch 1.
fn started(seq: u64) -> Order {
    let mut order = Order::new();
    order.start(epoch(1), seq, plain(1, seq).place.entry, &mut vec![]);
    order
}

fn page(items: impl IntoIterator<Item = Item>) -> StreamPage {
    let items: Vec<_> = items.into_iter().collect();
    StreamPage {
        reached: items.last().map(|it| it.place.entry),
        items,
        end: true,
    }
}

fn seqs(out: &mut Vec<Ordered>) -> Vec<String> {
    let text = |ordered| match ordered {
        Ordered::Item(item) => item.place.seq.to_string(),
        Ordered::Epoch(_) => "epoch".into(),
        Ordered::Hole {
            from_seq, to_seq, ..
        } => format!("lost {from_seq}-{to_seq}"),
    };
    out.drain(..).map(text).collect()
}

#[test]
fn of_an_epoch_that_is_over_nothing_is_a_doubt() {
    let (mut order, mut out) = (started(5), vec![]);
    order.on_resubscribed(epoch(2), 0);
    order.poll_read(0).unwrap();
    order.on_page(page([plain(1, 5)]), &mut out);
    assert_eq!(seqs(&mut out), ["epoch"]);
    // Late, and by its number and its entry not of the line that was passed on.
    let late = item(epoch(1), 7, plain(1, 3).place.entry);
    order.on_live(late.clone(), &mut out);
    order.on_stored(late.place);
    assert!(!order.is_in_doubt());
    order.on_live(plain(2, 1), &mut out);
    assert_eq!(seqs(&mut out), ["1"]);
}

#[test]
fn a_hole_is_mended_or_told() {
    let (mut order, mut out) = (started(5), vec![]);
    order.on_live(plain(1, 6), &mut out);
    order.on_live(plain(1, 6), &mut out);
    order.on_live(plain(1, 9), &mut out);
    assert_eq!(seqs(&mut out), ["6"]);
    let read = order.poll_read(0).unwrap();
    assert_eq!(read.after.next(), plain(1, 6).place.entry);
    assert_eq!(order.poll_read(0), None, "one at a time");
    // What is live meanwhile may be behind the page's end, so the end says nothing of it.
    order.on_live(plain(1, 12), &mut out);
    order.on_page(page((6..=10).map(|seq| plain(1, seq))), &mut out);
    assert_eq!(seqs(&mut out), ["7", "8", "9", "10"]);
    assert!(order.is_repairing());
    order.poll_read(0).unwrap();
    order.on_page(page([plain(1, 10), plain(1, 12)]), &mut out);
    assert_eq!(seqs(&mut out), ["lost 11-11", "12"]);
    let gaps = Gaps {
        seen: 1,
        lost: 1,
        ..Gaps::default()
    };
    assert_eq!((order.gaps(), order.is_repairing()), (gaps, false));
    order.on_live(plain(1, 14), &mut out);
    order.poll_read(0).unwrap();
    order.on_live(plain(1, 13), &mut out);
    assert_eq!(seqs(&mut out), ["13", "14"]);
    order.on_page(page([]), &mut out);
    let gaps = Gaps {
        seen: 2,
        mended: 1,
        lost: 1,
        ..Gaps::default()
    };
    assert_eq!((order.gaps(), seqs(&mut out).len()), (gaps, 0));
}

#[test]
fn what_was_seen_has_a_second_to_come() {
    let (mut order, mut out) = (started(5), vec![]);
    order.on_seen(0, epoch(1), 5, EntryId::default());
    assert_eq!(order.wake_at(), None);
    let entry = plain(1, 7).place.entry;
    order.on_seen(100, epoch(1), 6, entry);
    order.on_seen(1000, epoch(1), 7, entry);
    assert_eq!((order.poll_read(1099), order.wake_at()), (None, Some(1100)));
    assert!(order.poll_read(1100).is_some());
    order.on_read_failed(1100);
    let mut waits = vec![];
    while waits.len() < 8 {
        let at_ms = order.wake_at().unwrap();
        assert_eq!(order.poll_read(at_ms - 1), None);
        assert!(order.poll_read(at_ms).is_some());
        order.on_read_failed(0);
        waits.push(order.wake_at().unwrap());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    assert!(order.poll_read(2000).is_some());
    order.on_page(page((5..=7).map(|seq| plain(1, seq))), &mut out);
    assert_eq!((seqs(&mut out).len(), order.wake_at()), (2, None));
}

#[test]
fn an_epoch_comes_after_what_the_old_one_still_has() {
    let (mut order, mut out) = (started(5), vec![]);
    order.on_live(plain(2, 1), &mut out);
    order.poll_read(0).unwrap();
    order.on_page(
        page([plain(1, 5), plain(1, 6), plain(2, 1), plain(2, 2)]),
        &mut out,
    );
    assert_eq!(seqs(&mut out), ["6", "epoch", "1", "2"]);
    order.on_live(plain(1, 7), &mut out);
    assert_eq!(seqs(&mut out).len(), 0, "too late");
    // An epoch without items.
    order.on_resubscribed(epoch(3), 0);
    order.poll_read(0).unwrap();
    order.on_page(page([plain(2, 2)]), &mut out);
    assert_eq!(seqs(&mut out), ["epoch"]);
    order.on_live(plain(3, 1), &mut out);
    assert_eq!(
        (seqs(&mut out), order.is_repairing()),
        (vec!["1".to_owned()], false)
    );
}

#[test]
fn a_clock_that_went_back_hides_nothing() {
    let (mut order, mut out) = (Order::new(), vec![]);
    let at = |ms| EntryId { ms, n: 0 };
    order.start(epoch(1), 5, at(900_000), &mut out);
    order.on_live(item(epoch(2), 3, at(900_001)), &mut out);
    let mut afters = vec![];
    let stream = [
        item(epoch(1), 4, at(890_000)),
        item(epoch(2), 1, at(895_000)),
        item(epoch(2), 2, at(895_001)),
        item(epoch(2), 3, at(900_001)),
    ];
    while let Some(read) = order.poll_read(0) {
        afters.push(read.after.ms);
        let of_page = |it: &&Item| it.place.entry > read.after;
        order.on_page(page(stream.iter().filter(of_page).cloned()), &mut out);
    }
    assert_eq!(afters, [899_999, 898_999, 891_999, 835_999]);
    assert_eq!(seqs(&mut out), ["epoch", "1", "2", "3"]);
}

#[test]
fn what_is_held_has_a_bound_and_is_read_again() {
    let (mut order, mut out) = (started(0), vec![]);
    let newest = HELD_ITEMS_MAX as u64 + 5000;
    for seq in 2..=newest {
        order.on_live(plain(1, seq), &mut out);
    }
    order.invariants();
    let mut big = plain(1, newest + 1);
    big.json = Bytes::from(vec![b'1'; HELD_BYTES_MAX + 1]);
    let stream: Vec<_> = (1..=newest)
        .map(|seq| plain(1, seq))
        .chain([big.clone()])
        .collect();
    assert!(out.is_empty());
    let mut reads = 0;
    while let Some(read) = order.poll_read(0) {
        let first = stream.partition_point(|it| it.place.entry <= read.after);
        let items: Vec<_> = stream[first..].iter().take(read.count).cloned().collect();
        let end = items.len() < read.count;
        order.on_page(StreamPage { end, ..page(items) }, &mut out);
        reads += 1;
        if reads == 3 {
            order.on_live(big.clone(), &mut out);
            assert!(
                order.held.is_empty(),
                "too big to be held, and all before it went"
            );
        }
    }
    let seqs = seqs(&mut out);
    assert_eq!(seqs.len() as u64, newest + 1);
    assert!(reads < 30, "{reads}");
    assert_eq!(order.gaps().lost, 0);
}

/// Its number is given anew by the Redis that came back with less.
#[test]
fn what_was_held_of_a_redis_that_is_gone_is_not_passed_on() {
    let (mut order, mut out) = (started(5), vec![]);
    order.on_live(plain(1, 8), &mut out);
    order.on_live(plain(1, 9), &mut out);
    assert!(order.is_repairing());
    order.forget_heard();
    order.invariants();
    assert_eq!((order.is_repairing(), order.poll_read(0)), (false, None));
    order.on_resubscribed(epoch(1), 5);
    let anew = |seq| item(epoch(1), seq, EntryId { ms: 7000, n: seq });
    let all: Vec<_> = (6..=9).map(anew).collect();
    for item in all.clone() {
        order.on_live(item, &mut out);
    }
    let passed: Vec<_> = all.into_iter().map(Ordered::Item).collect();
    assert_eq!(out, passed);
    assert_eq!(order.gaps().lost, 0);
}

#[test]
fn after_a_number_was_given_twice_nothing_passes_until_it_is_known_whose_line_it_is() {
    let anew = |seq, n| item(epoch(1), seq, EntryId { ms: 1001, n });
    for is_lost in [false, true] {
        let (mut order, mut out) = (started(5), vec![]);
        order.on_live(plain(1, 5), &mut out);
        assert_eq!((order.gaps().forked, order.is_in_doubt()), (0, false));
        order.on_live(anew(5, 1), &mut out);
        assert_eq!((order.gaps().forked, order.is_in_doubt()), (1, true));
        order.on_live(anew(6, 2), &mut out);
        order.on_live(anew(8, 4), &mut out);
        assert_eq!((order.poll_read(0), order.wake_at()), (None, None));
        assert_eq!(out, [], "6 is next, but of whom?");
        let of = if is_lost {
            (epoch(2), 0)
        } else {
            (epoch(1), 6)
        };
        order.on_greeted(of.0, of.1, is_lost, &mut out);
        assert!(!order.is_in_doubt());
        let (fifth, after) = match is_lost {
            false => (plain(1, 5), vec!["6", "7", "8"]),
            true => (anew(5, 1), vec!["epoch"]),
        };
        let read = order.poll_read(0).unwrap();
        let line = [fifth]
            .into_iter()
            .chain((6..=8).map(|seq| anew(seq, seq - 4)));
        let of_page = line.filter(|it| it.place.entry > read.after);
        order.on_page(page(of_page), &mut out);
        order.invariants();
        assert_eq!(seqs(&mut out), after);
    }
}

/// By its number the next; but its entry is not above the last one's.
#[test]
fn an_entry_that_goes_back_is_a_doubt_and_so_is_a_page_that_begins_elsewhere() {
    let (mut order, mut out) = (started(5), vec![]);
    order.on_live(item(epoch(1), 6, plain(1, 3).place.entry), &mut out);
    assert_eq!((out.len(), order.is_in_doubt()), (0, true));
    let (mut order, mut out) = (started(5), vec![]);
    order.on_resubscribed(epoch(1), 8);
    order.poll_read(0).unwrap();
    order.on_page(page([plain(1, 7), plain(1, 8)]), &mut out);
    assert_eq!((out.len(), order.is_in_doubt()), (0, true));
    order.on_greeted(epoch(1), 8, false, &mut out);
    order.poll_read(0).unwrap();
    order.on_page(page([plain(1, 7), plain(1, 8)]), &mut out);
    assert_eq!(seqs(&mut out), ["lost 6-6", "7", "8"], "it was trimmed");
    assert!(!order.is_in_doubt());
}

/// It was greeted with the number of the last one and the entry of one before: a new epoch began.
#[test]
fn the_entry_of_what_was_never_seen_is_not_known() {
    let (mut order, mut out) = (started(5), vec![]);
    order.on_resubscribed(epoch(1), 7);
    order.poll_read(0).unwrap();
    order.on_page(page([plain(1, 5)]), &mut out);
    assert_eq!(seqs(&mut out), ["lost 6-7"]);
    assert_eq!(order.position(), Some((epoch(1), 7, EntryId::default())));
    order.on_live(plain(1, 8), &mut out);
    let entry = plain(1, 8).place.entry;
    assert_eq!(order.position(), Some((epoch(1), 8, entry)));
}
