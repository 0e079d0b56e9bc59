//! Who may do what over HTTP. The one place that decides it: by what the request shows, and where
//! that is this machine alone, by the page that it comes from.
//!
//! Pages of other hosts may not write from a browser that runs here: it says so by their `Origin`.
//! Who shows a key or a token is known by that, whatever page it comes from.

use std::net::IpAddr;

use crate::access::{Action, Caller};
use crate::net::{Head, Response, origin_allowed, response};
use crate::shard::Shard;
use crate::shard::access::Shown;

impl Shard {
    /// Whether the client at `address` may, by its head, and on whose behalf; else the answer that
    /// says why not.
    pub(super) fn may(
        &self,
        head: &Head<'_>,
        address: IpAddr,
        action: Action<'_>,
    ) -> Result<Caller, Response> {
        let caller = self.decide(&Shown::of(head, address), action)?;
        // As this machine, and by no key: a browser on it has a say for all pages it shows.
        let is_machine = caller == Caller::Backend && self.access.api_keys.is_empty();
        if is_machine && !origin_allowed(head, &self.options.origins) {
            let why = "this page's origin is not in --allowed-origins";
            return Err(response::error(403, "forbidden", why, &[]));
        }
        Ok(caller)
    }
}
