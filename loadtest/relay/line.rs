//! One socket of the relay: bytes read and not yet used, bytes that it did not take yet; and the
//! head of a client's frame.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use crate::redis::write_command;

/// What a member may be behind before it is dropped.
const OUT_BYTES_MAX: usize = 64 << 20;

/// A connection to Redis, or of a client.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) socket: OwnedFd,
    pub(super) bytes: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) wants_write: bool,
}

impl Line {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let (bytes, out, wants_write) = (Vec::new(), Vec::new(), false);
        Self {
            socket,
            bytes,
            out,
            wants_write,
        }
    }

    /// Reads once; `false`: it has ended.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> bool {
        match net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => false,
            Ok((_, count)) => {
                self.bytes.extend_from_slice(&buffer[..count]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Sends bytes at once, or keeps what the socket does not take; `false`: it has ended.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        if !self.out.is_empty() {
            self.out.extend_from_slice(bytes);
            return self.out.len() <= OUT_BYTES_MAX;
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match net::send(&self.socket, bytes, flags) {
            Ok(count) => self.out.extend_from_slice(&bytes[count..]),
            Err(Errno::AGAIN | Errno::INTR) => self.out.extend_from_slice(bytes),
            Err(_) => return false,
        }
        true
    }

    /// Sends what was kept; `false`: it has ended.
    pub(super) fn flush(&mut self) -> bool {
        let out = std::mem::take(&mut self.out);
        out.is_empty() || self.send(&out)
    }
}

pub(super) fn to_redis(address: SocketAddr, first: &[&[u8]]) -> Result<Line, String> {
    let failed = |error: std::io::Error| format!("Redis at {address}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut command = Vec::new();
    write_command(&mut command, first);
    stream.write_all(&command).map_err(failed)?;
    stream.set_nonblocking(true).map_err(failed)?;
    Ok(Line::new(stream.into()))
}

/// A client's whole frame, unmasked in place: opcode, bytes of the head, bytes of the payload.
pub(super) fn read_head(bytes: &mut [u8]) -> Result<Option<(u8, usize, usize)>, &'static str> {
    let &mut [first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & 0x80 == 0 || second & 0x80 == 0 {
        return Err("a fragment, or not masked");
    }
    let (head, length) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            Some(&[high, low]) => (4, usize::from(u16::from_be_bytes([high, low]))),
            _ => return Ok(None),
        },
        127 => return Err("longer than the load tool sends"),
        short => (2, usize::from(short)),
    };
    let Some(&mask) = bytes.get(head..).and_then(|rest| rest.first_chunk::<4>()) else {
        return Ok(None);
    };
    let start = head + 4;
    let Some(payload) = bytes.get_mut(start..start + length) else {
        return Ok(None);
    };
    let mut chunks = payload.chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
    Ok(Some((first & 15, start, length)))
}
