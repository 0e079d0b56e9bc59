//! Somebody who talks in a room while a test does something else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{Client, Server};

/// Publishes to `room` as long as `work` takes, one message after the other, and reads each back
/// there.
pub(crate) fn talking<T>(server: &Server, room: &str, bytes: usize, work: impl FnOnce() -> T) -> T {
    talking_each(Duration::ZERO, server, room, bytes, work)
}

/// The same with a pause behind each message.
pub(crate) fn talking_each<T>(
    pause: Duration,
    server: &Server,
    room: &str,
    bytes: usize,
    work: impl FnOnce() -> T,
) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::new(server);
            let mut offset = client.join(room)["offset"].as_u64().unwrap();
            while !stopped.load(Ordering::Relaxed) {
                offset += 1;
                assert_eq!(client.publish(room, json!("x".repeat(bytes))), offset);
                client.messages(room, offset, offset);
                if !pause.is_zero() {
                    thread::sleep(pause);
                }
            }
        });
        // Also when the work fails: else the scope would wait for ever.
        let _stop = Stop(&stopped);
        work()
    })
}
