//! The baseline: a server that is nothing but a loop of nonblocking sends over all its sockets, and
//! the client that counts what comes. What ringcast reaches of it, at the same bytes and number of
//! sends, is what its own work costs.
//!
//! The server runs as a child process, pinned; commands come on stdin, answers go to stdout:
//!
//! ```text
//! <- listening PORT
//! <- ready                                   all members have their 101
//! -> send FRAME_BYTES BATCH MILLIS
//! <- done SENDS CPU_NANOS WALL_NANOS
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
use crate::poll::{Stop, Swarm, Target};
use crate::stat;
use crate::wire::{self, opcode};

/// Serves until stdin ends.
pub(crate) fn serve(flags: &BareServer) -> Result<(), String> {
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
        upgrade(&socket).map_err(failed)?;
        members.push(socket);
    }
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("bare server: {error}"))?;
        let words: Vec<u64> = line
            .split(' ')
            .skip(1)
            .filter_map(|w| w.parse().ok())
            .collect();
        let &[frame_bytes, batch, millis] = words.as_slice() else {
            return Err(format!("bare server: not a command: {line}"));
        };
        let bytes = batch_of(frame_bytes as usize, batch as usize);
        let (cpu, start) = (stat::own_cpu_seconds(), Instant::now());
        let mut sends = 0u64;
        while start.elapsed() < Duration::from_millis(millis) {
            for member in &members {
                send_whole(member, &bytes).map_err(failed)?;
                sends += 1;
            }
        }
        let cpu = ((stat::own_cpu_seconds() - cpu) * 1e9) as u64;
        println!("done {sends} {cpu} {}", start.elapsed().as_nanos());
    }
    Ok(())
}

fn upgrade(socket: &OwnedFd) -> Result<(), Errno> {
    let mut head = Vec::new();
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        let mut piece = [0; 2048];
        match net::recv(socket, &mut piece[..], RecvFlags::empty())? {
            (_, 0) => return Err(Errno::CONNRESET),
            (_, count) => head.extend_from_slice(&piece[..count]),
        }
    }
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        wire::ACCEPT
    );
    send_whole(socket, answer.as_bytes())
}

fn batch_of(frame_bytes: usize, batch: usize) -> Vec<u8> {
    let head = match frame_bytes {
        0..128 => 2,
        128..65540 => 4,
        _ => 10,
    };
    let mut one = Vec::new();
    let payload = vec![b'x'; frame_bytes.saturating_sub(head)];
    wire::write_server_frame(&mut one, opcode::TEXT, &payload);
    one.repeat(batch.max(1))
}

/// One nonblocking send, as a rule; a full socket is waited for.
fn send_whole(socket: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => {
                poll(
                    &mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)],
                    None,
                )?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the bare server is told to send.
pub(crate) struct Load {
    pub(crate) frame_bytes: usize,
    /// Frames a send.
    pub(crate) batch: usize,
    pub(crate) seconds: f64,
}

/// What it did.
pub(crate) struct Outcome {
    deliveries: u64,
    cpu_seconds: f64,
}

impl Outcome {
    /// The figure that ringcast's is compared with.
    pub(crate) fn deliveries_per_cpu_second(&self) -> f64 {
        self.deliveries as f64 / self.cpu_seconds.max(1e-9)
    }
}

#[derive(Default)]
struct Counter {
    open: usize,
    frames: u64,
    ended: Option<Ending>,
}

impl Handler for Counter {
    fn on_open(&mut self, _id: usize, _out: &mut Outbox, _now: u64) {
        self.open += 1;
    }
    fn on_text(&mut self, _id: usize, _out: &mut Outbox, _text: &[u8], _now: u64) {
        self.frames += 1;
    }
    fn on_closed(&mut self, _id: usize, ending: &Ending, _now: u64) {
        self.ended = Some(ending.clone());
    }
}

/// The client side: a child that is the bare server, and its members.
pub(crate) struct Bare<'a> {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    swarm: Swarm,
    counter: Counter,
    members: usize,
    stop: &'a Stop,
}

impl<'a> Bare<'a> {
    /// Starts the child on `core` and connects all members.
    pub(crate) fn start(members: usize, core: usize, stop: &'a Stop) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start the bare server: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args([
                "bare-server",
                "--members",
                &members.to_string(),
                "--pin",
                &core.to_string(),
            ])
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
        };
        let swarm = Swarm::new(vec![target], Instant::now())?;
        let counter = Counter::default();
        let mut bare = Self {
            child,
            stdin,
            lines,
            swarm,
            counter,
            members,
            stop,
        };
        bare.bring_up()?;
        Ok(bare)
    }

    fn bring_up(&mut self) -> Result<(), String> {
        let mut begun = 0;
        while self.counter.open < self.members {
            while begun < self.members && !self.swarm.is_busy_connecting() {
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
            .turn(&mut self.counter, Duration::from_millis(50))?;
        if self.stop.is_set() {
            return Err("ended by Ctrl-C".into());
        }
        match &self.counter.ended {
            Some(ending) => Err(format!("the bare server went away: {}", ending.name())),
            None => Ok(()),
        }
    }

    /// Has it send, receives all of it, and says what it cost.
    pub(crate) fn run(&mut self, load: &Load) -> Result<Outcome, String> {
        self.counter.frames = 0;
        let (bytes, millis) = (load.frame_bytes, (load.seconds * 1e3) as u64);
        writeln!(self.stdin, "send {bytes} {} {millis}", load.batch)
            .map_err(|error| format!("bare server: {error}"))?;
        let answer = loop {
            self.turn()?;
            match self.lines.try_recv() {
                Ok(line) => break line,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Err("the bare server ended".into()),
            }
        };
        let words: Vec<u64> = answer
            .split(' ')
            .skip(1)
            .filter_map(|w| w.parse().ok())
            .collect();
        let &[sends, cpu_nanos, _wall] = words.as_slice() else {
            return Err(format!("the bare server said: {answer}"));
        };
        let deliveries = sends * load.batch as u64;
        while self.counter.frames < deliveries {
            self.turn()?;
        }
        Ok(Outcome {
            deliveries,
            cpu_seconds: cpu_nanos as f64 / 1e9,
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
