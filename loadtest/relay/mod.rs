//! The yardstick of `cross`: a relay between instances as one would write it by hand, with nothing
//! of what ringcast promises. Test equipment, never a server.
//!
//! ```text
//! publish ─▶ PUBLISH channel "room\nrest of the frame" ─▶ Redis ─▶ each relay ─▶ one send a member
//!    ack ◀── its reply                    (one pipelined connection, one that subscribes)
//! ```
//!
//! One thread, one epoll. No history, no ids, no resume, no epoch; an ack means that Redis answered
//! and says no offset. A room's offsets are the order in which the channel brings its messages: all
//! relays see one order, so they agree if all were up before the room's first message. A `message`
//! frame has the members and, nearly, the length of ringcast's, so that bytes compare.
//!
//! With `--stored` Redis keeps each message before it tells it, with the fields and the numbers of
//! PROTOCOL 5: the least that whoever stores must ask of Redis. Nobody reads that, and a call
//! repeated stores twice.

mod line;

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::flags::{Common, Relay as Flags};
use crate::poll::Stop;
use crate::redis::{self, Reply, read_reply, write_command};
use crate::relay::line::{Line, read_head, to_redis};
use crate::wire::{self, opcode};

const BUFFER_BYTES: usize = 256 << 10;
const EVENTS_MAX: usize = 1024;
const LISTENER: u64 = u64::MAX;
const COMMANDS: u64 = u64::MAX - 1;
const CHANNEL: u64 = u64::MAX - 2;
/// What a `message` frame has besides room, offset and payload.
const ID: &str = "01928374-0000-7000-8000-000000000000";
const USER: &str = "abcdefghijklmnop";
const SENT_AT: &str = "2026-01-01T00:00:00.000Z";
/// KEYS state, stream; ARGV channel, message, room, user, payload, id, sent_at.
const STORE: &[u8] = b"
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
local offset = redis.call('HINCRBY', KEYS[1], 'o:' .. ARGV[3], 1)
redis.call('XADD', KEYS[2], '*', 'room_name', ARGV[3], 'user_id', ARGV[4], 'username', ARGV[4],
  'payload', ARGV[5], 'metadata', '', 'id', ARGV[6], 'epoch', 'relay', 'offset', offset,
  'seq', seq, 'sent_at', ARGV[7], 'instance_id', 'relay')
return redis.call('PUBLISH', ARGV[1], ARGV[2])";

/// Serves until a signal, or until Redis goes away.
pub(crate) fn serve(common: &Common, flags: &Flags, stop: &Stop) -> Result<(), String> {
    let of = common.redis.as_ref().ok_or("--redis: where Redis is")?;
    let mut relay = Relay::start(redis::address(of)?, flags)?;
    println!("listening {}", relay.port);
    while !stop.is_set() {
        relay.turn()?;
    }
    Ok(())
}

#[derive(Debug)]
struct Peer {
    line: Line,
    open: bool,
    room: Option<Vec<u8>>,
    /// Its place is taken anew after it is gone: acks on their way must not reach the next one.
    generation: u64,
}

#[derive(Debug, Default)]
struct Room {
    members: Vec<usize>,
    offset: u64,
}

/// A publish that Redis has not answered.
#[derive(Debug)]
struct Asked {
    peer: usize,
    generation: u64,
    reference: Option<Box<RawValue>>,
}

struct Relay {
    epoll: OwnedFd,
    listener: OwnedFd,
    port: u16,
    commands: Line,
    channel: Line,
    channel_name: Vec<u8>,
    /// What Redis knows [`STORE`] by, if messages are stored.
    store: Option<Vec<u8>>,
    /// Its keys.
    keys: [Vec<u8>; 2],
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    generation: u64,
    rooms: HashMap<Vec<u8>, Room>,
    asked: VecDeque<Asked>,
    /// Peers with an ack to send.
    dirty: Vec<usize>,
    buffer: Vec<u8>,
}

/// What a client sends, as far as the load tool does.
#[derive(Debug, Deserialize)]
struct Request<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    room: &'a str,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
}

fn failed(error: Errno) -> String {
    format!("relay: {error}")
}

impl Relay {
    fn start(address: SocketAddr, of: &Flags) -> Result<Self, String> {
        let (port, channel) = (of.port, of.channel.as_str());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .map_err(failed)?;
        sockopt::set_socket_reuseaddr(&listener, true).map_err(failed)?;
        net::bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map_err(failed)?;
        net::listen(&listener, 1024).map_err(failed)?;
        let bound = net::getsockname(&listener).map_err(failed)?;
        let port = SocketAddr::try_from(bound).map_err(failed)?.port();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let commands = to_redis(address, &[b"SCRIPT", b"LOAD", STORE])?;
        let channel_line = to_redis(address, &[b"SUBSCRIBE", channel.as_bytes()])?;
        for (socket, id) in [
            (&listener, LISTENER),
            (&commands.socket, COMMANDS),
            (&channel_line.socket, CHANNEL),
        ] {
            let data = epoll::EventData::new_u64(id);
            epoll::add(&epoll, socket, data, epoll::EventFlags::IN).map_err(failed)?;
        }
        let mut relay = Self {
            epoll,
            listener,
            port,
            commands,
            channel: channel_line,
            channel_name: channel.into(),
            store: None,
            keys: ["state", "stream"].map(|name| format!("{channel}:{name}").into()),
            peers: Vec::new(),
            free: Vec::new(),
            generation: 0,
            rooms: HashMap::new(),
            asked: VecDeque::new(),
            dirty: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
        };
        let sha = relay.await_redis()?;
        relay.store = of.stored.then_some(sha);
        Ok(relay)
    }

    /// Nothing published before the subscription may be missed: offsets would differ. Returns what
    /// Redis knows the script by.
    fn await_redis(&mut self) -> Result<Vec<u8>, String> {
        let mut sha = Vec::new();
        for line in [&mut self.commands, &mut self.channel] {
            let reply = loop {
                if let Some((reply, _)) = read_reply(&line.bytes)? {
                    break reply;
                }
                let mut poll = [rustix::event::PollFd::new(
                    &line.socket,
                    rustix::event::PollFlags::IN,
                )];
                rustix::event::poll(&mut poll, None).map_err(failed)?;
                if !line.read(&mut self.buffer) {
                    return Err("Redis hung up".into());
                }
            };
            match reply {
                Reply::Text(text) => sha = text.into(),
                Reply::List(_) => {}
                other => return Err(format!("Redis: {other:?}")),
            }
            line.bytes.clear();
        }
        Ok(sha)
    }

    fn turn(&mut self) -> Result<(), String> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        };
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, buffer, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => self.accept()?,
                COMMANDS => self.on_commands()?,
                CHANNEL => self.on_channel()?,
                peer => self.on_peer(peer as usize),
            }
        }
        if !self.commands.flush() {
            return Err("Redis hung up".into());
        }
        self.watch(COMMANDS)?;
        for peer in std::mem::take(&mut self.dirty) {
            let sent = self.peers[peer].as_mut().is_none_or(|p| p.line.flush());
            self.after_send(peer, sent);
        }
        Ok(())
    }

    /// Waits for writability as long as something is left, and no longer.
    fn watch(&mut self, id: u64) -> Result<(), String> {
        let line = match id {
            COMMANDS => &mut self.commands,
            peer => match self.peers.get_mut(peer as usize) {
                Some(Some(peer)) => &mut peer.line,
                _ => return Ok(()),
            },
        };
        let wants_write = !line.out.is_empty();
        if wants_write == line.wants_write {
            return Ok(());
        }
        line.wants_write = wants_write;
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, wants_write);
        let data = epoll::EventData::new_u64(id);
        epoll::modify(&self.epoll, &line.socket, data, flags).map_err(failed)
    }

    fn after_send(&mut self, peer: usize, sent: bool) {
        if !sent || self.watch(peer as u64).is_err() {
            self.drop_peer(peer);
        }
    }

    fn accept(&mut self) -> Result<(), String> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            sockopt::set_tcp_nodelay(&socket, true).map_err(failed)?;
            let peer = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            let data = epoll::EventData::new_u64(peer as u64);
            epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN).map_err(failed)?;
            self.generation += 1;
            self.peers[peer] = Some(Peer {
                line: Line::new(socket),
                open: false,
                room: None,
                generation: self.generation,
            });
        }
    }

    fn drop_peer(&mut self, peer: usize) {
        let Some(gone) = self.peers[peer].take() else {
            return;
        };
        self.free.push(peer);
        if let Some(room) = gone.room.and_then(|room| self.rooms.get_mut(&room)) {
            room.members.retain(|member| *member != peer);
        }
    }

    /// Answers of PUBLISH, in the order of asking.
    fn on_commands(&mut self) -> Result<(), String> {
        if !self.commands.read(&mut self.buffer) {
            return Err("Redis hung up".into());
        }
        let mut used = 0;
        while let Some((reply, more)) = read_reply(&self.commands.bytes[used..])? {
            if let Reply::Error(error) = reply {
                return Err(format!("Redis: {}", String::from_utf8_lossy(error)));
            }
            used += more;
            let asked = self.asked.pop_front().ok_or("Redis answered unasked")?;
            let peer = self.peers[asked.peer].as_mut();
            let peer = peer.filter(|peer| peer.generation == asked.generation);
            if let (Some(peer), Some(reference)) = (peer, asked.reference) {
                let ack = format!(r#"{{"type":"ack","ref":{reference},"id":"{ID}"}}"#);
                if peer.line.out.is_empty() {
                    self.dirty.push(asked.peer);
                }
                wire::write_server_frame(&mut peer.line.out, opcode::TEXT, ack.as_bytes());
            }
        }
        self.commands.bytes.drain(..used);
        Ok(())
    }

    /// Messages of the channel: each to all members of its room.
    fn on_channel(&mut self) -> Result<(), String> {
        if !self.channel.read(&mut self.buffer) {
            return Err("Redis hung up".into());
        }
        let bytes = std::mem::take(&mut self.channel.bytes);
        let (mut used, mut text, mut frame) = (0, Vec::new(), Vec::new());
        while let Some((reply, more)) = read_reply(&bytes[used..])? {
            used += more;
            let Reply::List(push) = reply else { continue };
            let [Reply::Text(b"message"), _, Reply::Text(message)] = push.as_slice() else {
                continue;
            };
            let Some(end) = memchr::memchr(b'\n', message) else {
                continue;
            };
            let (name, rest) = (&message[..end], &message[end + 1..]);
            if !self.rooms.contains_key(name) {
                self.rooms.insert(name.into(), Room::default());
            }
            let Some(room) = self.rooms.get_mut(name) else {
                continue;
            };
            room.offset += 1;
            text.clear();
            text.extend_from_slice(br#"{"type":"message","room":""#);
            text.extend_from_slice(name);
            let _ = write!(text, r#"","offset":{},"#, room.offset);
            text.extend_from_slice(rest);
            frame.clear();
            wire::write_server_frame(&mut frame, opcode::TEXT, &text);
            let mut members = std::mem::take(&mut room.members);
            members.retain(|&member| self.send_to(member, &frame));
            if let Some(room) = self.rooms.get_mut(name) {
                room.members = members;
            }
        }
        self.channel.bytes = bytes;
        self.channel.bytes.drain(..used);
        Ok(())
    }

    /// Whether the member is still there.
    fn send_to(&mut self, member: usize, frame: &[u8]) -> bool {
        let Some(peer) = &mut self.peers[member] else {
            return false;
        };
        let is_whole = peer.line.send(frame) && self.watch(member as u64).is_ok();
        if !is_whole {
            self.peers[member] = None;
            self.free.push(member);
        }
        is_whole
    }

    fn on_peer(&mut self, id: usize) {
        let Some(peer) = &mut self.peers[id] else {
            return;
        };
        if !peer.line.read(&mut self.buffer) {
            return self.drop_peer(id);
        }
        let mut bytes = std::mem::take(&mut peer.line.bytes);
        let used = self.on_bytes(id, &mut bytes);
        let sent = match (&mut self.peers[id], used) {
            (Some(peer), Some(used)) => {
                bytes.drain(..used);
                peer.line.bytes = bytes;
                peer.line.flush()
            }
            _ => false,
        };
        self.after_send(id, sent);
    }

    /// Handles what is whole, and says how much that was; `None`: the peer must go.
    fn on_bytes(&mut self, id: usize, bytes: &mut [u8]) -> Option<usize> {
        let mut used = 0;
        let peer = self.peers[id].as_mut()?;
        if !peer.open {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                return Some(0);
            };
            used = end + 4;
            peer.open = true;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                wire::ACCEPT
            );
            peer.line.out.extend_from_slice(answer.as_bytes());
        }
        while let Some((opcode, head, length)) = read_head(&mut bytes[used..]).ok()? {
            let start = used + head;
            let payload = bytes.get_mut(start..start + length)?;
            match opcode {
                opcode::TEXT => self.on_text(id, payload)?,
                opcode::PING => {
                    let out = &mut self.peers[id].as_mut()?.line.out;
                    wire::write_server_frame(out, opcode::PONG, payload);
                }
                opcode::PONG => {}
                _ => return None,
            }
            used = start + length;
        }
        Some(used)
    }

    fn on_text(&mut self, id: usize, text: &[u8]) -> Option<()> {
        let request: Request<'_> = serde_json::from_slice(text).ok()?;
        let peer = self.peers[id].as_mut()?;
        let name = request.room.as_bytes();
        match request.kind {
            "join" => {
                let room = self.rooms.entry(name.into()).or_default();
                if peer.room.replace(name.into()).is_none() {
                    room.members.push(id);
                }
                let joined = format!(
                    r#"{{"type":"joined","room":"{}","epoch":"relay","offset":{}}}"#,
                    request.room, room.offset
                );
                wire::write_server_frame(&mut peer.line.out, opcode::TEXT, joined.as_bytes());
            }
            "publish" => {
                let payload = request.payload?.get();
                let message = format!(
                    concat!(
                        "{}\n",
                        r#""id":"{}","user_id":"{}","username":"{}","payload":{},"sent_at":"{}"}}"#
                    ),
                    request.room, ID, USER, USER, payload, SENT_AT
                );
                let (channel, message) = (self.channel_name.as_slice(), message.as_bytes());
                match &self.store {
                    None => {
                        write_command(&mut self.commands.out, &[b"PUBLISH", channel, message]);
                    }
                    Some(sha) => {
                        let [state, stream] = &self.keys;
                        let [user, id, sent_at] = [USER, ID, SENT_AT].map(str::as_bytes);
                        let payload = payload.as_bytes();
                        let words: [&[u8]; 12] = [
                            b"EVALSHA", sha, b"2", state, stream, channel, message, name, user,
                            payload, id, sent_at,
                        ];
                        write_command(&mut self.commands.out, &words);
                    }
                }
                self.asked.push_back(Asked {
                    peer: id,
                    generation: peer.generation,
                    reference: request.reference.map(ToOwned::to_owned),
                });
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
