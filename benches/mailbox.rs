//! One hop of mail between two threads, side by side with what the standard library offers.
//!
//! `awake`: one thread sends letter after letter, the other takes them; nobody is woken but who ran
//! dry. `asleep`: one letter goes there and another back, and each thread sleeps until it is woken;
//! the time is that of both hops. A letter carries 1 or 64 deliveries. The others carry the same
//! letters, and `std mpsc, a send each` one delivery each, as a queue without batches would.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ringcast::backplane::Begun;
use ringcast::model::limits::MAILBOX_BATCHES;
use ringcast::model::{Epoch, RoomName};
use ringcast::runtime::mailbox::{Letter, Mailbox, Post, mailboxes};
use ringcast::shard::{Delivery, Mail, ShardId};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCHES: [usize; 2] = [1, 64];

/// A way of letters from one thread to another.
trait Way: Clone + Send + 'static {
    /// Two ways, and their ends.
    type End: End;
    fn pair() -> [(Self, Self::End); 2];
    /// Sends, and waits while there is no room.
    fn send(&self, letter: Letter);
}

trait End: Send + 'static {
    /// The next letter; sleeps until there is one.
    fn receive(&mut self) -> Letter;
}

/// Wakes a thread, as the runtime's waker wakes a shard.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[derive(Clone)]
struct Ours(Post, ShardId);

struct OurEnd {
    mailbox: Mailbox,
    waker: Option<Waker>,
}

impl Way for Ours {
    type End = OurEnd;

    fn pair() -> [(Self, OurEnd); 2] {
        let (post, mailboxes) = mailboxes(2);
        let mut mailboxes = mailboxes.into_iter();
        [0, 1].map(|to| {
            let mailbox = mailboxes.next().expect("two mailboxes");
            let waker = None;
            (Self(post.clone(), to), OurEnd { mailbox, waker })
        })
    }

    fn send(&self, letter: Letter) {
        self.0.send(self.1, letter);
    }
}

impl End for OurEnd {
    fn receive(&mut self) -> Letter {
        let waker = self
            .waker
            .get_or_insert_with(|| Waker::from(Arc::new(Unpark(thread::current()))));
        loop {
            if let Some(letter) = self.mailbox.take() {
                return letter;
            }
            if self.mailbox.sleep(waker) {
                thread::park();
            }
        }
    }
}

impl Way for SyncSender<Letter> {
    type End = Receiver<Letter>;

    fn pair() -> [(Self, Receiver<Letter>); 2] {
        [0, 1].map(|_| sync_channel(MAILBOX_BATCHES))
    }

    fn send(&self, letter: Letter) {
        SyncSender::send(self, letter).expect("a receiver");
    }
}

impl End for Receiver<Letter> {
    fn receive(&mut self) -> Letter {
        self.recv().expect("a sender")
    }
}

#[derive(Default)]
struct Monitor {
    letters: Mutex<VecDeque<Letter>>,
    changed: Condvar,
}

impl Way for Arc<Monitor> {
    type End = Self;

    fn pair() -> [(Self, Self); 2] {
        [0, 1].map(|_| {
            let monitor = Self::default();
            (monitor.clone(), monitor)
        })
    }

    fn send(&self, letter: Letter) {
        let mut letters = self.letters.lock().expect("no panic");
        while letters.len() >= MAILBOX_BATCHES {
            letters = self.changed.wait(letters).expect("no panic");
        }
        letters.push_back(letter);
        self.changed.notify_one();
    }
}

impl End for Arc<Monitor> {
    fn receive(&mut self) -> Letter {
        let mut letters = self.letters.lock().expect("no panic");
        loop {
            let was_full = letters.len() >= MAILBOX_BATCHES;
            if let Some(letter) = letters.pop_front() {
                if was_full {
                    self.changed.notify_one();
                }
                return letter;
            }
            letters = self.changed.wait(letters).expect("no panic");
        }
    }
}

/// A delivery of a `message` frame around a payload of 128 bytes.
fn delivery(frame: &Bytes, room: &RoomName) -> Mail {
    Mail::Deliver(Delivery {
        room: room.clone(),
        epoch: Epoch::new(1_700_000_000_000, 1),
        offset: 1,
        frame: frame.clone(),
        skip: None,
        begun: Begun::Unknown,
    })
}

/// Makes letters of so many deliveries.
fn letters(batch: usize) -> impl Fn() -> Letter {
    let frame = Bytes::from(vec![b'x'; 335]);
    let room = RoomName::parse("lobby").expect("a name");
    move || {
        let mail = (0..batch).map(|_| delivery(&frame, &room)).collect();
        Letter::Mail(0, mail)
    }
}

/// Deliveries in a letter; none: the end.
fn count(letter: &Letter) -> usize {
    match black_box(letter) {
        Letter::Mail(_, mail) => mail.len(),
        _ => 0,
    }
}

/// Deliveries one way, in letters of `batch`, from the first send until the last is taken.
fn awake<W: Way>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, sent: usize, batch: usize) {
    let [(way, mut end), _] = W::pair();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = taken.clone();
    let reader = thread::spawn(move || {
        loop {
            match count(&end.receive()) {
                0 => break,
                mails => counter.fetch_add(mails as u64, Ordering::Release),
            };
        }
    });
    let letter = letters(batch);
    let mut total = 0;
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let start = Instant::now();
            for _ in 0..iterations * (sent / batch) as u64 {
                way.send(letter());
            }
            total += iterations * sent as u64;
            while taken.load(Ordering::Acquire) < total {
                thread::yield_now();
            }
            start.elapsed()
        });
    });
    way.send(Letter::Drain(0));
    reader.join().expect("the reader");
}

/// A letter there and a letter back, each to a thread that sleeps.
fn asleep<W: Way>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, batch: usize) {
    let [(there, mut far), (back, mut near)] = W::pair();
    let echo = thread::spawn(move || {
        loop {
            let letter = far.receive();
            if count(&letter) == 0 {
                break;
            }
            back.send(letter);
        }
    });
    let letter = letters(batch);
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                let letter = letter();
                let start = Instant::now();
                there.send(letter);
                black_box(count(&near.receive()));
                spent += start.elapsed();
            }
            spent
        });
    });
    there.send(Letter::Drain(0));
    echo.join().expect("the echo");
}

fn hops(c: &mut Criterion) {
    for batch in BATCHES {
        let mut group = c.benchmark_group(format!("mailbox/awake, {batch} a letter"));
        group.throughput(Throughput::Elements(batch as u64));
        awake::<Ours>(&mut group, "mailbox", batch, batch);
        awake::<SyncSender<Letter>>(&mut group, "std mpsc", batch, batch);
        awake::<Arc<Monitor>>(&mut group, "mutex and condvar", batch, batch);
        if batch > 1 {
            awake::<SyncSender<Letter>>(&mut group, "std mpsc, a send each", batch, 1);
        }
        group.finish();
        let mut group = c.benchmark_group(format!("mailbox/asleep, {batch} a letter"));
        group.throughput(Throughput::Elements(2 * batch as u64));
        asleep::<Ours>(&mut group, "mailbox", batch);
        asleep::<SyncSender<Letter>>(&mut group, "std mpsc", batch);
        asleep::<Arc<Monitor>>(&mut group, "mutex and condvar", batch);
        group.finish();
    }
}

criterion_group!(benches, hops);
criterion_main!(benches);
