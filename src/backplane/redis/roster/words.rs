//! What the roster says: what it asks of Redis, what happened, and how it is set up.

use super::Changes;
use crate::model::limits::ROSTER_USERS_MAX;
use crate::model::{Name, RoomName};

/// What the roster wants of Redis. In order; if some may have got lost, say so by
/// [`super::Roster::on_redis_back`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterAsk {
    /// PUBLISH this on the control channel, after the stores before it.
    Publish(Vec<u8>),
    /// Change `members:<own instance>`: DEL if `replace`; HDEL of the fields without a value; one
    /// HSET of the others; PEXPIRE `lease_ms`. In one transaction if that is cheap, else in that
    /// order. Without changes only the DEL is left.
    Store {
        /// What was there goes.
        replace: bool,
        /// Fields with their new values.
        changes: Changes,
        /// The lease.
        lease_ms: u64,
    },
    /// PEXPIRE `members:<own instance>`.
    Renew {
        /// The lease.
        lease_ms: u64,
    },
    /// Read `members:<instance>`, and answer by [`super::Roster::on_snapshot`]: HGET of the empty
    /// field first, given as first of the fields, then HGETALL, or HSCAN by pages to the end, with
    /// the empty field again where it comes. Several pages are no one moment; what the HGET said is
    /// what is surely in them.
    Fetch {
        /// The instance.
        instance: Name,
    },
}

/// What happened on the other instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterEvent {
    /// A user became present on the other instances taken together.
    Joined {
        /// The room.
        room: RoomName,
        /// The user.
        user_id: Name,
        /// Under what name.
        username: Option<Name>,
    },
    /// A user vanished from all other instances.
    Left {
        /// The room.
        room: RoomName,
        /// The user.
        user_id: Name,
        /// The last name it had.
        username: Option<Name>,
    },
    /// Another instance wants this user's connections closed.
    Kick {
        /// The user.
        user_id: Name,
    },
    /// For the log, once: others have more users than are remembered; the rest is not shown.
    Full {
        /// How many are remembered.
        users_max: usize,
    },
}

/// How a roster is set up.
#[derive(Clone, Debug)]
pub struct RosterOptions {
    /// How many users on other instances are remembered.
    pub users_max: usize,
    /// What chance begins with: it spreads what all instances would do at once.
    pub seed: u64,
}

impl Default for RosterOptions {
    fn default() -> Self {
        Self {
            users_max: ROSTER_USERS_MAX,
            seed: 0,
        }
    }
}

/// What has happened, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RosterCounters {
    /// Messages that were malformed, too long, or of one instance too many.
    pub rejected: u64,
    /// Messages of another run that bears this instance's id.
    pub conflicts: u64,
    /// Snapshots that were asked for.
    pub fetches: u64,
    /// Digests that disagreed with what was known.
    pub mismatches: u64,
    /// Joins for which there was no room.
    pub dropped: u64,
    /// How often all own members were stored anew.
    pub restores: u64,
}
