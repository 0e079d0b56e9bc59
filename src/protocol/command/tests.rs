//! Frames of PROTOCOL 3, and frames that are nearly so.

use proptest::prelude::*;

use super::*;

const ID: &str = "018bcfe5-6800-7abc-8def-0123456789ab";
const EPOCH: &str = "018bcfe56800ffffffff";

fn request(command: Command<'static>, reference: Option<&'static str>) -> Request<'static> {
    Request { command, reference }
}

/// `text` is understood as `expected`.
fn check(text: &str, expected: &Request<'_>) {
    assert_eq!(parse(text).as_ref(), Ok(expected), "{text}");
}

/// `text` is refused with `code`, and its `ref` given back.
fn check_refused(text: &str, code: ErrorCode, reference: Option<&str>) {
    let short: String = text.chars().take(100).collect();
    match parse(text) {
        Ok(request) => panic!("{short} was taken as {request:?}"),
        Err(refusal) => {
            assert_eq!(
                (refusal.code, refusal.reference),
                (code, reference),
                "{short}: {refusal:?}"
            );
            assert!(!refusal.message.is_empty());
        }
    }
}

#[test]
fn every_command() {
    check(r#"{"type":"ping"}"#, &request(Command::Ping, None));
    check(
        r#" { "ref" : [1, 2] , "type" : "ping" } "#,
        &request(Command::Ping, Some("[1, 2]")),
    );
    check(
        r#"{"type":"leave","room":"a","ref":"x"}"#,
        &request(Command::Leave { room: "a".into() }, Some("\"x\"")),
    );
    check(
        r#"{"type":"members","room":"a","ref":0}"#,
        &request(Command::Members { room: "a".into() }, Some("0")),
    );
    check(
        r#"{"type":"refresh","token":"a.b.c"}"#,
        &request(
            Command::Refresh {
                token: "a.b.c".into(),
            },
            None,
        ),
    );
    check(
        r#"{"type":"signal","room":"a","payload":null}"#,
        &request(
            Command::Signal {
                room: "a".into(),
                payload: "null",
            },
            None,
        ),
    );
    let join = |username: Option<&'static str>, since, presence| {
        let username = username.map(Cow::Borrowed);
        request(
            Command::Join {
                room: "é\"x".into(),
                username,
                since,
                presence,
            },
            None,
        )
    };
    check(
        r#"{"type":"join","room":"\u00e9\"x"}"#,
        &join(None, None, false),
    );
    let all = format!(
        r#"{{"type":"join","room":"é\"x","username":"Bob","since":{{"epoch":"{EPOCH}","offset":7,"x":1}},"presence":true}}"#
    );
    let since = Since {
        epoch: Epoch::parse(EPOCH),
        offset: 7,
    };
    check(&all, &join(Some("Bob"), Some(since), true));
    let foreign = r#"{"type":"join","room":"é\"x","since":{"epoch":"","offset":9007199254740992}}"#;
    check(
        foreign,
        &join(
            None,
            Some(Since {
                epoch: None,
                offset: 1 << 53,
            }),
            false,
        ),
    );
}

#[test]
fn publishes() {
    let publish = |payload, metadata, id: bool, echo, reference| {
        let id = id.then(|| Uuid::parse_str(ID).unwrap());
        request(
            Command::Publish {
                room: "a".into(),
                payload,
                metadata,
                id,
                echo,
            },
            reference,
        )
    };
    let bare = r#"{"type":"publish","room":"a","payload":{"x": [1]}}"#;
    check(bare, &publish(r#"{"x": [1]}"#, None, false, true, None));
    let null = r#"{"type":"publish","room":"a","payload": null ,"metadata":null,"id":null,"echo":null,"ref":null}"#;
    check(null, &publish("null", None, false, true, None));
    let all = format!(
        r#"{{"type":"publish","room":"a","payload":"\u20ac","metadata":[],"id":"{}","echo":false,"ref":"r","more":{{}}}}"#,
        ID.to_uppercase()
    );
    check(
        &all,
        &publish(r#""\u20ac""#, Some("[]"), true, false, Some("\"r\"")),
    );
    // A name written with escapes is the same name.
    check(r#"{"\u0074ype":"ping"}"#, &request(Command::Ping, None));
}

#[test]
fn bad_frames_keep_their_ref() {
    for members in [
        r#""type":5"#,
        r#""type":null"#,
        r#""room":"a""#,
        r#""type":"join""#,
        r#""type":"publish","room":5,"payload":1"#,
        r#""type":"publish","room":null,"payload":1"#,
        r#""type":"publish","room":"a""#,
        r#""type":"signal","room":"a""#,
        r#""type":"publish","room":"a","payload":1,"echo":"no""#,
        r#""type":"publish","room":"a","payload":1,"echo":0"#,
        r#""type":"publish","room":"a","payload":1,"id":"x""#,
        r#""type":"publish","room":"a","payload":1,"id":"018bcfe568007abc8def0123456789ab""#,
        r#""type":"publish","room":"a","payload":1,"id":7"#,
        r#""type":"publish","room":"a","room":"a","payload":1"#,
        r#""type":"publish","room":"a","payload":1,"payload":1"#,
        r#""type":"publish","type":"publish","room":"a","payload":1"#,
        r#""type":"join","room":"a","username":"""#,
        r#""type":"join","room":"a","username":"a\nb""#,
        r#""type":"join","room":"a","username":5"#,
        r#""type":"join","room":"a","presence":1"#,
        r#""type":"join","room":"a","since":5"#,
        r#""type":"join","room":"a","since":{}"#,
        r#""type":"join","room":"a","since":[]"#,
        r#""type":"join","room":"a","since":{"epoch":"x"}"#,
        r#""type":"join","room":"a","since":{"epoch":null,"offset":1}"#,
        r#""type":"join","room":"a","since":{"epoch":5,"offset":1}"#,
        r#""type":"join","room":"a","since":{"epoch":"x","offset":-1}"#,
        r#""type":"join","room":"a","since":{"epoch":"x","offset":1.5}"#,
        r#""type":"join","room":"a","since":{"epoch":"x","offset":"1"}"#,
        r#""type":"join","room":"a","since":{"epoch":"x","offset":9007199254740993}"#,
        r#""type":"join","room":"a","since":{"epoch":"x","offset":1,"offset":2}"#,
        r#""type":"refresh""#,
        r#""type":"refresh","token":5"#,
    ] {
        check_refused(&format!("{{{members}}}"), ErrorCode::BadFrame, None);
        check_refused(
            &format!("{{{members},\"ref\":1}}"),
            ErrorCode::BadFrame,
            Some("1"),
        );
        let before = format!("{{\"ref\":{{\"a\":1}},{members}}}");
        check_refused(&before, ErrorCode::BadFrame, Some("{\"a\":1}"));
    }
    check_refused(
        r#"{"type":"members","room":"a"}"#,
        ErrorCode::BadFrame,
        None,
    );
    check_refused(
        r#"{"type":"members","room":"a","ref":null}"#,
        ErrorCode::BadFrame,
        None,
    );
    check_refused(
        r#"{"type":"ping","ref":1,"ref":2}"#,
        ErrorCode::BadFrame,
        Some("1"),
    );
    let long = format!(
        r#"{{"type":"ping","ref":"{}"}}"#,
        "x".repeat(REF_BYTES_MAX - 1)
    );
    check_refused(&long, ErrorCode::BadFrame, None);
}

#[test]
fn other_refusals() {
    let unknown = |kind: &str| format!(r#"{{"type":"{kind}","ref":1}}"#);
    for kind in ["", "pong", "PING", "publish ", &"x".repeat(1000)] {
        check_refused(&unknown(kind), ErrorCode::UnknownType, Some("1"));
    }
    for room in ["", &"x".repeat(129), r"a\nb", r"\u0085"] {
        let text = format!(r#"{{"type":"leave","room":"{room}","ref":1}}"#);
        check_refused(&text, ErrorCode::BadRoom, Some("1"));
    }
    let metadata = "x".repeat(METADATA_BYTES_MAX);
    let text =
        format!(r#"{{"type":"publish","room":"a","payload":1,"metadata":"{metadata}","ref":1}}"#);
    check_refused(&text, ErrorCode::TooLarge, Some("1"));
}

#[test]
fn what_is_not_json() {
    for text in [
        "",
        " ",
        "null",
        "5",
        "\"type\"",
        "[]",
        "[{\"type\":\"ping\"}]",
        "{",
        "{}}",
        "{\"type\":}",
        "{\"type\":\"ping\",}",
        "{type:\"ping\"}",
        "{'type':'ping'}",
        "{\"type\":\"ping\"} x",
        "{\"type\":\"ping\"}{\"type\":\"ping\"}",
        "{\"type\":\"pi\nng\"}",
        "{\"type\":\"\\x\"}",
        "{\"type\":\"ping\",\"x\":01}",
        "{\"type\":\"ping\",\"x\":1.}",
        "{\"type\":\"ping\",\"x\":NaN}",
        "{\"ref\":1,\"type\":\"ping\"",
        "\u{feff}{\"type\":\"ping\"}",
        "{\"type\":\"ping\",\"x\":\"\\u12\"}",
    ] {
        check_refused(text, ErrorCode::BadJson, None);
    }
}

#[test]
fn what_could_not_be_stored_keeps_its_ref() {
    let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
    let very_deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for value in [
        r#""\u0000""#,
        r#""\ud800""#,
        r#""\udc00x""#,
        "1e200000",
        "-1e-20000",
        &deep,
        &very_deep,
    ] {
        for text in [
            format!(r#"{{"type":"publish","room":"a","payload":{value},"ref":1}}"#),
            format!(r#"{{"ref":1,"type":"publish","room":"a","payload":1,"metadata":{value}}}"#),
            format!(r#"{{"ref":1,"type":"ping","unknown":[{value}]}}"#),
            format!(r#"{{"ref":1,"type":"leave","room":{value}}}"#),
        ] {
            check_refused(&text, ErrorCode::BadJson, Some("1"));
        }
        // A ref that could not be stored is not given back either.
        check_refused(
            &format!(r#"{{"type":"ping","ref":{value}}}"#),
            ErrorCode::BadJson,
            None,
        );
    }
    check_refused(&"[".repeat(100_000), ErrorCode::BadJson, None);
    check_refused(&"{\"a\":".repeat(100_000), ErrorCode::BadJson, None);
    check_refused(
        r#"{"\u0000":1,"type":"ping","ref":1}"#,
        ErrorCode::BadJson,
        Some("1"),
    );
    for value in ["1e400", r#""\ud83d\ude00""#, &deep[1..255]] {
        let text = format!(r#"{{"type":"publish","room":"a","payload":{value}}}"#);
        assert!(parse(&text).is_ok(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(text in "\\PC{0,100}") {
        let _ = parse(&text);
    }

    #[test]
    fn nearly_frames_do_not_panic(
        parts in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "\\", "\\u", "d800", "0000", "\"type\":",
            "\"publish\"", "\"join\"", "\"room\":\"a\"", "\"payload\":", "\"since\":", "\"ref\":",
            "null", "true", "1", "e", "-", ".", "1e200000", " ", "é",
        ]), 0..30),
    ) {
        let text = parts.concat();
        for text in [&text, &format!("{{\"type\":\"publish\",\"room\":\"a\",\"payload\":{text}}}")] {
            if let Ok(Request { command: Command::Publish { payload, .. }, .. }) = parse(text) {
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(payload).is_ok());
            }
        }
    }

    #[test]
    fn publishes_come_through(
        room in "[^\\p{C}]{1,30}",
        payload in "\\PC{0,50}",
        reference in any::<i64>(),
        echo in any::<bool>(),
    ) {
        let payload = serde_json::json!({ "text": payload }).to_string();
        let room_json = serde_json::json!(room).to_string();
        let text = format!(
            r#"{{"type":"publish","echo":{echo},"room":{room_json},"payload":{payload},"ref":{reference}}}"#
        );
        let reference = reference.to_string();
        let command = Command::Publish {
            room: room.as_str().into(), payload: &payload, metadata: None, id: None, echo,
        };
        prop_assert_eq!(parse(&text), Ok(Request { command, reference: Some(&reference) }));
    }
}
