//! The listening sockets: one a shard on the same port, among which the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Connections that wait to be accepted, a shard.
const BACKLOG: i32 = 4096;
/// How long a port may be taken before somebody else has it.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Binds one listener for each shard to `address`; its port may be 0. A connection whose peer
/// acknowledges nothing for `silence` breaks.
///
/// # Errors
/// One line that names the setting, the cause and what mends it.
pub(super) fn listen_all(
    address: SocketAddr,
    shards: usize,
    silence: Duration,
) -> Result<(Vec<TcpListener>, SocketAddr), String> {
    let explain = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there: stop it, or choose another --port"
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 need the right to bind them",
            io::ErrorKind::AddrNotAvailable => {
                "no interface of this machine has that --bind address"
            }
            _ => "see --bind and --port",
        };
        format!("cannot listen on {address}: {error}; {hint}")
    };
    // A listener that does not share its port finds out whether somebody else's does.
    let probe = open_patiently(address).map_err(explain)?;
    let address = probe.local_addr().map_err(explain)?;
    drop(probe);
    let listeners: io::Result<Vec<_>> = (0..shards).map(|_| open(address, Some(silence))).collect();
    Ok((listeners.map_err(explain)?, address))
}

/// The kernel takes a ring apart after its process has ended: for a moment the listener of an
/// instance that is gone is still there.
fn open_patiently(address: SocketAddr) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match open(address, None) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < PATIENCE =>
            {
                std::thread::sleep(PATIENCE / 50);
            }
            other => return other,
        }
    }
}

/// With `silence` it shares its port.
fn open(address: SocketAddr, silence: Option<Duration>) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if silence.is_some() {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    if let Some(silence) = silence {
        // What is accepted inherits both. Small frames must not wait for an acknowledgement. And
        // who is only sent to, a stream of events, is not heard of in any other way (RFC 5482).
        sockopt::set_tcp_nodelay(&socket, true)?;
        let silence_ms = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&socket, silence_ms)?;
        listen(&socket, BACKLOG)?;
    }
    Ok(TcpListener::from(socket))
}
