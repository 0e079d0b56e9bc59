//! Redis goes on without what it had, and no connection breaks.

use super::*;
use crate::backplane::redis::fake::Snapshot;
use crate::backplane::redis::script::publish::Call;
use crate::model::{MessageId, Publication, Timestamp};

impl Stage {
    /// The room is open, and has 1 and 2; a snapshot of each moment between.
    fn of_two() -> (Self, [Snapshot; 2]) {
        let mut stage = Self::opened();
        let empty = stage.fake.snapshot();
        stage.publish(1);
        stage.pass(100);
        let of_one = stage.fake.snapshot();
        stage.publish(2);
        stage.pass(100);
        let told = ["ack 1 at 1", "1 at 1", "ack 2 at 2", "2 at 2"];
        assert_eq!(stage.told(), told);
        (stage, [empty, of_one])
    }

    /// The same, and 3 is acked; its envelope is lost.
    fn of_two_and_an_ack() -> (Self, [Snapshot; 3]) {
        let (mut stage, [empty, of_one]) = Self::of_two();
        let of_two = stage.fake.snapshot();
        stage.held = Some(Link::Subscriber);
        stage.publish(3);
        stage.pass(100);
        assert_eq!(stage.told(), ["ack 3 at 3"]);
        stage.lose_envelopes();
        (stage, [empty, of_one, of_two])
    }

    /// What the subscriber was to bring is lost.
    fn lose_envelopes(&mut self) {
        let (_, channel) = self.conn(Link::Subscriber);
        assert!(!self.fake.take(channel).is_empty(), "there were some");
    }

    /// Another Redis is behind the same connections, a moment later.
    fn replace(&mut self, by: &Snapshot) {
        self.ms += 1;
        self.fake.set_now(WALL_MS + self.ms);
        self.fake.replace(by);
    }

    /// Another instance publishes these, in one call.
    fn publish_elsewhere(&mut self, numbers: std::ops::RangeInclusive<u32>) {
        let publication = |number: u32| Publication {
            room: RoomName::parse("r").unwrap(),
            epoch: Epoch::new(0, 0),
            offset: 0,
            id: MessageId::from_u128(number.into()),
            client_id_given: false,
            user_id: Name::new("other"),
            username: None,
            payload: Bytes::from(number.to_string()),
            metadata: None,
            sent_at: Timestamp(WALL_MS),
        };
        let first_number = u64::from(*numbers.start());
        let messages: Vec<_> = numbers.map(publication).collect();
        let caller = Caller::new(self.partition.names.clone(), "other", 600_000, message);
        let sha = self
            .partition
            .script(Script::Publish)
            .expect("it is loaded");
        let call = Call {
            producer: "other",
            base: first_number,
            first_number,
            messages: &messages,
        };
        let mut out = vec![];
        caller.push(&mut out, &sha, Epoch::new(1, 0), &call);
        self.fake.ask_apart(&out, "*");
    }

    fn run(&mut self, words: &[&[u8]]) {
        let mut out = vec![];
        push_command(&mut out, words);
        let conn = self.fake.connect();
        self.fake.on_bytes(conn, &out);
        self.fake.kill(conn);
    }
}

/// Number 2 is given anew, then 3: without the doubt 3 would be taken for the next.
#[test]
fn a_line_that_goes_on_without_what_was_delivered_begins_a_new_epoch() {
    let (mut stage, [_, of_one]) = Stage::of_two();
    stage.replace(&of_one);
    stage.publish_elsewhere(21..=23);
    stage.pump();
    assert_eq!(stage.told(), ["epoch"]);
    stage.publish(3);
    stage.pass(200);
    assert_eq!(stage.told(), ["ack 3 at 1", "3 at 1"]);
}

/// The same, with all envelopes of the other line lost: the next look at how much there is shows a
/// hole, and the page that is to mend it does not begin with what was delivered last.
#[test]
fn a_page_of_another_line_mends_nothing() {
    let (mut stage, [empty, _]) = Stage::of_two();
    stage.pass(10_000);
    stage.fake.replace(&empty);
    stage.publish_elsewhere(21..=24);
    stage.lose_envelopes();
    stage.pass(3_000);
    assert_eq!(stage.told(), ["epoch"]);
}

/// The other line is exactly as long, and nothing comes of it: what was delivered last was lost
/// within the epoch without a word.
#[test]
fn a_line_exactly_as_long_as_ours_begins_a_new_epoch() {
    let (mut stage, [empty, of_one]) = Stage::of_two();
    for (by, tail) in [(&of_one, 21..=21), (&empty, 21..=22)] {
        let (mut stage, _) = Stage::of_two();
        stage.replace(by);
        stage.publish_elsewhere(tail);
        stage.lose_envelopes();
        stage.pass(3_000);
        assert_eq!(stage.told(), ["epoch"]);
        stage.publish(3);
        stage.pass(200);
        assert_eq!(stage.told(), ["ack 3 at 1", "3 at 1"]);
    }
    // Of its tail nothing is left in the stream: the state has the place of its last one.
    stage.replace(&of_one);
    stage.publish_elsewhere(21..=21);
    stage.lose_envelopes();
    stage.run(&[b"DEL", b"g:messages:stream"]);
    stage.pass(3_000);
    assert_eq!(stage.told(), ["epoch"]);
}

/// It is as long as what was acked, of which the last was not delivered yet.
#[test]
fn a_line_exactly_as_long_as_what_was_acked_begins_a_new_epoch() {
    let (mut stage, [.., of_two]) = Stage::of_two_and_an_ack();
    stage.replace(&of_two);
    stage.publish_elsewhere(21..=21);
    stage.lose_envelopes();
    stage.held = None;
    stage.pass(3_000);
    assert_eq!(stage.told(), ["epoch"]);
}

/// RINGCAST_SIM_SEED=40941 of the simulator: an item comes in the place of what was acked. Another
/// call is answered before, the place of which is of the other line.
#[test]
fn an_item_in_the_place_of_what_was_acked_begins_a_new_epoch() {
    for is_called in [false, true] {
        let (mut stage, [.., of_two]) = Stage::of_two_and_an_ack();
        stage.replace(&of_two);
        stage.publish_elsewhere(21..=22);
        if is_called {
            stage.publish(4);
            stage.pump();
            assert_eq!(stage.told(), ["ack 4 at 5"]);
        }
        stage.held = None;
        stage.pump();
        let told = stage.told();
        assert_eq!(told.last(), Some(&"epoch".to_owned()), "{told:?}");
    }
}

/// The line is ours, whatever an operator makes of the stream: nobody is asked again and again.
#[test]
fn what_is_taken_from_the_stream_by_hand_is_no_other_line() {
    let stream = &b"g:messages:stream"[..];
    let commands: [&[&[u8]]; 3] = [
        &[b"XTRIM", stream, b"MAXLEN", b"1"],
        &[b"XTRIM", stream, b"MAXLEN", b"0"],
        &[b"DEL", stream],
    ];
    for command in commands {
        let (mut stage, _) = Stage::of_two();
        let greetings = stage.fake.count("hello.lua");
        stage.run(command);
        stage.pass(10_000);
        assert_eq!(stage.told(), [""; 0]);
        assert_eq!(stage.fake.count("hello.lua"), greetings);
        stage.publish(3);
        stage.pass(100);
        assert_eq!(stage.told(), ["ack 3 at 3", "3 at 3"]);
    }
}

/// One that knows nothing of places stores, too: what stands in the state is older than the line.
#[test]
fn a_place_that_is_not_of_the_last_one_says_nothing() {
    let (mut stage, [_, of_one]) = Stage::of_two();
    let place = |stage: &mut Stage| {
        let state = stage.fake.data().hash(b"g:state").unwrap().unwrap();
        state[&b"place"[..]].clone()
    };
    let of_now = place(&mut stage);
    let now = stage.fake.snapshot();
    stage.fake.replace(&of_one);
    let of_one = place(&mut stage);
    assert_ne!(of_one, of_now);
    stage.fake.replace(&now);
    stage.run(&[b"HSET", b"g:state", b"place", &of_one]);
    stage.pass(3_000);
    for wrong in ["", "x", "x 2 5-0", "00000000000100000000 2"] {
        stage.run(&[b"HSET", b"g:state", b"place", wrong.as_bytes()]);
        stage.pass(3_000);
    }
    assert_eq!(stage.told(), [""; 0]);
}

/// What was acked, and not delivered yet, is gone; the next ack has a number that was given.
#[test]
fn an_ack_with_a_number_that_was_acked_before_begins_a_new_epoch() {
    let (mut stage, [_, of_one, _]) = Stage::of_two_and_an_ack();
    stage.replace(&of_one);
    stage.publish_elsewhere(21..=21);
    stage.lose_envelopes();
    stage.publish(4);
    stage.pump();
    assert_eq!(stage.told(), ["ack 4 at 3", "epoch"], "where 3 was");
}

/// RINGCAST_SIM_SEED=36678 of the simulator: by the time it was greeted, what was acked last was of
/// the other line. Here the one call stores both, and its end contradicts nothing.
#[test]
fn a_call_that_gives_the_number_of_an_acked_one_and_the_next_begins_a_new_epoch() {
    let (mut stage, [.., of_two]) = Stage::of_two_and_an_ack();
    stage.replace(&of_two);
    stage.publish(4);
    stage.publish(5);
    stage.pump();
    assert_eq!(stage.told(), ["ack 4 at 3", "ack 5 at 4", "epoch"]);
}

/// The connection breaks before that greeting is answered. What the next one finds last acked is of
/// the other line, and there: that something was lost must not be forgotten with the connection.
#[test]
fn an_epoch_that_is_to_end_ends_though_the_connection_breaks_before() {
    let (mut stage, [.., of_two]) = Stage::of_two_and_an_ack();
    stage.replace(&of_two);
    stage.held = Some(Link::Commands);
    stage.publish(4);
    stage.publish(5);
    stage.pump();
    let (commands, conn) = stage.conn(Link::Commands);
    let acks = stage.fake.take(conn);
    stage.link(LinkEvent::Bytes(commands, BytesMut::from(&acks[..])));
    stage.link(LinkEvent::Broken(commands, "cut".into()));
    stage.links.retain(|(id, _)| *id != commands);
    stage.held = None;
    stage.pass(1_000);
    let mut told = stage.told();
    told.sort();
    assert_eq!(
        told,
        ["4 at 3", "5 at 4", "ack 4 at 3", "ack 5 at 4", "epoch"]
    );
}

/// RINGCAST_SIM_SEED=2614 of the simulator: what was acked was lost, and nobody was told. The next
/// call is behind it by its numbers; when it has come again, others have given as many anew.
#[test]
fn a_call_that_finds_less_than_was_acked_begins_a_new_epoch() {
    let (mut stage, [empty, ..]) = Stage::of_two_and_an_ack();
    stage.replace(&empty);
    stage.publish(4);
    stage.held = Some(Link::Commands);
    stage.pump();
    // It was found to be behind; the answer is on its way.
    stage.publish_elsewhere(21..=24);
    stage.held = None;
    stage.pump();
    let told = stage.told();
    assert!(told.contains(&"epoch".to_owned()), "{told:?}");
}

/// Of what was known only the count went back: all of it is there, and what goes on behind it has
/// numbers that were given. It was asked again and again, and nothing passed.
#[test]
fn a_count_that_went_back_ends_the_epoch() {
    let (mut stage, _) = Stage::of_two();
    stage.run(&[b"HSET", b"g:state", b"seq", b"0"]);
    stage.publish_elsewhere(21..=24);
    stage.pump();
    assert_eq!(stage.told(), ["epoch"]);
    stage.publish(3);
    stage.pass(200);
    assert_eq!(stage.told(), ["ack 3 at 1", "3 at 1"]);
}

/// What was to be repaired is trimmed, with what was delivered last: that is no other line.
#[test]
fn what_is_trimmed_is_a_gap_and_no_new_epoch() {
    let (mut stage, _) = Stage::of_two();
    stage.publish_elsewhere(3..=6);
    stage.lose_envelopes();
    stage.run(&[b"XTRIM", b"g:messages:stream", b"MAXLEN", b"2"]);
    stage.pass(3_000);
    assert_eq!(stage.told(), ["lost up to 5", "5 at 5", "6 at 6"]);
    stage.publish(7);
    stage.pass(100);
    assert_eq!(stage.told(), ["ack 7 at 7", "7 at 7"]);
}

/// While it refused writes it may have been a replica: of whom, is asked before it is written to.
#[test]
fn a_redis_that_takes_writes_again_is_greeted_before_it_is_written_to() {
    for why in ["MISCONF no disk", "READONLY it is a replica"] {
        let (mut stage, [_, of_one]) = Stage::of_two();
        stage.fake.refuse_writes(Some(why));
        stage.publish(3);
        stage.pass(1_000);
        assert_eq!(stage.told(), [""; 0], "{why}");
        assert_eq!(stage.records.len(), 1, "{why}: it is held");
        stage.fake.replace(&of_one);
        stage.fake.refuse_writes(None);
        stage.publish_elsewhere(21..=22);
        stage.pass(10_000);
        assert_eq!(stage.told(), ["epoch", "ack 3 at 1", "3 at 1"], "{why}");
    }
}

/// A name may lead to another primary now: only who connects anew learns it.
#[test]
fn a_replica_is_asked_by_another_connection_each_time() {
    let (mut stage, _) = Stage::of_two();
    let before = stage.partition.report().connects;
    stage.fake.refuse_writes(Some("READONLY it is a replica"));
    stage.publish(3);
    stage.pass(20_000);
    let connects = stage.partition.report().connects - before;
    assert!(
        (16..=80).contains(&connects),
        "{connects} in 20 s, two each"
    );
    stage.fake.refuse_writes(None);
    stage.pass(5_000);
    assert_eq!(stage.told(), ["ack 3 at 3", "3 at 3"]);
}
