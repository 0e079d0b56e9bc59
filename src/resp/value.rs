//! A reply of Redis, whichever RESP it came by. What RESP3 tells apart and nobody here needs apart
//! is the same: maps and sets are lists (key, value, key, value, …, in the order they came), a
//! boolean is 0 or 1, a double and a big number their text. Attributes are dropped.

use bytes::Bytes;
use redis_protocol::resp3;

use super::refusal::Refusal;

/// See the module. Texts are views of the bytes that were read: who keeps one for long keeps them
/// all, so copy what is small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// There is none.
    Nil,
    /// A simple, bulk or verbatim string.
    Text(Bytes),
    /// An integer.
    Number(i64),
    /// An array, set or map.
    List(Vec<Value>),
    /// An error, of the command or among what it returned.
    Error(Refusal),
}

impl Value {
    /// Its text, if it is one.
    pub fn as_text(&self) -> Option<&Bytes> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its number, also one that is written as a text.
    pub fn as_number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// Its items, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// Its text as UTF-8 of its own.
    pub(super) fn to_text(&self) -> Option<String> {
        let text = std::str::from_utf8(self.as_text()?).ok()?;
        Some(text.to_owned())
    }
}

impl From<resp3::types::BytesFrame> for Value {
    fn from(frame: resp3::types::BytesFrame) -> Self {
        use resp3::types::BytesFrame as F;
        match frame {
            F::SimpleString { data, .. }
            | F::BlobString { data, .. }
            | F::VerbatimString { data, .. }
            | F::BigNumber { data, .. }
            | F::ChunkedString(data) => Self::Text(data),
            F::SimpleError { data, .. } => Self::Error(Refusal::new(&*data)),
            F::BlobError { data, .. } => Self::Error(Refusal::new(String::from_utf8_lossy(&data))),
            F::Boolean { data, .. } => Self::Number(data.into()),
            F::Number { data, .. } => Self::Number(data),
            F::Double { data, .. } => Self::Text(data.to_string().into()),
            F::Array { data, .. } | F::Push { data, .. } => list_of(data),
            F::Set { data, .. } => list_of(data),
            // The decoder takes the pairs of a map from its end.
            F::Map { data, .. } => {
                let pairs = data.into_iter().rev();
                list_of(pairs.flat_map(|(key, value)| [key, value]))
            }
            // Never of a server: `frame` lets none through.
            F::Null | F::Hello { .. } => Self::Nil,
        }
    }
}

fn list_of<F: Into<Value>>(items: impl IntoIterator<Item = F>) -> Value {
    Value::List(items.into_iter().map(Into::into).collect())
}
