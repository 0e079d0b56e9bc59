//! Percent-encoding (RFC 3986, 2.1), as paths and the credentials of URLs have it: `+` is a plus.

/// The bytes that `text` stands for; `None` if a percent sign is not followed by two hex digits.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            plain => plain,
        });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_and_what_is_not() {
        let check = |text: &str, want: Option<&[u8]>| {
            assert_eq!(decode(text).as_deref(), want, "{text}");
        };
        check("", Some(b""));
        check("a+b", Some(b"a+b"));
        check("a%2Fb%c3%A9%00", Some(b"a/b\xc3\xa9\0"));
        check("%ff", Some(b"\xff"));
        for text in ["%", "%2", "a%", "%zz", "%+1", "%\u{e9}1"] {
            check(text, None);
        }
    }
}
