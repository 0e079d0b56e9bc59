//! Work that blocks, such as a name's lookup: a thread does it and hands the result over; a task of
//! monoio's waits for that and may stop waiting at any time. What comes too late is dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread;

use atomic_waker::AtomicWaker;

/// What the work comes to, on its way from the thread.
pub(super) struct Handoff<T> {
    result: Mutex<Option<Result<T, String>>>,
    waker: AtomicWaker,
}

impl<T> Handoff<T> {
    /// The result, once there is one; else `waker` is woken.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<Result<T, String>> {
        self.waker.register(waker);
        let result = self.result.lock();
        match result.unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }

    fn put(&self, result: Result<T, String>) {
        let place = self.result.lock();
        *place.unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.waker.wake();
    }
}

/// Begins the work, on a thread of that name.
pub(super) fn begin<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Arc<Handoff<T>> {
    let handoff = Arc::new(Handoff {
        result: Mutex::new(None),
        waker: AtomicWaker::new(),
    });
    let there = handoff.clone();
    let thread = thread::Builder::new().name(name.into());
    if let Err(error) = thread.spawn(move || there.put(work())) {
        handoff.put(Err(format!("no thread can be started: {error}")));
    }
    handoff
}
