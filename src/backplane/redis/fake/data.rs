//! What the fake Redis holds: keys with texts, hashes and streams, and when they expire.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::streams::Stream;

pub(crate) const WRONGTYPE: &str =
    "WRONGTYPE Operation against a key holding the wrong kind of value";

pub(crate) type Hash = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Default)]
pub(crate) struct Data {
    pub(crate) now_ms: u64,
    keys: BTreeMap<Bytes, Kept>,
}

#[derive(Clone)]
struct Kept {
    value: Value,
    expires_at: Option<u64>,
}

/// What a key holds.
#[derive(Clone)]
pub(crate) enum Value {
    Text(Bytes),
    Hash(Hash),
    Stream(Stream),
}

impl Data {
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
    }

    /// The value of a key, unless it has expired.
    pub(crate) fn value(&mut self, key: &[u8]) -> Option<&mut Value> {
        let kept = self.keys.get(key)?;
        if kept.expires_at.is_some_and(|at| at <= self.now_ms) {
            self.keys.remove(key);
        }
        self.keys.get_mut(key).map(|kept| &mut kept.value)
    }

    /// Sets a key, with nothing left of what it was.
    pub(crate) fn set(&mut self, key: &Bytes, value: Value, expires_at: Option<u64>) {
        self.keys.insert(key.clone(), Kept { value, expires_at });
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        self.value(key).is_some() && self.keys.remove(key).is_some()
    }

    /// When a key expires; `None`: there is no such key.
    pub(crate) fn expires_at(&mut self, key: &[u8]) -> Option<&mut Option<u64>> {
        self.value(key)?;
        self.keys.get_mut(key).map(|kept| &mut kept.expires_at)
    }

    pub(crate) fn text(&mut self, key: &[u8]) -> Result<Option<&Bytes>, String> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WRONGTYPE.into()),
        }
    }

    pub(crate) fn hash(&mut self, key: &[u8]) -> Result<Option<&mut Hash>, String> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(WRONGTYPE.into()),
        }
    }

    pub(crate) fn stream(&mut self, key: &[u8]) -> Result<Option<&mut Stream>, String> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Stream(stream)) => Ok(Some(stream)),
            Some(_) => Err(WRONGTYPE.into()),
        }
    }

    pub(crate) fn hash_or_new(&mut self, key: &Bytes) -> Result<&mut Hash, String> {
        if self.value(key).is_none() {
            self.set(key, Value::Hash(Hash::new()), None);
        }
        self.hash(key)?.ok_or_else(|| WRONGTYPE.into())
    }

    pub(crate) fn stream_or_new(&mut self, key: &Bytes) -> Result<&mut Stream, String> {
        if self.value(key).is_none() {
            self.set(key, Value::Stream(Stream::default()), None);
        }
        self.stream(key)?.ok_or_else(|| WRONGTYPE.into())
    }

    /// The values of fields, in their order.
    pub(crate) fn fields(
        &mut self,
        key: &[u8],
        fields: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, String> {
        let hash = self.hash(key)?;
        let value = |field| hash.as_ref().and_then(|hash| hash.get(field)).cloned();
        Ok(fields.iter().map(value).collect())
    }

    /// Sets fields; returns how many are new.
    pub(crate) fn set_fields(
        &mut self,
        key: &Bytes,
        pairs: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<i64, String> {
        let hash = self.hash_or_new(key)?;
        let pairs = pairs.into_iter();
        let new =
            pairs.filter_map(|(field, value)| hash.insert(field, value).is_none().then_some(1));
        Ok(new.sum())
    }

    /// Drops fields, and the key with its last one; returns how many there were.
    pub(crate) fn drop_fields(&mut self, key: &[u8], fields: &[Bytes]) -> Result<i64, String> {
        let Some(hash) = self.hash(key)? else {
            return Ok(0);
        };
        let dropped = fields.iter().filter(|field| hash.remove(*field).is_some());
        let dropped = dropped.count() as i64;
        if hash.is_empty() {
            self.keys.remove(key);
        }
        Ok(dropped)
    }
}
