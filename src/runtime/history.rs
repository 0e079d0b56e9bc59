//! Questions about the past to the PostgreSQL that a worker stores in: a pool of links.
//!
//! ```text
//! ask ─▶ the first link that is up and idle, or the queue ─▶ statement ─▶ Answer::History
//! ```
//!
//! - Each question has one answer within [`HISTORY_MS`]: while no link is up, at once an error.
//! - It begins with one link; the next is opened when a question would wait, up to
//!   `--postgres-pool`.
//! - Statements are in `history/*.sql`; none writes. Errors for clients name no address: what ails
//!   PostgreSQL in detail is for the log, said once until it is well again.

mod rows;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::pg::{Link, LinkOptions, Target};
use crate::backplane::history::{HistoryAsk, HistoryReply};
use crate::model::limits::{HISTORY_ASKS_MAX, HISTORY_MS, HISTORY_STATEMENT_MS};
use crate::pg::{Answer, Event, Refusal};

/// What is called with every answer, on the thread of the pool, with nothing of it borrowed.
pub(super) type OnReply = Rc<dyn Fn(HistoryReply)>;

/// See the module. On a thread that runs monoio.
pub(super) struct Pool {
    inner: Rc<Inner>,
}

struct Inner {
    target: Target,
    name: String,
    links_max: usize,
    on_reply: OnReply,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    lanes: Vec<Lane>,
    queue: VecDeque<(Instant, HistoryAsk)>,
    /// Whether it was told that PostgreSQL is away.
    is_away: bool,
}

/// A link and what it is asked.
struct Lane {
    link: Link,
    /// `None`: it was never up or down.
    is_up: Option<bool>,
    /// `None`: it was answered already, with an error, since it took too long.
    asked: VecDeque<(Instant, Option<HistoryAsk>)>,
}

impl Pool {
    /// Begins to connect. `name` is what `pg_stat_activity` shows.
    pub(super) fn open(target: Target, name: String, links_max: usize, on_reply: OnReply) -> Self {
        let inner = Rc::new(Inner {
            target,
            name,
            links_max,
            on_reply,
            state: RefCell::default(),
        });
        Inner::open_link(&inner);
        monoio::spawn(look_after(Rc::downgrade(&inner)));
        Self { inner }
    }

    /// Whether any link is up.
    pub(super) fn is_up(&self) -> bool {
        let state = self.inner.state.borrow();
        state.lanes.iter().any(|lane| lane.is_up == Some(true))
    }

    /// Asks. The answer never comes before this returns.
    pub(super) fn ask(&self, ask: HistoryAsk) {
        let inner = self.inner.clone();
        inner
            .state
            .borrow_mut()
            .queue
            .push_back((Instant::now(), ask));
        monoio::spawn(async move { Inner::go_on(&inner) });
    }
}

impl Inner {
    fn open_link(inner: &Rc<Self>) {
        let index = inner.state.borrow().lanes.len();
        let weak = Rc::downgrade(inner);
        let on_event = Rc::new(move |event| {
            if let Some(inner) = weak.upgrade() {
                inner.on_event(index, event);
                Self::go_on(&inner);
            }
        });
        let milliseconds = HISTORY_STATEMENT_MS.to_string();
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = LinkOptions {
            name: inner.name.clone(),
            settings: vec![
                set("statement_timeout", &milliseconds),
                set("lock_timeout", &milliseconds),
                set("default_transaction_read_only", "on"),
                // The plans differ by how many rooms are asked for, and how long is short.
                set("jit", "off"),
            ],
            answer_ms: HISTORY_STATEMENT_MS + (HISTORY_MS - HISTORY_STATEMENT_MS) / 2,
        };
        let link = Link::open(inner.target.clone(), options, on_event);
        inner.state.borrow_mut().lanes.push(Lane {
            link,
            is_up: None,
            asked: VecDeque::new(),
        });
    }

    fn on_event(&self, index: usize, event: Event) {
        let mut state = self.state.borrow_mut();
        let Some(lane) = state.lanes.get_mut(index) else {
            return;
        };
        match event {
            Event::Up(info) => {
                lane.is_up = Some(true);
                if std::mem::take(&mut state.is_away) || index == 0 {
                    tracing::info!(
                        place = info.place,
                        version = info.version,
                        "history: connected"
                    );
                }
            }
            Event::Down { why, retry_ms } => {
                lane.is_up = Some(false);
                let lost = std::mem::take(&mut lane.asked);
                if !std::mem::replace(&mut state.is_away, true) {
                    tracing::warn!(retry_ms, "history: {why}");
                }
                drop(state);
                let lost = lost.into_iter().filter_map(|(_, ask)| ask);
                lost.for_each(|ask| self.refuse(ask));
            }
            Event::Answer(answer) => {
                let asked = lane.asked.pop_front();
                drop(state);
                if let Some((_, Some(ask))) = asked {
                    self.answer(ask, answer);
                }
            }
            Event::Notice(notice) => tracing::debug!("history: {notice}"),
            Event::Returned(_) => {}
        }
    }

    fn answer(&self, ask: HistoryAsk, answer: Result<Answer, Refusal>) {
        match answer {
            Ok(answer) => (self.on_reply)(rows::reply(ask, &answer)),
            Err(why) => {
                tracing::warn!("history: {why}");
                self.refuse(ask);
            }
        }
    }

    fn refuse(&self, ask: HistoryAsk) {
        (self.on_reply)(rows::refusal(ask));
    }

    /// Hands out what waits.
    fn go_on(inner: &Rc<Self>) {
        let mut refused = Vec::new();
        let mut wants_link = false;
        let mut state = inner.state.borrow_mut();
        let state = &mut *state;
        // While nothing is up, and something was tried, there is nothing to wait for.
        let is_down = state.lanes.iter().all(|lane| lane.is_up == Some(false));
        while let Some((since, ask)) = state.queue.pop_front() {
            if is_down || state.queue.len() > HISTORY_ASKS_MAX {
                refused.push(ask);
                continue;
            }
            let idle = |lane: &&mut Lane| lane.asked.is_empty() && lane.link.has_room();
            let Some(lane) = state.lanes.iter_mut().find(idle) else {
                state.queue.push_front((since, ask));
                let is_waiting = state.lanes.iter().any(|lane| lane.is_up.is_none());
                wants_link = !is_waiting && state.lanes.len() < inner.links_max;
                break;
            };
            match lane.link.send(rows::request(&ask)) {
                Ok(()) => lane.asked.push_back((Instant::now(), Some(ask))),
                Err(_) => refused.push(ask),
            }
        }
        for ask in refused {
            let inner = inner.clone();
            monoio::spawn(async move { inner.refuse(ask) });
        }
        if wants_link {
            // What it tells goes on here.
            let inner = inner.clone();
            monoio::spawn(async move { Self::open_link(&inner) });
        }
    }

    /// Refuses what has waited too long.
    fn expire(&self) {
        let mut state = self.state.borrow_mut();
        let late = Duration::from_millis(HISTORY_MS - HISTORY_STATEMENT_MS);
        let mut refused = Vec::new();
        while let Some((since, _)) = state.queue.front()
            && since.elapsed() >= late
        {
            refused.extend(state.queue.pop_front().map(|(_, ask)| ask));
        }
        let late = Duration::from_millis(HISTORY_MS);
        for (since, ask) in state.lanes.iter_mut().flat_map(|lane| &mut lane.asked) {
            if since.elapsed() >= late {
                refused.extend(ask.take());
            }
        }
        drop(state);
        refused.into_iter().for_each(|ask| self.refuse(ask));
    }
}

async fn look_after(inner: std::rc::Weak<Inner>) {
    loop {
        monoio::time::sleep(Duration::from_millis(50)).await;
        match inner.upgrade() {
            Some(inner) => inner.expire(),
            None => return,
        }
    }
}
