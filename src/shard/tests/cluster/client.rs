//! A client of a cluster that knows the contract and nothing else, and holds the servers to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use fastrand::Rng;
use serde_json::Value;

use super::oracle::{Attempt, Ledger, Skipped};
use crate::hub::ConnIndex;
use crate::shard::tests::client::Phase;
use crate::shard::tests::frames;

mod acts;

/// A room as a member sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// `None`: a personal room that was not joined.
    pub(super) epoch: Option<String>,
    pub(super) next: u64,
    presence: bool,
}

/// What a frame with a `ref` waits for.
#[derive(Clone, Debug)]
enum Pending {
    Join {
        room: String,
        since: Option<(String, u64)>,
        presence: bool,
    },
    Leave(String),
    Publish(usize),
    Members(String),
    Ping,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) phase: Phase,
    /// Instance, shard and socket.
    pub(super) link: Option<(usize, u16, ConnIndex)>,
    pub(super) id: String,
    pub(super) life: u32,
    pub(super) views: BTreeMap<String, View>,
    /// Where it was in each room, for the next time.
    pub(super) last: BTreeMap<String, (String, u64)>,
    pending: HashMap<u64, Pending>,
    refs: u64,
    input: Vec<u8>,
    is_degraded: bool,
    previews: HashSet<String>,
    /// It has joined its own room, and may have left it.
    pub(super) joined_own: bool,
    /// Who is in a room, as it was told last.
    pub(super) members: BTreeMap<String, (u64, BTreeSet<String>)>,
    pub(super) deaf_until_ms: u64,
}

impl Client {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            phase: Phase::Away,
            link: None,
            id: String::new(),
            life: 0,
            views: BTreeMap::new(),
            last: BTreeMap::new(),
            pending: HashMap::new(),
            refs: 0,
            input: Vec::new(),
            is_degraded: false,
            previews: HashSet::new(),
            joined_own: false,
            members: BTreeMap::new(),
            deaf_until_ms: 0,
        }
    }

    /// Begins a connection: the request head.
    pub(super) fn connect(&mut self, link: (usize, u16, ConnIndex), rng: &mut Rng) -> Vec<u8> {
        self.link = Some(link);
        self.phase = Phase::Upgrading;
        self.life += 1;
        self.id.clear();
        self.input.clear();
        self.is_degraded = false;
        self.previews.clear();
        self.joined_own = false;
        let name = match rng.bool() {
            true => format!("?username=n{}", self.number),
            false => String::new(),
        };
        format!(
            "GET /ws{name} HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        .into_bytes()
    }

    /// The connection is no more.
    pub(super) fn on_end(&mut self) {
        self.link = None;
        self.phase = Phase::Away;
        self.views.clear();
        self.pending.clear();
        self.members.clear();
    }

    /// Bytes came; what is to be answered at once is appended to `out`.
    pub(super) fn on_bytes(
        &mut self,
        bytes: &[u8],
        ledger: &mut Ledger,
        rng: &mut Rng,
        out: &mut Vec<u8>,
    ) {
        self.input.extend_from_slice(bytes);
        if self.phase == Phase::Upgrading {
            let end = self.input.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return };
            assert!(self.input.starts_with(b"HTTP/1.1 101"), "upgraded");
            self.input.drain(..end + 4);
            self.phase = Phase::Open;
        }
        while let Some((opcode, payload)) = frames::take(&mut self.input, false) {
            match opcode {
                frames::TEXT => {
                    let frame = serde_json::from_slice(&payload).expect("JSON");
                    self.on_frame(&frame, ledger);
                }
                frames::PING => frames::push(out, rng, frames::PONG, &payload),
                frames::CLOSE => {
                    if self.phase == Phase::Open {
                        let code = u16::from_be_bytes([payload[0], payload[1]]);
                        panic!("client {} is closed with {code}", self.number);
                    }
                    self.phase = Phase::Closing;
                }
                other => panic!("opcode {other} is not sent here"),
            }
        }
    }

    fn on_frame(&mut self, frame: &Value, ledger: &mut Ledger) {
        let room = frame["room"].as_str().unwrap_or_default();
        let kind = frame["type"].as_str().expect("a type");
        if ledger.trace {
            eprintln!("<- {} at {} {frame}", self.number, ledger.now_ms);
        }
        let is_first = self.id.is_empty();
        assert_eq!(is_first, kind == "welcome", "welcome is first, and once");
        match kind {
            "welcome" => self.id = frame["client_id"].as_str().expect("an id").into(),
            "joined" => self.on_joined(room, frame, ledger),
            "left" => {
                let pending = self.answer(frame);
                assert!(matches!(pending, Pending::Leave(of) if of == room));
                self.views.remove(room);
            }
            "message" => self.on_message(room, frame, ledger),
            "gap" => self.on_gap(room, frame, ledger),
            "ack" => self.on_ack(frame, ledger),
            "error" => self.on_error(frame, ledger),
            "members" => {
                let Pending::Members(asked) = self.answer(frame) else {
                    panic!("not asked for: {frame}");
                };
                assert_eq!(asked, room);
                let all = frame["members"].as_array().expect("a list").iter();
                let ids = all.map(|user| user["user_id"].as_str().expect("an id").to_owned());
                let count = frame["count"].as_u64().expect("a count");
                self.members.insert(room.into(), (count, ids.collect()));
            }
            "pong" => assert!(matches!(self.answer(frame), Pending::Ping)),
            "signal" => self.check_member(room, frame),
            "foreign" if room.is_empty() => {}
            "foreign" => self.check_member(room, frame),
            "presence" => {
                let view = self.views.get(room).expect("of a room that it has joined");
                assert!(view.presence, "who did not ask for presence gets none");
            }
            "pending" => {
                self.check_member(room, frame);
                let serial = ledger.on_message(None, frame);
                let is_new = self.previews.insert(frame["id"].to_string());
                let is_again = ledger.attempts[serial].tries > 1;
                assert!(is_new || is_again, "a preview is not repeated: {frame}");
            }
            "degraded" => {
                let is = frame["degraded"].as_bool().expect("true or false");
                assert_ne!(
                    is, self.is_degraded,
                    "client {}: they alternate",
                    self.number
                );
                assert!(!is || ledger.is_faulty(), "Redis is well: {frame}");
                self.is_degraded = is;
            }
            other => panic!("{other} is not sent here"),
        }
    }

    fn check_member(&self, room: &str, frame: &Value) {
        let is_own = room.strip_prefix('@') == Some(&self.id);
        let may = self.views.contains_key(room) || is_own;
        assert!(may, "client {} is no member: {frame}", self.number);
    }

    /// What a frame answers.
    fn answer(&mut self, frame: &Value) -> Pending {
        let reference = frame["ref"].as_u64().expect("a ref of ours");
        let pending = self.pending.remove(&reference);
        pending.unwrap_or_else(|| panic!("client {}: answered twice: {frame}", self.number))
    }

    fn on_joined(&mut self, room: &str, frame: &Value, ledger: &mut Ledger) {
        let epoch = frame["epoch"].as_str().expect("an epoch").to_owned();
        let offset = frame["offset"].as_u64().expect("an offset");
        let recovered = frame.get("recovered").and_then(Value::as_bool);
        let number = self.number;
        let before = self.views.get(room).cloned();
        let epoch_before = before.as_ref().and_then(|view| view.epoch.clone());
        if frame.get("ref").is_none() {
            assert_eq!(recovered, Some(false), "unasked: {frame}");
            assert!(ledger.setup.loses(), "nothing was lost: {frame}");
            let view = self.views.get_mut(room).expect("a member");
            assert!(
                epoch_before.is_some_and(|it| it < epoch),
                "client {number}: {frame}"
            );
            (view.next, view.epoch) = (offset + 1, Some(epoch.clone()));
            self.last.insert(room.into(), (epoch, offset));
            return;
        }
        let Pending::Join {
            room: asked,
            since,
            presence,
        } = self.answer(frame)
        else {
            panic!("not asked for: {frame}");
        };
        assert_eq!(asked, room);
        assert_eq!(since.is_some(), recovered.is_some(), "it answers since");
        match (recovered, since, before) {
            (Some(true), Some(since), _) => {
                assert_eq!(
                    (&epoch, offset),
                    (&since.0, since.1),
                    "it goes on where it was"
                );
            }
            (None, _, Some(view)) if epoch_before.as_ref() == Some(&epoch) => {
                assert!(
                    offset + 1 >= view.next,
                    "client {number} goes back: {frame}"
                );
                self.skip(room, view.next..offset + 1, ledger);
            }
            (None, _, Some(view)) => {
                let is_newer = view.epoch.is_none_or(|it| it < epoch);
                assert!(is_newer, "client {number} goes back: {frame}");
            }
            (Some(false), Some(since), _) => {
                let excused = ledger.setup.loses() || !ledger.is_calm;
                assert!(
                    excused,
                    "client {number}: all is there since {since:?}: {frame}"
                );
            }
            _ => {}
        }
        self.last.insert(room.into(), (epoch.clone(), offset));
        let view = View {
            next: offset + 1,
            epoch: Some(epoch),
            presence,
        };
        self.views.insert(room.into(), view);
    }

    /// These offsets don't come: they must be its own.
    pub(super) fn skip(&self, room: &str, offsets: std::ops::Range<u64>, ledger: &mut Ledger) {
        let epoch = self.views.get(room).and_then(|view| view.epoch.clone());
        ledger.skipped.extend(offsets.map(|offset| Skipped {
            who: (self.number, self.life),
            room: room.into(),
            epoch: epoch.clone(),
            offset,
        }));
    }

    /// The view of a room that something came of; a personal one's begins by itself.
    fn view(&mut self, room: &str, next: u64) -> &mut View {
        if room.strip_prefix('@') == Some(&self.id) && !self.views.contains_key(room) {
            let view = View {
                next,
                ..View::default()
            };
            self.views.insert(room.into(), view);
        }
        let number = self.number;
        let view = self.views.get_mut(room);
        view.unwrap_or_else(|| panic!("client {number} is no member of {room}"))
    }

    fn on_message(&mut self, room: &str, frame: &Value, ledger: &mut Ledger) {
        let offset = frame["offset"].as_u64().expect("an offset");
        let number = self.number;
        let first = if self.joined_own { offset } else { 1 };
        let view = self.view(room, first);
        if offset < view.next {
            let is_other_life = view.epoch.is_none() && ledger.setup.loses();
            assert!(is_other_life, "client {number} got {room} {offset} twice");
            view.next = offset;
        }
        let (next, epoch) = (view.next, view.epoch.clone());
        view.next = offset + 1;
        ledger.on_message(epoch.as_deref(), frame);
        if epoch.is_some() || !ledger.setup.loses() {
            self.skip(room, next..offset, ledger);
        }
        if let Some(epoch) = epoch {
            self.last.insert(room.into(), (epoch, offset));
        }
    }

    fn on_gap(&mut self, room: &str, frame: &Value, ledger: &mut Ledger) {
        let number = self.number;
        assert!(
            ledger.setup.may_gap(),
            "client {number} need miss nothing: {frame}"
        );
        let from = frame["from"].as_u64().expect("from");
        let to = frame["to"].as_u64().expect("to");
        let view = self.view(room, from);
        if view.epoch.is_none() && ledger.setup.loses() {
            view.next = view.next.min(from);
        }
        assert!(view.next <= from && from <= to, "{frame}, at {}", view.next);
        let next = std::mem::replace(&mut view.next, to + 1);
        self.skip(room, next..from, ledger);
    }

    fn on_ack(&mut self, frame: &Value, ledger: &mut Ledger) {
        let offset = frame["offset"].as_u64().expect("an offset");
        let id = frame["id"].as_str().expect("an id");
        let serial = match frame.get("ref") {
            Some(_) => match self.answer(frame) {
                Pending::Publish(serial) => serial,
                other => panic!("an ack for {other:?}"),
            },
            None => {
                let mine = |attempt: &Attempt| attempt.id.as_deref() == Some(id);
                let found = ledger.attempts.iter().position(mine);
                found.expect("an id of ours")
            }
        };
        ledger.on_ack(serial, offset, id);
    }

    fn on_error(&mut self, frame: &Value, ledger: &mut Ledger) {
        let code = frame["code"].as_str().expect("a code");
        let away = ledger.is_faulty() && !ledger.is_calm;
        let pending = frame.get("ref").map(|_| self.answer(frame));
        let allowed = match (code, &pending) {
            (
                "unavailable",
                Some(Pending::Publish(_) | Pending::Join { .. } | Pending::Members(_)) | None,
            ) => away,
            ("not_joined", Some(Pending::Leave(_) | Pending::Join { .. }) | None) => true,
            _ => false,
        };
        assert!(allowed, "client {}: {frame} for {pending:?}", self.number);
    }

    /// What must hold when all is quiet: `newest` gives a room's epoch and last offset.
    pub(super) fn check_caught_up(
        &mut self,
        ledger: &mut Ledger,
        mut newest: impl FnMut(&str) -> Option<(String, u64)>,
    ) {
        let number = self.number;
        assert!(
            self.pending.is_empty(),
            "client {number} waits for {:?}",
            self.pending
        );
        assert!(self.input.is_empty(), "half a frame is left");
        assert!(
            !self.is_degraded,
            "client {number} was not told that Redis is back"
        );
        for (room, view) in &self.views.clone() {
            let (epoch, last) = newest(room).expect("Redis has an epoch");
            assert!(
                view.epoch.as_ref().is_none_or(|it| *it == epoch),
                "client {number} is in {view:?} of {room}, not in {epoch}"
            );
            if view.epoch.is_some() || !ledger.setup.loses() {
                assert!(
                    view.next <= last + 1,
                    "client {number}: {room} {view:?}, {last}"
                );
                self.skip(room, view.next..last + 1, ledger);
            }
            if let Some(view) = self.views.get_mut(room) {
                view.next = last + 1;
            }
        }
        let own = format!("@{}", self.id);
        if !self.views.contains_key(&own) && !ledger.setup.loses() && !self.joined_own {
            let last = newest(&own).map_or(0, |(_, last)| last);
            self.skip(&own, 1..last + 1, ledger);
        }
    }
}
