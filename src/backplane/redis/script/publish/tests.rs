//! Frames are cut and joined again, replies are checked.

use proptest::prelude::*;

use super::*;
use crate::model::{MessageId, RoomName, Timestamp};
use crate::protocol::event::message;

fn publication(room: &str, payload: &str, metadata: Option<&str>) -> Publication {
    Publication {
        room: RoomName::parse(room).unwrap(),
        epoch: Epoch::new(0, 0),
        offset: 0,
        id: MessageId::from_u128(0xabc),
        client_id_given: false,
        user_id: "u".into(),
        username: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        metadata: metadata.map(|text| Bytes::copy_from_slice(text.as_bytes())),
        sent_at: Timestamp(1_700_000_000_123),
    }
}

/// As the script does.
fn join(parts: Parts<'_>, publication: &Publication, offset: u64) -> Vec<u8> {
    let mut out = parts.head.to_vec();
    out.extend_from_slice(offset.to_string().as_bytes());
    out.extend_from_slice(parts.mid);
    out.extend_from_slice(&publication.payload);
    if let Some(metadata) = &publication.metadata {
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(metadata);
    }
    out.extend_from_slice(b",\"sent_at\":\"");
    out.extend_from_slice(parts.sent_at);
    out.extend_from_slice(b"\"}");
    out
}

fn cut_and_joined_is_the_same(mut publication: Publication, offset: u64) {
    let mut frame = vec![];
    message(&mut frame, &publication);
    let parts = Parts::of(&frame, &publication).unwrap();
    publication.offset = offset;
    let mut want = vec![];
    message(&mut want, &publication);
    assert_eq!(
        join(parts, &publication, offset).escape_ascii().to_string(),
        want.escape_ascii().to_string()
    );
}

#[test]
fn frames_that_look_like_their_own_parts() {
    for room in ["r", ",\"offset\":0", "\\", ",\"offset\":0,\"id\":\"x", "é"] {
        for payload in ["1", "\"\"", r#"{"offset":0,"payload":1,"sent_at":"x"}"#] {
            for metadata in [None, Some("null"), Some(r#"{"a":",\"sent_at\":\""}"#)] {
                let mut publication = publication(room, payload, metadata);
                cut_and_joined_is_the_same(publication.clone(), 1);
                publication.offset = 1234;
                publication.username = Some(",\"payload\":".into());
                cut_and_joined_is_the_same(publication, 1 << 53);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_frame_is_cut(
        room in "[ -~é\u{4000}]{1,40}",
        user in "[ -~é]{1,20}",
        username in proptest::option::of("[ -~é]{1,20}"),
        payload in "[ -~]{1,60}",
        metadata in proptest::option::of("[ -~]{1,60}"),
        offset in 0..1_u64 << 53,
    ) {
        let mut publication = publication(&room, &payload, metadata.as_deref());
        publication.user_id = user.as_str().into();
        publication.username = username.map(Into::into);
        cut_and_joined_is_the_same(publication, offset);
    }

    #[test]
    fn no_bytes_break_the_cut(frame in proptest::collection::vec(any::<u8>(), 0..80)) {
        let publication = publication("r", "1", None);
        let _ = Parts::of(&frame, &publication);
    }
}

#[test]
fn the_script_counts_as_rust_does() {
    let line = format!("HEADER, FIELDS, MESSAGES_MAX = {HEADER}, {FIELDS}, {SCRIPT_MESSAGES_MAX}");
    assert!(super::super::Script::Publish.source().contains(&line));
}

#[test]
fn a_call_is_one_command() {
    let caller = Caller::new(Names::new("g", 0, 1), "a\"b", 600_000, message);
    let mut message = publication("r", "1", None);
    message.client_id_given = true;
    let call = Call {
        producer: "p",
        base: 3,
        first_number: 4,
        messages: std::slice::from_ref(&message),
    };
    let mut out = vec![];
    caller.push(&mut out, b"sha", Epoch::new(1, 0), &call);
    let got = String::from_utf8(out).unwrap().replace("\r\n", " ");
    let args: Vec<_> = got.split(' ').skip(2).step_by(2).collect();
    assert!(got.starts_with("*26 "));
    assert_eq!(
        args[..15],
        [
            "EVALSHA",
            "sha",
            "4",
            "g:state",
            "g:messages:stream",
            "g:ids:0",
            "g:ids:1",
            "g:broadcast",
            r#""a\"b""#,
            "a\"b",
            "00000000000100000000",
            "p",
            "3",
            "4",
            "600000",
        ]
    );
}

#[test]
fn replies_are_checked() {
    let text = |text: &str| Value::Text(Bytes::copy_from_slice(text.as_bytes()));
    let check = |seq, status: &str, why: &str, results: &[i64], messages, want: Option<Status>| {
        let mut reply = vec![
            text("00000000000100000000"),
            Value::Number(seq),
            text(status),
            text(why),
            text(""),
        ];
        reply.extend(results.iter().map(|&result| Value::Number(result)));
        let got = PublishReply::decode(Value::List(reply), messages);
        assert_eq!(got.clone().ok().map(|reply| reply.status), want, "{got:?}");
    };
    let refused = || Some(Status::Refused(Refusal::new("OOM x")));
    check(2, "ok", "", &[0, 5, -3, 6], 4, Some(Status::Done));
    check(2, "ok", "NOPERM", &[5, 6], 2, Some(Status::Done));
    check(0, "behind", "", &[], 2, Some(Status::Behind));
    check(1, "error", "OOM x", &[0, 1], 3, refused());
    check(0, "error", "OOM x", &[], 1, refused());
    check(2, "ok", "", &[1], 2, None);
    check(2, "ok", "", &[1, 2, 3], 2, None);
    check(1, "ok", "", &[1, 2], 2, None);
    check(2, "ok", "", &[1, 0], 2, None);
    check(2, "ok", "", &[i64::MIN], 1, None);
    check(-1, "ok", "", &[1], 1, None);
    check(1, "behind", "", &[0], 2, None);
    check(2, "error", "OOM x", &[1, 2], 2, None);
    check(2, "fine", "", &[1, 2], 2, None);
    for reply in [
        Value::Nil,
        Value::List(vec![]),
        Value::Error(Refusal::new("OOM")),
    ] {
        assert!(PublishReply::decode(reply, 1).is_err());
    }
}
