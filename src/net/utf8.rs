//! Text that comes in pieces, checked as it comes (RFC 6455, 8.1).
//!
//! ```text
//!   text: String             tail: 0 to 3 bytes
//!   ├── whole characters ──┤├── begun character ──┤ ← next piece
//! ```
//!
//! Invariant: `text` + `tail` is all that was pushed, and `tail` may still become a character. So
//! the first byte that can't be part of UTF-8 is refused when it is pushed, wherever the cut is.

/// Bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUtf8;

/// Text under way.
#[derive(Debug, Default)]
pub struct PartialText {
    text: String,
    tail: [u8; 4],
    tail_len: usize,
}

impl PartialText {
    /// Takes the next piece.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), BadUtf8> {
        while self.tail_len > 0
            && let Some((&byte, rest)) = piece.split_first()
        {
            piece = rest;
            self.push_to_tail(byte)?;
        }
        match simdutf8::compat::from_utf8(piece) {
            Ok(text) => self.text.push_str(text),
            Err(error) if error.error_len().is_some() => return Err(BadUtf8),
            Err(error) => {
                let (whole, begun) = piece.split_at(error.valid_up_to());
                self.text
                    .push_str(std::str::from_utf8(whole).map_err(|_| BadUtf8)?);
                self.tail[..begun.len()].copy_from_slice(begun);
                self.tail_len = begun.len();
            }
        }
        Ok(())
    }

    /// One more byte of the begun character. Of 4 bytes one can always say whether they are one.
    fn push_to_tail(&mut self, byte: u8) -> Result<(), BadUtf8> {
        self.tail[self.tail_len] = byte;
        self.tail_len += 1;
        match std::str::from_utf8(&self.tail[..self.tail_len]) {
            Ok(character) => {
                self.text.push_str(character);
                self.tail_len = 0;
                Ok(())
            }
            Err(error) if error.error_len().is_some() => Err(BadUtf8),
            Err(_) => Ok(()),
        }
    }

    /// Says that nothing more will come: a begun character is bad then.
    pub fn finish(&self) -> Result<(), BadUtf8> {
        if self.tail_len == 0 {
            Ok(())
        } else {
            Err(BadUtf8)
        }
    }

    /// The whole characters so far.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Bytes pushed so far.
    pub fn len(&self) -> usize {
        self.text.len() + self.tail_len
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the text holds.
    pub fn capacity(&self) -> usize {
        self.text.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes byte by byte; gives the index of the byte that was refused, or the length if only
    /// `finish` refused.
    fn check(bytes: &[u8], refused_at: Option<usize>) {
        let mut text = PartialText::default();
        let mut refused = None;
        for (i, byte) in bytes.iter().enumerate() {
            if text.push(&[*byte]).is_err() {
                refused = Some(i);
                break;
            }
        }
        if refused.is_none() && text.finish().is_err() {
            refused = Some(bytes.len());
        }
        assert_eq!(refused, refused_at, "{bytes:x?}");
        if refused.is_none() {
            assert_eq!(text.as_str().as_bytes(), bytes);
        }
        for cut in 0..=bytes.len() {
            let mut text = PartialText::default();
            let all = text
                .push(&bytes[..cut])
                .and_then(|()| text.push(&bytes[cut..]));
            assert_eq!(
                all.and_then(|()| text.finish()).is_err(),
                refused_at.is_some()
            );
        }
    }

    #[test]
    fn the_first_bad_byte_is_refused() {
        check("κόσμε €𐍈".as_bytes(), None);
        check(b"", None);
        check(b"a\xff", Some(1));
        check(b"\xc0\xaf", Some(0));
        check(b"\xce\xba\xe1\xbd", Some(4));
        check(b"\xe0\x80\x80", Some(1)); // overlong
        check(b"\xed\xa0\x80", Some(1)); // surrogate
        check(b"\xf4\x90\x80\x80", Some(1)); // over U+10FFFF
        check(b"\xf0\x9f\x98", Some(3)); // cut short
        check(b"\xf0\x9f\x98a", Some(3));
    }
}
