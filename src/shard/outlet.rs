//! The sweep's way to the sockets: outboxes first, then what the hub has for each member.

use super::Shard;
use super::connection::{Conn, Phase};
use super::counters::Counters;
use super::event::{Effect, Request};
use super::options::SlowConsumer;
use crate::hub::{ConnIndex, Encoding, Outlet, RoomKey};
use crate::model::{CloseCode, RoomName};
use crate::protocol::{event, stream};

/// Bytes of room frames that are copied behind an outbox to go in one call with it.
const MERGED_BYTES_MAX: usize = 16 * 1024;

/// The connection is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// The sockets of a shard, as it sees them.
pub trait Socket {
    /// Sends without waiting. Returns how many bytes were taken; fewer than all: the socket is
    /// full.
    ///
    /// # Errors
    /// The connection is broken.
    fn send(&mut self, conn: ConnIndex, bytes: &[u8]) -> Result<usize, Gone>;

    /// Whether some of what was taken has not gone out: to close the connection now would lose it.
    /// [`Event::Writable`](super::Event::Writable) says when it may have.
    fn holds_back(&mut self, conn: ConnIndex) -> bool;
}

/// What a sweep works on.
struct Sweep<'a, S> {
    conns: &'a mut [Option<Box<Conn>>],
    plain: &'a mut [bool],
    flush: &'a mut Vec<ConnIndex>,
    socket: &'a mut S,
    effects: &'a mut Vec<Effect>,
    counters: &'a mut Counters,
    slow_consumer: SlowConsumer,
    now_ms: u64,
    broken: Vec<ConnIndex>,
    /// Closed on both sides, and all was sent.
    done: Vec<ConnIndex>,
    slow: Vec<ConnIndex>,
    pages: Vec<(RoomKey, u64)>,
}

impl<S: Socket> Sweep<'_, S> {
    fn conn(&mut self, index: ConnIndex) -> Option<&mut Conn> {
        self.conns.get_mut(index as usize)?.as_deref_mut()
    }

    /// One call to the socket.
    fn send_now(&mut self, index: ConnIndex, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        self.counters.sends += 1;
        let sent = match self.socket.send(index, bytes) {
            Ok(sent) => sent,
            Err(Gone) => {
                self.broken.push(index);
                0
            }
        };
        self.counters.bytes_out += sent as u64;
        if sent < bytes.len() {
            self.block(index);
        }
        sent
    }

    /// The socket takes nothing for now.
    fn block(&mut self, index: ConnIndex) {
        let now_ms = self.now_ms;
        if let Some(conn) = self.conn(index) {
            conn.blocked = true;
            conn.progress_ms = now_ms;
            self.plain[index as usize] = false;
            self.effects.push(Effect::AwaitWritable(index));
        }
    }

    /// Sends what waits in the outbox.
    fn flush(&mut self, index: ConnIndex) {
        let Some(conn) = self.conn(index) else { return };
        if conn.blocked {
            return;
        }
        if let Some(mut outbox) = conn.outbox.take() {
            outbox.sent += self.send_now(index, &outbox.bytes[outbox.sent..]);
            if outbox.sent < outbox.bytes.len()
                && let Some(conn) = self.conn(index)
            {
                // Who always has something to get must not make it grow for ever.
                if outbox.sent > outbox.bytes.len() / 2 {
                    outbox.bytes.drain(..outbox.sent);
                    outbox.sent = 0;
                }
                conn.outbox = Some(outbox);
                return;
            }
        }
        let Some(conn) = self.conn(index) else { return };
        if conn.phase.hears() {
            self.plain[index as usize] = true;
        } else if conn.phase == Phase::Closing && !conn.shut {
            self.end(index);
        }
    }

    /// All was taken, and nothing comes behind it: once it has gone out, that is the end.
    fn end(&mut self, index: ConnIndex) {
        if self.socket.holds_back(index) {
            self.block(index);
            return;
        }
        let Some(conn) = self.conn(index) else { return };
        conn.shut = true;
        if conn.peer_closed {
            self.done.push(index);
        } else {
            self.effects.push(Effect::ShutdownWrite(index));
        }
    }
}

impl<S: Socket> Outlet for Sweep<'_, S> {
    fn ready(&mut self, index: ConnIndex) -> bool {
        if self.plain[index as usize] {
            return true;
        }
        self.conn(index)
            .is_some_and(|conn| !conn.blocked && conn.phase.hears())
    }

    /// What waits in the outbox goes first, and in the same call if it is not much to copy.
    fn send(&mut self, index: ConnIndex, bytes: &[u8]) -> usize {
        if self.plain[index as usize] {
            return self.send_now(index, bytes);
        }
        let Some(conn) = self.conn(index) else {
            return 0;
        };
        // A merged send may have filled the socket and taken all the same.
        if conn.blocked {
            return 0;
        }
        if conn.outbox.is_some() {
            if bytes.len() <= MERGED_BYTES_MAX {
                conn.out().extend_from_slice(bytes);
                self.flush(index);
                return bytes.len();
            }
            self.flush(index);
            if self.conn(index).is_none_or(|conn| conn.blocked) {
                return 0;
            }
        }
        self.send_now(index, bytes)
    }

    fn keep(&mut self, index: ConnIndex, rest: &[u8]) {
        if let Some(conn) = self.conn(index) {
            conn.out().extend_from_slice(rest);
            self.plain[index as usize] = false;
        }
    }

    fn gap(&mut self, index: ConnIndex, room: &RoomName, from: u64, to: u64, slow: bool) -> bool {
        self.plain[index as usize] = false;
        if slow && self.slow_consumer == SlowConsumer::Disconnect {
            self.slow.push(index);
            return false;
        }
        if let Some(conn) = self.conn(index) {
            let (is_stream, room) = (conn.encoding == Encoding::Events, room.as_str());
            if is_stream {
                stream::gap(conn.out(), room, from, to);
            } else {
                event::gap(conn.out(), room, from, to);
            }
            if !conn.queued {
                conn.queued = true;
                self.flush.push(index);
            }
        }
        true
    }

    fn want_page(&mut self, room: RoomKey, offset: u64) {
        self.pages.push((room, offset));
    }
}

impl Shard {
    /// See [`Shard::sweep`].
    pub(super) fn sweep_sends(&mut self, socket: &mut impl Socket, sends_max: usize) -> bool {
        let outboxes = std::mem::take(&mut self.flush);
        let mut sweep = Sweep {
            conns: &mut self.conns,
            plain: &mut self.plain,
            flush: &mut self.flush,
            socket,
            effects: &mut self.effects,
            counters: &mut self.counters,
            slow_consumer: self.options.slow_consumer,
            now_ms: self.now.ms,
            broken: Vec::new(),
            done: Vec::new(),
            slow: Vec::new(),
            pages: Vec::new(),
        };
        // Rooms first: what they send takes the outboxes along.
        let more = self.hub.sweep(&mut sweep, sends_max);
        for index in outboxes {
            if let Some(conn) = sweep.conn(index) {
                conn.queued = false;
                sweep.flush(index);
            }
        }
        let Sweep {
            broken,
            done,
            slow,
            pages,
            ..
        } = sweep;
        for index in broken.into_iter().chain(done) {
            self.abort(index);
        }
        for index in slow {
            self.counters.slow_closed += 1;
            self.close(index, CloseCode::SLOW_CONSUMER, "you read too slowly");
        }
        for (key, offset) in pages {
            let Some(room) = self.hub.room(key) else {
                continue;
            };
            let room = room.name.clone();
            let home = self.home_of(&room);
            self.request(home, 0, Request::Page { room, from: offset });
        }
        // Whose outbox was in its way is read on at once, not at the next tick.
        more || !self.flush.is_empty() || self.stalled.iter().any(|&index| self.may_take(index))
    }
}
