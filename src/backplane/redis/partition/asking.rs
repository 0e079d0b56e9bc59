//! What is asked of Redis now and then: how far the partition and its rooms are, what the roster
//! wants, and that the stream be trimmed.

use super::Partition;
use super::replies::Question;
use crate::backplane::redis::roster::RosterAsk;
use crate::backplane::redis::script::{Script, push_trim};
use crate::backplane::{Moment, Origin};
use crate::model::limits::{OFFSETS_ASKED_MAX, POLL_MS, TRIM_ENTRIES_MAX, TRIM_MS};
use crate::resp::{Command, push_command};

impl<T: Origin> Partition<T> {
    /// Asks what is due, of a Redis that was greeted.
    pub(super) fn ask_what_is_due(&mut self, moment: &mut Moment<'_>) {
        let now_ms = moment.ms;
        if self.keep.poll_at_ms <= now_ms {
            self.keep.poll_at_ms = now_ms + POLL_MS;
            let state = self.names.state.as_bytes();
            let is_behind = std::mem::take(&mut self.keep.resubscribed);
            let behind = self.subscription.subscribed().filter(|_| is_behind);
            let out = self.commands.ask(now_ms, Question::Seen(behind));
            push_command(out, &[b"HMGET", state, b"epoch", b"seq", b"place"]);
            self.counters.commands += 1;
            if self.subscriber.is_up() && self.subscriber.unanswered() == 0 {
                push_command(self.subscriber.ask(now_ms, ()), &[b"PING"]);
            }
        }
        self.ask_offsets(now_ms);
        self.ask_floor(now_ms);
        self.ask_listed(now_ms);
        self.ask_stream(now_ms);
        if self.subscription.subscribed().is_some() {
            self.ask_roster_all(now_ms);
        }
        if self.keep.trim_at_ms <= now_ms
            && let Some(sha) = self.script(Script::Trim)
        {
            self.keep.trim_at_ms = now_ms + TRIM_MS;
            let (retention_ms, bytes) =
                (self.settings.retention_ms, self.settings.stream_bytes_max);
            let out = self.commands.ask(now_ms, Question::Trim);
            push_trim(
                out,
                &sha,
                &self.names,
                retention_ms,
                bytes,
                TRIM_ENTRIES_MAX,
            );
            self.counters.commands += 1;
        }
    }

    /// How far the rooms are that wait for it.
    fn ask_offsets(&mut self, now_ms: u64) {
        while !self.unasked.is_empty() {
            let count = self.unasked.len().min(OFFSETS_ASKED_MAX);
            let rooms: Vec<_> = self.unasked.drain(..count).collect();
            let fields: Vec<String> = rooms
                .iter()
                .map(|room| format!("o:{}", room.as_str()))
                .collect();
            self.offsets_asked += 1;
            let question = Question::Offsets(self.offsets_asked, rooms);
            let out = self.commands.ask(now_ms, question);
            let mut command = Command::new(out, 4 + fields.len());
            command.arg(b"HMGET").arg(self.names.state.as_bytes());
            command.arg(b"epoch").arg(b"seq");
            for field in &fields {
                command.arg(field.as_bytes());
            }
            self.counters.commands += 1;
        }
    }

    /// What the roster wants of Redis now.
    pub(super) fn ask_roster_all(&mut self, now_ms: u64) {
        while let Some(ask) = self.roster.poll_ask() {
            self.ask_roster(now_ms, ask);
        }
    }

    fn ask_roster(&mut self, now_ms: u64, ask: RosterAsk) {
        self.counters.commands += 1;
        let own = self.names.members(&self.settings.instance_id);
        let own = own.as_bytes();
        match ask {
            RosterAsk::Publish(message) => {
                let channel = self.names.control.as_bytes();
                let out = self.commands.ask(now_ms, Question::Ignored);
                push_command(out, &[b"PUBLISH", channel, &message]);
            }
            RosterAsk::Renew { lease_ms } => self.expire(now_ms, own, lease_ms),
            RosterAsk::Store {
                replace,
                changes,
                lease_ms,
            } => {
                if replace {
                    let out = self.commands.ask(now_ms, Question::Ignored);
                    push_command(out, &[b"DEL", own]);
                }
                let (mut gone, mut set) = (Vec::new(), Vec::new());
                for (field, value) in &changes {
                    match value {
                        Some(value) => set.extend([&field[..], &value[..]]),
                        None => gone.push(&field[..]),
                    }
                }
                for (name, args) in [(&b"HDEL"[..], gone), (b"HSET", set)] {
                    if !args.is_empty() {
                        let out = self.commands.ask(now_ms, Question::Ignored);
                        let args: Vec<_> = [name, own].into_iter().chain(args).collect();
                        push_command(out, &args);
                    }
                }
                self.expire(now_ms, own, lease_ms);
            }
            RosterAsk::Fetch { instance } => {
                let key = self.names.members(&instance);
                let key = key.as_bytes();
                let question = Question::SnapshotHead(instance.clone());
                push_command(self.commands.ask(now_ms, question), &[b"HGET", key, b""]);
                let question = Question::Snapshot(instance);
                push_command(self.commands.ask(now_ms, question), &[b"HGETALL", key]);
            }
        }
    }

    fn expire(&mut self, now_ms: u64, key: &[u8], lease_ms: u64) {
        let out = self.commands.ask(now_ms, Question::Ignored);
        let mut command = Command::new(out, 3);
        command.arg(b"PEXPIRE").arg(key).number(lease_ms);
    }
}
