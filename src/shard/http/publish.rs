//! Publishing over HTTP: the body is gathered, then it goes the way of every publish. The answer
//! comes once it is stored, or says after [`PUBLISH_ANSWER_MS`] that nobody knows.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::json;

use super::contained;
use crate::access::Caller;
use crate::backplane::Publish;
use crate::hub::ConnIndex;
use crate::model::limits::{BODY_MS, PUBLISH_ANSWER_MS};
use crate::model::{Epoch, ErrorCode, MessageId, Name, RoomName};
use crate::net::{Body, BodyReader, response};
use crate::protocol::publication;
use crate::shard::connection::Phase;
use crate::shard::{ConnId, Shard};

const FAULT: &str = "a fault of the server's own";

impl Shard {
    /// The head was good: its body comes, or is there.
    pub(super) fn begin_posting(
        &mut self,
        index: ConnIndex,
        room: RoomName,
        body: Body,
        expects: bool,
    ) {
        let deadline_ms = self.now.ms + BODY_MS;
        let reader = match BodyReader::new(body, self.options.message_bytes_max) {
            Ok(reader) => reader,
            Err(error) => return self.refuse(index, response::refuse(&error)),
        };
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let Some(exchange) = &mut conn.exchange else {
            return;
        };
        exchange.posted = Some((room, reader));
        conn.phase = Phase::Body;
        conn.deadline_ms = deadline_ms;
        let behind = conn.stash.take();
        if expects
            && behind.is_none()
            && let Some(out) = self.out(index)
        {
            // RFC 9110, 10.1.1.
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.on_body_bytes(index, &behind.unwrap_or_default().0);
    }

    /// What is behind the body stays for later.
    pub(super) fn on_body_bytes(&mut self, index: ConnIndex, input: &[u8]) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let Some(exchange) = &mut conn.exchange else {
            return;
        };
        let Some((_, reader)) = &mut exchange.posted else {
            return;
        };
        match contained(|| reader.take(input)) {
            Some(Ok(taken)) => {
                if !reader.is_whole() {
                    return;
                }
                let posted = exchange.posted.take();
                exchange.closes = exchange.wants_close;
                if taken < input.len() {
                    conn.stash.get_or_insert_default().0 = input[taken..].to_vec();
                }
                if let Some((room, reader)) = posted {
                    self.publish_body(index, room, &reader.into_bytes());
                }
            }
            Some(Err(error)) => self.refuse(index, response::refuse(&error)),
            None => {
                self.counters.panics += 1;
                self.refuse_publish(index, ErrorCode::Internal, FAULT);
            }
        }
    }

    fn publish_body(&mut self, index: ConnIndex, room: RoomName, body: &[u8]) {
        let exchange = self.conn(index).and_then(|conn| conn.exchange.as_ref());
        let Some(client) = exchange.map(|exchange| exchange.address) else {
            return;
        };
        if let Err(over) = self.take_request(index, client, body.len()) {
            if let Some(conn) = self.conn_mut(index)
                && let Some(exchange) = &mut conn.exchange
            {
                exchange.closes |= over.is_enough;
            }
            return self.answer(index, over.answer);
        }
        let parsed = contained(|| publication::parse(body)).unwrap_or_else(|| {
            self.counters.panics += 1;
            Err((ErrorCode::Internal, Cow::from(FAULT)))
        });
        let publication = match parsed {
            Ok(publication) => publication,
            Err((code, why)) => return self.refuse_publish(index, code, &why),
        };
        if !self.has_shard_credit() {
            let why = "too many requests are under way; try again later";
            return self.refuse_publish(index, ErrorCode::Overloaded, why);
        }
        let metadata = publication.metadata.map(str::as_bytes);
        let bytes = publication.payload.len() + metadata.map_or(0, <[u8]>::len);
        let Some(asker) = self.asker(index, bytes, None) else {
            return;
        };
        if self.begin_answering(index, PUBLISH_ANSWER_MS).is_none() {
            return;
        }
        let Some(conn) = self.conn(index) else { return };
        let mut user_id = publication.user_id.map(Name::from);
        let mut username = publication.username.map(Name::from);
        if let Some(Caller::User(claims)) = conn.exchange.as_ref().map(|it| &it.caller) {
            // Whatever the body says.
            (user_id, username) = (Some(claims.user_id.clone()), claims.username.clone());
        }
        let publish = Publish {
            room,
            id: publication.id,
            user_id: user_id.unwrap_or_else(|| conn.user_id.clone()),
            username,
            payload: Bytes::copy_from_slice(publication.payload.as_bytes()),
            metadata: metadata.map(Bytes::copy_from_slice),
            echo: true,
            arrived_us: self.now.us,
        };
        self.post_publish(asker, publish);
    }

    /// Whether the connection waits for what becomes of its request over HTTP.
    pub(in crate::shard) fn is_posting(&mut self, id: ConnId) -> bool {
        self.find_conn(id)
            .is_some_and(|conn| matches!(conn.phase, Phase::Answering | Phase::Joining))
    }

    /// It is stored.
    pub(in crate::shard) fn on_posted(
        &mut self,
        index: ConnIndex,
        id: MessageId,
        offset: u64,
        epoch: Option<Epoch>,
    ) {
        let mut body = json!({"id": id.hyphenated().to_string(), "offset": offset});
        if let Some(epoch) = epoch {
            body["epoch"] = epoch.as_str().into();
        }
        let answer = response::build(200, response::JSON, &[], body.to_string().as_bytes());
        self.answer(index, answer);
    }

    /// It is not stored.
    pub(in crate::shard) fn refuse_publish(
        &mut self,
        index: ConnIndex,
        code: ErrorCode,
        why: &str,
    ) {
        self.counters.count_error(code);
        let again = [("Retry-After", "1")];
        let status = status_of(code);
        let again = if matches!(status, 429 | 503) {
            &again[..]
        } else {
            &[]
        };
        self.answer(index, response::error(status, code.as_str(), why, again));
    }
}

/// The HTTP status that says what a code does.
fn status_of(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::BadJson
        | ErrorCode::BadFrame
        | ErrorCode::UnknownType
        | ErrorCode::BadRoom
        | ErrorCode::NotJoined => 400,
        ErrorCode::Unauthorized => 401,
        ErrorCode::Forbidden => 403,
        ErrorCode::TooLarge => 413,
        ErrorCode::RateLimited => 429,
        ErrorCode::Internal => 500,
        ErrorCode::TooManyRooms | ErrorCode::Overloaded | ErrorCode::Unavailable => 503,
    }
}
