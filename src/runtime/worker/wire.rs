//! One connection of a worker to Redis: its session, and whose reply comes next.
//!
//! Invariant: `asked` has the asks of this life without a reply, in order; nothing is asked unless
//! the session is ready, and events of an older life change nothing.

use std::collections::VecDeque;

use super::super::redis::{Links, OnEvent, Target};
use crate::backplane::link::{Link, LinkAsk, LinkEvent, LinkId};
use crate::resp::{Input, Kind, Login, Session, WireError};
use crate::worker::{Ask, Event, Side, Stream, decode, encode};

/// See the module.
pub(super) struct Wire {
    links: Links,
    id: LinkId,
    login: Login,
    session: Session,
    stream: Stream,
    asked: VecDeque<Ask>,
    is_open: bool,
}

impl Wire {
    /// One that is not connected.
    pub(super) fn new(target: Target, login: Login, stream: Stream, on_event: OnEvent) -> Self {
        Self {
            links: Links::new(target, on_event),
            id: LinkId {
                link: Link::Commands,
                life: 0,
            },
            session: Session::new(login.clone(), Kind::Commands),
            login,
            stream,
            asked: VecDeque::new(),
            is_open: false,
        }
    }

    /// Begins a new life.
    pub(super) fn connect(&mut self) {
        self.id.life = self.id.life.wrapping_add(1);
        self.session = Session::new(self.login.clone(), Kind::Commands);
        self.asked.clear();
        self.is_open = true;
        self.links.ask(LinkAsk::Connect(self.id));
    }

    /// Ends this life without a word.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.asked.clear();
        self.links.ask(LinkAsk::Close(self.id));
    }

    /// Asks; the reply is an event.
    pub(super) fn ask(&mut self, ask: Ask) {
        if !self.session.is_ready() {
            return;
        }
        let mut out = Vec::new();
        encode(&self.stream, &ask, &mut out);
        self.asked.push_back(ask);
        self.links.ask(LinkAsk::Send(self.id, out));
    }

    /// Something happened to the connection.
    pub(super) fn on_event(&mut self, side: Side, event: LinkEvent, events: &mut Vec<Event>) {
        if event.id() != self.id || !self.is_open {
            return;
        }
        let mut out = Vec::new();
        match event {
            LinkEvent::Connected(_) => self.session.begin(&mut out),
            LinkEvent::Bytes(_, mut bytes) => {
                let mut inputs = Vec::new();
                let taken = self.session.on_bytes(&mut bytes, &mut out, &mut inputs);
                for input in inputs {
                    if let Err(why) = self.on_input(side, input, events) {
                        return self.down(side, why, false, events);
                    }
                }
                if let Err(error) = taken {
                    let is_too_large = matches!(error, WireError::TooLarge { .. });
                    return self.down(side, error.to_string(), is_too_large, events);
                }
            }
            LinkEvent::Broken(_, why) => return self.down(side, why, false, events),
        }
        if !out.is_empty() {
            self.links.ask(LinkAsk::Send(self.id, out));
        }
    }

    fn on_input(
        &mut self,
        side: Side,
        input: Input,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        match input {
            Input::Ready { .. } => events.push(Event::RedisUp(side)),
            Input::Refused(refusal) => return Err(refusal.explain()),
            Input::Reply(value) => {
                let odd = || "Redis answered what it was not asked".to_owned();
                let ask = self.asked.pop_front().ok_or_else(odd)?;
                let reply = decode(&self.stream, &ask, &value);
                events.push(Event::Reply(ask, reply));
            }
            Input::Message { .. } | Input::Subscribed(_) | Input::Unsubscribed(_) => {}
        }
        Ok(())
    }

    fn down(&mut self, side: Side, why: String, is_too_large: bool, events: &mut Vec<Event>) {
        self.close();
        events.push(Event::RedisDown {
            side,
            why,
            is_too_large,
        });
    }
}
