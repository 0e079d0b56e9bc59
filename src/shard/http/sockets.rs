//! Upgrades: a connection becomes a WebSocket, and is HTTP no more.

use std::net::IpAddr;

use super::routes::Route;
use crate::hub::{ConnIndex, Encoding};
use crate::model::{Name, RoomName, name_is_valid};
use crate::net::deflate::{Agreed, Terms};
use crate::net::{Head, origin_allowed, response, target, upgrade};
use crate::protocol::command::{Command, Request};
use crate::protocol::event;
use crate::shard::access::Shown;
use crate::shard::connection::Phase;
use crate::shard::deflate::Echo;
use crate::shard::event::{Entrant, Opening};
use crate::shard::{Effect, Shard};

impl Shard {
    /// `/ws`, or `/echo`.
    pub(super) fn route_socket(
        &self,
        head: &Head<'_>,
        behind: &[u8],
        is_echo: bool,
        crowded: bool,
        address: IpAddr,
    ) -> Route {
        if crowded {
            let again = [("Retry-After", "1")];
            let why = "as many connections as this instance takes; try again later";
            return Route::Refuse(response::error(503, "overloaded", why, &again));
        }
        if !is_echo {
            return self.route_upgrade(head, behind, address);
        }
        let terms = self.options.deflate.then_some(Terms::Own);
        match upgrade::accept_with(head, behind, None, terms) {
            Ok((answer, agreed)) => Route::Echo(answer, agreed),
            Err(error) => Route::Refuse(response::refuse(&error)),
        }
    }

    fn route_upgrade(&self, head: &Head<'_>, behind: &[u8], address: IpAddr) -> Route {
        let refuse =
            |status, code, message| Route::Refuse(response::error(status, code, message, &[]));
        if !origin_allowed(head, &self.options.origins) {
            return refuse(
                403,
                "forbidden",
                "this page's origin is not in --allowed-origins",
            );
        }
        if self.draining {
            return refuse(
                503,
                "unavailable",
                "this instance is draining; connect again",
            );
        }
        let claims = match self.enter(&Shown::of(head, address)) {
            Ok(claims) => claims,
            Err(answer) => return Route::Refuse(answer),
        };
        let username = match target::parameter(head.query, "username") {
            Some(name) if !name.is_empty() && !name_is_valid(&name) => {
                return refuse(
                    400,
                    "bad_frame",
                    "username: at most 128 bytes, no control characters",
                );
            }
            name => name.filter(|name| !name.is_empty()).map(Name::from),
        };
        let room = match target::parameter(head.query, "room") {
            Some(room) => match RoomName::parse(&room) {
                Ok(room) => Some(room),
                Err(error) => return refuse(400, "bad_room", &error.to_string()),
            },
            None => None,
        };
        let terms = self.options.deflate.then_some(Terms::Shared);
        match upgrade::accept_with(head, behind, Some(upgrade::SUBPROTOCOL), terms) {
            Ok((answer, agreed)) => Route::Open(Opening {
                answer,
                deflates: agreed.is_some(),
                username,
                room,
                claims,
            }),
            Err(error) => Route::Refuse(response::refuse(&error)),
        }
    }

    /// The handshake is good: if its address may have one more, it is a WebSocket.
    pub(super) fn begin_opening(&mut self, index: ConnIndex, opening: Opening) {
        self.enter_address(index, Entrant::Socket(Box::new(opening)));
    }

    /// A WebSocket that echoes.
    pub(super) fn open_echo(&mut self, index: ConnIndex, answer: &[u8], agreed: Option<Agreed>) {
        if let Some(out) = self.out(index) {
            out.extend_from_slice(answer);
        }
        if let Some(conn) = self.conn_mut(index) {
            conn.exchange = None;
            conn.phase = Phase::Echo;
            conn.deadline_ms = u64::MAX;
        }
        if let Some(agreed) = agreed {
            self.echoes.insert(index, Box::new(Echo::new(agreed)));
        }
    }

    /// The handshake is done: welcome.
    pub(in crate::shard) fn open(&mut self, index: ConnIndex, opening: Opening) {
        let Opening {
            answer,
            deflates,
            username,
            room,
            claims,
        } = opening;
        let options = self.options.clone();
        let shard = usize::from(self.id);
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.exchange = None;
        conn.username = username.map(Box::new);
        if deflates {
            conn.encoding = Encoding::Deflate;
        }
        conn.phase = Phase::Open;
        conn.deadline_ms = u64::MAX;
        if let Some(claims) = claims {
            self.become_user(index, claims);
        }
        let Some(conn) = self.conn(index) else {
            return;
        };
        let (client_id, user_id) = (conn.client_id, conn.user_id.clone());
        let opened = Effect::Opened(client_id, conn.address);
        self.effects.push(opened);
        if let Some(out) = self.out(index) {
            out.extend_from_slice(&answer);
            event::welcome(
                out,
                &event::Welcome {
                    client_id,
                    user_id: &user_id,
                    instance_id: &options.instance_id,
                    shard,
                    heartbeat_ms: options.heartbeat_ms,
                },
            );
        }
        if self.degraded.is_some() {
            self.say_degraded(index);
        }
        self.add_user(index);
        self.join_address(index);
        if let Some(room) = room {
            let room = room.as_str().into();
            let command = Command::Join {
                room,
                username: None,
                since: None,
                presence: false,
            };
            self.on_command(
                index,
                Request {
                    command,
                    reference: None,
                },
            );
        }
    }
}
