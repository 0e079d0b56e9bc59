//! The sockets: one thread, one epoll, one read buffer for all connections.
//!
//! A [`Swarm`] drives any number of [`Client`]s and tells a [`Handler`]. Each turn waits once,
//! reads once from every socket that is ready, and sends once what its handling left in the outbox.
//! Memory: the read buffer, and for each connection at most one unfinished frame and its outbox.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::client::{Client, Ending, Handler, Outbox};
use crate::inflate::Inflater;
use crate::wire;

const BUFFER_BYTES: usize = 256 << 10;
const EVENTS_MAX: usize = 1024;
const TIMER: u64 = u64::MAX;
/// Connections that may be on their way up at a time, below any listener's backlog.
const CONNECTING_MAX: usize = 512;

/// Where to connect to and from.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Of its WebSocket.
    pub(crate) path: String,
    /// Dealt out over the connections, each of which keeps its own; none: the system's choice.
    pub(crate) sources: Vec<IpAddr>,
    /// Whether compression is offered, and must be taken.
    pub(crate) deflate: bool,
}

#[derive(Debug, Default)]
struct Slot {
    socket: Option<OwnedFd>,
    client: Client,
    tail: Vec<u8>,
    connecting: bool,
    wants_write: bool,
    paused: bool,
}

/// What was read so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) reads: u64,
    pub(crate) bytes: u64,
    pub(crate) frames: u64,
}

/// Set by Ctrl-C or SIGTERM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens to the signals; the second one ends the process at once.
    pub(crate) fn on_signals() -> Result<Self, String> {
        let stop = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, stop.0.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.0.clone()))
                .map_err(|error| format!("cannot listen to signal {signal}: {error}"))?;
        }
        Ok(stop)
    }

    /// Whether it is time to end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Raises the soft limit of open files to the hard one, and returns it.
pub(crate) fn raise_files_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let reached = setrlimit(Resource::Nofile, raised).map_or(limit.current, |()| limit.maximum);
    reached.unwrap_or(u64::MAX)
}

/// Keeps this thread on one core.
pub(crate) fn pin(core: usize) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| format!("cannot pin to core {core}: {error}"))
}

/// Connections, by index.
pub(crate) struct Swarm {
    epoll: OwnedFd,
    timer: OwnedFd,
    targets: Vec<Target>,
    slots: Vec<Slot>,
    connecting: usize,
    refused: Vec<usize>,
    buffer: Vec<u8>,
    inflater: Inflater,
    events: Vec<epoll::Event>,
    start: Instant,
    /// For connections made from now on: SO_RCVBUF.
    pub(crate) receive_buffer: Option<usize>,
    /// Send the upgrade request on connecting (else the handler's owner writes what it likes).
    pub(crate) upgrade: bool,
    /// Read so far.
    pub(crate) traffic: Traffic,
}

impl Swarm {
    /// An empty swarm; `start` is nanosecond 0 of the run.
    pub(crate) fn new(targets: Vec<Target>, start: Instant) -> Result<Self, String> {
        let failed = |what: &str, error: Errno| format!("{what}: {error}");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| failed("epoll", e))?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(|e| failed("timerfd", e))?;
        epoll::add(
            &epoll,
            &timer,
            epoll::EventData::new_u64(TIMER),
            epoll::EventFlags::IN,
        )
        .map_err(|e| failed("epoll", e))?;
        Ok(Self {
            epoll,
            timer,
            targets,
            slots: Vec::new(),
            connecting: 0,
            refused: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            inflater: Inflater::default(),
            events: Vec::with_capacity(EVENTS_MAX),
            start,
            receive_buffer: None,
            upgrade: true,
            traffic: Traffic::default(),
        })
    }

    /// Nanoseconds of the run.
    pub(crate) fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// How many targets there are.
    pub(crate) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// How many indices there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether connection `id` is up.
    pub(crate) fn is_open(&self, id: usize) -> bool {
        self.slots
            .get(id)
            .is_some_and(|slot| slot.socket.is_some() && slot.client.is_open())
    }

    /// Whether connection `id` has a socket.
    pub(crate) fn is_alive(&self, id: usize) -> bool {
        self.slots.get(id).is_some_and(|slot| slot.socket.is_some())
    }

    /// Whether so many connections are on their way up that the next must wait.
    pub(crate) fn is_busy_connecting(&self) -> bool {
        self.connecting >= CONNECTING_MAX
    }

    /// Whether connection `id` is up and nothing waits to be sent on it.
    pub(crate) fn is_sent(&self, id: usize) -> bool {
        let slot = &self.slots[id];
        slot.socket.is_some() && !slot.connecting && slot.client.out.rest().is_empty()
    }

    /// Starts connection `id` to a target by its place. What goes wrong later is told to the
    /// handler.
    pub(crate) fn connect(&mut self, id: usize, target: usize) -> Result<(), String> {
        let target = self.targets.get(target).cloned();
        let target = target.ok_or("there is no such target")?;
        if self.slots.len() <= id {
            self.slots.resize_with(id + 1, Slot::default);
        }
        let socket = match self.new_socket(id, &target) {
            // Nobody listens: told with the next turn, as if it had taken a while.
            Err(Errno::CONNREFUSED | Errno::CONNRESET) => {
                self.slots[id] = Slot::default();
                self.refused.push(id);
                return Ok(());
            }
            other => other,
        };
        let socket = socket.map_err(|error| match error {
            Errno::MFILE | Errno::NFILE => "out of file descriptors: raise `ulimit -Hn`".into(),
            Errno::ADDRNOTAVAIL => "out of local ports: give more --source-ips".into(),
            error => format!("cannot connect: {error}"),
        })?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(id as u64),
            flags,
        )
        .map_err(|error| format!("epoll: {error}"))?;
        let mut slot = Slot {
            socket: Some(socket),
            connecting: true,
            ..Slot::default()
        };
        slot.wants_write = true;
        slot.client.deflates = target.deflate;
        if self.upgrade {
            let host = target.address.to_string();
            let request = wire::upgrade_request(&host, &target.path, target.deflate);
            slot.client.out.raw(&request);
        }
        self.connecting += 1;
        self.slots[id] = slot;
        Ok(())
    }

    fn new_socket(&self, id: usize, target: &Target) -> Result<OwnedFd, Errno> {
        let family = match target.address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(bytes) = self.receive_buffer {
            sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
        }
        if !target.sources.is_empty() {
            let source = target.sources[id % target.sources.len()];
            net::bind(&socket, &SocketAddr::new(source, 0))?;
        }
        match net::connect(&socket, &target.address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }

    /// The outbox of connection `id`; [`Swarm::flush`] sends what is in it.
    pub(crate) fn outbox(&mut self, id: usize) -> &mut Outbox {
        &mut self.slots[id].client.out
    }

    /// Sends what the outbox holds, as far as the socket takes it.
    pub(crate) fn flush(&mut self, id: usize, handler: &mut impl Handler) {
        if let Err(ending) = self.try_flush(id) {
            self.end(id, &ending, handler);
        }
    }

    fn try_flush(&mut self, id: usize) -> Result<(), Ending> {
        let slot = &mut self.slots[id];
        let Some(socket) = &slot.socket else {
            slot.client.out.clear();
            return Ok(());
        };
        if slot.connecting {
            return Ok(());
        }
        while !slot.client.out.rest().is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match net::send(socket, slot.client.out.rest(), flags) {
                Ok(count) => slot.client.out.on_sent(count),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // The close frame that says why may be waiting to be read.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    slot.client.out.clear();
                    break;
                }
                Err(error) => return Err(Ending::Socket(format!("{error:?}"))),
            }
        }
        let wants_write = !slot.client.out.rest().is_empty();
        if wants_write != slot.wants_write {
            slot.wants_write = wants_write;
            self.set_interest(id);
        }
        Ok(())
    }

    fn set_interest(&self, id: usize) {
        let slot = &self.slots[id];
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, !slot.paused);
        flags.set(epoll::EventFlags::OUT, slot.wants_write);
        if let Some(socket) = &slot.socket {
            let data = epoll::EventData::new_u64(id as u64);
            // A paused socket is taken out as a whole: a hang-up would be reported without end.
            let _ = match (slot.paused, epoll::modify(&self.epoll, socket, data, flags)) {
                (true, _) => epoll::delete(&self.epoll, socket),
                (false, Err(Errno::NOENT)) => epoll::add(&self.epoll, socket, data, flags),
                (false, result) => result,
            };
        }
    }

    /// Stops, or goes on, reading from connection `id`.
    pub(crate) fn pause(&mut self, id: usize, paused: bool) {
        self.slots[id].paused = paused;
        self.set_interest(id);
    }

    /// Closes connection `id` without a word to the handler; `reset`: by RST.
    pub(crate) fn drop_connection(&mut self, id: usize, reset: bool) {
        if id >= self.slots.len() {
            return;
        }
        let slot = std::mem::take(&mut self.slots[id]);
        if slot.connecting {
            self.connecting -= 1;
        }
        if let Some(socket) = slot.socket.filter(|_| reset) {
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        }
    }

    fn end(&mut self, id: usize, ending: &Ending, handler: &mut impl Handler) {
        let code = self.slots[id].client.close_code;
        self.drop_connection(id, false);
        let ending = code.map_or_else(|| ending.clone(), Ending::Code);
        handler.on_closed(id, &ending, self.now());
    }

    /// Waits for at most `wait`, handles what came, and returns how many sockets that were.
    pub(crate) fn turn(
        &mut self,
        handler: &mut impl Handler,
        wait: Duration,
    ) -> Result<usize, String> {
        for id in std::mem::take(&mut self.refused) {
            handler.on_closed(id, &Ending::Socket("CONNREFUSED".into()), self.now());
        }
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let timeout = self.arm(wait)?;
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, buffer, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        let mut handled = 0;
        for event in &events {
            let id = event.data.u64();
            if id == TIMER {
                // It would be reported again without end, and every wait be none.
                self.set_timer(Duration::ZERO)?;
            } else {
                handled += 1;
                self.on_ready(id as usize, event.flags, handler);
            }
        }
        self.events = events;
        Ok(handled)
    }

    /// Short waits need the timer: epoll counts in milliseconds.
    fn arm(&mut self, wait: Duration) -> Result<Timespec, String> {
        let millis = if wait.is_zero() || wait > Duration::from_millis(20) {
            wait.as_millis() as i64
        } else {
            self.set_timer(wait)?;
            100
        };
        Ok(Timespec {
            tv_sec: millis / 1000,
            tv_nsec: millis % 1000 * 1_000_000,
        })
    }

    /// Arms the timer; zero: disarms it.
    fn set_timer(&self, wait: Duration) -> Result<(), String> {
        let spec = |d: Duration| Timespec {
            tv_sec: d.as_secs() as _,
            tv_nsec: d.subsec_nanos().into(),
        };
        let value = Itimerspec {
            it_interval: spec(Duration::ZERO),
            it_value: spec(wait),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value)
            .map(drop)
            .map_err(|error| format!("timerfd: {error}"))
    }

    fn on_ready(&mut self, id: usize, flags: epoll::EventFlags, handler: &mut impl Handler) {
        let Some(slot) = self.slots.get_mut(id).filter(|slot| slot.socket.is_some()) else {
            return;
        };
        if slot.connecting {
            let failure = slot.socket.as_ref().map(sockopt::socket_error);
            if let Some(Ok(Err(error))) = failure {
                return self.end(id, &Ending::Socket(format!("{error:?}")), handler);
            }
            slot.connecting = false;
            self.connecting -= 1;
        }
        let readable = flags
            .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if readable && let Err(ending) = self.read(id, BUFFER_BYTES, handler) {
            return self.end(id, &ending, handler);
        }
        self.flush(id, handler);
    }

    /// Reads at most `limit` bytes from a paused connection; `false`: it has ended.
    pub(crate) fn read_some(
        &mut self,
        id: usize,
        limit: usize,
        handler: &mut impl Handler,
    ) -> bool {
        if !self.is_alive(id) {
            return false;
        }
        if let Err(ending) = self.read(id, limit, handler) {
            self.end(id, &ending, handler);
        } else {
            self.flush(id, handler);
        }
        self.is_alive(id)
    }

    fn read(&mut self, id: usize, limit: usize, handler: &mut impl Handler) -> Result<(), Ending> {
        let slot = &mut self.slots[id];
        let Some(socket) = &slot.socket else {
            return Ok(());
        };
        let kept = slot.tail.len();
        if self.buffer.len() < kept + BUFFER_BYTES {
            self.buffer.resize(kept + BUFFER_BYTES, 0);
        }
        let buffer = &mut self.buffer;
        let room = limit.min(BUFFER_BYTES);
        let count = match net::recv(socket, &mut buffer[kept..kept + room], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Ending::Eof),
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => {
                let kind = std::io::Error::from(error).kind();
                let reset = kind == ErrorKind::ConnectionReset;
                let name = if reset {
                    "reset".into()
                } else {
                    format!("{error:?}")
                };
                return Err(Ending::Socket(name));
            }
        };
        buffer[..kept].copy_from_slice(&slot.tail);
        let now = self.start.elapsed().as_nanos() as u64;
        self.traffic.reads += 1;
        self.traffic.bytes += count as u64;
        let frames = slot.client.frames;
        let bytes = &buffer[..kept + count];
        let inflater = &mut self.inflater;
        let used = slot.client.on_bytes(id, bytes, now, inflater, handler)?;
        self.traffic.frames += slot.client.frames - frames;
        slot.tail.clear();
        slot.tail.extend_from_slice(&bytes[used..]);
        if slot.tail.is_empty() && slot.tail.capacity() > 64 << 10 {
            slot.tail = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;
    use crate::plan::Plan;

    #[test]
    fn a_long_wait_after_a_short_one_is_no_spin() {
        let target = Target {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            path: "/".into(),
            sources: Vec::new(),
            deflate: false,
        };
        let mut swarm = Swarm::new(vec![target], Instant::now()).unwrap();
        let mut fleet = Fleet::new(Plan::default());
        swarm.turn(&mut fleet, Duration::from_millis(1)).unwrap();
        let start = Instant::now();
        swarm.turn(&mut fleet, Duration::from_millis(40)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
    }
}
