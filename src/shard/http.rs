//! The request head of a connection: an upgrade, a page, or a refusal.

use std::net::IpAddr;

use super::connection::Phase;
use super::deflate::Echo;
use super::edge::contained;
use super::{Effect, HistoryRequest, Page, Shard};
use crate::hub::{ConnIndex, Encoding};
use crate::model::limits::{
    HISTORY_ANSWER_MS, HISTORY_MESSAGES, HISTORY_MESSAGES_MAX, ROOM_NAME_BYTES_MAX, ROOMS_LISTED,
    ROOMS_LISTED_MAX,
};
use crate::model::{Epoch, Name, RoomName, name_is_valid};
use crate::net::deflate::{Agreed, Terms};
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
    Echo(Vec<u8>, Option<Agreed>),
    Open {
        answer: Vec<u8>,
        deflates: bool,
        username: Option<Name>,
        room: Option<RoomName>,
    },
    Page(Page),
    /// Close this user's connections.
    Kick(Name),
    /// Read a room's history.
    History(RoomName, Range),
    /// List rooms: prefix, cursor, limit.
    Rooms(String, String, usize),
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
        let terms = |terms| self.options.deflate.then_some(terms);
        match (head.path, self.options.echo_message_bytes_max) {
            ("/ws" | "/echo", _) if crowded => {
                let again = [("Retry-After", "1")];
                let why = "as many connections as this instance takes; try again later";
                Route::Refuse(response::error(503, "overloaded", why, &again))
            }
            ("/ws", _) => self.route_upgrade(head, behind),
            ("/echo", 1..) => match upgrade::accept_with(head, behind, None, terms(Terms::Own)) {
                Ok((answer, agreed)) => Route::Echo(answer, agreed),
                Err(error) => Route::Refuse(response::refuse(&error)),
            },
            ("/api/rooms", _) => route_rooms(head),
            (path, _) => match room_target(path) {
                Some(room) => route_history(head, room),
                None => route_page(head, path),
            },
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
        let terms = self.options.deflate.then_some(Terms::Shared);
        match upgrade::accept_with(head, behind, Some(upgrade::SUBPROTOCOL), terms) {
            Ok((answer, agreed)) => Route::Open {
                answer,
                deflates: agreed.is_some(),
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
            Route::History(room, range) => {
                let Some(conn) = self.begin_answering(index) else {
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
                self.request(home, 0, super::event::Request::History(request));
            }
            Route::Rooms(prefix, after, limit) => {
                if self.begin_answering(index).is_some() {
                    self.list_rooms(index, prefix, after, limit);
                }
            }
            Route::Refuse(answer) => {
                self.counters.refused += 1;
                self.answer(index, &answer);
            }
            Route::Echo(answer, agreed) => {
                if let Some(out) = self.out(index) {
                    out.extend_from_slice(&answer);
                }
                if let Some(conn) = self.conn_mut(index) {
                    conn.phase = Phase::Echo;
                    conn.deadline_ms = u64::MAX;
                }
                if let Some(agreed) = agreed {
                    self.echoes.insert(index, Box::new(Echo::new(agreed)));
                }
            }
            Route::Open {
                answer,
                deflates,
                username,
                room,
            } => {
                if let Some(conn) = self.conn_mut(index)
                    && deflates
                {
                    conn.encoding = Encoding::Deflate;
                }
                self.open(index, &answer, username, room);
            }
        }
    }

    /// The answer takes a while.
    fn begin_answering(&mut self, index: ConnIndex) -> Option<ConnId> {
        let deadline_ms = self.now.ms + 2 * HISTORY_ANSWER_MS;
        let conn = self.conn_mut(index)?;
        conn.phase = Phase::Answering;
        conn.deadline_ms = deadline_ms;
        Some(conn.id(index))
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

/// Whose history the request is about: `/api/rooms/{room}/messages`.
fn room_target(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/api/rooms/")?;
    rest.strip_suffix("/messages")
        .filter(|room| !room.contains('/'))
}

/// What of a history is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    epoch: Option<Epoch>,
    after: Option<u64>,
    before: Option<u64>,
    limit: usize,
}

fn bad_request(message: &str) -> Route {
    Route::Refuse(response::error(400, "bad_request", message, &[]))
}

/// A number of a query; an empty one counts as not there.
fn number(head: &Head<'_>, name: &str) -> Result<Option<u64>, String> {
    match target::parameter(head.query, name) {
        Some(text) if !text.is_empty() => {
            let is_number = text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse().ok().filter(|_| is_number);
            number
                .map(Some)
                .ok_or_else(|| format!("{name}: must be an offset, a number from 0 on"))
        }
        _ => Ok(None),
    }
}

fn limit(head: &Head<'_>, usual: usize, most: usize) -> Result<usize, String> {
    let bad = || format!("limit: must be a number from 1 to {most}");
    match number(head, "limit").map_err(|_| bad())? {
        None => Ok(usual),
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=most).contains(limit))
            .ok_or_else(bad),
    }
}

fn route_history(head: &Head<'_>, room: &str) -> Route {
    if let Err(refusal) = check_get(head) {
        return refusal;
    }
    let Some(room) = target::segment(room) else {
        return Route::Refuse(response::error(
            400,
            "bad_room",
            "the room's name is not UTF-8, %-encoded",
            &[],
        ));
    };
    let room = match RoomName::parse(&room) {
        Ok(room) => room,
        Err(error) => {
            return Route::Refuse(response::error(400, "bad_room", &error.to_string(), &[]));
        }
    };
    if room.personal_user().is_some() {
        let why = "a personal room can be read only by its user";
        return Route::Refuse(response::error(403, "forbidden", why, &[]));
    }
    match range(head) {
        Ok(range) => Route::History(room, range),
        Err(why) => bad_request(&why),
    }
}

fn range(head: &Head<'_>) -> Result<Range, String> {
    let epoch = match target::parameter(head.query, "epoch") {
        Some(text) if !text.is_empty() => {
            let bad = || "epoch: must be one that the server has told".to_owned();
            Some(Epoch::parse(&text).ok_or_else(bad)?)
        }
        _ => None,
    };
    Ok(Range {
        epoch,
        after: number(head, "after")?,
        before: number(head, "before")?,
        limit: limit(head, HISTORY_MESSAGES, HISTORY_MESSAGES_MAX)?,
    })
}

fn route_rooms(head: &Head<'_>) -> Route {
    if let Err(refusal) = check_get(head) {
        return refusal;
    }
    let text = |name: &str| {
        let text = target::parameter(head.query, name).unwrap_or_default();
        let long = format!("{name}: at most {ROOM_NAME_BYTES_MAX} bytes");
        match text.len() <= ROOM_NAME_BYTES_MAX && !text.contains('\0') {
            true => Ok(text.into_owned()),
            false => Err(long),
        }
    };
    let parts = text("prefix").and_then(|prefix| Ok((prefix, text("cursor")?)));
    match (parts, limit(head, ROOMS_LISTED, ROOMS_LISTED_MAX)) {
        (Ok((prefix, cursor)), Ok(limit)) => Route::Rooms(prefix, cursor, limit),
        (Err(why), _) | (_, Err(why)) => bad_request(&why),
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
    match check_get(head) {
        Ok(()) => Route::Page(page),
        Err(refusal) => refusal,
    }
}

/// A GET without a body.
fn check_get(head: &Head<'_>) -> Result<(), Route> {
    if head.method != "GET" {
        let allow = [("Allow", "GET")];
        return Err(Route::Refuse(response::error(
            405,
            "bad_request",
            "only GET is taken here",
            &allow,
        )));
    }
    if head.body != Body::None {
        let error = HeadError {
            status: 413,
            message: "no body is taken here",
        };
        return Err(Route::Refuse(response::refuse(&error)));
    }
    Ok(())
}
