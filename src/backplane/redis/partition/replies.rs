//! What was asked, and what the replies mean; what comes by the channels.
//!
//! A refusal is one of three: it ails the partition as a whole (no memory, no disk, no rights, a
//! replica), then the breaker opens and says why; the scripts are gone, then they are loaded again;
//! or it concerns the one question, which is asked again later.

use bytes::Bytes;

use super::Partition;
use super::replicas::Withheld;
use super::subscription::Subscribed;
use crate::backplane::redis::envelope::{self, Received};
use crate::backplane::redis::publisher;
use crate::backplane::redis::script::hello::{HelloReply, Made};
use crate::backplane::redis::script::publish::{PublishReply, Status};
use crate::backplane::redis::script::{Lease, ReplyError, Script, Trimmed};
use crate::backplane::redis::spool::ProducerId;
use crate::backplane::redis::stream_page::StreamPage;
use crate::backplane::redis::wire::Heard;
use crate::backplane::redis::{Item, Place};
use crate::backplane::{Ask, Moment, Origin, Outcome};
use crate::model::limits::HELLO_RETRY_MS;
use crate::model::{EntryId, Epoch, Name, RoomName};
use crate::resp::{Cause, Refusal, Value, push_command};

/// What was asked by the commands wire.
#[derive(Debug)]
pub(super) enum Question {
    /// To keep a script.
    Load(Script),
    /// Whether Redis throws keys away when it is full.
    Policy,
    /// The lease; `is_probe`: also whether Redis takes writes again, the first half of it.
    Lease {
        /// See above.
        is_probe: bool,
    },
    /// The second half: an entry that no stream takes, which is refused for just that if entries
    /// may be written at all.
    Probe,
    /// How many replicas have what was written; `is_probe`: the last part of the probe.
    Replicas {
        /// See above.
        is_probe: bool,
    },
    /// Whether what is known is still there.
    Hello {
        /// The subscription that it is asked behind.
        behind: Option<Subscribed>,
        /// Whether the order is in doubt.
        of_doubt: bool,
        /// Whether the epoch is to end, whatever is there.
        ends_epoch: bool,
    },
    /// To store a call's messages.
    Publish {
        /// Whose numbers they have.
        producer: ProducerId,
        /// The publisher's ticket.
        call: u64,
        /// How many messages.
        count: usize,
    },
    /// How far rooms are; the how many-th such question.
    Offsets(u64, Vec<RoomName>),
    /// How far the rooms of a list are.
    Listed(u64),
    /// How far the partition is; the first one asked behind a subscription: what is missing is
    /// missing for good.
    Seen(Option<Subscribed>),
    /// The stream's newest entry, once the partition was seen to be so far.
    Newest(Epoch, u64),
    /// A page of the stream, of so many entries, to mend a gap.
    Repair(usize),
    /// A page of the stream, for those who come back; whether it is read backwards.
    Recall(usize, bool),
    /// The groups that consume the stream, and what of theirs is pending: the floor.
    Groups,
    /// See [`Question::Groups`].
    Pendings,
    /// To trim the stream.
    Trim,
    /// The number that the members of an instance are of.
    SnapshotHead(Name),
    /// The members of an instance.
    Snapshot(Name),
    /// Something whose reply changes nothing.
    Ignored,
}

impl<T: Origin> Partition<T> {
    pub(super) fn on_commands(&mut self, moment: &mut Moment<'_>, heard: Heard<Question>) {
        match heard {
            Heard::Ready { role, version } => {
                let is_replica = role.as_deref() == Some("replica");
                // Another connection is made for as long as it is one.
                if self.keep.is_first_of(is_replica) {
                    self.asks.push(Ask::Warn(
                        "this Redis is a replica, which takes no writes: REDIS_URL must name the \
                         primary"
                            .into(),
                    ));
                }
                let _ = version;
                self.on_commands_ready(moment);
            }
            Heard::Reply(question, value) => self.on_reply(moment, question, value),
            Heard::Broken { why, refusal } => {
                if let Some(refusal) = refusal {
                    self.on_refusal(moment, &refusal);
                }
                self.on_commands_broken(moment, &why);
            }
            Heard::Message(..) | Heard::Subscribed(_) => {}
        }
    }

    pub(super) fn on_subscriber(&mut self, moment: &mut Moment<'_>, heard: Heard<()>) {
        match heard {
            Heard::Ready { .. } => self.on_subscriber_ready(moment),
            Heard::Subscribed(channel) => self.on_subscribed(moment, &channel),
            Heard::Message(channel, payload) if channel == self.names.control => {
                let mut events = Vec::new();
                self.roster.on_control(moment.ms, &payload, &mut events);
                self.on_roster(events);
            }
            Heard::Message(_, payload) => self.on_envelope(&payload),
            Heard::Reply(..) => {}
            Heard::Broken { why, refusal } => {
                if let Some(refusal) = refusal {
                    self.on_refusal(moment, &refusal);
                }
                self.on_subscriber_broken(moment, why);
            }
        }
    }

    fn on_envelope(&mut self, bytes: &Bytes) {
        match envelope::item(bytes) {
            Ok(Received::Item { item, .. }) => {
                let counts = self.subscription.on_item(item);
                self.on_live(counts);
            }
            Ok(Received::Passing { instance_id, .. })
                if instance_id == self.settings.instance_id => {}
            Ok(Received::Passing { room, json, .. }) => {
                self.outcomes.push(Outcome::Passing { room, json });
            }
            Err(_) => self.counters.unreadable += 1,
        }
    }

    /// These came by the channel, and count.
    fn on_live(&mut self, items: impl IntoIterator<Item = Item>) {
        let mut ordered = std::mem::take(&mut self.ordered);
        for item in items {
            if self.told.contradicts(item.place) {
                self.end_epoch_of(item.place);
            }
            self.order.on_live(item, &mut ordered);
        }
        self.on_ordered(ordered.drain(..));
        self.ordered = ordered;
    }

    /// What was asked behind the subscription is answered by whom we have greeted.
    fn prove(&mut self, behind: Option<Subscribed>) {
        let counts = self.subscription.on_answered(behind);
        self.on_live(counts);
    }

    fn on_reply(&mut self, moment: &mut Moment<'_>, question: Question, value: Value) {
        match question {
            Question::Load(script) => match value {
                Value::Text(sha) => self.keep.set_sha(script, sha),
                other => {
                    self.keep.load_again(moment.ms + HELLO_RETRY_MS);
                    self.on_odd(moment, other);
                }
            },
            Question::Policy => self.on_policy(&value),
            Question::Lease { is_probe } => self.on_lease(moment, is_probe, value),
            Question::Probe => self.on_probe(moment, value),
            Question::Replicas { is_probe } => self.on_replicas(moment, is_probe, value),
            Question::Hello {
                behind,
                of_doubt,
                ends_epoch,
            } => {
                self.on_hello(moment, behind, (of_doubt, ends_epoch), value);
            }
            Question::Publish {
                producer,
                call,
                count,
            } => self.on_published(moment, producer, call, count, value),
            Question::Offsets(number, rooms) => self.on_offsets(moment, number, rooms, value),
            Question::Listed(id) => self.on_listed(id, &value),
            Question::Seen(behind) => self.on_seen(moment, behind, value),
            Question::Newest(epoch, seq) => {
                if let Some(all) = entries(&value) {
                    // An empty stream was trimmed, or deleted: what is missing is lost.
                    let entry = all.first().map_or(EntryId::default(), |&(entry, _)| entry);
                    self.order.on_seen(moment.ms, epoch, seq, entry);
                }
            }
            Question::Repair(count) => match self.page(&value, count, false) {
                Some(page) => {
                    let mut ordered = Vec::new();
                    self.order.on_page(page, &mut ordered);
                    self.on_ordered(ordered);
                }
                None => {
                    self.order.on_read_failed(moment.ms);
                    self.on_odd(moment, value);
                }
            },
            Question::Recall(count, backwards) => match self.page(&value, count, backwards) {
                Some(page) => self.on_recall_page(&page),
                None => {
                    self.on_recall_failed();
                    self.on_odd(moment, value);
                }
            },
            // Without a stream, or a group, both are errors: there is no floor.
            Question::Groups => self.on_groups(&value),
            Question::Pendings => self.on_pendings(&value),
            Question::Trim => match Trimmed::decode(value) {
                Ok(_) => {}
                Err(error) => self.on_error(moment, &error),
            },
            Question::SnapshotHead(instance) => {
                let head = value.as_text().cloned();
                self.snapshot_heads.insert(instance, head);
            }
            Question::Snapshot(instance) => self.on_snapshot(moment, &instance, &value),
            Question::Ignored => {
                if let Value::Error(refusal) = value {
                    self.on_refusal(moment, &refusal);
                }
            }
        }
    }

    /// A reply that is none of those that belong here.
    fn on_odd(&mut self, moment: &mut Moment<'_>, value: Value) {
        if let Value::Error(refusal) = value {
            self.on_refusal(moment, &refusal);
        }
    }

    fn on_error(&mut self, moment: &mut Moment<'_>, error: &ReplyError) {
        match error {
            ReplyError::Refused(refusal) => self.on_refusal(moment, refusal),
            ReplyError::Partitions(_) => self.asks.push(Ask::End(error.to_string())),
            ReplyError::Malformed(_) => {
                let why = error.to_string();
                self.breaker
                    .on_refused(moment.ms, false, &why, moment.rng.f64());
            }
        }
    }

    pub(super) fn on_refusal(&mut self, moment: &mut Moment<'_>, refusal: &Refusal) {
        if refusal.cause == Cause::NoScript {
            self.load_scripts(moment.ms);
            return;
        }
        let (is_passing, why) = (refusal.cause.is_passing(), refusal.explain());
        self.breaker
            .on_refused(moment.ms, is_passing, &why, moment.rng.f64());
        if refusal.cause == Cause::ReadOnly && self.commands.is_up() {
            // Another may be the primary behind the same address; and if this one is made it again,
            // it has what that one had meanwhile.
            self.end_commands(moment, &why);
        }
    }

    fn on_policy(&mut self, value: &Value) {
        let policy = value.as_list().and_then(|list| list.get(1));
        let policy = policy.and_then(Value::as_text);
        if let Some(policy) = policy
            && &policy[..] != b"noeviction"
        {
            self.asks.push(Ask::Warn(format!(
                "this Redis has maxmemory-policy {}: when it is full it throws away what is \
                 stored; set it to noeviction",
                String::from_utf8_lossy(policy)
            )));
        }
    }

    fn on_lease(&mut self, moment: &mut Moment<'_>, is_probe: bool, value: Value) {
        match Lease::decode(value) {
            Ok(Lease::Held) => {
                self.breaker.on_answered();
                self.on_lease_held(moment.ms);
                if is_probe && self.keep.is_greeted() {
                    self.probe(moment.ms);
                }
            }
            Ok(Lease::Other { ttl_ms, .. }) => self.on_lease_other(moment.ms, ttl_ms),
            Err(error) => {
                self.on_lease_failed(moment.ms);
                self.on_error(moment, &error);
            }
        }
    }

    fn on_probe(&mut self, moment: &mut Moment<'_>, value: Value) {
        match value {
            Value::Error(refusal) if refusal.text.contains(super::keep::NO_ENTRY) => {
                if self.replicas.are_needed() {
                    self.ask_replicas(moment.ms, true);
                } else if self.keep.is_greeted() {
                    self.breaker.on_probe_ok();
                }
            }
            other => self.on_odd(moment, other),
        }
    }

    fn on_hello(
        &mut self,
        moment: &mut Moment<'_>,
        behind: Option<Subscribed>,
        (of_doubt, ends_epoch): (bool, bool),
        value: Value,
    ) {
        let reply = match HelloReply::decode(value) {
            Ok(reply) => reply,
            Err(error) => {
                self.greet_again(moment.ms + HELLO_RETRY_MS);
                self.on_error(moment, &error);
                return;
            }
        };
        self.saw_epoch(reply.epoch);
        if reply.made == Made::TooEarly {
            self.greet_again(moment.ms);
            return;
        }
        let is_before_doubt = self.order.is_in_doubt() && !of_doubt;
        let is_before_end = self.keep.ends_epoch.is_some() && !ends_epoch;
        if reply.made == Made::Kept && (is_before_doubt || is_before_end) {
            // It was asked before the doubt.
            self.greet_again(moment.ms);
            return;
        }
        let is_same = self.known().is_some_and(|(epoch, ..)| epoch == reply.epoch);
        if reply.made == Made::Kept && is_same && self.order.is_contradicted() {
            self.end_epoch(moment.ms, reply.epoch);
            return;
        }
        if reply.made == Made::New {
            let epoch = reply.epoch.as_str();
            self.asks.push(match self.known() {
                Some(_) => Ask::Warn(format!(
                    "Redis has lost what it had: epoch {epoch} begins, and members are told"
                )),
                None => Ask::Note(format!("Redis knows nothing yet: epoch {epoch} begins")),
            });
        }
        self.on_greeted();
        let mut ordered = Vec::new();
        if self.order.position().is_none() {
            let entry = reply.newest.unwrap_or_default();
            self.order
                .start(reply.epoch, reply.seq, entry, &mut ordered);
            self.log.reset(reply.epoch, reply.seq, entry);
        } else {
            let is_lost = reply.made == Made::New;
            self.order
                .on_greeted(reply.epoch, reply.seq, is_lost, &mut ordered);
            if of_doubt {
                // Now what was acked behind that.
                self.greet_again(moment.ms);
            }
        }
        self.on_ordered(ordered);
        self.prove(behind);
    }

    fn on_published(
        &mut self,
        moment: &mut Moment<'_>,
        producer: ProducerId,
        call: u64,
        count: usize,
        value: Value,
    ) {
        let mut reply = match PublishReply::decode(value, count) {
            Ok(reply) => reply,
            Err(error) => {
                self.on_error(moment, &error);
                self.settle_call(producer, call, publisher::Status::Error, &[]);
                return;
            }
        };
        let status = match &reply.status {
            Status::Done => publisher::Status::Ok,
            Status::Behind => publisher::Status::Behind,
            Status::Refused(_) => publisher::Status::Error,
        };
        match &reply.status {
            Status::Refused(refusal) => {
                self.on_refusal(moment, refusal);
                if !self.commands.is_up() {
                    // All of the call goes out again.
                    return;
                }
            }
            Status::Done | Status::Behind => self.breaker.on_answered(),
        }
        if let Some(warning) = reply.warning.take() {
            self.warn_once(&warning);
        }
        self.saw_epoch(reply.epoch);
        let stored = reply.results.iter().filter(|&&result| result > 0).count() as u64;
        let place = Place {
            epoch: reply.epoch,
            seq: reply.seq,
            entry: reply.entry.unwrap_or_default(),
        };
        self.on_stored(moment, reply.seq.saturating_sub(stored), place);
        let answered = Withheld::new(producer, call, status, reply);
        if self.replicas.are_needed() {
            self.replicas.withhold(answered);
        } else {
            self.release(answered);
        }
    }

    /// A call found so much, and its last message is stored there; or a poll did, and there is the
    /// last one. If that can't be, for what was delivered or acked before, Redis has lost that. Of
    /// what was acked it is certain, and is not asked: by then the last one acked is of the other
    /// line, and would be found.
    fn on_stored(&mut self, moment: &mut Moment<'_>, found: u64, place: Place) {
        self.order.on_stored(place);
        if self.keep.contradicts(found, place) {
            self.end_epoch(moment.ms, place.epoch);
        }
        if self.known().map(|(epoch, seq, _)| (epoch, seq)) < Some((place.epoch, place.seq)) {
            self.told.insert(place);
        }
    }

    /// What Redis has answered to a call counts.
    pub(super) fn release(&mut self, answered: Withheld) {
        let (epoch, seq, entry) = answered.place;
        self.on_acked(epoch, seq, entry);
        let Withheld {
            producer,
            call,
            status,
            results,
            ..
        } = answered;
        self.settle_call(producer, call, status, &results);
    }

    fn settle_call(
        &mut self,
        producer: ProducerId,
        call: u64,
        status: publisher::Status,
        results: &[i64],
    ) {
        let mut settled = Vec::new();
        let publisher = match &mut self.earlier {
            _ if producer == self.producer_id => &mut self.publisher,
            Some(earlier) if producer == earlier.producer => &mut earlier.publisher,
            _ => return,
        };
        publisher.on_reply(call, status, results, &mut settled);
        self.settle(settled);
        self.hand_over();
    }

    fn warn_once(&mut self, warning: &Refusal) {
        if self.warned.replace(warning.cause) != Some(warning.cause) {
            let why = warning.explain();
            self.asks.push(Ask::Warn(format!(
                "what was published is stored, but not told at once: {why}"
            )));
        }
    }

    fn on_seen(&mut self, moment: &mut Moment<'_>, behind: Option<Subscribed>, value: Value) {
        // Whatever it says: it is an answer.
        self.prove(behind);
        let Some((epoch, seq)) = state_of(&value) else {
            match value {
                Value::Error(refusal) => {
                    self.keep.ask_behind_again(behind.is_some());
                    self.on_refusal(moment, &refusal);
                }
                // The state is gone.
                _ => self.greet_again(moment.ms),
            }
            return;
        };
        self.saw_epoch(epoch);
        let entry = noted_entry(&value, epoch, seq);
        self.on_stored(moment, seq, Place { epoch, seq, entry });
        let (Some((known_epoch, known_seq, _)), Some(promised)) = (self.known(), self.promised())
        else {
            return;
        };
        let (seen, known) = ((epoch, seq), (known_epoch, known_seq));
        if seen < (promised.epoch, promised.seq) {
            // Redis has less than we have seen.
            self.greet_again(moment.ms);
        } else if behind.is_some() {
            self.order.on_resubscribed(epoch, seq);
        } else if seen > known {
            let stream = self.names.stream.as_bytes();
            let question = Question::Newest(epoch, seq);
            let out = self.commands.ask(moment.ms, question);
            push_command(out, &[b"XREVRANGE", stream, b"+", b"-", b"COUNT", b"1"]);
            self.counters.commands += 1;
        }
    }

    fn on_snapshot(&mut self, moment: &mut Moment<'_>, instance: &Name, value: &Value) {
        let head = self.snapshot_heads.remove(instance).flatten();
        let fields = value.as_list().map(|list| {
            let pairs = list.chunks_exact(2);
            let pairs = pairs.filter_map(|pair| Some((pair[0].as_text()?, pair[1].as_text()?)));
            let head = head.clone().map(|head| (Bytes::new(), head));
            let all = pairs.map(|(field, value)| (field.clone(), value.clone()));
            head.into_iter().chain(all).collect::<Vec<_>>()
        });
        let result = match (fields, head) {
            (None, _) => Err(()),
            (Some(_), None) => Ok(None),
            (fields, Some(_)) => Ok(fields),
        };
        let mut events = Vec::new();
        self.roster
            .on_snapshot(moment.ms, instance, result, &mut events);
        self.on_roster(events);
    }

    /// A page of the stream, of which `count` entries were asked for.
    fn page(&mut self, value: &Value, count: usize, backwards: bool) -> Option<StreamPage> {
        let mut all = entries(value)?;
        let end = all.len() < count;
        let reached = all.last().map(|&(id, _)| id);
        if backwards {
            all.reverse();
        }
        let mut items = Vec::with_capacity(all.len());
        for (id, fields) in all {
            match envelope::entry(id, &fields, self.encode) {
                Ok(Some(entry)) => items.push(entry.item),
                Ok(None) => {}
                Err(_) => self.counters.unreadable += 1,
            }
        }
        Some(StreamPage {
            items,
            reached,
            end,
        })
    }
}

/// Epoch and number of a partition's state, at the head of a reply.
pub(super) fn state_of(value: &Value) -> Option<(Epoch, u64)> {
    let list = value.as_list()?;
    let text = |at: usize| std::str::from_utf8(list.get(at)?.as_text()?).ok();
    Some((Epoch::parse(text(0)?)?, text(1)?.parse().ok()?))
}

/// The entry of the last one stored, as the state behind its epoch and number has it; 0-0 if it has
/// none, or of one before: who stored the last one does not know that it is to be noted.
fn noted_entry(value: &Value, epoch: Epoch, seq: u64) -> EntryId {
    let noted = value.as_list().and_then(|list| list.get(2)?.as_text());
    let noted = noted.and_then(|noted| std::str::from_utf8(noted).ok());
    let last = format!("{} {seq} ", epoch.as_str());
    let entry = noted.and_then(|noted| EntryId::parse(noted.strip_prefix(&last)?));
    entry.unwrap_or_default()
}

type Fields = Vec<(Bytes, Bytes)>;

/// The entries of a reply to XRANGE or XREVRANGE.
fn entries(value: &Value) -> Option<Vec<(EntryId, Fields)>> {
    let entry = |value: &Value| {
        let [id, fields] = value.as_list()? else {
            return None;
        };
        let id = EntryId::parse(std::str::from_utf8(id.as_text()?).ok()?)?;
        let pairs = fields.as_list()?.chunks_exact(2);
        let pair = |pair: &[Value]| Some((pair[0].as_text()?.clone(), pair[1].as_text()?.clone()));
        Some((id, pairs.filter_map(pair).collect()))
    };
    value.as_list()?.iter().map(entry).collect()
}
