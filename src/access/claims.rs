//! What a token says (PROTOCOL 2; RFC 7519, 4.1).
//!
//! ```text
//! sub      the user's id: a name, and there must be one
//! name     the user's name, if it has one
//! exp      when the token ends, in seconds since 1970; there must be one
//! nbf      when it begins, if it says so; clocks may differ by TOKEN_LEEWAY_MS
//! join     rooms that may be joined and read ┐ both absent: every room;
//! publish  rooms that may be published to    ┘ one absent: none
//! ```
//!
//! Other claims are passed by. A known one of the wrong type makes the token a bad one, `null`
//! included: who meant to restrict must not end up with every room.

use serde_json::{Map, Value};

use super::grants::Grants;
use super::keys::TokenError;
use crate::model::limits::TOKEN_LEEWAY_MS;
use crate::model::{Name, Timestamp, name_is_valid};

/// What is known of a user by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who it is.
    pub user_id: Name,
    /// What it is called.
    pub username: Option<Name>,
    /// From when on the token is no longer good.
    pub expires: Timestamp,
    /// The rooms that may be joined and read, but for personal ones.
    pub join: Grants,
    /// The rooms that may be published to, personal ones among them.
    pub publish: Grants,
}

impl Claims {
    /// Reads the claims of a token whose signature is good.
    pub(super) fn read(claims: &Map<String, Value>, now: Timestamp) -> Result<Self, TokenError> {
        let expires = time(claims, "exp")?.ok_or(TokenError::NoExpiry)?;
        if now >= expires {
            return Err(TokenError::Expired);
        }
        if time(claims, "nbf")?.is_some_and(|from| from.0 > now.0.saturating_add(TOKEN_LEEWAY_MS)) {
            return Err(TokenError::NotYet);
        }
        let user_id = name(claims, "sub")?.ok_or(TokenError::NoUser)?;
        let (join, publish) = match (grants(claims, "join")?, grants(claims, "publish")?) {
            (None, None) => (Grants::every(), Grants::every()),
            (join, publish) => (
                join.unwrap_or_else(Grants::none),
                publish.unwrap_or_else(Grants::none),
            ),
        };
        Ok(Self {
            user_id,
            username: name(claims, "name")?,
            expires,
            join,
            publish,
        })
    }

    /// Whether the room may be joined and read. A personal room is its user's, whatever is granted.
    pub fn may_join(&self, room: &str) -> bool {
        match room.strip_prefix('@') {
            Some(user) => user == self.user_id,
            None => self.join.has(room),
        }
    }

    /// Whether the room may be published to.
    pub fn may_publish(&self, room: &str) -> bool {
        self.publish.has(room)
    }
}

/// Seconds since 1970, with a fraction or without (NumericDate).
fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<Timestamp>, TokenError> {
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    let seconds = value.as_f64().ok_or(TokenError::BadClaim(claim))?;
    // What is out of range becomes 0, or as late as can be.
    Ok(Some(Timestamp((seconds * 1000.0) as u64)))
}

fn name(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<Name>, TokenError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(text)) if name_is_valid(text) => Ok(Some(Name::from(text.as_str()))),
        Some(_) => Err(TokenError::BadClaim(claim)),
    }
}

fn grants(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<Grants>, TokenError> {
    let bad = || TokenError::BadClaim(claim);
    let Some(value) = claims.get(claim) else {
        return Ok(None);
    };
    let rooms = value.as_array().ok_or_else(bad)?;
    let texts = rooms.iter().map(|room| room.as_str().ok_or_else(bad));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Grants::new(texts)))
}
