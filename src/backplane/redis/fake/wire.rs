//! The wire of the fake Redis, from the server's side: commands in, replies out.

use bytes::{Bytes, BytesMut};

/// What is answered. Maps and pushes are lists to those who speak RESP2.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Nil,
    /// No list, which RESP2 tells from no text.
    NilList,
    Simple(&'static str),
    Bulk(Bytes),
    Number(i64),
    List(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Push(Vec<Reply>),
    Error(String),
    /// Replies one after another.
    Several(Vec<Reply>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Simple("OK");

    pub(crate) fn bulk(bytes: &Bytes) -> Self {
        Self::Bulk(bytes.clone())
    }

    pub(crate) fn text(text: &str) -> Self {
        Self::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    pub(crate) fn texts<const N: usize>(texts: [&str; N]) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    /// A bulk string, or none.
    pub(crate) fn maybe(bytes: Option<&Bytes>) -> Self {
        bytes.map_or(Self::Nil, Self::bulk)
    }

    /// Appends its bytes.
    pub(crate) fn push(&self, out: &mut Vec<u8>, is_resp3: bool) {
        match self {
            Self::Nil | Self::NilList if is_resp3 => out.extend_from_slice(b"_\r\n"),
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::NilList => out.extend_from_slice(b"*-1\r\n"),
            Self::Simple(text) => line(out, '+', text),
            Self::Error(text) => line(out, '-', text),
            Self::Number(number) => line(out, ':', number),
            Self::Bulk(bytes) => {
                line(out, '$', bytes.len());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::List(list) => {
                line(out, '*', list.len());
                list.iter().for_each(|item| item.push(out, is_resp3));
            }
            Self::Push(list) => {
                line(out, if is_resp3 { '>' } else { '*' }, list.len());
                list.iter().for_each(|item| item.push(out, is_resp3));
            }
            Self::Map(pairs) => {
                let (kind, len) = if is_resp3 { ('%', 1) } else { ('*', 2) };
                line(out, kind, len * pairs.len());
                for (key, value) in pairs {
                    key.push(out, is_resp3);
                    value.push(out, is_resp3);
                }
            }
            Self::Several(list) => list.iter().for_each(|item| item.push(out, is_resp3)),
        }
    }
}

fn line(out: &mut Vec<u8>, kind: char, text: impl std::fmt::Display) {
    out.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
}

/// Takes the next command off `input`, once all of it is there.
pub(crate) fn next_command(input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, String> {
    let mut at = 0;
    let Some(count) = length(input, &mut at, b'*')? else {
        return Ok(None);
    };
    let mut places = vec![];
    for _ in 0..count {
        let Some(len) = length(input, &mut at, b'$')? else {
            return Ok(None);
        };
        if input.len() < at + len + 2 {
            return Ok(None);
        }
        places.push(at..at + len);
        at += len + 2;
    }
    let whole = input.split_to(at).freeze();
    // Copies, so that a key of a few bytes does not hold a whole call.
    let command = places.into_iter();
    let command = command.map(|place| Bytes::copy_from_slice(&whole[place]));
    Ok(Some(command.collect()))
}

/// `*3\r\n` or `$7\r\n`
fn length(input: &[u8], at: &mut usize, kind: u8) -> Result<Option<usize>, String> {
    let rest = &input[*at..];
    match rest.first() {
        None => return Ok(None),
        Some(&first) if first != kind => {
            let (kind, first) = (char::from(kind), char::from(first));
            return Err(format!("expected '{kind}', got '{first}'"));
        }
        Some(_) => {}
    }
    let Some(end) = memchr::memmem::find(rest, b"\r\n") else {
        return Ok(None);
    };
    let digits = std::str::from_utf8(&rest[1..end]).ok();
    *at += end + 2;
    let number = digits.and_then(|digits| digits.parse().ok());
    number.map(Some).ok_or_else(|| "invalid length".into())
}
