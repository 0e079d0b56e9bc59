//! Pages of the past that could not be read at once.

use bytes::Bytes;

use super::stage::{Peer, Stage, options};
use crate::backplane::{StoreReply, StoreRequest};
use crate::model::limits::{PAGE_RETRY_MS, PAGE_TRIES_MAX};
use crate::model::{Epoch, MessageId, Name, Publication, RoomName, Timestamp};

/// A member that has missed four messages and was sent the first two; the page of the others is
/// asked for.
struct OnItsWay {
    stage: Stage,
    peer: Peer,
    room: RoomName,
    epoch: Epoch,
}

impl OnItsWay {
    fn new() -> Self {
        let mut this = Self::resuming();
        this.stage.answer(StoreReply::Missing(Ok(vec![None])));
        this.answer(Ok(1..=2));
        let heard = this.heard();
        assert!(heard.contains("\"recovered\":true"), "{heard}");
        assert_eq!(heard.matches("\"type\":\"message\"").count(), 2, "{heard}");
        this
    }

    /// It is not answered yet.
    fn resuming() -> Self {
        let mut stage = Stage::new(options(1, true));
        let peer = stage.connect(0, "/ws");
        let (room, epoch) = (RoomName::parse("r").unwrap(), Epoch::new(1, 1));
        let since = format!(r#"{{"epoch":"{}","offset":0}}"#, epoch.as_str());
        stage.say(
            peer,
            &format!(r#"{{"type":"join","room":"r","since":{since},"ref":1}}"#),
        );
        stage.pump();
        stage.answer(StoreReply::Opened(room.clone(), Ok((epoch, 4))));
        Self {
            stage,
            peer,
            room,
            epoch,
        }
    }

    /// Whether the page from the third message on is asked for.
    fn is_asked(&self) -> bool {
        let wants = |(_, request): &(_, StoreRequest)| {
            matches!(request, StoreRequest::Read { from: 3, .. })
        };
        self.stage.asked.iter().any(wants)
    }

    /// Answers the page that is asked for.
    fn answer(&mut self, page: Result<std::ops::RangeInclusive<u64>, &str>) {
        let from = match &self.stage.asked[0].1 {
            StoreRequest::Read { from, .. } => *from,
            other => panic!("{other:?}"),
        };
        let publication = |offset| Publication {
            room: self.room.clone(),
            epoch: self.epoch,
            offset,
            id: MessageId::from_u128(offset.into()),
            client_id_given: false,
            user_id: Name::from("u"),
            username: None,
            payload: Bytes::from(offset.to_string()),
            metadata: None,
            sent_at: Timestamp(1_700_000_000_000),
        };
        let publications = page.map(|offsets| offsets.map(publication).collect());
        self.stage.answer(StoreReply::Read {
            room: self.room.clone(),
            epoch: self.epoch,
            from,
            publications: publications.map_err(str::to_owned),
        });
    }

    fn heard(&mut self) -> String {
        self.stage.heard(self.peer)
    }
}

/// What is missing anywhere is known before `joined`, and then nothing is replayed.
#[test]
fn a_hole_deep_in_the_past_is_told_by_joined() {
    let mut way = OnItsWay::resuming();
    let (from, until) = match &way.stage.asked[0].1 {
        StoreRequest::Missing(stretches) => (stretches[0].from, stretches[0].until),
        other => panic!("{other:?}"),
    };
    assert_eq!((from, until), (1, 5), "up to where the log begins");
    way.stage.answer(StoreReply::Missing(Ok(vec![Some(3)])));
    let heard = way.heard();
    assert!(heard.contains("\"recovered\":false"), "{heard}");
    assert!(heard.contains("\"offset\":4"), "{heard}");
    assert!(!heard.contains("\"type\":\"message\""), "{heard}");
    assert!(way.stage.asked.is_empty(), "{:?}", way.stage.asked);
}

#[test]
fn a_past_that_can_not_be_looked_at_is_no_loss() {
    let mut way = OnItsWay::resuming();
    let away = Err("the store is away".to_owned());
    way.stage.answer(StoreReply::Missing(away));
    let heard = way.heard();
    assert!(heard.contains("\"code\":\"unavailable\""), "{heard}");
    assert!(!heard.contains("joined"), "{heard}");
}

#[test]
fn a_page_that_could_not_be_read_is_read_again_and_nothing_is_missing() {
    let mut way = OnItsWay::new();
    for _ in 0..3 {
        assert!(way.is_asked());
        way.answer(Err("the store is away"));
        assert!(!way.is_asked(), "at once would be a busy loop");
        way.stage.pass(PAGE_RETRY_MS);
    }
    assert_eq!(way.heard(), "", "nothing is missing yet");
    way.answer(Ok(3..=4));
    let heard = way.heard();
    for offset in [3, 4] {
        assert!(heard.contains(&format!("\"offset\":{offset}")), "{heard}");
    }
    assert!(!heard.contains("gap"), "{heard}");
}

#[test]
fn a_page_that_can_never_be_read_is_told_as_a_gap_in_the_end() {
    let mut way = OnItsWay::new();
    for tried in 0..=PAGE_TRIES_MAX {
        assert!(way.is_asked(), "tried {tried} times");
        let heard = way.heard();
        assert!(!heard.contains("gap"), "{heard}");
        way.answer(Err("the store is away"));
        way.stage.pass(PAGE_RETRY_MS);
    }
    assert!(!way.is_asked());
    let heard = way.heard();
    assert!(heard.contains("\"type\":\"gap\""), "{heard}");
    assert!(heard.contains("\"from\":3,\"to\":4"), "{heard}");
}
