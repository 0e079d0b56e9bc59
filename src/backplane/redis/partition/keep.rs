//! What time drives: connects, login, the lease of the INSTANCE_ID, hello.
//!
//! ```text
//! commands:   connect ─▶ ready ─▶ load scripts ─▶ lease held ───▶ hello ─▶ greeted: publish, read
//! subscriber:              └─▶ connect ─▶ ready ─▶ both channels ──┘
//! ```
//!
//! An instance greets only once it is subscribed, so that all behind what hello says is the newest
//! comes by the channel; a cold one begins there. Each later greeting says what is known, and has
//! it checked: what Redis lost begins a new epoch, before anything is published. For that a
//! subscription is no older than the commands link: see `subscription`.

use bytes::Bytes;

use super::Partition;
use super::replies::Question;
use crate::backplane::redis::order::contradict;
use crate::backplane::redis::script::Script;
use crate::backplane::redis::script::hello::Hello;
use crate::backplane::redis::script::publish as call;
use crate::backplane::redis::script::push_lease;
use crate::backplane::redis::spool::ProducerId;
use crate::backplane::redis::{Place, publisher};
use crate::backplane::{Ask, Moment, Origin};
use crate::model::limits::{
    BREAKER_PAUSES_MS, BREAKER_SILENCE_MS, LEASE_MS, LEASE_RENEW_MS, STARVED_MS,
    SUBSCRIBER_SILENCE_MS, TRIM_MS,
};
use crate::model::{EntryId, Epoch, Name, Publication};
use crate::resp::push_command;

/// A number that no partition comes to: who knows it says that what it knew is lost.
const SEQ_BEYOND: u64 = 1 << 53;
/// The entry id that no stream takes: Redis names it where it says so.
pub(super) const NO_ENTRY: &str = "0-0";

/// Who holds the INSTANCE_ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    /// Not asked yet.
    Unknown,
    /// Somebody else did, when first asked: asked again then.
    Other { since_ms: u64 },
    /// We do.
    Held,
    /// Somebody else does, and goes on to: it was told.
    Refused,
}

/// What is remembered between two looks at the clock.
#[derive(Debug)]
pub(super) struct Keep {
    shas: [Option<Bytes>; Script::ALL.len()],
    /// When scripts are to be loaded again that were refused.
    load_at_ms: Option<u64>,
    holding: Holding,
    lease_asked: bool,
    lease_at_ms: u64,
    greeted: bool,
    hello_asked: bool,
    hello_at_ms: u64,
    /// Since when there is a commands link, and no greeting.
    ungreeted_since_ms: Option<u64>,
    /// Of this epoch what was acked is contradicted, or what is known is, and it is there: it is to
    /// end. Remembered until that was asked for, over connections too.
    pub(super) ends_epoch: Option<Epoch>,
    /// The last one that was connected was a replica.
    was_replica: bool,
    /// Why there was no subscription the last time.
    unsubscribed_why: String,
    /// The last place that Redis has answered a publish with.
    acked: Option<Place>,
    /// Above every epoch that was seen.
    candidate_ms: u64,
    /// Whether the next poll comes behind a subscription.
    pub(super) resubscribed: bool,
    /// When the last tick came, and since when they come in time.
    ticked_ms: u64,
    pub(super) awake_ms: u64,
    subscribe_at_ms: u64,
    subscribe_pause_ms: u64,
    pub(super) poll_at_ms: u64,
    pub(super) trim_at_ms: u64,
    pub(super) policy_asked: bool,
}

impl Keep {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            shas: Default::default(),
            load_at_ms: None,
            holding: Holding::Unknown,
            lease_asked: false,
            lease_at_ms: 0,
            greeted: false,
            hello_asked: false,
            hello_at_ms: 0,
            ungreeted_since_ms: None,
            ends_epoch: None,
            was_replica: false,
            unsubscribed_why: String::new(),
            acked: None,
            candidate_ms: 0,
            resubscribed: false,
            ticked_ms: 0,
            awake_ms: 0,
            subscribe_at_ms: 0,
            subscribe_pause_ms: 0,
            poll_at_ms: 0,
            // Instances that began together don't trim together.
            trim_at_ms: seed % TRIM_MS,
            policy_asked: false,
        }
    }

    /// Of the last publish that Redis has answered.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.acked.map(|place| place.epoch)
    }

    /// Whether a call can't have found so little, or end there, behind what was acked before: the
    /// replies of a link come in the order of its calls.
    pub(super) fn contradicts(&self, found: u64, place: Place) -> bool {
        let is_less = |acked: Place| acked.epoch == place.epoch && found < acked.seq;
        self.acked
            .is_some_and(|acked| is_less(acked) || contradict(acked, place))
    }

    /// Whether it is a replica and the one connected before was none.
    pub(super) fn is_first_of(&mut self, is_replica: bool) -> bool {
        !std::mem::replace(&mut self.was_replica, is_replica) && is_replica
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    pub(super) fn sha(&self, script: Script) -> Option<Bytes> {
        self.shas[at(script)].clone()
    }

    pub(super) fn set_sha(&mut self, script: Script, sha: Bytes) {
        self.shas[at(script)] = Some(sha);
    }

    /// A Redis that is still loading, say, refuses to keep scripts too.
    pub(super) fn load_again(&mut self, at_ms: u64) {
        self.load_at_ms = Some(at_ms);
    }

    fn is_loaded(&self) -> bool {
        self.shas.iter().all(Option::is_some)
    }

    /// How much there was before the subscription was not answered.
    pub(super) fn ask_behind_again(&mut self, was_asked: bool) {
        self.resubscribed |= was_asked;
    }

    /// The envelope of a signal, up to its payload.
    pub(super) fn envelope_head(&self, instance: &Name) -> Vec<u8> {
        let instance = serde_json::to_string(instance.as_str()).unwrap_or_default();
        format!("{{\"instance_id\":{instance},\"payload\":").into_bytes()
    }
}

fn at(script: Script) -> usize {
    let found = Script::ALL.iter().position(|&other| other == script);
    found.unwrap_or_default()
}

impl<T: Origin> Partition<T> {
    /// Does what is due.
    pub(super) fn keep_up(&mut self, moment: &mut Moment<'_>) {
        self.end_silent(moment);
        self.connect(moment);
        if self.commands.is_up() {
            if self.keep.load_at_ms.is_some_and(|at| at <= moment.ms) {
                self.load_scripts(moment.ms);
            }
            self.renew(moment);
            if self.order.is_in_doubt() && self.keep.greeted {
                self.greet_again(moment.ms);
            }
            self.greet(moment);
            if self.keep.greeted {
                self.ask_what_is_due(moment);
            }
        }
        self.note_ungreeted(moment);
        self.poll_breaker(moment);
    }

    /// Who is not subscribed can't greet, and so not publish: if that lasts, Redis is away.
    fn note_ungreeted(&mut self, moment: &mut Moment<'_>) {
        let is_held_up = self.commands.is_up() && self.keep.holding == Holding::Held;
        if self.keep.greeted || !is_held_up {
            self.keep.ungreeted_since_ms = None;
            return;
        }
        let since_ms = *self.keep.ungreeted_since_ms.get_or_insert(moment.ms);
        let due_ms = since_ms.max(self.keep.awake_ms) + BREAKER_SILENCE_MS;
        if self.breaker.is_closed() && due_ms <= moment.ms {
            let why = match self.keep.unsubscribed_why.as_str() {
                "" => "its channels could not be subscribed to in time".to_owned(),
                why => format!("its channels can't be subscribed to: {why}"),
            };
            let random = moment.rng.f64();
            self.breaker.on_refused(moment.ms, true, &why, random);
        }
    }

    /// Notes that time has passed. If that was long ago, the shard did not run: what Redis has sent
    /// meanwhile is not read yet, and must not be taken for silence.
    pub(super) fn on_tick(&mut self, now_ms: u64) {
        if now_ms > self.keep.ticked_ms + STARVED_MS {
            self.keep.awake_ms = now_ms;
        }
        self.keep.ticked_ms = now_ms;
    }

    /// Whether what is published goes out at once.
    pub(super) fn can_publish(&self) -> bool {
        self.breaker.is_closed() && self.keep.greeted && self.commands.is_up()
    }

    pub(super) fn send_publishes(&mut self, moment: &mut Moment<'_>) {
        if !self.has_call() || !self.can_publish() {
            return;
        }
        let Some(sha) = self.script(Script::Publish) else {
            return;
        };
        let candidate = self.candidate(moment);
        let mut has_called = false;
        let own = (self.producer_id, &mut self.publisher);
        let earlier = self.earlier.as_mut();
        let earlier = earlier.map(|earlier| (earlier.producer, &mut earlier.publisher));
        for (id, publisher) in earlier.into_iter().chain([own]) {
            while let Some(next) = publisher.poll_call() {
                let producer = hex(id);
                let messages = next.messages().cloned().map(publication);
                let messages: Vec<Publication> = messages.collect();
                let question = Question::Publish {
                    producer: id,
                    call: next.call,
                    count: messages.len(),
                };
                let out = self.commands.ask(moment.ms, question);
                let script = call::Call {
                    producer: &producer,
                    base: next.base,
                    first_number: next.first_number,
                    messages: &messages,
                };
                self.caller.push(out, &sha, candidate, &script);
                self.counters.commands += 1;
                has_called = true;
            }
        }
        if has_called && self.replicas.are_needed() {
            self.ask_replicas(moment.ms, false);
        }
    }

    /// Who is not heard of for too long is gone.
    fn end_silent(&mut self, moment: &mut Moment<'_>) {
        let mut links = Vec::new();
        let awake_ms = self.keep.awake_ms;
        if self
            .commands
            .is_silent(moment.ms, awake_ms, BREAKER_SILENCE_MS)
        {
            // The breaker looks at the same silence, and says so first.
            self.poll_breaker(moment);
            let why = format!("Redis has not answered for {BREAKER_SILENCE_MS} ms");
            self.end_commands(moment, &why);
        }
        if self
            .subscriber
            .is_silent(moment.ms, awake_ms, SUBSCRIBER_SILENCE_MS)
        {
            self.subscriber.close(&mut links);
            let why = format!("Redis has not answered there for {SUBSCRIBER_SILENCE_MS} ms");
            self.on_subscriber_broken(moment, why);
        }
        self.asks.extend(links.into_iter().map(Ask::Link));
    }

    fn connect(&mut self, moment: &mut Moment<'_>) {
        if self.commands.is_down() && self.breaker.poll_connect(moment.ms) {
            self.asks.push(Ask::Link(self.commands.connect(moment.ms)));
        }
        // Not before the commands: it must be younger.
        let may = self.commands.is_up() && self.keep.subscribe_at_ms <= moment.ms;
        if self.subscriber.is_down() && may {
            self.asks
                .push(Ask::Link(self.subscriber.connect(moment.ms)));
        }
    }

    /// The commands wire is ready.
    pub(super) fn on_commands_ready(&mut self, moment: &mut Moment<'_>) {
        self.counters.connects += 1;
        self.breaker.on_connected(moment.ms);
        self.end_subscription(moment.ms);
        self.load_scripts(moment.ms);
        if !std::mem::replace(&mut self.keep.policy_asked, true) {
            let out = self.commands.ask(moment.ms, Question::Policy);
            push_command(out, &[b"CONFIG", b"GET", b"maxmemory-policy"]);
        }
    }

    pub(super) fn load_scripts(&mut self, now_ms: u64) {
        self.keep.shas = Default::default();
        self.keep.load_at_ms = None;
        for script in Script::ALL {
            script.push_load(self.commands.ask(now_ms, Question::Load(script)));
        }
    }

    /// Another one is to be connected.
    pub(super) fn end_commands(&mut self, moment: &mut Moment<'_>, why: &str) {
        let mut links = Vec::new();
        self.commands.close(&mut links);
        self.asks.extend(links.into_iter().map(Ask::Link));
        self.on_commands_broken(moment, why);
    }

    pub(super) fn on_commands_broken(&mut self, moment: &mut Moment<'_>, why: &str) {
        self.breaker
            .on_disconnected(moment.ms, why, moment.rng.f64());
        self.keep.greeted = false;
        self.keep.hello_asked = false;
        self.keep.lease_asked = false;
        self.replicas.forget();
        self.told.clear();
        self.publisher.on_disconnected();
        if let Some(earlier) = &mut self.earlier {
            earlier.publisher.on_disconnected();
        }
        self.lose_questions(moment.ms);
    }

    /// What the subscription goes on to bring may be of another Redis than the one that is to be
    /// greeted; and what it has brought that is not passed on yet.
    fn end_subscription(&mut self, now_ms: u64) {
        let mut links = Vec::new();
        self.subscriber.close(&mut links);
        self.asks.extend(links.into_iter().map(Ask::Link));
        self.subscription.on_end();
        self.order.forget_heard();
        (self.keep.subscribe_at_ms, self.keep.subscribe_pause_ms) = (now_ms, 0);
    }

    pub(super) fn on_subscriber_ready(&mut self, moment: &mut Moment<'_>) {
        self.counters.connects += 1;
        self.keep.subscribe_pause_ms = 0;
        let channels = [&self.names.broadcast, &self.names.control];
        let channels = channels.map(|name| name.as_bytes());
        push_command(
            self.subscriber.say(),
            &[b"SUBSCRIBE", channels[0], channels[1]],
        );
        // What is subscribed is heard of at once; the ping says when it is not.
        push_command(self.subscriber.ask(moment.ms, ()), &[b"PING"]);
    }

    pub(super) fn on_subscriber_broken(&mut self, moment: &mut Moment<'_>, why: String) {
        self.subscription.on_end();
        self.keep.unsubscribed_why = why;
        let pause_ms = self.keep.subscribe_pause_ms;
        self.keep.subscribe_at_ms = moment.ms + (pause_ms as f64 * moment.rng.f64()) as u64;
        self.keep.subscribe_pause_ms =
            (pause_ms * 2).clamp(BREAKER_PAUSES_MS.0, BREAKER_PAUSES_MS.1);
    }

    pub(super) fn on_subscribed(&mut self, moment: &mut Moment<'_>, channel: &[u8]) {
        let names = [&self.names.broadcast, &self.names.control];
        if let Some(at) = names.iter().position(|name| name.as_bytes() == channel) {
            self.subscription.on_channel(at);
        }
        if self.subscription.subscribed().is_some() {
            self.keep.unsubscribed_why.clear();
            // How much was there before?
            self.keep.poll_at_ms = 0;
            self.keep.resubscribed = true;
            if self.order.position().is_some() {
                self.roster.on_resubscribed(moment.ms);
            }
        }
    }

    /// The lease, and the first half of the probe while the breaker is open: it writes.
    fn renew(&mut self, moment: &mut Moment<'_>) {
        let Some(sha) = self.script(Script::Lease) else {
            return;
        };
        // Who can't hear what is published need not publish.
        let may = self.keep.greeted && self.subscription.subscribed().is_some();
        let is_probe = may && self.breaker.poll_probe(moment.ms);
        let is_due = !self.keep.lease_asked && self.keep.lease_at_ms <= moment.ms;
        if self.keep.holding == Holding::Refused || !(is_probe || is_due) {
            return;
        }
        self.keep.lease_asked = true;
        let name = self.names.instance(&self.settings.instance_id);
        let out = self.commands.ask(moment.ms, Question::Lease { is_probe });
        push_lease(out, &sha, &name, &self.settings.nonce, LEASE_MS);
        self.counters.commands += 1;
    }

    /// Whether entries may be written, not only the lease: a user may be allowed the one and not
    /// the other, and the breaker would open and close for as long.
    pub(super) fn probe(&mut self, now_ms: u64) {
        let stream = self.names.stream.as_bytes();
        let out = self.commands.ask(now_ms, Question::Probe);
        push_command(out, &[b"XADD", stream, NO_ENTRY.as_bytes(), b"probe", b""]);
        self.counters.commands += 1;
    }

    /// The lease is ours.
    pub(super) fn on_lease_held(&mut self, now_ms: u64) {
        self.keep.lease_asked = false;
        self.keep.lease_at_ms = now_ms + LEASE_RENEW_MS;
        self.keep.holding = Holding::Held;
    }

    /// The lease is another's, for so long. Who renews it after one time to live is alive.
    pub(super) fn on_lease_other(&mut self, now_ms: u64, ttl_ms: Option<u64>) {
        self.keep.lease_asked = false;
        self.keep.lease_at_ms = now_ms + LEASE_RENEW_MS / 3;
        let since_ms = match self.keep.holding {
            Holding::Other { since_ms } => since_ms,
            Holding::Unknown | Holding::Held | Holding::Refused => now_ms,
        };
        self.keep.holding = Holding::Other { since_ms };
        self.keep.greeted = false;
        if ttl_ms.is_some() && now_ms < since_ms + LEASE_MS + LEASE_RENEW_MS {
            return;
        }
        self.keep.holding = Holding::Refused;
        let id = &self.settings.instance_id;
        self.asks.push(Ask::End(format!(
            "another instance is called {id:?} and is alive: give each its own INSTANCE_ID \
             (--instance-id)"
        )));
    }

    pub(super) fn on_lease_failed(&mut self, now_ms: u64) {
        self.keep.lease_asked = false;
        self.keep.lease_at_ms = now_ms + LEASE_RENEW_MS / 3;
    }

    /// Says what is known, and has it checked.
    fn greet(&mut self, moment: &mut Moment<'_>) {
        if self.keep.greeted || self.keep.hello_asked || self.keep.hello_at_ms > moment.ms {
            return;
        }
        let subscribed = self.subscription.subscribed();
        let ready = self.keep.is_loaded() && self.keep.holding == Holding::Held;
        if !(subscribed.is_some() && ready) {
            return;
        }
        let of_doubt = self.order.is_in_doubt();
        let known = match of_doubt {
            true => self.place(),
            false => self.promised(),
        };
        // An epoch that was followed by another has ended.
        let is_known = |epoch: &Epoch| known.is_some_and(|known| known.epoch == *epoch);
        self.keep.ends_epoch = self.keep.ends_epoch.filter(is_known);
        let ends_epoch = self.keep.ends_epoch.is_some();
        let known = known.map(|known| match ends_epoch {
            true => Place {
                seq: SEQ_BEYOND,
                entry: EntryId::default(),
                ..known
            },
            false => known,
        });
        let Some(sha) = self.script(Script::Hello) else {
            return;
        };
        self.keep.hello_asked = true;
        let hello = Hello {
            candidate: self.candidate(moment),
            partitions: self.settings.partitions,
            known,
            reached: None,
        };
        let question = Question::Hello {
            behind: subscribed,
            of_doubt,
            ends_epoch,
        };
        let out = self.commands.ask(moment.ms, question);
        hello.push(out, &sha, &self.names);
        self.counters.commands += 1;
    }

    /// The last place that was delivered or acked: all up to it must be there.
    pub(super) fn promised(&self) -> Option<Place> {
        let known = self.place();
        let newer = |acked: &Place| {
            known.is_some_and(|known| (known.epoch, known.seq) < (acked.epoch, acked.seq))
        };
        self.keep.acked.filter(newer).or(known)
    }

    /// The last place that was delivered.
    fn place(&self) -> Option<Place> {
        let (epoch, seq, entry) = self.known()?;
        Some(Place { epoch, seq, entry })
    }

    /// Redis has answered that a call's last message is there. What it was acked by may come long
    /// before its envelope, and must not be lost unseen.
    pub(super) fn on_acked(&mut self, epoch: Epoch, seq: u64, entry: Option<EntryId>) {
        self.saw_epoch(epoch);
        let key = |place: Place| (place.epoch, place.seq);
        if self.keep.acked.map(key) < Some((epoch, seq)) {
            let entry = entry.unwrap_or_default();
            self.keep.acked = Some(Place { epoch, seq, entry });
        }
    }

    /// Redis and what is known of it disagree: it is greeted again.
    pub(super) fn greet_again(&mut self, at_ms: u64) {
        self.keep.greeted = false;
        self.keep.hello_asked = false;
        self.keep.hello_at_ms = at_ms;
    }

    /// Numbers of that epoch were given twice.
    pub(super) fn end_epoch(&mut self, now_ms: u64, epoch: Epoch) {
        self.greet_again(now_ms);
        self.keep.ends_epoch = Some(epoch);
    }

    /// An item has come in the place of one that was to come.
    pub(super) fn end_epoch_of(&mut self, item: Place) {
        if self.keep.ends_epoch != Some(item.epoch) {
            // It is asked for at once.
            self.end_epoch(0, item.epoch);
        }
    }

    pub(super) fn on_greeted(&mut self) {
        self.keep.ends_epoch = None;
        self.keep.greeted = true;
        self.keep.hello_asked = false;
        if let Some(acked) = self.keep.acked {
            self.told.insert(acked);
        }
    }

    /// An epoch above all that is known.
    fn candidate(&mut self, moment: &mut Moment<'_>) -> Epoch {
        let known_ms = self.known().map_or(0, |(epoch, ..)| epoch.ms() + 1);
        let ms = moment.wall.0.max(known_ms).max(self.keep.candidate_ms);
        Epoch::new(ms, moment.rng.u32(..))
    }

    /// An epoch was seen: the next one is above it.
    pub(super) fn saw_epoch(&mut self, epoch: Epoch) {
        self.keep.candidate_ms = self.keep.candidate_ms.max(epoch.ms() + 1);
    }
}

/// A producer, as the state has it.
fn hex(producer: ProducerId) -> String {
    let mut text = [0; uuid::fmt::Simple::LENGTH];
    let simple = uuid::Uuid::from_bytes(producer).simple();
    simple.encode_lower(&mut text).to_owned()
}

/// A message as the script's call takes it.
fn publication(outgoing: publisher::Outgoing) -> Publication {
    Publication {
        room: outgoing.room,
        epoch: Epoch::new(0, 0),
        offset: 0,
        id: outgoing.id,
        client_id_given: outgoing.client_given,
        user_id: outgoing.user_id,
        username: outgoing.username,
        payload: outgoing.payload,
        metadata: outgoing.metadata,
        sent_at: outgoing.sent_at,
    }
}
