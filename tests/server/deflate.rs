//! permessage-deflate (RFC 7692) from outside: what is agreed on, that a room is deflated once for
//! all who want it, and that who waits holds nothing for it. What breaks it is in `frames`.

use std::io::Write;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};

use super::support::{Answer, Client, Raw, Server, connect, frame, upgrade_head};

/// A head that asks for an upgrade and offers that.
pub(crate) fn offering(path: &str, offer: &str) -> String {
    let line = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
    upgrade_head(path).replace("\r\n\r\n", &line)
}

/// A connection that has agreed on the offer; and the answer's extensions.
pub(crate) fn open(server: &Server, path: &str, offer: &str) -> (Raw, String) {
    let (raw, head) = Raw::over_with(connect(server.port), &offering(path, offer));
    let mut lines = head.split("\r\n");
    let answer = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    (raw, answer.unwrap_or_default().to_owned())
}

/// Messages out, as a client deflates them.
pub(crate) struct Deflater(Compress, bool);

impl Deflater {
    pub(crate) fn new(bits: u8, takeover: bool) -> Self {
        let level = Compression::new(6);
        Self(Compress::new_with_window_bits(level, false, bits), takeover)
    }

    pub(crate) fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        if !self.1 {
            self.0.reset();
        }
        let mut out = Vec::with_capacity(payload.len() + payload.len() / 8 + 100);
        let flush = FlushCompress::Sync;
        self.0.compress_vec(payload, &mut out, flush).unwrap();
        out.truncate(out.len() - 4);
        out
    }
}

/// Messages in.
struct Inflater(Decompress, bool);

impl Inflater {
    fn new(bits: u8, takeover: bool) -> Self {
        Self(Decompress::new_with_window_bits(false, bits), takeover)
    }

    fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
        if !self.1 {
            self.0.reset(false);
        }
        let whole = [payload, &[0, 0, 0xff, 0xff]].concat();
        let mut out = Vec::with_capacity(1 << 20);
        let flush = FlushDecompress::Sync;
        self.0.decompress_vec(&whole, &mut out, flush).unwrap();
        out
    }
}

/// The next text of a connection to `/ws`, and whether it came deflated; each by itself.
fn text(raw: &mut Raw) -> (Value, bool) {
    let (first, payload) = raw.frame_and_bits().unwrap();
    let payload = match first {
        0x81 => payload,
        0xc1 => Inflater::new(15, false).inflate(&payload),
        first => panic!("{first:x}"),
    };
    (serde_json::from_slice(&payload).unwrap(), first == 0xc1)
}

fn send(raw: &mut Raw, value: &Value) {
    raw.send(&frame(0x81, value.to_string().as_bytes()));
}

/// One that has joined `room`.
fn member(server: &Server, room: &str) -> Raw {
    let (mut raw, _) = open(server, "/ws", "permessage-deflate");
    send(&mut raw, &json!({"type":"join","room":room}));
    assert_eq!(text(&mut raw).0["type"], "welcome");
    assert_eq!(text(&mut raw).0["type"], "joined");
    raw
}

#[test]
fn what_is_agreed_on() {
    let server = Server::start(&["--deflate", "--echo"]);
    let shared = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    for (path, offer, want) in [
        ("/ws", "permessage-deflate; client_max_window_bits", shared),
        ("/ws", "permessage-deflate; server_max_window_bits=9", ""),
        (
            "/ws",
            "foo, permessage-deflate; x=1, permessage-deflate",
            shared,
        ),
        ("/ws", "foo", ""),
        ("/echo", "permessage-deflate", "permessage-deflate"),
        (
            "/echo",
            "permessage-deflate; server_max_window_bits=9; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=9",
        ),
    ] {
        assert_eq!(open(&server, path, offer).1, want, "{path} {offer}");
    }
    let mut socket = connect(server.port);
    let head = offering("/ws", "permessage-deflate; =");
    socket.write_all(head.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut socket).status, 400);

    let without = Server::start(&["--echo"]);
    for path in ["/ws", "/echo"] {
        assert_eq!(open(&without, path, "permessage-deflate").1, "");
    }
}

#[test]
fn a_room_is_deflated_once_for_all_who_want_it() {
    let server = Server::start(&["--deflate"]);
    let mut plain = Client::on_shard(&server, 0);
    plain.join("r");
    let mut members: Vec<Raw> = (0..6).map(|_| member(&server, "r")).collect();
    let long = "a payload that repeats itself, ".repeat(30);
    plain.publish("r", json!(long));
    plain.publish("r", json!(7));
    let want = plain.messages("r", 1, 2);
    let frames: Vec<_> = members
        .iter_mut()
        .map(|raw| [raw.frame_and_bits().unwrap(), raw.frame_and_bits().unwrap()])
        .collect();
    for frames in &frames {
        let [(first, deflated), (second, short)] = frames;
        assert_eq!(*first, 0xc1);
        assert!(deflated.len() < long.len() / 3, "{} bytes", deflated.len());
        let inflated = Inflater::new(15, false).inflate(deflated);
        assert_eq!(serde_json::from_slice::<Value>(&inflated).unwrap(), want[0]);
        let short = match second {
            0xc1 => Inflater::new(15, false).inflate(short),
            _ => short.clone(),
        };
        assert_eq!(serde_json::from_slice::<Value>(&short).unwrap(), want[1]);
    }
    // Whoever they are, on whichever shard: the same bytes.
    assert!(frames.iter().all(|other| *other == frames[0]));
}

#[test]
fn what_does_not_get_smaller_goes_as_it_is() {
    let server = Server::start(&["--deflate"]);
    let mut raw = member(&server, "r");
    let noise: String = (0..20_000).map(|_| fastrand::alphanumeric()).collect();
    let noise = serde_json::Value::String(noise);
    send(
        &mut raw,
        &json!({"type":"publish","room":"r","payload":noise}),
    );
    let (message, _) = text(&mut raw);
    assert_eq!(message["payload"], noise);
}

#[test]
fn what_clients_send_deflated_is_taken() {
    let server = Server::start(&["--deflate"]);
    let mut raw = member(&server, "r");
    let mut other = Client::member(&server, "r");
    let publish = |n: u64| {
        let payload = json!({"n":n,"fill":"the same again ".repeat(50)});
        json!({"type":"publish","room":"r","payload":payload,"echo":false,"ref":n}).to_string()
    };
    for n in 1..=20 {
        let deflated = Deflater::new(15, false).deflate(publish(n).as_bytes());
        let (one, two) = deflated.split_at(deflated.len() / 2);
        match n % 3 {
            0 => raw.send(&frame(0xc1, &deflated)),
            1 => raw.send(&frame(0x81, publish(n).as_bytes())),
            // In pieces, with a ping between, byte by byte.
            _ => {
                let pieces = [frame(0x41, one), frame(0x89, b"p"), frame(0x80, two)].concat();
                pieces.iter().for_each(|byte| raw.send(&[*byte]));
                assert_eq!(raw.frame(), Some((10, b"p".to_vec())));
            }
        }
        let (ack, _) = text(&mut raw);
        assert_eq!((&ack["type"], &ack["offset"]), (&json!("ack"), &json!(n)));
    }
    for (n, message) in (1..).zip(other.messages("r", 1, 20)) {
        assert_eq!(message["payload"]["n"], n);
    }
}

/// The past comes as it is, what is new deflated, and nothing is missing between them.
#[test]
fn a_resume_has_no_seam() {
    let server = Server::start(&["--deflate", "--room-linger", "0s"]);
    let mut first = Client::new(&server);
    let epoch = first.join("r")["epoch"].clone();
    let payload = |n: u64| json!({"n":n,"fill":"words and words ".repeat(20)});
    first.publish_all("r", 1..601, payload);
    let (mut raw, _) = open(&server, "/ws", "permessage-deflate");
    let since = json!({"epoch":epoch,"offset":100});
    send(&mut raw, &json!({"type":"join","room":"r","since":since}));
    assert_eq!(text(&mut raw).0["type"], "welcome");
    assert_eq!(text(&mut raw).0["recovered"], true);
    first.publish_all("r", 601..801, payload);
    let mut deflated = 0;
    for offset in 101..=800 {
        let (message, was) = text(&mut raw);
        assert_eq!(message["offset"], offset, "{message}");
        assert_eq!(message["payload"]["n"], offset);
        deflated += u32::from(was);
    }
    assert!(deflated >= 50, "what was new came deflated: {deflated}");
}

#[test]
fn echo_keeps_to_the_windows_and_contexts_agreed_on() {
    let server = Server::start(&["--echo", "--deflate"]);
    let text = "over and over the same words, not quite the same each time ".repeat(40);
    for (server_bits, client_bits) in [(8, 15), (9, 9), (12, 10), (15, 15)] {
        for contexts in 0..4 {
            let (ours, theirs) = (contexts & 1 == 0, contexts & 2 == 0);
            let mut offer = format!(
                "permessage-deflate; server_max_window_bits={server_bits}; \
                 client_max_window_bits={client_bits}"
            );
            let mut give_up = |up: bool, who: &str| {
                if up {
                    offer.push_str(&format!("; {who}_no_context_takeover"));
                }
            };
            give_up(!ours, "client");
            give_up(!theirs, "server");
            let (mut raw, agreed) = open(&server, "/echo", &offer);
            let given_up = usize::from(!ours) + usize::from(!theirs);
            assert_eq!(agreed.matches("takeover").count(), given_up, "{agreed}");
            let mut deflater = Deflater::new(client_bits, ours);
            // A reader of 9 bits is zlib's smallest; the server's 8 fit into it.
            let mut inflater = Inflater::new(server_bits.max(9), theirs);
            let mut sizes = Vec::new();
            for n in 0..8_usize {
                let said = format!("{n} {}", &text[n..]);
                let opcode = 0xc1 + (n % 2) as u8;
                raw.send(&frame(opcode, &deflater.deflate(said.as_bytes())));
                let (first, payload) = raw.frame_and_bits().unwrap();
                assert_eq!(first, opcode, "{offer}");
                sizes.push(payload.len());
                assert_eq!(inflater.inflate(&payload), said.as_bytes(), "{offer}");
            }
            let shrinks = sizes[7] < sizes[0] * 9 / 10;
            assert!(server_bits < 12 || shrinks == theirs, "{offer} {sizes:?}");
        }
    }
}

/// Neither streams nor buffers are kept for a connection, whatever it has sent and got.
#[test]
fn who_waits_holds_nothing() {
    let server = Server::start(&["--deflate"]);
    let ping = json!({"type":"ping","ref":1,"fill":"x".repeat(20_000)});
    let deflated = Deflater::new(15, false).deflate(ping.to_string().as_bytes());
    let open = |members: usize| -> Vec<Raw> {
        let open = |_| {
            let mut raw = member(&server, "r");
            raw.send(&frame(0xc1, &deflated));
            assert_eq!(text(&mut raw).0["type"], "pong");
            send(
                &mut raw,
                &json!({"type":"publish","room":"r","payload":"words ".repeat(99)}),
            );
            assert_eq!(text(&mut raw).0["type"], "message");
            send(&mut raw, &json!({"type":"leave","room":"r"}));
            assert_eq!(text(&mut raw).0["type"], "left");
            raw
        };
        (0..members).map(open).collect()
    };
    let first = open(100);
    let before = server.memory_kib();
    let more = open(400);
    let grown = server.memory_kib().saturating_sub(before);
    let each = grown / more.len() as u64;
    assert!(each < 10, "{each} KiB for each of {}", more.len());
    drop(first);
}
