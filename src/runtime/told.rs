//! What comes to a test by a callback, awaited in its order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Events of a link, or of several.
pub(super) struct Told<E>(Rc<RefCell<Waiting<E>>>);

struct Waiting<E> {
    events: VecDeque<E>,
    sleeper: Option<Waker>,
}

impl<E: 'static> Told<E> {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(Waiting {
            events: VecDeque::new(),
            sleeper: None,
        })))
    }

    /// What tells it.
    pub(super) fn teller(&self) -> Rc<dyn Fn(E)> {
        let waiting = self.0.clone();
        Rc::new(move |event| {
            let mut waiting = waiting.borrow_mut();
            waiting.events.push_back(event);
            waiting.sleeper.take().into_iter().for_each(Waker::wake);
        })
    }

    /// The next event.
    pub(super) async fn next(&self) -> E {
        let next = poll_fn(|context| {
            let mut waiting = self.0.borrow_mut();
            waiting.sleeper = Some(context.waker().clone());
            waiting
                .events
                .pop_front()
                .map_or(Poll::Pending, Poll::Ready)
        });
        let event = monoio::time::timeout(PATIENCE, next).await;
        event.expect("nothing comes")
    }

    /// What has come and nobody has awaited.
    pub(super) fn rest(&self) -> Vec<E> {
        self.0.borrow_mut().events.drain(..).collect()
    }
}
