//! Connecting to one host: socket, TLS, login; and the word on another connection that cancels.
//!
//! ```text
//! thread: look up, connect ─▶ SSLRequest ─▶ S ─▶ TLS ─▶ Session until it is ready
//!                                       └▶ N ─▶ in clear, if sslmode lets
//! ```
//!
//! All of it within `connect_timeout`, by a watch that shuts the socket down: a read is never
//! dropped while it is under way. What came behind the `S` in one read was sent by somebody who
//! does not speak TLS, and ends it.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream as StdStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, Splitable};
use monoio::net::TcpStream;
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};

use super::super::handoff;
use super::super::tls::Tls;
use super::Target;
use crate::model::limits::{PG_CANCEL_MS, READ_BYTES_MAX};
use crate::pg::{
    Cause, Host, Input, Login, Place, Refusal, Secrecy, ServerInfo, Session, SslMode,
    cancel_request, end_point_of, ssl_request,
};

/// Where exactly a connection went.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Reach {
    /// A socket of either kind: read, written and shut down it is the same.
    fn connect(&self, timeout: Duration) -> io::Result<StdStream> {
        match self {
            Self::Tcp(address) => {
                let stream = StdStream::connect_timeout(address, timeout)?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Self::Unix(path) => Ok(StdStream::from(OwnedFd::from(UnixStream::connect(path)?))),
        }
    }

    /// Has the statement of that key cancelled. Blocks: on a thread of its own.
    pub(super) fn cancel(&self, key: (i32, i32)) -> Result<(), String> {
        let mut request = BytesMut::new();
        cancel_request(key, &mut request);
        let timeout = Duration::from_millis(PG_CANCEL_MS);
        let sent = self.connect(timeout).and_then(|mut stream| {
            stream.set_write_timeout(Some(timeout))?;
            stream.write_all(&request)
        });
        sent.map_err(|error| error.to_string())
    }
}

/// A connection that is logged in.
pub(super) struct Opened {
    pub(super) reads: TcpOwnedReadHalf,
    pub(super) writes: TcpOwnedWriteHalf,
    pub(super) tls: Option<Tls>,
    pub(super) session: Session,
    pub(super) control: StdStream,
    pub(super) reach: Reach,
    pub(super) info: ServerInfo,
}

/// Connects to a host and logs in.
pub(super) async fn connect(
    target: &Target,
    index: usize,
    login: Login,
    on_notice: &dyn Fn(Refusal),
) -> Result<Opened, Refusal> {
    let host = target.info.hosts[index].clone();
    let place = host.to_string();
    let time = Duration::from_millis(target.info.connect_timeout_ms);
    let seconds = time.as_secs_f32();
    let late = |what: &str| {
        let hint = "is the address right, the machine up, and does no firewall stand between?";
        let text = format!("{place} has not answered {what} within {seconds} s: {hint}");
        Refusal::of_way(Cause::Away, text)
    };
    let end = Instant::now() + time;
    let handoff = handoff::begin("pg-connect", move || reach(&host, end));
    let connected = poll_fn(|context| handoff.poll(context.waker()));
    let (stream, reach) = match monoio::time::timeout(time, connected).await {
        Ok(result) => result.map_err(|why| Refusal::of_way(Cause::Away, why))?,
        Err(_) => return Err(late("")),
    };
    let of_socket = |error: io::Error| Refusal::of_way(Cause::Away, format!("{place}: {error}"));
    // epoll must never wait in a read, and io_uring would not wait at all.
    let nonblocking = stream.set_nonblocking(monoio::utils::is_legacy());
    nonblocking.map_err(of_socket)?;
    let control = stream.try_clone().map_err(of_socket)?;
    let watched = control.try_clone().map_err(of_socket)?;
    let watch = Watch::begin(watched, end.saturating_duration_since(Instant::now()));
    let (reads, writes) = TcpStream::from_std(stream).map_err(of_socket)?.into_split();
    let mut way = Way {
        reads,
        writes,
        tls: None,
        buffer: Vec::with_capacity(READ_BYTES_MAX),
        place: place.clone(),
    };
    let result = way.log_in(target, index, login, on_notice).await;
    match result {
        Ok((session, info)) => Ok(Opened {
            reads: way.reads,
            writes: way.writes,
            tls: way.tls,
            session,
            control,
            reach,
            info,
        }),
        Err(_) if watch.is_over() => Err(late("to a login")),
        Err(why) => Err(why),
    }
}

/// Looks up and connects: to each address of the name until one answers.
fn reach(host: &Host, end: Instant) -> Result<(StdStream, Reach), String> {
    let places = match (&host.place, host.socket()) {
        (Place::Tcp(name), _) => {
            let found = (name.as_str(), host.port).to_socket_addrs();
            let found = found.map_err(|error| {
                format!("{host}: the name can't be looked up ({error}): is it spelled right?")
            })?;
            found.map(Reach::Tcp).collect()
        }
        (Place::Unix(_), path) => vec![Reach::Unix(path.unwrap_or_default())],
    };
    let mut failure = format!("{host}: the name has no address");
    for place in places {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match place.connect(left) {
            Ok(stream) => return Ok((stream, place)),
            Err(error) => failure = format!("{host}: {error}: {}", hint(&error)),
        }
    }
    Err(failure)
}

/// The likely cause of an error.
fn hint(error: &io::Error) -> &'static str {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => "nothing listens there: is PostgreSQL running, and on this port?",
        K::NotFound => "there is no such socket: is PostgreSQL running, and its directory right?",
        K::PermissionDenied => "the socket is not for this user",
        K::TimedOut => {
            "no answer: is the address right, the machine up, and does no firewall stand between?"
        }
        K::NetworkUnreachable | K::HostUnreachable => "there is no way to it from this machine",
        _ => "is the address right?",
    }
}

/// A connection on its way to a session.
struct Way {
    reads: TcpOwnedReadHalf,
    writes: TcpOwnedWriteHalf,
    tls: Option<Tls>,
    buffer: Vec<u8>,
    place: String,
}

impl Way {
    async fn log_in(
        &mut self,
        target: &Target,
        index: usize,
        login: Login,
        on_notice: &dyn Fn(Refusal),
    ) -> Result<(Session, ServerInfo), Refusal> {
        let is_local = matches!(target.info.hosts[index].place, Place::Unix(_));
        let mut secrecy = match is_local {
            true => Secrecy::Local,
            false => Secrecy::Plain,
        };
        if let Some(tls) = target.tls(index)
            && self.asks_for_tls(target.info.ssl_mode).await?
        {
            let tls = tls.begin().map_err(of_tls)?;
            secrecy = Secrecy::Tls(self.shake_hands(tls).await?);
        }
        let mut session = Session::new(login, secrecy);
        let (mut out, mut inputs) = (BytesMut::new(), Vec::new());
        let of_wire = |error: crate::pg::WireError| Refusal::of_way(Cause::Protocol, error.0);
        session.begin(&mut out).map_err(of_wire)?;
        loop {
            self.write(&out.split()).await?;
            let mut bytes = self.read().await?;
            let result = session.on_bytes(&mut bytes, &mut out, &mut inputs);
            for input in inputs.drain(..) {
                match input {
                    Input::Ready(mut info) => {
                        info.place = self.place.clone();
                        return Ok((session, info));
                    }
                    Input::Notice(notice) => on_notice(notice),
                    Input::Refused(mut why) | Input::Ended(mut why) => {
                        why.message = format!("{}: {}", self.place, why.message);
                        return Err(why);
                    }
                    Input::Answer(_) => {}
                }
            }
            result.map_err(of_wire)?;
        }
    }

    /// Whether the server takes TLS.
    async fn asks_for_tls(&mut self, mode: SslMode) -> Result<bool, Refusal> {
        let mut request = BytesMut::new();
        ssl_request(&mut request);
        self.write(&request).await?;
        let answer = self.read().await?;
        match &answer[..] {
            b"S" => Ok(true),
            b"N" if mode <= SslMode::Prefer => Ok(false),
            b"N" => Err(of_tls(format!(
                "{}: the server speaks no TLS, and sslmode asks for it",
                self.place
            ))),
            _ => Err(Refusal::of_way(
                Cause::Protocol,
                format!("{}: what answers is not PostgreSQL", self.place),
            )),
        }
    }

    /// Shakes hands; what binds a login to this connection, if that is known.
    async fn shake_hands(&mut self, tls: Tls) -> Result<Option<Vec<u8>>, Refusal> {
        self.tls = Some(tls);
        self.write(&[]).await?;
        loop {
            let early = self.read().await?;
            if let Some(tls) = &self.tls
                && tls.has_shaken_hands()
            {
                let binding = tls.certificate().and_then(end_point_of);
                // Its last word of the handshake.
                self.write(&[]).await?;
                return Ok(binding);
            }
            debug_assert!(early.is_empty());
            self.write(&[]).await?;
        }
    }

    async fn write(&mut self, plain: &[u8]) -> Result<(), Refusal> {
        let mut bytes = Vec::new();
        match &mut self.tls {
            Some(tls) => tls.seal(plain, &mut bytes),
            None => bytes.extend_from_slice(plain),
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let (result, _) = self.writes.write_all(bytes).await;
        result
            .map(drop)
            .map_err(|error| self.cut(&error.to_string()))
    }

    /// What comes next, in clear; of TLS's own words nothing.
    async fn read(&mut self) -> Result<BytesMut, Refusal> {
        let buffer = std::mem::take(&mut self.buffer);
        let (result, buffer) = self.reads.read(buffer).await;
        self.buffer = buffer;
        match result {
            Ok(0) => Err(self.cut("it was closed")),
            Ok(_) => match &mut self.tls {
                Some(tls) => tls.open(&self.buffer).map_err(of_tls),
                None => Ok(BytesMut::from(&self.buffer[..])),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(BytesMut::new()),
            Err(error) => Err(self.cut(&error.to_string())),
        }
    }

    fn cut(&self, why: &str) -> Refusal {
        let place = &self.place;
        let text = format!("{place}: the connection ended before the login did: {why}");
        Refusal::of_way(Cause::Away, text)
    }
}

fn of_tls(why: String) -> Refusal {
    Refusal::of_way(Cause::Tls, why)
}

/// Shuts a socket down after a time, unless it is dropped before.
struct Watch(Rc<Cell<bool>>);

impl Watch {
    fn begin(socket: StdStream, time: Duration) -> Self {
        let is_over = Rc::new(Cell::new(false));
        let there = Rc::downgrade(&is_over);
        monoio::spawn(async move {
            monoio::time::sleep(time).await;
            if let Some(is_over) = there.upgrade() {
                is_over.set(true);
                // A peer that is gone already is no error here.
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        Self(is_over)
    }

    fn is_over(&self) -> bool {
        self.0.get()
    }
}
