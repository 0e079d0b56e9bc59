//! What of a connection's messages is taken, and which connections of an address are.
//!
//! A message over a limit is answered with `rate_limited`, is not taken, and lifts no bucket; a
//! ping over it is not answered. Who goes on at more than twice its rate is closed with 1008 when
//! seconds' worth of messages were refused. All that is a message counts: what can't be read, what
//! is of an unknown type, pings and pongs; only closes do not. `/echo` is for conformance suites,
//! and has no limits.
//!
//! A WebSocket over `--max-connections-per-address` is refused at the upgrade by 429, and so is a
//! stream of events: it is the client that is to hold back, and a proxy must not ask the next
//! instance in its place. What counts of HTTP beyond that is said in `http::limits`.
//!
//! The addresses' homes are told by mail, and nobody waits for them but who is to be let in.

use std::net::IpAddr;

use super::addresses::AddressKey;
use super::allowance::{Limit, Rates};
use super::connection::Phase;
use super::edge::{Taken, contained};
use super::event::{AddressMail, ConnId, Entrant};
use super::{Effect, Mail, Shard, ShardId};
use crate::hub::ConnIndex;
use crate::model::limits::{HISTORY_ANSWER_MS, RATE_WARN_MS};
use crate::model::{CloseCode, ErrorCode};
use crate::net::{Message, response};
use crate::protocol::command;

/// A message that is not taken.
pub(super) struct Refused {
    limit: Limit,
    bytes: usize,
}

impl Shard {
    /// Takes a message of a WebSocket, whose last part took `read` bytes of the wire, or does not.
    pub(super) fn take_message(
        &mut self,
        index: ConnIndex,
        message: &Message<'_>,
        read: usize,
    ) -> Result<(), Refused> {
        let rates = self.options.rates;
        let Some(conn) = self.conn_mut(index).filter(|_| rates.limit_messages()) else {
            return Ok(());
        };
        let payload_len = match message {
            Message::Close(_) => return Ok(()),
            Message::Text(text) => text.len(),
            Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
        };
        let bytes = conn.allowance.finish(read).max(payload_len);
        let (taken, place) = (conn.allowance.take(&rates, bytes), conn.place);
        taken.map_err(|limit| Refused { limit, bytes })?;
        if let Some(place) = place {
            let (is_taken, tell) = self.addresses.take(place, self.now.ms);
            self.tell_used(tell);
            if !is_taken {
                let limit = Limit::Address;
                return Err(Refused { limit, bytes });
            }
        }
        Ok(())
    }

    /// Takes what is worth so many messages of an address, or does not.
    pub(super) fn take_of_address(&mut self, address: IpAddr, messages: u32) -> bool {
        let (is_taken, tell) = self
            .addresses
            .take_of(address.into(), messages, self.now.ms);
        self.tell_used(tell);
        is_taken
    }

    /// Whether nothing more is taken of an address for now.
    pub(super) fn is_spent(&self, address: IpAddr) -> bool {
        self.addresses.is_spent(address.into(), self.now.ms)
    }

    /// Counts a message that is not taken; who is over the address's limit, is logged.
    pub(super) fn count_limited(&mut self, limit: Limit, address: IpAddr) {
        self.counters.limited[limit as usize] += 1;
        if limit == Limit::Address {
            self.warn_of_address(address);
        }
    }

    /// Tells who sent it, and ends the connection if that was enough.
    pub(super) fn refuse_message(
        &mut self,
        index: ConnIndex,
        message: Message<'_>,
        refused: Refused,
    ) -> Taken {
        let Refused { limit, bytes } = refused;
        let rates = self.options.rates;
        if let Some(address) = self.address(index) {
            self.count_limited(limit, address);
        }
        if let Message::Text(text) = message {
            let why = over(limit, &rates);
            // What it is does not matter, but its `ref` does.
            let Some(parsed) = contained(|| command::parse(text)) else {
                return Taken::Panicked;
            };
            let reference = match parsed {
                Ok(request) => request.reference,
                Err(refusal) => refusal.reference,
            };
            self.error(index, ErrorCode::RateLimited, &why, reference);
        }
        let is_enough = self
            .conn_mut(index)
            .is_some_and(|conn| conn.allowance.refuse(&rates, bytes));
        if is_enough {
            self.counters.limited_closed += 1;
            let why = "you went on far beyond the rate limit";
            self.close(index, CloseCode::POLICY, why);
        }
        Taken::Acted
    }

    /// Says now and then which address it is: it may be a proxy that nobody has named.
    fn warn_of_address(&mut self, address: IpAddr) {
        if self.now.ms >= self.warn_again_ms {
            self.warn_again_ms = self.now.ms + RATE_WARN_MS;
            self.effects.push(Effect::Limited(address));
        }
    }

    /// Lets somebody in if its address, which is that of its exchange from now on, may have one
    /// more open; the address's home is asked.
    pub(super) fn enter_address(&mut self, index: ConnIndex, entrant: Entrant) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        if let Some(exchange) = &conn.exchange {
            conn.address = exchange.address;
        }
        let key = AddressKey::from(conn.address);
        if self.options.rates.address_connections == 0 {
            return self.let_in(index, entrant);
        }
        let home = key.home(self.options.shards);
        if home == self.id {
            return match self.addresses.enter(key) {
                true => self.let_in(index, entrant),
                false => self.turn_address_away(index),
            };
        }
        let deadline_ms = self.now.ms + 2 * HISTORY_ANSWER_MS;
        if let Some(conn) = self.conn_mut(index) {
            conn.phase = Phase::Answering;
            conn.deadline_ms = deadline_ms;
            let conn = conn.id(index);
            let mail = AddressMail::Enter { key, conn, entrant };
            self.lanes.post(home, Mail::Address(mail));
        }
    }

    pub(super) fn on_address_mail(&mut self, from: ShardId, mail: AddressMail) {
        match mail {
            AddressMail::Used { key, messages } => {
                let level_ns = self.addresses.used(key, messages, self.now.ms);
                let mail = AddressMail::Level { key, level_ns };
                self.lanes.post(from, Mail::Address(mail));
            }
            AddressMail::Level { key, level_ns } => {
                let more = self.addresses.level(key, level_ns);
                self.tell_used(more.map(|messages| (key, messages)));
            }
            AddressMail::Enter { key, conn, entrant } => {
                let entrant = self.addresses.enter(key).then_some(entrant);
                let mail = AddressMail::Entered { key, conn, entrant };
                self.lanes.post(from, Mail::Address(mail));
            }
            AddressMail::Entered { key, conn, entrant } => self.on_entered(key, conn, entrant),
            AddressMail::Exit(key) => self.addresses.exit(key),
        }
    }

    fn let_in(&mut self, index: ConnIndex, entrant: Entrant) {
        match entrant {
            Entrant::Socket(opening) => self.open(index, *opening),
            Entrant::Stream(following) => self.follow(index, *following),
        }
    }

    /// The home has let somebody in, or not.
    fn on_entered(&mut self, key: AddressKey, conn: ConnId, entrant: Option<Entrant>) {
        let waiting = self.find_conn(conn);
        if waiting.as_ref().is_some_and(|conn| conn.peer_closed) {
            // It is read no more: what it asked for can't be.
            self.abort(conn.index);
        }
        let waiting = self
            .find_conn(conn)
            .filter(|conn| conn.phase == Phase::Answering);
        let is_there = waiting.is_some();
        // As where it comes in one piece with the head.
        let is_early = waiting.is_some_and(|conn| conn.stash.is_some())
            && matches!(entrant, Some(Entrant::Socket(_)));
        match entrant {
            Some(entrant) if is_there && !is_early && !self.draining => {
                self.let_in(conn.index, entrant);
            }
            Some(_) => {
                self.exit(key);
                let answer = match is_early {
                    true => (400, "bad_request", "wait for the answer before you send"),
                    false => (
                        503,
                        "unavailable",
                        "this instance is draining; connect again",
                    ),
                };
                if is_there {
                    let (status, code, why) = answer;
                    self.refuse(conn.index, response::error(status, code, why, &[]));
                }
            }
            None if is_there => self.turn_address_away(conn.index),
            None => {}
        }
    }

    fn turn_address_away(&mut self, index: ConnIndex) {
        self.counters.address_full += 1;
        let most = self.options.rates.address_connections;
        let why = format!("at most {most} connections from one address; close one of yours");
        let again = [("Retry-After", "1")];
        let answer = response::error(429, "rate_limited", &why, &again);
        self.refuse(index, answer);
    }

    /// It was let in: it counts for its address.
    pub(super) fn join_address(&mut self, index: ConnIndex) {
        if !self.options.rates.know_addresses() {
            return;
        }
        let Some(conn) = self.conn(index) else { return };
        let key = AddressKey::from(conn.address);
        let place = self.addresses.join(key);
        if let Some(conn) = self.conn_mut(index) {
            conn.place = Some(place);
        }
    }

    /// It is no more.
    pub(super) fn leave_address(&mut self, index: ConnIndex) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        let key = AddressKey::from(conn.address);
        let Some(place) = conn.place.take() else {
            return;
        };
        self.addresses.leave(place);
        if self.options.rates.address_connections > 0 {
            self.exit(key);
        }
    }

    fn exit(&mut self, key: AddressKey) {
        let home = key.home(self.options.shards);
        if home == self.id {
            self.addresses.exit(key);
        } else {
            self.lanes.post(home, Mail::Address(AddressMail::Exit(key)));
        }
    }

    fn tell_used(&mut self, used: Option<(AddressKey, u32)>) {
        if let Some((key, messages)) = used {
            let home = key.home(self.options.shards);
            let mail = AddressMail::Used { key, messages };
            self.lanes.post(home, Mail::Address(mail));
        }
    }

    /// Forgets addresses that are as new ones would be.
    pub(super) fn forget_addresses(&mut self) {
        for used in self.addresses.forget(self.now.ms) {
            self.tell_used(Some(used));
        }
    }
}

/// What is told to who is over a limit.
pub(super) fn over(limit: Limit, rates: &Rates) -> String {
    let at_most = match limit {
        Limit::Messages => format!("at most {} messages a second", rates.messages),
        Limit::Bytes => format!("at most {} bytes a second", rates.bytes),
        Limit::Address => format!(
            "at most {} messages a second from one address",
            rates.address_messages
        ),
    };
    format!("{at_most}; this one was not taken")
}
