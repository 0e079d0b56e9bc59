//! Asking a running instance from outside: `ringcast health` and `ringcast drain`.
//!
//! Blocking sockets with deadlines, in a process that does nothing else. Each answer is one line.
//!
//! ```text
//! health:  GET /health over HTTP/1.1 on loopback  ─▶ 200 and a JSON object
//! drain:   connect <data-dir>/drain.sock          ─▶ "draining\n"
//! ```

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::tls;
use crate::config::Config;

/// How long the instance has for each step, and for its whole answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read at most.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// The drain socket's name in the data dir.
pub const DRAIN_SOCKET: &str = "drain.sock";
/// What an instance answers there, once it drains.
pub const DRAINING: &str = "draining";

/// Asks `/health` of the instance of this machine, or of the worker, that has these settings, and
/// gives its answer's body. Who answers to TLS here is this machine, whatever its certificate says.
///
/// # Errors
/// One line: what went wrong on the way, or an answer that is not 200.
pub fn health(config: &Config) -> Result<String, String> {
    let (address, is_sealed) = (config.health_address(), config.health_is_sealed());
    health_at(
        SocketAddr::new(reachable(address.ip()), address.port()),
        is_sealed,
    )
}

fn health_at(address: SocketAddr, is_sealed: bool) -> Result<String, String> {
    let answer = ask_http(address, is_sealed).map_err(|error| format!("{address}: {error}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').collect::<Vec<_>>()[..] {
        [version, "200", ..] if version.starts_with("HTTP/1.") => Ok(body.trim().to_owned()),
        _ => Err(format!("{address}: answered {status:?}")),
    }
}

/// Asks the instance of this data dir to drain.
///
/// # Errors
/// One line: there is none, or it did not say that it drains.
pub fn drain(data_dir: &Path) -> Result<String, String> {
    let path = data_dir.join(DRAIN_SOCKET);
    let ask = || -> io::Result<Vec<u8>> {
        let mut socket = UnixStream::connect(&path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        read_until(&mut socket, |answer| answer.contains(&b'\n'))
    };
    let answer = ask().map_err(|error| {
        let cause = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "; no instance runs on this data dir (see --data-dir)"
            }
            _ => "",
        };
        format!("{}: {error}{cause}", path.display())
    })?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.trim_end() {
        DRAINING => Ok(DRAINING.to_owned()),
        other => Err(format!("{}: answered {other:?}", path.display())),
    }
}

/// Where one that listens on `bind` is reached from this machine.
fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn ask_http(address: SocketAddr, is_sealed: bool) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    if is_sealed {
        let mut sealed = tls::with_anybody(socket, address.ip())?;
        sealed.write_all(request.as_bytes())?;
        return read_until(&mut sealed, |_| false);
    }
    socket.write_all(request.as_bytes())?;
    read_until(&mut socket, |_| false)
}

/// Reads until the peer is done or `enough` says so, and no longer than [`PATIENCE`] in all.
fn read_until(socket: &mut impl Read, enough: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let started = Instant::now();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let mut socket = socket.take(ANSWER_BYTES_MAX);
    while !enough(&answer) {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A blocking socket whose time is up says EAGAIN, which tells nobody anything.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
        if started.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    /// What `health` makes of an answer.
    fn health_of(answer: &'static str) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:"));
            socket.write_all(answer.as_bytes()).unwrap();
        });
        let result = health_at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), false);
        server.join().unwrap();
        result
    }

    #[test]
    fn health_is_200_and_nothing_else() {
        let good = health_of("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}");
        assert_eq!(good, Ok("{\"status\":\"ok\"}".to_owned()));
        for bad in ["HTTP/1.1 503 No\r\n\r\n", "", "200", "SSH-2.0 200 x\r\n"] {
            assert!(health_of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nobody_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let error = health_at(nobody, false).unwrap_err();
        assert!(reachable("0.0.0.0".parse().unwrap()).is_loopback());
        assert!(
            error.contains(&port.to_string()) && !error.contains('\n'),
            "{error}"
        );
        let dir = tempfile::tempdir().unwrap();
        let error = drain(dir.path()).unwrap_err();
        assert!(
            error.contains("no instance runs on this data dir"),
            "{error}"
        );
    }

    #[test]
    fn drain_waits_for_the_word() {
        for (answer, is_good) in [("draining\n", true), ("no\n", false), ("", false)] {
            let dir = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(dir.path().join(DRAIN_SOCKET)).unwrap();
            let server = std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                socket.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(drain(dir.path()).is_ok(), is_good, "{answer:?}");
            server.join().unwrap();
        }
    }
}
