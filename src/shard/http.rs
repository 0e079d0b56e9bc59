//! HTTP on a connection: one request after the other, until one makes something else of it.
//!
//! ```text
//! bytes ─▶ Head ──▶ Body (POST) ──▶ Answering ──▶ answer ─▶ Head …       the same connection
//!           ├▶ Open, Echo (WebSockets)                 └──▶ Closing      or its end
//!           └▶ Joining ─▶ Events (a stream)
//! ```
//!
//! Answers go out in the order of the requests: what comes behind the one that is worked on waits
//! in the stash, and beyond [`PIPELINE_BYTES_MAX`] is not read. Each request has a turn of its own.
//!
//! Invariants: a connection whose request could not be parsed, or has a body that was not read to
//! its end, or asks for an upgrade and does not get it, ends behind the answer, so that what stands
//! behind it is never taken for a request; so does one whose answer came too late. Who sends
//! nothing more gets the answers to what it has asked, and then the end.

mod access;
mod events;
mod exchange;
mod limits;
mod publish;
mod routes;
mod sockets;

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::connection::Phase;
use super::edge::contained;
use super::event::{ConnId, Request};
use super::{Effect, HistoryRequest, Shard};
use crate::hub::ConnIndex;
use crate::model::limits::{HISTORY_ANSWER_MS, KEEP_ALIVE_MS, PIPELINE_BYTES_MAX};
use crate::model::{Name, RoomName};
use crate::net::{self, Delivery, Head, Response, response};

pub(super) use exchange::Exchange;
pub(super) use limits::over_address;
pub use routes::ROUTES;
use routes::{Range, Route};

/// Bytes of what is no request that are logged.
const NOISE_BYTES: usize = 64;

impl Shard {
    /// Bytes of a connection that is HTTP.
    pub(super) fn on_http_bytes(&mut self, index: ConnIndex, input: &[u8]) {
        let may_take = self.may_take(index);
        let Some(conn) = self.conn(index) else { return };
        match conn.phase {
            Phase::Head if may_take && !conn.resuming => self.on_head_bytes(index, input),
            Phase::Body => self.on_body_bytes(index, input),
            _ => self.put_off(index, input),
        }
    }

    /// Keeps bytes for when it is their turn.
    fn put_off(&mut self, index: ConnIndex, input: &[u8]) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let stash = &mut conn.stash.get_or_insert_default().0;
        stash.extend_from_slice(input);
        conn.paused |= stash.len() >= PIPELINE_BYTES_MAX;
        if conn.phase == Phase::Head && !conn.resuming {
            conn.resuming = true;
            self.stalled.push(index);
        }
    }

    /// Gathers the head; acts on it once it is whole.
    pub(super) fn on_head_bytes(&mut self, index: ConnIndex, input: &[u8]) {
        let head_ms = self.now.ms + self.options.handshake_ms;
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let (peer, crowded) = (conn.address, conn.crowded);
        if conn.is_reused && conn.stash.is_none() {
            conn.deadline_ms = head_ms;
        }
        let mut stash = conn.stash.take().unwrap_or_default();
        stash.0.extend_from_slice(input);
        let (route, end) = match contained(|| net::head::parse(&stash.0)) {
            Some(Ok(Some((head, end)))) => {
                let (exchange, route) = self.on_head(index, &head, &stash.0[end..], crowded);
                if let Some(conn) = self.conn_mut(index) {
                    conn.exchange = Some(Box::new(exchange));
                }
                (route, end)
            }
            Some(Ok(None)) => {
                if let Some(conn) = self.conn_mut(index) {
                    conn.stash = Some(stash);
                }
                return;
            }
            Some(Err(error)) => {
                self.note_noise(peer, error.message, &stash.0);
                (Route::Refuse(response::refuse(&error)), 0)
            }
            None => {
                self.counters.panics += 1;
                let why = "a fault of the server's own";
                (Route::Refuse(response::error(500, "internal", why, &[])), 0)
            }
        };
        stash.0.drain(..end);
        if let Some(conn) = self.conn_mut(index)
            && !stash.0.is_empty()
        {
            conn.stash = Some(stash);
        }
        self.take_route(index, route);
    }

    /// For the log: what came is no request. Of it the first line, without a query, which might
    /// hold a token.
    pub(super) fn note_noise(&mut self, peer: IpAddr, why: &str, bytes: &[u8]) {
        let line = bytes.split(|b| b"\r\n?".contains(b)).next();
        let line = line.unwrap_or_default();
        let began = String::from_utf8_lossy(&line[..line.len().min(NOISE_BYTES)]);
        let why = format!("{why}: {began:?}");
        self.effects.push(Effect::Refused(peer, why));
    }

    /// What the exchange is that begins, and what is to be done.
    fn on_head(
        &mut self,
        index: ConnIndex,
        head: &Head<'_>,
        behind: &[u8],
        crowded: bool,
    ) -> (Exchange, Route) {
        let peer = self.address(index).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let address = net::client_address(head, peer, &self.options.trusted_proxies);
        let route = self.route(head, behind, address, crowded);
        let (route, is_enough) = self.take_head(index, address, route);
        if crowded && matches!(route, Route::Refuse(_)) {
            self.counters.turned_away += 1;
        }
        // Who asked for an upgrade may go on as if it had it.
        let is_upgrade = head.count("upgrade") > 0 || matches!(head.path, "/ws" | "/echo");
        let is_last = crowded || is_upgrade || is_enough;
        let exchange = Exchange::begin(head, address, &self.options.origins, is_last);
        (exchange, route)
    }

    fn take_route(&mut self, index: ConnIndex, route: Route) {
        match route {
            Route::Page(page) => {
                if let Some(id) = self.begin_answering(index, HISTORY_ANSWER_MS) {
                    self.effects.push(Effect::Answer(id, page));
                }
            }
            Route::Kick(user_id) => self.answer_kick(index, &user_id),
            Route::History(room, range) => self.read_room(index, room, range),
            Route::Members(room) => {
                if let Some(conn) = self.begin_answering(index, 2 * HISTORY_ANSWER_MS) {
                    let home = self.home_of(&room);
                    self.request(home, 0, Request::MembersPage { room, conn });
                }
            }
            Route::Rooms(prefix, after, limit, of) => {
                if self.begin_answering(index, 2 * HISTORY_ANSWER_MS).is_some() {
                    self.list_rooms(index, &prefix, after, limit, &of);
                }
            }
            Route::Publish(room, body, expects, caller) => {
                if let Some(conn) = self.conn_mut(index)
                    && let Some(exchange) = &mut conn.exchange
                {
                    exchange.caller = caller;
                }
                self.begin_posting(index, room, body, expects);
            }
            Route::Events(following) => self.begin_events(index, following),
            Route::Answer(answer) => self.answer(index, answer),
            Route::Refuse(answer) => self.refuse(index, answer),
            Route::Echo(answer, agreed) => self.open_echo(index, &answer, agreed),
            Route::Open(opening) => self.begin_opening(index, opening),
        }
    }

    fn answer_kick(&mut self, index: ConnIndex, user_id: &Name) {
        self.kick_all(user_id, true);
        let body = json!({ "user_id": user_id.as_str() }).to_string();
        let answer = response::build(200, response::JSON, &[], body.as_bytes());
        self.answer(index, answer);
    }

    fn read_room(&mut self, index: ConnIndex, room: RoomName, range: Range) {
        let Some(conn) = self.begin_answering(index, 2 * HISTORY_ANSWER_MS) else {
            return;
        };
        let home = self.home_of(&room);
        let request = HistoryRequest {
            conn,
            room,
            epoch: range.epoch,
            after: range.after,
            before: range.before,
            limit: range.limit,
        };
        self.request(home, 0, Request::History(request));
    }

    /// The answer takes a while, but not longer than that.
    fn begin_answering(&mut self, index: ConnIndex, within_ms: u64) -> Option<ConnId> {
        let deadline_ms = self.now.ms + within_ms;
        let conn = self.conn_mut(index)?;
        conn.phase = Phase::Answering;
        conn.deadline_ms = deadline_ms;
        Some(conn.id(index))
    }

    /// An answer that was awaited.
    pub(super) fn on_answered(&mut self, id: ConnId, response: Response) {
        if self.find_conn(id).is_some() {
            self.answer(id.index, response);
        }
    }

    /// The time of a body, or of an answer, is over.
    pub(super) fn on_late(&mut self, index: ConnIndex) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        if let Some(exchange) = &mut conn.exchange {
            // Whatever comes of it must not be taken for the answer to the next request.
            exchange.closes = true;
        }
        let answer = if conn.phase == Phase::Body {
            let why = "the body did not come in time";
            response::error(408, "bad_request", why, &[])
        } else {
            let why = "there is no answer yet; what was to be published may still be stored: \
                       repeat it with the same id";
            response::error(503, "unavailable", why, &[("Retry-After", "1")])
        };
        self.answer(index, answer);
    }

    pub(super) fn refuse(&mut self, index: ConnIndex, response: Response) {
        self.counters.refused += 1;
        self.answer(index, response);
    }

    /// Its peer sends nothing more. What it has asked for is answered; who waits for nothing is
    /// gone.
    pub(super) fn on_half_closed(&mut self, index: ConnIndex) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.peer_closed = true;
        match conn.phase {
            Phase::Answering => {}
            Phase::Head if conn.resuming => {}
            // What was answered may still be on its way.
            Phase::Head => self.begin_closing(index),
            Phase::Closing if !conn.shut => {}
            _ => {
                self.abort(index);
                return;
            }
        }
        // There is nothing to be read.
        if let Some(conn) = self.conn_mut(index) {
            conn.paused = true;
        }
    }

    /// Sends the answer to the request of now; then comes the next one, or the end.
    fn answer(&mut self, index: ConnIndex, response: Response) {
        let draining = self.draining;
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        if !conn.phase.is_http() {
            return;
        }
        let exchange = conn.exchange.take();
        let (is_last, has_more) = (conn.peer_closed, conn.stash.is_some());
        // It may not have got into its room.
        self.leave_all(index);
        let closes = draining
            || exchange.as_ref().is_none_or(|exchange| exchange.closes)
            || (is_last && !has_more);
        let (is_head, response) = match &exchange {
            Some(exchange) => (exchange.is_head(), exchange.share(response)),
            None => (false, response),
        };
        if let Some(out) = self.out(index) {
            response.write(out, Delivery { closes, is_head });
        }
        if closes {
            self.begin_closing(index);
        } else {
            self.expect_request(index);
        }
    }

    fn expect_request(&mut self, index: ConnIndex) {
        let deadline_ms = self.now.ms + KEEP_ALIVE_MS;
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.phase = Phase::Head;
        conn.deadline_ms = deadline_ms;
        conn.is_reused = true;
        if (conn.stash.is_some() || conn.paused) && !conn.resuming {
            conn.resuming = true;
            self.stalled.push(index);
        }
    }
}
