//! A WebSocket of bare bytes, which sends whatever it is given, and frames for it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::{Server, connect, upgrade_head};

/// A WebSocket of bare bytes.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn open(server: &Server, path: &str) -> Self {
        Self::over(connect(server.port), path)
    }

    pub(crate) fn over(socket: TcpStream, path: &str) -> Self {
        Self::over_with(socket, &upgrade_head(path)).0
    }

    /// The same by that head; and the head of the answer.
    pub(crate) fn over_with(socket: TcpStream, head: &str) -> (Self, String) {
        let mut raw = Self {
            socket,
            bytes: Vec::new(),
        };
        raw.send(head.as_bytes());
        loop {
            if let Some(at) = raw.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                assert!(raw.bytes.starts_with(b"HTTP/1.1 101 "), "{head}");
                let answer = raw.bytes.drain(..at + 4).collect();
                return (raw, String::from_utf8(answer).unwrap());
            }
            assert!(raw.read_more(), "no answer to the upgrade");
        }
    }

    /// Sends; the server may have closed meanwhile.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.bytes.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }

    /// The next frame: its opcode and payload. `None`: the connection has ended.
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, payload) = self.frame_and_bits()?;
        assert_eq!(first & 0x70, 0, "no reserved bits");
        Some((first & 0x0f, payload))
    }

    /// The same with the reserved bits: the frame's first byte.
    pub(crate) fn frame_and_bits(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((first, payload, len)) = parse(&self.bytes) {
                self.bytes.drain(..len);
                return Some((first, payload));
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    /// The code of the close that comes next but for other frames; `None`: it ends without one.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.frame_and_bits() {
            if first == 0x88 {
                let code = payload
                    .first_chunk()
                    .map_or(1005, |b| u16::from_be_bytes(*b));
                return Some(code);
            }
        }
        None
    }
}

/// A server's frame: not masked, whole; its first byte, its payload, and how long it is.
fn parse(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0x80, 0x80, "one frame a message");
    assert_eq!(second & 0x80, 0, "a server masks nothing");
    let (at, len) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        ),
        127 => (
            10,
            u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize,
        ),
        len => (2, usize::from(len)),
    };
    let payload = bytes.get(at..at + len)?.to_vec();
    Some((first, payload, at + len))
}

/// A client's frame: `first` is FIN, reserved bits and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            bytes.push(0xfe);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let key = [0x12, 0x34, 0x56, 0x78];
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}
