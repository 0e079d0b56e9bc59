//! Another takes the place of Redis that misses some of what was stored last, and others have
//! stored as much in its place since: nothing of it is heard, and no connection breaks.

use super::Redis;
use crate::backplane::redis::names::Names;
use crate::backplane::redis::script::Script;
use crate::backplane::redis::script::publish::{Call, Caller};
use crate::model::{Epoch, MessageId, Name, Publication, RoomName, Timestamp};
use crate::protocol::event::message;
use crate::shard::tests::cluster::setup::PREFIX;

impl Redis {
    /// How many messages the oldest snapshot of this epoch misses; it is the one that
    /// [`Redis::take_another_line`] takes. `None`: there is none, or it misses nothing.
    pub(in crate::shard::tests::cluster) fn missed_by_oldest(&mut self) -> Option<u64> {
        let (epoch, seq) = self.reached()?;
        let now = self.fake.snapshot();
        while let Some(oldest) = self.snapshots.front().cloned() {
            self.fake.replace(&oldest);
            let reached = self.reached();
            self.fake.replace(&now);
            match reached {
                Some((of, at)) if of == epoch && at < seq => return Some(seq - at),
                _ => self.snapshots.pop_front(),
            };
        }
        None
    }

    /// Another takes its place, and as many others have been stored there as it misses: of each
    /// the room and the payload.
    pub(in crate::shard::tests::cluster) fn take_another_line(
        &mut self,
        tail: &[(String, String)],
    ) {
        let reached = self.reached();
        let snapshot = self.snapshots.pop_front().expect("it was looked at");
        let before = self.stored();
        self.fake.replace(&snapshot);
        for messages in tail.chunks(100) {
            self.store_unheard(messages);
        }
        assert_eq!(self.reached(), reached, "it is as long");
        self.note_loss(before);
    }

    /// Epoch and number.
    fn reached(&mut self) -> Option<(String, u64)> {
        let state = format!("{PREFIX}:state");
        let hash = self.fake.data().hash(state.as_bytes()).ok()??;
        let text = |field: &str| {
            let value = hash.get(field.as_bytes());
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        Some((text("epoch")?, text("seq")?.parse().expect("a number")))
    }

    /// The script is run as somebody runs it whose channel nobody hears.
    fn store_unheard(&mut self, messages: &[(String, String)]) {
        let number = self.fake.count("publish.lua") + 1;
        let publication = |(room, payload): &(String, String)| Publication {
            room: RoomName::parse(room).expect("a name"),
            epoch: Epoch::new(0, 0),
            offset: 0,
            id: MessageId::from_u128(self.rng.u128(..)),
            client_id_given: false,
            user_id: Name::new("elsewhere"),
            username: None,
            payload: payload.clone().into(),
            metadata: None,
            sent_at: Timestamp(super::WALL_MS),
        };
        let messages: Vec<_> = messages.iter().map(publication).collect();
        let mut names = Names::new(PREFIX, 0, 1);
        names.broadcast = format!("{PREFIX}:unheard");
        let caller = Caller::new(names, "elsewhere", 600_000, message);
        let call = Call {
            producer: &format!("elsewhere-{number}"),
            base: 1,
            first_number: 1,
            messages: &messages,
        };
        let mut load = vec![];
        Script::Publish.push_load(&mut load);
        let sha = self.fake.ask_apart(&load, "$");
        let sha = sha.split(|byte| *byte == b'\n').nth(1).expect("two lines");
        let mut out = vec![];
        caller.push(&mut out, sha.trim_ascii(), Epoch::new(1, 0), &call);
        self.fake.ask_apart(&out, "*");
    }
}
