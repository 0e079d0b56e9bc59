//! The sockets of a shard's links to Redis.
//!
//! ```text
//! ask(Connect) ─▶ connect: a thread looks the name up and connects ─▶ [TLS] ─▶ Connected
//! ask(Send)    ─▶ queue ─▶ flush: all that is queued in one send, as far as the socket takes it
//!                       └▶ writer task: the rest, and all of it if there is TLS
//! ask(Close)   ─▶ shutdown(2): the reads and writes under way end by it, and with them the tasks
//!                 reader task: owned reads ─▶ Bytes | Broken
//! ```
//!
//! - A read or write is never dropped while it is under way; both tasks own their half of the
//!   stream, and the descriptors are closed when both have ended.
//! - A turn's words to Redis are sent by [`Links::flush`] before the turn's sweep: by a task they
//!   would leave behind it, and Redis would answer a turn later. While the writer has a write under
//!   way, what comes waits behind it.
//! - [`Links::ask`] never calls back: events come from tasks only, so whoever asks may be borrowed.
//! - After `Broken` or [`LinkAsk::Close`] a life tells nothing more.
//! - What has come is handed on in a buffer of its size: the texts of replies are views of it, and
//!   would otherwise each hold the whole buffer of a read.

mod connect;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, TcpStream as StdStream};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, Splitable};
use monoio::net::TcpStream;
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};
use rustix::net::SendFlags;

pub(super) use connect::Target;

use super::tls::Tls;
use crate::backplane::link::{Link, LinkAsk, LinkEvent, LinkId};
use crate::model::limits::{LINK_CONNECT_MS, LINK_QUEUE_BYTES_MAX, LINK_READ_BYTES_MAX};

/// What is called with every event, on the shard's thread, with nothing of the links borrowed. It
/// must not hold its shard (a [`std::rc::Weak`] may), which holds the links.
pub(super) type OnEvent = Rc<dyn Fn(LinkEvent)>;

/// A shard's links.
pub(super) struct Links {
    target: Target,
    on_event: OnEvent,
    wires: [Option<Rc<Wire>>; 2],
}

impl Links {
    /// No link is open.
    pub(super) fn new(target: Target, on_event: OnEvent) -> Self {
        let wires = [None, None];
        Self {
            target,
            on_event,
            wires,
        }
    }

    /// Does what is asked, on a thread that runs monoio.
    pub(super) fn ask(&mut self, ask: LinkAsk) {
        match ask {
            LinkAsk::Connect(id) => {
                if let Some(before) = self.wire(id.link).take() {
                    before.close();
                }
                let wire = Rc::new(Wire::new(id, self.on_event.clone()));
                *self.wire(id.link) = Some(wire.clone());
                monoio::spawn(watch(Rc::downgrade(&wire), self.target.to_string()));
                monoio::spawn(run(wire, self.target.clone()));
            }
            LinkAsk::Send(id, bytes) => {
                if let Some(wire) = self.life(id) {
                    wire.send(bytes);
                }
            }
            LinkAsk::Close(id) => {
                if let Some(wire) = self.life(id) {
                    wire.close();
                    *self.wire(id.link) = None;
                }
            }
        }
    }

    /// Sends at once what was asked to be sent, as far as that goes without waiting.
    pub(super) fn flush(&mut self) {
        self.wires.iter().flatten().for_each(|wire| wire.flush());
    }

    /// Reads a link no more, until it is told otherwise.
    pub(super) fn set_paused(&mut self, link: Link, paused: bool) {
        if let Some(wire) = self.wire(link)
            && wire.paused.replace(paused) != paused
        {
            wire.wake_reader();
        }
    }

    fn wire(&mut self, link: Link) -> &mut Option<Rc<Wire>> {
        &mut self.wires[match link {
            Link::Commands => 0,
            Link::Subscriber => 1,
        }]
    }

    fn life(&mut self, id: LinkId) -> Option<Rc<Wire>> {
        self.wire(id.link).clone().filter(|wire| wire.id == id)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.wires.iter().flatten().for_each(|wire| wire.close());
    }
}

/// How far a wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Tls,
    Open,
    /// Closed or broken: nothing more is told.
    Ended,
}

/// One life of a link: what its tasks share.
struct Wire {
    id: LinkId,
    on_event: OnEvent,
    stage: Cell<Stage>,
    /// What waits for the writer.
    queue: RefCell<Vec<u8>>,
    /// The writer, or who waits for the connect: woken by what is queued and by the end.
    sleeper: RefCell<Option<Waker>>,
    /// Another descriptor of the socket, to end it by.
    control: RefCell<Option<StdStream>>,
    tls: RefCell<Option<Tls>>,
    /// Whether the writer has a write under way.
    writing: Cell<bool>,
    /// Whether it was ended because more was queued than may be.
    overfull: Cell<bool>,
    /// Whether nothing more is to be read for now, and who waits for the end of that.
    paused: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Wire {
    fn new(id: LinkId, on_event: OnEvent) -> Self {
        Self {
            id,
            on_event,
            stage: Cell::new(Stage::Connecting),
            queue: RefCell::default(),
            sleeper: RefCell::default(),
            control: RefCell::default(),
            tls: RefCell::default(),
            writing: Cell::default(),
            overfull: Cell::default(),
            paused: Cell::default(),
            reader: RefCell::default(),
        }
    }

    fn has_ended(&self) -> bool {
        self.stage.get() == Stage::Ended
    }

    fn send(&self, bytes: Vec<u8>) {
        if self.has_ended() {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        if queue.len().saturating_add(bytes.len()) > LINK_QUEUE_BYTES_MAX {
            // The reader ends by it, and tells why.
            self.overfull.set(true);
            *queue = Vec::new();
            return self.shut();
        }
        if queue.is_empty() && queue.capacity() < bytes.len() {
            *queue = bytes;
        } else {
            queue.extend_from_slice(&bytes);
        }
        drop(queue);
        self.wake();
    }

    /// Sends what is queued; the writer gets what is left, and whatever error there is.
    fn flush(&self) {
        if self.stage.get() != Stage::Open || self.writing.get() || self.tls.borrow().is_some() {
            return;
        }
        let (control, mut queue) = (self.control.borrow(), self.queue.borrow_mut());
        if queue.is_empty() {
            return;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if let Some(control) = &*control
            && let Ok(sent) = rustix::net::send(control, &queue, flags)
        {
            queue.drain(..sent);
            queue.shrink_to(KEPT_BYTES_MAX);
        }
    }

    fn close(&self) {
        self.stage.set(Stage::Ended);
        self.shut();
        self.wake();
        self.wake_reader();
    }

    fn wake_reader(&self) {
        let reader = self.reader.borrow_mut().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Waits while the link is not to be read.
    fn poll_unpaused(&self, context: &Context<'_>) -> Poll<()> {
        if !self.paused.get() || self.has_ended() {
            return Poll::Ready(());
        }
        *self.reader.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Lets what is under way on the socket end.
    fn shut(&self) {
        if let Some(control) = self.control.take() {
            // A peer that is gone already is no error here.
            let _ = control.shutdown(Shutdown::Both);
        }
    }

    fn broken(&self, mut why: String) {
        if !self.has_ended() {
            if self.overfull.get() {
                why = "Redis takes less than it is sent: is it overloaded or stopped?".into();
            }
            self.close();
            (self.on_event)(LinkEvent::Broken(self.id, why));
        }
    }

    fn open(&self) {
        if !self.has_ended() {
            self.stage.set(Stage::Open);
            (self.on_event)(LinkEvent::Connected(self.id));
        }
    }

    fn wake(&self) {
        let sleeper = self.sleeper.borrow_mut().take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    fn sleep(&self, context: &Context<'_>) {
        *self.sleeper.borrow_mut() = Some(context.waker().clone());
    }

    /// What to write next, into `sending`; ready with `false` at the end.
    fn poll_sending(&self, context: &Context<'_>, sending: &mut Vec<u8>) -> Poll<bool> {
        if self.has_ended() {
            return Poll::Ready(false);
        }
        let mut queue = self.queue.borrow_mut();
        match &mut *self.tls.borrow_mut() {
            None => std::mem::swap(&mut *queue, sending),
            Some(tls) => {
                tls.seal(&queue, sending);
                queue.clear();
            }
        }
        if sending.is_empty() {
            drop(queue);
            self.sleep(context);
            return Poll::Pending;
        }
        Poll::Ready(true)
    }

    /// Bytes have come from the socket.
    fn received(&self, bytes: &[u8]) {
        if self.has_ended() {
            return;
        }
        let plain = match &mut *self.tls.borrow_mut() {
            None => Ok(BytesMut::from(bytes)),
            Some(tls) => tls.open(bytes),
        };
        let plain = match plain {
            Ok(plain) => plain,
            Err(why) => return self.broken(why),
        };
        let shaken = self.tls.borrow().as_ref().is_none_or(Tls::has_shaken_hands);
        if self.stage.get() == Stage::Tls && shaken {
            self.open();
        }
        self.wake();
        if !plain.is_empty() && !self.has_ended() {
            (self.on_event)(LinkEvent::Bytes(self.id, plain));
        }
    }
}

/// Ends what is not connected in time.
async fn watch(wire: std::rc::Weak<Wire>, place: String) {
    monoio::time::sleep(Duration::from_millis(LINK_CONNECT_MS)).await;
    let Some(wire) = wire.upgrade() else {
        return;
    };
    let seconds = LINK_CONNECT_MS as f64 / 1000.0;
    match wire.stage.get() {
        Stage::Connecting => wire.broken(format!(
            "{place} has not answered within {seconds} s: is the address right, the machine up, \
             and does no firewall stand between?"
        )),
        Stage::Tls => wire.broken(format!(
            "{place} has not answered to TLS within {seconds} s: does it speak TLS on this port? \
             Without it the address is redis://"
        )),
        Stage::Open | Stage::Ended => {}
    }
}

/// Connects, then reads to the end.
async fn run(wire: Rc<Wire>, target: Target) {
    let handoff = connect::begin(target.clone());
    let connected = poll_fn(|context| {
        if wire.has_ended() {
            return Poll::Ready(None);
        }
        wire.sleep(context);
        handoff.poll(context.waker()).map(Some)
    });
    let Some(connected) = connected.await else {
        return;
    };
    let stream = connected.and_then(|stream| {
        adopt(&wire, &target, stream).map_err(|error| format!("{target}: {error}"))
    });
    match stream {
        Ok(stream) => {
            let (reads, writes) = stream.into_split();
            if wire.tls.borrow().is_none() {
                wire.open();
            } else {
                wire.stage.set(Stage::Tls);
            }
            monoio::spawn(write_all(wire.clone(), writes));
            read_all(wire, reads).await;
        }
        Err(why) => wire.broken(why),
    }
}

/// Makes a connected socket this thread's.
fn adopt(wire: &Wire, target: &Target, stream: StdStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    // epoll must never wait in a read, and io_uring would not wait at all.
    stream.set_nonblocking(monoio::utils::is_legacy())?;
    *wire.tls.borrow_mut() = target.tls().transpose().map_err(io::Error::other)?;
    let control = stream.try_clone()?;
    let stream = TcpStream::from_std(stream)?;
    *wire.control.borrow_mut() = Some(control);
    Ok(stream)
}

async fn read_all(wire: Rc<Wire>, mut reads: TcpOwnedReadHalf) {
    let mut buffer = Vec::with_capacity(LINK_READ_BYTES_MAX);
    while !wire.has_ended() {
        poll_fn(|context| wire.poll_unpaused(context)).await;
        let (result, back) = reads.read(buffer).await;
        buffer = back;
        match result {
            Ok(0) => wire.broken(
                "Redis has closed the connection: it was shut down or restarted, a CLIENT KILL \
                 or a limit of its (client-output-buffer-limit, timeout) ended it; its log says \
                 more"
                    .into(),
            ),
            Ok(_) => {
                wire.received(&buffer);
                if buffer.len() == LINK_READ_BYTES_MAX {
                    // epoll would read on and on, as long as there is something.
                    monoio::spawn(async {}).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => wire.broken(format!("the connection to Redis is broken: {error}")),
        }
    }
}

async fn write_all(wire: Rc<Wire>, mut writes: TcpOwnedWriteHalf) {
    let mut sending = Vec::new();
    while poll_fn(|context| wire.poll_sending(context, &mut sending)).await {
        wire.writing.set(true);
        let (result, back) = writes.write_all(sending).await;
        wire.writing.set(false);
        sending = back;
        if let Err(error) = result {
            wire.broken(format!("the connection to Redis is broken: {error}"));
        }
        sending.clear();
        sending.shrink_to(KEPT_BYTES_MAX);
    }
}

/// Bytes of an empty buffer that are kept for what comes next.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
