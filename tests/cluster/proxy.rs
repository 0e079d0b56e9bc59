//! A TCP proxy between an instance and its Redis, which can do what networks do.
//!
//! ```text
//! instance ─▶ accept ─▶ reader ─(due time, bytes)─▶ writer ─▶ Redis      and the same back
//! ```
//!
//! Each connection has two threads a direction, so that a delay is latency and no loss of
//! throughput. What is paused stays in order; what is cut is cut after a byte, wherever a frame is.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How often those who wait look whether they still have to.
const LOOK: Duration = Duration::from_millis(5);
/// The most that is handed on at once.
const BYTES_MAX: usize = 16 * 1024;

/// What is done to the bytes.
#[derive(Default)]
struct Ways {
    target: AtomicU16,
    ended: AtomicBool,
    paused: AtomicBool,
    delay_ms: AtomicU64,
    /// Bytes a second of one direction; 0: as fast as it goes.
    rate: AtomicU64,
    /// A connection is cut when so many bytes have passed, about; 0: never.
    cut_after: AtomicU64,
    cuts: AtomicU64,
    sockets: Mutex<Vec<TcpStream>>,
}

/// See the module. It ends with its guard.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    ways: Arc<Ways>,
}

impl Proxy {
    /// A proxy before that port of this machine.
    pub(crate) fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ways = Arc::new(Ways::default());
        ways.target.store(target, SeqCst);
        let shared = ways.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(SeqCst) {
                    return;
                }
                let ways = shared.clone();
                thread::spawn(move || serve(socket, &ways));
            }
        });
        Self { port, ways }
    }

    /// Nothing passes, and nothing is told, until [`Proxy::go_on`]: a black hole.
    pub(crate) fn pause(&self) {
        self.ways.paused.store(true, SeqCst);
    }

    pub(crate) fn go_on(&self) {
        self.ways.paused.store(false, SeqCst);
    }

    /// Everything takes so much longer, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        self.ways.delay_ms.store(delay.as_millis() as u64, SeqCst);
    }

    /// So many bytes a second pass each way of each connection; 0: as many as come.
    pub(crate) fn throttle(&self, bytes: u64) {
        self.ways.rate.store(bytes, SeqCst);
    }

    /// Every connection is cut when about so many bytes have come through it one way; 0: no more.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.ways.cut_after.store(bytes, SeqCst);
    }

    /// How many were cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.ways.cuts.load(SeqCst)
    }

    /// New connections go there, and those that are open end.
    pub(crate) fn switch(&self, target: u16) {
        self.lead_to(target);
        self.cut();
    }

    /// New connections go there; those that are open stay.
    pub(crate) fn lead_to(&self, target: u16) {
        self.ways.target.store(target, SeqCst);
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        let sockets = std::mem::take(&mut *self.ways.sockets.lock().unwrap());
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ways.ended.store(true, SeqCst);
        self.cut();
        // Wakes whoever accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(near: TcpStream, ways: &Arc<Ways>) {
    hold(ways);
    let target = SocketAddr::from(([127, 0, 0, 1], ways.target.load(SeqCst)));
    let Ok(far) = TcpStream::connect(target) else {
        return;
    };
    for (from, to) in [(&near, &far), (&far, &near)] {
        let _ = from.set_nodelay(true);
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        ways.sockets.lock().unwrap().push(from.try_clone().unwrap());
        let (sender, receiver) = sync_channel(1024);
        let shared = ways.clone();
        thread::spawn(move || read_all(from, &sender, &shared));
        let shared = ways.clone();
        thread::spawn(move || write_all(to, &receiver, &shared));
    }
    if ways.ended.load(SeqCst) {
        let _ = near.shutdown(Shutdown::Both);
    }
}

/// Waits while nothing may pass.
fn hold(ways: &Ways) {
    while ways.paused.load(SeqCst) && !ways.ended.load(SeqCst) {
        thread::sleep(LOOK);
    }
}

fn read_all(mut from: TcpStream, sender: &SyncSender<(Instant, Vec<u8>)>, ways: &Ways) {
    let mut passed = 0;
    // Not all after the same bytes, so that cuts fall anywhere in a frame.
    let share = fastrand::f64() + 0.5;
    let mut buffer = vec![0; BYTES_MAX];
    loop {
        let cut_after = (ways.cut_after.load(SeqCst) as f64 * share) as u64;
        let most = match cut_after {
            0 => BYTES_MAX,
            // What passed before it was asked for does not count.
            after if passed >= after => 1,
            after => BYTES_MAX.min((after - passed) as usize),
        };
        let read = match from.read(&mut buffer[..most]) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        hold(ways);
        passed += read as u64;
        let due = Instant::now() + Duration::from_millis(ways.delay_ms.load(SeqCst));
        if sender.send((due, buffer[..read].to_vec())).is_err() {
            break;
        }
        if cut_after > 0 && passed >= cut_after {
            ways.cuts.fetch_add(1, SeqCst);
            break;
        }
        let rate = ways.rate.load(SeqCst);
        if rate > 0 {
            thread::sleep(Duration::from_secs_f64(read as f64 / rate as f64));
        }
    }
    let _ = from.shutdown(Shutdown::Read);
}

fn write_all(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>, ways: &Ways) {
    while let Ok((due, bytes)) = receiver.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        hold(ways);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    // Both ways: the other direction's tasks end by it too.
    let _ = to.shutdown(Shutdown::Both);
}
