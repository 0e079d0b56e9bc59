//! Sockets that speak TLS: the same calls, with a session between the shard and each socket.
//!
//! The shard sends plain bytes and is told how many were taken; what was taken is sealed at once,
//! and what the socket does not take of that waits in the connection's backlog. While it has one,
//! nothing more is taken, so a backlog is what one call sealed and no more ([`SEALED_BYTES_MAX`]),
//! and the rules for slow consumers hold as they stand: who takes no byte is found out by the same
//! clock. Whoever drives this waits for writability where there is a backlog, and calls
//! [`Sockets::flush`] then.
//!
//! Without TLS there is none of this, and a connection pays nothing for it. With it an idle one
//! holds its session and no buffer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::net::{RecvFlags, Shutdown};

use super::{Errno, Received, Sockets, borrow, send_to};
use crate::hub::ConnIndex;
use crate::model::limits::READ_BYTES_MAX;
use crate::net::response;
use crate::runtime::tls::server::{Acceptor, Opened, Session, UNFINISHED_BYTES_MAX};
use crate::shard::Gone;

/// Plain bytes that are sealed in one call at most.
const SEALED_BYTES_MAX: usize = 64 * 1024;
/// Behind what is unfinished there is always room to read into.
const _: () = assert!(UNFINISHED_BYTES_MAX <= READ_BYTES_MAX / 2);

/// What all sealed sockets of a shard share.
pub(in crate::runtime) struct Sealed {
    acceptor: Arc<Acceptor>,
    sessions: Vec<Option<Box<Peer>>>,
    /// What is read from sockets, for as long as it takes to open it.
    input: Vec<u8>,
    /// What is sealed, for as long as it takes to send it.
    output: Vec<u8>,
    /// Connections with a backlog that nobody waits for yet.
    backlogged: Vec<ConnIndex>,
    /// Sessions that ended by a panic.
    panics: u64,
}

/// Runs a parser; `None` if it panicked.
fn contained<R>(parse: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(parse)).ok()
}

/// One connection.
struct Peer {
    session: Session,
    /// Sealed, and not taken by the socket.
    backlog: Vec<u8>,
    /// Whether any byte has come.
    has_begun: bool,
    /// Whether we have said that we send nothing more.
    ended: bool,
    /// What to do once the backlog is sent.
    then_shut: bool,
    /// Whether somebody waits for its writability.
    awaited: bool,
}

impl Sealed {
    pub(in crate::runtime) fn new(acceptor: Arc<Acceptor>) -> Self {
        Self {
            acceptor,
            sessions: Vec::new(),
            input: vec![0; READ_BYTES_MAX],
            output: Vec::new(),
            backlogged: Vec::new(),
            panics: 0,
        }
    }

    /// A connection was accepted under this number.
    pub(super) fn insert(&mut self, index: ConnIndex) {
        let at = index as usize;
        if at >= self.sessions.len() {
            self.sessions.resize_with(at + 1, || None);
        }
        // Without a session its first read ends it.
        self.sessions[at] = self.acceptor.accept().ok().map(|session| {
            Box::new(Peer {
                session,
                backlog: Vec::new(),
                has_begun: false,
                ended: false,
                then_shut: false,
                awaited: false,
            })
        });
    }

    pub(super) fn remove(&mut self, index: ConnIndex) {
        if let Some(session) = self.sessions.get_mut(index as usize) {
            *session = None;
        }
    }

    /// What a stranger sent made it panic: it ends that one connection.
    fn forget(&mut self, index: ConnIndex) -> Opened {
        self.panics += 1;
        self.remove(index);
        Opened {
            error: Some("a fault of the server's own".into()),
            ..Opened::default()
        }
    }

    fn peer(&mut self, index: ConnIndex) -> Option<&mut Peer> {
        self.sessions.get_mut(index as usize)?.as_deref_mut()
    }
}

impl Sockets {
    /// Whether these speak TLS.
    pub(in crate::runtime) fn are_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Sessions that ended by a panic, ever.
    pub(in crate::runtime) fn panics(&self) -> u64 {
        self.sealed.as_ref().map_or(0, |sealed| sealed.panics)
    }

    /// Connections that have got a backlog.
    pub(in crate::runtime) fn take_backlogged(&mut self) -> Vec<ConnIndex> {
        let sealed = self.sealed.as_deref_mut();
        sealed.map_or_else(Vec::new, |sealed| std::mem::take(&mut sealed.backlogged))
    }

    /// Somebody is about to wait for writability. `false`: somebody does already.
    pub(in crate::runtime) fn begin_wait(&mut self, index: ConnIndex) -> bool {
        self.peer(index)
            .is_none_or(|peer| !std::mem::replace(&mut peer.awaited, true))
    }

    /// The socket is writable: sends of the backlog what it takes; what is left is waited for
    /// again.
    pub(in crate::runtime) fn flush(&mut self, index: ConnIndex) {
        if let Some(peer) = self.peer(index) {
            peer.awaited = false;
        }
        // That it is broken is found out by whoever sends next, or reads.
        let _ = self.send_backlog(index);
    }

    fn peer(&mut self, index: ConnIndex) -> Option<&mut Peer> {
        self.sealed.as_deref_mut()?.peer(index)
    }

    /// Whether something sealed waits.
    pub(super) fn has_backlog(&mut self, index: ConnIndex) -> bool {
        self.peer(index)
            .is_some_and(|peer| !peer.backlog.is_empty())
    }

    /// Sends what waits. Returns whether nothing does any more.
    fn send_backlog(&mut self, index: ConnIndex) -> Result<bool, Gone> {
        let peer = self.peer(index).ok_or(Gone)?;
        if peer.backlog.is_empty() {
            return Ok(true);
        }
        let backlog = std::mem::take(&mut peer.backlog);
        let slot = self.slot(index).ok_or(Gone)?;
        let sent = send_to(slot.descriptor(), &backlog)?;
        self.sends += 1;
        self.keep(index, &backlog[sent..]);
        let is_sent = sent == backlog.len();
        if is_sent && self.peer(index).is_some_and(|peer| peer.then_shut) {
            self.shutdown_plain(index, Shutdown::Write);
        }
        Ok(is_sent)
    }

    /// Keeps what a socket did not take.
    fn keep(&mut self, index: ConnIndex, rest: &[u8]) {
        let Some(sealed) = self.sealed.as_deref_mut() else {
            return;
        };
        if rest.is_empty() {
            return;
        }
        if let Some(peer) = sealed.peer(index) {
            peer.backlog = rest.to_vec();
            sealed.backlogged.push(index);
        }
    }

    /// See [`Socket::send`](crate::shard::Socket).
    pub(super) fn send_sealed(&mut self, index: ConnIndex, bytes: &[u8]) -> Result<usize, Gone> {
        let mut taken = 0;
        while taken < bytes.len() && self.send_backlog(index)? {
            let part = &bytes[taken..bytes.len().min(taken + SEALED_BYTES_MAX)];
            self.send_sealing(index, |session, out| session.seal(part, out))?;
            taken += part.len();
        }
        Ok(taken)
    }

    /// Seals, and sends what the socket takes of it at once.
    fn send_sealing(
        &mut self,
        index: ConnIndex,
        seal: impl FnOnce(&mut Session, &mut Vec<u8>) -> bool,
    ) -> Result<(), Gone> {
        let sealed = self.sealed.as_deref_mut().ok_or(Gone)?;
        let mut output = std::mem::take(&mut sealed.output);
        output.clear();
        let peer = sealed.peer(index);
        let is_open = |peer: &&mut Peer| peer.session.is_open() && !peer.ended;
        let is_sealed = peer
            .filter(is_open)
            .is_some_and(|peer| seal(&mut peer.session, &mut output));
        let result = match is_sealed {
            true => self.send_output(index, &output),
            false => Err(Gone),
        };
        if let Some(sealed) = self.sealed.as_deref_mut() {
            sealed.output = output;
        }
        result
    }

    /// Sends sealed bytes; behind a backlog, if there is one, and its rest becomes one.
    fn send_output(&mut self, index: ConnIndex, output: &[u8]) -> Result<(), Gone> {
        if output.is_empty() {
            return Ok(());
        }
        if !self.send_backlog(index)? {
            if let Some(peer) = self.peer(index) {
                peer.backlog.extend_from_slice(output);
            }
            return Ok(());
        }
        let slot = self.slot(index).ok_or(Gone)?;
        let sent = send_to(slot.descriptor(), output)?;
        self.sends += 1;
        self.keep(index, &output[sent..]);
        Ok(())
    }

    /// See [`Sockets::receive`]; `buffer` has [`READ_BYTES_MAX`] bytes.
    pub(super) fn receive_sealed(&mut self, index: ConnIndex, buffer: &mut [u8]) -> Received {
        let Some(sealed) = self.sealed.as_deref_mut() else {
            return Received::Ended;
        };
        let mut input = std::mem::take(&mut sealed.input);
        let received = self.receive_into(index, &mut input, buffer);
        if let Some(sealed) = self.sealed.as_deref_mut() {
            sealed.input = input;
        }
        received
    }

    fn receive_into(&mut self, index: ConnIndex, input: &mut [u8], buffer: &mut [u8]) -> Received {
        let Some(slot) = self.slot(index) else {
            return Received::Ended;
        };
        let descriptor = slot.descriptor;
        let stream = slot.stream.clone();
        let Some(peer) = self.peer(index) else {
            return Received::Ended;
        };
        let unfinished = peer.session.take_unfinished();
        let start = unfinished.len();
        input[..start].copy_from_slice(&unfinished);
        let socket = borrow(descriptor, &stream);
        let bytes = match rustix::net::recv(socket, &mut input[start..], RecvFlags::DONTWAIT) {
            Ok((bytes @ 1.., _)) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => {
                peer.session.put_back(unfinished);
                return Received::Nothing;
            }
            Ok(_) => return Received::HalfClosed,
            Err(_) => return Received::Ended,
        };
        let is_first = !std::mem::replace(&mut peer.has_begun, true);
        if is_first && input[0].is_ascii_uppercase() {
            return self.refuse_plain(index, &input[..bytes]);
        }
        let (opened, result) = self.open(index, &mut input[..start + bytes], buffer);
        match opened {
            Opened {
                error: Some(why), ..
            } => Received::Broken(format!("TLS: {why}")),
            _ if result.is_err() => Received::Ended,
            Opened {
                plain: bytes @ 1..,
                is_last,
                ..
            } => {
                if is_last {
                    // The next read is to find the end, though its peer may not end the socket.
                    self.shutdown_plain(index, Shutdown::Read);
                }
                Received::Bytes(bytes)
            }
            Opened { is_last: true, .. } => Received::HalfClosed,
            Opened { .. } => Received::Nothing,
        }
    }

    /// Opens what has come, and sends what that asks for.
    fn open(
        &mut self,
        index: ConnIndex,
        input: &mut [u8],
        buffer: &mut [u8],
    ) -> (Opened, Result<(), Gone>) {
        let Some(sealed) = self.sealed.as_deref_mut() else {
            return (Opened::default(), Err(Gone));
        };
        let mut output = std::mem::take(&mut sealed.output);
        output.clear();
        let opened = match sealed.peer(index) {
            Some(peer) => match contained(|| peer.session.open(input, buffer, &mut output)) {
                Some(opened) => opened,
                None => sealed.forget(index),
            },
            None => Opened::default(),
        };
        let result = self.send_output(index, &output);
        if let Some(sealed) = self.sealed.as_deref_mut() {
            sealed.output = output;
        }
        (opened, result)
    }

    /// HTTP without TLS is answered in its own language.
    fn refuse_plain(&mut self, index: ConnIndex, began: &[u8]) -> Received {
        let why = "this port speaks TLS: https:// and wss://";
        let answer = response::error(400, "bad_request", why, &[]);
        if let Some(slot) = self.slot(index) {
            // Whether it arrives or not, the connection ends here.
            let _ = send_to(slot.descriptor(), &answer.last());
        }
        let began = String::from_utf8_lossy(&began[..began.len().min(64)]).into_owned();
        Received::Broken(format!("this port speaks TLS, and this is none: {began:?}"))
    }

    /// Says that nothing more is sent, where that can be said; ends the sending direction behind
    /// what waits, or both at once.
    pub(super) fn shutdown_sealed(&mut self, index: ConnIndex, how: Shutdown) {
        let is_write = matches!(how, Shutdown::Write);
        if is_write || !self.has_backlog(index) {
            // A peer that is gone already is no error here.
            let _ = self.send_sealing(index, Session::seal_end);
        }
        let waits = is_write && self.has_backlog(index);
        if let Some(peer) = self.peer(index) {
            peer.ended = true;
            peer.then_shut = waits;
        }
        if !waits {
            self.shutdown_plain(index, how);
        }
    }
}
