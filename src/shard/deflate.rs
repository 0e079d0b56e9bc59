//! permessage-deflate as a shard does it.
//!
//! What goes to a room's members is deflated once, for all who have agreed ([`Forms`], for the
//! hub's second log); what goes to one connection only (acks, errors, `joined`) and what is kept
//! for nobody goes as it is, which the extension leaves to the sender for each message. What comes
//! from the clients is inflated by one [`Inflater`] for all, since they keep no context: whoever
//! waits holds nothing. `/echo`, for conformance suites, has both streams of its own
//! ([`Echo`]).
//!
//! Invariant: the inflater is lent for the time of one call only.

use super::Shard;
use super::connection::Phase;
use super::home::text_of;
use crate::hub::{ConnIndex, Encode, Encoding};
use crate::model::Position;
use crate::model::limits::DEFLATED_BYTES_MIN;
use crate::net::deflate::{Agreed, Deflater, Inflater};
use crate::net::encode::{self, OpCode};
use crate::net::{push_compressed, push_frame};
use crate::protocol::stream;

/// Makes the other forms of a room's frames. The deflater is there from the first frame on that
/// somebody wants deflated.
#[derive(Debug, Default)]
pub(super) struct Forms {
    deflater: Option<Deflater>,
    deflated: Vec<u8>,
}

impl Encode for Forms {
    fn encode(&mut self, encoding: Encoding, at: Position, plain: &[u8], out: &mut Vec<u8>) {
        match encoding {
            Encoding::Deflate => self.deflate(plain, out),
            Encoding::Events => stream::message(out, at, text_of(plain)),
            Encoding::Plain => out.extend_from_slice(plain),
        }
    }
}

impl Forms {
    /// Deflated if it gets smaller by it, else as it is.
    fn deflate(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let whole = encode::take_apart(plain);
        let Some((opcode, payload)) = whole.filter(|whole| whole.1.len() >= DEFLATED_BYTES_MIN)
        else {
            out.extend_from_slice(plain);
            return;
        };
        let deflater = self
            .deflater
            .get_or_insert_with(|| Deflater::new(15, false));
        self.deflated.clear();
        deflater.deflate(payload, &mut self.deflated);
        if self.deflated.len() < payload.len() {
            push_compressed(out, opcode, &self.deflated);
        } else {
            out.extend_from_slice(plain);
        }
    }
}

/// The streams of a connection to `/echo`.
#[derive(Debug)]
pub(super) struct Echo {
    agreed: Agreed,
    deflater: Option<Deflater>,
    inflater: Inflater,
}

impl Echo {
    pub(super) fn new(agreed: Agreed) -> Self {
        Self {
            agreed,
            deflater: None,
            inflater: Inflater::new(agreed.client_takeover),
        }
    }

    fn deflater(&mut self) -> &mut Deflater {
        let Agreed {
            server_bits,
            server_takeover,
            ..
        } = self.agreed;
        self.deflater
            .get_or_insert_with(|| Deflater::new(server_bits, server_takeover))
    }
}

impl Shard {
    /// What inflates the messages of a connection, if it has agreed to deflate.
    pub(super) fn lend_inflater(&mut self, index: ConnIndex) -> Option<Inflater> {
        let conn = self.conn(index)?;
        let inflater = match conn.phase {
            Phase::Echo => &mut self.echoes.get_mut(&index)?.inflater,
            _ if conn.encoding == Encoding::Deflate => &mut self.inflater,
            _ => return None,
        };
        Some(std::mem::take(inflater))
    }

    pub(super) fn give_back_inflater(&mut self, index: ConnIndex, mut inflater: Inflater) {
        inflater.release();
        match self.echoes.get_mut(&index) {
            Some(echo) => echo.inflater = inflater,
            // Of an echo that is closed it is of no use.
            None if inflater.has_takeover() => {}
            None => self.inflater = inflater,
        }
    }

    /// Sends a message back as it was agreed.
    pub(super) fn echo(&mut self, index: ConnIndex, opcode: OpCode, payload: &[u8]) {
        let mut deflated = std::mem::take(&mut self.scratch);
        deflated.clear();
        let deflates = match self.echoes.get_mut(&index) {
            Some(echo) => {
                echo.deflater().deflate(payload, &mut deflated);
                true
            }
            None => false,
        };
        if let Some(out) = self.out(index) {
            match deflates {
                true => push_compressed(out, opcode, &deflated),
                false => push_frame(out, opcode, payload),
            }
        }
        self.scratch = deflated;
    }
}
