//! One connection to Redis: its lives, its login, and whose reply comes next.
//!
//! ```text
//!   Down ─connect─▶ Connecting ─Connected─▶ LoggingIn ─Ready─▶ Up
//!    ▲                  │ Broken                │ refused       │ Broken, silence
//!    └──────────────────┴───────────────────────┴───────────────┘
//! ```
//!
//! What is sent in a turn gathers in one buffer and goes out in one write. Replies come in the
//! order of the questions, so a queue of questions says whose each one is.
//!
//! Not here: what is asked and what an answer means.
//!
//! Invariants: `questions` has the questions of this life that have no reply, in order; nothing is
//! asked unless the wire is up; events of an older life change nothing.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::backplane::link::{Link, LinkAsk, LinkEvent, LinkId};
use crate::resp::{Input, Kind, Login, Refusal, Session, Value};

/// What came by a wire; `Q` is a question.
#[derive(Debug)]
pub(super) enum Heard<Q> {
    /// Questions may be asked.
    Ready {
        /// What Redis says of itself.
        version: Option<String>,
        /// `replica`: it takes no writes.
        role: Option<String>,
    },
    /// The reply to a question.
    Reply(Q, Value),
    /// A message of a channel.
    Message(Bytes, Bytes),
    /// A channel is subscribed.
    Subscribed(Bytes),
    /// The connection is gone; no question has a reply any more.
    Broken {
        /// Why, with what mends it.
        why: String,
        /// If Redis refused the login, or the channels.
        refusal: Option<Refusal>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Connecting,
    LoggingIn,
    Up,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Wire<Q> {
    id: LinkId,
    kind: Kind,
    login: Login,
    state: State,
    session: Session,
    questions: VecDeque<(Q, u64)>,
    out: Vec<u8>,
    /// Empty; its room is used again for each read.
    inputs: Vec<Input>,
    /// When this state began, and when anything was heard.
    since_ms: u64,
    heard_ms: u64,
}

impl<Q> Wire<Q> {
    /// A wire that is not connected.
    pub(super) fn new(link: Link, login: Login) -> Self {
        let kind = match link {
            Link::Commands => Kind::Commands,
            Link::Subscriber => Kind::Subscriber,
        };
        Self {
            id: LinkId { link, life: 0 },
            kind,
            session: Session::new(login.clone(), kind),
            login,
            state: State::Down,
            questions: VecDeque::new(),
            out: Vec::new(),
            inputs: Vec::new(),
            since_ms: 0,
            heard_ms: 0,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub(super) fn is_down(&self) -> bool {
        self.state == State::Down
    }

    /// Bytes that wait to be written in this turn.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.out.len()
    }

    /// Questions without a reply.
    pub(super) fn unanswered(&self) -> usize {
        self.questions.len()
    }

    /// When the oldest question without a reply was asked.
    pub(super) fn asked_ms(&self) -> Option<u64> {
        self.questions.front().map(|&(_, ms)| ms)
    }

    /// Begins a new life.
    pub(super) fn connect(&mut self, now_ms: u64) -> LinkAsk {
        self.id.life = self.id.life.wrapping_add(1);
        (self.state, self.since_ms, self.heard_ms) = (State::Connecting, now_ms, now_ms);
        self.session = Session::new(self.login.clone(), self.kind);
        LinkAsk::Connect(self.id)
    }

    /// Asks a question: its command is to be appended to what is returned.
    pub(super) fn ask(&mut self, now_ms: u64, question: Q) -> &mut Vec<u8> {
        debug_assert!(self.is_up(), "questions are asked of a wire that is up");
        self.questions.push_back((question, now_ms));
        &mut self.out
    }

    /// For commands that have no reply: of subscribers.
    pub(super) fn say(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// What is to be written, if anything is.
    pub(super) fn flush(&mut self) -> Option<LinkAsk> {
        if self.out.is_empty() {
            return None;
        }
        // The next turn's words will be about as many.
        let next = Vec::with_capacity(self.out.len().min(OUT_BYTES_READY));
        let bytes = std::mem::replace(&mut self.out, next);
        Some(LinkAsk::Send(self.id, bytes))
    }

    /// Ends this life; whoever does it knows why.
    pub(super) fn close(&mut self, asks: &mut Vec<LinkAsk>) {
        if self.state != State::Down {
            self.end();
            asks.push(LinkAsk::Close(self.id));
        }
    }

    /// Whether nothing was heard for so long that the other side must be gone: in the login since
    /// it began, or while up since the oldest question; counted from `awake_ms` at the earliest.
    pub(super) fn is_silent(&self, now_ms: u64, awake_ms: u64, limit_ms: u64) -> bool {
        let since_ms = match self.state {
            State::Down | State::Connecting => None,
            State::LoggingIn => Some(self.since_ms),
            State::Up => self.asked_ms().map(|asked_ms| asked_ms.max(self.heard_ms)),
        };
        since_ms.is_some_and(|since_ms| since_ms.max(awake_ms) + limit_ms <= now_ms)
    }

    /// Something happened to the connection.
    pub(super) fn on_event(
        &mut self,
        now_ms: u64,
        event: LinkEvent,
        heard: &mut Vec<Heard<Q>>,
        asks: &mut Vec<LinkAsk>,
    ) {
        if event.id() != self.id || self.state == State::Down {
            return;
        }
        match event {
            LinkEvent::Connected(_) => {
                (self.state, self.since_ms) = (State::LoggingIn, now_ms);
                self.session.begin(&mut self.out);
            }
            LinkEvent::Bytes(_, mut bytes) => {
                self.heard_ms = now_ms;
                let mut inputs = std::mem::take(&mut self.inputs);
                let taken = self
                    .session
                    .on_bytes(&mut bytes, &mut self.out, &mut inputs);
                heard.reserve(inputs.len());
                for input in inputs.drain(..) {
                    if !self.on_input(now_ms, input, heard) {
                        asks.push(LinkAsk::Close(self.id));
                        return;
                    }
                }
                inputs.shrink_to(INPUTS_READY);
                self.inputs = inputs;
                if let Err(error) = taken {
                    self.end();
                    asks.push(LinkAsk::Close(self.id));
                    heard.push(broken(error.to_string()));
                }
            }
            LinkEvent::Broken(_, why) => {
                self.end();
                heard.push(broken(why));
            }
        }
    }

    /// Returns whether the connection goes on.
    fn on_input(&mut self, now_ms: u64, input: Input, heard: &mut Vec<Heard<Q>>) -> bool {
        match input {
            Input::Ready { version, role, .. } => {
                (self.state, self.since_ms) = (State::Up, now_ms);
                heard.push(Heard::Ready { version, role });
            }
            Input::Refused(refusal) => {
                self.end();
                heard.push(refused(refusal));
                return false;
            }
            // SUBSCRIBE has no reply but an error, and who pings is refused for the same.
            Input::Reply(Value::Error(refusal)) if self.kind == Kind::Subscriber => {
                self.end();
                heard.push(refused(refusal));
                return false;
            }
            Input::Reply(value) => match self.questions.pop_front() {
                Some((question, _)) => heard.push(Heard::Reply(question, value)),
                None => {
                    self.end();
                    let why = match value {
                        Value::Error(refusal) => refusal.explain(),
                        _ => "Redis answered what it was not asked".to_owned(),
                    };
                    heard.push(broken(why));
                    return false;
                }
            },
            Input::Message { channel, payload } => heard.push(Heard::Message(channel, payload)),
            Input::Subscribed(channel) => heard.push(Heard::Subscribed(channel)),
            // Nobody here asks for that; all that was to come by the channel is missing.
            Input::Unsubscribed(channel) => {
                self.end();
                let channel = String::from_utf8_lossy(&channel);
                heard.push(broken(format!(
                    "Redis has ended the subscription of {channel}"
                )));
                return false;
            }
        }
        true
    }

    fn end(&mut self) {
        self.state = State::Down;
        self.questions.clear();
        self.out.clear();
    }
}

/// Inputs for which there stays room at most.
const INPUTS_READY: usize = 4096;
/// Bytes for which there is room at the beginning of a turn, at most.
const OUT_BYTES_READY: usize = 64 * 1024;

fn refused<Q>(refusal: Refusal) -> Heard<Q> {
    Heard::Broken {
        why: refusal.explain(),
        refusal: Some(refusal),
    }
}

fn broken<Q>(why: String) -> Heard<Q> {
    Heard::Broken { why, refusal: None }
}
