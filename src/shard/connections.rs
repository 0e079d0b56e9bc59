//! Connections come, close, and are gone: what of a shard knows of them, and forgets them again.
//!
//! ```text
//! on_accepted ─▶ … ─▶ close ─▶ begin_closing ─▶ the outbox is flushed ─▶ abort, or the peer's end
//!                  └─────────────── abort, remove: at once ─────────────▶
//! ```
//!
//! Invariant: whichever way it goes, it leaves its rooms, its user and its address once.

use std::hash::BuildHasher;

use super::connection::{Conn, Phase};
use super::{Arrival, Effect, Shard};
use crate::hub::ConnIndex;
use crate::model::limits::CLOSING_MS;
use crate::model::{ClientId, CloseCode};
use crate::net;

impl Shard {
    pub(super) fn on_accepted(&mut self, index: ConnIndex, arrival: Arrival) {
        let at = index as usize;
        if at >= self.conns.len() {
            self.conns.resize_with(at + 1, || None);
            self.generations.resize(at + 1, 0);
            self.plain.resize(at + 1, false);
        }
        debug_assert!(self.conns[at].is_none(), "the number is free");
        self.generations[at] = self.generations[at].wrapping_add(1);
        let id = ClientId::from_bits(self.rng.u128(..));
        let (now_ms, head_ms) = (self.now.ms, self.options.handshake_ms);
        let conn = Conn::new(self.generations[at], arrival, id, now_ms, head_ms);
        self.conns[at] = Some(Box::new(conn));
        self.counters.accepted += 1;
        self.counters.connections += 1;
    }

    pub(super) fn on_writable(&mut self, index: ConnIndex) {
        let now_ms = self.now.ms;
        let Some(conn) = self.conns.get_mut(index as usize).and_then(Option::as_mut) else {
            return;
        };
        conn.blocked = false;
        conn.progress_ms = now_ms;
        if !conn.queued {
            conn.queued = true;
            self.flush.push(index);
        }
        for membership in &conn.memberships {
            self.hub.mark_dirty(membership.room);
        }
    }

    /// Begins to close a WebSocket, or a stream of events: it leaves its rooms, gets a close frame
    /// if it is a WebSocket, and nothing more.
    pub(super) fn close(&mut self, index: ConnIndex, code: CloseCode, reason: &str) {
        let Some(conn) = self.conn(index) else { return };
        if conn.phase == Phase::Closing {
            return;
        }
        let is_socket = !matches!(conn.phase, Phase::Joining | Phase::Events);
        self.counters.count_close(code);
        self.leave_all(index);
        if is_socket && let Some(out) = self.out(index) {
            net::push_close(out, code, reason);
        }
        self.begin_closing(index);
    }

    /// What is in the outbox still goes out; what comes is thrown away; then the end.
    pub(super) fn begin_closing(&mut self, index: ConnIndex) {
        let deadline_ms = self.now.ms + CLOSING_MS;
        if let Some(conn) = self.conn_mut(index) {
            conn.phase = Phase::Closing;
            conn.deadline_ms = deadline_ms;
            conn.stash = None;
            conn.exchange = None;
            conn.decoder = net::Decoder::default();
            if std::mem::take(&mut conn.paused) {
                self.effects.push(Effect::ResumeRead(index));
            }
        }
        // Also when nothing is to be sent: the flush ends the sending direction.
        self.out(index);
    }

    /// Ends a connection at once.
    pub(super) fn abort(&mut self, index: ConnIndex) {
        if self.conn(index).is_some() {
            self.remove(index);
            self.effects.push(Effect::Close(index));
        }
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, index: ConnIndex) {
        let phase = self.conn(index).map(|conn| conn.phase);
        if let Some(Phase::Open | Phase::Echo | Phase::Leaving) = phase {
            self.counters.count_abnormal_close();
        }
        self.leave_all(index);
        if self
            .conns
            .get_mut(index as usize)
            .and_then(Option::take)
            .is_some()
        {
            self.counters.connections -= 1;
            self.plain[index as usize] = false;
            self.echoes.remove(&index);
        }
    }

    /// Takes the connection out of its rooms and out of the users.
    pub(super) fn leave_all(&mut self, index: ConnIndex) {
        let Some(conn) = self.conn_mut(index) else {
            return;
        };
        if !conn.phase.may_join() {
            return;
        }
        let memberships = std::mem::take(&mut conn.memberships);
        let user_id = conn.user_id.clone();
        self.leave_address(index);
        for membership in memberships {
            self.leave_room(&user_id, &membership);
        }
        let hash = self.hash_user(&user_id);
        if let Ok(entry) = self.users.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        self.counters.clients -= 1;
    }

    pub(super) fn hash_user(&self, user_id: &str) -> u64 {
        self.hasher.hash_one(user_id)
    }

    /// Notes an open connection under its user.
    pub(super) fn add_user(&mut self, index: ConnIndex) {
        let Some(conn) = self.conn(index) else { return };
        let hash = self.hash_user(&conn.user_id);
        let (conns, hasher) = (&self.conns, &self.hasher);
        self.users.insert_unique(hash, index, |&other| {
            let conn = conns.get(other as usize).and_then(Option::as_deref);
            hasher.hash_one(conn.map_or("", |conn| conn.user_id.as_str()))
        });
        self.counters.clients += 1;
    }
}
