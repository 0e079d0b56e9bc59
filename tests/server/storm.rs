//! Who watches over a server is answered while thousands come in at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{Raw, Server, all, connect, frame};

/// What is asked, and within what: more than the goals, which are 100 and 200 ms, since clients,
/// server and other tests share two cores. What was needed is printed.
const ASKED: [&str; 3] = ["/health", "/ready", "/metrics"];
const LONGEST: Duration = Duration::from_secs(2);
/// Who connects at the same time.
const AT_ONCE: u64 = 8;

/// FAULTS F10: 1,000 (5,000) connect and join as fast as they can: health, ready and metrics are
/// answered within 2 s, the times are printed, and the counters are what was done.
#[test]
fn who_watches_is_answered_in_a_storm() {
    let each = if all() { 5_000 } else { 1_000 } / AT_ONCE;
    let server = Server::start(&["--store", "memory"]);
    let join = frame(0x81, br#"{"type":"join","room":"r","ref":1}"#);
    let (port, ended) = (server.port, AtomicBool::new(false));
    let (clients, times) = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut times = [const { Vec::new() }; ASKED.len()];
            while !ended.load(Ordering::Relaxed) {
                for (path, times) in ASKED.iter().zip(&mut times) {
                    let began = Instant::now();
                    assert_eq!(server.get(path).status, 200, "{path}");
                    times.push(began.elapsed());
                }
            }
            times
        });
        let come = || {
            let mut clients = Vec::new();
            for _ in 0..each {
                let mut raw = Raw::over(connect(port), "/ws");
                raw.send(&join);
                clients.push(raw);
            }
            for raw in &mut clients {
                // Welcome, and that it has joined.
                assert_eq!((raw.frame().unwrap().0, raw.frame().unwrap().0), (1, 1));
            }
            clients
        };
        let comers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(come)).collect();
        let clients = comers.into_iter().map(|comer| comer.join());
        let clients: Vec<_> = clients.collect();
        // Also when one of them has failed: else the watcher would go on for ever.
        ended.store(true, Ordering::Relaxed);
        let clients = clients.into_iter().flat_map(|some| some.unwrap());
        (clients.collect::<Vec<_>>(), watcher.join().unwrap())
    });
    let count = clients.len() as u64;
    assert_eq!(count, AT_ONCE * each);
    let mut asked = 0;
    for (path, mut times) in ASKED.iter().zip(times) {
        times.sort_unstable();
        asked += times.len() as u64;
        let (half, most) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{path}: {} times, half within {half:?}, all within {most:?}",
            times.len()
        );
        assert!(most < LONGEST, "{path}: {most:?}");
    }
    server.await_metric("members", count);
    // Who asks is there too, and has been counted.
    server.await_metric("connections", count + 1);
    assert!(server.metric("connections_accepted_total") > count + asked);
    drop(clients);
    server.await_metric("members", 0);
    server.await_metric("connections", 1);
}
