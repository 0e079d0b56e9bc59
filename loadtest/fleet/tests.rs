//! How fast frames are checked.

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::client::Client;
use crate::inflate::Inflater;
use crate::wire::{ACCEPT, opcode, write_server_frame};

/// The generator must not be the bottleneck. To measure:
/// `FRAME_TURNS=20000 cargo test --release --bin loadtest frames_ -- --nocapture`.
#[test]
fn frames_are_checked_fast() {
    const FRAMES: u32 = 64;
    let turns = std::env::var("FRAME_TURNS").map_or(20, |turns| turns.parse::<u32>().unwrap());
    let plan = Plan {
        run: 5,
        rooms: vec!["load-00000005-0".into()],
        members: vec![0],
        publishers: vec![(1, 0)],
        payload: 128,
        ..Plan::default()
    };
    let (mut fleet, mut client) = (Fleet::new(plan), Client::default());
    fleet.measured = 0..u64::MAX;
    let head = format!("HTTP/1.1 101 S\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n");
    let mut inflater = Inflater::default();
    client
        .on_bytes(0, head.as_bytes(), 0, &mut inflater, &mut fleet)
        .unwrap();
    fleet.checker.on_joined(0, "e", 0, None, None);
    let cpu = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    let mut nanos = 0;
    for turn in 0..turns {
        let mut bytes = Vec::new();
        for i in 0..FRAMES {
            let (sequence, time) = (turn * FRAMES + i + 1, 7);
            let mut text = format!(
                concat!(
                    r#"{{"type":"message","room":"load-00000005-0","offset":{},"#,
                    r#""id":"{}","user_id":"abcdefghijklmnop","#,
                    r#""username":"abcdefghijklmnop","payload":"#
                ),
                sequence,
                Marker::id(5, 0, sequence)
            )
            .into_bytes();
            Marker {
                run: 5,
                publisher: 0,
                sequence,
                time,
            }
            .write(&mut text, 128);
            text.extend_from_slice(br#","sent_at":"2026-11-22T00:00:00.000Z"}"#);
            write_server_frame(&mut bytes, opcode::TEXT, &text);
        }
        let start = cpu();
        client
            .on_bytes(0, &bytes, 1000, &mut inflater, &mut fleet)
            .unwrap();
        nanos += cpu() - start;
    }
    assert!(
        fleet.checker.tally.is_proven(0),
        "{:?}",
        fleet.checker.tally
    );
    println!("{} ns a frame", nanos / i64::from(FRAMES * turns));
}
