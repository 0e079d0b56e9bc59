//! Bytes of a connection: HTTP, then frames.
//!
//! What is unfinished stays in the connection; what is whole is acted on at once. A panic of a
//! parser ends the one connection and is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::connection::{Phase, Stash};
use super::{Effect, Shard};
use crate::hub::ConnIndex;
use crate::model::limits::{MEMBERS_LISTED_MAX, OUTBOX_BYTES_MAX};
use crate::model::{CloseCode, ErrorCode};
use crate::net::encode::opcode;
use crate::net::{DecoderLimits, Message, Violation, push_frame};
use crate::protocol::{command, event};

const _: () = assert!(MEMBERS_LISTED_MAX > 0 && OUTBOX_BYTES_MAX > 0);

/// Runs a parser; `None` if it panicked.
pub(super) fn contained<R>(parse: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(parse)).ok()
}

/// What a frame was, once it no longer borrows from the decoder.
pub(super) enum Taken {
    Nothing,
    Acted,
    Broken(Violation),
    Panicked,
}

impl Shard {
    pub(super) fn on_bytes(&mut self, index: ConnIndex, input: &mut [u8]) {
        self.counters.bytes_in += input.len() as u64;
        let now_ms = self.now.ms;
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.heard_ms = now_ms;
        conn.pinged = false;
        match conn.phase {
            Phase::Head | Phase::Body | Phase::Answering | Phase::Joining => {
                self.on_http_bytes(index, input);
            }
            Phase::Open | Phase::Echo => self.on_frame_bytes(index, input),
            // Nothing that comes now counts.
            Phase::Events | Phase::Leaving | Phase::Closing => {}
        }
    }

    /// Takes frames while there is credit; the rest of the bytes waits in the stash.
    pub(super) fn on_frame_bytes(&mut self, index: ConnIndex, input: &mut [u8]) {
        let limits = self.decoder_limits(index);
        let now_ms = self.now.ms;
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.allowance.refill(now_ms);
        if let Some(stash) = &mut conn.stash {
            stash.0.extend_from_slice(input);
            return;
        }
        let mut decoder = std::mem::take(&mut conn.decoder);
        let mut inflater = self.lend_inflater(index);
        let mut at = 0;
        while self.is_open(index) {
            if at < input.len() && !self.may_take(index) {
                self.stall(index, &input[at..]);
                break;
            }
            let before = at;
            let next = contained(|| match &mut inflater {
                None => decoder.next(&limits, input, &mut at),
                Some(inflater) => decoder.next_inflating(&limits, inflater, input, &mut at),
            });
            let taken = match next {
                Some(Ok(Some(message))) => self.on_message(index, message, at - before),
                Some(Ok(None)) => {
                    if let Some(conn) = self.conn_mut(index) {
                        conn.allowance.begin(at - before);
                    }
                    Taken::Nothing
                }
                Some(Err(violation)) => Taken::Broken(violation),
                None => Taken::Panicked,
            };
            match taken {
                Taken::Acted => {}
                Taken::Nothing => break,
                Taken::Broken(violation) => {
                    self.close(index, violation.code, violation.reason);
                }
                Taken::Panicked => {
                    self.counters.panics += 1;
                    self.close(index, CloseCode::INTERNAL, "a fault of the server's own");
                }
            }
        }
        if let Some(inflater) = inflater {
            self.give_back_inflater(index, inflater);
        }
        if self.is_open(index)
            && let Some(conn) = self.conn_mut(index)
        {
            conn.decoder = decoder;
        }
    }

    fn is_open(&self, index: ConnIndex) -> bool {
        self.conn(index)
            .is_some_and(|conn| matches!(conn.phase, Phase::Open | Phase::Echo))
    }

    fn decoder_limits(&self, index: ConnIndex) -> DecoderLimits {
        let echo = self
            .conn(index)
            .is_some_and(|conn| conn.phase == Phase::Echo);
        let options = &self.options;
        DecoderLimits {
            message_bytes_max: if echo {
                options.echo_message_bytes_max
            } else {
                options.message_bytes_max
            },
            fragments_max: options.fragments_max,
            binary_taken: echo,
        }
    }

    /// Whether one more frame of the connection may be taken.
    pub(super) fn may_take(&self, index: ConnIndex) -> bool {
        self.has_shard_credit() && self.conn(index).is_some_and(|conn| conn.has_credit())
    }

    /// Stops reading a connection until it has credit again.
    fn stall(&mut self, index: ConnIndex, rest: &[u8]) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        if !rest.is_empty() {
            conn.stash = Some(Box::new(Stash(rest.to_vec())));
        }
        conn.paused = true;
        if !conn.resuming {
            conn.resuming = true;
            self.stalled.push(index);
        }
    }

    /// Reads on the connections that have credit again.
    pub(super) fn resume_stalled(&mut self) {
        if self.stalled.is_empty() {
            return;
        }
        for index in std::mem::take(&mut self.stalled) {
            let may_take = self.may_take(index);
            let Some(conn) = self.conn_mut(index) else {
                continue;
            };
            conn.resuming = false;
            let is_http = conn.phase == Phase::Head;
            let is_paused = conn.paused && matches!(conn.phase, Phase::Open | Phase::Echo);
            if !(is_http || is_paused) {
                continue;
            }
            if !may_take {
                conn.resuming = true;
                self.stalled.push(index);
                continue;
            }
            let was_paused = std::mem::take(&mut conn.paused);
            match conn.stash.take() {
                Some(stash) if is_http => self.on_head_bytes(index, &stash.0),
                Some(mut stash) => self.on_frame_bytes(index, &mut stash.0),
                None => {}
            }
            let heard_ms = self.now.ms;
            if let Some(conn) = self.conn_mut(index)
                && was_paused
                && !conn.paused
            {
                // It was not heard because it was not listened to.
                conn.heard_ms = heard_ms;
                self.effects.push(Effect::ResumeRead(index));
            }
        }
    }

    /// A message is whole, whose last part took `read` bytes of the wire.
    fn on_message(&mut self, index: ConnIndex, message: Message<'_>, read: usize) -> Taken {
        let echo = self
            .conn(index)
            .is_some_and(|conn| conn.phase == Phase::Echo);
        if !echo && let Err(refused) = self.take_message(index, &message, read) {
            return self.refuse_message(index, message, refused);
        }
        match message {
            Message::Ping(payload) => {
                if let Some(out) = self.out(index) {
                    push_frame(out, opcode::PONG, payload);
                }
            }
            Message::Pong(_) => {}
            Message::Close(close) => {
                let code = close.map_or(CloseCode::NORMAL, |(code, _)| code);
                if let Some(conn) = self.conn_mut(index) {
                    conn.peer_closed = true;
                }
                self.close(index, code, "");
            }
            Message::Text(text) if echo => self.echo(index, opcode::TEXT, text.as_bytes()),
            Message::Binary(bytes) => self.echo(index, opcode::BINARY, bytes),
            Message::Text(text) => match contained(|| command::parse(text)) {
                Some(Ok(request)) => self.on_command(index, request),
                Some(Err(refusal)) => {
                    self.error(index, refusal.code, &refusal.message, refusal.reference);
                }
                None => return Taken::Panicked,
            },
        }
        Taken::Acted
    }

    /// Tells a connection that what it asked is not done.
    pub(super) fn error(
        &mut self,
        index: ConnIndex,
        code: ErrorCode,
        message: &str,
        reference: Option<&str>,
    ) {
        self.counters.count_error(code);
        if let Some(out) = self.out(index) {
            event::error(out, code, message, reference);
        }
    }
}
