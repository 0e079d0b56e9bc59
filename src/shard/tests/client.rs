//! A client that knows the contract and nothing else, and holds the server to it.

use std::collections::{BTreeMap, HashMap, HashSet};

use fastrand::Rng;
use serde_json::Value;

use super::frames;
use super::oracle::{Attempt, Ledger};
use crate::hub::ConnIndex;
use crate::shard::SlowConsumer;

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Away,
    Upgrading,
    Open,
    Closing,
}

/// A room as a member sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// `None`: a personal room that was not joined.
    pub(super) epoch: Option<String>,
    pub(super) next: u64,
    pub(super) skipped: Vec<u64>,
}

/// What a frame with a `ref` waits for.
#[derive(Clone, Debug)]
enum Pending {
    Join {
        room: String,
        since: Option<(String, u64)>,
        acked: u64,
    },
    Leave(String),
    Publish(usize),
    Other(&'static str),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) phase: Phase,
    /// Shard and socket.
    pub(super) link: Option<(u16, ConnIndex)>,
    pub(super) id: String,
    pub(super) life: u32,
    pub(super) views: BTreeMap<String, View>,
    /// Where it was in each room, for the next time.
    last: BTreeMap<String, (String, u64)>,
    pending: HashMap<u64, Pending>,
    refs: u64,
    input: Vec<u8>,
    /// Whether compression was agreed on.
    deflates: bool,
    received: HashSet<usize>,
    /// Offsets of its own personal room that it was told to be missing.
    gaps: Vec<(u64, u64)>,
    opened_at: u64,
    joined_own: bool,
    pub(super) going_away: bool,
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
            deflates: false,
            received: HashSet::new(),
            gaps: Vec::new(),
            opened_at: 0,
            joined_own: false,
            going_away: false,
        }
    }

    /// Begins a connection: the request head.
    pub(super) fn connect(&mut self, link: (u16, ConnIndex), rng: &mut Rng) -> Vec<u8> {
        self.link = Some(link);
        self.phase = Phase::Upgrading;
        self.life += 1;
        self.id.clear();
        self.input.clear();
        self.received.clear();
        self.gaps.clear();
        self.joined_own = false;
        let name = if rng.bool() {
            format!("?username=n{}", self.number)
        } else {
            String::new()
        };
        let offer = match rng.bool() {
            true => "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            false => "",
        };
        format!(
            "GET /ws{name} HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             {offer}Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        .into_bytes()
    }

    /// The connection is no more.
    pub(super) fn on_end(&mut self, ledger: &Ledger) {
        self.check_views(ledger, false);
        self.link = None;
        self.phase = Phase::Away;
        self.views.clear();
        self.pending.clear();
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
            if !self.input.starts_with(b"HTTP/1.1 101") {
                assert!(
                    self.input.starts_with(b"HTTP/1.1 503"),
                    "upgraded, or not now"
                );
                return;
            }
            let head = String::from_utf8_lossy(&self.input[..end]);
            self.deflates = head.contains("permessage-deflate");
            self.input.drain(..end + 4);
            self.phase = Phase::Open;
        }
        while let Some((opcode, payload)) = frames::take(&mut self.input, self.deflates) {
            match opcode {
                frames::TEXT => {
                    let frame = serde_json::from_slice(&payload).expect("JSON");
                    self.on_frame(&frame, ledger);
                }
                frames::PING => frames::push(out, rng, frames::PONG, &payload),
                frames::CLOSE => {
                    if self.phase == Phase::Open {
                        frames::push(out, rng, frames::CLOSE, &payload[..2]);
                        self.on_close(u16::from_be_bytes([payload[0], payload[1]]), ledger);
                    }
                    self.phase = Phase::Closing;
                }
                other => panic!("opcode {other} is not sent here"),
            }
        }
    }

    fn on_close(&self, code: u16, ledger: &Ledger) {
        let setup = &ledger.setup;
        let slow = setup.slow_consumer == SlowConsumer::Disconnect;
        match code {
            4002 => assert!(slow && setup.may_gap(), "not a slow consumer"),
            1001 => assert!(self.going_away, "closed without a word"),
            1008 => {}
            code => panic!("closed with {code}"),
        }
    }

    fn on_frame(&mut self, frame: &Value, ledger: &mut Ledger) {
        let room = frame["room"].as_str().unwrap_or_default();
        let kind = frame["type"].as_str().expect("a type");
        if ledger.trace {
            eprintln!("<- {} {frame}", self.number);
        }
        assert_eq!(
            self.id.is_empty(),
            kind == "welcome",
            "welcome is first, and once"
        );
        match kind {
            "welcome" => {
                self.id = frame["client_id"].as_str().expect("an id").into();
                self.opened_at = ledger.clock;
            }
            "joined" => self.on_joined(room, frame, ledger),
            "left" => {
                let pending = self.answer(frame);
                assert!(
                    matches!(pending, Pending::Leave(of) if of == room),
                    "left what it left"
                );
                if let Some(view) = self.views.remove(room) {
                    self.check_view(room, &view, ledger, false);
                }
            }
            "message" => self.on_message(room, frame, ledger),
            "gap" => self.on_gap(room, frame, ledger),
            "ack" => {
                let offset = frame["offset"].as_u64().expect("an offset");
                let id = frame["id"].as_str().expect("an id");
                let serial = match frame.get("ref") {
                    Some(_) => match self.answer(frame) {
                        Pending::Publish(serial) => serial,
                        other => panic!("an ack for {other:?}"),
                    },
                    None => {
                        let mine = |attempt: &Attempt| attempt.id.as_deref() == Some(id);
                        ledger
                            .attempts
                            .iter()
                            .position(mine)
                            .expect("an id of ours")
                    }
                };
                ledger.on_ack(serial, offset, id);
            }
            "error" => self.on_error(frame, ledger),
            "members" => assert!(matches!(self.answer(frame), Pending::Other("members"))),
            "pong" => assert!(matches!(self.answer(frame), Pending::Other("ping"))),
            "signal" | "presence" => assert!(
                self.views.contains_key(room) || room.ends_with(&self.id),
                "{kind} for a member only"
            ),
            "going_away" => self.going_away = true,
            other => panic!("{other} is not sent here"),
        }
    }

    /// What a frame answers.
    fn answer(&mut self, frame: &Value) -> Pending {
        let reference = frame["ref"].as_u64().expect("a ref of ours");
        self.pending
            .remove(&reference)
            .unwrap_or_else(|| panic!("answered twice: {frame}"))
    }

    fn on_joined(&mut self, room: &str, frame: &Value, ledger: &Ledger) {
        let Pending::Join {
            room: asked,
            since,
            acked,
        } = self.answer(frame)
        else {
            panic!("not asked for: {frame}");
        };
        assert_eq!(asked, room);
        let (stored, may_gap) = (ledger.setup.stored, ledger.setup.may_gap());
        let epoch = frame["epoch"].as_str().expect("an epoch");
        let offset = frame["offset"].as_u64().expect("an offset");
        let recovered = frame.get("recovered").and_then(Value::as_bool);
        assert_eq!(
            since.is_some(),
            recovered.is_some(),
            "recovered answers since"
        );
        let mut view = self.views.remove(room).unwrap_or_default();
        let goes_on = view.epoch.as_deref().is_none_or(|before| before == epoch);
        match (recovered, since) {
            (Some(true), Some(since)) => {
                assert_eq!(
                    (epoch, offset),
                    (&*since.0, since.1),
                    "goes on where it was"
                );
            }
            (None, _) if view.next > 0 && (stored || goes_on) => {
                assert!(offset + 1 >= view.next || (!stored && view.epoch.is_none()));
                view.skipped.extend(view.next..=offset);
            }
            (recovered, since) => {
                let since = since.filter(|since| since.0 == epoch && since.1 <= acked);
                assert!(
                    recovered.is_none() || since.is_none() || may_gap,
                    "{frame} {since:?}"
                );
                assert!(
                    !stored || room.starts_with('@') || offset >= acked,
                    "{frame}: {acked} was acked before"
                );
            }
        }
        self.last.insert(room.into(), (epoch.into(), offset));
        (view.next, view.epoch) = (offset + 1, Some(epoch.into()));
        self.views.insert(room.into(), view);
    }

    fn on_message(&mut self, room: &str, frame: &Value, ledger: &mut Ledger) {
        let offset = frame["offset"].as_u64().expect("an offset");
        if room.strip_prefix('@') == Some(&self.id) && !self.views.contains_key(room) {
            self.views.insert(
                room.into(),
                View {
                    next: offset,
                    ..View::default()
                },
            );
        }
        let Some(view) = self.views.get_mut(room) else {
            panic!("not a member: {frame}")
        };
        if offset < view.next {
            let other_life = view.epoch.is_none() && !ledger.setup.stored;
            assert!(
                other_life,
                "client {} got {room} {offset} twice",
                self.number
            );
            view.next = offset;
        }
        let serial = ledger.on_message(view.epoch.as_deref(), frame);
        view.skipped.extend(view.next..offset);
        view.next = offset + 1;
        if let Some(epoch) = &view.epoch {
            self.last.insert(room.into(), (epoch.clone(), offset));
        }
        self.received.insert(serial);
    }

    fn on_gap(&mut self, room: &str, frame: &Value, ledger: &Ledger) {
        assert!(
            ledger.setup.may_gap(),
            "client {} need miss nothing: {frame}",
            self.number
        );
        let from = frame["from"].as_u64().expect("from");
        let to = frame["to"].as_u64().expect("to");
        if room.strip_prefix('@') == Some(&self.id) && !self.views.contains_key(room) {
            let view = View {
                next: from,
                ..View::default()
            };
            self.views.insert(room.into(), view);
        }
        let Some(view) = self.views.get_mut(room) else {
            panic!("not a member: {frame}")
        };
        if view.epoch.is_none() && !ledger.setup.stored {
            // It may be another life of the offsets, of which nobody told who had not joined.
            view.next = view.next.min(from);
        }
        assert!(view.next <= from && from <= to, "{frame}, at {}", view.next);
        view.skipped.extend(view.next..from);
        view.next = to + 1;
        self.gaps.push((from, to));
    }

    fn on_error(&mut self, frame: &Value, ledger: &mut Ledger) {
        let code = frame["code"].as_str().expect("a code");
        let setup = &ledger.setup;
        let away = setup.commits_fail + setup.reads_fail > 0;
        let full = setup.rooms_max < 100;
        let allowed = |pending: &Pending| match (code, pending) {
            ("unavailable", Pending::Publish(_)) => away,
            ("unavailable", _) => setup.reads_fail > 0,
            ("overloaded", Pending::Publish(_) | Pending::Join { .. }) => true,
            ("too_many_rooms", Pending::Join { .. }) => {
                full || setup.rooms_per_connection_max < 100
            }
            ("too_many_rooms", _) => full,
            ("not_joined", Pending::Leave(_) | Pending::Join { .. }) => true,
            ("not_joined", Pending::Other(kind)) => *kind == "signal",
            ("unknown_type", Pending::Other(kind)) => *kind == "junk",
            _ => false,
        };
        if frame.get("ref").is_none() {
            assert!(matches!(
                code,
                "unavailable" | "overloaded" | "too_many_rooms" | "not_joined"
            ));
            return;
        }
        let pending = self.answer(frame);
        assert!(allowed(&pending), "{frame} for {pending:?}");
        if let Pending::Publish(serial) = pending {
            ledger.attempts[serial].refused += 1;
        }
    }

    /// What must hold when all is quiet: `newest` gives a room's epoch and last offset.
    pub(super) fn check_caught_up(
        &mut self,
        ledger: &Ledger,
        newest: impl Fn(&str) -> Option<(String, u64)>,
    ) {
        assert!(
            self.pending.is_empty(),
            "client {} waits for {:?}",
            self.number,
            self.pending
        );
        assert!(self.input.is_empty(), "half a frame is left");
        for (room, view) in &mut self.views {
            let Some(epoch) = view.epoch.as_deref() else {
                continue;
            };
            let (now, newest) = newest(room).expect("a room with a member is open");
            assert_eq!(now, epoch, "{room} has changed its epoch");
            view.skipped.extend(view.next..=newest);
            view.next = view.next.max(newest + 1);
        }
        self.check_views(ledger, true);
        if !ledger.setup.stored && (ledger.setup.linger_ms < 5_000 || ledger.setup.rooms_max < 100)
        {
            // What a slow one had not got of its room ends with that life of the room.
            return;
        }
        let own = format!("@{}", self.id);
        for (serial, attempt) in ledger.attempts.iter().enumerate() {
            let Some(offset) = attempt.acked.filter(|_| attempt.room == own) else {
                continue;
            };
            let silent = !attempt.echo && attempt.client == self.number;
            let told = self
                .gaps
                .iter()
                .any(|&(from, to)| (from..=to).contains(&offset));
            let got = self.received.contains(&serial) || told || silent || self.joined_own;
            let number = self.number;
            assert!(
                got || attempt.at <= self.opened_at,
                "client {number} did not get in its own room: {attempt:?}"
            );
        }
    }

    fn check_views(&self, ledger: &Ledger, is_live: bool) {
        for (room, view) in &self.views {
            self.check_view(room, view, ledger, is_live);
        }
    }

    fn check_view(&self, room: &str, view: &View, ledger: &Ledger, is_live: bool) {
        for &offset in &view.skipped {
            let who = (self.number, self.life);
            ledger.check_skipped(room, view.epoch.as_deref(), offset, who, is_live);
        }
    }
}

mod acts;
