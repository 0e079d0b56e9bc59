//! Connecting: a name's lookup blocks, and a connect that was given up must not leave a socket
//! behind. So a thread does both with std and hands the socket over; the shard's task waits for
//! that and may stop waiting at any time.
//!
//! A lookup can take longer than anyone waits for it (the resolver's own timeouts); then its
//! thread's result is dropped when it comes.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::handoff::{self, Handoff};
use super::super::tls::{Peer, Tls, TlsTarget};
use crate::model::limits::LINK_CONNECT_MS;
use crate::resp::Address;

const PEER: Peer = Peer {
    name: "Redis",
    plain: "Without it the address is redis://",
    alert: "does Redis ask for clients' certificates (tls-auth-clients no)?",
    trust: "this machine trusts (SSL_CERT_FILE)",
};

/// Where the links go.
#[derive(Clone)]
pub(in super::super) struct Target {
    address: Arc<Address>,
    tls: Option<TlsTarget>,
}

impl Target {
    /// The target of an address; for `rediss://` with the certificates that this machine trusts
    /// (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or the system's). Reads files: at the start, not on a
    /// shard.
    ///
    /// # Errors
    /// One line: there are no certificates, or the host can't be a certificate's.
    pub(in super::super) fn new(address: Address) -> Result<Self, String> {
        let tls = match address.tls {
            true => {
                let target = TlsTarget::new(&address.host, &PEER);
                Some(target.map_err(|why| format!("{address}: {why}"))?)
            }
            false => None,
        };
        let address = Arc::new(address);
        Ok(Self { address, tls })
    }

    /// The target of an address that speaks TLS by the word of `roots`.
    #[cfg(test)]
    pub(super) fn trusting(address: Address, roots: rustls::RootCertStore) -> Self {
        let tls = TlsTarget::trusting(&address.host, roots, &PEER).unwrap();
        Self {
            address: Arc::new(address),
            tls: Some(tls),
        }
    }

    /// The state of a connection's TLS, if it is to have any.
    pub(super) fn tls(&self) -> Option<Result<Tls, String>> {
        self.tls.as_ref().map(TlsTarget::begin)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Begins to connect.
pub(super) fn begin(target: Target) -> Arc<Handoff<TcpStream>> {
    handoff::begin("redis-connect", move || connect(&target))
}

/// Tries each address of the name until one answers, all within the time there is.
fn connect(target: &Target) -> Result<TcpStream, String> {
    let Address { host, port, .. } = &*target.address;
    let end = Instant::now() + Duration::from_millis(LINK_CONNECT_MS);
    let found = (host.as_str(), *port).to_socket_addrs();
    let found = found.map_err(|error| {
        format!("{target}: the name can't be looked up ({error}): is it spelled right?")
    })?;
    let mut failure = format!("{target}: the name has no address");
    for address in found {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = format!("{target} at {address}: {}", explain(&error)),
        }
    }
    Err(failure)
}

/// The error, its likely cause and what mends it.
fn explain(error: &io::Error) -> String {
    use io::ErrorKind as K;
    let hint = match error.kind() {
        K::ConnectionRefused => "nothing listens there: is Redis running, and on this port?",
        K::TimedOut => {
            "no answer: is the address right, the machine up, and does no firewall stand between?"
        }
        K::NetworkUnreachable | K::HostUnreachable => "there is no way to it from this machine",
        _ => "is the address right?",
    };
    format!("{error}: {hint}")
}
