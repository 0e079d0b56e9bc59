//! Time: deadlines, heartbeats, silent and blocked connections, lingering rooms, drain.
//!
//! No connection has a timer: each is looked at once in [`TICKS_A_ROUND`] ticks, within a second,
//! and at every tick while the shard drains.

use super::Shard;
use super::connection::Phase;
use crate::hub::ConnIndex;
use crate::model::CloseCode;
use crate::model::limits::{CLOSING_MS, NO_PROGRESS_MS, TICKS_A_ROUND};
use crate::net::encode::opcode;
use crate::net::push_frame;
use crate::protocol::event;

/// Connections for which a drain takes its whole window; fewer take their share of it.
const DRAIN_CONNECTIONS_FULL: u64 = 100;

impl Shard {
    pub(super) fn on_tick(&mut self) {
        let all = self.conns.len();
        let share = if self.draining {
            all
        } else {
            all.div_ceil(TICKS_A_ROUND)
        };
        for _ in 0..share {
            self.tick_at = if self.tick_at + 1 < all {
                self.tick_at + 1
            } else {
                0
            };
            self.look_at(self.tick_at as ConnIndex);
        }
        self.drop_lingering();
        self.forget_addresses();
        self.tell_left();
        self.read_late_pages();
        self.expire_histories();
        self.expire_listings();
        let (backplane, mut moment) = self.backplane();
        backplane.tick(&mut moment);
    }

    fn look_at(&mut self, index: ConnIndex) {
        let (now_ms, wall) = (self.now.ms, self.now.wall);
        let (heartbeat_ms, idle_ms) = (self.options.heartbeat_ms, self.options.idle_ms);
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        if conn.blocked && now_ms >= conn.progress_ms + NO_PROGRESS_MS {
            self.counters.slow_closed += 1;
            self.counters.count_close(CloseCode::SLOW_CONSUMER);
            self.leave_all(index);
            if let Some(conn) = self.conn_mut(index) {
                conn.phase = Phase::Closing;
            }
            self.abort(index);
            return;
        }
        match conn.phase {
            Phase::Head | Phase::Closing => {
                if now_ms >= conn.deadline_ms {
                    if let Some(stash) = conn.stash.take() {
                        let why = "it did not become a request in time";
                        let peer = conn.address;
                        self.note_noise(peer, why, &stash.0);
                    }
                    self.abort(index);
                }
            }
            Phase::Open | Phase::Events
                if conn.claims.as_ref().is_some_and(|its| wall >= its.expires) =>
            {
                self.close(index, CloseCode::UNAUTHORIZED, "the token has expired");
            }
            Phase::Events if now_ms >= conn.deadline_ms => {
                self.close(index, CloseCode::GOING_AWAY, "the server drains");
            }
            Phase::Events => {
                // Nothing is heard from it; this is when something was last said for sure.
                if now_ms - conn.heard_ms >= heartbeat_ms {
                    conn.heard_ms = now_ms;
                    self.beat(index);
                }
            }
            Phase::Body | Phase::Answering | Phase::Joining => {
                if now_ms >= conn.deadline_ms {
                    self.on_late(index);
                }
            }
            Phase::Leaving => {
                if conn.in_flight == 0 || now_ms >= conn.deadline_ms {
                    self.close(index, CloseCode::GOING_AWAY, "the server drains");
                }
            }
            Phase::Open | Phase::Echo if now_ms >= conn.deadline_ms => self.let_go(index),
            Phase::Open | Phase::Echo => {
                // Who is not listened to can't be heard.
                let silent_ms = if conn.paused {
                    0
                } else {
                    now_ms - conn.heard_ms
                };
                if silent_ms >= idle_ms {
                    self.close(
                        index,
                        CloseCode::POLICY,
                        "nothing was heard from you for too long",
                    );
                } else if silent_ms >= heartbeat_ms && !conn.pinged {
                    conn.pinged = true;
                    if let Some(out) = self.out(index) {
                        push_frame(out, opcode::PING, b"");
                    }
                }
            }
        }
    }

    pub(super) fn on_drain(&mut self, window_ms: u64) {
        if self.draining {
            return;
        }
        self.draining = true;
        let share = self.counters.connections.min(DRAIN_CONNECTIONS_FULL);
        let window_ms = window_ms * share / DRAIN_CONNECTIONS_FULL;
        for index in 0..self.conns.len() as ConnIndex {
            let wait_ms = self.rng.u64(0..=window_ms);
            let deadline_ms = self.now.ms + wait_ms;
            let Some(conn) = self.conn_mut(index) else {
                continue;
            };
            match conn.phase {
                Phase::Open => {
                    conn.deadline_ms = deadline_ms;
                    if let Some(out) = self.out(index) {
                        event::going_away(out, wait_ms);
                    }
                }
                Phase::Echo => self.close(index, CloseCode::GOING_AWAY, "the server drains"),
                // It waits for a request that need not come.
                Phase::Head if conn.is_reused && conn.stash.is_none() => self.begin_closing(index),
                Phase::Head | Phase::Body => conn.deadline_ms = conn.deadline_ms.min(deadline_ms),
                Phase::Events => conn.deadline_ms = deadline_ms,
                Phase::Answering | Phase::Joining | Phase::Leaving | Phase::Closing => {}
            }
        }
    }

    /// A connection's time has come: nothing more is taken from it, what was taken is answered.
    fn let_go(&mut self, index: ConnIndex) {
        let deadline_ms = self.now.ms + CLOSING_MS;
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        conn.phase = Phase::Leaving;
        conn.deadline_ms = deadline_ms;
        conn.stash = None;
        if conn.in_flight == 0 {
            self.close(index, CloseCode::GOING_AWAY, "the server drains");
        }
    }
}
