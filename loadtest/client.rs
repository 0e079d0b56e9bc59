//! One client connection as a state machine without a socket: bytes come in, frames go to a
//! [`Handler`], bytes to send gather in the [`Outbox`].
//!
//! `on_bytes` is its only input of data; it may be given any split of the stream and says how much
//! of it was used up. What it left, at most one frame, must be there again at the next call.

use crate::inflate::Inflater;
use crate::wire::{self, opcode};

/// Bytes on their way to the server. Who fills it keeps it bounded (windows, or `is_full`).
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    const BYTES_MAX: usize = 1 << 20;

    /// Whether no more should be added before some is sent.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() - self.sent > Self::BYTES_MAX
    }

    /// Adds a text frame.
    pub(crate) fn text(&mut self, text: &[u8]) {
        wire::write_frame(&mut self.bytes, opcode::TEXT, text);
    }

    /// Adds any frame.
    pub(crate) fn frame(&mut self, opcode: u8, payload: &[u8]) {
        wire::write_frame(&mut self.bytes, opcode, payload);
    }

    /// Adds bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What is still to be sent.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Takes note that the first `count` bytes of the rest went out.
    pub(crate) fn on_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    /// Drops everything, for a connection that is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The server's close frame said so.
    Code(u16),
    /// The stream ended without a close frame.
    Eof,
    /// The socket failed.
    Socket(String),
    /// The server refused the upgrade, or never answered it.
    Upgrade(String),
    /// The server broke RFC 6455.
    Protocol(&'static str),
}

impl Ending {
    /// A short name to count by.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Code(code) => code.to_string(),
            Self::Eof => "eof".into(),
            Self::Socket(error) => error.clone(),
            Self::Upgrade(reason) => format!("upgrade: {reason}"),
            Self::Protocol(reason) => format!("protocol: {reason}"),
        }
    }
}

/// Who is told what happens on connections. `now` is in nanoseconds of the run.
pub(crate) trait Handler {
    /// The upgrade is done.
    fn on_open(&mut self, id: usize, out: &mut Outbox, now: u64);
    /// A text message has come.
    fn on_text(&mut self, id: usize, out: &mut Outbox, text: &[u8], now: u64);
    /// All messages of one read have been handled.
    fn on_drained(&mut self, _id: usize, _out: &mut Outbox, _now: u64) {}
    /// A pong has come.
    fn on_pong(&mut self, _id: usize) {}
    /// The connection is gone, and not by our own doing.
    fn on_closed(&mut self, id: usize, ending: &Ending, now: u64);
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Client {
    open: bool,
    /// Whether compression is offered, and must be taken.
    pub(crate) deflates: bool,
    fragments: Vec<u8>,
    /// The server's close code, 1005 where it gave none.
    pub(crate) close_code: Option<u16>,
    /// What is to be sent.
    pub(crate) out: Outbox,
    /// Frames seen since the start.
    pub(crate) frames: u64,
}

impl Client {
    /// Whether the upgrade is done.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Handles what is whole in `bytes`, and returns how many of them that was.
    pub(crate) fn on_bytes(
        &mut self,
        id: usize,
        bytes: &[u8],
        now: u64,
        inflater: &mut Inflater,
        handler: &mut impl Handler,
    ) -> Result<usize, Ending> {
        let mut used = 0;
        if !self.open {
            match wire::read_upgrade(bytes, self.deflates).map_err(Ending::Upgrade)? {
                Some(head) => used = head,
                None => return Ok(0),
            }
            self.open = true;
            handler.on_open(id, &mut self.out, now);
        }
        while let Some(head) = wire::read_head(&bytes[used..]).map_err(Ending::Protocol)? {
            let start = used + head.head_bytes;
            let Some(payload) = bytes.get(start..start + head.payload_bytes) else {
                break;
            };
            used = start + head.payload_bytes;
            self.frames += 1;
            match head.opcode {
                _ if head.deflated && !self.deflates => {
                    return Err(Ending::Protocol("a reserved bit is set"));
                }
                opcode::TEXT if head.deflated && head.fin => {
                    let text = inflater.inflate(payload).map_err(Ending::Protocol)?;
                    handler.on_text(id, &mut self.out, text, now);
                }
                _ if head.deflated => {
                    return Err(Ending::Protocol("a deflated frame that is no whole text"));
                }
                opcode::TEXT if head.fin => handler.on_text(id, &mut self.out, payload, now),
                opcode::TEXT | opcode::CONTINUATION => {
                    self.on_fragment(id, head.fin, payload, now, handler)?;
                }
                opcode::PING => self.out.frame(opcode::PONG, payload),
                opcode::PONG => handler.on_pong(id),
                opcode::CLOSE => self.on_close(payload),
                _ => return Err(Ending::Protocol("an opcode that was not agreed on")),
            }
        }
        if used > 0 {
            handler.on_drained(id, &mut self.out, now);
        }
        Ok(used)
    }

    fn on_fragment(
        &mut self,
        id: usize,
        fin: bool,
        payload: &[u8],
        now: u64,
        handler: &mut impl Handler,
    ) -> Result<(), Ending> {
        if self.fragments.len() + payload.len() > wire::FRAME_BYTES_MAX {
            return Err(Ending::Protocol("a message is longer than 16 MiB"));
        }
        self.fragments.extend_from_slice(payload);
        if fin {
            let whole = std::mem::take(&mut self.fragments);
            handler.on_text(id, &mut self.out, &whole, now);
        }
        Ok(())
    }

    fn on_close(&mut self, payload: &[u8]) {
        let code = payload
            .first_chunk()
            .map_or(1005, |code| u16::from_be_bytes(*code));
        if self.close_code.replace(code).is_none() {
            self.out
                .frame(opcode::CLOSE, payload.get(..2).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, PartialEq, Debug)]
    struct Seen {
        opened: usize,
        texts: Vec<String>,
        pongs: usize,
    }

    impl Handler for Seen {
        fn on_open(&mut self, _: usize, _: &mut Outbox, _: u64) {
            self.opened += 1;
        }
        fn on_text(&mut self, _: usize, _: &mut Outbox, text: &[u8], _: u64) {
            self.texts.push(String::from_utf8_lossy(text).into_owned());
        }
        fn on_pong(&mut self, _: usize) {
            self.pongs += 1;
        }
        fn on_closed(&mut self, _: usize, _: &Ending, _: u64) {}
    }

    fn stream() -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 101 S\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            wire::ACCEPT
        )
        .into_bytes();
        wire::write_server_frame(&mut bytes, opcode::TEXT, b"one");
        wire::write_server_frame(&mut bytes, opcode::TEXT, &[b'x'; 300]);
        bytes.extend_from_slice(&[0x01, 2, b'a', b'b', 0x8a, 0, 0x80, 1, b'c']);
        wire::write_server_frame(&mut bytes, opcode::PING, b"p");
        wire::write_server_frame(&mut bytes, opcode::CLOSE, &4002u16.to_be_bytes());
        bytes
    }

    fn feed(pieces: &[&[u8]]) -> (Seen, Client) {
        let (mut seen, mut client, mut tail) = (Seen::default(), Client::default(), Vec::new());
        for piece in pieces {
            tail.extend_from_slice(piece);
            let inflater = &mut Inflater::default();
            let used = client.on_bytes(0, &tail, 0, inflater, &mut seen).unwrap();
            tail.drain(..used);
        }
        assert!(tail.is_empty());
        (seen, client)
    }

    #[test]
    fn a_stream_split_at_every_byte_reads_the_same() {
        let bytes = stream();
        let (whole, client) = feed(&[&bytes]);
        assert_eq!((whole.opened, whole.pongs), (1, 1));
        assert_eq!(
            whole.texts,
            ["one".into(), "x".repeat(300), "abc".to_string()]
        );
        assert_eq!(client.close_code, Some(4002));
        for at in 0..bytes.len() {
            let (seen, client) = feed(&[&bytes[..at], &bytes[at..]]);
            assert_eq!(seen, whole);
            assert_eq!(client.close_code, Some(4002));
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(feed(&single).0, whole);
    }

    #[test]
    fn ping_and_close_are_answered() {
        let (_, client) = feed(&[&stream()]);
        let rest = client.out.rest();
        assert_eq!(rest[0], 0x80 | opcode::PONG);
        assert_eq!(rest[7], 0x80 | opcode::CLOSE);
    }
}
