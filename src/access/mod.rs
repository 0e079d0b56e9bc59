//! Who somebody is, and what that one may do: tokens, API keys, grants (PROTOCOL 2).
//!
//! Pure: texts and `now` go in, a [`Caller`] or a [`Denied`] comes out. It reads no file, knows no
//! request and no connection; whoever asks has taken the credential out of a header or a query.
//!
//! ```text
//! Credential ─▶ Access::identify ─▶ Caller ─▶ Caller::may(action) ─▶ Ok, or Denied 401/403
//!                │                    │
//!                │ ApiKeys            ├ Anonymous: no tokens are taken here
//!                │ Keys ─▶ Claims     ├ Backend: an API key, or this machine without one
//!                                     └ User(Claims): a token
//! ```
//!
//! | | join, read | publish by HTTP | kick |
//! |---|---|---|---|
//! | API key | every room | every room | yes |
//! | token | what `join` grants, one's own personal room | what `publish` grants | no |
//! | this machine, no API key set | as anybody | every room | yes |
//! | nobody, no tokens taken | every room but personal ones | no | no |
//! | nobody, tokens taken | no | no | no |
//!
//! Invariants: an [`Access`] never changes (another one takes its place, see `--jwt-key-file`); no
//! secret, key or token is in any error, nor in what `Debug` shows; a token is good until its `exp`
//! and not a moment longer.

mod api_keys;
mod claims;
mod grants;
mod keys;
mod signature;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "../../tests/tokens/mod.rs"]
pub(crate) mod tokens;

pub use api_keys::ApiKeys;
pub use claims::Claims;
pub use grants::Grants;
pub use keys::{KeyError, Keys, TokenError};

use crate::model::{RoomName, Timestamp};

/// What an instance takes as proof.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Keys of tokens; `None`: no tokens are taken, everybody is let in.
    pub keys: Option<Keys>,
    /// Keys of backends.
    pub api_keys: ApiKeys,
}

/// What a request shows of who sent it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credential<'a> {
    /// What follows `Bearer` in its Authorization header.
    pub bearer: Option<&'a str>,
    /// The `token` of its query. An API key does not count there: queries end up in logs.
    pub query: Option<&'a str>,
    /// Whether it comes from this machine, and was passed on by nobody.
    pub is_local: bool,
}

/// Who a request is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anybody: tokens are not taken here, and nothing else was shown.
    Anonymous,
    /// A backend that has an API key, or this machine as long as there is none.
    Backend,
    /// The user of a good token.
    User(Box<Claims>),
}

/// What somebody wants to do by HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Read a room: its history, its members, its events.
    Read(&'a RoomName),
    /// List rooms: those that [`Caller::may_read`].
    List,
    /// Publish to a room.
    Publish(&'a RoomName),
    /// Close the connections of a user.
    Kick,
}

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// 401, `unauthorized`: nobody is known, for this reason.
    Unauthorized(&'static str),
    /// 403, `forbidden`: who is known may not.
    Forbidden(&'static str),
}

impl Denied {
    /// The status of an HTTP answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorized(_) => 401,
            Self::Forbidden(_) => 403,
        }
    }

    /// The code of an error.
    pub fn code(self) -> crate::model::ErrorCode {
        match self {
            Self::Unauthorized(_) => crate::model::ErrorCode::Unauthorized,
            Self::Forbidden(_) => crate::model::ErrorCode::Forbidden,
        }
    }

    /// What to tell.
    pub fn message(self) -> &'static str {
        match self {
            Self::Unauthorized(why) | Self::Forbidden(why) => why,
        }
    }
}

impl From<TokenError> for Denied {
    fn from(error: TokenError) -> Self {
        Self::Unauthorized(error.message())
    }
}

const NO_TOKEN: &str = "send a token: Authorization: Bearer <token>, or ?token=<token>";
const NO_API_KEY: &str = "send an API key: Authorization: Bearer <key>";

impl Access {
    /// Whether clients must show a token.
    pub fn takes_tokens(&self) -> bool {
        self.keys.is_some()
    }

    /// Who opens a WebSocket: `None` is anybody, where no tokens are taken.
    ///
    /// # Errors
    /// Tokens are taken, and there is none or not a good one.
    pub fn enter(
        &self,
        credential: Credential<'_>,
        now: Timestamp,
    ) -> Result<Option<Claims>, Denied> {
        let Some(keys) = &self.keys else {
            return Ok(None);
        };
        let token = credential.bearer.or(credential.query);
        let token = token.ok_or(Denied::Unauthorized(NO_TOKEN))?;
        Ok(Some(keys.check(token, now)?))
    }

    /// Whether a request by HTTP may do this, and on whose behalf it does.
    ///
    /// # Errors
    /// It may not; see the table of the module.
    pub fn decide(
        &self,
        credential: Credential<'_>,
        action: Action<'_>,
        now: Timestamp,
    ) -> Result<Caller, Denied> {
        if credential.bearer.is_some_and(|key| self.api_keys.has(key)) {
            return Ok(Caller::Backend);
        }
        let is_write = matches!(action, Action::Publish(_) | Action::Kick);
        let shown = credential.bearer.or(credential.query);
        let claims = match (&self.keys, shown) {
            (Some(keys), Some(token)) => Some(keys.check(token, now)?),
            // What nobody can check proves nothing, and harms nothing.
            (Some(_) | None, _) => None,
        };
        match claims {
            Some(claims) => {
                let caller = Caller::User(Box::new(claims));
                caller.may(action).map(|()| caller)
            }
            None if is_write && self.api_keys.is_empty() && credential.is_local => {
                Ok(Caller::Backend)
            }
            None if is_write => Err(self.refuse_write(shown.is_some(), action)),
            None if self.takes_tokens() => Err(Denied::Unauthorized(NO_TOKEN)),
            None => Caller::Anonymous.may(action).map(|()| Caller::Anonymous),
        }
    }

    /// Why whoever is not known may not write.
    fn refuse_write(&self, has_shown: bool, action: Action<'_>) -> Denied {
        let by_token = self.takes_tokens() && matches!(action, Action::Publish(_));
        match (self.api_keys.is_empty(), by_token) {
            (false, _) if has_shown => Denied::Unauthorized("this is no API key of this server"),
            (false, false) => Denied::Unauthorized(NO_API_KEY),
            (false, true) => Denied::Unauthorized(
                "send an API key or a token: Authorization: Bearer <key or token>",
            ),
            (true, true) => Denied::Unauthorized(NO_TOKEN),
            (true, false) => Denied::Forbidden(
                "without an API key (--api-key) only requests from this machine may do this",
            ),
        }
    }
}

impl Caller {
    /// Whether that one may read the room.
    pub fn may_read(&self, room: &RoomName) -> bool {
        match self {
            Self::Backend => true,
            Self::Anonymous => room.personal_user().is_none(),
            Self::User(claims) => claims.may_join(room.as_str()),
        }
    }

    fn may(&self, action: Action<'_>) -> Result<(), Denied> {
        let allowed = match (action, self) {
            (Action::List, _) | (_, Self::Backend) => true,
            (Action::Read(room), caller) => caller.may_read(room),
            (Action::Publish(room), Self::User(claims)) => claims.may_publish(room.as_str()),
            (Action::Kick, Self::User(_)) => {
                return Err(Denied::Forbidden("a token can't do this: send an API key"));
            }
            (Action::Publish(_) | Action::Kick, Self::Anonymous) => false,
        };
        match (allowed, action) {
            (true, _) => Ok(()),
            (false, Action::Read(room)) if room.personal_user().is_some() => Err(
                Denied::Forbidden("a personal room can be read only by its user"),
            ),
            (false, Action::Publish(_)) => Err(Denied::Forbidden(
                "the token does not allow publishing to this room",
            )),
            (false, _) => Err(Denied::Forbidden("the token does not allow this room")),
        }
    }
}
