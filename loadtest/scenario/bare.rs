//! The baseline: a server that is nothing but a loop of nonblocking sends over all its sockets.
//! What ringcast reaches of it, at the same bytes and number of sends, is what its own work costs.
//!
//! What a send costs hangs on the other end too: whether the reader sleeps and must be woken, how
//! much waits unread and goes cold. So the loop gets the same reader, and is held by a window too:
//!
//! - Its frames are `message` frames of one room, of ringcast's length, offsets and markers in
//!   order, and go through the same [`Fleet`]: read, scanned, checked, timed.
//! - It makes as many rounds of sends as ringcast did, with as many frames in all. A round begins
//!   when, with it, no more frames are under way to the members who would publish than their
//!   windows let them have: the closed loop that ringcast is in. How far the sender is ahead of
//!   its reader matters: one round more made its sends 8 % dearer.
//! - It knows its bytes before it sends them: no room, no cursor, nothing is received. What it does
//!   for a round it does once for all members, and its own waiting is one read of a pipe a round.
//!
//! The server runs as a child process, pinned; commands come on stdin, answers go to stdout:
//!
//! ```text
//! <- listening PORT
//! <- ready                            all members have their 101 and their `joined`
//! -> send FRAME_BYTES FRAMES ROUNDS   to each member, in so many rounds
//! -> go                               for each round but the first
//! <- done CUT CPU_NANOS WALL_NANOS    CUT: calls that did not take all
//! ```

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, getsockname, sockopt,
};

use crate::client::{Ending, Handler, Outbox};
use crate::flags::BareServer;
use crate::fleet::Fleet;
use crate::plan::Plan;
use crate::poll::{Stop, Swarm, Target};
use crate::stat;
use crate::wire::{self, Marker, opcode};

/// Where offsets begin: so they are of one length.
const OFFSET_BASE: u64 = 100_000_000;

/// Serves until stdin ends.
pub(crate) fn serve(flags: &BareServer, payload: usize) -> Result<(), String> {
    let failed = |error: Errno| format!("bare server: {error}");
    let listener = net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)?;
    sockopt::set_socket_reuseaddr(&listener, true).map_err(failed)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, flags.port));
    net::bind(&listener, &address).map_err(failed)?;
    net::listen(&listener, 1024).map_err(failed)?;
    let bound = getsockname(&listener).map_err(failed)?;
    let bound = SocketAddr::try_from(bound).map_err(failed)?;
    println!("listening {}", bound.port());
    let mut members = Vec::with_capacity(flags.members);
    while members.len() < flags.members {
        let socket = net::accept_with(&listener, SocketFlags::CLOEXEC).map_err(failed)?;
        sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
        upgrade(&socket, &flags.room).map_err(failed)?;
        members.push(socket);
    }
    println!("ready");
    let (mut lines, mut line, mut sent) = (std::io::stdin().lock(), String::new(), 0);
    while read_line(&mut lines, &mut line)? {
        let (frame_bytes, rounds) = Rounds::read(&line)?;
        let frames = Frames::new(flags, payload, frame_bytes)?;
        let (cpu, start) = (stat::own_cpu_seconds(), Instant::now());
        let (mut cut, mut bytes) = (0, Vec::new());
        for round in 0..rounds.rounds {
            if round > 0 && !read_line(&mut lines, &mut line)? {
                return Ok(());
            }
            bytes.clear();
            for frame in rounds.before(round)..rounds.before(round + 1) {
                frames.write(&mut bytes, sent + frame + 1);
            }
            for member in &members {
                cut += send_whole(member, &bytes).map_err(failed)?;
            }
        }
        sent += rounds.frames;
        let cpu = ((stat::own_cpu_seconds() - cpu) * 1e9) as u64;
        println!("done {cut} {cpu} {}", start.elapsed().as_nanos());
    }
    Ok(())
}

/// Reads one line; `false`: there is no more.
fn read_line(lines: &mut impl BufRead, line: &mut String) -> Result<bool, String> {
    line.clear();
    let count = lines.read_line(line);
    count
        .map(|count| count > 0)
        .map_err(|error| format!("bare server: {error}"))
}

/// How many frames each member gets, spread evenly over how many rounds.
#[derive(Debug, Clone, Copy)]
struct Rounds {
    frames: u64,
    rounds: u64,
}

impl Rounds {
    fn read(line: &str) -> Result<(usize, Self), String> {
        let words: Vec<u64> = numbers(line);
        let &[frame_bytes, frames, rounds] = words.as_slice() else {
            return Err(format!("bare server: not a command: {line}"));
        };
        Ok((frame_bytes as usize, Self { frames, rounds }))
    }

    /// Frames of the rounds before `round`.
    fn before(&self, round: u64) -> u64 {
        (u128::from(self.frames) * u128::from(round) / u128::from(self.rounds.max(1))) as u64
    }
}

fn numbers(line: &str) -> Vec<u64> {
    let words = line.trim_end().split(' ').skip(1);
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Makes `message` frames of one length.
struct Frames {
    before_offset: Vec<u8>,
    before_payload: Vec<u8>,
    run: u32,
    payload: usize,
}

const AFTER_PAYLOAD: &[u8] = br#","sent_at":"2026-01-01T00:00:00.000Z"}"#;

impl Frames {
    fn new(flags: &BareServer, payload: usize, frame_bytes: usize) -> Result<Self, String> {
        let head = match frame_bytes {
            0..128 => 2,
            128..65540 => 4,
            _ => 10,
        };
        let text = frame_bytes - head.min(frame_bytes);
        let room = &flags.room;
        let start = format!(r#"{{"type":"message","room":"{room}","offset":"#);
        let (user, end) = (r#","user_id":""#, r#"","payload":"#);
        let digits = OFFSET_BASE.to_string().len();
        let least = start.len() + digits + user.len() + end.len() + payload + AFTER_PAYLOAD.len();
        let pad = text.checked_sub(least).ok_or_else(|| {
            format!("bare server: frames of {frame_bytes} bytes are too short to be checked")
        })?;
        let mut before_offset = Vec::new();
        wire::write_server_frame(&mut before_offset, opcode::TEXT, &vec![b'x'; text]);
        before_offset.truncate(head);
        before_offset.extend_from_slice(start.as_bytes());
        let before_payload = [user.as_bytes(), &vec![b'x'; pad], end.as_bytes()].concat();
        Ok(Self {
            before_offset,
            before_payload,
            run: flags.run,
            payload,
        })
    }

    /// Appends the frame `number`, counted from 1 on.
    fn write(&self, out: &mut Vec<u8>, number: u64) {
        out.extend_from_slice(&self.before_offset);
        // A vector takes all there is.
        let _ = write!(out, "{}", OFFSET_BASE + number);
        out.extend_from_slice(&self.before_payload);
        let marker = Marker {
            run: self.run,
            publisher: 0,
            sequence: number as u32,
            time: 0,
        };
        marker.write(out, self.payload);
        out.extend_from_slice(AFTER_PAYLOAD);
    }
}

fn upgrade(socket: &OwnedFd, room: &str) -> Result<(), Errno> {
    let mut head = Vec::new();
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        let mut piece = [0; 2048];
        match net::recv(socket, &mut piece[..], RecvFlags::empty())? {
            (_, 0) => return Err(Errno::CONNRESET),
            (_, count) => head.extend_from_slice(&piece[..count]),
        }
    }
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        wire::ACCEPT
    )
    .into_bytes();
    let joined =
        format!(r#"{{"type":"joined","room":"{room}","epoch":"bare","offset":{OFFSET_BASE}}}"#);
    wire::write_server_frame(&mut answer, opcode::TEXT, joined.as_bytes());
    send_whole(socket, &answer).map(drop)
}

/// One nonblocking send, as a rule; a full socket is waited for. Returns how many calls did not
/// take all.
fn send_whole(socket: &OwnedFd, mut bytes: &[u8]) -> Result<u64, Errno> {
    let mut cut = 0;
    loop {
        match net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) if count == bytes.len() => return Ok(cut),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        }
        cut += 1;
        let socket = PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT);
        poll(&mut [socket], None)?;
    }
}

/// What the bare server is told to send to each member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) frame_bytes: usize,
    pub(crate) frames: u64,
    /// Sends to each member.
    pub(crate) rounds: u64,
    /// Frames under way to each who would publish.
    pub(crate) window: u64,
}

/// What it did.
pub(crate) struct Outcome {
    deliveries: u64,
    cpu_seconds: f64,
    /// Sends that did not take all.
    pub(crate) cut: u64,
    /// The share of their time that the server and the reader used.
    pub(crate) busy: (f64, f64),
    /// Frames that a read of the reader took.
    pub(crate) frames_per_read: f64,
}

impl Outcome {
    /// The figure that ringcast's is compared with.
    pub(crate) fn deliveries_per_cpu_second(&self) -> f64 {
        self.deliveries as f64 / self.cpu_seconds.max(1e-9)
    }
}

/// The fleet, and beside it what lets the bare server go on.
struct Reader {
    fleet: Fleet,
    /// Members who would publish: the first ones.
    publishers: usize,
    stdin: ChildStdin,
    rounds: Rounds,
    /// Frames of earlier runs.
    earlier: u64,
    /// Rounds that the server may have made.
    begun: u64,
    /// Frames that may be under way to who would publish.
    window: u64,
    trouble: Option<std::io::Error>,
}

impl Reader {
    /// Lets the server make the next round, if those who would publish have the last one.
    fn go_on(&mut self) {
        while self.begun < self.rounds.rounds {
            let ahead = self
                .rounds
                .before(self.begun + 1)
                .saturating_sub(self.window);
            // However large the round, it goes once the one before has come.
            let needed = ahead.min(self.rounds.before(self.begun));
            let wanted = OFFSET_BASE + self.earlier + needed;
            let has = |id| needed == 0 || self.fleet.checker.seen(id) >= Some(wanted);
            if !(0..self.publishers).all(has) {
                return;
            }
            self.begun += 1;
            if let Err(error) = self.stdin.write_all(b"go\n") {
                self.trouble = Some(error);
            }
        }
    }
}

impl Handler for Reader {
    fn on_open(&mut self, id: usize, out: &mut Outbox, now: u64) {
        self.fleet.on_open(id, out, now);
    }
    fn on_text(&mut self, id: usize, out: &mut Outbox, text: &[u8], now: u64) {
        self.fleet.on_text(id, out, text, now);
    }
    fn on_drained(&mut self, id: usize, out: &mut Outbox, now: u64) {
        self.fleet.on_drained(id, out, now);
        if id < self.publishers {
            self.go_on();
        }
    }
    fn on_closed(&mut self, id: usize, ending: &Ending, now: u64) {
        self.fleet.on_closed(id, ending, now);
    }
}

/// The client side: a child that is the bare server, and its members.
pub(crate) struct Bare<'a> {
    child: Child,
    lines: Receiver<String>,
    swarm: Swarm,
    reader: Reader,
    stop: &'a Stop,
}

impl<'a> Bare<'a> {
    /// Starts the child on `core` and connects all members, of whom `publishers` set the pace.
    /// `like`: the run to be compared with.
    pub(crate) fn start(
        like: &Plan,
        publishers: usize,
        core: usize,
        stop: &'a Stop,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start the bare server: {error}");
        let members = like.members.len();
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args(["bare-server", "--room", &like.rooms[0]])
            .args(["--run", &like.run.to_string()])
            .args(["--members", &members.to_string()])
            .args(["--payload", &like.payload.to_string()])
            .args(["--pin", &core.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or("the bare server has no pipes")?;
        let lines = read_lines(stdout);
        let port = lines
            .recv_timeout(Duration::from_secs(10))
            .ok()
            .and_then(|line| line.strip_prefix("listening ")?.parse().ok())
            .ok_or("the bare server does not listen")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let target = Target {
            address,
            path: "/".into(),
            sources: Vec::new(),
            deflate: false,
        };
        let mut fleet = Fleet::new(Plan {
            rooms: like.rooms[..1].to_vec(),
            members: vec![0; members],
            publishers: (0..publishers).map(|member| (member, 0)).collect(),
            ..like.clone()
        });
        fleet.measured = 0..u64::MAX;
        let reader = Reader {
            fleet,
            publishers,
            stdin,
            rounds: Rounds {
                frames: 0,
                rounds: 0,
            },
            earlier: 0,
            begun: 0,
            window: 0,
            trouble: None,
        };
        let swarm = Swarm::new(vec![target], Instant::now())?;
        let mut bare = Self {
            child,
            lines,
            swarm,
            reader,
            stop,
        };
        bare.bring_up(members)?;
        Ok(bare)
    }

    fn bring_up(&mut self, members: usize) -> Result<(), String> {
        let mut begun = 0;
        while self.reader.fleet.ready < members {
            while begun < members && !self.swarm.is_busy_connecting() {
                self.swarm.connect(begun, 0)?;
                begun += 1;
            }
            self.turn()?;
        }
        match self.lines.recv_timeout(Duration::from_secs(10)) {
            Ok(line) if line == "ready" => Ok(()),
            other => Err(format!("the bare server is not ready: {other:?}")),
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        self.swarm
            .turn(&mut self.reader, Duration::from_millis(50))?;
        if self.stop.is_set() {
            return Err("ended by Ctrl-C".into());
        }
        if let Some(error) = &self.reader.trouble {
            return Err(format!("bare server: {error}"));
        }
        match &self.reader.fleet.endings {
            endings if endings.is_empty() => Ok(()),
            endings => Err(format!("the bare server went away: {endings:?}")),
        }
    }

    /// Has it send, receives and checks all of it, and says what it cost.
    pub(crate) fn run(&mut self, load: &Load) -> Result<Outcome, String> {
        let Load {
            frame_bytes,
            frames,
            rounds,
            window,
        } = *load;
        self.reader.window = window;
        let (own_cpu, traffic) = (stat::own_cpu_seconds(), self.swarm.traffic);
        self.reader.rounds = Rounds { frames, rounds };
        self.reader.begun = 1;
        writeln!(self.reader.stdin, "send {frame_bytes} {frames} {rounds}")
            .map_err(|error| format!("bare server: {error}"))?;
        let answer = loop {
            self.turn()?;
            match self.lines.try_recv() {
                Ok(line) => break line,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err("the bare server ended".into()),
            }
        };
        let own_cpu = stat::own_cpu_seconds() - own_cpu;
        let words = numbers(&answer);
        let &[cut, cpu_nanos, wall_nanos] = words.as_slice() else {
            return Err(format!("the bare server said: {answer}"));
        };
        self.reader.earlier += frames;
        let members = self.reader.fleet.plan().members.len();
        let last = Some(OFFSET_BASE + self.reader.earlier);
        while (0..members).any(|member| self.reader.fleet.checker.seen(member) < last) {
            self.turn()?;
        }
        let tally = &self.reader.fleet.checker.tally;
        if !tally.is_proven(0) {
            return Err(format!("the bare server's frames came wrong: {tally:?}"));
        }
        let reads = (self.swarm.traffic.reads - traffic.reads).max(1) as f64;
        let (cpu_seconds, wall) = (cpu_nanos as f64 / 1e9, wall_nanos as f64 / 1e9);
        Ok(Outcome {
            deliveries: frames * members as u64,
            cpu_seconds,
            cut,
            busy: (cpu_seconds / wall, own_cpu / wall),
            frames_per_read: (self.swarm.traffic.frames - traffic.frames) as f64 / reads,
        })
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one other thread: a pipe can't be waited for together with the sockets' turns.
fn read_lines(stdout: std::process::ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
