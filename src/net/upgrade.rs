//! The answer to a WebSocket upgrade (RFC 6455, 4.2).
//!
//! It says yes or why not, and nothing of who may come: origins are [`super::origin`]'s, tokens
//! and limits the caller's.
//!
//! ```text
//!   HTTP/1.1 101 Switching Protocols
//!   Connection: Upgrade
//!   Upgrade: websocket
//!   Sec-WebSocket-Accept: base64(sha1(key + GUID))
//!   Sec-WebSocket-Protocol: ringcast.v1                only if the client offered it
//!   Sec-WebSocket-Extensions: permessage-deflate; …    only if it was agreed on
//! ```
//!
//! Written here and not by the library, whose maps of headers take longer than all the rest of a
//! handshake; a test holds the answer against the library's.

use tungstenite::handshake::derive_accept_key;

use super::deflate::{self, Agreed, BadOffer, Terms};
use super::head::{Body, Head, HeadError};

/// Protocol of `/ws` (PROTOCOL 2).
pub const SUBPROTOCOL: &str = "ringcast.v1";

const NOT_AN_UPGRADE: HeadError = HeadError {
    status: 426,
    message: "this is a WebSocket: send Connection: Upgrade and Upgrade: websocket",
};
const OTHER_VERSION: HeadError = HeadError {
    status: 426,
    message: "the Sec-WebSocket-Version must be 13",
};
const NO_EXTENSIONS: HeadError =
    HeadError::bad("the Sec-WebSocket-Extensions are not a list of extensions");

/// The bytes that answer the upgrade. `behind` is what has come behind the head: a client must
/// wait for the answer, so there must be nothing. `protocol` is chosen if the client offers it.
///
/// # Errors
/// 426 if it is no upgrade, or one to another version; 400 for what must not be in one.
pub fn accept(
    head: &Head<'_>,
    behind: &[u8],
    protocol: Option<&'static str>,
) -> Result<Vec<u8>, HeadError> {
    Ok(accept_with(head, behind, protocol, None)?.0)
}

/// The same, and what is agreed on of compression if the route has it, on such `terms`.
///
/// # Errors
/// Those of [`accept`], and 400 if the extensions offered are no list of such.
pub fn accept_with(
    head: &Head<'_>,
    behind: &[u8],
    protocol: Option<&'static str>,
    terms: Option<Terms>,
) -> Result<(Vec<u8>, Option<Agreed>), HeadError> {
    let offer = Offer::read(head, protocol)?;
    check(head, behind, &offer)?;
    let key = offer.key.unwrap_or_default();
    if !is_key(key) {
        return Err(HeadError::bad(
            "the Sec-WebSocket-Key must be 16 bytes in base64",
        ));
    }
    let agreed = match terms {
        Some(terms) => deflate::negotiate(head, terms).map_err(|BadOffer| NO_EXTENSIONS)?,
        None => None,
    };
    let mut answer = String::with_capacity(192);
    answer.push_str("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    answer.push_str("Upgrade: websocket\r\nSec-WebSocket-Accept: ");
    answer.push_str(&derive_accept_key(key));
    if let Some(protocol) = protocol
        && offer.protocol
    {
        answer.push_str("\r\nSec-WebSocket-Protocol: ");
        answer.push_str(protocol);
    }
    if let Some(agreed) = agreed {
        answer.push_str("\r\nSec-WebSocket-Extensions: ");
        answer.push_str(&agreed.answer());
    }
    answer.push_str("\r\n\r\n");
    Ok((answer.into_bytes(), agreed))
}

/// Whether `key` is 16 bytes in base64: 21 digits, one of two bits, two of padding.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    matches!(key, [digits @ .., b'A' | b'Q' | b'g' | b'w', b'=', b'=']
        if digits.len() == 21 && digits.iter().all(is_digit))
}

fn check(head: &Head<'_>, behind: &[u8], offer: &Offer<'_>) -> Result<(), HeadError> {
    if head.method != "GET" {
        return Err(HeadError::bad("a WebSocket is opened by GET"));
    }
    if !head.http11 {
        return Err(HeadError::bad("a WebSocket is opened by HTTP/1.1"));
    }
    if head.body != Body::None {
        return Err(HeadError::bad("an upgrade must not have a body"));
    }
    if !offer.connection || !offer.upgrade {
        return Err(NOT_AN_UPGRADE);
    }
    if offer.version != Some(b"13") {
        return Err(OTHER_VERSION);
    }
    if !behind.is_empty() {
        return Err(HeadError::bad(
            "nothing may follow an upgrade before its answer",
        ));
    }
    Ok(())
}

/// What the fields say of the upgrade, gathered in one pass over them.
#[derive(Default)]
struct Offer<'a> {
    /// `Connection` has `Upgrade`.
    connection: bool,
    /// `Upgrade` has `websocket`.
    upgrade: bool,
    version: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    /// Our subprotocol is among those offered. They, unlike header names, are told apart by case.
    protocol: bool,
}

impl<'a> Offer<'a> {
    fn read(head: &Head<'a>, protocol: Option<&str>) -> Result<Self, HeadError> {
        const TWICE: HeadError = HeadError::bad("a Sec-WebSocket header stands there twice");
        let mut offer = Self::default();
        let parts = |value: &'a [u8]| value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
        for (name, value) in head.fields() {
            if name.eq_ignore_ascii_case("connection") {
                offer.connection |= parts(value).any(|part| part.eq_ignore_ascii_case(b"upgrade"));
            } else if name.eq_ignore_ascii_case("upgrade") {
                offer.upgrade |= parts(value).any(|part| part.eq_ignore_ascii_case(b"websocket"));
            } else if name.eq_ignore_ascii_case("sec-websocket-version") {
                if offer.version.replace(value).is_some() {
                    return Err(TWICE);
                }
            } else if name.eq_ignore_ascii_case("sec-websocket-key") {
                if offer.key.replace(value).is_some() {
                    return Err(TWICE);
                }
            } else if name.eq_ignore_ascii_case("sec-websocket-protocol") {
                let wanted = protocol.unwrap_or_default().as_bytes();
                offer.protocol |= parts(value).any(|part| part == wanted);
            }
        }
        Ok(offer)
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::handshake::machine::TryParse;

    use super::*;
    use crate::net::head;

    const GOOD: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn answer(text: &str) -> Result<String, HeadError> {
        let (head, used) = head::parse(text.as_bytes())?.unwrap();
        let answer = accept(&head, &text.as_bytes()[used..], Some(SUBPROTOCOL))?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[test]
    fn the_rfc_s_example() {
        let answer = answer(GOOD).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{answer}"
        );
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(answer.ends_with("\r\n\r\n"));
        assert!(!answer.contains("Protocol:"));
    }

    /// The library takes the same keys, and answers them alike.
    #[test]
    fn the_library_agrees() {
        use tungstenite::handshake::server::{Request, create_response};
        for key in [
            "dGhlIHNhbXBsZSBub25jZQ==",
            "AAAAAAAAAAAAAAAAAAAAAA==",
            "//////////////////////w==",
            "/////////////////////w==",
            "/////////////////////x==",
            "AAAAAAAAAAAAAAAAAAAAAAA=",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAA-A==",
            "",
        ] {
            let text = GOOD.replace("dGhlIHNhbXBsZSBub25jZQ==", key);
            let (_, request) = Request::try_parse(text.as_bytes()).unwrap().unwrap();
            let theirs = create_response(&request).ok();
            let accept = theirs.map(|theirs| {
                theirs.headers()["sec-websocket-accept"]
                    .to_str()
                    .unwrap()
                    .to_owned()
            });
            let ours = answer(&text).ok();
            assert_eq!(ours.is_some(), accept.is_some(), "{key}");
            assert!(
                ours.unwrap_or_default()
                    .contains(&accept.unwrap_or_default()),
                "{key}"
            );
        }
    }

    #[test]
    fn the_subprotocol_is_chosen_if_offered() {
        let with = |offer: &str| {
            let line = format!("Sec-WebSocket-Protocol: {offer}\r\n\r\n");
            answer(&GOOD.replace("\r\n\r\n", &format!("\r\n{line}"))).unwrap()
        };
        assert!(with("chat, ringcast.v1").contains("\r\nSec-WebSocket-Protocol: ringcast.v1\r\n"));
        assert!(!with("RINGCAST.V1, chat").contains("Sec-WebSocket-Protocol"));
    }

    /// `change` as `(what, by what)`.
    fn check(change: (&str, &str), status: u16) {
        let text = GOOD.replace(change.0, change.1);
        assert_ne!(text, GOOD);
        assert_eq!(
            answer(&text).map_err(|error| error.status),
            Err(status),
            "{change:?}"
        );
    }

    #[test]
    fn what_is_no_upgrade_gets_no_101() {
        check(("Version: 13", "Version: 12"), 426);
        check(("Version: 13", "Version: 13, 8"), 426);
        check(("Sec-WebSocket-Version: 13\r\n", ""), 426);
        check(("Upgrade: WebSocket", "Upgrade: h2c"), 426);
        check(("keep-alive, Upgrade", "keep-alive"), 426);
        check(("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400);
        check(("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400);
        check(
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=?"),
            400,
        );
        check(
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR=="),
            400,
        );
        check(
            (
                "Host: a\r\n",
                "Host: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
            400,
        );
        check(("GET", "POST"), 400);
        check(("HTTP/1.1", "HTTP/1.0"), 400);
        check(("HTTP/1.1", "HTTP/2.0"), 400);
        check(("Host: a\r\n", "Host: a\r\nContent-Length: 5\r\n"), 400);
        check(
            ("Host: a\r\n", "Host: a\r\nTransfer-Encoding: chunked\r\n"),
            400,
        );
        check(
            ("\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            400,
        );
    }
}
