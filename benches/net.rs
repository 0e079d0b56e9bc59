//! The wires, side by side with what a library would do in their place.
//!
//! Decoding is measured on 64 frames that lie one behind the other, as a busy read brings them; the
//! input is copied anew for each turn, on both sides, since unmasking changes it.

use std::hint::black_box;
use std::io::{Cursor, Read, Write};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringcast::model::{Epoch, MessageId, Publication, RoomName, Timestamp};
use ringcast::net::{Decoder, DecoderLimits, Message, head, push_text, upgrade};
use ringcast::protocol::{command, event, storable};
use serde_json::{Value, json};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

const FRAMES: usize = 64;
const LIMITS: DecoderLimits = DecoderLimits {
    message_bytes_max: 64 * 1024,
    fragments_max: 4096,
    binary_taken: false,
};

/// 128 bytes of JSON.
fn payload() -> String {
    let payload = json!({ "text": "x".repeat(117) }).to_string();
    assert_eq!(payload.len(), 128);
    payload
}

/// Masked text frames of [`payload`], as a client sends them.
fn frames() -> Vec<u8> {
    let mut frames = Vec::new();
    for i in 0..FRAMES as u32 {
        let mut frame = Frame::message(payload(), OpCode::Data(Data::Text), true);
        frame.header_mut().mask = Some((0x1234_5678_u32 ^ i).to_ne_bytes());
        frame.format(&mut frames).expect("written to memory");
    }
    frames
}

fn publication() -> Publication {
    Publication {
        room: RoomName::parse("lobby").expect("a name"),
        epoch: Epoch::new(1_700_000_000_000, 1),
        offset: 123_456,
        id: MessageId::from_u128(0x018b_cfe5_6800_7abc_8def_0123_4567_89ab),
        client_id_given: false,
        user_id: "0123456789abcdef".into(),
        username: Some("Bob".into()),
        payload: Bytes::from(payload()),
        metadata: None,
        sent_at: Timestamp(1_700_000_000_123),
    }
}

/// Reads from memory, writes nowhere.
struct Half<'a>(Cursor<&'a [u8]>);

impl Read for Half<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Half<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn decode(c: &mut Criterion) {
    let frames = frames();
    let mut group = c.benchmark_group("decode 64 frames of 128 bytes");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let mut decoder = Decoder::new();
    let mut input = frames.clone();
    group.bench_function("ours", |b| {
        b.iter(|| {
            input.copy_from_slice(&frames);
            let (mut at, mut bytes) = (0, 0);
            while let Ok(Some(message)) = decoder.next(&LIMITS, &mut input, &mut at) {
                if let Message::Text(text) = black_box(message) {
                    bytes += text.len();
                }
            }
            assert_eq!(bytes, FRAMES * 128);
        });
    });
    let config = WebSocketConfig::default().read_buffer_size(64 * 1024);
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    group.bench_function("tungstenite", |b| {
        b.iter(|| {
            let mut half = Half(Cursor::new(&frames));
            for _ in 0..FRAMES {
                black_box(context.read(&mut half).expect("a message"));
            }
        });
    });
    group.finish();
}

fn encode(c: &mut Criterion) {
    let publication = publication();
    let mut group = c.benchmark_group("message frame, payload of 128 bytes");
    group.throughput(Throughput::Elements(1));
    let (mut json, mut out) = (Vec::with_capacity(1024), Vec::with_capacity(1024));
    group.bench_function("ours", |b| {
        b.iter(|| {
            json.clear();
            out.clear();
            event::message(&mut json, black_box(&publication));
            push_text(&mut out, &json);
            black_box(out.len())
        });
    });
    let mut out = Vec::with_capacity(1024);
    group.bench_function("serde_json value, tungstenite frame", |b| {
        b.iter(|| {
            out.clear();
            let publication = black_box(&publication);
            let sent_at =
                std::time::UNIX_EPOCH + std::time::Duration::from_millis(publication.sent_at.0);
            let payload: Value = serde_json::from_slice(&publication.payload).expect("JSON");
            let value = json!({
                "type": "message", "room": publication.room.as_str(),
                "offset": publication.offset, "id": publication.id.to_string(),
                "user_id": publication.user_id.as_str(),
                "username": publication.username.as_deref(), "payload": payload,
                "sent_at": humantime::format_rfc3339_millis(sent_at).to_string(),
            });
            let frame = Frame::message(value.to_string(), OpCode::Data(Data::Text), true);
            frame.format(&mut out).expect("written to memory");
            black_box(out.len())
        });
    });
    group.finish();
}

fn parse(c: &mut Criterion) {
    let text = format!(
        r#"{{"type":"publish","room":"lobby","payload":{},"ref":17}}"#,
        payload()
    );
    let mut group = c.benchmark_group("publish command, payload of 128 bytes");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("ours", |b| {
        b.iter(|| black_box(command::parse(black_box(&text)).is_ok()))
    });
    group.bench_function("serde_json value", |b| {
        b.iter(|| black_box(serde_json::from_str::<Value>(black_box(&text)).is_ok()));
    });
    group.bench_function("storable alone", |b| {
        b.iter(|| black_box(storable::check(black_box(&text)).is_ok()));
    });
    group.finish();

    let numbers: Vec<f64> = (0..500).map(|n| f64::from(n) * 1.25).collect();
    let text = json!({ "numbers": numbers, "more": vec![json!({ "a": "b" }); 100] }).to_string();
    let mut group = c.benchmark_group("storable, numbers and brackets");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("ours", |b| {
        b.iter(|| black_box(storable::check(black_box(&text)).is_ok()));
    });
    group.finish();
}

fn handshake(c: &mut Criterion) {
    let text = b"GET /ws?room=lobby HTTP/1.1\r\nHost: chat.example:8080\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
        Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n\
        Sec-WebSocket-Version: 13\r\nOrigin: http://chat.example:8080\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\n\
        Pragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n";
    let mut group = c.benchmark_group("upgrade of a browser");
    group.bench_function("head", |b| {
        b.iter(|| black_box(head::parse(black_box(text)).is_ok()))
    });
    group.bench_function("head and answer", |b| {
        b.iter(|| {
            let head = head::parse(black_box(text)).ok().flatten();
            head.map(|(head, _)| upgrade::accept(&head, b"", Some(upgrade::SUBPROTOCOL)).is_ok())
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode, parse, handshake);
criterion_main!(benches);
