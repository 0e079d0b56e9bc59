//! Reading as connections do.

use std::io::Write as _;
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::*;
use crate::runtime::driver::on_each_driver;

/// That read at a time.
const CONNECTIONS: u64 = 8;

/// Whether the long variants run.
fn all() -> bool {
    std::env::var_os("RINGCAST_TEST_ALL").is_some_and(|value| value == "1")
}

/// What stands at a place of the test's stream.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Sends until it is told to end: pieces of any size, every few milliseconds. How many bytes.
fn send_pieces(mut to: StdStream, ended: &AtomicBool) -> u64 {
    let mut rng = fastrand::Rng::with_seed(4);
    let mut sent = 0;
    while !ended.load(Ordering::Relaxed) {
        let piece: Vec<_> = (sent..sent + rng.u64(1..4_096)).map(byte).collect();
        to.write_all(&piece).unwrap();
        sent += piece.len() as u64;
        thread::sleep(Duration::from_micros(rng.u64(..5_000)));
    }
    sent
}

/// Reads what one sends, with time-outs, until there were so many.
async fn race(enough: u64) {
    let listener = StdListener::bind(("127.0.0.1", 0)).unwrap();
    let near = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    let stream = Rc::new(TcpStream::from_std(near).unwrap());
    let mut sockets = Sockets::default();
    let (index, _) = sockets.insert(stream.clone());
    let ended = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let ended = ended.clone();
        move || send_pieces(far, &ended)
    });
    let mut buffer = vec![0; 1_500];
    let (mut timed_out, mut read) = (0, 0);
    loop {
        let readable = monoio::time::timeout(Duration::from_millis(1), stream.readable(false));
        if readable.await.is_err() {
            timed_out += 1;
            ended.store(timed_out >= enough, Ordering::Relaxed);
            continue;
        }
        match sockets.receive(index, &mut buffer) {
            Received::Bytes(bytes) => {
                let expected = (read..read + bytes as u64).map(byte);
                assert!(expected.eq(buffer[..bytes].iter().copied()), "at {read}");
                read += bytes as u64;
            }
            Received::Nothing => {}
            Received::Ended | Received::HalfClosed => break,
            Received::Broken(why) => panic!("{why}"),
        }
    }
    assert_eq!(read, sender.join().unwrap());
    assert!(timed_out >= enough);
}

/// FAULTS G4: 800 (100,000) time-outs of 1 ms, on 8 connections, while data come about as often:
/// what is read is what was sent, on each driver. Connections themselves have no time-out on a
/// read: they wait for readiness, and a deadline shuts the socket down.
#[test]
fn time_outs_that_race_data_lose_nothing() {
    let enough = if all() { 100_000 } else { 800 } / CONNECTIONS;
    on_each_driver(|| async move {
        let races: Vec<_> = (0..CONNECTIONS)
            .map(|_| monoio::spawn(race(enough)))
            .collect();
        for race in races {
            race.await;
        }
    });
}
