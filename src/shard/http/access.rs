//! Who may do what over HTTP. The one place that decides it.
//!
//! As long as there are no API keys only this machine may publish and close connections, and
//! nobody that it passes on. Pages of other hosts may not, wherever the browser is: it says so by
//! their `Origin`.

use std::net::IpAddr;

use crate::model::RoomName;
use crate::net::{self, Head, Response, origin_allowed, response};
use crate::shard::Shard;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action<'a> {
    /// Read what was said in a room, or who is there.
    Read(&'a RoomName),
    /// Publish in a room, under any name.
    Publish,
    /// Close a user's connections.
    Kick,
}

impl Shard {
    /// Whether the client at `address` may, by its head; else the answer that says why not.
    pub(super) fn may(
        &self,
        head: &Head<'_>,
        address: IpAddr,
        action: Action<'_>,
    ) -> Result<(), Response> {
        let forbid = |why: &str| Err(response::error(403, "forbidden", why, &[]));
        match action {
            Action::Read(room) if room.personal_user().is_some() => {
                forbid("a personal room can be read only by its user")
            }
            Action::Read(_) => Ok(()),
            Action::Publish | Action::Kick => {
                if !address.is_loopback() || net::is_passed_on(head) {
                    return forbid(
                        "without an API key only requests from this machine may do this",
                    );
                }
                if !origin_allowed(head, &self.options.origins) {
                    return forbid("this page's origin is not in --allowed-origins");
                }
                Ok(())
            }
        }
    }
}
