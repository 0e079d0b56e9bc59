//! A client of the protocol: tungstenite's, blocking, with [`PATIENCE`](super::PATIENCE) for each
//! read, the only bound in time. It looks for what is asked, and keeps what comes before.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{Server, connect};

/// Publishes under way at once where many are sent.
const WINDOW: usize = 400;

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

    /// One that has joined a room.
    pub(crate) fn member(server: &Server, room: &str) -> Self {
        let mut client = Self::new(server);
        client.join(room);
        client
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

    /// Joins from a position and misses nothing up to `last`: what it gets.
    pub(crate) fn resume(
        &mut self,
        room: &str,
        epoch: &Value,
        since: u64,
        last: u64,
    ) -> Vec<Value> {
        let joined = self.rejoin(room, epoch, since);
        assert_eq!(joined["recovered"], true, "since {since}: {joined}");
        assert_eq!(joined["offset"], since, "{joined}");
        self.messages(room, since + 1, last)
    }

    /// Joins from a position behind which not all can be had: nothing is replayed, and it stands at
    /// the newest. What it was told.
    pub(crate) fn resume_lost(
        &mut self,
        room: &str,
        epoch: &Value,
        since: u64,
        newest: u64,
    ) -> Value {
        let joined = self.rejoin(room, epoch, since);
        assert_eq!(joined["recovered"], false, "since {since}: {joined}");
        assert_eq!(joined["offset"], newest, "since {since}: {joined}");
        assert_eq!(self.settle(), Vec::<Value>::new(), "none is replayed");
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
