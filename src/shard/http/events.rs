//! Server-sent events: `GET /api/rooms/{room}/events` (PROTOCOL 2).
//!
//! The connection joins the room like any member, and takes its frames in the form of events: the
//! same cursor in the same room, the same rules for who is slow. It is answered once it has joined;
//! then nothing that it sends counts any more, and its stream ends when the connection does.
//!
//! ```text
//! Head ─▶ Joining ─▶ Events ─▶ Closing
//!   └────────┴▶ refused: an answer like any other
//! ```
//!
//! It counts as a connection of its address, and beginning it as a message.

use crate::access::Caller;
use crate::hub::{ConnIndex, Encoding};
use crate::model::limits::HISTORY_ANSWER_MS;
use crate::net::{Delivery, response};
use crate::protocol::command::{Command, Request};
use crate::protocol::{event, stream};
use crate::shard::Shard;
use crate::shard::connection::Phase;
use crate::shard::event::{Entrant, Following};

const MEDIA_TYPE: &str = "text/event-stream";
/// Nobody between is to keep it, or to hold it back.
const HEADERS: &[(&str, &str)] = &[("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")];

impl Shard {
    /// Asks whether it may be; to HEAD all is said without it.
    pub(super) fn begin_events(&mut self, index: ConnIndex, following: Following) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let Some(exchange) = &mut conn.exchange else {
            return;
        };
        // It has no length, and so ends with the connection.
        exchange.closes = true;
        if exchange.is_head() {
            return self.answer(index, response::stream(MEDIA_TYPE, HEADERS));
        }
        self.enter_address(index, Entrant::Stream(Box::new(following)));
    }

    /// It may be: joins.
    pub(in crate::shard) fn follow(&mut self, index: ConnIndex, following: Following) {
        let deadline_ms = self.now.ms + 2 * HISTORY_ANSWER_MS;
        let Following {
            room,
            since,
            caller,
        } = following;
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.phase = Phase::Joining;
        conn.deadline_ms = deadline_ms;
        conn.encoding = Encoding::Events;
        if let Caller::User(claims) = caller {
            self.become_user(index, claims);
        }
        self.add_user(index);
        self.join_address(index);
        let command = Command::Join {
            room: room.as_str().into(),
            username: None,
            since,
            presence: false,
        };
        let reference = None;
        self.on_command(index, Request { command, reference });
    }

    /// It has joined, for the first time or because the room's offsets begin anew.
    pub(in crate::shard) fn stream_joined(&mut self, index: ConnIndex, joined: &event::Joined<'_>) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        if conn.phase == Phase::Joining {
            let exchange = conn.exchange.take();
            conn.phase = Phase::Events;
            conn.deadline_ms = u64::MAX;
            conn.stash = None;
            if std::mem::take(&mut conn.paused) {
                self.effects.push(crate::shard::Effect::ResumeRead(index));
            }
            let mut answer = response::stream(MEDIA_TYPE, HEADERS);
            if let Some(exchange) = exchange {
                answer = exchange.share(answer);
            }
            let delivery = Delivery {
                closes: true,
                is_head: false,
            };
            if let Some(out) = self.out(index) {
                answer.write(out, delivery);
                let position = crate::model::Position {
                    epoch: joined.epoch,
                    offset: joined.offset,
                };
                stream::begin(out, position);
            }
        }
        if joined.recovered == Some(false)
            && let Some(out) = self.out(index)
        {
            stream::reset(out, joined);
        }
    }

    /// Nothing may have been said for a while.
    pub(in crate::shard) fn beat(&mut self, index: ConnIndex) {
        if let Some(out) = self.out(index) {
            out.extend_from_slice(stream::HEARTBEAT);
        }
    }
}
