//! Ours and others' envelopes and entries; what is damaged; the fast way against the slow one.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::Timestamp;
use crate::protocol::event::message;

const EPOCH: &str = "018bcfe5680000000001";

fn place(seq: u64) -> Place {
    Place {
        epoch: Epoch::parse(EPOCH).unwrap(),
        seq,
        entry: EntryId { ms: 7, n: seq },
    }
}

/// The envelope as the script writes it.
fn envelope(instance_id: &str, place: Place, publication: &Publication) -> Bytes {
    let mut json = Vec::new();
    message(&mut json, publication);
    let instance_id = serde_json::to_string(instance_id).unwrap();
    format!(
        r#"{{"instance_id":{instance_id},"epoch":"{}","seq":{},"entry":"{}","payload":{}}}"#,
        place.epoch.as_str(),
        place.seq,
        place.entry,
        String::from_utf8(json).unwrap()
    )
    .into()
}

/// The entry as the script writes it; the time is taken from the frame.
fn fields(instance_id: &str, place: Place, publication: &Publication) -> Vec<(Bytes, Bytes)> {
    let mut json = Vec::new();
    message(&mut json, publication);
    let frame: Value = serde_json::from_slice(&json).unwrap();
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let fields = [
        ("room_name", text(publication.room.as_str())),
        ("user_id", text(&publication.user_id)),
        (
            "username",
            text(publication.username.as_deref().unwrap_or_default()),
        ),
        ("payload", publication.payload.clone()),
        ("metadata", publication.metadata.clone().unwrap_or_default()),
        ("id", text(&publication.id.to_string())),
        ("epoch", text(place.epoch.as_str())),
        ("offset", text(&publication.offset.to_string())),
        ("seq", text(&place.seq.to_string())),
        ("sent_at", text(frame["sent_at"].as_str().unwrap())),
        ("instance_id", text(instance_id)),
    ];
    let pair = |(name, value): (&str, Bytes)| (text(name), value);
    fields.into_iter().map(pair).collect()
}

fn publication() -> Publication {
    Publication {
        room: RoomName::parse("a").unwrap(),
        epoch: place(1).epoch,
        offset: 5,
        id: MessageId::from_u128(9),
        client_id_given: false,
        user_id: "u".into(),
        username: None,
        payload: Bytes::from_static(b"[1, 2]"),
        metadata: None,
        sent_at: Timestamp(1_700_000_000_123),
    }
}

#[test]
fn ours_is_read_without_a_copy() {
    let bytes = envelope("i", place(3), &publication());
    let text = std::str::from_utf8(&bytes).unwrap();
    let envelope = parse_own(text).expect("the fast way");
    assert_eq!(envelope.place, Some(place(3)));
    assert!(bytes.as_ptr_range().contains(&envelope.payload.as_ptr()));
    assert!(frame_of_own(envelope.payload).is_some());
    // Cut anywhere it is an error, and never an envelope.
    for end in 0..bytes.len() {
        assert_eq!(
            parse(&bytes.slice(..end)),
            Err(EnvelopeError::Malformed),
            "{end}"
        );
    }
}

#[test]
fn envelopes_of_others() {
    let passing = |text: &str| match item(&Bytes::copy_from_slice(text.as_bytes())) {
        Ok(Received::Passing {
            instance_id,
            room,
            json,
        }) => {
            let room = room.map(|room| room.as_str().to_owned());
            Ok((
                instance_id.to_string(),
                room,
                String::from_utf8(json.to_vec()).unwrap(),
            ))
        }
        Ok(other) => panic!("{text}: {other:?}"),
        Err(error) => Err(error),
    };
    let all = |instance: &str, json: &str| Ok((instance.to_owned(), None, json.to_owned()));
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (text, expected) in [
        (r#"{"instance_id":"i","payload":null}"#, all("i", "null")),
        (
            r#" {"payload" : [1, "]"] ,"x":{}, "instance_id":"\u0069"} "#,
            all("i", r#"[1, "]"]"#),
        ),
        (
            r#"{"instance_id":"i","payload":["a"]}"#,
            all("i", r#"["a"]"#),
        ),
        (
            r#"{"instance_id":"i","payload":{"room":""}}"#,
            all("i", r#"{"room":""}"#),
        ),
        (
            r#"{"instance_id":"i","payload":{"room":null}}"#,
            all("i", r#"{"room":null}"#),
        ),
        (
            r#"{"instance_id":"i","epoch":null,"payload":{"t":1,"room":"\u0061b"}}"#,
            Ok((
                "i".into(),
                Some("ab".into()),
                r#"{"t":1,"room":"\u0061b"}"#.into(),
            )),
        ),
        (
            r#"{"instance_id":"i","payload":{"room":7}}"#,
            Err(EnvelopeError::Room),
        ),
        (
            r#"{"instance_id":"i","payload":{"room":"a\n"}}"#,
            Err(EnvelopeError::Room),
        ),
        (r#"{"instance_id":"i"}"#, Err(EnvelopeError::Malformed)),
        (
            r#"{"instance_id":7,"payload":1}"#,
            Err(EnvelopeError::Malformed),
        ),
        (
            r#"{"instance_id":"","payload":1}"#,
            Err(EnvelopeError::Malformed),
        ),
        (
            r#"{"instance_id":"i","payload":1}}"#,
            Err(EnvelopeError::Malformed),
        ),
        ("", Err(EnvelopeError::Malformed)),
        (
            r#"{"instance_id":"i","seq":1,"payload":1}"#,
            Err(EnvelopeError::Place),
        ),
    ] {
        assert_eq!(passing(text), expected, "{text}");
    }
    let deep = |n| format!(r#"{{"instance_id":"i","payload":{}}}"#, nested(n));
    assert_eq!(passing(&deep(128)), all("i", &nested(128)));
    assert_eq!(passing(&deep(129)), Err(EnvelopeError::TooDeep));
    assert_eq!(passing(&deep(100_000)), Err(EnvelopeError::TooDeep));
    let long = Bytes::from(vec![b' '; ENVELOPE_BYTES_MAX + 1]);
    assert_eq!(parse(&long), Err(EnvelopeError::TooLong));
    assert_eq!(
        parse(&Bytes::from_static(b"{\"\xff\":1}")),
        Err(EnvelopeError::Malformed)
    );
}

#[test]
fn a_place_needs_all_its_parts_and_a_message() {
    let good = String::from_utf8(envelope("i", place(3), &publication()).to_vec()).unwrap();
    let error = |text: String| item(&Bytes::from(text)).unwrap_err();
    for (from, to) in [
        (EPOCH, "018bcfe568000000000"),
        (r#""seq":3"#, r#""seq":-3"#),
        (r#""seq":3"#, r#""seq":3.0"#),
        (r#""seq":3"#, r#""seq":18446744073709551616"#),
        (r#""entry":"7-3""#, r#""entry":"7""#),
        (r#""entry":"7-3""#, r#""entry":"+7-3""#),
    ] {
        assert_eq!(error(good.replace(from, to)), EnvelopeError::Place, "{to}");
    }
    for (from, to) in [
        ("message", "signal"),
        (r#""room":"a""#, r#""room":"""#),
        (r#""offset":5"#, r#""offset":"5""#),
        (r#""offset":5"#, r#""offset":0"#),
        ("00000000-0000-0000-0000-000000000009", "9"),
    ] {
        assert_eq!(
            error(good.replace(from, to)),
            EnvelopeError::NotMessage,
            "{to}"
        );
    }
    // More members behind the payload are not part of it.
    let more = good.replace("Z\"}}", "Z\"},\"x\":{\"sent_at\":\"\"}}");
    assert!(more.len() > good.len());
    assert_eq!(item(&more.into()), item(&good.into()));
}

#[test]
fn entries() {
    let good = fields("i", place(3), &publication());
    let id = place(3).entry;
    let read = |fields: &[(Bytes, Bytes)]| entry(id, fields, message);
    assert!(read(&good).unwrap().is_some());
    assert_eq!(read(&good[..5]), Ok(None), "a foreign writer's");
    assert_eq!(read(&[]), Ok(None));
    for (i, (name, _)) in good.iter().enumerate() {
        let mut without = good.clone();
        without[i].1 = Bytes::new();
        let name = std::str::from_utf8(name).unwrap();
        match read(&without) {
            Ok(entry) => assert!(entry.is_some() && ["username", "metadata"].contains(&name)),
            Err(error) => assert!(matches!(error, EntryError::Missing(it) if it == name)),
        }
        let mut damaged = good.clone();
        damaged[i].1 = Bytes::from_static(b"\xff");
        assert!(matches!(read(&damaged), Err(EntryError::Damaged(it)) if it == name));
    }
    let long = format!("\"{}\"", "x".repeat(METADATA_BYTES_MAX));
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    for (at, value) in [
        (3, "{"),
        (3, "1 2"),
        (3, &deep),
        (4, &long),
        (4, "x"),
        (7, "+5"),
        (7, "0"),
    ] {
        let mut damaged = good.clone();
        damaged[at].1 = Bytes::copy_from_slice(value.as_bytes());
        assert!(
            matches!(read(&damaged), Err(EntryError::Damaged(_))),
            "{at} {value:.9}"
        );
    }
}

fn any_publication() -> impl Strategy<Value = Publication> {
    let name = "[a-z\"\\\\é😀 ]{1,20}";
    let json = || {
        proptest::sample::select(vec![
            "null",
            "{\"type\":\"message\",\"room\":\"b\",\"offset\":1}",
            "\"},\\\"sent_at\\\":\"",
            "[[], {\"a\": \"\\u00e9\\\\\"}]",
            "-1.50e+3",
        ])
    };
    let numbers = (1..u64::MAX, any::<u128>(), 0..253_402_300_800_000_u64);
    let parts = (name, name, proptest::option::of(name), json());
    (parts, numbers, proptest::option::of(json())).prop_map(|(parts, numbers, metadata)| {
        let ((room, user_id, username, payload), (offset, id, ms)) = (parts, numbers);
        Publication {
            room: RoomName::parse(&room).unwrap(),
            epoch: place(1).epoch,
            offset,
            id: MessageId::from_u128(id),
            client_id_given: false,
            user_id: user_id.into(),
            username: username.map(Name::from),
            payload: Bytes::from_static(payload.as_bytes()),
            metadata: metadata.map(|it| Bytes::from_static(it.as_bytes())),
            sent_at: Timestamp(ms),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// By the channel and from the stream comes the same, byte for byte; and the fast way reads
    /// what the slow one reads.
    #[test]
    fn channel_and_stream_agree(
        publication in any_publication(),
        instance_id in "[a-z\"\\\\]{1,9}",
        seq in 1..u64::MAX,
    ) {
        let place = place(seq);
        let bytes = envelope(&instance_id, place, &publication);
        let Ok(Received::Item { instance_id: from, item }) = item(&bytes) else {
            panic!("not an item: {bytes:?}");
        };
        prop_assert_eq!(from.as_str(), &instance_id);
        prop_assert_eq!(&item.room, &publication.room);
        prop_assert_eq!((item.offset, item.id), (publication.offset, publication.id));
        let fields = fields(&instance_id, place, &publication);
        let stored = entry(place.entry, &fields, message).unwrap().unwrap();
        prop_assert_eq!(stored, EntryItem { instance_id: from, item: item.clone() });
        let text = std::str::from_utf8(&bytes).unwrap();
        let slow = parse_any(text).unwrap();
        prop_assert_eq!(slow.payload.as_bytes(), &item.json);
        if let Some(fast) = parse_own(text) {
            prop_assert_eq!(fast, slow);
        }
        let frame = std::str::from_utf8(&item.json).unwrap();
        if let Some(fast) = frame_of_own(frame) {
            prop_assert_eq!(Some(fast), frame_of_any(frame));
        }
        // Cut anywhere, it is an error.
        let end = (seq % bytes.len() as u64) as usize;
        prop_assert!(parse(&bytes.slice(..end)).is_err());
    }

    /// Whatever the bytes are, nothing panics.
    #[test]
    fn any_bytes_will_do(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0..200_usize,
    ) {
        let _ = item(&Bytes::from(bytes.clone()));
        let mut ours = envelope("i", place(3), &publication()).to_vec();
        let end = (at + bytes.len() / 20).min(ours.len());
        ours[at.min(end)..end].copy_from_slice(&bytes[..end - at.min(end)]);
        if let Ok(Received::Item { item, .. }) = item(&Bytes::from(ours)) {
            prop_assert!(std::str::from_utf8(&item.json).is_ok());
        }
    }
}
