//! The sockets of links to PostgreSQL: each a [`Session`] with a driver that reconnects.
//!
//! ```text
//! open ─▶ run: connect (host after host) ─▶ Up ─▶ read to the end ─▶ Down ─▶ a pause ─▶ again
//! send ─▶ Session ─▶ queue ─▶ writer task: piece after piece
//!                             watch task: cancels what is not answered in time, then hangs up
//! ```
//!
//! - A read or write is never dropped while it is under way; reader and writer own their half of
//!   the stream, and the descriptors are closed when both have ended.
//! - [`Link::send`] never calls back: events come from tasks only, so whoever sends may be
//!   borrowed.
//! - Rows of a COPY are written from the buffer they were encoded in, which then comes back; with
//!   TLS they are sealed piece by piece.
//! - After [`Link`] is dropped nothing more is told.

mod connect;
mod target;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, TcpStream as StdStream};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};

use connect::{Opened, Reach};
pub(super) use target::Target;

use super::tls::Tls;
use crate::model::limits::{PG_CANCEL_MS, READ_BYTES_MAX};
use crate::pg::{
    Backoff, Cause, Event, Input, Refusal, Request, ServerInfo, Session, SessionAttrs,
};

/// What is called with every event, on the thread of the link, with nothing of it borrowed. It must
/// not hold whoever holds the link (a [`Weak`] may).
pub(super) type OnEvent = Rc<dyn Fn(Event)>;

/// How a link is to be.
#[derive(Clone, Debug)]
pub(super) struct LinkOptions {
    /// What `pg_stat_activity` shows, unless the connection string says otherwise.
    pub(super) name: String,
    /// What is `SET` at the start of each connection: `statement_timeout`, `lock_timeout` …
    pub(super) settings: Vec<(String, String)>,
    /// How long a request may go unanswered before it is cancelled, in ms.
    pub(super) answer_ms: u64,
}

/// A connection to PostgreSQL that comes back by itself. See the module, and [`crate::pg::link`].
pub(super) struct Link {
    inner: Rc<Inner>,
}

struct Inner {
    target: Target,
    options: LinkOptions,
    on_event: OnEvent,
    life: RefCell<Option<Rc<Life>>>,
    /// Nobody wants it any more.
    is_ended: Cell<bool>,
}

/// One connection.
struct Life {
    session: RefCell<Session>,
    tls: RefCell<Option<Tls>>,
    queue: RefCell<VecDeque<Piece>>,
    /// The writer, which waits for something to write.
    sleeper: RefCell<Option<Waker>>,
    /// Another descriptor of the socket, to end it by.
    control: StdStream,
    reach: Reach,
    /// When the requests without an answer were sent.
    asked: RefCell<VecDeque<Instant>>,
    /// Whether the oldest of them was cancelled.
    is_cancelled: Cell<bool>,
    is_over: Cell<bool>,
    /// Why it was ended from here.
    why: RefCell<Option<Refusal>>,
}

/// What is written in one go.
struct Piece {
    bytes: Vec<u8>,
    /// It is given back.
    is_lent: bool,
}

impl Link {
    /// Begins to connect, on a thread that runs monoio.
    pub(super) fn open(target: Target, options: LinkOptions, on_event: OnEvent) -> Self {
        let inner = Rc::new(Inner {
            target,
            options,
            on_event,
            life: RefCell::default(),
            is_ended: Cell::new(false),
        });
        monoio::spawn(run(inner.clone()));
        Self { inner }
    }

    /// Whether one more request may be sent now.
    pub(super) fn has_room(&self) -> bool {
        let life = self.inner.life.borrow();
        life.as_ref().is_some_and(|life| life.has_room())
    }

    /// Sends a request; it is answered by [`Event::Answer`].
    ///
    /// # Errors
    /// It was not sent, and comes back: the link is not up, has no room, or it can't be written.
    pub(super) fn send(&self, request: Request) -> Result<(), Box<(Request, Refusal)>> {
        let life = self.inner.life.borrow().clone();
        let why = match life.filter(|life| life.has_room()) {
            None => "there is no connection now, or too much is under way on it".to_owned(),
            Some(life) => {
                let mut out = BytesMut::new();
                let written = life.session.borrow_mut().send(&request, &mut out);
                match written {
                    Ok(()) => {
                        life.push(out.into(), false);
                        if let Request::Copy { rows, .. } = request {
                            life.push(rows, true);
                        }
                        life.asked.borrow_mut().push_back(Instant::now());
                        life.wake();
                        return Ok(());
                    }
                    Err(error) => error.0,
                }
            }
        };
        Err(Box::new((request, Refusal::of_way(Cause::Away, why))))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.inner.is_ended.set(true);
        if let Some(life) = self.inner.life.take() {
            life.end(None);
        }
    }
}

impl Inner {
    fn tell(&self, event: Event) {
        if !self.is_ended.get() {
            (self.on_event)(event);
        }
    }

    /// The first host that will do.
    async fn connect(&self) -> Result<Opened, Refusal> {
        let info = &self.target.info;
        let attrs = info.session_attrs;
        let passes: &[SessionAttrs] = match attrs {
            SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
            _ => &[attrs],
        };
        let mut last = Refusal::of_way(Cause::Away, "there is no host");
        for attrs in passes {
            for host in 0..info.hosts.len() {
                let settings = self.options.settings.clone();
                let login = self.target.login(host, &self.options.name, settings);
                let notice = |notice| self.tell(Event::Notice(notice));
                match connect::connect(&self.target, host, login, &notice).await {
                    Ok(opened) if will_do(*attrs, &opened.info) => return Ok(opened),
                    Ok(opened) => last = wont_do(&opened.info),
                    Err(why) => last = why,
                }
                if self.is_ended.get() {
                    return Err(last);
                }
            }
        }
        Err(last)
    }

    /// Reads a connection to its end: why it ended.
    async fn talk(&self, life: &Rc<Life>, mut reads: TcpOwnedReadHalf) -> Refusal {
        let mut buffer = Vec::with_capacity(READ_BYTES_MAX);
        loop {
            let (result, back) = reads.read(buffer).await;
            buffer = back;
            let why = match result {
                Ok(0) => Some(Refusal::of_way(
                    Cause::Away,
                    "PostgreSQL has closed the connection: it was shut down or killed, or its \
                     backend was; its log says more",
                )),
                Ok(_) => self.received(life, &buffer),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
                Err(error) => Some(Refusal::of_way(
                    Cause::Away,
                    format!("the connection to PostgreSQL is broken: {error}"),
                )),
            };
            if let Some(why) = why {
                return life.why.take().unwrap_or(why);
            }
            if buffer.len() == READ_BYTES_MAX {
                // epoll would read on and on, as long as there is something.
                monoio::spawn(async {}).await;
            }
        }
    }

    /// Bytes have come; why the connection is at its end, if it is.
    fn received(&self, life: &Rc<Life>, bytes: &[u8]) -> Option<Refusal> {
        let plain = match &mut *life.tls.borrow_mut() {
            None => Ok(BytesMut::from(bytes)),
            Some(tls) => tls.open(bytes),
        };
        let mut plain = match plain {
            Ok(plain) => plain,
            Err(why) => return Some(Refusal::of_way(Cause::Tls, why)),
        };
        let (mut out, mut inputs) = (BytesMut::new(), Vec::new());
        let mut session = life.session.borrow_mut();
        let result = session.on_bytes(&mut plain, &mut out, &mut inputs);
        drop(session);
        if !out.is_empty() {
            life.push(out.into(), false);
        }
        // TLS may have something to say for itself.
        life.wake();
        for input in inputs {
            match input {
                Input::Answer(answer) => {
                    life.asked.borrow_mut().pop_front();
                    // The next one's time begins when it is the oldest.
                    if let Some(next) = life.asked.borrow_mut().front_mut() {
                        *next = Instant::now();
                    }
                    life.is_cancelled.set(false);
                    self.tell(Event::Answer(answer));
                }
                Input::Notice(notice) => self.tell(Event::Notice(notice)),
                Input::Ended(why) | Input::Refused(why) => return Some(why),
                Input::Ready(_) => {}
            }
        }
        result
            .err()
            .map(|error| Refusal::of_way(Cause::Protocol, error.0))
    }
}

impl Life {
    fn has_room(&self) -> bool {
        !self.is_over.get() && self.session.borrow().has_room()
    }

    fn push(&self, bytes: Vec<u8>, is_lent: bool) {
        let piece = Piece { bytes, is_lent };
        self.queue.borrow_mut().push_back(piece);
    }

    fn wake(&self) {
        let sleeper = self.sleeper.borrow_mut().take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Ends the connection: its reader and writer see it.
    fn end(&self, why: Option<Refusal>) {
        self.is_over.set(true);
        let mut first = self.why.borrow_mut();
        *first = first.take().or(why);
        // A peer that is gone already is no error here.
        let _ = self.control.shutdown(Shutdown::Both);
        self.wake();
    }

    /// Waits for the next piece; none at the end.
    fn poll_piece(&self, context: &Context<'_>) -> Poll<Option<Piece>> {
        if self.is_over.get() {
            return Poll::Ready(None);
        }
        if let Some(piece) = self.queue.borrow_mut().pop_front() {
            return Poll::Ready(Some(piece));
        }
        // What TLS has to say by itself, such as the update of a key.
        if let Some(tls) = &mut *self.tls.borrow_mut() {
            let mut bytes = Vec::new();
            tls.seal(&[], &mut bytes);
            if !bytes.is_empty() {
                let is_lent = false;
                return Poll::Ready(Some(Piece { bytes, is_lent }));
            }
        }
        *self.sleeper.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    fn cancel(&self) {
        let Some(key) = self.session.borrow().cancel_key() else {
            return;
        };
        let reach = self.reach.clone();
        // Whether it helps is seen by the answer.
        drop(super::handoff::begin("pg-cancel", move || {
            reach.cancel(key)
        }));
    }

    /// Cancels what is not answered in time, and hangs up if that does not help.
    fn look_after(&self, answer: Duration) {
        let asked = self.asked.borrow().front().map(Instant::elapsed);
        let Some(waited) = asked.filter(|&waited| waited >= answer) else {
            return;
        };
        if !self.is_cancelled.replace(true) {
            self.cancel();
        } else if waited >= answer + Duration::from_millis(PG_CANCEL_MS) {
            let seconds = waited.as_secs_f32();
            let text = format!("a statement is unanswered after {seconds:.1} s, and cancelled");
            self.end(Some(Refusal::of_way(Cause::Silent, text)));
        }
    }
}

fn will_do(attrs: SessionAttrs, info: &ServerInfo) -> bool {
    match attrs {
        SessionAttrs::Any | SessionAttrs::PreferStandby => true,
        SessionAttrs::ReadWrite => !info.is_read_only,
        SessionAttrs::ReadOnly => info.is_read_only,
        SessionAttrs::Primary => !info.is_standby,
        SessionAttrs::Standby => info.is_standby,
    }
}

fn wont_do(info: &ServerInfo) -> Refusal {
    let kind = match (info.is_standby, info.is_read_only) {
        (true, _) => "a standby",
        (false, true) => "read-only",
        (false, false) => "a primary that takes writes",
    };
    let place = &info.place;
    let text = format!("{place} is {kind}, which is not what target_session_attrs asks for");
    Refusal::of_way(Cause::ReadOnly, text)
}

/// How long a connection must have lasted for the pauses to begin anew.
const LASTED: Duration = Duration::from_secs(2);

/// Connects, reads to the end, pauses, and does it again.
async fn run(inner: Rc<Inner>) {
    let mut backoff = Backoff::default();
    let mut rng = fastrand::Rng::new();
    while !inner.is_ended.get() {
        let why = match inner.connect().await {
            Ok(opened) => {
                let began = Instant::now();
                let why = live(&inner, opened).await;
                if began.elapsed() >= LASTED {
                    backoff.reset();
                }
                why
            }
            Err(why) => why,
        };
        if inner.is_ended.get() {
            return;
        }
        let retry_ms = backoff.next(&mut rng);
        inner.tell(Event::Down { why, retry_ms });
        monoio::time::sleep(Duration::from_millis(retry_ms)).await;
    }
}

/// One connection from its login to its end: why it ended.
async fn live(inner: &Rc<Inner>, opened: Opened) -> Refusal {
    let life = Rc::new(Life {
        session: RefCell::new(opened.session),
        tls: RefCell::new(opened.tls),
        queue: RefCell::default(),
        sleeper: RefCell::default(),
        control: opened.control,
        reach: opened.reach,
        asked: RefCell::default(),
        is_cancelled: Cell::default(),
        is_over: Cell::default(),
        why: RefCell::default(),
    });
    if inner.is_ended.get() {
        life.end(None);
    }
    *inner.life.borrow_mut() = Some(life.clone());
    monoio::spawn(write_all(inner.clone(), life.clone(), opened.writes));
    let answer = Duration::from_millis(inner.options.answer_ms);
    monoio::spawn(watch(Rc::downgrade(&life), answer));
    inner.tell(Event::Up(opened.info));
    let why = inner.talk(&life, opened.reads).await;
    inner.life.take();
    life.end(None);
    let left = std::mem::take(&mut *life.queue.borrow_mut());
    for piece in left.into_iter().filter(|piece| piece.is_lent) {
        inner.give_back(piece.bytes);
    }
    why
}

impl Inner {
    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.tell(Event::Returned(bytes));
    }
}

async fn write_all(inner: Rc<Inner>, life: Rc<Life>, mut writes: TcpOwnedWriteHalf) {
    while let Some(piece) = poll_fn(|context| life.poll_piece(context)).await {
        let mut bytes = piece.bytes;
        let mut lent = None;
        let mut sealed = Vec::new();
        if let Some(tls) = &mut *life.tls.borrow_mut() {
            tls.seal(&bytes, &mut sealed);
            lent = Some(std::mem::replace(&mut bytes, sealed));
        }
        let (result, back) = writes.write_all(bytes).await;
        if piece.is_lent {
            inner.give_back(lent.unwrap_or(back));
        }
        if result.is_err() {
            // The reader says what it was: an error may have come before the end.
            let _ = life.control.shutdown(Shutdown::Both);
            return;
        }
    }
}

async fn watch(life: Weak<Life>, answer: Duration) {
    let pause = (answer / 8).clamp(Duration::from_millis(20), Duration::from_millis(500));
    loop {
        monoio::time::sleep(pause).await;
        match life.upgrade() {
            Some(life) if !life.is_over.get() => life.look_after(answer),
            _ => return,
        }
    }
}
