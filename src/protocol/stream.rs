//! Rooms as server-sent events (HTML, 9.2): what `GET /api/rooms/{room}/events` streams.
//!
//! ```text
//!   id: <epoch>:<offset>          where a client that comes back goes on (Last-Event-ID)
//!   event: message                or `reset`, `gap`
//!   data: {"type":"message",…}    the frame that others get, on one line
//!   (empty line)
//! ```
//!
//! Each function appends whole events. Line ends that a client has put between the tokens of its
//! JSON become spaces: in a string there is none (RFC 8259, 7), and here they would end the line.

use super::command::Since;
use super::event::{self, push_number};
use crate::model::{Epoch, Position};

/// What a stream begins with: how long to wait before one comes back, in ms, so that all of an
/// instance that is gone do not wait for seconds.
const RETRY: &[u8] = b"retry: 1000\n";

/// Says nothing, so that both ends see that the connection lives.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// A message: `json` is its frame.
pub fn message(out: &mut Vec<u8>, position: Position, json: &[u8]) {
    out.reserve(json.len() + 80);
    push_id(out, position);
    out.extend_from_slice(b"\nevent: message\ndata: ");
    push_line(out, json);
    out.extend_from_slice(b"\n\n");
}

/// The stream begins behind `position`.
pub fn begin(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(RETRY);
    push_id(out, position);
    out.extend_from_slice(b"\n\n");
}

/// What came before is not replayed, or the room's offsets begin anew: it goes on behind the
/// offset of `joined`.
pub fn reset(out: &mut Vec<u8>, joined: &event::Joined<'_>) {
    out.extend_from_slice(b"event: reset\n");
    let position = Position {
        epoch: joined.epoch,
        offset: joined.offset,
    };
    push_id(out, position);
    out.extend_from_slice(b"\ndata: ");
    event::joined_json(out, joined);
    out.extend_from_slice(b"\n\n");
}

/// The messages `from` to `to`, both included, were skipped or lost.
pub fn gap(out: &mut Vec<u8>, room: &str, from: u64, to: u64) {
    out.extend_from_slice(b"event: gap\ndata: ");
    event::gap_json(out, room, from, to);
    out.extend_from_slice(b"\n\n");
}

/// Where a client left off, by its `Last-Event-ID`; one that is none of ours can't be resumed.
pub fn since(last_event_id: &str) -> Since {
    let position = last_event_id.split_once(':').and_then(|(epoch, offset)| {
        let is_number = offset.bytes().all(|b| b.is_ascii_digit());
        let offset = offset.parse().ok().filter(|_| is_number)?;
        Some((Epoch::parse(epoch)?, offset))
    });
    Since {
        epoch: position.map(|(epoch, _)| epoch),
        offset: position.map_or(0, |(_, offset)| offset),
    }
}

fn push_id(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(position.epoch.as_str().as_bytes());
    out.push(b':');
    push_number(out, position.offset);
}

fn push_line(out: &mut Vec<u8>, json: &[u8]) {
    let from = out.len();
    out.extend_from_slice(json);
    if memchr::memchr2(b'\n', b'\r', json).is_some() {
        for byte in &mut out[from..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_s_bytes() {
        let epoch = Epoch::new(1_700_000_000_000, 1);
        let position = Position { epoch, offset: 7 };
        let id = "018bcfe5680000000001:7";
        assert_eq!(
            written(|out| message(out, position, b"{\"a\":\r\n1}")),
            format!("id: {id}\nevent: message\ndata: {{\"a\":  1}}\n\n")
        );
        assert_eq!(
            written(|out| begin(out, position)),
            format!("retry: 1000\nid: {id}\n\n")
        );
        assert_eq!(
            written(|out| gap(out, "r", 1, 2)),
            "event: gap\ndata: {\"type\":\"gap\",\"room\":\"r\",\"from\":1,\"to\":2}\n\n"
        );
        let joined = event::Joined {
            room: "r",
            epoch,
            offset: 7,
            recovered: Some(false),
            members: 1,
            reference: None,
        };
        assert_eq!(
            written(|out| reset(out, &joined)),
            format!(
                "event: reset\nid: {id}\ndata: {{\"type\":\"joined\",\"room\":\"r\",\
                 \"epoch\":\"018bcfe5680000000001\",\"offset\":7,\"recovered\":false,\
                 \"members\":1}}\n\n"
            )
        );
    }

    #[test]
    fn an_id_comes_back_as_a_position() {
        let epoch = Epoch::new(1_700_000_000_000, 1);
        for (id, epoch, offset) in [
            ("018bcfe5680000000001:7", Some(epoch), 7),
            ("018bcfe5680000000001:0", Some(epoch), 0),
            ("018bcfe5680000000001:+7", None, 0),
            ("018bcfe5680000000001:", None, 0),
            ("018bcfe5680000000001", None, 0),
            ("018BCFE5680000000001:7", None, 0),
            (":7", None, 0),
            ("7", None, 0),
        ] {
            assert_eq!(since(id), Since { epoch, offset }, "{id}");
        }
    }
}
