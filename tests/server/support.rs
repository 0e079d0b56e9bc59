//! Servers, clients, and what is common to all tests.
//!
//! A [`Server`] ends with its guard, also when a test panics, and then shows its log. A [`Client`]
//! is tungstenite's, blocking, with [`PATIENCE`] for each read: the only bound in time. A [`Raw`]
//! sends whatever it is given.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

#[path = "talking.rs"]
mod talking;
#[allow(unused_imports, reason = "not the tests of every target use both")]
pub(crate) use talking::{talking, talking_each};

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What limits how fast clients send; a test that is about one sets it again.
pub(crate) const NO_RATES: [&str; 3] = [
    "--rate-limit=0",
    "--rate-limit-bytes=0",
    "--rate-limit-address=0",
];
/// Publishes under way at once where many are sent.
const WINDOW: usize = 400;

/// Whether the long variants run.
pub(crate) fn all() -> bool {
    std::env::var_os("RINGCAST_TEST_ALL").is_some_and(|value| value == "1")
}

/// Says that this test is skipped, and why; and to `tests/run.sh`, in the file that it names.
#[allow(dead_code, reason = "not all tests may have to")]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("RINGCAST_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new().append(true).open(path);
        let test = thread::current().name().unwrap_or_default().to_owned();
        let line = format!("skipped test {}::{test}\n", env!("CARGO_CRATE_NAME"));
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Asks until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        // Only so that asking does not take the core from who is asked.
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    pub(crate) dir: Arc<TempDir>,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// One with a directory of its own and two shards.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_on(Arc::new(TempDir::new().unwrap()), flags)
    }

    /// One on the directory of another that has ended.
    pub(crate) fn start_on(dir: Arc<TempDir>, flags: &[&str]) -> Self {
        let command = command(dir.path(), flags);
        Self::spawn(command, dir)
    }

    /// One that is started by `command`.
    pub(crate) fn spawn(mut command: Command, dir: Arc<TempDir>) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (ports, port) = mpsc::channel();
        let lines = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("serving address=") {
                    let address = rest.split(' ').next().unwrap();
                    let address: SocketAddr = address.parse().unwrap();
                    let _ = ports.send(address.port());
                }
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        // The guard must be there before anything can fail.
        let mut server = Self {
            child,
            port: 0,
            dir,
            log,
        };
        server.port = match port.recv_timeout(PATIENCE) {
            Ok(port) => port,
            Err(_) => panic!("it does not serve: {}", server.log()),
        };
        server
    }

    /// Where it serves, as clients and proxies of other programs take it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How it has ended, if it has.
    #[allow(dead_code, reason = "the tests of workers use it")]
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("the server's end", || self.try_ended())
    }

    /// Kills it, and hands its directory on.
    pub(crate) fn kill(mut self) -> Arc<TempDir> {
        self.signal(Signal::KILL);
        self.ended();
        self.dir.clone()
    }

    /// Drains it, and hands its directory on.
    pub(crate) fn stop(mut self) -> Arc<TempDir> {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.dir.clone()
    }

    /// One HTTP exchange; all that was answered.
    pub(crate) fn http(&self, request: &[u8]) -> Answer {
        let mut socket = connect(self.port);
        socket.write_all(request).unwrap();
        Answer::read(&mut socket)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        let fields = "Host: a\r\nConnection: close";
        self.http(format!("GET {path} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes())
    }

    /// Publishes over HTTP.
    #[allow(dead_code, reason = "not all binaries publish so")]
    pub(crate) fn post(&self, room: &str, body: &str) -> Answer {
        self.http(post(room, body).as_bytes())
    }

    /// The sum of a metric's samples, or that of one label's value: `name` or `name{text`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200);
        let (name, label) = name.split_once('{').unwrap_or((name, ""));
        let samples = page.body.lines().filter(|line| {
            let (sample, _) = line.split_once([' ', '{']).unwrap_or((line, ""));
            sample == format!("ringcast_{name}") && line.contains(label)
        });
        samples
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum()
    }

    /// Waits until a metric is `value`: shards hand their counts over now and then.
    pub(crate) fn await_metric(&self, name: &str, value: u64) {
        let mut last = 0;
        eventually(&format!("{name} = {value}"), || {
            last = self.metric(name);
            (last == value).then_some(())
        });
    }

    /// Waits until a metric has got to `value`.
    pub(crate) fn await_metric_at_least(&self, name: &str, value: u64) {
        eventually(&format!("{name} >= {value}"), || {
            (self.metric(name) >= value).then_some(())
        });
    }

    /// Descriptors that it has open.
    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// Descriptors that it has open when those of connections that ended are closed: the least
    /// that is seen in a while.
    pub(crate) fn files_at_rest(&self) -> usize {
        let pause = Duration::from_millis(5);
        let seen = (0..30).map(|_| {
            thread::sleep(pause);
            self.files()
        });
        seen.min().unwrap()
    }

    /// Its memory in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1);
        number.unwrap().parse().unwrap()
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        // utime and stime, 14 and 15 of proc(5); the list begins with field 3, behind a space.
        let per_second = rustix::param::clock_ticks_per_second();
        Duration::from_millis((ticks(12) + ticks(13)) * 1000 / per_second)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
            let open = open.into_iter().flatten().flatten();
            let open: Vec<_> = open.map(|fd| std::fs::read_link(fd.path())).collect();
            eprintln!("what the server has open: {open:?}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// `ringcast` with nothing of this process's settings, started by the command, if any, that
/// `RINGCAST_TEST_UNDER` holds: `tests/run.sh` has it run under the profile that containers have.
pub(crate) fn ringcast(args: &[&str]) -> Command {
    let under = std::env::var("RINGCAST_TEST_UNDER").unwrap_or_default();
    let program = env!("CARGO_BIN_EXE_ringcast");
    let mut words = under.split_whitespace().chain([program]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(args);
    command.env_clear().stdin(Stdio::null());
    command
}

/// The command that serves on `dir`. Pinned shards of many servers would share their first cores;
/// and most tests send as fast as they can, from one address.
pub(crate) fn command(dir: &Path, flags: &[&str]) -> Command {
    let mut command = ringcast(&["serve", "--port", "0", "--shards", "2", "--pin-cores=off"]);
    command.args(["--ring-entries", "256", "--instance-id", "test"]);
    command.args(NO_RATES);
    command.arg("--data-dir").arg(dir).args(flags);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

pub(crate) fn connect(port: u16) -> TcpStream {
    connect_to(("127.0.0.1", port))
}

pub(crate) fn connect_to(address: impl ToSocketAddrs) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    bound(&socket);
    socket
}

fn bound(socket: &TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
}

/// A connection from this loopback address.
pub(crate) fn connect_from(address: [u8; 4], port: u16) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let from = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&from, &SocketAddr::from((address, 0))).unwrap();
    connect(&from, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let socket = TcpStream::from(from);
    bound(&socket);
    socket
}

/// A connection whose receive buffer is as small as the system lets it be.
pub(crate) fn connect_narrow(port: u16) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, socket, sockopt};
    let narrow = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&narrow, 4096).unwrap();
    rustix::net::connect(&narrow, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let socket = TcpStream::from(narrow);
    bound(&socket);
    socket
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads one answer to its end, and where it is the last of the connection to the end of that.
    pub(crate) fn read(socket: &mut TcpStream) -> Self {
        let mut answer = Self::read_head(socket);
        let length = answer.header("content-length");
        let mut body = Vec::new();
        if answer.is_last() {
            body = read_to_end(socket);
        } else if let Some(length) = length {
            body = vec![0; length.parse().unwrap()];
            socket.read_exact(&mut body).unwrap();
        }
        answer.body = String::from_utf8_lossy(&body).into_owned();
        answer
    }

    /// Reads the head of an answer, and no byte more.
    pub(crate) fn read_head(socket: &mut TcpStream) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    panic!("no answer, and no end of the connection: {error}")
                }
                _ => break,
            }
        }
        let text = String::from_utf8_lossy(&head);
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head: text.trim_end().to_ascii_lowercase(),
            body: String::new(),
        }
    }

    /// The value of a header, lower-cased.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1);
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields.find_map(|(field, value)| (field == name).then(|| value.to_owned()))
    }

    /// Whether the connection ends behind it.
    pub(crate) fn is_last(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value == "close")
            || self.status == 0
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What comes until the end of the connection, whatever way it ends.
pub(crate) fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection was not closed: {error}"),
    }
    bytes
}

/// A client of the protocol.
pub(crate) struct Client {
    ws: WebSocket<TcpStream>,
    /// Frames that were passed by.
    kept: VecDeque<Value>,
    pub(crate) welcome: Value,
    pub(crate) id: String,
    refs: u64,
}

impl Client {
    pub(crate) fn new(server: &Server) -> Self {
        Self::open(server, "/ws")
    }

    pub(crate) fn open(server: &Server, path: &str) -> Self {
        Self::over(connect(server.port), path)
    }

    /// One whose connection lives on that shard: the kernel deals them out.
    pub(crate) fn on_shard(server: &Server, shard: u64) -> Self {
        let mut tries = (0..200).map(|_| Self::new(server));
        tries
            .find(|client| client.welcome["shard"] == shard)
            .unwrap()
    }

    pub(crate) fn over(socket: TcpStream, path: &str) -> Self {
        let (ws, _) = tungstenite::client(format!("ws://a{path}"), socket).unwrap();
        let mut client = Self {
            ws,
            kept: VecDeque::new(),
            welcome: Value::Null,
            id: String::new(),
            refs: 0,
        };
        client.welcome = client.read();
        assert_eq!(client.welcome["type"], "welcome", "the first frame");
        client.id = client.welcome["client_id"].as_str().unwrap().to_owned();
        client
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        self.ws.get_ref()
    }

    pub(crate) fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string());
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text));
    }

    /// That the server is gone shows at the next read.
    pub(crate) fn send_message(&mut self, message: Message) {
        let _ = self.ws.send(message);
    }

    /// The next frame from the socket as it stands on the wire.
    pub(crate) fn read_text(&mut self) -> String {
        match self.read_message() {
            Ok(text) => text,
            Err(code) => panic!("closed with {code}"),
        }
    }

    /// The next text, or the code of the close.
    fn read_message(&mut self) -> Result<String, u16> {
        loop {
            match self.ws.read() {
                Ok(Message::Text(text)) => return Ok(text.as_str().to_owned()),
                Ok(Message::Close(frame)) => {
                    return Err(frame.map_or(1005, |frame| frame.code.into()));
                }
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return Err(1005),
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock) =>
                {
                    panic!("nothing came; before: {:?}", self.kept)
                }
                // A connection that ends without a close frame.
                Err(_) => return Err(1006),
            }
        }
    }

    fn read(&mut self) -> Value {
        let text = self.read_text();
        serde_json::from_str(&text).unwrap()
    }

    /// The next frame.
    pub(crate) fn recv(&mut self) -> Value {
        match self.kept.pop_front() {
            Some(frame) => frame,
            None => self.read(),
        }
    }

    /// The next frame, or the code of the close: 1006 where there was none.
    pub(crate) fn try_recv(&mut self) -> Result<Value, u16> {
        match self.kept.pop_front() {
            Some(frame) => Ok(frame),
            None => self
                .read_message()
                .map(|text| serde_json::from_str(&text).unwrap()),
        }
    }

    /// The next frame that `is_it`; those before it stay for later.
    pub(crate) fn find(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.kept.iter().position(&is_it) {
            return self.kept.remove(at).unwrap();
        }
        loop {
            let frame = self.read();
            if is_it(&frame) {
                return frame;
            }
            self.kept.push_back(frame);
        }
    }

    /// The next frame of that type.
    pub(crate) fn next(&mut self, kind: &str) -> Value {
        self.find(|frame| frame["type"] == kind)
    }

    /// Sends a frame with a `ref`; its answer.
    pub(crate) fn ask(&mut self, mut frame: Value) -> Value {
        self.refs += 1;
        let reference = json!(format!("ask-{}", self.refs));
        frame["ref"] = reference.clone();
        self.send(&frame);
        self.find(|answer| answer["ref"] == reference)
    }

    /// The code of the error that is the answer.
    pub(crate) fn ask_error(&mut self, frame: Value) -> String {
        let answer = self.ask(frame);
        assert_eq!(answer["type"], "error", "{answer}");
        assert!(answer["message"].as_str().is_some_and(|m| !m.is_empty()));
        answer["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn join(&mut self, room: &str) -> Value {
        let joined = self.ask(json!({"type":"join","room":room}));
        assert_eq!(joined["type"], "joined", "{joined}");
        joined
    }

    /// Joins from a position.
    pub(crate) fn rejoin(&mut self, room: &str, epoch: &Value, offset: u64) -> Value {
        let since = json!({"epoch":epoch,"offset":offset});
        let joined = self.ask(json!({"type":"join","room":room,"since":since}));
        assert_eq!(joined["type"], "joined", "{joined}");
        joined
    }

    /// Publishes; the offset.
    pub(crate) fn publish(&mut self, room: &str, payload: Value) -> u64 {
        let ack = self.ask(json!({"type":"publish","room":room,"payload":payload}));
        assert_eq!(ack["type"], "ack", "{ack}");
        ack["offset"].as_u64().unwrap()
    }

    /// Publishes `payload(n)` for each of `numbers`, many at once; the offsets.
    pub(crate) fn publish_all(
        &mut self,
        room: &str,
        numbers: std::ops::Range<u64>,
        payload: impl Fn(u64) -> Value,
    ) -> Vec<u64> {
        let mut offsets = Vec::new();
        let mut under_way = 0;
        for n in numbers {
            self.send(&json!({"type":"publish","room":room,"payload":payload(n),"ref":n}));
            under_way += 1;
            if under_way == WINDOW {
                offsets.extend((0..WINDOW / 2).map(|_| self.ack()));
                under_way -= WINDOW / 2;
            }
        }
        offsets.extend((0..under_way).map(|_| self.ack()));
        offsets
    }

    fn ack(&mut self) -> u64 {
        let answer = self.find(|frame| frame["type"] == "ack" || frame["type"] == "error");
        answer["offset"]
            .as_u64()
            .unwrap_or_else(|| panic!("{answer}"))
    }

    /// The messages `from ..= to` of a room, each once and in order.
    pub(crate) fn messages(&mut self, room: &str, from: u64, to: u64) -> Vec<Value> {
        let mut messages = Vec::new();
        for offset in from..=to {
            let frame = self.find(|frame| {
                frame["room"] == room && (frame["type"] == "message" || frame["type"] == "gap")
            });
            assert_eq!(frame["type"], "message", "{frame}");
            assert_eq!(frame["offset"], offset, "in order and once");
            messages.push(frame);
        }
        messages
    }

    /// Takes and forgets what has been passed by.
    pub(crate) fn kept(&mut self) -> Vec<Value> {
        self.kept.drain(..).collect()
    }

    /// Waits for the answer to a ping: what this connection's shard had for it before has come.
    pub(crate) fn settle(&mut self) -> Vec<Value> {
        let pong = self.ask(json!({"type":"ping"}));
        assert_eq!(pong["type"], "pong");
        self.kept()
    }

    /// Waits for the close; its code. Frames before it stay for later.
    pub(crate) fn closed(&mut self) -> u16 {
        loop {
            match self.read_message() {
                Ok(text) => self.kept.push_back(serde_json::from_str(&text).unwrap()),
                Err(code) => return code,
            }
        }
    }

    /// Closes, and waits for the answer.
    pub(crate) fn close(mut self) -> u16 {
        self.ws.close(None).unwrap();
        self.closed()
    }
}

/// A head that asks for an upgrade.
pub(crate) fn upgrade_head(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A request that publishes.
#[allow(dead_code, reason = "not all binaries publish so")]
pub(crate) fn post(room: &str, body: &str) -> String {
    format!(
        "POST /api/rooms/{room}/messages HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A WebSocket of bare bytes.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn open(server: &Server, path: &str) -> Self {
        Self::over(connect(server.port), path)
    }

    pub(crate) fn over(socket: TcpStream, path: &str) -> Self {
        Self::over_with(socket, &upgrade_head(path)).0
    }

    /// The same by that head; and the head of the answer.
    pub(crate) fn over_with(socket: TcpStream, head: &str) -> (Self, String) {
        let mut raw = Self {
            socket,
            bytes: Vec::new(),
        };
        raw.send(head.as_bytes());
        loop {
            if let Some(at) = raw.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                assert!(raw.bytes.starts_with(b"HTTP/1.1 101 "), "{head}");
                let answer = raw.bytes.drain(..at + 4).collect();
                return (raw, String::from_utf8(answer).unwrap());
            }
            assert!(raw.read_more(), "no answer to the upgrade");
        }
    }

    /// Sends; the server may have closed meanwhile.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.bytes.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }

    /// The next frame: its opcode and payload. `None`: the connection has ended.
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, payload) = self.frame_and_bits()?;
        assert_eq!(first & 0x70, 0, "no reserved bits");
        Some((first & 0x0f, payload))
    }

    /// The same with the reserved bits: the frame's first byte.
    pub(crate) fn frame_and_bits(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((first, payload, len)) = parse(&self.bytes) {
                self.bytes.drain(..len);
                return Some((first, payload));
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    /// The code of the close that comes next but for other frames; `None`: it ends without one.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.frame_and_bits() {
            if first == 0x88 {
                let code = payload
                    .first_chunk()
                    .map_or(1005, |b| u16::from_be_bytes(*b));
                return Some(code);
            }
        }
        None
    }
}

/// A server's frame: not masked, whole; its first byte, its payload, and how long it is.
fn parse(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0x80, 0x80, "one frame a message");
    assert_eq!(second & 0x80, 0, "a server masks nothing");
    let (at, len) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        ),
        127 => (
            10,
            u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize,
        ),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(at..at + len)?.to_vec();
    Some((first, payload, at + len))
}

/// A client's frame: `first` is FIN, reserved bits and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            bytes.push(0xfe);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let key = [0x12, 0x34, 0x56, 0x78];
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}
