//! WebSocket frames, client to server (RFC 6455, 5): a decoder that is strict to the letter.
//!
//! It is no connection: it does not answer pings, does not echo closes. It never sees a socket;
//! whoever reads one shows it the bytes. Every RSV bit is a violation, but for RSV1 where the
//! caller lends an inflater ([`Decoder::next_inflating`]): then a compressed message is gathered as
//! it came, and inflated once it is whole.
//!
//! ```text
//!    0               1               2 ..           then        then
//!   ┌─┬─────┬───────┬─┬─────────────┬──────────────┬───────────┬─────────────────┐
//!   │F│R R R│opcode │M│ length 0-125│ 16 bits, 126 │ key,      │ payload, byte i │
//!   │I│S S S│       │=│ or 126, 127 │ 64 bits, 127 │ 4 bytes   │ xor key[i mod 4]│
//!   │N│V V V│       │1│             │ big-endian   │           │                 │
//!   └─┴─────┴───────┴─┴─────────────┴──────────────┴───────────┴─────────────────┘
//! ```
//!
//! **Fast path**: an unfragmented frame that lies whole in the input is unmasked in place and
//! handed out as a slice of it. **Slow path**: what is unfinished when the input ends is kept in
//! one box, which grows as bytes come and never by what a header declares.
//!
//! Invariants:
//! - The sequence of messages and violations depends on the bytes only, never on how they are
//!   cut: each check is made at the first byte that can fail it, in the order of the bytes.
//! - `open` is `None`, after [`Decoder::next`] gave `None`, exactly when the input ended between
//!   two messages.
//! - Gathered bytes <= `message_bytes_max`, or what that may have when deflated.

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::deflate::Inflater;
use super::encode::CONTROL_BYTES_MAX;
use super::header::{self, HEADER_BYTES_MAX, Header, Under};
use super::mask::unmask;
use super::utf8::{BadUtf8, PartialText};
use crate::model::CloseCode;

/// One message, or one control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same payload, of at most 125 bytes.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The peer closes, with code and reason if it gave any. Nothing after it counts.
    Close(Option<(CloseCode, &'a str)>),
}

/// The peer broke a rule: close with `code`, and read no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({})", code.0)]
pub struct Violation {
    /// What to close with.
    pub code: CloseCode,
    /// Which rule, for the close frame and the log.
    pub reason: &'static str,
}

/// What a decoder lets through.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLimits {
    /// Bytes of one message, its fragments together.
    pub message_bytes_max: usize,
    /// Fragments of one message, empty ones included; 0: no limit.
    pub fragments_max: u32,
    /// Whether binary messages are taken; if not they are violation 1003.
    pub binary_taken: bool,
}

/// The decoder of one connection: 8 bytes while nothing is unfinished.
#[derive(Debug, Default)]
pub struct Decoder {
    open: Option<Box<Open>>,
}

/// What is unfinished.
#[derive(Debug)]
struct Open {
    /// The first `header_len` bytes of a header that is not whole.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// The frame whose payload is under way, and how many bytes of it have come.
    frame: Option<(Header, usize)>,
    /// The payload of a control frame under way.
    control: [u8; CONTROL_BYTES_MAX],
    /// The message under way.
    message: Option<Gathered>,
    /// The message was handed out, and goes with the next call.
    spent: bool,
}

/// A message in pieces.
#[derive(Debug)]
struct Gathered {
    body: Body,
    fragments: u32,
}

#[derive(Debug)]
enum Body {
    Text(PartialText),
    Binary(Vec<u8>),
    /// Not inflated yet.
    Compressed(Data, Vec<u8>),
}

/// What one step led to. Holds places and not slices, so that `next` may loop.
enum Step {
    /// The input is used up.
    Hungry,
    /// A fragment ended: read on.
    Onward,
    /// A frame lies whole, and unmasked, in the input from `start` to `at`.
    InInput {
        opcode: OpCode,
        compressed: bool,
        start: usize,
    },
    /// A control frame lies in `open.control`.
    InControl { opcode: OpCode, len: usize },
    /// A message lies in `open.message`.
    InMessage,
}

impl Decoder {
    /// A decoder between two messages.
    pub const fn new() -> Self {
        Self { open: None }
    }

    /// Reads on from `input[*at..]` and advances `*at` behind what was taken. `None`: the input is
    /// used up. Call it until then: what was handed out from memory is freed by the next call.
    ///
    /// # Errors
    /// After a [`Violation`] the decoder is not to be asked again.
    pub fn next<'a>(
        &'a mut self,
        limits: &DecoderLimits,
        input: &'a mut [u8],
        at: &mut usize,
    ) -> Result<Option<Message<'a>>, Violation> {
        self.release();
        if self.open.is_none()
            && let Some(header) = header::parse_whole_text(&input[*at..], limits)
        {
            let start = *at + header.len;
            *at = start + header.payload_len;
            unmask(&mut input[start..*at], header.key, 0);
            return message(header.opcode, &input[start..*at]).map(Some);
        }
        let step = self.find(limits, false, input, at)?;
        self.hand_out(step, &input[..*at])
    }

    /// The same on a connection that has agreed on permessage-deflate: compressed messages, at most
    /// `message_bytes_max` when inflated, are handed out from the memory of `inflater`.
    ///
    /// # Errors
    /// See [`Decoder::next`].
    pub fn next_inflating<'a>(
        &'a mut self,
        limits: &DecoderLimits,
        inflater: &'a mut Inflater,
        input: &'a mut [u8],
        at: &mut usize,
    ) -> Result<Option<Message<'a>>, Violation> {
        self.release();
        let step = self.find(limits, true, input, at)?;
        let (opcode, payload) = match step {
            Step::InInput {
                opcode,
                compressed: true,
                start,
            } => (opcode, &input[start..*at]),
            Step::InMessage
                if let Some(Gathered {
                    body: Body::Compressed(data, bytes),
                    ..
                }) = self.open.as_ref().and_then(|open| open.message.as_ref()) =>
            {
                (OpCode::Data(*data), &bytes[..])
            }
            step => return self.hand_out(step, &input[..*at]),
        };
        let payload = inflater.inflate(payload, limits.message_bytes_max)?;
        message(opcode, payload).map(Some)
    }

    /// Steps on to the next message.
    fn find(
        &mut self,
        limits: &DecoderLimits,
        inflates: bool,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Step, Violation> {
        loop {
            match self.step(limits, inflates, input, at)? {
                Step::Onward => {}
                step => return Ok(step),
            }
        }
    }

    /// The message that was found, of `taken` input.
    fn hand_out<'a>(
        &'a self,
        step: Step,
        taken: &'a [u8],
    ) -> Result<Option<Message<'a>>, Violation> {
        let open = self.open.as_ref();
        match step {
            Step::Onward | Step::Hungry => Ok(None),
            Step::InInput { opcode, start, .. } => message(opcode, &taken[start..]).map(Some),
            Step::InControl { opcode, len } => {
                message(opcode, open.map_or(&[][..], |open| &open.control[..len])).map(Some)
            }
            Step::InMessage => Ok(open.and_then(|open| open.gathered())),
        }
    }

    /// Whether nothing is unfinished.
    pub fn is_idle(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.is_finished())
    }

    /// Bytes of memory held for what is unfinished; 0 when idle.
    pub fn buffered_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| {
            size_of::<Open>()
                + open
                    .message
                    .as_ref()
                    .map_or(0, |message| message.body.capacity())
        })
    }

    /// Frees what the last call handed out.
    fn release(&mut self) {
        if let Some(open) = &mut self.open {
            if open.is_finished() {
                self.open = None;
            } else if open.spent {
                open.message = None;
                open.spent = false;
            }
        }
    }

    fn step(
        &mut self,
        limits: &DecoderLimits,
        inflates: bool,
        input: &mut [u8],
        at: &mut usize,
    ) -> Result<Step, Violation> {
        if let Some(open) = &mut self.open
            && open.frame.is_some()
        {
            return open.take_payload(input, at);
        }
        let Some(header) = self.take_header(limits, inflates, &input[*at..], at)? else {
            return Ok(Step::Hungry);
        };
        let control = matches!(header.opcode, OpCode::Control(_));
        let alone = control || (header.fin && header.opcode != OpCode::Data(Data::Continue));
        if alone && input.len() - *at >= header.payload_len {
            let start = *at;
            *at += header.payload_len;
            unmask(&mut input[start..*at], header.key, 0);
            return Ok(Step::InInput {
                opcode: header.opcode,
                compressed: header.compressed,
                start,
            });
        }
        let open = self.open.get_or_insert_with(Open::new);
        open.begin(header);
        open.take_payload(input, at)
    }

    /// Takes a header from `rest`, or what there is of one.
    fn take_header(
        &mut self,
        limits: &DecoderLimits,
        inflates: bool,
        rest: &[u8],
        at: &mut usize,
    ) -> Result<Option<Header>, Violation> {
        let Some(open) = &mut self.open else {
            let header = header::parse(rest, None, limits, inflates)?;
            match header {
                Some(header) => *at += header.len,
                None if rest.is_empty() => {}
                None => {
                    *at += rest.len();
                    self.open.get_or_insert_with(Open::new).keep_header(rest);
                }
            }
            return Ok(header);
        };
        let kept = open.header_len;
        let under = open.message.as_ref().map(Gathered::under);
        let more = rest.len().min(HEADER_BYTES_MAX - kept);
        open.keep_header(&rest[..more]);
        let header = header::parse(&open.header[..kept + more], under, limits, inflates)?;
        // Not whole means that all of the rest was taken: 14 bytes are always enough.
        *at += header.map_or(more, |header| header.len - kept);
        if header.is_some() {
            open.header_len = 0;
        }
        Ok(header)
    }
}

impl Open {
    fn new() -> Box<Self> {
        Box::new(Self {
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            control: [0; CONTROL_BYTES_MAX],
            message: None,
            spent: false,
        })
    }

    fn is_finished(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && (self.message.is_none() || self.spent)
    }

    fn keep_header(&mut self, bytes: &[u8]) {
        self.header[self.header_len..self.header_len + bytes.len()].copy_from_slice(bytes);
        self.header_len += bytes.len();
    }

    fn begin(&mut self, header: Header) {
        self.frame = Some((header, 0));
        match (header.opcode, &mut self.message) {
            (OpCode::Data(Data::Continue), Some(message)) => {
                message.fragments = message.fragments.saturating_add(1);
            }
            (OpCode::Data(data), _) => {
                let body = match data {
                    data if header.compressed => Body::Compressed(data, Vec::new()),
                    Data::Text => Body::Text(PartialText::default()),
                    _ => Body::Binary(Vec::new()),
                };
                self.message = Some(Gathered { body, fragments: 1 });
            }
            (OpCode::Control(_), _) => {}
        }
    }

    /// Takes what has come of the payload of `frame`.
    fn take_payload(&mut self, input: &mut [u8], at: &mut usize) -> Result<Step, Violation> {
        let Some((header, taken)) = &mut self.frame else {
            return Ok(Step::Onward);
        };
        let (header, from) = (*header, *taken);
        let len = (input.len() - *at).min(header.payload_len - from);
        let piece = &mut input[*at..*at + len];
        unmask(piece, header.key, from);
        *at += len;
        *taken += len;
        let whole = *taken == header.payload_len;
        match (header.opcode, &mut self.message) {
            (OpCode::Control(_), _) => self.control[from..from + len].copy_from_slice(piece),
            (OpCode::Data(_), Some(message)) => message.body.push(piece)?,
            (OpCode::Data(_), None) => debug_assert!(false, "a data frame is of some message"),
        }
        if !whole {
            return Ok(Step::Hungry);
        }
        self.frame = None;
        if let OpCode::Control(_) = header.opcode {
            return Ok(Step::InControl {
                opcode: header.opcode,
                len: header.payload_len,
            });
        }
        if !header.fin {
            return Ok(Step::Onward);
        }
        if let Some(Gathered {
            body: Body::Text(text),
            ..
        }) = &self.message
        {
            text.finish()?;
        }
        self.spent = true;
        Ok(Step::InMessage)
    }

    fn gathered(&self) -> Option<Message<'_>> {
        match &self.message.as_ref()?.body {
            Body::Text(text) => Some(Message::Text(text.as_str())),
            Body::Binary(bytes) => Some(Message::Binary(bytes)),
            Body::Compressed(..) => {
                debug_assert!(false, "who lends an inflater takes it from there");
                None
            }
        }
    }
}

impl Gathered {
    fn under(&self) -> Under {
        Under {
            bytes: self.body.len(),
            fragments: self.fragments,
            compressed: matches!(self.body, Body::Compressed(..)),
        }
    }
}

impl Body {
    fn push(&mut self, piece: &[u8]) -> Result<(), Violation> {
        match self {
            Self::Text(text) => text.push(piece)?,
            Self::Binary(bytes) | Self::Compressed(_, bytes) => bytes.extend_from_slice(piece),
        }
        Ok(())
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Compressed(_, bytes) => bytes.len(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Text(text) => text.capacity(),
            Self::Binary(bytes) | Self::Compressed(_, bytes) => bytes.capacity(),
        }
    }
}

/// A frame that came whole, as a message.
fn message(opcode: OpCode, payload: &[u8]) -> Result<Message<'_>, Violation> {
    Ok(match opcode {
        OpCode::Data(Data::Text) => {
            Message::Text(simdutf8::basic::from_utf8(payload).map_err(|_| BadUtf8)?)
        }
        OpCode::Data(_) => Message::Binary(payload),
        OpCode::Control(Control::Ping) => Message::Ping(payload),
        OpCode::Control(Control::Pong) => Message::Pong(payload),
        OpCode::Control(_) => Message::Close(close(payload)?),
    })
}

/// The body of a close frame (RFC 6455, 5.5.1 and 7.4).
fn close(payload: &[u8]) -> Result<Option<(CloseCode, &str)>, Violation> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        return Ok(None);
    };
    let code = CloseCode(u16::from_be_bytes(code));
    if !matches!(code.0, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::protocol("a close code that must not be sent"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| BadUtf8)?;
    Ok(Some((code, reason)))
}

impl Violation {
    /// A breach of RFC 6455 that has no close code of its own.
    pub(super) const fn protocol(reason: &'static str) -> Self {
        Self {
            code: CloseCode::PROTOCOL,
            reason,
        }
    }
}

impl From<BadUtf8> for Violation {
    fn from(_: BadUtf8) -> Self {
        Self {
            code: CloseCode::BAD_UTF8,
            reason: "the text is not UTF-8",
        }
    }
}

#[cfg(test)]
mod tests;
