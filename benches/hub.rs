//! The room log and the sweep, side by side with a queue for each member.
//!
//! In memory the outlet only counts: that is what the fan-out itself costs. A queue for each member
//! is measured twice, with a send for each frame and with what waits joined to one send; the first
//! flatters it, since a send that only counts is free and one to a socket takes microseconds.
//!
//! Over sockets (TCP, loopback) the sweep stands beside a bare loop of as many sends of the same
//! bytes. Both run in turn within each sample, and what is measured is the thread's CPU time: the
//! ratio of each pair is free of the machine's drift, and its median is printed.
//!
//! With deflate, what one compression costs and gains, and the sweep to members who take the room
//! so beside the sweep to as many who take it as it is.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringcast::hub::{Audience, ConnIndex, Encode, Encoding, Hub, Member, Outlet, RoomKey, RoomLog};
use ringcast::model::limits::SWEEP_SENDS_MAX;
use ringcast::model::{Epoch, Position, RoomName};
use ringcast::net::deflate::Deflater;
use ringcast::net::encode::{self, opcode};
use ringcast::net::{push_compressed, push_text};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A `message` frame around a payload of 128 bytes.
const FRAME_BYTES: usize = 335;
const LOG_BYTES_MAX: usize = 1 << 20;
const FRAMES: [usize; 2] = [1, 16];
const SOCKETS: usize = 100;

fn frame() -> Vec<u8> {
    vec![b'x'; FRAME_BYTES]
}

/// A `message` frame as chat has them, around so many words.
fn chat(words: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "hello",
        "the",
        "tomorrow",
        "what",
        "12.50",
        "is",
        "restarted",
        "ok",
    ];
    let text: Vec<_> = (0..words).map(|n| WORDS[n * n % 37 % 8]).collect();
    let json = format!(
        concat!(
            r#"{{"type":"message","room":"lobby","offset":4711,"#,
            r#""id":"0198f3a2-7c1d-7e2a-b001-09ab35cd7712","user_id":"Zk3xQp9aLmN0vB7c","#,
            r#""username":"ann","payload":"{}","sent_at":"2026-11-24T18:00:00.123Z"}}"#
        ),
        text.join(" ")
    );
    let mut frame = Vec::new();
    push_text(&mut frame, json.as_bytes());
    frame
}

/// As the server deflates a room.
struct Deflate(Deflater, Vec<u8>);

impl std::fmt::Debug for Deflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deflate")
    }
}

impl Default for Deflate {
    fn default() -> Self {
        Self(Deflater::new(15, false), Vec::new())
    }
}

impl Encode for Deflate {
    fn encode(&mut self, _: Encoding, _: Position, plain: &[u8], out: &mut Vec<u8>) {
        let (_, payload) = encode::take_apart(plain).expect("a frame");
        self.1.clear();
        self.0.deflate(payload, &mut self.1);
        push_compressed(out, opcode::TEXT, &self.1);
    }
}

/// Takes all and only counts.
#[derive(Default)]
struct Counter {
    sends: u64,
    bytes: u64,
}

impl Outlet for Counter {
    fn ready(&mut self, conn: ConnIndex) -> bool {
        black_box(conn) != ConnIndex::MAX
    }

    fn send(&mut self, conn: ConnIndex, bytes: &[u8]) -> usize {
        black_box((conn, bytes.as_ptr()));
        self.sends += 1;
        self.bytes += bytes.len() as u64;
        bytes.len()
    }

    fn keep(&mut self, _: ConnIndex, _: &[u8]) {
        unreachable!("all is taken");
    }

    fn gap(&mut self, _: ConnIndex, _: &RoomName, _: u64, _: u64, _: bool) -> bool {
        unreachable!("nobody is slow");
    }

    fn want_page(&mut self, _: RoomKey, _: u64) {
        unreachable!("nobody comes back");
    }
}

/// A room of a hub, and the next offset.
struct Fan {
    hub: Hub,
    key: RoomKey,
    epoch: Epoch,
    next: u64,
    frame: Vec<u8>,
}

impl Fan {
    fn new(members: usize) -> Self {
        Self::with(members, Encoding::Plain, frame())
    }

    fn with(members: usize, encoding: Encoding, frame: Vec<u8>) -> Self {
        let mut hub = Hub::with_encode(LOG_BYTES_MAX, Box::new(Deflate::default()));
        let key = hub.find_or_make(&RoomName::parse("lobby").expect("a name"));
        let epoch = Epoch::new(1_700_000_000_000, 1);
        hub.begin_log(key, epoch, 1);
        for conn in 0..members {
            let room = hub.room_mut(key).expect("the room");
            room.add(Member::with_encoding(conn as ConnIndex, 1, encoding));
        }
        Self {
            hub,
            key,
            epoch,
            next: 1,
            frame,
        }
    }

    /// Appends `frames` and sweeps, as the server does: in slices of so many sends.
    fn turn(&mut self, frames: usize, outlet: &mut impl Outlet) {
        for _ in 0..frames {
            self.hub
                .publish(self.key, self.epoch, self.next, black_box(&self.frame));
            self.next += 1;
        }
        while self.hub.sweep(outlet, SWEEP_SENDS_MAX) {}
    }

    /// The same with signals, which are kept for nobody.
    fn signal(&mut self, frames: usize, outlet: &mut impl Outlet) {
        for _ in 0..frames {
            self.hub
                .whisper(self.key, Audience::AllBut(None), black_box(&self.frame));
        }
        while self.hub.sweep(outlet, SWEEP_SENDS_MAX) {}
    }
}

/// The obvious alternative: each member has a queue of shared frames.
struct Queues {
    queues: Vec<VecDeque<Bytes>>,
    joined: Vec<u8>,
    frame: Vec<u8>,
}

impl Queues {
    fn new(members: usize) -> Self {
        Self {
            queues: vec![VecDeque::new(); members],
            joined: Vec::new(),
            frame: frame(),
        }
    }

    fn push(&mut self, frames: usize) {
        for _ in 0..frames {
            let frame = Bytes::copy_from_slice(black_box(&self.frame));
            for queue in &mut self.queues {
                queue.push_back(frame.clone());
            }
        }
    }

    fn send_each(&mut self, outlet: &mut impl Outlet) {
        for (conn, queue) in self.queues.iter_mut().enumerate() {
            if outlet.ready(conn as ConnIndex) {
                for frame in queue.drain(..) {
                    outlet.send(conn as ConnIndex, &frame);
                }
            }
        }
    }

    fn send_joined(&mut self, outlet: &mut impl Outlet) {
        for (conn, queue) in self.queues.iter_mut().enumerate() {
            if outlet.ready(conn as ConnIndex) {
                self.joined.clear();
                for frame in queue.drain(..) {
                    self.joined.extend_from_slice(&frame);
                }
                outlet.send(conn as ConnIndex, &self.joined);
            }
        }
    }
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub/append");
    group.throughput(Throughput::Elements(1));
    let frame = frame();
    let mut log = RoomLog::new(1);
    let (mut bytes, mut begun) = (0, VecDeque::new());
    group.bench_function("room log", |b| {
        b.iter(|| {
            let pushed = log.push(black_box(&frame));
            bytes += pushed.grown;
            begun.extend(pushed.chunk);
            if bytes > LOG_BYTES_MAX {
                bytes -= log.drop_chunk(begun.pop_front().unwrap_or_default());
            }
        });
    });
    let mut fan = Fan::new(0);
    group.bench_function("room log of a hub", |b| {
        b.iter(|| fan.turn(1, &mut Counter::default()));
    });
    let mut history = VecDeque::new();
    group.bench_function("queue of frames", |b| {
        b.iter(|| {
            history.push_back(Bytes::copy_from_slice(black_box(&frame)));
            if history.len() > LOG_BYTES_MAX / FRAME_BYTES {
                history.pop_front();
            }
        });
    });
    group.finish();
}

fn sweep(c: &mut Criterion) {
    for frames in FRAMES {
        let mut group = c.benchmark_group(format!("hub/sweep of {frames}"));
        for members in [1, 100, 1000] {
            group.throughput(Throughput::Elements((members * frames) as u64));
            let mut outlet = Counter::default();
            let mut fan = Fan::new(members);
            group.bench_function(BenchmarkId::new("room log", members), |b| {
                b.iter(|| fan.turn(frames, &mut outlet));
            });
            let mut queues = Queues::new(members);
            group.bench_function(BenchmarkId::new("queues, a send each", members), |b| {
                b.iter(|| {
                    queues.push(frames);
                    queues.send_each(&mut outlet);
                });
            });
            group.bench_function(BenchmarkId::new("queues, joined", members), |b| {
                b.iter(|| {
                    queues.push(frames);
                    queues.send_joined(&mut outlet);
                });
            });
            black_box((outlet.sends, outlet.bytes));
        }
        group.finish();
    }
}

/// Connections over loopback, whose other ends a thread reads empty.
struct Sockets {
    streams: Vec<TcpStream>,
    reader: Option<JoinHandle<()>>,
    /// Times that a socket was full, which is then waited for.
    full: u64,
}

impl Sockets {
    fn new(count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("its address");
        let (mut streams, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            peers.push(TcpStream::connect(to).expect("a connection"));
            let (stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("an option");
            streams.push(stream);
        }
        Self {
            streams,
            reader: Some(thread::spawn(move || read_all(peers))),
            full: 0,
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.streams.clear();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader");
        }
    }
}

fn read_all(mut peers: Vec<TcpStream>) {
    let mut buffer = vec![0; 64 * 1024];
    while !peers.is_empty() {
        let mut polled: Vec<_> = peers
            .iter()
            .map(|peer| PollFd::new(peer, PollFlags::IN))
            .collect();
        poll(&mut polled, None).expect("a poll");
        let ready: Vec<_> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        // What was ready has bytes or has ended: this read does not wait.
        peers.retain_mut(|peer| {
            !ready.next().unwrap_or(false) || peer.read(&mut buffer).unwrap_or(0) > 0
        });
    }
}

impl Outlet for Sockets {
    fn ready(&mut self, _: ConnIndex) -> bool {
        true
    }

    fn send(&mut self, conn: ConnIndex, bytes: &[u8]) -> usize {
        let (stream, mut sent) = (&self.streams[conn as usize], 0);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while sent < bytes.len() {
            match rustix::net::send(stream, &bytes[sent..], flags) {
                Ok(taken) => sent += taken,
                Err(Errno::AGAIN) => {
                    self.full += 1;
                    thread::yield_now();
                }
                Err(error) => panic!("a send: {error}"),
            }
        }
        sent
    }

    fn keep(&mut self, _: ConnIndex, _: &[u8]) {
        unreachable!("all is taken");
    }

    fn gap(&mut self, _: ConnIndex, _: &RoomName, _: u64, _: u64, _: bool) -> bool {
        unreachable!("nobody is slow");
    }

    fn want_page(&mut self, _: RoomKey, _: u64) {
        unreachable!("nobody comes back");
    }
}

/// The thread's CPU time that `run` takes.
fn cpu_time(run: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = now();
    run();
    now() - before
}

fn sockets(c: &mut Criterion) {
    let mut sockets = Sockets::new(SOCKETS);
    for frames in FRAMES {
        let mut group = c.benchmark_group(format!("hub/sockets, sweep of {frames}"));
        group.throughput(Throughput::Elements((SOCKETS * frames) as u64));
        group.sample_size(30);
        let mut fan = Fan::new(SOCKETS);
        let bytes = frame().repeat(frames);
        let mut pairs = Vec::new();
        let mut pair = |iterations: u64| {
            let (mut ours, mut bare) = (Duration::ZERO, Duration::ZERO);
            for i in 0..iterations * 2 {
                if i % 2 == 0 {
                    ours += cpu_time(|| fan.turn(frames, &mut sockets));
                } else {
                    bare += cpu_time(|| {
                        for conn in 0..SOCKETS {
                            sockets.send(conn as ConnIndex, black_box(&bytes));
                        }
                    });
                }
            }
            pairs.push(ours.as_secs_f64() / bare.as_secs_f64());
            (ours, bare)
        };
        group.bench_function("room log", |b| b.iter_custom(|n| pair(n).0));
        group.bench_function("bare loop", |b| b.iter_custom(|n| pair(n).1));
        group.bench_function("signals", |b| {
            b.iter_custom(|n| {
                let mut signals = || fan.signal(frames, &mut sockets);
                (0..n).map(|_| cpu_time(&mut signals)).sum()
            });
        });
        group.finish();
        pairs.sort_by(f64::total_cmp);
        let at = |part: usize| {
            pairs
                .get(pairs.len() * part / 4)
                .copied()
                .unwrap_or_default()
        };
        println!(
            "room log / bare loop: {:.3} (quartiles {:.3} to {:.3}, {} pairs, {} times full)\n",
            at(2),
            at(1),
            at(3),
            pairs.len(),
            sockets.full
        );
    }
}

fn deflate(c: &mut Criterion) {
    let mut group = c.benchmark_group("hub/deflate");
    for words in [5, 20, 200, 5000] {
        let (frame, mut deflate) = (chat(words), Deflate::default());
        let mut out = Vec::new();
        let position = Position {
            epoch: Epoch::new(1, 1),
            offset: 1,
        };
        deflate.encode(Encoding::Deflate, position, &frame, &mut out);
        println!(
            "{words} words: {} bytes, deflated {}",
            frame.len(),
            out.len()
        );
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("one frame", words), |b| {
            b.iter(|| {
                out.clear();
                deflate.encode(Encoding::Deflate, position, black_box(&frame), &mut out);
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("hub/deflate, sweep of 1");
    for members in [100, 1000] {
        group.throughput(Throughput::Elements(members as u64));
        for (name, encoding) in [("plain", Encoding::Plain), ("deflate", Encoding::Deflate)] {
            let mut fan = Fan::with(members, encoding, chat(20));
            group.bench_function(BenchmarkId::new(name, members), |b| {
                b.iter(|| fan.turn(1, &mut Counter::default()));
            });
        }
    }
    group.finish();
    // Over sockets, in turns: what a delivery costs either way.
    let mut sockets = Sockets::new(SOCKETS);
    let mut fans =
        [Encoding::Deflate, Encoding::Plain].map(|encoding| Fan::with(SOCKETS, encoding, chat(20)));
    let mut ratios: Vec<f64> = (0..30)
        .map(|_| {
            let mut spent = [Duration::ZERO; 2];
            for _ in 0..100 {
                for (fan, spent) in fans.iter_mut().zip(&mut spent) {
                    *spent += cpu_time(|| fan.turn(1, &mut sockets));
                }
            }
            spent[0].as_secs_f64() / spent[1].as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "deflate / plain, {SOCKETS} sockets: {:.3} (quartiles {:.3} to {:.3})\n",
        ratios[15], ratios[7], ratios[22]
    );
}

criterion_group!(benches, append, sweep, sockets, deflate);
criterion_main!(benches);
