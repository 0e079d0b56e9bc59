//! Connections whose client sends nothing more, or has gone, at each stage of a request.

use super::stage::{Peer, Stage, options, room_of};
use crate::backplane::{StoreReply, StoreRequest};
use crate::model::{Epoch, RoomName};
use crate::shard::addresses::AddressKey;
use crate::shard::{Arrival, Event, Options, Rates};

fn half_close(stage: &mut Stage, (at, index): Peer) {
    stage.event(at, Event::HalfClosed(index));
    stage.pump();
}

/// Whoever drives the shard is not to read it any more, nor to let it go.
fn waits(stage: &Stage, (at, index): Peer) -> bool {
    let shard = &stage.shards[at].0;
    shard.holds(index) && !shard.wants_read(index)
}

#[test]
fn who_sends_nothing_more_is_answered_what_it_asked_and_then_gone() {
    let mut stage = Stage::new(options(2, true));
    let room = room_of(1);
    let post = format!(
        "POST /api/rooms/{room}/messages HTTP/1.1\r\nHost: s\r\nContent-Length: 13\r\n\r\n\
         {{\"payload\":1}}"
    );
    let peer = (0, 0);
    stage.shards[0].1.received.push(Vec::new());
    stage.event(0, Event::Accepted(0, Arrival::default()));
    stage.event(0, Event::Bytes(0, &mut post.repeat(2).into_bytes()));
    stage.pump();
    half_close(&mut stage, peer);
    assert!(waits(&stage, peer), "the store has not answered");
    // Whatever else it hears of that end changes nothing.
    half_close(&mut stage, peer);
    let room = RoomName::parse(&room).unwrap();
    let epoch = Epoch::new(1, 1);
    stage.answer(StoreReply::Opened(room, Ok((epoch, 0))));
    for n in 1..=2 {
        let batch = match &stage.asked[..] {
            [(_, StoreRequest::Commit(batch))] => batch.clone(),
            asked => panic!("{asked:?}"),
        };
        // It was read on for what had come behind the first one.
        half_close(&mut stage, peer);
        assert!(waits(&stage, peer));
        stage.answer(StoreReply::Committed(batch, Ok(())));
        let heard = stage.heard(peer);
        assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
        assert_eq!(heard.contains("Connection: close"), n == 2, "{heard}");
    }
    assert!(!stage.shards[0].0.holds(0), "all is said");
    assert!(stage.shards[0].0.is_empty());
}

#[test]
fn who_is_asked_of_another_shard_whether_it_may_enter_and_goes_leaves_its_place() {
    let rates = Rates {
        address_connections: 1,
        ..Rates::default()
    };
    let home = usize::from(AddressKey::from(Arrival::default().peer).home(2));
    for head in [
        "GET /api/rooms/a/events HTTP/1.1\r\nHost: s\r\n\r\n".to_owned(),
        "GET /ws HTTP/1.1\r\nHost: s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            .to_owned(),
    ] {
        let mut stage = Stage::new(Options {
            rates,
            ..options(2, false)
        });
        let at = 1 - home;
        for gone in [Event::HalfClosed(0), Event::Ended(0)] {
            stage.shards[at].1.received.resize(1, Vec::new());
            stage.event(at, Event::Accepted(0, Arrival::default()));
            stage.event(at, Event::Bytes(0, &mut head.clone().into_bytes()));
            stage.event(at, gone);
            stage.pump();
            assert!(!stage.shards[at].0.holds(0), "{head}");
        }
        // There is its place, and only that one.
        let (first, second) = (stage.connect(at, "/ws"), stage.connect(home, "/ws"));
        assert!(stage.heard(first).starts_with("HTTP/1.1 101 "), "{head}");
        assert!(stage.heard(second).starts_with("HTTP/1.1 429 "), "{head}");
    }
}

/// The socket's end is asked for, which says so where there is a way to say it (TLS), and does not
/// come of the connection's being forgotten.
#[test]
fn whoever_is_gone_is_closed() {
    let get = "GET /api/rooms/a/events HTTP/1.1\r\nHost: s\r\n\r\n";
    let answered = "DELETE / HTTP/1.1\r\nHost: s\r\n\r\n";
    let post = "POST /api/rooms/a/messages HTTP/1.1\r\nHost: s\r\nContent-Length: 9\r\n\r\n{";
    for bytes in ["", &get[..9], get, answered, post] {
        let mut stage = Stage::new(options(1, false));
        stage.shards[0].1.received.push(Vec::new());
        stage.event(0, Event::Accepted(0, Arrival::default()));
        stage.event(0, Event::Bytes(0, &mut bytes.as_bytes().to_vec()));
        stage.pump();
        assert!(stage.shards[0].0.holds(0) && stage.closed.is_empty());
        half_close(&mut stage, (0, 0));
        assert_eq!(stage.closed, [(0, 0)], "{bytes}");
        assert!(!stage.shards[0].0.holds(0), "{bytes}");
    }
    for path in ["/ws", "/echo"] {
        let mut stage = Stage::new(options(1, false));
        let peer = stage.connect(0, path);
        half_close(&mut stage, peer);
        assert_eq!(stage.closed, [peer], "{path}");
    }
}

/// What is sealed waits in the socket, where the shard does not see it.
#[test]
fn the_end_comes_behind_what_a_socket_holds_back() {
    let get = |more| format!("GET /nothing HTTP/1.1\r\nHost: s\r\n{more}\r\n");
    for (is_early, more) in [(true, ""), (false, ""), (false, "Connection: close\r\n")] {
        let mut stage = Stage::new(options(1, false));
        stage.shards[0].1.holds_back = true;
        stage.shards[0].1.received.push(Vec::new());
        stage.event(0, Event::Accepted(0, Arrival::default()));
        stage.event(0, Event::Bytes(0, &mut get(more).into_bytes()));
        if !is_early {
            stage.pump();
        }
        half_close(&mut stage, (0, 0));
        assert!(stage.heard((0, 0)).starts_with("HTTP/1.1 404 "));
        for held in [true, false] {
            assert!(waits(&stage, (0, 0)) && stage.closed.is_empty());
            stage.shards[0].1.holds_back = held;
            stage.event(0, Event::Writable(0));
            stage.pump();
        }
        assert_eq!(stage.closed, [(0, 0)]);
        assert!(stage.shards[0].0.is_empty());
    }
}
