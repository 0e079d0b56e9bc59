//! The spool's bookkeeping against a disk and a Redis in memory.

use proptest::prelude::*;

use super::record::tests::record;
use super::*;
use crate::model::limits::SPOOL_PAGE_BYTES;

const OURS: ProducerId = [9; 16];

fn outgoing(number: u64) -> Outgoing {
    record(9, number, 100).outgoing
}

fn opened(records: u64, bytes: u64, bytes_max: u64) -> SpoolState {
    let mut state = SpoolState::new(OURS, bytes_max);
    state.on_event(0, SpoolEvent::Opened { records, bytes }, &mut Vec::new());
    state
}

#[test]
fn a_full_spool_and_a_failing_disk_refuse_and_say_what_to_do() {
    let one = record_bytes(&outgoing(1));
    let mut state = opened(0, 0, 2 * one);
    let mut refused = Vec::new();
    state.append([outgoing(1)]);
    assert_eq!(state.admits(0), Ok(()));
    state.append([outgoing(2)]);
    let why = state.admits(0).unwrap_err();
    assert!(why.contains("--spool-bytes"), "{why}");
    let Some(SpoolAsk::Append(records)) = state.poll_ask(0) else {
        panic!("{state:?}");
    };
    let failure = SpoolFailure::Full("no space left".into());
    let event = SpoolEvent::Appended {
        count: records.len(),
        result: Err(failure),
    };
    state.on_event(50, event, &mut refused);
    assert_eq!(refused, [1, 2]);
    let why = state.admits(SPOOL_RETRY_MS).unwrap_err();
    assert!(why.contains("free some room in --data-dir"), "{why}");
    assert_eq!(state.admits(50 + SPOOL_RETRY_MS), Ok(()));
    assert!(state.is_empty());
    assert_eq!(state.bytes(), 0);
}

#[test]
fn another_producer_begins_when_the_one_before_is_taken() {
    let mut state = opened(3, 3 * record_bytes(&record(1, 1, 100).outgoing), 1 << 20);
    state.on_back();
    assert_eq!(state.poll_ask(0), Some(SpoolAsk::Read { after: 0 }));
    let records = vec![record(1, 5, 100), record(1, 7, 100), record(2, 1, 100)];
    let bytes = state.bytes();
    let page = Page {
        records,
        lost: 0,
        bytes,
    };
    let event = SpoolEvent::Read {
        after: 0,
        result: Ok(page),
    };
    state.on_event(0, event, &mut Vec::new());
    state.append([outgoing(1)]);
    let run = state.poll_run().unwrap();
    assert_eq!((run.producer, run.messages.len()), ([1; 16], 2));
    assert_eq!(state.poll_run(), None);
    state.on_taken([1; 16], 7);
    assert_eq!(state.poll_run(), None, "7 is not taken");
    state.on_taken([1; 16], 8);
    assert_eq!(state.poll_run().unwrap().producer, [2; 16]);
    assert_eq!(state.poll_run(), None, "ours come behind them");
    assert!(!state.is_handed_over());
    assert_eq!(state.poll_ask(0), Some(SpoolAsk::Release { upto: 2 }));
    state.on_taken([2; 16], 2);
    let run = state.poll_run().unwrap();
    assert_eq!((run.producer, run.spooled), (OURS, false));
    assert!(state.is_handed_over() && state.is_empty());
    assert_eq!(state.poll_ask(0), Some(SpoolAsk::Release { upto: 3 }));
    assert_eq!((state.poll_ask(0), state.bytes()), (None, 0));
}

#[derive(Clone, Debug)]
enum Act {
    Append(u8),
    /// The thread does the next that it was asked; `false`: it fails.
    Work(bool),
    /// It finds so many records damaged.
    Damage(u8),
    HandOver(bool),
    Run,
    /// Redis takes so many of what was handed over.
    Take(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1..40_u8).prop_map(Act::Append),
        6 => prop::bool::weighted(0.9).prop_map(Act::Work),
        1 => (1..4_u8).prop_map(Act::Damage),
        2 => prop::bool::weighted(0.7).prop_map(Act::HandOver),
        3 => Just(Act::Run),
        3 => (1..60_u8).prop_map(Act::Take),
    ];
    prop::collection::vec(act, 1..200)
}

struct World {
    state: SpoolState,
    disk: Vec<Record>,
    asked: VecDeque<SpoolAsk>,
    published: u64,
    refused: Vec<u64>,
    damaged: Vec<Record>,
    /// What was handed over and is not taken.
    handed: VecDeque<(ProducerId, u64, bool)>,
    redis: Vec<(ProducerId, u64)>,
    released: u64,
}

impl World {
    /// An earlier run left `left` records of two producers.
    fn new(left: u64) -> Self {
        let of = |n| record(1 + u8::from(n > left / 2), n, 100);
        let disk: Vec<_> = (1..=left).map(of).collect();
        let bytes = disk
            .iter()
            .map(|record| record_bytes(&record.outgoing))
            .sum();
        Self {
            state: opened(left, bytes, 1 << 30),
            disk,
            asked: VecDeque::new(),
            published: 0,
            refused: Vec::new(),
            damaged: Vec::new(),
            handed: VecDeque::new(),
            redis: Vec::new(),
            released: 0,
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Append(count) => {
                let numbers = self.published + 1..=self.published + u64::from(count);
                self.published = *numbers.end();
                self.state.append(numbers.map(outgoing));
            }
            Act::Work(succeeds) => self.work(succeeds, 0),
            Act::Damage(count) => self.work(true, usize::from(count)),
            Act::HandOver(begins) => {
                if begins {
                    self.state.on_back();
                } else {
                    let unspooled = self.handed.drain(..).filter(|(.., spooled)| !spooled);
                    let unspooled = unspooled.map(|(_, number, _)| outgoing(number));
                    self.state.on_away(unspooled);
                }
            }
            Act::Run => {
                if let Some(run) = self.state.poll_run() {
                    let numbers = run.messages.iter().map(|one| one.number);
                    let all = numbers.map(|number| (run.producer, number, run.spooled));
                    self.handed.extend(all);
                }
            }
            Act::Take(count) => {
                for _ in 0..count {
                    let Some((producer, number, _)) = self.handed.pop_front() else {
                        break;
                    };
                    if !self.redis.contains(&(producer, number)) {
                        self.redis.push((producer, number));
                    }
                    self.state.on_taken(producer, number + 1);
                }
            }
        }
        while let Some(ask) = self.state.poll_ask(0) {
            self.asked.push_back(ask);
        }
        let held: usize = self.state.handed.iter().map(|of| of.bytes as usize).sum();
        assert!(held <= SPOOL_HANDED_BYTES_MAX as usize + SPOOL_PAGE_BYTES);
        assert!(self.asked.len() <= 3 + self.state.taken as usize);
    }

    fn work(&mut self, succeeds: bool, damaged: usize) {
        let failure = || SpoolFailure::Other("it is a test".into());
        let event = match self.asked.pop_front() {
            None => return,
            Some(SpoolAsk::Release { upto }) => {
                assert!(self.released < upto);
                self.released = upto;
                return;
            }
            Some(SpoolAsk::Append(records)) => {
                let count = records.len();
                if succeeds {
                    self.disk.extend(records);
                }
                let result = succeeds.then_some(()).ok_or_else(failure);
                SpoolEvent::Appended { count, result }
            }
            Some(SpoolAsk::Read { after }) => {
                assert!(after >= self.released);
                let page = self.disk[after as usize..].iter().take(30).cloned();
                let mut records: Vec<_> = page.collect();
                let size = |record: &Record| record_bytes(&record.outgoing);
                let bytes = records.iter().map(size).sum();
                let sound = records.len().saturating_sub(damaged);
                let lost = records.split_off(sound);
                let page = Page {
                    records,
                    lost: lost.len() as u64,
                    bytes,
                };
                self.damaged.extend(lost);
                let result = succeeds.then_some(page).ok_or_else(failure);
                SpoolEvent::Read { after, result }
            }
        };
        // The time of a retry has come already.
        self.state.on_event(0, event, &mut self.refused);
        self.state.read_at = 0;
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            for act in [
                Act::HandOver(true),
                Act::Work(true),
                Act::Run,
                Act::Take(30),
            ] {
                self.act(act);
            }
            let idle = self.handed.is_empty() && self.asked.is_empty();
            if idle && self.state.is_handed_over() && self.state.is_empty() {
                return;
            }
        }
        panic!("it does not end: {:?}", self.state);
    }
}

proptest! {
    #[test]
    fn all_that_is_not_refused_comes_to_redis_in_order(left in 0..80_u64, acts in acts()) {
        let mut world = World::new(left);
        for act in acts {
            world.act(act);
        }
        world.finish();
        prop_assert_eq!(world.state.bytes(), 0);
        prop_assert_eq!(world.released, world.disk.len() as u64);
        let of = |n| record(1 + u8::from(n > left / 2), n, 100);
        let earlier = (1..=left).map(|n| (of(n).producer, n));
        let ours = (1..=world.published).map(|n| (OURS, n));
        let is_lost = |one: &(ProducerId, u64)| {
            let damaged = world.damaged.iter();
            let refused = one.0 == OURS && world.refused.contains(&one.1);
            refused || damaged.into_iter().any(|of| (of.producer, of.outgoing.number) == *one)
        };
        let (lost, wanted): (Vec<_>, Vec<_>) = earlier.chain(ours).partition(is_lost);
        let stored = world.redis.iter().filter(|one| !lost.contains(one));
        prop_assert_eq!(stored.copied().collect::<Vec<_>>(), wanted);
    }
}
