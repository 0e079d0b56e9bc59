//! What was published and what became of it, as the clients together know; the truth at the end.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::redis::{Redis, Stored};
use super::setup::Setup;

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
    pub(super) acked: HashSet<u64>,
}

/// Offsets that a member passed over in silence: they must be its own, with `echo:false`.
#[derive(Debug)]
pub(super) struct Skipped {
    pub(super) who: (usize, u32),
    pub(super) room: String,
    /// None: it had not joined, and does not know.
    pub(super) epoch: Option<String>,
    pub(super) offset: u64,
}

/// Room, epoch and offset.
type Place = (String, String, u64);

/// See the module.
pub(super) struct Ledger {
    pub(super) setup: Setup,
    pub(super) attempts: Vec<Attempt>,
    /// What stands at a place: room, epoch, offset.
    seen: HashMap<Place, Vec<usize>>,
    pub(super) skipped: Vec<Skipped>,
    /// Whether Redis is well and everything was quiet: nothing may be refused.
    pub(super) is_calm: bool,
    /// Whether an instance had to wait for Redis though that was well: see
    /// `Instance::is_login_slow`.
    pub(super) is_login_slow: bool,
    /// Whether every frame is printed.
    pub(super) trace: bool,
    pub(super) now_ms: u64,
}

impl Ledger {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            setup,
            attempts: Vec::new(),
            seen: HashMap::new(),
            skipped: Vec::new(),
            is_calm: false,
            is_login_slow: false,
            trace: std::env::var_os("RINGCAST_SIM_TRACE").is_some(),
            now_ms: 0,
        }
    }

    /// Whether Redis may have been away for an instance, or may have seemed so.
    pub(super) fn is_faulty(&self) -> bool {
        self.setup.is_faulty() || self.is_login_slow
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

    /// Somebody wants a message in a room who is no client here; returned: its payload.
    pub(super) fn attempt_elsewhere(&mut self, room: String) -> String {
        self.attempts.push(Attempt {
            client: usize::MAX,
            life: 0,
            room,
            id: None,
            echo: true,
            pad: 1,
            tries: 1,
            acked: HashSet::new(),
        });
        format!(r#"{{"n":{},"pad":"x"}}"#, self.attempts.len() - 1)
    }

    /// A member got a message, or a preview of one.
    pub(super) fn on_message(&mut self, epoch: Option<&str>, message: &Value) -> usize {
        let room = message["room"].as_str().expect("a room");
        let serial = self.serial_of(&message["payload"], room);
        let id = message["id"].as_str().expect("an id");
        let own = self.attempts[serial].id.as_deref();
        assert!(own.is_none_or(|own| own == id), "the client's id is kept");
        if let Some(epoch) = epoch {
            let offset = message["offset"].as_u64().expect("an offset");
            self.note(room, epoch, offset, serial);
        }
        serial
    }

    fn serial_of(&self, payload: &Value, room: &str) -> usize {
        let serial = payload["n"].as_u64().expect("one of ours") as usize;
        let attempt = &self.attempts[serial];
        assert_eq!(attempt.room, room, "it came in its room");
        let pad = payload["pad"].as_str().map(str::len);
        assert_eq!(pad, Some(attempt.pad), "it is whole");
        serial
    }

    fn note(&mut self, room: &str, epoch: &str, offset: u64, serial: usize) {
        let place = (room.to_owned(), epoch.to_owned(), offset);
        let known = self.seen.entry(place.clone()).or_default();
        if !known.contains(&serial) {
            known.push(serial);
        }
        assert!(
            known.len() == 1 || self.setup.loses(),
            "everybody sees the same at {place:?}, not {known:?}"
        );
    }

    /// A publish was acked.
    pub(super) fn on_ack(&mut self, serial: usize, offset: u64, id: &str) {
        let attempt = &mut self.attempts[serial];
        let own = attempt.id.as_deref();
        assert!(own.is_none_or(|own| own == id), "its own id is acked");
        attempt.acked.insert(offset);
        let is_one = attempt.acked.len() == 1 || self.setup.loses();
        assert!(is_one, "one id, one offset: {attempt:?}");
    }

    /// Checks the whole against what is stored, and was.
    pub(super) fn finish(&mut self, redis: &mut Redis) {
        let stored: Vec<Stored> = redis.stored().into_values().collect();
        let serial_of = |ledger: &Self, stored: &Stored| {
            let payload = serde_json::from_str(&stored.payload).expect("JSON");
            ledger.serial_of(&payload, &stored.room)
        };
        let mut serials: HashMap<usize, Vec<&Stored>> = HashMap::new();
        let mut places: HashMap<(&str, &str), u64> = HashMap::new();
        for stored in &stored {
            let serial = serial_of(self, stored);
            let before = serials.entry(serial).or_default();
            before.push(stored);
            assert!(
                before.len() == 1,
                "stored twice: {:?} {before:?}",
                self.attempts[serial]
            );
            self.note(&stored.room, &stored.epoch, stored.offset, serial);
            let last = places.entry((&stored.room, &stored.epoch)).or_default();
            assert_eq!(stored.offset, *last + 1, "without holes: {stored:?}");
            *last = stored.offset;
        }
        let epoch = redis.newest("").map(|(epoch, _)| epoch).unwrap_or_default();
        // What was lost before it was acked may stand at the same place again.
        let lost = redis.lost.iter().filter(|(_, lost)| !stored.contains(lost));
        let lines = lost.clone().map(|(loss, lost)| {
            let place = (lost.room.clone(), lost.epoch.clone(), lost.offset);
            ((place, serial_of(self, lost)), *loss)
        });
        let lines: HashMap<_, _> = lines.collect();
        let lost: Vec<&Stored> = lost.map(|(_, lost)| lost).collect();
        for &stored in &lost {
            serials
                .entry(serial_of(self, stored))
                .or_default()
                .push(stored);
        }
        for (serial, attempt) in self.attempts.iter().enumerate() {
            for offset in &attempt.acked {
                let all = serials.get(&serial).map_or(&[][..], Vec::as_slice);
                let there = all.iter().find(|stored| stored.offset == *offset);
                let Some(there) = there else {
                    panic!("what was acked is there: {attempt:?}, but only {all:?}");
                };
                let is_lost = lost.contains(there);
                assert!(
                    !is_lost || there.epoch < epoch,
                    "an acked one was lost within an epoch: {attempt:?} {there:?}"
                );
            }
        }
        // Who goes on with a Redis that has lost something, before those come back who know it, may
        // show its own at the same place; what does not last.
        for ((room, place_epoch, offset), all) in &self.seen {
            let is_lost = |serial: &&usize| {
                let all = serials.get(*serial).into_iter().flatten();
                let mut there = all.filter(|it| (&it.room, it.offset) == (room, *offset));
                there.any(|it| it.epoch == *place_epoch && lost.contains(it))
            };
            let lasting = all.iter().filter(|serial| !is_lost(serial)).count();
            assert!(
                all.len() == 1 || (lasting <= 1 && *place_epoch < epoch),
                "everybody sees the same at {room} {place_epoch} {offset}, not {all:?}"
            );
        }
        self.check_skipped(&serials);
        self.check_order(&lines);
    }

    fn check_skipped(&self, serials: &HashMap<usize, Vec<&Stored>>) {
        let mut at: HashMap<(&str, u64), Vec<(&str, usize)>> = HashMap::new();
        for (&serial, all) in serials {
            for stored in all {
                let place = at.entry((&stored.room, stored.offset)).or_default();
                place.push((&stored.epoch, serial));
            }
        }
        for skipped in &self.skipped {
            let all = at.get(&(skipped.room.as_str(), skipped.offset));
            let is_own = all.into_iter().flatten().any(|&(epoch, serial)| {
                let attempt = &self.attempts[serial];
                let is_there = skipped.epoch.as_deref().is_none_or(|it| it == epoch);
                is_there && !attempt.echo && (attempt.client, attempt.life) == skipped.who
            });
            assert!(is_own, "not given: {skipped:?}, there are {all:?}");
        }
    }

    /// One publisher's messages to one room keep their order. `lines`: what was lost, and by which
    /// loss: what was stored at the same places since is another line.
    fn check_order(&self, lines: &HashMap<(Place, usize), u32>) {
        let mut order = BTreeMap::new();
        let all = self.seen.iter();
        let all = all.flat_map(|(place, serials)| serials.iter().map(move |it| (place, it)));
        for (place, serial) in all {
            let (room, epoch, offset) = place;
            let line = lines.get(&(place.clone(), *serial));
            let attempt = &self.attempts[*serial];
            if attempt.tries == 1 {
                let publisher = (room, attempt.client, attempt.life);
                let places = order.entry(publisher).or_insert_with(Vec::new);
                places.push((epoch, line, *offset, *serial));
            }
        }
        for (publisher, mut places) in order {
            places.sort_unstable();
            // What was lost and sent again stands in both epochs.
            let mut last = HashMap::new();
            for (epoch, line, offset, serial) in places {
                let before = last.insert((epoch, line), serial);
                let is_next = before.is_none_or(|before| before < serial);
                assert!(
                    is_next,
                    "{publisher:?} in order: {before:?}, {serial} at {offset}"
                );
            }
        }
    }
}
