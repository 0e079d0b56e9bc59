//! What a client does of its own accord.

use fastrand::Rng;

use super::{Client, Pending, Phase};
use crate::shard::tests::frames;
use crate::shard::tests::oracle::{Attempt, Ledger};

impl Client {
    /// Does something; `others` are the ids of all clients.
    pub(in crate::shard::tests) fn act(
        &mut self,
        ledger: &mut Ledger,
        rng: &mut Rng,
        others: &[String],
        out: &mut Vec<u8>,
    ) {
        if self.phase != Phase::Open {
            return;
        }
        let setup = ledger.setup.clone();
        let mut room = format!("r{}", rng.usize(..setup.rooms));
        if setup.personal && rng.u32(..6) == 0 {
            let other = &others[rng.usize(..others.len())];
            if !other.is_empty() {
                room = format!("@{other}");
            }
        }
        let own = room.strip_prefix('@').is_none_or(|user| user == self.id);
        let frame = match rng.u32(..100) {
            0..18 if own => self.join(room, ledger, rng),
            18..24 if own => self.ask(
                Pending::Leave(room.clone()),
                "leave",
                &format!(r#","room":"{room}""#),
            ),
            24..28 => {
                let body = format!(r#","room":"{room}","payload":1"#);
                self.ask(Pending::Other("signal"), "signal", &body)
            }
            28..30 if own => self.ask(
                Pending::Other("members"),
                "members",
                &format!(r#","room":"{room}""#),
            ),
            30..33 => self.ask(Pending::Other("ping"), "ping", ""),
            33 => self.ask(Pending::Other("junk"), "junk", ""),
            34..37 => match self.repeat(ledger, rng) {
                Some(frame) => frame,
                None => return,
            },
            _ => {
                let burst = if setup.burst > 0 && rng.u32(..8) == 0 {
                    setup.burst
                } else {
                    1
                };
                for _ in 1..burst {
                    let frame = self.publish(&room, ledger, rng);
                    self.send(&frame, ledger, rng, out);
                }
                self.publish(&room, ledger, rng)
            }
        };
        self.send(&frame, ledger, rng, out);
    }

    /// Closes in the proper way.
    pub(in crate::shard::tests) fn close(&mut self, rng: &mut Rng, out: &mut Vec<u8>) {
        if self.phase == Phase::Open {
            frames::push(out, rng, frames::CLOSE, &1000_u16.to_be_bytes());
            self.phase = Phase::Closing;
        }
    }

    fn send(&self, frame: &str, ledger: &mut Ledger, rng: &mut Rng, out: &mut Vec<u8>) {
        ledger.clock += 1;
        if ledger.trace {
            eprintln!("-> {} at {} {frame}", self.number, ledger.clock);
        }
        match self.deflates && rng.bool() {
            true => frames::push_deflated(out, rng, frame.as_bytes()),
            false => frames::push(out, rng, frames::TEXT, frame.as_bytes()),
        }
    }

    fn ask(&mut self, pending: Pending, kind: &str, body: &str) -> String {
        self.refs += 1;
        let silent = matches!(pending, Pending::Other("signal"));
        if !silent {
            self.pending.insert(self.refs, pending);
            format!(r#"{{"type":"{kind}"{body},"ref":{}}}"#, self.refs)
        } else {
            format!(r#"{{"type":"{kind}"{body}}}"#)
        }
    }

    fn join(&mut self, room: String, ledger: &Ledger, rng: &mut Rng) -> String {
        self.joined_own |= room.starts_with('@');
        let mut body = format!(r#","room":"{room}""#);
        if rng.u32(..3) == 0 {
            body += r#","presence":true"#;
        }
        if rng.u32(..5) == 0 {
            body += r#","username":"other""#;
        }
        let mut since = None;
        if let Some((epoch, offset)) = self.last.get(&room)
            && rng.u32(..3) > 0
        {
            let back = rng.u64(0..=5).min(*offset);
            let offset = if rng.u32(..20) == 0 {
                offset + 1_000_000
            } else {
                offset - back
            };
            body += &format!(r#","since":{{"epoch":"{epoch}","offset":{offset}}}"#);
            since = Some((epoch.clone(), offset));
        }
        let acked = ledger.newest_acked.get(&room).copied().unwrap_or_default();
        self.ask(Pending::Join { room, since, acked }, "join", &body)
    }

    fn publish(&mut self, room: &str, ledger: &mut Ledger, rng: &mut Rng) -> String {
        let id = (rng.u32(..3) == 0).then(|| {
            uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes())
                .into_uuid()
                .to_string()
        });
        let echo = rng.u32(..6) > 0;
        let serial = ledger.attempts.len();
        ledger.attempts.push(Attempt {
            client: self.number,
            life: self.life,
            room: room.into(),
            id,
            echo,
            pad: rng.usize(0..=ledger.setup.payload_bytes),
            tries: 0,
            at: ledger.clock + 1,
            acked: None,
            refused: 0,
        });
        self.publish_attempt(serial, ledger, rng)
    }

    /// Sends one of its own again, which may have been answered or not.
    fn repeat(&mut self, ledger: &mut Ledger, rng: &mut Rng) -> Option<String> {
        let own = ledger.attempts.iter().enumerate();
        let own = own.filter(|(_, attempt)| attempt.client == self.number && attempt.id.is_some());
        let own: Vec<_> = own.map(|(serial, _)| serial).collect();
        let serial = *own.get(rng.usize(..own.len().max(1)))?;
        let attempt = &mut ledger.attempts[serial];
        if !attempt.echo {
            // On another connection it is another's `echo:false`.
            attempt.life = attempt.life.min(self.life);
            if attempt.life != self.life {
                return None;
            }
        }
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
