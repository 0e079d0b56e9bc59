//! The tasks of a shard's thread: accept, one reader for each connection, the ticker, the pump.
//!
//! A reader only waits for readiness and holds nothing else, so an idle connection costs its future
//! and no buffer. No read is ever in flight that could be dropped with its bytes.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use monoio::io::Canceller;
use monoio::net::{TcpListener, TcpStream};

use super::core::{Read, Shared, Turn};
use super::sockets::send_now;
use crate::hub::ConnIndex;
use crate::model::limits::TICKS_A_ROUND;
use crate::net::response;
use crate::shard::Arrival;

/// Between two ticks.
const TICK: Duration = Duration::from_millis(100);
/// A tick comes after a pause, not at a rate: a round of them takes longer than their sum.
const _: () = assert!(TICK.as_millis() * TICKS_A_ROUND as u128 <= 800);
/// Connections beyond `--max-connections` that may ask for a page.
const CROWD: usize = 16;
/// How long accepting rests when there are no descriptors or no memory left.
const REST: Duration = Duration::from_millis(100);
/// Between two complaints about that.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Runs a shard until it is done.
pub(super) async fn run(core: Shared, listener: StdListener) -> io::Result<()> {
    let canceller = Canceller::new();
    let listener = TcpListener::from_std(listener)?;
    monoio::spawn(accept_all(core.clone(), listener, canceller.handle()));
    monoio::spawn(tick_all(core.clone()));
    let mut stop_accepting = Some(canceller);
    loop {
        let turn = core.borrow_mut().turn();
        await_writables(&core);
        if stop_accepting.is_some() && core.borrow().stats.draining.load(Ordering::Relaxed) {
            // The accept under way ends, without losing a connection.
            stop_accepting.take().map(Canceller::cancel);
        }
        match turn {
            Turn::More => monoio::spawn(async {}).await,
            Turn::Pause(pause) => {
                let core = core.clone();
                monoio::time::sleep(pause).await;
                drop(core);
            }
            Turn::Idle => poll_fn(|cx| core.borrow_mut().poll_work(cx.waker())).await,
            Turn::Done => return Ok(()),
        }
    }
}

/// Lets a task wait for each socket that was full.
fn await_writables(core: &Shared) {
    let full = std::mem::take(&mut core.borrow_mut().writables);
    for index in full {
        let slot = {
            let sockets = &mut core.borrow_mut().sockets;
            let slot = sockets.slot(index);
            let slot = slot.map(|slot| (slot.stream.clone(), slot.serial));
            slot.filter(|_| sockets.begin_wait(index))
        };
        let Some((stream, serial)) = slot else {
            continue;
        };
        let core = core.clone();
        monoio::spawn(async move {
            // A broken socket is found out by whoever sends to it.
            let _ = stream.writable(false).await;
            core.borrow_mut().writable(index, serial);
        });
    }
}

async fn tick_all(core: Shared) {
    loop {
        monoio::time::sleep(TICK).await;
        core.borrow_mut().tick();
    }
}

async fn accept_all(core: Shared, listener: TcpListener, cancel: monoio::io::CancelHandle) {
    let stats = core.borrow().stats.clone();
    let mut complained: Option<Instant> = None;
    while !stats.draining.load(Ordering::Acquire) {
        match listener.cancelable_accept(cancel.clone()).await {
            Ok((stream, peer)) => {
                let open = stats.open.fetch_add(1, Ordering::AcqRel);
                if open >= stats.connections_max + CROWD {
                    stats.open.fetch_sub(1, Ordering::AcqRel);
                    stats.turned_away.fetch_add(1, Ordering::Relaxed);
                    if !core.borrow().sockets.are_sealed() {
                        turn_away(&stream);
                    }
                    continue;
                }
                // So that `/health` is answered when all places are taken.
                let crowded = open >= stats.connections_max;
                let arrival = Arrival {
                    crowded,
                    peer: peer.ip(),
                };
                let stream = Rc::new(stream);
                let (index, serial) = core.borrow_mut().accept(stream.clone(), arrival);
                monoio::spawn(read_all(core.clone(), stream, index, serial));
            }
            Err(_) if stats.draining.load(Ordering::Acquire) => return,
            Err(error) => {
                if is_of_one_connection(&error) {
                    continue;
                }
                if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                    complained = Some(Instant::now());
                    let shard = core.borrow().id;
                    tracing::error!(shard, %error, "connections can't be accepted; raise the \
                        limit of open files (ulimit -n) or lower --max-connections");
                }
                monoio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether only the connection that was to be accepted failed.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::Interrupted
    )
}

/// There are as many connections as there may be.
fn turn_away(stream: &TcpStream) {
    let again = [("Retry-After", "1")];
    let why = "as many connections as this instance takes; try again later";
    // Whether it arrives or not, the connection ends here.
    let answer = response::error(503, "overloaded", why, &again);
    let _ = send_now(stream, &answer.last());
}

/// Reads a connection until it ends. There is one of it for each, so its size counts: an `async fn`
/// would hold what it was given twice, as it came and as it is used.
#[expect(clippy::manual_async_fn, reason = "an async block is smaller")]
fn read_all(
    core: Shared,
    stream: Rc<TcpStream>,
    index: ConnIndex,
    serial: u64,
) -> impl Future<Output = ()> {
    async move {
        while stream.readable(false).await.is_ok() {
            let read = core.borrow_mut().read(index, serial);
            match read {
                Read::Again => {}
                Read::Paused => {
                    poll_fn(|cx| core.borrow_mut().poll_gate(index, serial, cx.waker())).await;
                }
                Read::Ended => break,
            }
        }
        let mut core = core.borrow_mut();
        core.release(index, serial);
        core.stats.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// With the 48 bytes that a task is beside its future, and in steps of 32 as the allocator
    /// takes, these are 192 for each connection.
    #[test]
    fn an_idle_reader_is_small() {
        assert!(bytes_of(read_all) <= 144, "{}", bytes_of(read_all));
    }
}
