//! Connection strings as URLs: what follows `postgres://` -> parameters.

use std::fmt;

use super::FORM;
use crate::model::percent;

/// Parameters and values, in order.
///
/// # Errors
/// One line, without the password.
pub(super) fn parse(rest: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, query),
        None => (rest, ""),
    };
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(credentials), rest),
        None => (None, rest),
    };
    let (places, database) = match rest.split_once('/') {
        Some((places, database)) => (places, database),
        None => (rest, ""),
    };
    if let Some(credentials) = credentials {
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        push(&mut pairs, "user", user)?;
        if let Some(password) = password {
            push(&mut pairs, "password", password)?;
        }
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for place in places.split(',') {
        let (host, port) = host_and_port(place)?;
        hosts.push(decode(host)?);
        ports.push(port);
    }
    push_plain(&mut pairs, "host", hosts.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        push_plain(&mut pairs, "port", ports.join(","));
    }
    push(&mut pairs, "dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("a parameter behind the ? lacks its =; write {FORM}"))?;
        pairs.push((decode(name)?, decode(value)?));
    }
    Ok(pairs)
}

fn push(pairs: &mut Vec<(String, String)>, name: &str, value: &str) -> Result<(), String> {
    push_plain(pairs, name, decode(value)?);
    Ok(())
}

fn push_plain(pairs: &mut Vec<(String, String)>, name: &str, value: String) {
    if !value.is_empty() {
        pairs.push((name.to_owned(), value));
    }
}

fn host_and_port(place: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| format!("the bracket is not closed; write {FORM}"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err(format!("what follows the bracket is no port; write {FORM}")),
        };
    }
    match place.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("an IPv6 address stands in brackets: [::1]:5432".into())
        }
        Some((host, port)) => Ok((host, port)),
        None => Ok((place, "")),
    }
}

/// Takes the %-encoding off.
pub(super) fn decode(text: &str) -> Result<String, String> {
    let bytes = percent::decode(text).ok_or("a % in it is written %25")?;
    let text = String::from_utf8(bytes).map_err(|_| "a part of it is not UTF-8")?;
    match text.contains('\0') {
        true => Err("a part of it has a NUL in it".into()),
        false => Ok(text),
    }
}

/// Writes `text` so that it may stand in a URL.
pub(super) fn encode(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'[' | b']' => {
                write!(f, "{}", char::from(byte))?;
            }
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}
