//! What a request is answered.

use bytes::Bytes;

/// How the session stands after a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transaction {
    /// In none.
    #[default]
    Idle,
    /// In one.
    Open,
    /// In one that has failed: only its end is taken.
    Failed,
}

/// What came of a request that did not fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The rows of all its statements.
    pub rows: Vec<Row>,
    /// The tags of its statements, in order: `INSERT 0 5`, `COPY 100`, `COMMIT` …
    pub tags: Vec<String>,
    /// How the session stands.
    pub transaction: Transaction,
}

impl Answer {
    /// The tag of the last statement; empty if there was none.
    pub fn tag(&self) -> &str {
        self.tags.last().map_or("", String::as_str)
    }

    /// Rows that the statement at `index` says it touched (`INSERT 0 5`, `COPY 5`: 5), else 0.
    pub fn affected(&self, index: usize) -> u64 {
        let tag = self.tags.get(index).map_or("", String::as_str);
        let last = tag.rsplit(' ').next().unwrap_or_default();
        last.parse().unwrap_or(0)
    }
}

/// One row. Columns count from 0; one that is not there, or is NULL, is `None`, and so is one that
/// can't be read as what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// For each column its length (i32, big-endian, -1: NULL) and its bytes. Checked.
    body: Bytes,
    is_binary: bool,
}

impl Row {
    /// A row whose `body` was found to be whole.
    pub(super) fn new(body: Bytes, is_binary: bool) -> Self {
        Self { body, is_binary }
    }

    /// A row of texts, for whoever plays PostgreSQL.
    #[cfg(test)]
    pub(crate) fn of_texts(texts: &[&str]) -> Self {
        let mut body = Vec::new();
        for text in texts {
            body.extend_from_slice(&(text.len() as i32).to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        Self::new(body.into(), false)
    }

    /// A column as it came: binary or text, as was asked for.
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        let range = self.range(column)?;
        self.body.get(range)
    }

    /// The same without copying, sharing the message's buffer.
    pub fn shared(&self, column: usize) -> Option<Bytes> {
        Some(self.body.slice(self.range(column)?))
    }

    /// A text, name, or enum column; of a simple query any.
    pub fn text(&self, column: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes(column)?).ok()
    }

    /// A smallint, integer or bigint.
    pub fn int(&self, column: usize) -> Option<i64> {
        let bytes = self.bytes(column)?;
        if !self.is_binary {
            return self.text(column)?.parse().ok();
        }
        match bytes.len() {
            2 => bytes.try_into().ok().map(i16::from_be_bytes).map(i64::from),
            4 => bytes.try_into().ok().map(i32::from_be_bytes).map(i64::from),
            8 => bytes.try_into().ok().map(i64::from_be_bytes),
            _ => None,
        }
    }

    /// A boolean.
    pub fn bool(&self, column: usize) -> Option<bool> {
        match self.bytes(column)? {
            b"t" | [1] => Some(true),
            b"f" | [0] => Some(false),
            _ => None,
        }
    }

    /// A uuid.
    pub fn uuid(&self, column: usize) -> Option<uuid::Uuid> {
        let bytes = self.bytes(column)?;
        match self.is_binary {
            true => uuid::Uuid::from_slice(bytes).ok(),
            false => uuid::Uuid::parse_str(self.text(column)?).ok(),
        }
    }

    /// A timestamptz that came in binary: milliseconds since 1970, rounded down.
    pub fn timestamp_ms(&self, column: usize) -> Option<i64> {
        let bytes = self.bytes(column).filter(|_| self.is_binary)?;
        let micros = i64::from_be_bytes(bytes.try_into().ok()?);
        micros
            .div_euclid(1000)
            .checked_add(super::copy::POSTGRES_EPOCH_MS)
    }

    fn range(&self, column: usize) -> Option<std::ops::Range<usize>> {
        let mut at = 0;
        for index in 0.. {
            let head = self.body.get(at..at + 4)?;
            let len = i32::from_be_bytes(head.try_into().ok()?);
            at += 4;
            match usize::try_from(len) {
                Err(_) if index == column => return None,
                Err(_) => {}
                Ok(len) if index == column => return Some(at..at + len),
                Ok(len) => at += len,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[Option<&[u8]>], is_binary: bool) -> Row {
        let mut body = Vec::new();
        for column in columns {
            let len = column.map_or(-1, |bytes| bytes.len() as i32);
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(column.unwrap_or_default());
        }
        Row::new(body.into(), is_binary)
    }

    #[test]
    fn columns_are_read_as_what_they_are() {
        let id = uuid::Uuid::from_u128(7);
        let binary = row(
            &[
                Some(b"caf\xc3\xa9"),
                None,
                Some(&7i16.to_be_bytes()),
                Some(&(-8i32).to_be_bytes()),
                Some(&9i64.to_be_bytes()),
                Some(&[1]),
                Some(id.as_bytes()),
                Some(&1_234_567i64.to_be_bytes()),
                Some(b""),
            ],
            true,
        );
        assert_eq!(binary.text(0), Some("café"));
        assert_eq!((binary.text(1), binary.int(1)), (None, None));
        assert_eq!(
            (binary.int(2), binary.int(3), binary.int(4)),
            (Some(7), Some(-8), Some(9))
        );
        assert_eq!((binary.bool(5), binary.uuid(6)), (Some(true), Some(id)));
        assert_eq!(binary.timestamp_ms(7), Some(946_684_801_234));
        assert_eq!((binary.text(8), binary.text(9)), (Some(""), None));
        assert_eq!(binary.int(0), None);

        let text = row(
            &[Some(b"42"), Some(b"f"), Some(id.to_string().as_bytes())],
            false,
        );
        assert_eq!((text.int(0), text.bool(1)), (Some(42), Some(false)));
        assert_eq!((text.uuid(2), text.int(3)), (Some(id), None));
        assert_eq!(text.shared(0).as_deref(), Some(&b"42"[..]));
    }

    #[test]
    fn tags_say_how_many() {
        let tags = ["BEGIN", "COPY 12", "INSERT 0 5", "COMMIT"];
        let answer = Answer {
            tags: tags.map(str::to_owned).to_vec(),
            ..Answer::default()
        };
        let affected: Vec<_> = (0..5).map(|index| answer.affected(index)).collect();
        assert_eq!(affected, [0, 12, 5, 0, 0]);
        assert_eq!(answer.tag(), "COMMIT");
    }
}
