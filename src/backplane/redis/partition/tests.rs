//! A partition over the fake Redis, where it matters which bytes come when.

use bytes::BytesMut;

use super::*;
use crate::backplane::link::{LinkAsk, LinkId};
use crate::backplane::redis::fake::FakeRedis;
use crate::backplane::redis::spool::{Page, Record, SpoolAsk, SpoolEvent};
use crate::model::Timestamp;
use crate::protocol::event::message;

mod forks;

const WALL_MS: u64 = 1_700_000_000_000;

impl Origin for u32 {
    fn hold(&mut self) {}
}

struct Stage {
    fake: FakeRedis,
    partition: Partition<u32>,
    rng: fastrand::Rng,
    ms: u64,
    /// What is connected, as what in Redis.
    links: Vec<(LinkId, u32)>,
    is_up: bool,
    /// Connects of this one are refused.
    refused: Option<Link>,
    /// What Redis has to say by this one stays there.
    held: Option<Link>,
    records: Vec<Record>,
    /// Questions to the spool that are not answered yet.
    spool_asks: Vec<SpoolAsk>,
    spool_answers: bool,
    outcomes: Vec<Outcome<u32>>,
}

impl Stage {
    fn new() -> Self {
        let settings = Settings {
            prefix: "g".into(),
            partition: 0,
            partitions: 1,
            instance_id: Name::new("i"),
            nonce: "nonce".into(),
            login: Login {
                user: None,
                password: None,
                database: 0,
                name: "test".into(),
            },
            dedupe_ms: 600_000,
            retention_ms: 3_600_000,
            stream_bytes_max: 1 << 30,
            spool_bytes_max: 1 << 30,
            ack_replicas: 0,
            has_store: false,
            log_bytes_max: 1 << 20,
            turn_bytes_max: 1 << 20,
            ready_bytes_max: 1 << 20,
        };
        let mut stage = Self {
            fake: FakeRedis::new(),
            partition: Partition::new(settings, message, 1),
            rng: fastrand::Rng::with_seed(1),
            ms: 0,
            links: vec![],
            is_up: true,
            refused: None,
            held: None,
            records: vec![],
            spool_asks: vec![],
            spool_answers: true,
            outcomes: vec![],
        };
        let opened = SpoolEvent::Opened {
            records: 0,
            bytes: 0,
        };
        stage.with(|partition, moment| partition.on_spool(moment, opened));
        stage
    }

    /// It is greeted, and the room is open.
    fn opened() -> Self {
        let mut stage = Self::new();
        stage.pass(2_000);
        stage.open();
        stage.pass(200);
        assert_eq!(stage.told(), ["opened at Ok(0)"]);
        stage
    }

    fn with(&mut self, what: impl FnOnce(&mut Partition<u32>, &mut Moment<'_>)) {
        let mut moment = Moment {
            wall: Timestamp(WALL_MS + self.ms),
            ms: self.ms,
            rng: &mut self.rng,
        };
        what(&mut self.partition, &mut moment);
    }

    fn link(&mut self, event: LinkEvent) {
        self.with(|partition, moment| partition.on_link(moment, event));
    }

    fn conn(&self, link: Link) -> (LinkId, u32) {
        let mut found = self.links.iter().filter(|(id, _)| id.link == link);
        *found.next_back().expect("it is connected")
    }

    /// Does what is asked, and brings what comes of it, until nothing comes any more.
    fn pump(&mut self) {
        for _ in 0..100 {
            self.fake.set_now(WALL_MS + self.ms);
            self.with(|partition, moment| partition.drive(moment));
            let mut asks = vec![];
            self.partition.poll(&mut self.outcomes, &mut asks);
            for ask in asks {
                match ask {
                    Ask::Link(LinkAsk::Connect(id))
                        if !self.is_up || self.refused == Some(id.link) =>
                    {
                        self.link(LinkEvent::Broken(id, "refused".into()));
                    }
                    Ask::Link(LinkAsk::Connect(id)) => {
                        self.links.push((id, self.fake.connect()));
                        self.link(LinkEvent::Connected(id));
                    }
                    Ask::Link(LinkAsk::Send(id, bytes)) => {
                        // One that a test has cut takes what is sent, and is not told of it.
                        if let Some((_, conn)) = self.links.iter().find(|it| it.0 == id) {
                            self.fake.on_bytes(*conn, &bytes);
                        }
                    }
                    Ask::Link(LinkAsk::Close(id)) => self.links.retain(|it| it.0 != id),
                    Ask::Spool(ask) => self.spool_asks.push(ask),
                    Ask::Warn(_) | Ask::Note(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            let asked = match self.spool_answers {
                true => std::mem::take(&mut self.spool_asks),
                false => vec![],
            };
            asked.into_iter().for_each(|ask| self.answer(ask));
            for (id, conn) in self.links.clone() {
                if self.held == Some(id.link) {
                    continue;
                }
                let bytes = self.fake.take(conn);
                if !bytes.is_empty() {
                    self.link(LinkEvent::Bytes(id, BytesMut::from(&bytes[..])));
                }
            }
        }
    }

    fn answer(&mut self, ask: SpoolAsk) {
        let event = match ask {
            SpoolAsk::Append(records) => {
                let count = records.len();
                self.records.extend(records);
                let result = Ok(());
                SpoolEvent::Appended { count, result }
            }
            SpoolAsk::Read { after } => SpoolEvent::Read {
                after,
                result: Ok(Page {
                    lost: 0,
                    bytes: 0,
                    records: self.records[after as usize..].to_vec(),
                }),
            },
            SpoolAsk::Release { .. } => return,
        };
        self.with(|partition, moment| partition.on_spool(moment, event));
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.ms += 100;
            self.with(|partition, moment| partition.tick(moment));
            self.pump();
        }
    }

    fn open(&mut self) {
        self.with(|partition, _| partition.open(&RoomName::parse("r").unwrap()));
    }

    fn publish(&mut self, number: u32) {
        let publish = Publish {
            room: RoomName::parse("r").unwrap(),
            id: None,
            user_id: Name::new("u"),
            username: None,
            payload: Bytes::from(number.to_string()),
            metadata: None,
            echo: true,
            arrived_us: 0,
        };
        self.with(|partition, moment| partition.publish(moment, publish, number));
    }

    /// Which were acked and delivered since the last time, by offset; and what came between.
    fn told(&mut self) -> Vec<String> {
        let told = self.outcomes.drain(..).filter_map(|outcome| match outcome {
            Outcome::Stored { offset, origin, .. } => Some(format!("ack {origin} at {offset}")),
            Outcome::Deliver { offset, json, .. } => {
                let frame: serde_json::Value = serde_json::from_slice(&json).unwrap();
                Some(format!("{} at {offset}", frame["payload"]))
            }
            Outcome::Lost { next, .. } => Some(format!("lost up to {next}")),
            Outcome::Epoch(_) => Some("epoch".into()),
            Outcome::Opened { result, .. } => {
                let offset = result.map(|position| position.offset);
                Some(format!("opened at {offset:?}"))
            }
            _ => None,
        });
        told.collect()
    }
}

/// RINGCAST_SIM_SEED=1685 of the simulator.
#[test]
fn what_a_redis_had_sent_before_its_loss_acks_nothing_behind_the_greeting_of_the_next() {
    let mut stage = Stage::opened();
    stage.publish(1);
    stage.pump();
    assert_eq!(stage.told(), ["ack 1 at 1", "1 at 1"]);

    // It stores 2, and tells; neither answer nor envelope comes here before it is gone.
    let before = stage.fake.snapshot();
    let (commands, conn) = stage.conn(Link::Commands);
    let (subscriber, channel) = stage.conn(Link::Subscriber);
    stage.publish(2);
    stage.with(|partition, moment| partition.drive(moment));
    let mut asks = vec![];
    stage.partition.poll(&mut stage.outcomes, &mut asks);
    for ask in asks {
        if let Ask::Link(LinkAsk::Send(id, bytes)) = ask {
            assert_eq!(id, commands);
            stage.fake.on_bytes(conn, &bytes);
        }
    }
    let late = stage.fake.take(channel);
    assert!(!late.is_empty(), "the envelope is on its way");
    stage.fake.restore(&before);
    stage.links.clear();
    stage.is_up = false;
    stage.link(LinkEvent::Broken(commands, "gone".into()));
    stage.pass(1_000);
    assert_eq!(stage.records.len(), 1, "it is held");
    (stage.is_up, stage.spool_answers) = (true, false);
    for _ in 0..50 {
        if !stage.partition.keep.is_greeted() {
            stage.pass(100);
        }
    }
    assert!(stage.partition.keep.is_greeted(), "the next one is greeted");

    stage.link(LinkEvent::Bytes(subscriber, BytesMut::from(&late[..])));
    stage.pump();
    assert_eq!(
        stage.told(),
        [""; 0],
        "it was lost, and is not stored again yet"
    );
    stage.spool_answers = true;
    stage.pass(2_000);
    assert_eq!(stage.told(), ["ack 2 at 2", "2 at 2"]);
    assert_eq!(
        stage
            .fake
            .data()
            .stream(b"g:messages:stream")
            .unwrap()
            .unwrap()
            .entries
            .len(),
        2
    );
}

/// What comes behind a subscription that is made anew counts, though it was published before the
/// subscription was proved.
#[test]
fn what_comes_before_a_subscription_is_proved_is_delivered_once_it_is() {
    let mut stage = Stage::opened();
    let (subscriber, channel) = stage.conn(Link::Subscriber);
    stage.fake.kill(channel);
    stage.link(LinkEvent::Broken(subscriber, "killed".into()));
    stage.links.retain(|it| it.0 != subscriber);
    for number in 1..=3 {
        stage.publish(number);
        stage.pass(100);
    }
    let mut told = stage.told();
    told.retain(|told| !told.starts_with("ack"));
    assert_eq!(told, ["1 at 1", "2 at 2", "3 at 3"]);
    assert!(stage.partition.subscription.is_proved());
}

/// Seed 7275 of the simulator: what had passed meanwhile was told to be a gap.
#[test]
fn a_room_that_is_closed_and_opened_again_is_not_where_it_was_before() {
    let mut stage = Stage::new();
    stage.pass(2_000);
    stage.held = Some(Link::Commands);
    stage.open();
    stage.pass(100);
    stage.publish(1);
    stage.pump();
    let told = ["ack 1 at 1", "opened at Ok(0)", "1 at 1"];
    assert_eq!(stage.told(), told, "by the item, before the answer");
    stage.with(|partition, _| partition.close(&RoomName::parse("r").unwrap()));
    stage.publish(2);
    stage.pump();
    assert_eq!(stage.told(), ["ack 2 at 2"]);
    stage.open();
    stage.pass(100);
    stage.held = None;
    stage.pump();
    assert_eq!(stage.told(), ["opened at Ok(2)"]);
}

/// A Redis Cluster does it when a slot moves; the connection stays.
#[test]
fn a_subscription_that_redis_ends_is_made_anew() {
    let mut stage = Stage::opened();
    let (subscriber, channel) = stage.conn(Link::Subscriber);
    stage.fake.on_bytes(
        channel,
        b"*2\r\n$11\r\nUNSUBSCRIBE\r\n$11\r\ng:broadcast\r\n",
    );
    stage.publish(1);
    stage.pass(500);
    stage.publish(2);
    stage.pass(100);
    let mut told = stage.told();
    told.sort();
    assert_eq!(told, ["1 at 1", "2 at 2", "ack 1 at 1", "ack 2 at 2"]);
    let (after, _) = stage.conn(Link::Subscriber);
    assert_eq!(after.life, subscriber.life + 1);
}

/// A reply that leads to a question, and in the same read what is no reply: the question went to
/// nobody, and all replies of the next connection were taken for those of one question earlier.
#[test]
fn a_reply_before_a_broken_one_asks_nothing_of_a_connection_that_is_over() {
    let mut stage = Stage::new();
    stage.pass(2_000);
    stage.held = Some(Link::Commands);
    stage.pass(1_000);
    let (commands, conn) = stage.conn(Link::Commands);
    let epoch = stage.partition.known().expect("greeted").0;
    // It says that there is more than is known here, to whatever is asked.
    stage.fake.take(conn);
    let seen = format!("*2\r\n$20\r\n{}\r\n$1\r\n9\r\n", epoch.as_str());
    let bytes = [seen.repeat(4).as_bytes(), b"!!!\r\n"].concat();
    stage.link(LinkEvent::Bytes(commands, BytesMut::from(&bytes[..])));
    assert!(!stage.partition.commands.is_up());
    assert_eq!(stage.partition.commands.unanswered(), 0);
    stage.held = None;
    stage.pass(1_000);
    stage.open();
    stage.publish(1);
    stage.pass(300);
    assert_eq!(stage.told(), ["ack 1 at 1", "opened at Ok(0)", "1 at 1"]);
}

/// It was waited for without a word, and nothing that was published was answered.
#[test]
fn who_can_not_subscribe_holds_what_is_published() {
    let mut stage = Stage::new();
    stage.refused = Some(Link::Subscriber);
    stage.pass(200);
    stage.publish(1);
    stage.pass(1_500);
    let is_told = |stage: &Stage| {
        let mut outcomes = stage.outcomes.iter();
        outcomes.any(|outcome| matches!(outcome, Outcome::Degraded(Some(_))))
    };
    assert!(!is_told(&stage), "it may come at once");
    stage.pass(1_500);
    assert!(is_told(&stage));
    assert_eq!(stage.records.len(), 1, "it is held");
    stage.refused = None;
    stage.pass(5_000);
    assert_eq!(stage.told(), ["ack 1 at 1"]);
}
