//! The negotiation of permessage-deflate (RFC 7692, 5 and 7.1), by the fields of the head alone.
//!
//! Offers come in the client's order of preference, over one or more `Sec-WebSocket-Extensions`;
//! the first that can be taken is. One with a parameter that is unknown, stands there twice or has
//! a bad value is declined, as are other extensions. What is no list of extensions at all
//! (RFC 6455, 9.1) fails the handshake.

use std::fmt::Write;

use crate::net::head::Head;

const NAME: &[u8] = b"permessage-deflate";
/// Bits of the largest window, which is meant where nothing is said.
const BITS_MAX: u8 = 15;
/// Bits of the smallest.
const BITS_MIN: u8 = 8;

/// What a route can honour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// One stream goes to many: no context, and offers of a smaller window are declined. The
    /// client is told to keep none either, so that no inflater is held for it.
    Shared,
    /// The streams are the connection's own, with whatever it offers.
    Own,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Whether what the server sends may refer back to its messages before.
    pub server_takeover: bool,
    /// Whether what the client sends may.
    pub client_takeover: bool,
    /// Bits of the server's window, 8 to 15.
    pub server_bits: u8,
    /// Bits of the client's window, if it asked to be told: then it keeps to them.
    pub client_bits: Option<u8>,
    /// Whether the server's bits were asked for, and so must be answered.
    answers_server_bits: bool,
}

/// The field is not a list of extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOffer;

impl Agreed {
    /// The value of the answer's `Sec-WebSocket-Extensions`.
    pub fn answer(&self) -> String {
        let mut answer = String::from("permessage-deflate");
        if !self.server_takeover {
            answer.push_str("; server_no_context_takeover");
        }
        if !self.client_takeover {
            answer.push_str("; client_no_context_takeover");
        }
        if self.answers_server_bits {
            let _ = write!(answer, "; server_max_window_bits={}", self.server_bits);
        }
        if let Some(bits) = self.client_bits {
            let _ = write!(answer, "; client_max_window_bits={bits}");
        }
        answer
    }
}

/// Takes the first offer in the head that `terms` can honour; `None`: there is none.
///
/// # Errors
/// The field breaks its grammar: the handshake is to be failed.
pub fn negotiate(head: &Head<'_>, terms: Terms) -> Result<Option<Agreed>, BadOffer> {
    let mut agreed = None;
    for (name, value) in head.fields() {
        if !name.eq_ignore_ascii_case("sec-websocket-extensions") {
            continue;
        }
        let mut rest = List(value);
        while let Some(offer) = rest.next_offer()? {
            agreed = agreed.or_else(|| take(&offer, terms));
        }
    }
    Ok(agreed)
}

/// One extension that a client offers.
struct Offer<'a> {
    name: &'a [u8],
    parameters: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// What of the offer is agreed on; `None`: it is declined.
fn take(offer: &Offer<'_>, terms: Terms) -> Option<Agreed> {
    if offer.name != NAME {
        return None;
    }
    let mut agreed = Agreed {
        server_takeover: true,
        client_takeover: true,
        server_bits: BITS_MAX,
        client_bits: None,
        answers_server_bits: false,
    };
    let mut seen = [false; 4];
    for &(name, value) in &offer.parameters {
        let place = match (name, value) {
            (b"server_no_context_takeover", None) => {
                agreed.server_takeover = false;
                0
            }
            (b"client_no_context_takeover", None) => {
                agreed.client_takeover = false;
                1
            }
            (b"server_max_window_bits", Some(value)) => {
                agreed.server_bits = bits(value)?;
                agreed.answers_server_bits = true;
                2
            }
            (b"client_max_window_bits", value) => {
                agreed.client_bits = value.map(bits).map_or(Some(None), |bits| bits.map(Some))?;
                3
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[place], true) {
            return None;
        }
    }
    if terms == Terms::Shared {
        if agreed.server_bits < BITS_MAX {
            return None;
        }
        agreed.server_takeover = false;
        agreed.client_takeover = false;
    }
    Some(agreed)
}

/// A number of bits: decimal, without zeros before it.
fn bits(value: &[u8]) -> Option<u8> {
    let bits = match *value {
        [digit @ b'8'..=b'9'] => digit - b'0',
        [b'1', digit @ b'0'..=b'5'] => 10 + digit - b'0',
        _ => return None,
    };
    debug_assert!((BITS_MIN..=BITS_MAX).contains(&bits));
    Some(bits)
}

/// What is left to read of a field.
struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    /// `extension *( ";" parameter )`, and the comma behind it. Empty elements are nothing
    /// (RFC 9110, 5.6.1).
    fn next_offer(&mut self) -> Result<Option<Offer<'a>>, BadOffer> {
        while self.takes(b',') {}
        if self.is_over() {
            return Ok(None);
        }
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.takes(b';') {
            self.skip_blanks();
            let name = self.token()?;
            let value = match self.takes(b'=') {
                true => Some(self.value()?),
                false => None,
            };
            parameters.push((name, value));
        }
        if !self.takes(b',') && !self.is_over() {
            return Err(BadOffer);
        }
        Ok(Some(Offer { name, parameters }))
    }

    /// A token, or one in quotes, whose escapes are of no use since it must be a token inside.
    fn value(&mut self) -> Result<&'a [u8], BadOffer> {
        self.skip_blanks();
        let quoted = self.takes(b'"');
        let value = self.token()?;
        if quoted && self.0.first() != Some(&b'"') {
            return Err(BadOffer);
        }
        if quoted {
            self.0 = &self.0[1..];
        }
        Ok(value)
    }

    fn token(&mut self) -> Result<&'a [u8], BadOffer> {
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let end = self.0.iter().position(|b| !is_token(b));
        let (token, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        if token.is_empty() {
            return Err(BadOffer);
        }
        Ok(token)
    }

    /// Whether `mark` is next, behind blanks; it is passed then.
    fn takes(&mut self, mark: u8) -> bool {
        self.skip_blanks();
        let is_next = self.0.first() == Some(&mark);
        if is_next {
            self.0 = &self.0[1..];
        }
        is_next
    }

    fn is_over(&mut self) -> bool {
        self.skip_blanks();
        self.0.is_empty()
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }
}
