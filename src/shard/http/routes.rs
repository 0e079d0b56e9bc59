//! Which paths there are, what may be done to each, and what their queries say.
//!
//! Nothing is done here: a head becomes a [`Route`], which `http` takes.

use std::net::IpAddr;

use crate::access::{Action, Caller, Grants};
use crate::model::limits::{
    HISTORY_MESSAGES, HISTORY_MESSAGES_MAX, ROOM_NAME_BYTES_MAX, ROOMS_LISTED, ROOMS_LISTED_MAX,
};
use crate::model::{Epoch, Name, RoomName, name_is_valid};
use crate::net::deflate::Agreed;
use crate::net::{Body, Head, HeadError, Response, response, target};
use crate::protocol::stream;
use crate::shard::event::{Following, Opening};
use crate::shard::{Page, Shard};

/// Every path that is answered, and its methods; HEAD goes wherever GET does, OPTIONS everywhere.
pub const ROUTES: &[(&str, &[&str])] = &[
    ("/", GET),
    ("/page.css", GET),
    ("/page.js", GET),
    ("/page-rooms.js", GET),
    ("/page-token.js", GET),
    ("/page-view.js", GET),
    ("/ringcast.js", GET),
    ("/health", GET),
    ("/ready", GET),
    ("/metrics", GET),
    ("/ws", GET),
    ("/echo", GET),
    ("/api/rooms", GET),
    ("/api/rooms/{room}/messages", &["GET", "POST"]),
    ("/api/rooms/{room}/members", GET),
    ("/api/rooms/{room}/events", GET),
    ("/api/users/{user_id}/connections", &["DELETE"]),
];

const GET: &[&str] = &["GET"];

/// What a head leads to.
pub(super) enum Route {
    /// A WebSocket that echoes: the answer, and how it deflates.
    Echo(Vec<u8>, Option<Agreed>),
    /// A WebSocket.
    Open(Opening),
    Page(Page),
    /// Close this user's connections.
    Kick(Name),
    /// Read a room's history.
    History(RoomName, Range),
    /// Publish in a room; whether the client waits to be told that it may send the body.
    /// And who does.
    Publish(RoomName, Body, bool, Caller),
    /// Who is in a room.
    Members(RoomName),
    /// A room as server-sent events.
    Events(Following),
    /// List rooms: prefix, cursor, limit, and which of them.
    Rooms(String, String, usize, Grants),
    /// All that is to be said.
    Answer(Response),
    /// It is not done.
    Refuse(Response),
}

/// What of a history is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) epoch: Option<Epoch>,
    pub(super) after: Option<u64>,
    pub(super) before: Option<u64>,
    pub(super) limit: usize,
}

/// What stands behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource<'a> {
    Socket,
    Echo,
    File(&'static str),
    Health,
    Ready,
    Metrics,
    Rooms,
    Messages(&'a str),
    Members(&'a str),
    Events(&'a str),
    Connections(&'a str),
}

impl<'a> Resource<'a> {
    /// What it is, and its methods.
    fn find(path: &'a str) -> Option<(Self, &'static [&'static str])> {
        ROUTES.iter().find_map(|&(pattern, methods)| {
            let argument = matches(pattern, path)?;
            let resource = match pattern {
                "/ws" => Self::Socket,
                "/echo" => Self::Echo,
                "/health" => Self::Health,
                "/ready" => Self::Ready,
                "/metrics" => Self::Metrics,
                "/api/rooms" => Self::Rooms,
                "/api/rooms/{room}/messages" => Self::Messages(argument),
                "/api/rooms/{room}/members" => Self::Members(argument),
                "/api/rooms/{room}/events" => Self::Events(argument),
                "/api/users/{user_id}/connections" => Self::Connections(argument),
                file => Self::File(file),
            };
            Some((resource, methods))
        })
    }
}

/// What `path` has where `pattern` has its one parameter; the empty text if that has none.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some("");
    };
    let (_, behind) = rest.split_once('}')?;
    let argument = path.strip_prefix(before)?.strip_suffix(behind)?;
    (!argument.contains('/')).then_some(argument)
}

impl Shard {
    /// Where a head leads; `behind`: what has come behind it.
    pub(super) fn route(
        &self,
        head: &Head<'_>,
        behind: &[u8],
        address: IpAddr,
        crowded: bool,
    ) -> Route {
        let has_echo = self.options.echo_message_bytes_max > 0;
        let found = Resource::find(head.path);
        let Some((resource, methods)) = found.filter(|(it, _)| *it != Resource::Echo || has_echo)
        else {
            let why = "there is nothing here";
            return Route::Refuse(response::error(404, "not_found", why, &[]));
        };
        if let Resource::Socket | Resource::Echo = resource {
            return self.route_socket(head, behind, resource == Resource::Echo, crowded, address);
        }
        if head.method == "OPTIONS" {
            return Route::Answer(options(head, methods));
        }
        let method = if head.method == "HEAD" {
            "GET"
        } else {
            head.method
        };
        if !methods.contains(&method) {
            let allow = allowed(methods);
            let why = format!("only {allow} are taken here");
            let allow = [("Allow", allow.as_str())];
            return Route::Refuse(response::error(405, "bad_request", &why, &allow));
        }
        if method != "POST" && head.body != Body::None {
            let error = HeadError {
                status: 413,
                message: "no body is taken here",
            };
            return Route::Refuse(response::refuse(&error));
        }
        let route = match resource {
            Resource::File(path) => Ok(Route::Page(Page::File {
                path,
                known: head.header("if-none-match").map(Into::into),
            })),
            Resource::Health => Ok(Route::Page(Page::Health)),
            Resource::Ready => Ok(Route::Page(Page::Ready)),
            Resource::Metrics => Ok(Route::Page(Page::Metrics)),
            Resource::Rooms => self.rooms(head, address),
            Resource::Messages(room) if method == "POST" => self.publish_in(head, address, room),
            Resource::Messages(room) => self
                .readable(head, address, room)
                .and_then(|room| Ok(Route::History(room, range(head).map_err(bad_request)?))),
            Resource::Members(room) => self.readable(head, address, room).map(Route::Members),
            Resource::Events(room) => self.events_of(head, address, room, crowded),
            Resource::Connections(user) => self.kick_of(head, address, user),
            Resource::Socket | Resource::Echo => Err(bad_request("this is a WebSocket")),
        };
        route.unwrap_or_else(Route::Refuse)
    }

    /// A room that the client may read.
    fn readable(&self, head: &Head<'_>, address: IpAddr, room: &str) -> Result<RoomName, Response> {
        let room = room_name(room)?;
        self.may(head, address, Action::Read(&room))?;
        Ok(room)
    }

    fn publish_in(&self, head: &Head<'_>, address: IpAddr, room: &str) -> Result<Route, Response> {
        let room = room_name(room)?;
        let caller = self.may(head, address, Action::Publish(&room))?;
        let expects = head.http11 && head.has_token("expect", "100-continue");
        Ok(Route::Publish(room, head.body, expects, caller))
    }

    fn events_of(
        &self,
        head: &Head<'_>,
        address: IpAddr,
        room: &str,
        crowded: bool,
    ) -> Result<Route, Response> {
        let room = room_name(room)?;
        let caller = self.may(head, address, Action::Read(&room))?;
        let refuse = |code, why| response::error(503, code, why, &[("Retry-After", "1")]);
        if crowded {
            let why = "as many connections as this instance takes; try again later";
            return Err(refuse("overloaded", why));
        }
        if self.draining {
            let why = "this instance is draining; connect again";
            return Err(refuse("unavailable", why));
        }
        let last = head.header("last-event-id").filter(|id| !id.is_empty());
        Ok(Route::Events(Following {
            room,
            since: last.map(stream::since),
            caller,
        }))
    }

    fn kick_of(&self, head: &Head<'_>, address: IpAddr, user: &str) -> Result<Route, Response> {
        self.may(head, address, Action::Kick)?;
        let user = target::segment(user).filter(|user| name_is_valid(user));
        let user = user.ok_or_else(|| bad_request("the user's id is not a name"))?;
        Ok(Route::Kick(Name::from(user)))
    }

    fn rooms(&self, head: &Head<'_>, address: IpAddr) -> Result<Route, Response> {
        let of = match self.may(head, address, Action::List)? {
            Caller::User(claims) => claims.join,
            Caller::Anonymous | Caller::Backend => Grants::every(),
        };
        let (prefix, cursor, limit) = listed(head)?;
        Ok(Route::Rooms(prefix, cursor, limit, of))
    }
}

/// The methods that are taken, as a header has them.
fn allowed(methods: &[&str]) -> String {
    let mut allowed = methods.join(", ");
    if methods.contains(&"GET") {
        allowed.push_str(", HEAD");
    }
    allowed.push_str(", OPTIONS");
    allowed
}

/// The answer to OPTIONS; to the preflight of a page of another host what it may send (Fetch,
/// 4.8). Whether it may at all is said by the origin.
fn options(head: &Head<'_>, methods: &[&str]) -> Response {
    let allowed = allowed(methods);
    let response = response::without_body(204, &[("Allow", &allowed)]);
    if head.header("access-control-request-method").is_none() {
        return response;
    }
    response
        .with("Access-Control-Allow-Methods", &allowed)
        .with(
            "Access-Control-Allow-Headers",
            "Authorization, Content-Type, Last-Event-ID",
        )
        .with("Access-Control-Max-Age", "600")
}

fn bad_request(why: impl AsRef<str>) -> Response {
    response::error(400, "bad_request", why.as_ref(), &[])
}

/// The room that a segment of a path names.
fn room_name(encoded: &str) -> Result<RoomName, Response> {
    let bad = |why: &str| response::error(400, "bad_room", why, &[]);
    let room = target::segment(encoded);
    let room = room.ok_or_else(|| bad("the room's name is not UTF-8, %-encoded"))?;
    RoomName::parse(&room).map_err(|error| bad(&error.to_string()))
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

fn listed(head: &Head<'_>) -> Result<(String, String, usize), Response> {
    let text = |name: &str| {
        let text = target::parameter(head.query, name).unwrap_or_default();
        match text.len() <= ROOM_NAME_BYTES_MAX && !text.contains('\0') {
            true => Ok(text.into_owned()),
            false => Err(bad_request(format!(
                "{name}: at most {ROOM_NAME_BYTES_MAX} bytes"
            ))),
        }
    };
    let (prefix, cursor) = (text("prefix")?, text("cursor")?);
    let limit = limit(head, ROOMS_LISTED, ROOMS_LISTED_MAX).map_err(bad_request)?;
    Ok((prefix, cursor, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_one_resource_or_none() {
        for (path, resource) in [
            ("/", Some(Resource::File("/"))),
            ("/page.css", Some(Resource::File("/page.css"))),
            ("/api/rooms", Some(Resource::Rooms)),
            (
                "/api/rooms/a%2Fb/messages",
                Some(Resource::Messages("a%2Fb")),
            ),
            ("/api/rooms//messages", Some(Resource::Messages(""))),
            ("/api/rooms/a/members", Some(Resource::Members("a"))),
            ("/api/users/u/connections", Some(Resource::Connections("u"))),
            ("/api/rooms/", None),
            ("/api/rooms/messages", None),
            ("/api/rooms/a/b/messages", None),
            ("/api/rooms/a/messages/", None),
            ("/api/users/connections", None),
            ("//", None),
            ("/../page.css", None),
        ] {
            let found = Resource::find(path).map(|(resource, _)| resource);
            assert_eq!(found, resource, "{path}");
        }
        for (pattern, methods) in ROUTES {
            let path = pattern.replace("{room}", "a").replace("{user_id}", "u");
            assert_eq!(Resource::find(&path).unwrap().1, *methods, "{path}");
        }
    }
}
