//! Test-only: a server that speaks just enough of the contract: upgrade, `welcome`, `joined`,
//! `message`, `ack`, resume from memory. One thread, nonblocking std sockets, asked in turn.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::wire::{self, opcode};

pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Starts one; `faulty`: it leaves out every 50th message for one member.
    pub(crate) fn start(faulty: bool) -> Self {
        Self::start_at("127.0.0.1:0", faulty)
    }

    fn start_at(address: &str, faulty: bool) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut server = Server {
                faulty,
                ..Server::default()
            };
            while !stopped.load(Ordering::Relaxed) {
                if !server.turn(&listener) {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        Self {
            address,
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
    let standin = StandIn::start_at(&address, false);
    println!("{} {}", std::process::id(), standin.address);
    std::thread::sleep(Duration::from_secs(120));
}

#[derive(Default)]
struct Server {
    faulty: bool,
    peers: Vec<Peer>,
    rooms: BTreeMap<String, Vec<String>>,
}

struct Peer {
    socket: TcpStream,
    bytes: Vec<u8>,
    out: Vec<u8>,
    open: bool,
    gone: bool,
    room: Option<String>,
}

impl Server {
    fn turn(&mut self, listener: &TcpListener) -> bool {
        let mut busy = false;
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(true).unwrap();
            socket.set_nodelay(true).unwrap();
            let (bytes, out) = (Vec::new(), Vec::new());
            self.peers.push(Peer {
                socket,
                bytes,
                out,
                open: false,
                gone: false,
                room: None,
            });
            busy = true;
        }
        for i in 0..self.peers.len() {
            for (op, text) in self.peers[i].read() {
                busy = true;
                self.on_frame(i, op, &text);
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
        let room = frame["room"].as_str().unwrap_or_default().to_owned();
        let log = self.rooms.entry(room.clone()).or_default();
        match frame["type"].as_str() {
            Some("join") => {
                let since = frame["since"]["offset"].as_u64();
                let offset = since.unwrap_or(log.len() as u64);
                let mut joined = json!({"type":"joined","room":room,"epoch":"e","offset":offset});
                if since.is_some() {
                    joined["recovered"] = true.into();
                }
                let peer = &mut self.peers[i];
                peer.frame(opcode::TEXT, joined.to_string().as_bytes());
                for message in &log[offset as usize..] {
                    peer.frame(opcode::TEXT, message.as_bytes());
                }
                peer.room = Some(room);
            }
            Some("publish") => {
                let (offset, id) = (log.len() + 1, frame["id"].as_str().unwrap_or("i"));
                let payload = &frame["payload"];
                let message = format!(
                    concat!(
                        r#"{{"type":"message","room":"{}","offset":{},"id":"{}","#,
                        r#""payload":{},"sent_at":"t"}}"#
                    ),
                    room, offset, id, payload
                );
                if let Some(reference) = frame["ref"].as_str() {
                    let ack = json!({"type":"ack","ref":reference,"id":id,"offset":offset});
                    self.peers[i].frame(opcode::TEXT, ack.to_string().as_bytes());
                }
                let faulty = self.faulty && offset % 50 == 0;
                for peer in self
                    .peers
                    .iter_mut()
                    .filter(|p| p.room.as_ref() == Some(&room))
                    .skip(usize::from(faulty))
                {
                    peer.frame(opcode::TEXT, message.as_bytes());
                }
                log.push(message);
            }
            other => panic!("the stand-in does not know {other:?}"),
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
