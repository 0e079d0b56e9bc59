//! The head of an HTTP/1.1 request (RFC 9112), parsed strictly.
//!
//! It is no HTTP server: it reads one head, says where it ends and whether a body follows; it
//! never reads bodies and knows no route. Where the RFC lets a server be lenient this one is not,
//! since what two parsers in a row read differently is how requests are smuggled.
//!
//! ```text
//!   GET SP /ws?room=a SP HTTP/1.1 CRLF        request line (3)
//!   Name ":" OWS value OWS CRLF               field lines (5), no obs-fold (5.2)
//!   CRLF
//! ```
//!
//! Invariants of a [`Head`]: every line ends in CRLF, and no other CR, LF, NUL or control
//! character but TAB is in it; the target begins with `/` and is visible ASCII; HTTP/1.1 has
//! exactly one Host; at most one of Content-Length and Transfer-Encoding is there, and once.
//! What can be refused is refused at the first byte that shows it, before the head is whole.

use crate::model::limits::{HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};

/// No method is longer; what has no space by then is no HTTP.
const METHOD_BYTES_MAX: usize = 16;

/// A whole, well-formed head. Borrows from the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// `GET`, `POST`, …: any token but CONNECT.
    pub method: &'a str,
    /// What stands before the `?` of the target, percent signs and all.
    pub path: &'a str,
    /// What stands behind it; empty if there is none.
    pub query: &'a str,
    /// Whether it is HTTP/1.1; else it is HTTP/1.0.
    pub http11: bool,
    /// What follows the head.
    pub body: Body,
    /// The field lines, each with its CRLF.
    fields: &'a [u8],
}

/// What follows a head (RFC 9112, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A request that is answered with an error, and its connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct HeadError {
    /// The status to answer with.
    pub status: u16,
    /// What is wrong.
    pub message: &'static str,
}

impl HeadError {
    /// An error with status 400.
    pub const fn bad(message: &'static str) -> Self {
        Self {
            status: 400,
            message,
        }
    }
}

const TOO_LARGE: HeadError = HeadError {
    status: 431,
    message: "the request's head is too large",
};
const TARGET_TOO_LONG: HeadError = HeadError {
    status: 414,
    message: "the target is too long",
};

/// Reads the head that `buf` begins with, and how many bytes it takes; `None`: not whole yet.
///
/// # Errors
/// 400 for what is malformed, 414 and 431 for what is too long, 501 for an unknown
/// transfer coding: all as soon as the bytes show it.
pub fn parse(buf: &[u8]) -> Result<Option<(Head<'_>, usize)>, HeadError> {
    let window = &buf[..buf.len().min(HEAD_BYTES_MAX)];
    let head = parse_window(window)?;
    if head.is_none() && buf.len() >= HEAD_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    Ok(head)
}

fn parse_window(window: &[u8]) -> Result<Option<(Head<'_>, usize)>, HeadError> {
    let Some((method, rest)) = take_method(window)? else {
        return Ok(None);
    };
    let Some((target, rest)) = take_target(rest)? else {
        return Ok(None);
    };
    let Some((http11, fields)) = take_version(rest)? else {
        return Ok(None);
    };
    let mut rest = fields;
    let mut facts = Facts::default();
    loop {
        match rest {
            [b'\r', b'\n', ..] => break,
            [] | [b'\r'] => return Ok(None),
            [b' ' | b'\t', ..] => return Err(HeadError::bad("folded header lines are not taken")),
            _ => {}
        }
        let Some((name, value, after)) = take_field(rest)? else {
            return Ok(None);
        };
        facts.note(name, value)?;
        rest = after;
    }
    let body = facts.body(http11)?;
    let fields = &fields[..fields.len() - rest.len()];
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let used = window.len() - rest.len() + 2;
    Ok(Some((
        Head {
            method,
            path,
            query,
            http11,
            body,
            fields,
        },
        used,
    )))
}

fn take_method(buf: &[u8]) -> Result<Option<(&str, &[u8])>, HeadError> {
    let end = buf
        .iter()
        .position(|&b| !is_token_byte(b))
        .unwrap_or(buf.len());
    if end > METHOD_BYTES_MAX {
        return Err(HeadError::bad("this is no HTTP request"));
    }
    match buf.get(end) {
        None => return Ok(None),
        Some(b' ') if end > 0 => {}
        Some(_) => return Err(HeadError::bad("this is no HTTP request")),
    }
    let method = ascii(&buf[..end])?;
    match method {
        "PRI" => Err(HeadError::bad("HTTP/2 is not spoken here")),
        "CONNECT" => Err(HeadError::bad("CONNECT is not taken, this is no proxy")),
        _ => Ok(Some((method, &buf[end + 1..]))),
    }
}

fn take_target(buf: &[u8]) -> Result<Option<(&str, &[u8])>, HeadError> {
    if buf.first().is_some_and(|&b| b != b'/') {
        return Err(HeadError::bad(
            "the target must be a path that begins with /",
        ));
    }
    let end = buf
        .iter()
        .position(|b| !matches!(b, 0x21..=0x7e))
        .unwrap_or(buf.len());
    if end > TARGET_BYTES_MAX {
        return Err(TARGET_TOO_LONG);
    }
    match buf.get(end) {
        None => return Ok(None),
        Some(b' ') => {}
        Some(_) => return Err(HeadError::bad("the target must be visible ASCII")),
    }
    if buf[..end].contains(&b'#') {
        return Err(HeadError::bad("the target must not have a fragment"));
    }
    Ok(Some((ascii(&buf[..end])?, &buf[end + 1..])))
}

fn take_version(buf: &[u8]) -> Result<Option<(bool, &[u8])>, HeadError> {
    const FORM: &[u8] = b"HTTP/1.x\r\n";
    let fits = |(&is, &must): (&u8, &u8)| is == must || (must == b'x' && matches!(is, b'0' | b'1'));
    if !buf.iter().zip(FORM).all(fits) {
        return Err(HeadError::bad(
            "the version must be HTTP/1.1, and the line end in CRLF",
        ));
    }
    Ok(buf
        .split_at_checked(FORM.len())
        .map(|(line, rest)| (line[7] == b'1', rest)))
}

/// One field line: name, value without the white space around it, and what is behind it.
#[expect(clippy::type_complexity, reason = "three parts of one line, used once")]
fn take_field(buf: &[u8]) -> Result<Option<(&str, &[u8], &[u8])>, HeadError> {
    let colon = buf
        .iter()
        .position(|&b| !is_token_byte(b))
        .unwrap_or(buf.len());
    match buf.get(colon) {
        None => return Ok(None),
        Some(b':') if colon > 0 => {}
        Some(_) => return Err(HeadError::bad("a header line must be Name: value")),
    }
    let value = &buf[colon + 1..];
    let is_value_byte = |b: &u8| matches!(b, b'\t' | 0x20..=0x7e | 0x80..);
    let end = value
        .iter()
        .position(|b| !is_value_byte(b))
        .unwrap_or(value.len());
    match &value[end..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', rest @ ..] => Ok(Some((
            ascii(&buf[..colon])?,
            value[..end].trim_ascii(),
            rest,
        ))),
        _ => Err(HeadError::bad(
            "a header's value has a control character or a bare line end",
        )),
    }
}

/// What must be known of the fields to frame the request.
#[derive(Default)]
struct Facts {
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Facts {
    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        self.fields += 1;
        if self.fields > HEADERS_MAX {
            return Err(TOO_LARGE);
        }
        if name.eq_ignore_ascii_case("host") {
            self.hosts += 1;
            if self.hosts > 1 {
                return Err(HeadError::bad("there must be one Host header"));
            }
            if !is_host(value) {
                return Err(HeadError::bad("the Host header must be host[:port]"));
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            // 18 digits fit in 64 bits; two equal lengths could be taken, but nobody sends them.
            let digits = matches!(value.len(), 1..=18) && value.iter().all(u8::is_ascii_digit);
            if self.length.is_some() || !digits {
                return Err(HeadError::bad("Content-Length must be one number"));
            }
            self.length = Some(value.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked {
                return Err(HeadError::bad("there must be one Transfer-Encoding header"));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                let message = "the only transfer coding taken is chunked";
                return Err(HeadError {
                    status: 501,
                    message,
                });
            }
            self.chunked = true;
        }
        if self.chunked && self.length.is_some() {
            return Err(HeadError::bad(
                "Content-Length and Transfer-Encoding exclude each other",
            ));
        }
        Ok(())
    }

    fn body(&self, http11: bool) -> Result<Body, HeadError> {
        if http11 && self.hosts == 0 {
            return Err(HeadError::bad("there must be one Host header"));
        }
        match self.length {
            _ if self.chunked && !http11 => {
                Err(HeadError::bad("HTTP/1.0 has no Transfer-Encoding"))
            }
            _ if self.chunked => Ok(Body::Chunked),
            None | Some(0) => Ok(Body::None),
            Some(length) => Ok(Body::Length(length)),
        }
    }
}

impl<'a> Head<'a> {
    /// The fields in their order, values without the white space around them.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut rest = self.fields;
        std::iter::from_fn(move || {
            // `parse` went the same way, so there is no error to tell.
            let (name, value, after) = take_field(rest).ok()??;
            rest = after;
            Some((name, value))
        })
    }

    /// The values of the fields named `name`, in any case. A value that is not UTF-8 is given as
    /// U+FFFD: there, and equal to nothing.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| std::str::from_utf8(value).unwrap_or("\u{fffd}"))
    }

    /// The first field named `name`, see [`Head::all`].
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// How many fields are named `name`.
    pub fn count(&self, name: &str) -> usize {
        self.all(name).count()
    }

    /// Whether a list of tokens, such as `Connection`, has `token` in any case (RFC 9110, 5.6.1).
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    }
}

/// The bytes of a token (RFC 9110, 5.6.2). A table, for each byte of each name is asked about.
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let punctuation = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < table.len() {
        table[i] = (i as u8).is_ascii_alphanumeric();
        i += 1;
    }
    let mut i = 0;
    while i < punctuation.len() {
        table[punctuation[i] as usize] = true;
        i += 1;
    }
    table
};

fn is_token_byte(b: u8) -> bool {
    TOKEN_BYTES[usize::from(b)]
}

/// Whether `value` could be `host[:port]`: what it really is, is for DNS to say.
fn is_host(value: &[u8]) -> bool {
    let is_host_byte = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(b);
    !value.is_empty() && value.iter().all(is_host_byte)
}

fn ascii(bytes: &[u8]) -> Result<&str, HeadError> {
    std::str::from_utf8(bytes).map_err(|_| HeadError::bad("the head must be ASCII"))
}

#[cfg(test)]
mod tests;
