//! Rows as COPY BINARY, straight into the buffer that is sent.
//!
//! ```text
//! d len  PGCOPY\n\xff\r\n\0 flags(i32) extension(i32)      one CopyData, then further ones
//!        row: columns(i16), for each: len(i32, -1: NULL) bytes
//! …
//! d 6    -1(i16)                                           the end of the rows
//! c 4                                                      CopyDone
//! ```
//!
//! Source: PostgreSQL documentation, COPY, "Binary Format", and "Message Formats". The bytes of
//! each type are those that its `…recv` function takes. Nothing is allocated for a row: the buffer
//! grows to the size of a batch and is used again.
//!
//! What is encoded is not checked for what PostgreSQL refuses (`\u0000` in jsonb, a NUL in text):
//! it says so itself.

use uuid::Uuid;

use crate::model::limits::COPY_FRAME_BYTES;

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts, in ms since 1970.
pub(super) const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The rows of one COPY.
#[derive(Clone, Debug)]
pub struct CopyBuffer {
    bytes: Vec<u8>,
    /// Where the CopyData under way begins.
    frame: usize,
    rows: usize,
    /// Columns that the row under way lacks.
    left: u16,
}

impl Default for CopyBuffer {
    fn default() -> Self {
        Self::reuse(Vec::new())
    }
}

impl CopyBuffer {
    /// Without rows, in a buffer whose capacity is kept.
    pub fn reuse(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        let mut buffer = Self {
            bytes,
            frame: 0,
            rows: 0,
            left: 0,
        };
        buffer.begin();
        buffer
    }

    /// Takes all rows out, and keeps the capacity.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.frame = 0;
        self.rows = 0;
        self.left = 0;
        self.begin();
    }

    /// Rows in it.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes in it, all that is around the rows included.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Begins a row of so many columns, each of which is then written, in order.
    pub fn row(&mut self, columns: u16) -> CopyRow<'_> {
        debug_assert!(self.left == 0, "the row before lacks columns");
        if self.bytes.len() - self.frame >= COPY_FRAME_BYTES {
            self.end_frame();
            self.begin_frame();
        }
        self.rows += 1;
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        self.left = columns;
        CopyRow {
            bytes: &mut self.bytes,
            left: &mut self.left,
        }
    }

    /// All of it as it is sent, for [`super::Request::Copy`].
    pub fn finish(mut self) -> Vec<u8> {
        debug_assert!(self.left == 0, "the last row lacks columns");
        self.end_frame();
        self.begin_frame();
        self.bytes.extend_from_slice(&(-1i16).to_be_bytes());
        self.end_frame();
        self.bytes.extend_from_slice(&[b'c', 0, 0, 0, 4]);
        self.bytes
    }

    fn begin(&mut self) {
        self.begin_frame();
        self.bytes.extend_from_slice(SIGNATURE);
        self.bytes.extend_from_slice(&[0; 8]);
    }

    fn begin_frame(&mut self) {
        self.frame = self.bytes.len();
        self.bytes.extend_from_slice(&[b'd', 0, 0, 0, 0]);
    }

    fn end_frame(&mut self) {
        let len = (self.bytes.len() - self.frame - 1) as u32;
        let place = self.frame + 1..self.frame + 5;
        self.bytes[place].copy_from_slice(&len.to_be_bytes());
    }
}

/// A row under way. Its columns are written in the order of the COPY's.
#[derive(Debug)]
pub struct CopyRow<'a> {
    bytes: &'a mut Vec<u8>,
    left: &'a mut u16,
}

impl CopyRow<'_> {
    /// NULL.
    pub fn null(&mut self) -> &mut Self {
        self.count();
        self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
        self
    }

    /// A text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.raw(text.as_bytes())
    }

    /// A text, or NULL.
    pub fn optional_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// A uuid.
    pub fn uuid(&mut self, id: Uuid) -> &mut Self {
        self.raw(id.as_bytes())
    }

    /// A bigint.
    pub fn bigint(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A jsonb, given as JSON text: its version, 1, and the text.
    pub fn jsonb(&mut self, json: &[u8]) -> &mut Self {
        self.count();
        let len = json.len() as u32 + 1;
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.push(1);
        self.bytes.extend_from_slice(json);
        self
    }

    /// A jsonb, or NULL.
    pub fn optional_jsonb(&mut self, json: Option<&[u8]>) -> &mut Self {
        match json {
            Some(json) => self.jsonb(json),
            None => self.null(),
        }
    }

    /// A timestamptz, given in ms since 1970: microseconds since 2000. What PostgreSQL can't hold
    /// becomes the nearest it can.
    pub fn timestamptz(&mut self, ms: u64) -> &mut Self {
        // 294276-12-31 is the last day it knows.
        const MS_MAX: i64 = 9_224_318_015_999_999;
        let ms = i64::try_from(ms).unwrap_or(MS_MAX).min(MS_MAX);
        self.bigint((ms - POSTGRES_EPOCH_MS) * 1000)
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.count();
        let len = bytes.len() as u32;
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn count(&mut self) {
        debug_assert!(*self.left > 0, "more columns than the row was begun with");
        *self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let mut buffer = CopyBuffer::default();
        buffer
            .row(5)
            .text("é")
            .bigint(-2)
            .null()
            .jsonb(b"{}")
            .timestamptz(POSTGRES_EPOCH_MS as u64 + 1);
        assert_eq!(buffer.rows(), 1);
        let bytes = buffer.finish();
        let mut want = vec![b'd', 0, 0, 0, 4 + 19 + 2 + 6 + 12 + 4 + 7 + 12];
        want.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        want.extend_from_slice(b"\0\x05\0\0\0\x02\xc3\xa9");
        want.extend_from_slice(b"\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff\xff");
        want.extend_from_slice(b"\0\0\0\x03\x01{}\0\0\0\x08\0\0\0\0\0\0\x03\xe8");
        want.extend_from_slice(b"d\0\0\0\x06\xff\xffc\0\0\0\x04");
        assert_eq!(bytes, want);
    }

    #[test]
    fn a_long_batch_goes_in_several_pieces_and_the_buffer_is_kept() {
        let mut buffer = CopyBuffer::default();
        let text = "x".repeat(1000);
        for _ in 0..1000 {
            buffer.row(1).text(&text);
        }
        let bytes = buffer.finish();
        let (mut at, mut pieces) = (0, 0);
        while bytes[at] == b'd' {
            let len = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().unwrap());
            at += 1 + len as usize;
            pieces += 1;
        }
        assert_eq!(bytes[at..], [b'c', 0, 0, 0, 4]);
        assert!((10..20).contains(&pieces), "{pieces}");
        let (capacity, place) = (bytes.capacity(), bytes.as_ptr());
        let mut again = CopyBuffer::reuse(bytes);
        for _ in 0..1000 {
            again.row(1).text(&text);
        }
        let bytes = again.finish();
        assert_eq!((bytes.capacity(), bytes.as_ptr()), (capacity, place));
    }
}
