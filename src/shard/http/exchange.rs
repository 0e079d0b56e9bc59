//! One request and its answer: what must be remembered of the head until the answer goes out.

use std::net::IpAddr;

use crate::access::Caller;
use crate::model::RoomName;
use crate::net::{Body, BodyReader, Head, OriginPolicy, Response, shared_with};

/// See the module.
#[derive(Debug)]
pub(in crate::shard) struct Exchange {
    /// Whether the connection ends behind the answer.
    pub(super) closes: bool,
    /// Whether that is what the client wants, and not for the sake of a body.
    pub(super) wants_close: bool,
    /// The client's address, which is another one with each request of a proxy's.
    pub(in crate::shard) address: IpAddr,
    /// Whether the answer goes without its body.
    is_head: bool,
    /// To which web pages of other hosts the answer may be shown.
    shared_with: Option<Box<str>>,
    /// Whether that depends on who asks.
    varies: bool,
    /// Who publishes: a user does so under its token's names only.
    pub(super) caller: Caller,
    /// What is published, as long as it comes, and where.
    pub(super) posted: Option<(RoomName, BodyReader)>,
}

impl Exchange {
    /// The exchange that a head begins. A body makes it the connection's last, unless it is read.
    /// `is_last`: it is so whatever the head says.
    pub(super) fn begin(
        head: &Head<'_>,
        address: IpAddr,
        origins: &OriginPolicy,
        is_last: bool,
    ) -> Self {
        let wants_close = is_last || !head.http11 || head.has_token("connection", "close");
        Self {
            closes: wants_close || head.body != Body::None,
            wants_close,
            address,
            is_head: head.method == "HEAD",
            shared_with: shared_with(head, origins).map(Into::into),
            varies: matches!(origins, OriginPolicy::List(_)),
            caller: Caller::Anonymous,
            posted: None,
        }
    }

    /// Whether the answer goes without its body.
    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }

    /// The answer with what pages of other hosts need to see it (Fetch, 3.2).
    pub(super) fn share(&self, mut response: Response) -> Response {
        if let Some(origin) = &self.shared_with {
            response = response.with("Access-Control-Allow-Origin", origin);
        }
        if self.varies {
            response = response.with("Vary", "Origin");
        }
        response
    }
}
