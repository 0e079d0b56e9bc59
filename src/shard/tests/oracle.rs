//! What was published and what became of it, as the clients together know; the truth at the end.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::setup::Setup;
use super::store::Store;

/// One message that a client wants in a room; it may be sent several times, if it has an id.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) client: usize,
    pub(super) life: u32,
    pub(super) room: String,
    pub(super) id: Option<String>,
    pub(super) echo: bool,
    pub(super) pad: usize,
    pub(super) tries: u32,
    /// When it was first sent, in frames sent by all.
    pub(super) at: u64,
    pub(super) acked: Option<u64>,
    pub(super) refused: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) setup: Setup,
    pub(super) attempts: Vec<Attempt>,
    /// What stands at a place: room, epoch, offset.
    seen: HashMap<(String, String, u64), (usize, String)>,
    pub(super) newest_acked: HashMap<String, u64>,
    pub(super) clock: u64,
    /// Whether every frame is printed.
    pub(super) trace: bool,
}

impl Ledger {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            setup,
            attempts: Vec::new(),
            seen: HashMap::new(),
            newest_acked: HashMap::new(),
            clock: 0,
            trace: std::env::var_os("RINGCAST_SIM_TRACE").is_some(),
        }
    }

    /// The frame to publish an attempt with.
    pub(super) fn frame(&mut self, serial: usize, reference: Option<u64>) -> String {
        let attempt = &mut self.attempts[serial];
        attempt.tries += 1;
        let mut frame = format!(
            r#"{{"type":"publish","room":"{}","payload":{{"n":{serial},"pad":"{}"}}"#,
            attempt.room,
            "x".repeat(attempt.pad)
        );
        if let Some(id) = &attempt.id {
            frame += &format!(r#","id":"{id}""#);
        }
        if !attempt.echo {
            frame += r#","echo":false"#;
        }
        if let Some(reference) = reference {
            frame += &format!(r#","ref":{reference}"#);
        }
        frame + "}"
    }

    /// A member got a message; gives its serial.
    pub(super) fn on_message(&mut self, epoch: Option<&str>, message: &Value) -> usize {
        let serial = self.serial_of(&message["payload"], message["room"].as_str().expect("room"));
        let id = message["id"].as_str().expect("an id").to_owned();
        let attempt = &self.attempts[serial];
        assert!(
            attempt.id.as_ref().is_none_or(|own| *own == id),
            "the client's id is kept"
        );
        assert!(
            attempt.tries > attempt.refused || attempt.acked.is_some(),
            "what was refused is delivered: {attempt:?}"
        );
        if let Some(epoch) = epoch {
            let offset = message["offset"].as_u64().expect("an offset");
            self.note(&attempt.room.clone(), epoch, offset, serial, id);
        }
        serial
    }

    fn serial_of(&self, payload: &Value, room: &str) -> usize {
        let serial = payload["n"].as_u64().expect("one of ours") as usize;
        let attempt = &self.attempts[serial];
        assert_eq!(
            attempt.room, room,
            "it came in the room it was published to"
        );
        assert_eq!(
            payload["pad"].as_str().map(str::len),
            Some(attempt.pad),
            "it is whole"
        );
        serial
    }

    fn note(&mut self, room: &str, epoch: &str, offset: u64, serial: usize, id: String) {
        let place = (room.to_owned(), epoch.to_owned(), offset);
        let known = self
            .seen
            .entry(place.clone())
            .or_insert_with(|| (serial, id.clone()));
        assert_eq!(*known, (serial, id), "everybody sees the same at {place:?}");
    }

    /// A publish was acked.
    pub(super) fn on_ack(&mut self, serial: usize, offset: u64, id: &str) {
        let attempt = &mut self.attempts[serial];
        assert!(
            attempt.id.as_deref().is_none_or(|own| own == id),
            "its own id is acked"
        );
        let before = attempt.acked.replace(offset);
        assert!(
            before.is_none_or(|before| before == offset),
            "one id, one offset: {attempt:?}"
        );
        let newest = self.newest_acked.entry(attempt.room.clone()).or_default();
        *newest = offset.max(*newest);
    }

    /// Checks the whole against what is stored.
    pub(super) fn finish(&mut self, store: &Store) {
        let epoch = store.epoch.as_str().to_owned();
        for (room, rows) in &store.rooms {
            let (mut serials, mut ids) = (HashSet::new(), HashSet::new());
            for row in rows {
                let payload = serde_json::from_slice(&row.payload).expect("JSON");
                let serial = self.serial_of(&payload, room.as_str());
                assert!(
                    serials.insert(serial),
                    "stored twice: {:?}",
                    self.attempts[serial]
                );
                assert!(ids.insert(row.id), "an id is stored twice");
                self.note(
                    room.as_str(),
                    &epoch,
                    row.offset,
                    serial,
                    row.id.to_string(),
                );
            }
        }
        for (serial, attempt) in self.attempts.iter().enumerate() {
            let place = |offset| (attempt.room.clone(), epoch.clone(), offset);
            if self.setup.stored
                && let Some(offset) = attempt.acked
            {
                let there = self.seen.get(&place(offset)).map(|&(serial, _)| serial);
                assert_eq!(there, Some(serial), "what was acked is there: {attempt:?}");
            }
        }
        self.check_order();
    }

    /// One publisher's messages to one room keep their order.
    fn check_order(&self) {
        let mut order = BTreeMap::new();
        for ((room, epoch, offset), (serial, _)) in &self.seen {
            let attempt = &self.attempts[*serial];
            if attempt.tries == 1 {
                let publisher = (room, epoch, attempt.client, attempt.life);
                order
                    .entry(publisher)
                    .or_insert_with(Vec::new)
                    .push((*offset, *serial));
            }
        }
        for (publisher, mut places) in order {
            places.sort_unstable();
            let serials = places.iter().map(|&(_, serial)| serial);
            assert!(serials.is_sorted(), "{publisher:?} in order: {places:?}");
        }
    }

    /// A member passed over an offset in silence: it must be its own, with `echo:false`.
    pub(super) fn check_skipped(
        &self,
        room: &str,
        epoch: Option<&str>,
        offset: u64,
        (client, life): (usize, u32),
        is_live: bool,
    ) {
        let own =
            |attempt: &Attempt| attempt.client == client && attempt.life == life && !attempt.echo;
        let seen =
            epoch.and_then(|epoch| self.seen.get(&(room.to_owned(), epoch.to_owned(), offset)));
        let is_own = match seen {
            Some((serial, _)) => own(&self.attempts[*serial]),
            None => {
                !is_live
                    || self.attempts.iter().any(|attempt| {
                        own(attempt) && attempt.room == room && attempt.acked == Some(offset)
                    })
            }
        };
        assert!(
            is_own,
            "client {client} was not given {room} {offset}: {seen:?}"
        );
    }
}
