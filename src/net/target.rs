//! What stands in a request's target: segments of its path, parameters of its query.
//!
//! Paths are percent-encoded (RFC 3986, 2.1), where `+` is a plus; queries are forms, where `+` is
//! a space.

use std::borrow::Cow;

use crate::model::percent;

/// The first parameter called `name`, decoded. Bytes that are not UTF-8 become U+FFFD.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(parameter, _)| parameter == name)
        .map(|(_, value)| value)
}

/// A segment of a path, decoded; `None` if a percent sign is not followed by two hex digits, or
/// the result is not UTF-8.
pub fn segment(encoded: &str) -> Option<Cow<'_, str>> {
    if !encoded.contains('%') {
        return Some(Cow::Borrowed(encoded));
    }
    String::from_utf8(percent::decode(encoded)?)
        .ok()
        .map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_as_forms() {
        let query = "room=a%20b&username=J%C3%BCrgen+X&token&room=second&bad=%ff%";
        for (name, value) in [
            ("room", Some("a b")),
            ("username", Some("Jürgen X")),
            ("token", Some("")),
            ("none", None),
            ("bad", Some("\u{fffd}%")),
        ] {
            assert_eq!(parameter(query, name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn segments_are_decoded_as_paths() {
        for (encoded, decoded) in [
            ("lobby", Some("lobby")),
            ("a+b", Some("a+b")),
            ("a%2Fb%c3%a9", Some("a/bé")),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(segment(encoded).as_deref(), decoded, "{encoded}");
        }
    }
}
