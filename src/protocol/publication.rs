//! What is published over HTTP: the body of a POST, one JSON object (PROTOCOL 2).
//!
//! The members are those of a `publish` frame, and who publishes, which a program of the operator's
//! may say. Whether it may is decided elsewhere.

use std::borrow::Cow;

use uuid::Uuid;

use super::command::Fault;
use super::members::{Member, Members};
use super::storable;
use crate::model::ErrorCode;

/// A body that was understood: its texts are valid, storable JSON, its names valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// JSON text.
    pub payload: &'a str,
    /// JSON text.
    pub metadata: Option<&'a str>,
    /// The client's own id.
    pub id: Option<Uuid>,
    /// Who publishes.
    pub user_id: Option<Cow<'a, str>>,
    /// Under what name.
    pub username: Option<Cow<'a, str>>,
}

/// Reads a body.
///
/// # Errors
/// What kind of wrong, and what to do about it.
pub fn parse(body: &[u8]) -> Result<Publication<'_>, Fault> {
    let bad = |why: String| (ErrorCode::BadJson, Cow::from(why));
    let text = simdutf8::basic::from_utf8(body).map_err(|_| bad("the body is not UTF-8".into()))?;
    let storable = storable::check(text);
    let members = serde_json::from_str::<Members<'_>>(text);
    // Why it is no JSON is said in the parser's words, but for what it gives up at.
    storable.map_err(|reason| bad(reason.to_string()))?;
    let members = members.map_err(|error| bad(format!("send one JSON object: {error}")))?;
    members.check_once()?;
    Ok(Publication {
        payload: members.payload()?,
        metadata: members.metadata()?,
        id: members.id()?,
        user_id: members.name_of(Member::UserId)?,
        username: members.name_of(Member::Username)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_split_and_its_texts_stay_what_they_were() {
        let body = r#" {"payload": {"a" : 1.50}, "metadata":[1], "user_id":"u\u00e9","username":"J",
            "id":"018BCFE5-6800-7000-8000-000000000001","room":"ignored","more":{}} "#;
        let publication = parse(body.as_bytes()).unwrap();
        assert_eq!(publication.payload, r#"{"a" : 1.50}"#);
        assert_eq!(publication.metadata, Some("[1]"));
        assert_eq!(publication.user_id.as_deref(), Some("u\u{e9}"));
        assert_eq!(publication.username.as_deref(), Some("J"));
        let id = publication.id.unwrap().hyphenated().to_string();
        assert_eq!(id, "018bcfe5-6800-7000-8000-000000000001");
        let least = parse(br#"{"payload":null,"metadata":null,"id":null}"#).unwrap();
        assert_eq!(
            (least.payload, least.metadata, least.id),
            ("null", None, None)
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        let deep = format!("{{\"payload\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        let long = format!("{{\"payload\":1,\"metadata\":\"{}\"}}", "x".repeat(20_000));
        for (body, code, word) in [
            (&b""[..], ErrorCode::BadJson, "object"),
            (b"[1]", ErrorCode::BadJson, "object"),
            (b"payload=1", ErrorCode::BadJson, "object"),
            (b"{\"payload\":\xff}", ErrorCode::BadJson, "UTF-8"),
            (b"{\"payload\":\"\\u0000\"}", ErrorCode::BadJson, ""),
            (b"{\"payload\":\"\\ud800\"}", ErrorCode::BadJson, ""),
            (deep.as_bytes(), ErrorCode::BadJson, ""),
            (b"{}", ErrorCode::BadFrame, "payload"),
            (
                b"{\"payload\":1,\"payload\":2}",
                ErrorCode::BadFrame,
                "once",
            ),
            (b"{\"payload\":1,\"id\":\"7\"}", ErrorCode::BadFrame, "UUID"),
            (
                b"{\"payload\":1,\"user_id\":7}",
                ErrorCode::BadFrame,
                "user_id",
            ),
            (
                b"{\"payload\":1,\"username\":\"\"}",
                ErrorCode::BadFrame,
                "username",
            ),
            (long.as_bytes(), ErrorCode::TooLarge, "metadata"),
        ] {
            let (told, why) = parse(body).unwrap_err();
            assert_eq!(told, code, "{why}");
            assert!(why.contains(word), "{why}");
        }
    }
}
