//! The keys that tokens are signed with, and whether one is.
//!
//! Each key is for one algorithm, and is tried for tokens of that one only: a public key is never
//! taken for a secret, and `none` is no algorithm. Which key, if there are several, a token may
//! say by its `kid`; keys without one (of PEM files, the secret) are tried for every token.
//!
//! | from | algorithm |
//! |---|---|
//! | `--jwt-secret`, JWK `oct` | HS256 (RFC 7518, 3.2) |
//! | PEM or JWK of RSA, 2048 to 8192 bits | RS256 (3.3) |
//! | PEM or JWK of P-256 | ES256 (3.4) |
//! | PEM or JWK of Ed25519 | EdDSA (RFC 8037) |
//!
//! A PEM file may have several blocks; of a JWKS (RFC 7517, 5) what is for another use or of
//! another algorithm is passed by.

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use serde_json::{Map, Value};

use super::claims::Claims;
use super::signature;
use crate::model::Timestamp;
use crate::model::limits::{TOKEN_BYTES_MAX, TOKEN_KEYS_MAX};

/// One key.
#[derive(Clone)]
struct Key {
    algorithm: Algorithm,
    id: Option<String>,
    key: DecodingKey,
}

/// Keys of one instance; at least one.
#[derive(Clone)]
pub struct Keys(Vec<Key>);

/// Why there are no keys, in words that stand behind the name of the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// Why a token is not a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It is too long to be looked at.
    TooLong,
    /// It is no token, or of no algorithm that is taken here.
    Malformed,
    /// Its signature is of no key that is known here.
    Foreign,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYet,
    /// It does not say when it ends.
    NoExpiry,
    /// It does not say whose it is.
    NoUser,
    /// A claim is not of the right type.
    BadClaim(&'static str),
}

impl TokenError {
    /// In words, for whoever has sent it.
    pub fn message(self) -> &'static str {
        match self {
            Self::TooLong => "the token is too long",
            Self::Malformed => "the token is no JWT of an algorithm that is taken here",
            Self::Foreign => "the token is not signed with a key of this server",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::NoExpiry => "the token has no exp",
            Self::NoUser => "the token has no sub",
            Self::BadClaim("exp") => "the token's exp must be a number",
            Self::BadClaim("nbf") => "the token's nbf must be a number",
            Self::BadClaim("sub") => {
                "the token's sub must be a text of 1 to 128 bytes without control characters"
            }
            Self::BadClaim("name") => {
                "the token's name must be a text of 1 to 128 bytes without control characters"
            }
            Self::BadClaim("join") => "the token's join must be an array of rooms",
            Self::BadClaim(_) => "the token's publish must be an array of rooms",
        }
    }
}

impl Keys {
    /// The key of `--jwt-secret`.
    pub fn from_secret(secret: &str) -> Self {
        Self(vec![Key {
            algorithm: Algorithm::HS256,
            id: None,
            key: DecodingKey::from_secret(secret.as_bytes()),
        }])
    }

    /// The keys of a file: PEM or JWKS.
    ///
    /// # Errors
    /// What is wrong with it; nothing of the file is in it.
    pub fn from_file(bytes: &[u8]) -> Result<Self, KeyError> {
        let bad = |why: &str| KeyError(why.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is neither PEM nor JWKS"))?;
        let text = text.trim_start_matches('\u{feff}').trim();
        let keys = match text.starts_with('{') {
            true => from_jwks(text)?,
            false => from_pem(text)?,
        };
        match keys.len() {
            0 => Err(bad(
                "there is no key for RS256, ES256, EdDSA or HS256 in it",
            )),
            1..=TOKEN_KEYS_MAX => Ok(Self(keys)),
            _ => Err(bad(&format!("it has more than {TOKEN_KEYS_MAX} keys"))),
        }
    }

    /// These keys and others.
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Whether the token is signed with one of the keys, and what it says, if it is good `now`.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        signature::install();
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        // An extension that must be understood (RFC 7515, 4.1.11): none is.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let fits = |key: &&Key| {
            let same_id = key.id.is_none() || header.kid.is_none() || key.id == header.kid;
            key.algorithm == header.alg && same_id
        };
        for key in self.0.iter().filter(fits) {
            let claims =
                jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &rules(key.algorithm));
            match claims {
                Ok(data) => return Claims::read(&data.claims, now),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(_) => return Err(TokenError::Malformed),
            }
        }
        Err(TokenError::Foreign)
    }
}

/// The signature is the library's; the claims, and what time it is, are ours.
fn rules(algorithm: Algorithm) -> Validation {
    let mut rules = Validation::new(algorithm);
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.validate_aud = false;
    rules
}

/// Keys are told by their number and kinds.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.0.iter().map(|key| key.algorithm);
        f.debug_list().entries(kinds).finish()
    }
}

fn from_pem(text: &str) -> Result<Vec<Key>, KeyError> {
    const BEGIN: &str = "-----BEGIN ";
    let mut keys = Vec::new();
    for (at, _) in text.match_indices(BEGIN) {
        let block = &text[at..];
        let end = block[BEGIN.len()..].find(BEGIN);
        let block = end.map_or(block, |end| &block[..BEGIN.len() + end]);
        let label = block[BEGIN.len()..].split("-----").next();
        if label.is_some_and(|label| label.contains("PRIVATE")) {
            let why = "it has a private key, which belongs to whoever makes tokens: put the \
                       public one here (openssl pkey -pubout)";
            return Err(KeyError(why.into()));
        }
        let key = pem_key(block.as_bytes()).ok_or_else(|| {
            let number = keys.len() + 1;
            KeyError(format!(
                "PEM block {number} is no public key of RSA (2048 to 8192 bits), P-256 or Ed25519"
            ))
        })?;
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(KeyError("it is neither PEM nor JWKS".into()));
    }
    Ok(keys)
}

fn pem_key(block: &[u8]) -> Option<Key> {
    let ec = || DecodingKey::from_ec_pem(block).map(|key| (Algorithm::ES256, key));
    let ed = || DecodingKey::from_ed_pem(block).map(|key| (Algorithm::EdDSA, key));
    let rsa = || DecodingKey::from_rsa_pem(block).map(|key| (Algorithm::RS256, key));
    let (algorithm, key) = ec().or_else(|_| ed()).or_else(|_| rsa()).ok()?;
    let key = Key {
        algorithm,
        id: None,
        key,
    };
    is_sound(&key).then_some(key)
}

fn from_jwks(text: &str) -> Result<Vec<Key>, KeyError> {
    let bad = |why: String| KeyError(why);
    let value: Value = serde_json::from_str(text)
        .map_err(|error| bad(format!("line {}: it is no JSON", error.line())))?;
    // A single JWK is taken for a set of one.
    let all = match value.get("keys") {
        Some(Value::Array(keys)) => keys.clone(),
        Some(_) => return Err(bad("\"keys\" is no array".into())),
        None if value.get("kty").is_some() => vec![value],
        None => return Err(bad("it is JSON, but has no \"keys\"".into())),
    };
    let mut keys = Vec::new();
    for (number, value) in all.into_iter().enumerate() {
        let number = number + 1;
        if value.get("d").is_some() {
            let why = "has a private part (\"d\"), which belongs to whoever makes tokens";
            return Err(bad(format!("key {number} {why}")));
        }
        let Some(algorithm) = jwk_algorithm(&value) else {
            continue;
        };
        let key = jwk_key(value, algorithm).filter(is_sound);
        keys.push(key.ok_or_else(|| bad(format!("key {number} is malformed")))?);
    }
    Ok(keys)
}

/// What a JWK is for; `None`: nothing that is done here.
fn jwk_algorithm(jwk: &Value) -> Option<Algorithm> {
    let member = |name| jwk.get(name).and_then(Value::as_str);
    let algorithm = match (member("kty")?, member("crv")) {
        ("oct", _) => Algorithm::HS256,
        ("RSA", _) => Algorithm::RS256,
        ("EC", Some("P-256")) => Algorithm::ES256,
        ("OKP", Some("Ed25519")) => Algorithm::EdDSA,
        _ => return None,
    };
    let is_signing = member("use").is_none_or(|of| of == "sig");
    // RFC 9864 names the curve.
    let is_ed = algorithm == Algorithm::EdDSA && member("alg") == Some("Ed25519");
    let name = format!("{:?}", KeyAlgorithm::from(algorithm));
    let same = is_ed || member("alg").is_none_or(|alg| alg == name);
    (is_signing && same).then_some(algorithm)
}

fn jwk_key(value: Value, algorithm: Algorithm) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    debug_assert!(!matches!(
        jwk.common.public_key_use,
        Some(PublicKeyUse::Encryption)
    ));
    let curve = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(of) => Some(&of.curve),
        AlgorithmParameters::OctetKeyPair(of) => Some(&of.curve),
        _ => None,
    };
    let wanted = match algorithm {
        Algorithm::ES256 => Some(&EllipticCurve::P256),
        Algorithm::EdDSA => Some(&EllipticCurve::Ed25519),
        _ => None,
    };
    let key = DecodingKey::from_jwk(&jwk)
        .ok()
        .filter(|_| curve == wanted)?;
    Some(Key {
        algorithm,
        id: jwk.common.key_id,
        key,
    })
}

/// Whether the key is as long as one of its kind is.
fn is_sound(key: &Key) -> bool {
    match (key.algorithm, key.key.kind()) {
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => !secret.is_empty(),
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            let bits = n.len() * 8 - n.first().map_or(0, |top| top.leading_zeros() as usize);
            (2048..=8192).contains(&bits) && (1..=5).contains(&e.len())
        }
        // SEQUENCE { INTEGER n, INTEGER e }, where n alone has 256 bytes or more.
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => {
            (256 + 10..=1024 + 24).contains(&der.len()) && der[0] == 0x30
        }
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
            point.len() == 65 && point[0] == 4
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => point.len() == 32,
        _ => false,
    }
}
