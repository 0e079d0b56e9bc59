//! What a client does of its own accord.

use std::collections::HashSet;

use fastrand::Rng;

use super::{Client, Pending};
use crate::shard::tests::client::Phase;
use crate::shard::tests::cluster::oracle::{Attempt, Ledger};
use crate::shard::tests::frames;

impl Client {
    /// Does something; `others` are the ids of all clients.
    pub(in crate::shard::tests::cluster) fn act(
        &mut self,
        ledger: &mut Ledger,
        rng: &mut Rng,
        others: &[String],
        out: &mut Vec<u8>,
    ) {
        if self.phase != Phase::Open || self.id.is_empty() {
            return;
        }
        let mut room = format!("r{}", rng.usize(..ledger.setup.rooms));
        if ledger.setup.personal && rng.u32(..6) == 0 {
            let other = &others[rng.usize(..others.len())];
            if !other.is_empty() {
                room = format!("@{other}");
            }
        }
        let own = room.strip_prefix('@').is_none_or(|user| user == self.id);
        let frame = match rng.u32(..100) {
            0..25 if own => {
                let since = self.since(&room, rng);
                self.join(room, since, rng)
            }
            25..30 if own => {
                let body = format!(r#","room":"{room}""#);
                self.ask(Pending::Leave(room), "leave", &body)
            }
            30..34 => format!(r#"{{"type":"signal","room":"{room}","payload":1}}"#),
            34..37 if own => self.ask_members(room),
            37..39 => self.ask(Pending::Ping, "ping", ""),
            39..47 => match self.repeat(ledger, rng) {
                Some(frame) => frame,
                None => return,
            },
            47..50 => {
                for _ in 0..rng.u32(2..20) {
                    let frame = self.publish(&room, ledger, rng);
                    self.send(&frame, ledger, rng, out);
                }
                return;
            }
            _ => self.publish(&room, ledger, rng),
        };
        self.send(&frame, ledger, rng, out);
    }

    /// Closes in the proper way.
    pub(in crate::shard::tests::cluster) fn close(&mut self, rng: &mut Rng, out: &mut Vec<u8>) {
        if self.phase == Phase::Open {
            frames::push(out, rng, frames::CLOSE, &1000_u16.to_be_bytes());
            self.phase = Phase::Closing;
        }
    }

    pub(in crate::shard::tests::cluster) fn send(
        &self,
        frame: &str,
        ledger: &mut Ledger,
        rng: &mut Rng,
        out: &mut Vec<u8>,
    ) {
        if ledger.trace {
            eprintln!("-> {} at {} {frame}", self.number, ledger.now_ms);
        }
        frames::push(out, rng, frames::TEXT, frame.as_bytes());
    }

    fn ask(&mut self, pending: Pending, kind: &str, body: &str) -> String {
        self.refs += 1;
        self.pending.insert(self.refs, pending);
        format!(r#"{{"type":"{kind}"{body},"ref":{}}}"#, self.refs)
    }

    /// Asks who is in a room.
    pub(in crate::shard::tests::cluster) fn ask_members(&mut self, room: String) -> String {
        let body = format!(r#","room":"{room}""#);
        self.ask(Pending::Members(room), "members", &body)
    }

    /// Where it was, sometimes a little before.
    fn since(&self, room: &str, rng: &mut Rng) -> Option<(String, u64)> {
        let (epoch, offset) = self.last.get(room)?;
        let back = match rng.u32(..4) {
            0 => return None,
            1 => *offset,
            2 => rng.u64(0..=5).min(*offset),
            _ => 0,
        };
        Some((epoch.clone(), offset - back))
    }

    /// Joins a room, from there on.
    pub(in crate::shard::tests::cluster) fn join(
        &mut self,
        room: String,
        since: Option<(String, u64)>,
        rng: &mut Rng,
    ) -> String {
        self.joined_own |= room.starts_with('@');
        let mut body = format!(r#","room":"{room}""#);
        let presence = rng.u32(..3) == 0;
        if presence {
            body += r#","presence":true"#;
        }
        if rng.u32(..5) == 0 {
            body += r#","username":"other""#;
        }
        if let Some((epoch, offset)) = &since {
            body += &format!(r#","since":{{"epoch":"{epoch}","offset":{offset}}}"#);
        }
        let join = Pending::Join {
            room,
            since,
            presence,
        };
        self.ask(join, "join", &body)
    }

    fn publish(&mut self, room: &str, ledger: &mut Ledger, rng: &mut Rng) -> String {
        let id = rng.bool().then(|| {
            let bytes = rng.u128(..).to_be_bytes();
            uuid::Builder::from_random_bytes(bytes)
                .into_uuid()
                .to_string()
        });
        let serial = ledger.attempts.len();
        ledger.attempts.push(Attempt {
            client: self.number,
            life: self.life,
            room: room.into(),
            id,
            echo: rng.u32(..6) > 0,
            pad: rng.usize(0..=ledger.setup.payload_bytes),
            tries: 0,
            acked: HashSet::new(),
        });
        self.publish_attempt(serial, ledger, rng)
    }

    /// Sends one of its own again, which may have been answered or not.
    fn repeat(&mut self, ledger: &mut Ledger, rng: &mut Rng) -> Option<String> {
        let own = ledger.attempts.iter().enumerate();
        let own = own.filter(|(_, attempt)| {
            let is_mine = attempt.client == self.number && attempt.id.is_some();
            // On another connection it is another's `echo:false`.
            is_mine && (attempt.echo || attempt.life == self.life)
        });
        let own: Vec<_> = own.map(|(serial, _)| serial).collect();
        let serial = *own.get(rng.usize(..own.len().max(1)))?;
        Some(self.publish_attempt(serial, ledger, rng))
    }

    fn publish_attempt(&mut self, serial: usize, ledger: &mut Ledger, rng: &mut Rng) -> String {
        let attempt = &ledger.attempts[serial];
        let silent = attempt.id.is_some() && rng.u32(..8) == 0;
        let reference = (!silent && (rng.u32(..5) > 0 || !attempt.echo)).then(|| {
            self.refs += 1;
            self.pending.insert(self.refs, Pending::Publish(serial));
            self.refs
        });
        ledger.frame(serial, reference)
    }
}
