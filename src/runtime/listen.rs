//! The listening sockets: one a shard on the same port, among which the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Connections that wait to be accepted, a shard.
const BACKLOG: i32 = 4096;
/// How long a port may be taken before somebody else has it.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Binds one listener for each shard to `address`; its port may be 0.
///
/// # Errors
/// One line that names the setting, the cause and what mends it.
pub(super) fn listen_all(
    address: SocketAddr,
    shards: usize,
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
    let listeners: io::Result<Vec<_>> = (0..shards).map(|_| open(address, true)).collect();
    Ok((listeners.map_err(explain)?, address))
}

/// The kernel takes a ring apart after its process has ended: for a moment the listener of an
/// instance that is gone is still there.
fn open_patiently(address: SocketAddr) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match open(address, false) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < PATIENCE =>
            {
                std::thread::sleep(PATIENCE / 50);
            }
            other => return other,
        }
    }
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    if shared {
        // What is accepted inherits it: small frames must not wait for an acknowledgement.
        sockopt::set_tcp_nodelay(&socket, true)?;
        listen(&socket, BACKLOG)?;
    }
    Ok(TcpListener::from(socket))
}
