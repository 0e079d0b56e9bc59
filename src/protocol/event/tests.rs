//! Every frame of PROTOCOL 3, byte for byte, and read back by serde_json.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::RoomName;
use crate::net::push_text;

const ID: MessageId = MessageId::from_u128(0x018b_cfe5_6800_7abc_8def_0123_4567_89ab);

/// `write` gives one whole text frame with `json` in it.
fn check(write: impl FnOnce(&mut Vec<u8>), json: &str) {
    let mut out = b"before".to_vec();
    write(&mut out);
    assert!(serde_json::from_str::<Value>(json).is_ok(), "{json}");
    let mut expected = b"before".to_vec();
    crate::net::push_frame(
        &mut expected,
        crate::net::encode::opcode::TEXT,
        json.as_bytes(),
    );
    assert_eq!(
        String::from_utf8_lossy(&out),
        String::from_utf8_lossy(&expected)
    );
    assert_eq!(out, expected);
}

fn publication() -> Publication {
    Publication {
        room: RoomName::parse("a \"room\"").unwrap(),
        epoch: Epoch::new(1_700_000_000_000, 1),
        offset: 7,
        id: ID,
        client_id_given: false,
        user_id: "u1".into(),
        username: Some("Zoë\\".into()),
        payload: Bytes::from_static(b"{\"x\": 1}"),
        metadata: Some(Bytes::from_static(b"[]")),
        sent_at: Timestamp(1_700_000_000_123),
    }
}

fn framed(out: &mut Vec<u8>, publication: &Publication) {
    let mut json = Vec::new();
    message(&mut json, publication);
    push_text(out, &json);
}

#[test]
fn messages() {
    let mut publication = publication();
    check(
        |out| framed(out, &publication),
        r#"{"type":"message","room":"a \"room\"","offset":7,"id":"018bcfe5-6800-7abc-8def-0123456789ab","user_id":"u1","username":"Zoë\\","payload":{"x": 1},"metadata":[],"sent_at":"2023-11-14T22:13:20.123Z"}"#,
    );
    publication.username = None;
    publication.metadata = None;
    check(
        |out| framed(out, &publication),
        r#"{"type":"message","room":"a \"room\"","offset":7,"id":"018bcfe5-6800-7abc-8def-0123456789ab","user_id":"u1","payload":{"x": 1},"sent_at":"2023-11-14T22:13:20.123Z"}"#,
    );
    publication.payload = vec![b'1'; 70_000].into();
    let mut out = Vec::new();
    framed(&mut out, &publication);
    assert_eq!(out[..2], [0x81, 127]);
    let held = Pending {
        room: "a",
        id: ID,
        user_id: "u",
        username: Some("n"),
        payload: b"null",
        sent_at: Timestamp(0),
    };
    check(
        |out| pending(out, &held),
        r#"{"type":"pending","room":"a","id":"018bcfe5-6800-7abc-8def-0123456789ab","user_id":"u","username":"n","payload":null,"sent_at":"1970-01-01T00:00:00.000Z"}"#,
    );
    check(
        |out| signal(out, "a", "u", None, b"\"types\""),
        r#"{"type":"signal","room":"a","user_id":"u","payload":"types"}"#,
    );
}

#[test]
fn answers() {
    let greeting = Welcome {
        client_id: ClientId::from_bits(0),
        user_id: "u",
        instance_id: "host-1",
        shard: 3,
        heartbeat_ms: 25_000,
    };
    check(
        |out| welcome(out, &greeting),
        r#"{"type":"welcome","protocol":"ringcast.v1","client_id":"AAAAAAAAAAAAAAAA","user_id":"u","instance_id":"host-1","shard":3,"heartbeat_ms":25000}"#,
    );
    let epoch = Epoch::new(1_700_000_000_000, 1);
    let plain = Joined {
        room: "a",
        epoch,
        offset: 0,
        recovered: None,
        members: 1,
        reference: None,
    };
    check(
        |out| joined(out, &plain),
        r#"{"type":"joined","room":"a","epoch":"018bcfe5680000000001","offset":0,"members":1}"#,
    );
    for (recovered, text) in [(true, "true"), (false, "false")] {
        let full = Joined {
            recovered: Some(recovered),
            reference: Some("[1]"),
            ..plain
        };
        check(
            |out| joined(out, &full),
            &format!(
                r#"{{"type":"joined","room":"a","epoch":"018bcfe5680000000001","offset":0,"recovered":{text},"members":1,"ref":[1]}}"#
            ),
        );
    }
    check(|out| left(out, "a", None), r#"{"type":"left","room":"a"}"#);
    check(
        |out| left(out, "a", Some("null")),
        r#"{"type":"left","room":"a","ref":null}"#,
    );
    check(|out| pong(out, None), r#"{"type":"pong"}"#);
    check(
        |out| pong(out, Some("\"x\"")),
        r#"{"type":"pong","ref":"x"}"#,
    );
    check(
        |out| ack(out, Some("5"), ID, u64::MAX),
        r#"{"type":"ack","ref":5,"id":"018bcfe5-6800-7abc-8def-0123456789ab","offset":18446744073709551615}"#,
    );
    check(
        |out| ack(out, None, ID, 1),
        r#"{"type":"ack","id":"018bcfe5-6800-7abc-8def-0123456789ab","offset":1}"#,
    );
    check(
        |out| error(out, ErrorCode::BadRoom, "say \"why\"\n", Some("1")),
        r#"{"type":"error","code":"bad_room","message":"say \"why\"\n","ref":1}"#,
    );
    check(
        |out| members(out, "a", [("u", None), ("v", Some("V\u{1}"))], 2, Some("1")),
        r#"{"type":"members","room":"a","members":[{"user_id":"u"},{"user_id":"v","username":"V\u0001"}],"count":2,"ref":1}"#,
    );
    check(
        |out| members(out, "a", [], 0, Some("1")),
        r#"{"type":"members","room":"a","members":[],"count":0,"ref":1}"#,
    );
}

#[test]
fn news() {
    check(
        |out| gap(out, "a", 3, 5),
        r#"{"type":"gap","room":"a","from":3,"to":5}"#,
    );
    check(
        |out| presence(out, "a", Change::Join, "u", Some("n"), 2),
        r#"{"type":"presence","room":"a","event":"join","user_id":"u","username":"n","members":2}"#,
    );
    check(
        |out| presence(out, "a", Change::Leave, "u", None, 1),
        r#"{"type":"presence","room":"a","event":"leave","user_id":"u","members":1}"#,
    );
    check(
        |out| degraded(out, true, Some("Redis is away")),
        r#"{"type":"degraded","degraded":true,"reason":"Redis is away"}"#,
    );
    check(
        |out| degraded(out, false, None),
        r#"{"type":"degraded","degraded":false}"#,
    );
    check(
        |out| going_away(out, 1500),
        r#"{"type":"going_away","reconnect_in_ms":1500}"#,
    );
}

/// Our digits against humantime's.
fn check_time(ms: u64) {
    let mut out = Vec::new();
    push_time(&mut out, Timestamp(ms));
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    let expected = format!("\"{}\"", humantime::format_rfc3339_millis(time));
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn days_of_leap_years() {
    for ms in [
        0,
        68_169_600_000,
        951_782_400_000,
        951_868_799_999,
        4_107_542_400_000,
    ] {
        check_time(ms);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn times(ms in 0..253_402_300_800_000_u64) {
        check_time(ms);
    }

    #[test]
    fn strings_and_numbers_read_back(text in any::<String>(), number in any::<u64>()) {
        let mut out = Vec::new();
        push_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        out.clear();
        push_number(&mut out, number);
        prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
    }

    #[test]
    fn messages_read_back(room in "[^\\p{C}]{1,30}", user in any::<String>()) {
        let mut out = Vec::new();
        let room = RoomName::parse(&room).unwrap();
        let publication =
            Publication { room: room.clone(), user_id: user.as_str().into(), ..publication() };
        message(&mut out, &publication);
        let value: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(value["room"].as_str(), Some(room.as_str()));
        prop_assert_eq!(value["user_id"].as_str(), Some(user.as_str()));
        prop_assert_eq!(value["offset"].as_u64(), Some(7));
    }
}
