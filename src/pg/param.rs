//! Parameters of a query, sent in binary with their types.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

/// A parameter.
#[derive(Clone, PartialEq)]
pub enum Param {
    /// NULL, as text.
    Null,
    /// A text.
    Text(String),
    /// A bigint.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A uuid.
    Uuid(Uuid),
    /// A jsonb, as JSON text.
    Json(String),
    /// A timestamptz, in ms since 1970.
    Timestamp(i64),
    /// text[].
    Texts(Vec<String>),
    /// bigint[].
    Ints(Vec<i64>),
    /// uuid[].
    Uuids(Vec<Uuid>),
}

// Of pg_type.dat.
const BOOL: u32 = 16;
const INT8: u32 = 20;
const TEXT: u32 = 25;
const TEXT_ARRAY: u32 = 1009;
const INT8_ARRAY: u32 = 1016;
const TIMESTAMPTZ: u32 = 1184;
const UUID: u32 = 2950;
const UUID_ARRAY: u32 = 2951;
const JSONB: u32 = 3802;

impl Param {
    /// A text, or NULL.
    pub fn optional(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Null, |text| Self::Text(text.into()))
    }

    /// Its type's number in PostgreSQL.
    pub(super) fn type_oid(&self) -> u32 {
        match self {
            Self::Null | Self::Text(_) => TEXT,
            Self::Int(_) => INT8,
            Self::Bool(_) => BOOL,
            Self::Uuid(_) => UUID,
            Self::Json(_) => JSONB,
            Self::Timestamp(_) => TIMESTAMPTZ,
            Self::Texts(_) => TEXT_ARRAY,
            Self::Ints(_) => INT8_ARRAY,
            Self::Uuids(_) => UUID_ARRAY,
        }
    }

    /// Appends its bytes; false: it is NULL, and has none.
    pub(super) fn put(&self, out: &mut BytesMut) -> bool {
        match self {
            Self::Null => return false,
            Self::Text(text) => out.put_slice(text.as_bytes()),
            Self::Int(value) => out.put_i64(*value),
            Self::Bool(value) => out.put_u8((*value).into()),
            Self::Uuid(id) => out.put_slice(id.as_bytes()),
            Self::Json(text) => {
                out.put_u8(1);
                out.put_slice(text.as_bytes());
            }
            Self::Timestamp(ms) => out.put_i64(
                ms.saturating_sub(super::copy::POSTGRES_EPOCH_MS)
                    .saturating_mul(1000),
            ),
            Self::Texts(texts) => array(out, TEXT, texts, |out, text| {
                out.put_slice(text.as_bytes());
            }),
            Self::Ints(values) => array(out, INT8, values, |out, value| out.put_i64(*value)),
            Self::Uuids(ids) => array(out, UUID, ids, |out, id| out.put_slice(id.as_bytes())),
        }
        true
    }
}

/// Without the values.
impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Param(type {})", self.type_oid())
    }
}

/// One dimension from 1 on, no NULL in it (`array_recv`).
fn array<T>(out: &mut BytesMut, oid: u32, items: &[T], put: impl Fn(&mut BytesMut, &T)) {
    out.put_i32(1);
    out.put_i32(0);
    out.put_u32(oid);
    out.put_i32(items.len() as i32);
    out.put_i32(1);
    for item in items {
        let at = out.len();
        out.put_i32(0);
        put(out, item);
        let len = (out.len() - at - 4) as i32;
        out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    }
}
