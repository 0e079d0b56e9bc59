//! The request head of a connection: an upgrade, a page, or a refusal.

use std::net::IpAddr;

use super::connection::Phase;
use super::edge::contained;
use super::{Effect, Page, Shard};
use crate::hub::ConnIndex;
use crate::model::{Name, RoomName, name_is_valid};
use crate::net::{self, Body, Head, HeadError, origin_allowed, response, target, upgrade};
use crate::protocol::command::{Command, Request};
use crate::protocol::event;

use super::event::ConnId;

/// The files of the web page.
const FILES: [&str; 6] = [
    "/",
    "/page.css",
    "/page.js",
    "/page-rooms.js",
    "/page-view.js",
    "/ringcast.js",
];

/// What a head leads to.
enum Route {
    Echo(Vec<u8>),
    Open {
        answer: Vec<u8>,
        username: Option<Name>,
        room: Option<RoomName>,
    },
    Page(Page),
    /// Close this user's connections.
    Kick(Name),
    Refuse(Vec<u8>),
}

impl Shard {
    /// Gathers the head; acts on it once it is whole.
    pub(super) fn on_head_bytes(&mut self, index: ConnIndex, input: &mut [u8]) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let (crowded, peer) = (conn.crowded, conn.address);
        let mut stash = conn.stash.take().unwrap_or_default();
        let bytes = &mut stash.0;
        bytes.extend_from_slice(input);
        let parsed = contained(|| net::head::parse(bytes));
        let mut address = peer;
        let route = match parsed {
            Some(Ok(Some((head, end)))) => {
                address = net::client_address(&head, peer, &self.options.trusted_proxies);
                match kick_target(&head) {
                    Some(user) => route_kick(&head, user, address),
                    None => self.route(&head, &bytes[end..], crowded),
                }
            }
            Some(Ok(None)) => {
                if let Some(conn) = self.conn_mut(index) {
                    conn.stash = Some(stash);
                }
                return;
            }
            Some(Err(error)) => Route::Refuse(response::refuse(&error)),
            None => {
                self.counters.panics += 1;
                Route::Refuse(response::error(
                    500,
                    "internal",
                    "a fault of the server's own",
                    &[],
                ))
            }
        };
        if let Some(conn) = self.conn_mut(index) {
            conn.address = address;
        }
        if crowded && matches!(route, Route::Refuse(_)) {
            self.counters.turned_away += 1;
        }
        self.take_route(index, route);
    }

    fn route(&self, head: &Head<'_>, behind: &[u8], crowded: bool) -> Route {
        match (head.path, self.options.echo_message_bytes_max) {
            ("/ws" | "/echo", _) if crowded => {
                let again = [("Retry-After", "1")];
                let why = "as many connections as this instance takes; try again later";
                Route::Refuse(response::error(503, "overloaded", why, &again))
            }
            ("/ws", _) => self.route_upgrade(head, behind),
            ("/echo", 1..) => match upgrade::accept(head, behind, None) {
                Ok(answer) => Route::Echo(answer),
                Err(error) => Route::Refuse(response::refuse(&error)),
            },
            (path, _) => route_page(head, path),
        }
    }

    fn route_upgrade(&self, head: &Head<'_>, behind: &[u8]) -> Route {
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
        match upgrade::accept(head, behind, Some(upgrade::SUBPROTOCOL)) {
            Ok(answer) => Route::Open {
                answer,
                username,
                room,
            },
            Err(error) => Route::Refuse(response::refuse(&error)),
        }
    }

    fn take_route(&mut self, index: ConnIndex, route: Route) {
        match route {
            Route::Page(page) => {
                if let Some(conn) = self.conn_mut(index) {
                    conn.phase = Phase::Answering;
                    let id = conn.id(index);
                    self.effects.push(Effect::Answer(id, page));
                }
            }
            Route::Kick(user_id) => {
                self.kick_all(&user_id, true);
                let body = serde_json::json!({ "user_id": user_id.as_str() }).to_string();
                let answer = response::build(200, response::JSON, &[], body.as_bytes());
                self.answer(index, &answer);
            }
            Route::Refuse(answer) => {
                self.counters.refused += 1;
                self.answer(index, &answer);
            }
            Route::Echo(answer) => {
                if let Some(out) = self.out(index) {
                    out.extend_from_slice(&answer);
                }
                if let Some(conn) = self.conn_mut(index) {
                    conn.phase = Phase::Echo;
                    conn.deadline_ms = u64::MAX;
                }
            }
            Route::Open {
                answer,
                username,
                room,
            } => self.open(index, &answer, username, room),
        }
    }

    /// The handshake is done: welcome.
    fn open(
        &mut self,
        index: ConnIndex,
        answer: &[u8],
        username: Option<Name>,
        room: Option<RoomName>,
    ) {
        let options = self.options.clone();
        let shard = usize::from(self.id);
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.phase = Phase::Open;
        conn.deadline_ms = u64::MAX;
        conn.username = username.map(Box::new);
        let (client_id, user_id) = (conn.client_id, conn.user_id.clone());
        let opened = Effect::Opened(client_id, conn.address);
        self.effects.push(opened);
        if let Some(out) = self.out(index) {
            out.extend_from_slice(answer);
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

    pub(super) fn on_answered(&mut self, id: ConnId, response: &[u8]) {
        if self.find_conn(id).is_some() {
            self.answer(id.index, response);
        }
    }

    /// Sends an HTTP response and closes behind it.
    fn answer(&mut self, index: ConnIndex, response: &[u8]) {
        if let Some(out) = self.out(index) {
            out.extend_from_slice(response);
        }
        self.begin_closing(index);
    }
}

/// Whose connections the request is about: `/api/users/{user_id}/connections`.
fn kick_target<'a>(head: &Head<'a>) -> Option<&'a str> {
    let rest = head.path.strip_prefix("/api/users/")?;
    rest.strip_suffix("/connections")
}

/// As long as there are no API keys only this machine may, and nobody that it passes on.
fn route_kick(head: &Head<'_>, user: &str, address: IpAddr) -> Route {
    let refuse = |status, code, message| {
        let allow = [("Allow", "DELETE")];
        Route::Refuse(response::error(status, code, message, &allow))
    };
    if head.method != "DELETE" {
        return refuse(405, "bad_request", "only DELETE is taken here");
    }
    if !address.is_loopback() || net::is_passed_on(head) {
        let why = "without an API key only requests from this machine may do this";
        return refuse(403, "forbidden", why);
    }
    match target::segment(user).filter(|user| name_is_valid(user)) {
        Some(user) if head.body == Body::None => Route::Kick(Name::from(user)),
        Some(_) => refuse(413, "too_large", "no body is taken here"),
        None => refuse(400, "bad_request", "the user's id is not a name"),
    }
}

/// One of [`FILES`].
fn file(head: &Head<'_>, path: &str) -> Page {
    let path = FILES.into_iter().find(|file| *file == path);
    Page::File {
        path: path.unwrap_or("/"),
        known: head.header("if-none-match").map(Into::into),
    }
}

fn route_page(head: &Head<'_>, path: &str) -> Route {
    let page = match path {
        _ if FILES.contains(&path) => file(head, path),
        "/health" => Page::Health,
        "/ready" => Page::Ready,
        "/metrics" => Page::Metrics,
        _ => {
            return Route::Refuse(response::error(
                404,
                "not_found",
                "there is nothing here",
                &[],
            ));
        }
    };
    if head.method != "GET" {
        let allow = [("Allow", "GET")];
        return Route::Refuse(response::error(
            405,
            "bad_request",
            "only GET is taken here",
            &allow,
        ));
    }
    if head.body != Body::None {
        let error = HeadError {
            status: 413,
            message: "no body is taken here",
        };
        return Route::Refuse(response::refuse(&error));
    }
    Route::Page(page)
}
