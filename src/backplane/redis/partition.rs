//! One partition's backplane: what the pure pieces decide, joined to two wires.
//!
//! ```text
//!            publish ─▶ publisher ─┐                 ┌─▶ settled: Stored, Refused
//!   rooms: open, read ─▶ questions ┼─▶ commands wire ┼─▶ pages, offsets, hello, lease
//!          roster, signals ────────┘                 └─▶ breaker: Degraded
//!   subscriber wire ─▶ envelope ─▶ order ─▶ ready ─drive─▶ Deliver, Epoch, Lost, Opened
//! ```
//!
//! | file | what |
//! |---|---|
//! | `partition/arrivals` | when what was published here came |
//! | `partition/asking` | what is asked of Redis now and then |
//! | `partition/away` | the breaker, the spool, and what is told of them |
//! | `partition/past` | PostgreSQL and stream, joined |
//! | `partition/keep` | connecting, login, hello, lease: all that time drives |
//! | `partition/listing` | the rooms of a list |
//! | `partition/replicas` | acks that wait for replicas |
//! | `partition/replies` | questions, and what their replies mean |
//! | `partition/rooms` | rooms that are followed: opening, order, losses, the past |
//! | `partition/skips` | who does not get its own message |
//! | `partition/subscription` | whether what the channel brings counts |
//! | `partition/told` | places whose items are not passed on yet |
//!
//! What stands in the order waits in `ready` until [`Partition::drive`] lets it out, so that a
//! shard that is pressed is not given more than its logs can hold; while too much is ready the
//! subscriber is not read.
//!
//! Invariants: an outcome in `ready` is of the order; `rooms` has each room that the shard follows;
//! `position` of an open room is that of the last `Deliver` put into `ready`.

mod arrivals;
mod asking;
mod away;
mod keep;
mod listing;
mod past;
mod replicas;
mod replies;
mod rooms;
mod skips;
mod subscription;
mod told;

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;

use self::arrivals::Arrivals;
use self::replicas::Replicas;
use self::replies::Question;
use self::rooms::Followed;
use self::skips::Skips;
use self::subscription::Subscription;
use self::told::Told;
use super::breaker::{Breaker, State};
use super::names::Names;
use super::order::{Order, Ordered};
use super::partition_log::PartitionLog;
use super::publisher::{Outgoing, Publisher, Settled, Taken};
use super::recall::Recall;
use super::roster::{Roster, RosterEvent, RosterOptions};
use super::script::Script;
use super::script::publish::Caller;
use super::spool::{ProducerId, SpoolState};
use super::wire::{Heard, Wire};
use crate::backplane::link::{Link, LinkEvent};
use crate::backplane::{Ask, Encode, Moment, Origin, Outcome, Preview, Publish, Users, give};
use crate::model::limits::PASSING_BYTES_MAX;
use crate::model::{EntryId, Epoch, ErrorCode, Name, RoomName};
use crate::resp::{Cause, Login, push_command};

/// How a partition's backplane is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// First part of every name in Redis.
    pub prefix: String,
    /// Which partition this is.
    pub partition: u16,
    /// Of how many.
    pub partitions: u16,
    /// This instance.
    pub instance_id: Name,
    /// This run of it, or of its data directory: who holds the lease of the INSTANCE_ID.
    pub nonce: String,
    /// As whom to log in.
    pub login: Login,
    /// How long ids of clients are remembered, in ms.
    pub dedupe_ms: u64,
    /// What stays in the stream at least, in ms, and at most, in bytes, where nothing consumes it.
    pub retention_ms: u64,
    /// See `retention_ms`.
    pub stream_bytes_max: u64,
    /// Bytes of what is held while Redis is away.
    pub spool_bytes_max: u64,
    /// Acks wait until so many replicas have what they ack.
    pub ack_replicas: u32,
    /// Whether there is a PostgreSQL that a worker stores in.
    pub has_store: bool,
    /// Bytes of the recent items that are kept.
    pub log_bytes_max: usize,
    /// Bytes of deliveries handed to the shard in one turn.
    pub turn_bytes_max: usize,
    /// Bytes of deliveries that wait for the shard, beyond which the subscriber is not
    /// read.
    pub ready_bytes_max: usize,
}

/// Whose a publish is, to the publisher.
#[derive(Clone, Debug)]
struct Whose<T> {
    origin: T,
    /// Its place is taken by its ack.
    is_skipped: bool,
    /// [`Outcome::Held`] was told.
    is_held: bool,
}

/// See the module. `T` is what a publish is found by.
#[derive(Debug)]
pub struct Partition<T> {
    settings: Settings,
    names: Names,
    encode: Encode,
    caller: Caller,
    /// This run of the instance as a producer.
    producer_id: ProducerId,
    commands: Wire<Question>,
    subscriber: Wire<()>,
    keep: keep::Keep,
    subscription: Subscription,
    told: Told,
    breaker: Breaker,
    publisher: Publisher<Whose<T>>,
    replicas: Replicas,
    /// Of what an earlier run left in the spool, while that is handed over.
    earlier: Option<away::Earlier<T>>,
    spool: SpoolState,
    /// Whether it was told that Redis is away.
    degraded: bool,
    order: Order,
    log: PartitionLog,
    recall: Recall,
    past: past::Past,
    listing: listing::Listing,
    roster: Roster,
    rooms: HashMap<RoomName, Followed>,
    /// Rooms whose offsets are to be asked for.
    unasked: Vec<RoomName>,
    /// How many questions for them have been asked.
    offsets_asked: u64,
    skips: Skips<T>,
    arrivals: Arrivals,
    /// Rooms whose last offset counts once the order has come as far.
    reaching: Vec<RoomName>,
    snapshot_heads: HashMap<Name, Option<Bytes>>,
    /// What was warned of last.
    warned: Option<Cause>,
    ready: VecDeque<(usize, Outcome<T>)>,
    ready_bytes: usize,
    outcomes: Vec<Outcome<T>>,
    asks: Vec<Ask>,
    /// Empty; their room is used again for each read, and for each envelope.
    answers: Vec<Heard<Question>>,
    messages: Vec<Heard<()>>,
    ordered: Vec<Ordered>,
    counters: PartitionCounters,
}

/// What a partition counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PartitionCounters {
    commands: u64,
    /// Envelopes and entries that could not be read.
    unreadable: u64,
    connects: u64,
    epochs: u64,
}

/// How it stands with partitions; the numbers of several may be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Partitions at home here.
    pub partitions: u64,
    /// Of these, whose Redis takes what is published at once.
    pub up: u64,
    /// Of these, whose breaker is open, or half-open.
    pub breakers_open: u64,
    /// Of these, whose breaker is half-open: one probe is under way.
    pub breakers_half_open: u64,
    /// Commands sent.
    pub commands: u64,
    /// Commands that have no reply yet.
    pub pipeline: u64,
    /// Connections made.
    pub connects: u64,
    /// Gaps in what the channel brought.
    pub gaps_seen: u64,
    /// Of these, mended from the stream.
    pub gaps_mended: u64,
    /// Items that the stream did not have any more.
    pub items_lost: u64,
    /// Epochs that were seen to begin.
    pub epochs: u64,
    /// Envelopes and entries that could not be read.
    pub unreadable: u64,
    /// Messages held in the spool.
    pub spool_entries: u64,
    /// Their bytes.
    pub spool_bytes: u64,
    /// Partitions that take no publish: Redis is away, and the spool is full or fails.
    pub refusing: u64,
    /// Other instances that are known.
    pub instances: u64,
}

impl<T: Origin> Partition<T> {
    /// A partition that is not connected yet. `random`: what makes this run unlike any other.
    pub fn new(settings: Settings, encode: Encode, random: u128) -> Self {
        let names = Names::new(&settings.prefix, settings.partition, settings.partitions);
        let instance = settings.instance_id.as_str();
        let caller = Caller::new(names.clone(), instance, settings.dedupe_ms, encode);
        let seed = random as u64;
        let users_max = RosterOptions::default().users_max;
        let roster = RosterOptions { users_max, seed };
        let nonce = (random >> 64) as u64;
        let producer_id = random.to_be_bytes();
        let spool = SpoolState::new(producer_id, settings.spool_bytes_max);
        let mut publisher = match settings.ack_replicas {
            0 => Publisher::new(),
            _ => Publisher::withholding(),
        };
        // Until it is known what an earlier run left.
        publisher.take_for_spool();
        Self {
            names,
            encode,
            caller,
            producer_id,
            commands: Wire::new(Link::Commands, settings.login.clone()),
            subscriber: Wire::new(Link::Subscriber, settings.login.clone()),
            keep: keep::Keep::new(seed),
            subscription: Subscription::default(),
            told: Told::default(),
            breaker: Breaker::new(0),
            publisher,
            replicas: Replicas::new(settings.ack_replicas),
            earlier: None,
            spool,
            degraded: false,
            order: Order::new(),
            log: PartitionLog::new(settings.log_bytes_max),
            recall: Recall::new(),
            past: past::Past::new(settings.has_store),
            listing: listing::Listing::default(),
            roster: Roster::new(settings.instance_id.clone(), nonce, &roster),
            rooms: HashMap::new(),
            unasked: Vec::new(),
            offsets_asked: 0,
            skips: Skips::default(),
            arrivals: Arrivals::default(),
            reaching: Vec::new(),
            snapshot_heads: HashMap::new(),
            warned: None,
            ready: VecDeque::new(),
            ready_bytes: 0,
            outcomes: Vec::new(),
            asks: Vec::new(),
            answers: Vec::new(),
            messages: Vec::new(),
            ordered: Vec::new(),
            counters: PartitionCounters::default(),
            settings,
        }
    }

    pub(in crate::backplane) fn publish(
        &mut self,
        moment: &mut Moment<'_>,
        publish: Publish,
        origin: T,
    ) {
        let outgoing = Outgoing {
            number: 0,
            id: publish.id.unwrap_or_else(|| moment.new_id()),
            client_given: publish.id.is_some(),
            room: publish.room,
            user_id: publish.user_id,
            username: publish.username,
            payload: publish.payload,
            metadata: publish.metadata,
            sent_at: moment.wall,
        };
        if self.degraded
            && let Err(why) = self.spool.admits(moment.ms)
        {
            let (room, code) = (outgoing.room, ErrorCode::Unavailable);
            self.outcomes.push(Outcome::Refused {
                room,
                code,
                why,
                origin,
            });
            return;
        }
        let held = self.degraded.then(|| preview(&outgoing));
        let (id, arrived_us) = (outgoing.id, publish.arrived_us);
        let mut whose = Whose {
            origin: origin.clone(),
            is_skipped: !publish.echo,
            is_held: held.is_some(),
        };
        if whose.is_held {
            whose.origin.hold();
        }
        if self.publisher.publish(outgoing, whose) == Taken::Queued {
            self.arrivals.insert(id, arrived_us);
            if !publish.echo {
                self.skips.insert(id, origin.clone());
            }
        }
        if let Some(preview) = held {
            self.outcomes.push(Outcome::Held { preview, origin });
        }
    }

    /// What has become of publishes.
    fn settle(&mut self, settled: Vec<Settled<Whose<T>>>) {
        for settled in settled {
            let outcome = match settled {
                Settled::Stored {
                    origin,
                    room,
                    id,
                    offset,
                } => Outcome::Stored {
                    room,
                    id,
                    offset,
                    is_repeat: false,
                    origin: origin.origin,
                },
                Settled::Repeated {
                    origin,
                    room,
                    id,
                    offset,
                } => {
                    if origin.is_skipped {
                        self.skips.take(&id);
                    }
                    Outcome::Stored {
                        room,
                        id,
                        offset,
                        is_repeat: true,
                        origin: origin.origin,
                    }
                }
                Settled::Unknown { origin, room, .. } => Outcome::Refused {
                    room,
                    code: ErrorCode::Unavailable,
                    why: "it is not known whether Redis stored it; publish it again with the \
                          same id"
                        .into(),
                    origin: origin.origin,
                },
            };
            self.outcomes.push(outcome);
        }
    }

    /// Passes a frame on to the other instances, if that costs nothing else.
    pub(in crate::backplane) fn pass(&mut self, now_ms: u64, json: &[u8]) {
        if !self.can_publish() || self.commands.waiting_bytes() > PASSING_BYTES_MAX {
            return;
        }
        let mut envelope = self.keep.envelope_head(&self.settings.instance_id);
        envelope.extend_from_slice(json);
        envelope.push(b'}');
        let channel = self.names.broadcast.as_bytes();
        let out = self.commands.ask(now_ms, Question::Ignored);
        push_command(out, &[b"PUBLISH", channel, &envelope]);
        self.counters.commands += 1;
    }

    pub(in crate::backplane) fn user_joined(
        &mut self,
        ms: u64,
        room: &RoomName,
        id: &Name,
        name: Option<&Name>,
    ) {
        self.roster.local_join(ms, room, id, name);
    }

    pub(in crate::backplane) fn user_left(&mut self, ms: u64, room: &RoomName, id: &Name) {
        self.roster.local_leave(ms, room, id);
    }

    pub(in crate::backplane) fn users_elsewhere<'a>(&'a self, room: &'a RoomName) -> Users<'a> {
        Box::new(self.roster.users_of(room.as_str()))
    }

    /// The epoch in which Redis has last stored something of this instance's.
    pub(in crate::backplane) fn epoch(&self) -> Option<Epoch> {
        self.keep.epoch()
    }

    pub(in crate::backplane) fn instances_of(&self, room: &RoomName, user_id: &Name) -> u32 {
        self.roster.instances_of(room.as_str(), user_id)
    }

    pub(in crate::backplane) fn is_elsewhere(&self, room: &RoomName, user_id: &Name) -> bool {
        self.roster.has_user(room.as_str(), user_id)
    }

    pub(in crate::backplane) fn kick(&mut self, user_id: &Name) {
        self.roster.kick(user_id);
    }

    /// Tells the others that this instance ends, if Redis is there.
    pub(in crate::backplane) fn bye(&mut self, now_ms: u64) {
        self.roster.bye();
        if self.can_publish() {
            self.ask_roster_all(now_ms);
            self.flush();
        }
    }

    fn on_roster(&mut self, events: Vec<RosterEvent>) {
        for event in events {
            let outcome = match event {
                RosterEvent::Joined {
                    room,
                    user_id,
                    username,
                } => Outcome::Presence {
                    room,
                    user_id,
                    username,
                    is_join: true,
                },
                RosterEvent::Left {
                    room,
                    user_id,
                    username,
                } => Outcome::Presence {
                    room,
                    user_id,
                    username,
                    is_join: false,
                },
                RosterEvent::Kick { user_id } => Outcome::Kick(user_id),
                RosterEvent::Full { users_max } => {
                    self.asks.push(Ask::Warn(format!(
                        "the other instances have more than {users_max} users; presence does not \
                         show the rest"
                    )));
                    continue;
                }
            };
            self.outcomes.push(outcome);
        }
    }

    /// Lets out what stands in the order, as much as a turn takes, and sends what was published.
    pub(in crate::backplane) fn drive(&mut self, moment: &mut Moment<'_>) {
        let mut bytes = 0;
        while bytes < self.settings.turn_bytes_max
            && let Some((size, outcome)) = self.ready.pop_front()
        {
            bytes += size;
            self.ready_bytes -= size;
            self.outcomes.push(outcome);
        }
        self.hand_over();
        self.feed_spool(moment.ms);
        self.send_publishes(moment);
        self.flush();
    }

    /// Whether [`Partition::drive`] has something to let out or to send.
    pub(in crate::backplane) fn is_waiting(&self) -> bool {
        !self.ready.is_empty() || (self.has_call() && self.can_publish())
    }

    /// Whether something is published that no call has taken yet.
    fn has_call(&self) -> bool {
        let earlier = self.earlier.as_ref();
        self.publisher.has_call() || earlier.is_some_and(|earlier| earlier.publisher.has_call())
    }

    /// Whether the subscriber is to be read.
    pub(in crate::backplane) fn wants_link(&self, link: Link) -> bool {
        link == Link::Commands || self.has_room()
    }

    /// What came before a wire's end, and is heard behind it, counts no more: it may lead to
    /// questions, and there is nobody to ask. All of it is asked for, or read, again.
    pub(in crate::backplane) fn on_link(&mut self, moment: &mut Moment<'_>, event: LinkEvent) {
        let mut links = Vec::new();
        match event.id().link {
            Link::Commands => {
                let mut heard = std::mem::take(&mut self.answers);
                self.commands
                    .on_event(moment.ms, event, &mut heard, &mut links);
                for heard in heard.drain(..) {
                    if self.commands.is_up() || matches!(heard, Heard::Broken { .. }) {
                        self.on_commands(moment, heard);
                    }
                }
                heard.shrink_to(HEARD_READY);
                self.answers = heard;
            }
            Link::Subscriber => {
                let mut heard = std::mem::take(&mut self.messages);
                self.subscriber
                    .on_event(moment.ms, event, &mut heard, &mut links);
                for heard in heard.drain(..) {
                    if self.subscriber.is_up() || matches!(heard, Heard::Broken { .. }) {
                        self.on_subscriber(moment, heard);
                    }
                }
                heard.shrink_to(HEARD_READY);
                self.messages = heard;
            }
        }
        self.asks.extend(links.into_iter().map(Ask::Link));
        self.keep_up(moment);
        self.flush();
    }

    pub(in crate::backplane) fn tick(&mut self, moment: &mut Moment<'_>) {
        self.on_tick(moment.ms);
        let mut settled = Vec::new();
        self.publisher
            .expire(moment.ms, self.is_behind(), &mut settled);
        self.settle(settled);
        let mut events = Vec::new();
        self.roster.tick(moment.ms, &mut events);
        self.on_roster(events);
        self.keep_up(moment);
        if !self.degraded {
            // What is held may be seen much later.
            self.arrivals.tick(moment.ms);
        }
        if !self.is_behind() {
            self.skips.tick(moment.ms, self.publisher.waiting_ids());
        }
        self.ask_replicas_again(moment.ms);
        self.feed_spool(moment.ms);
        self.flush();
    }

    pub(in crate::backplane) fn poll(
        &mut self,
        outcomes: &mut Vec<Outcome<T>>,
        asks: &mut Vec<Ask>,
    ) {
        self.go_on_with_resumes();
        give(&mut self.outcomes, outcomes);
        give(&mut self.asks, asks);
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        let gaps = self.order.gaps();
        Report {
            partitions: 1,
            up: (!self.degraded && self.keep.is_greeted()).into(),
            breakers_open: (!self.breaker.is_closed()).into(),
            breakers_half_open: (self.breaker.state() == State::HalfOpen).into(),
            commands: self.counters.commands,
            pipeline: self.commands.unanswered() as u64,
            connects: self.counters.connects,
            gaps_seen: gaps.seen,
            gaps_mended: gaps.mended,
            items_lost: gaps.lost,
            epochs: self.counters.epochs,
            unreadable: self.counters.unreadable,
            spool_entries: self.spool.records(),
            spool_bytes: self.spool.bytes(),
            refusing: (self.degraded && self.spool.is_full_or_failing()).into(),
            instances: self.roster.instances().count() as u64,
        }
    }

    /// How many rooms are followed.
    #[cfg(test)]
    pub(crate) fn followed(&self) -> usize {
        self.rooms.len()
    }

    /// Bytes that are about to be written, of both wires.
    fn flush(&mut self) {
        let sends = [self.commands.flush(), self.subscriber.flush()];
        self.asks.extend(sends.into_iter().flatten().map(Ask::Link));
    }

    /// The order goes on.
    fn on_ordered(&mut self, ordered: impl IntoIterator<Item = Ordered>) {
        for ordered in ordered {
            match ordered {
                Ordered::Item(item) => {
                    if self.told.on_passed(item.place) {
                        self.end_epoch_of(item.place);
                    }
                    self.on_item(item);
                }
                Ordered::Epoch(epoch) => self.on_epoch(epoch),
                Ordered::Hole { .. } => self.on_hole(),
            }
        }
        self.open_reached();
    }

    /// Whether own items may come late for reasons that are known.
    fn is_behind(&self) -> bool {
        let is_unsure = self.order.is_in_doubt() || !self.subscription.is_proved();
        self.degraded || self.order.is_repairing() || is_unsure
    }

    /// Whether more of the order may be let in.
    fn has_room(&self) -> bool {
        self.ready_bytes < self.settings.ready_bytes_max
    }

    fn push_ready(&mut self, bytes: usize, outcome: Outcome<T>) {
        self.ready_bytes += bytes;
        self.ready.push_back((bytes, outcome));
    }

    /// Where the partition stands: what is known of it.
    fn known(&self) -> Option<(Epoch, u64, EntryId)> {
        self.order.position()
    }

    fn script(&self, script: Script) -> Option<Bytes> {
        self.keep.sha(script)
    }
}

/// Of what one read brings, for so many there stays room.
const HEARD_READY: usize = 1024;

fn preview(outgoing: &Outgoing) -> Preview {
    Preview {
        room: outgoing.room.clone(),
        id: outgoing.id,
        user_id: outgoing.user_id.clone(),
        username: outgoing.username.clone(),
        payload: outgoing.payload.clone(),
        sent_at: outgoing.sent_at,
    }
}

#[cfg(test)]
mod tests;
