//! Test-only: a server that speaks just enough of the contract: upgrade, `welcome`, `joined`,
//! `message`, `ack`, resume from memory, one message for one id. One thread, nonblocking std
//! sockets, asked in turn. Several addresses of one server are as many perfect instances.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::wire::{self, opcode};

/// What a stand-in does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It leaves out every 50th message for one member.
    LeavesOut,
    /// Its last instance swaps the payloads of every 20th message and the one before.
    Disagrees,
    /// It cuts all connections with every 100th publish, before the ack.
    Cuts,
    /// It refuses every 10th publish for now, the first time.
    Refuses,
    /// With the 50th publish of a room it loses the last 5, which were acked and not yet
    /// delivered, and begins a new epoch.
    LosesTail,
    /// It acks every 50th publish and stores it not.
    Forgets,
}

pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    addresses: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Starts one; `faulty`: it leaves out every 50th message for one member.
    pub(crate) fn start(faulty: bool) -> Self {
        let fault = if faulty {
            Fault::LeavesOut
        } else {
            Fault::None
        };
        Self::start_several(1, fault)
    }

    /// Starts one with so many addresses.
    pub(crate) fn start_several(instances: usize, fault: Fault) -> Self {
        Self::start_at(&vec!["127.0.0.1:0"; instances], fault)
    }

    /// The addresses as `--to` wants them.
    pub(crate) fn to(&self) -> String {
        let all: Vec<_> = self.addresses.iter().map(SocketAddr::to_string).collect();
        all.join(",")
    }

    fn start_at(addresses: &[&str], fault: Fault) -> Self {
        let listen = |address: &&str| TcpListener::bind(address).unwrap();
        let listeners: Vec<_> = addresses.iter().map(listen).collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let addresses: Vec<_> = listeners.iter().map(address).collect();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut server = Server::new(fault);
            while !stopped.load(Ordering::Relaxed) {
                if !server.turn(&listeners) {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        Self {
            address: addresses[0],
            addresses,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// To try the program itself by hand, where STAND_IN_ADDRESS says.
#[test]
fn stand_in_for_two_minutes() {
    let Ok(address) = std::env::var("STAND_IN_ADDRESS") else {
        return;
    };
    let standin = StandIn::start_at(&[&address], Fault::None);
    println!("{} {}", std::process::id(), standin.address);
    std::thread::sleep(Duration::from_secs(120));
}

struct Server {
    fault: Fault,
    peers: Vec<Peer>,
    rooms: BTreeMap<String, Room>,
    publishes: usize,
}

#[derive(Default)]
struct Room {
    epoch: usize,
    log: Vec<String>,
    offsets: BTreeMap<String, usize>,
    publishes: usize,
}

struct Peer {
    socket: TcpStream,
    instance: usize,
    bytes: Vec<u8>,
    out: Vec<u8>,
    open: bool,
    gone: bool,
    room: Option<String>,
}

impl Server {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            peers: Vec::new(),
            rooms: BTreeMap::new(),
            publishes: 0,
        }
    }

    fn turn(&mut self, listeners: &[TcpListener]) -> bool {
        let mut busy = false;
        for (instance, listener) in listeners.iter().enumerate() {
            while let Ok((socket, _)) = listener.accept() {
                socket.set_nonblocking(true).unwrap();
                socket.set_nodelay(true).unwrap();
                self.peers.push(Peer {
                    socket,
                    instance,
                    bytes: Vec::new(),
                    out: Vec::new(),
                    open: false,
                    gone: false,
                    room: None,
                });
                busy = true;
            }
        }
        for i in 0..self.peers.len() {
            for (op, text) in self.peers[i].read() {
                busy = true;
                if !self.peers[i].gone {
                    self.on_frame(i, op, &text);
                }
            }
        }
        for peer in &mut self.peers {
            peer.write();
        }
        self.peers.retain(|peer| !peer.gone);
        busy
    }

    fn on_frame(&mut self, i: usize, op: u8, text: &[u8]) {
        match op {
            opcode::PING => return self.peers[i].frame(opcode::PONG, text),
            opcode::CLOSE => {
                self.peers[i].frame(opcode::CLOSE, text);
                self.peers[i].write();
                self.peers[i].gone = true;
                return;
            }
            _ => {}
        }
        let frame: Value = serde_json::from_slice(text).unwrap();
        match frame["type"].as_str() {
            Some("join") => self.on_join(i, &frame),
            Some("publish") => self.on_publish(i, &frame),
            other => panic!("the stand-in does not know {other:?}"),
        }
    }

    fn on_join(&mut self, i: usize, frame: &Value) {
        let name = frame["room"].as_str().unwrap_or_default();
        let room = self.rooms.entry(name.into()).or_default();
        let epoch = format!("e{}", room.epoch);
        let since = &frame["since"];
        let known = since["epoch"].as_str() == Some(&epoch);
        let from = since["offset"].as_u64().filter(|_| known);
        let offset = from.unwrap_or(room.log.len() as u64);
        let mut joined = json!({"type":"joined","room":name,"epoch":epoch,"offset":offset});
        if since.is_object() {
            joined["recovered"] = known.into();
        }
        let peer = &mut self.peers[i];
        peer.frame(opcode::TEXT, joined.to_string().as_bytes());
        for message in &room.log[offset as usize..] {
            peer.frame(opcode::TEXT, message.as_bytes());
        }
        peer.room = Some(name.into());
    }

    fn on_publish(&mut self, i: usize, frame: &Value) {
        let name = frame["room"].as_str().unwrap_or_default();
        let id = frame["id"].as_str().unwrap_or("i");
        let reference = frame["ref"].as_str();
        let room = self.rooms.entry(name.into()).or_default();
        self.publishes += 1;
        room.publishes += 1;
        let nth = |fault, n| self.fault == fault && self.publishes.is_multiple_of(n);
        if nth(Fault::Refuses, 10) && !room.offsets.contains_key(id) {
            let error = json!({"type":"error","code":"unavailable","message":"","ref":reference});
            return self.peers[i].frame(opcode::TEXT, error.to_string().as_bytes());
        }
        let repeated = room.offsets.get(id).copied().filter(|_| id != "i");
        let loses = self.fault == Fault::LosesTail && (46..=50).contains(&room.publishes);
        let next = if loses {
            room.publishes
        } else {
            room.log.len() + 1
        };
        let offset = repeated.unwrap_or(next);
        let ack = json!({"type":"ack","ref":reference,"id":id,"offset":offset}).to_string();
        let (cuts, forgets) = (nth(Fault::Cuts, 100), nth(Fault::Forgets, 50));
        if repeated.is_none() && !forgets && !loses {
            self.deliver(name, id, offset, &frame["payload"]);
        }
        if cuts {
            self.peers.iter_mut().for_each(|peer| peer.gone = true);
        } else if reference.is_some() {
            self.peers[i].frame(opcode::TEXT, ack.as_bytes());
        }
        self.lose_tail(name);
    }

    fn deliver(&mut self, name: &str, id: &str, offset: usize, payload: &Value) {
        let message = |offset: usize, payload: &str| {
            format!(
                concat!(
                    r#"{{"type":"message","room":"{}","offset":{},"id":"{}","#,
                    r#""payload":{},"sent_at":"t"}}"#
                ),
                name, offset, id, payload
            )
        };
        let room = self.rooms.entry(name.into()).or_default();
        let right = message(offset, &payload.to_string());
        let last = self.peers.iter().map(|peer| peer.instance).max();
        let swapped = (self.fault == Fault::Disagrees && offset.is_multiple_of(20))
            .then(|| room.log[offset - 2].split_once("\"payload\":"))
            .flatten()
            .and_then(|(_, rest)| rest.split(',').next())
            .map(|payload| message(offset, payload));
        let faulty = self.fault == Fault::LeavesOut && offset.is_multiple_of(50);
        let members = self.peers.iter_mut();
        let members = members.filter(|peer| peer.room.as_deref() == Some(name));
        for peer in members.skip(usize::from(faulty)) {
            let text = match &swapped {
                Some(swapped) if Some(peer.instance) == last => swapped,
                _ => &right,
            };
            peer.frame(opcode::TEXT, text.as_bytes());
        }
        room.log.push(right);
        room.offsets.insert(id.into(), offset);
    }

    fn lose_tail(&mut self, name: &str) {
        let room = self.rooms.entry(name.into()).or_default();
        if self.fault != Fault::LosesTail || room.publishes != 50 {
            return;
        }
        room.epoch += 1;
        room.log.clear();
        room.offsets.clear();
        let epoch = format!("e{}", room.epoch);
        let joined =
            json!({"type":"joined","room":name,"epoch":epoch,"offset":0,"recovered":false});
        for peer in &mut self.peers {
            if peer.room.as_deref() == Some(name) {
                peer.frame(opcode::TEXT, joined.to_string().as_bytes());
            }
        }
    }
}

impl Peer {
    fn frame(&mut self, op: u8, payload: &[u8]) {
        wire::write_server_frame(&mut self.out, op, payload);
    }

    fn write(&mut self) {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) => {
                    self.gone |= error.kind() != ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    fn read(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut piece = [0; 65536];
        match self.socket.read(&mut piece) {
            Ok(0) => self.gone = true,
            Ok(count) => self.bytes.extend_from_slice(&piece[..count]),
            Err(error) => self.gone |= error.kind() != ErrorKind::WouldBlock,
        }
        if !self.open {
            let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") else {
                return Vec::new();
            };
            if self.bytes.starts_with(b"GET /metrics") {
                self.out
                    .extend_from_slice(b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n");
                return Vec::new();
            }
            self.bytes.drain(..end + 4);
            self.open = true;
            let head = format!(
                "HTTP/1.1 101 S\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                wire::ACCEPT
            );
            self.out.extend_from_slice(head.as_bytes());
            self.frame(
                opcode::TEXT,
                br#"{"type":"welcome","protocol":"ringcast.v1"}"#,
            );
        }
        let mut frames = Vec::new();
        while let Some((op, text, used)) = unmask(&self.bytes) {
            self.bytes.drain(..used);
            frames.push((op, text));
        }
        frames
    }
}

fn unmask(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let &[first, second, ..] = bytes else {
        return None;
    };
    assert!(second & 0x80 != 0, "a client's frame must be masked");
    let (head, length) = match second & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        ),
        127 => panic!("no frame of the tests is so long"),
        short => (2, usize::from(short)),
    };
    let mask = bytes.get(head..head + 4)?;
    let payload = bytes.get(head + 4..head + 4 + length)?;
    let text = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    Some((first & 15, text, head + 4 + length))
}
