//! Who a connection is, and what its token lets it do; what a request by HTTP shows.
//!
//! What counts as proof is [`Access`](crate::access::Access)'s. Here is where it is looked for and
//! what it changes: the identity of a connection is its token's, whatever its frames say. Without
//! tokens a look costs one comparison with null; with them it is two binary searches.

use std::borrow::Cow;
use std::net::IpAddr;

use super::Shard;
use super::connection::Conn;
use super::http::over_address;
use crate::access::{Action, Caller, Claims, Credential, Denied};
use crate::hub::ConnIndex;
use crate::model::ErrorCode;
use crate::net::{Head, Response, is_passed_on, response, target};
use crate::protocol::event;

/// What a request's head shows of who sent it.
pub(super) struct Shown<'a> {
    bearer: Option<&'a str>,
    query: Option<Cow<'a, str>>,
    client: IpAddr,
    is_local: bool,
}

impl<'a> Shown<'a> {
    /// Looks into a head. `address` is the client's.
    pub(super) fn of(head: &Head<'a>, address: IpAddr) -> Self {
        // Two are no proof of either.
        let bearer = match head.count("authorization") {
            0 | 1 => head.header("authorization").and_then(bearer),
            _ => Some(""),
        };
        Self {
            bearer,
            query: target::parameter(head.query, "token").filter(|token| !token.is_empty()),
            client: address,
            is_local: address.is_loopback() && !is_passed_on(head),
        }
    }

    /// Whether there is something to look at.
    fn is_any(&self) -> bool {
        self.bearer.is_some() || self.query.is_some()
    }

    fn credential(&self) -> Credential<'_> {
        Credential {
            bearer: self.bearer,
            query: self.query.as_deref(),
            is_local: self.is_local,
        }
    }
}

/// What follows `Bearer` (RFC 6750, 2.1); other schemes are somebody else's.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// The HTTP answer to who may not.
pub(super) fn denied(denied: Denied) -> Response {
    let challenge = [("WWW-Authenticate", "Bearer")];
    let headers = match denied {
        Denied::Unauthorized(_) => &challenge[..],
        Denied::Forbidden(_) => &[],
    };
    let code = denied.code().as_str();
    response::error(denied.status(), code, denied.message(), headers)
}

impl Conn {
    /// Whether it may join the room and read it.
    pub(super) fn may_join(&self, room: &str) -> Result<(), &'static str> {
        match (&self.claims, room.strip_prefix('@')) {
            (_, Some(user)) if user == self.user_id => Ok(()),
            (_, Some(_)) => Err("a personal room is open to its user only"),
            (Some(claims), None) if !claims.may_join(room) => {
                Err("the token does not allow joining this room")
            }
            _ => Ok(()),
        }
    }

    /// Whether it may publish to the room, or signal in it.
    pub(super) fn may_publish(&self, room: &str) -> Result<(), &'static str> {
        match &self.claims {
            Some(claims) if !claims.may_publish(room) => {
                Err("the token does not allow publishing to this room")
            }
            _ => Ok(()),
        }
    }
}

impl Shard {
    /// Who opens a WebSocket, if tokens are taken.
    pub(super) fn enter(&self, shown: &Shown<'_>) -> Result<Option<Box<Claims>>, Response> {
        self.may_try(shown)?;
        let claims = self.access.enter(shown.credential(), self.now.wall);
        claims.map(|claims| claims.map(Box::new)).map_err(denied)
    }

    /// Whether a request may do this, and on whose behalf; else the answer to it.
    pub(super) fn decide(&self, shown: &Shown<'_>, action: Action<'_>) -> Result<Caller, Response> {
        self.may_try(shown)?;
        let caller = self
            .access
            .decide(shown.credential(), action, self.now.wall);
        caller.map_err(denied)
    }

    /// Whether what is shown is looked at: it is not for an address that is over its limit, so that
    /// there is a bound to guessing, and to what it costs.
    fn may_try(&self, shown: &Shown<'_>) -> Result<(), Response> {
        match shown.is_any() && self.is_spent(shown.client) {
            true => Err(over_address(&self.options.rates)),
            false => Ok(()),
        }
    }

    /// Whether a connection says itself what it is called: with a token that says so.
    pub(super) fn may_be_named(&self, index: ConnIndex) -> bool {
        self.conn(index).is_some_and(|conn| conn.claims.is_none())
    }

    /// A connection's identity is its token's.
    pub(super) fn become_user(&mut self, index: ConnIndex, claims: Box<Claims>) {
        if let Some(conn) = self.conn_mut(index) {
            conn.user_id = claims.user_id.clone();
            conn.username = claims.username.clone().map(Box::new);
            conn.claims = Some(claims);
        }
    }

    /// A new token for an open connection. If it allows less than the old one, rooms that may no
    /// longer be joined are left, which is told as any leave is, without a `ref`.
    pub(super) fn refresh(&mut self, index: ConnIndex, token: &str, reference: Option<&str>) {
        let Some(keys) = &self.access.keys else {
            let message = "this server takes no tokens";
            self.error(index, ErrorCode::Forbidden, message, reference);
            return;
        };
        let claims = keys.check(token, self.now.wall);
        let Some(conn) = self.conn(index) else { return };
        let why = match claims {
            Ok(claims) if claims.user_id == conn.user_id => {
                self.become_user(index, Box::new(claims));
                self.leave_forbidden(index);
                if let (Some(reference), Some(out)) = (reference, self.out(index)) {
                    event::refreshed(out, reference);
                }
                return;
            }
            Ok(_) => "the token is another user's: connect anew with it",
            Err(error) => error.message(),
        };
        self.error(index, ErrorCode::Unauthorized, why, reference);
    }

    /// Leaves the rooms that the connection may not be in.
    fn leave_forbidden(&mut self, index: ConnIndex) {
        let Some(conn) = self.conn(index) else { return };
        let rooms = conn.memberships.iter().filter_map(|membership| {
            let room = self.hub.room(membership.room)?;
            conn.may_join(room.name.as_str())
                .is_err()
                .then(|| room.name.clone())
        });
        for room in rooms.collect::<Vec<_>>() {
            self.leave(index, room.as_str(), None);
        }
    }
}
