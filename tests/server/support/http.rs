//! Sockets to a server, and HTTP over them: requests as text, and answers.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};

use serde_json::Value;

use super::PATIENCE;

pub(crate) fn connect(port: u16) -> TcpStream {
    connect_to(("127.0.0.1", port))
}

pub(crate) fn connect_to(address: impl ToSocketAddrs) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    bound(&socket);
    socket
}

fn bound(socket: &TcpStream) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
}

/// A connection from this loopback address.
pub(crate) fn connect_from(address: [u8; 4], port: u16) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let from = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&from, &SocketAddr::from((address, 0))).unwrap();
    connect(&from, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let socket = TcpStream::from(from);
    bound(&socket);
    socket
}

/// A connection whose receive buffer is as small as the system lets it be.
pub(crate) fn connect_narrow(port: u16) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, socket, sockopt};
    let narrow = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&narrow, 4096).unwrap();
    rustix::net::connect(&narrow, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let socket = TcpStream::from(narrow);
    bound(&socket);
    socket
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads one answer to its end, and where it is the last of the connection to the end of that.
    pub(crate) fn read(socket: &mut TcpStream) -> Self {
        let mut answer = Self::read_head(socket);
        let length = answer.header("content-length");
        let mut body = Vec::new();
        if answer.is_last() {
            body = read_to_end(socket);
        } else if let Some(length) = length {
            body = vec![0; length.parse().unwrap()];
            socket.read_exact(&mut body).unwrap();
        }
        answer.body = String::from_utf8_lossy(&body).into_owned();
        answer
    }

    /// Reads the head of an answer, and no byte more.
    pub(crate) fn read_head(socket: &mut TcpStream) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    panic!("no answer, and no end of the connection: {error}")
                }
                _ => break,
            }
        }
        let text = String::from_utf8_lossy(&head);
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head: text.trim_end().to_ascii_lowercase(),
            body: String::new(),
        }
    }

    /// The value of a header, lower-cased.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1);
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields.find_map(|(field, value)| (field == name).then(|| value.to_owned()))
    }

    /// Whether the connection ends behind it.
    pub(crate) fn is_last(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value == "close")
            || self.status == 0
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What comes until the end of the connection, whatever way it ends.
pub(crate) fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection was not closed: {error}"),
    }
    bytes
}

/// A head that asks for an upgrade.
pub(crate) fn upgrade_head(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A request that publishes.
#[allow(dead_code, reason = "not all binaries publish so")]
pub(crate) fn post(room: &str, body: &str) -> String {
    format!(
        "POST /api/rooms/{room}/messages HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
