//! Which requests count for the limits of their client, and what is said to those over one.
//!
//! | request | counts as |
//! |---|---|
//! | a publish | a message of its body's bytes; for its address as many as these are worth |
//! | what else is asked of a room or a user, a list of rooms | a message: it may cost a query |
//! | a stream of events | that message to begin it, and a connection of its address (`limited`) |
//! | what is refused by 401 or 403 | a message: guessing has a bound |
//!
//! What is over a limit is answered with 429 and not done. From an address that is over its limit
//! no token and no key is looked at. Pages, health and metrics count for nothing.
//!
//! A connection's own limits hold where the connection is the client's. Through a proxy that is
//! trusted it is everybody's, and each request counts for its own client's address alone.

use std::net::IpAddr;

use super::routes::Route;
use crate::hub::ConnIndex;
use crate::model::ErrorCode;
use crate::net::{Response, response};
use crate::shard::Shard;
use crate::shard::allowance::{Limit, Rates};
use crate::shard::limited;

/// A request that is over a limit.
pub(super) struct Over {
    /// The answer to it.
    pub(super) answer: Response,
    /// Whether its connection is to end: it went on far beyond the limit.
    pub(super) is_enough: bool,
}

impl Route {
    /// Whether it counts as a message by its head.
    fn is_message(&self) -> bool {
        matches!(
            self,
            Self::History(..)
                | Self::Members(_)
                | Self::Rooms(..)
                | Self::Events(_)
                | Self::Kick(_)
        )
    }
}

impl Shard {
    /// Takes what a head leads to, or turns it into a refusal. The second: whether its connection
    /// is to end.
    pub(super) fn take_head(
        &mut self,
        index: ConnIndex,
        client: IpAddr,
        route: Route,
    ) -> (Route, bool) {
        let over = match route {
            Route::Refuse(answer) => self.count_refusal(index, client, answer),
            route if route.is_message() => match self.take_request(index, client, 0) {
                Ok(()) => return (route, false),
                Err(over) => over,
            },
            route => return (route, false),
        };
        (Route::Refuse(over.answer), over.is_enough)
    }

    /// Takes a request of so many bytes, or says why not.
    pub(super) fn take_request(
        &mut self,
        index: ConnIndex,
        client: IpAddr,
        bytes: usize,
    ) -> Result<(), Over> {
        let (rates, now_ms) = (self.options.rates, self.now.ms);
        let Some(conn) = self.conn_mut(index).filter(|_| rates.limit_messages()) else {
            return Ok(());
        };
        conn.allowance.refill(now_ms);
        if conn.address == client
            && let Err(limit) = conn.allowance.take(&rates, bytes)
        {
            return Err(self.limit_request(index, client, limit, bytes));
        }
        match self.take_of_address(client, rates.worth(bytes)) {
            true => Ok(()),
            false => Err(self.limit_request(index, client, Limit::Address, bytes)),
        }
    }

    /// Counts a request that is refused; if that is too much, another answer takes its place.
    fn count_refusal(&mut self, index: ConnIndex, client: IpAddr, answer: Response) -> Over {
        let is_enough = false;
        match answer.status() {
            401 | 403 => match self.take_request(index, client, 0) {
                Ok(()) => Over { answer, is_enough },
                Err(over) => over,
            },
            429 => self.limit_request(index, client, Limit::Address, 0),
            _ => Over { answer, is_enough },
        }
    }

    fn limit_request(
        &mut self,
        index: ConnIndex,
        client: IpAddr,
        limit: Limit,
        bytes: usize,
    ) -> Over {
        let rates = self.options.rates;
        self.count_limited(limit, client);
        self.counters.count_error(ErrorCode::RateLimited);
        let conn = self.conn_mut(index);
        let is_enough =
            conn.is_some_and(|conn| conn.address == client && conn.allowance.refuse(&rates, bytes));
        self.counters.limited_closed += u64::from(is_enough);
        Over {
            answer: over(limit, &rates),
            is_enough,
        }
    }
}

/// The answer to who shows a token or a key, and whose address is over its limit.
pub(in crate::shard) fn over_address(rates: &Rates) -> Response {
    over(Limit::Address, rates)
}

fn over(limit: Limit, rates: &Rates) -> Response {
    let why = limited::over(limit, rates);
    let again = [("Retry-After", "1")];
    response::error(429, ErrorCode::RateLimited.as_str(), &why, &again)
}
