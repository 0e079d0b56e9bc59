//! A shard's sockets, and the two calls that every message goes through.
//!
//! Readiness comes from monoio; the bytes are moved by nonblocking `send` and `recv` on the socket
//! itself, straight from the room log and into one buffer for all (FACTS: as good as the kernel's
//! limit). A slot is free again when the task that reads from it has ended. With TLS ([`sealed`])
//! there is a session in between.

mod sealed;

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;

use hashbrown::HashMap;
use monoio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::hub::ConnIndex;
use crate::shard::{Gone, Socket};

pub(super) use sealed::Sealed;

/// One socket.
pub(super) struct Slot {
    pub(super) stream: Rc<TcpStream>,
    /// The stream's descriptor, at hand for the sweep: two cache lines less a send.
    descriptor: RawFd,
    /// Distinguishes this socket from another that had the number before.
    pub(super) serial: u64,
    /// Whether it was closed, and only waits for its tasks to end.
    pub(super) closed: bool,
}

// What an idle connection costs, and what a sweep reads of it.
const _: () = assert!(size_of::<Option<Slot>>() == 24);

/// All sockets of a shard.
#[derive(Default)]
pub(super) struct Sockets {
    slots: Vec<Option<Slot>>,
    vacant: Vec<ConnIndex>,
    /// Who waits until a connection is to be read again: few at a time, so no slot has a place for
    /// it.
    gates: HashMap<ConnIndex, Waker>,
    serial: u64,
    /// See [`Sockets::take_sends`].
    sends: usize,
    /// What TLS needs, if it is spoken.
    sealed: Option<Box<Sealed>>,
}

/// What a read gave.
pub(super) enum Received {
    Bytes(usize),
    Nothing,
    /// The peer sends nothing more.
    HalfClosed,
    Ended,
    /// It is to end: what came can't be made sense of.
    Broken(String),
}

impl Sockets {
    /// No socket yet; with TLS if `sealed`.
    pub(super) fn new(sealed: Option<Sealed>) -> Self {
        Self {
            sealed: sealed.map(Box::new),
            ..Self::default()
        }
    }

    /// Takes a socket; returns its number and serial.
    pub(super) fn insert(&mut self, stream: Rc<TcpStream>) -> (ConnIndex, u64) {
        self.serial += 1;
        let slot = Some(Slot {
            descriptor: stream.as_raw_fd(),
            stream,
            serial: self.serial,
            closed: false,
        });
        let index = match self.vacant.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as ConnIndex
            }
        };
        if let Some(sealed) = &mut self.sealed {
            sealed.insert(index);
        }
        (index, self.serial)
    }

    /// The socket of that number and serial, if it is still there.
    pub(super) fn get(&mut self, index: ConnIndex, serial: u64) -> Option<&mut Slot> {
        self.slot(index).filter(|slot| slot.serial == serial)
    }

    /// The socket of that number.
    pub(super) fn slot(&mut self, index: ConnIndex) -> Option<&mut Slot> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// Frees the number.
    pub(super) fn remove(&mut self, index: ConnIndex, serial: u64) {
        if self.get(index, serial).is_some() {
            self.slots[index as usize] = None;
            self.gates.remove(&index);
            self.vacant.push(index);
            if let Some(sealed) = &mut self.sealed {
                sealed.remove(index);
            }
        }
    }

    /// Has `waker` told when the connection is to be read again.
    pub(super) fn shut_gate(&mut self, index: ConnIndex, waker: &Waker) {
        self.gates.insert(index, waker.clone());
    }

    /// The connection is to be read again.
    pub(super) fn open_gate(&mut self, index: ConnIndex) {
        if let Some(waker) = self.gates.remove(&index) {
            waker.wake();
        }
    }

    /// How many sends there were since it was asked last.
    pub(super) fn take_sends(&mut self) -> usize {
        std::mem::take(&mut self.sends)
    }

    /// Reads what has come into `buffer`.
    pub(super) fn receive(&mut self, index: ConnIndex, buffer: &mut [u8]) -> Received {
        if self.sealed.is_some() {
            return self.receive_sealed(index, buffer);
        }
        let Some(slot) = self.slot(index) else {
            return Received::Ended;
        };
        match rustix::net::recv(slot.descriptor(), buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Received::HalfClosed,
            Ok((bytes, _)) => Received::Bytes(bytes),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_) => Received::Ended,
        }
    }

    /// Ends the sending direction, or both.
    pub(super) fn shutdown(&mut self, index: ConnIndex, how: Shutdown) {
        match self.sealed {
            Some(_) => self.shutdown_sealed(index, how),
            None => self.shutdown_plain(index, how),
        }
    }

    fn shutdown_plain(&mut self, index: ConnIndex, how: Shutdown) {
        if let Some(slot) = self.slot(index) {
            // A peer that is gone already is no error here.
            let _ = rustix::net::shutdown(slot.descriptor(), how);
        }
    }
}

impl Socket for Sockets {
    fn send(&mut self, index: ConnIndex, bytes: &[u8]) -> Result<usize, Gone> {
        let is_sealed = self.sealed.is_some();
        let Some(slot) = self.slot(index).filter(|slot| !slot.closed) else {
            return Err(Gone);
        };
        if is_sealed {
            return self.send_sealed(index, bytes);
        }
        let sent = send_to(slot.descriptor(), bytes);
        self.sends += 1;
        sent
    }

    fn holds_back(&mut self, index: ConnIndex) -> bool {
        self.has_backlog(index)
    }
}

/// One nonblocking send to a socket that is in no slot.
pub(super) fn send_now(stream: &TcpStream, bytes: &[u8]) -> Result<usize, Gone> {
    send_to(borrow(stream.as_raw_fd(), stream), bytes)
}

fn send_to(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Gone> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::send(socket, bytes, flags) {
            Ok(sent) => return Ok(sent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Ok(0),
            Err(_) => return Err(Gone),
        }
    }
}

impl Slot {
    fn descriptor(&self) -> BorrowedFd<'_> {
        borrow(self.descriptor, &self.stream)
    }
}

/// monoio's streams are `AsRawFd` only: `descriptor` is that of `_stream`.
#[allow(unsafe_code)]
fn borrow(descriptor: RawFd, _stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the stream is, and the result borrows the stream.
    // Both callers take it from that stream. Held by every test that opens a connection.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

#[cfg(test)]
mod tests;
