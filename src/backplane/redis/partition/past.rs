//! The past beyond the partition log: what a worker has stored in PostgreSQL, and what it has not
//! yet, in the stream. Joined by offset.
//!
//! ```text
//! want ─▶ floor ─▶ PostgreSQL ─▶ the stream from the floor ─▶ PostgreSQL once more ─▶ lost
//!           │          └─ there: a page     └─ there: a page        └─ there: a page
//!           └─ no group: the whole stream
//! ```
//!
//! The *floor* is min(oldest pending, last delivered) of the workers' group: all entries below it
//! are stored or set aside. What PostgreSQL does not have by then stands in the stream from the
//! floor on, unless it was stored, and trimmed, between the two reads: so PostgreSQL is asked once
//! more, and what it does not have then nobody has (a dead entry, or deleted for its age). Nothing
//! is lost because PostgreSQL does not answer: then the whole stream is looked through, and if
//! that does not have it, who asked is told to try again.
//!
//! Floors, PostgreSQL and stream are read once for all who wait at that moment. A want that knows
//! its place in the stream (the page before it ended there) goes there first.
//!
//! Whether a resume can have all that it missed is known before it begins: behind a floor,
//! PostgreSQL is looked through for the first offset that it lacks, and that one is looked for in
//! the stream, and in PostgreSQL once more (see [`Resumes`]). What is set aside while a resume is
//! on its way is told by `gap`.
//!
//! Invariants: each want has one page; at most [`RECALL_WAITING_MAX`] wait; one floor is asked for
//! at a time.

use bytes::Bytes;
use hashbrown::HashMap;

use super::Partition;
use super::replies::Question;
use crate::backplane::history::{EpochEnds, HistoryAsk, HistoryReply, PageWant, Stretch};
use crate::backplane::redis::recall::{RecallError, Recalled};
use crate::backplane::resumes::{Resumes, Seek, Sought};
use crate::backplane::{Ask, Moment, Origin, Outcome};
use crate::model::limits::{HISTORY_WANTS_MAX, PAGE_BYTES_MAX, RECALL_WAITING_MAX};
use crate::model::{EntryId, Epoch, Publication, RoomName};
use crate::resp::{Value, push_command};

/// Why somebody is not let wait.
const TOO_MANY: &str = "too many read the past at once; try again later";

/// The group by which workers consume the stream (PROTOCOL 5).
const GROUP: &[u8] = b"persist-workers";

/// A want that is not answered.
#[derive(Debug, Default)]
struct Waiting {
    /// The room's last offset.
    newest: u64,
    /// What kept PostgreSQL from answering.
    failed: Option<String>,
    /// The first offset behind the one wanted that was met anywhere.
    first: Option<u64>,
    /// Whether it is to be read, and whether resumes hang on it.
    is_read: bool,
    is_sought: bool,
}

/// What became of a want.
enum Found {
    /// PostgreSQL has it: frames from there on.
    Stored(Vec<(u64, Bytes)>),
    /// The stream has it.
    Streamed(Vec<(u64, Bytes)>),
    /// Nobody has it; perhaps something behind it.
    Lost(Option<u64>),
    /// That can't be told now: why.
    Failed(String),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Whether there is a PostgreSQL to ask.
    has_store: bool,
    wants: HashMap<PageWant, Waiting>,
    resumes: Resumes,
    /// Who waits for a floor.
    unfloored: Vec<PageWant>,
    /// What resumes want to look at next: it waits for a floor, too.
    look: Vec<Stretch>,
    /// Who waited when the floor was asked for that is under way.
    flooring: Option<(Vec<PageWant>, Vec<Stretch>)>,
    /// The floor behind which the look was asked for that is under way.
    look_floor: Option<EntryId>,
    /// The group's last entry delivered, as of the floor that is asked for.
    delivered: Option<EntryId>,
    /// What PostgreSQL is asked, by ticket: the wants, and the floor if they have not been to the
    /// stream yet.
    asked: HashMap<u64, (Vec<PageWant>, Option<EntryId>)>,
    tickets: u64,
}

impl Past {
    /// `has_store`: whether there is a PostgreSQL to ask.
    pub(super) fn new(has_store: bool) -> Self {
        Self {
            has_store,
            ..Self::default()
        }
    }

    /// Whether there is a PostgreSQL to ask.
    pub(super) fn has_store(&self) -> bool {
        self.has_store
    }
}

impl<T: Origin> Partition<T> {
    /// A page that the partition log does not have. `newest` is the room's last offset.
    pub(super) fn want_past(&mut self, want: PageWant, newest: u64) {
        let waiting = Waiting {
            newest,
            is_read: true,
            ..Waiting::default()
        };
        self.want(want, waiting);
    }

    fn want(&mut self, want: PageWant, waiting: Waiting) {
        if let Some(known) = self.past.wants.get_mut(&want) {
            known.is_read |= waiting.is_read;
            known.is_sought |= waiting.is_sought;
            return;
        }
        let is_full = self.past.wants.len() >= RECALL_WAITING_MAX;
        let (is_sought, floor) = (waiting.is_sought, self.past.look_floor);
        let floor = floor.filter(|_| waiting.failed.is_none());
        self.past.wants.insert(want.clone(), waiting);
        if is_full {
            self.answer_past(want, Found::Failed(TOO_MANY.into()));
        } else if is_sought {
            // PostgreSQL was looked at.
            self.seek_in_stream(want, floor);
        } else if self.past.has_store && !self.knows_place(&want) {
            self.past.unfloored.push(want);
        } else {
            self.seek_in_stream(want, None);
        }
    }

    /// Whether it is known where in the stream that page begins.
    fn knows_place(&self, want: &PageWant) -> bool {
        self.recall.knows_place(&want.room, want.epoch, want.from)
    }

    /// Whether all of a room from an offset on can be had; from `until` on it is in memory.
    pub(super) fn want_resume(&mut self, want: PageWant, until: u64) {
        let result = if !self.past.has_store {
            // What the stream has, it has to its end: the page that is read next says it.
            Ok(Some(Vec::new()))
        } else if let Some(why) = self.why_away() {
            Err(why)
        } else if (self.past.resumes).want(&want.room, want.epoch, want.from, until) {
            return;
        } else {
            Err(TOO_MANY.into())
        };
        self.push_resumed(want, result);
    }

    /// Seeks what resumes miss, tells what became of them, and looks on.
    pub(super) fn go_on_with_resumes(&mut self) {
        loop {
            let seeks = self.past.resumes.take_seeks();
            if seeks.is_empty() {
                break;
            }
            for seek in seeks {
                let Seek {
                    room,
                    epoch,
                    at: from,
                    failed,
                } = seek;
                let waiting = Waiting {
                    newest: self.newest_of(&room, epoch).unwrap_or(0),
                    failed,
                    is_sought: true,
                    ..Waiting::default()
                };
                self.want(PageWant { room, epoch, from }, waiting);
            }
        }
        let resumed = self.past.resumes.take_resumed().into_iter();
        self.outcomes.extend(resumed.map(Outcome::Resumed));
        if let Some(look) = self.past.resumes.poll_look() {
            self.past.look = look;
        }
    }

    /// Asks for the floor, if somebody waits for one.
    pub(super) fn ask_floor(&mut self, now_ms: u64) {
        let is_wanted = !self.past.unfloored.is_empty() || !self.past.look.is_empty();
        if !is_wanted || self.past.flooring.is_some() {
            return;
        }
        let wants = std::mem::take(&mut self.past.unfloored);
        self.past.flooring = Some((wants, std::mem::take(&mut self.past.look)));
        let stream = self.names.stream.as_bytes();
        // In this order: what is delivered between the two is above the first answer.
        let out = self.commands.ask(now_ms, Question::Groups);
        push_command(out, &[b"XINFO", b"GROUPS", stream]);
        let out = self.commands.ask(now_ms, Question::Pendings);
        push_command(out, &[b"XPENDING", stream, GROUP]);
        self.counters.commands += 2;
    }

    pub(super) fn on_groups(&mut self, value: &Value) {
        let groups = value.as_list().unwrap_or_default();
        let of = |group: &Value, name: &[u8]| {
            let mut pairs = group.as_list()?.chunks_exact(2);
            let pair = pairs.find(|pair| pair[0].as_text().is_some_and(|text| text == name))?;
            pair[1].as_text().cloned()
        };
        let ours = groups
            .iter()
            .find(|group| of(group, b"name").is_some_and(|name| &name[..] == GROUP));
        let delivered = ours.and_then(|group| of(group, b"last-delivered-id"));
        self.past.delivered = delivered.as_ref().and_then(entry_of);
    }

    pub(super) fn on_pendings(&mut self, value: &Value) {
        let delivered = self.past.delivered.take();
        let list = value.as_list().unwrap_or_default();
        let oldest = list.get(1).and_then(Value::as_text).and_then(entry_of);
        // Of a group that has gone meanwhile nothing is known.
        let floor = delivered.filter(|_| !list.is_empty());
        let floor = floor.map(|last| oldest.map_or(last.next(), |oldest| oldest.min(last.next())));
        let (wants, look) = self.past.flooring.take().unwrap_or_default();
        if !look.is_empty() {
            self.past.look_floor = floor;
            self.asks.push(Ask::History(HistoryAsk::Missing(look)));
        }
        match floor {
            Some(floor) => self.ask_store(wants, Some(floor)),
            None => wants
                .into_iter()
                .for_each(|want| self.seek_in_stream(want, None)),
        }
    }

    /// Asks PostgreSQL. With a floor it is before the stream, else behind it.
    fn ask_store(&mut self, wants: Vec<PageWant>, floor: Option<EntryId>) {
        for wants in wants.chunks(HISTORY_WANTS_MAX) {
            self.past.tickets += 1;
            let (ticket, wants) = (self.past.tickets, wants.to_vec());
            self.past.asked.insert(ticket, (wants.clone(), floor));
            let ask = HistoryAsk::Pages { ticket, wants };
            self.asks.push(Ask::History(ask));
        }
    }

    /// Looks in the stream, down to the floor.
    fn seek_in_stream(&mut self, want: PageWant, floor: Option<EntryId>) {
        let Some(waiting) = self.past.wants.get(&want) else {
            return;
        };
        if let Some(why) = self.why_away() {
            self.answer_past(want, Found::Failed(why));
            return;
        }
        let before = self.log.first().map(|(.., entry)| entry);
        let before = before.unwrap_or_default();
        let (PageWant { room, epoch, from }, newest) = (&want, waiting.newest);
        let floor = floor.unwrap_or_default();
        let taken = self.recall.want(room, *epoch, *from, newest, before, floor);
        if !taken {
            self.answer_past(want, Found::Failed(TOO_MANY.into()));
        }
    }

    pub(super) fn on_recalled(&mut self, recalled: Vec<Recalled>) {
        let mut again = Vec::new();
        for recalled in recalled {
            let Recalled {
                room,
                epoch,
                from,
                result,
            } = recalled;
            let want = PageWant { room, epoch, from };
            match result {
                Ok(frames) => self.answer_past(want, Found::Streamed(frames)),
                Err(RecallError::Unavailable) => {
                    let why = "the stream could not be read; try again later";
                    self.answer_past(want, Found::Failed(why.into()));
                }
                Err(RecallError::Lost { first }) => {
                    let Some(waiting) = self.past.wants.get_mut(&want) else {
                        continue;
                    };
                    waiting.first = least(waiting.first, first);
                    match waiting.failed.clone() {
                        Some(why) => self.answer_past(want, Found::Failed(why)),
                        None if self.past.has_store => again.push(want),
                        None => self.lose_past(want),
                    }
                }
            }
        }
        self.ask_store(again, None);
    }

    pub(in crate::backplane) fn on_history(
        &mut self,
        moment: &mut Moment<'_>,
        reply: HistoryReply,
    ) {
        match reply {
            HistoryReply::Pages { ticket, pages } => {
                let Some((wants, floor)) = self.past.asked.remove(&ticket) else {
                    return;
                };
                match pages {
                    Ok(pages) => {
                        for (want, page) in wants.into_iter().zip(pages) {
                            self.on_stored_page(want, floor, &page);
                        }
                    }
                    Err(why) => wants.into_iter().for_each(|want| {
                        self.on_no_page(want, floor, &why);
                    }),
                }
            }
            HistoryReply::Missing(missing) => self.past.resumes.on_looked(missing),
            HistoryReply::Ends(room, epoch, ends) => {
                self.outcomes.push(Outcome::Ends(room, epoch, ends));
            }
            HistoryReply::Rooms(query, rooms) => self.on_stored_rooms(query, rooms),
        }
        // What is to be looked for in the stream is asked for at once, and so is the next look.
        self.go_on_with_resumes();
        if self.keep.is_greeted() {
            self.ask_floor(moment.ms);
        }
        self.ask_stream(moment.ms);
        self.flush();
    }

    /// PostgreSQL has answered.
    fn on_stored_page(&mut self, want: PageWant, floor: Option<EntryId>, page: &[Publication]) {
        let frames = self.frames_of(want.from, page);
        if !frames.is_empty() {
            self.answer_past(want, Found::Stored(frames));
            return;
        }
        if let Some(waiting) = self.past.wants.get_mut(&want) {
            let first = page.first().map(|publication| publication.offset);
            waiting.first = least(waiting.first, first);
        }
        match floor {
            Some(_) => self.seek_in_stream(want, floor),
            None => self.lose_past(want),
        }
    }

    /// PostgreSQL can't be asked.
    fn on_no_page(&mut self, want: PageWant, floor: Option<EntryId>, why: &str) {
        if floor.is_none() {
            self.answer_past(want, Found::Failed(why.to_owned()));
            return;
        }
        if let Some(waiting) = self.past.wants.get_mut(&want) {
            waiting.failed = Some(why.to_owned());
        }
        self.seek_in_stream(want, None);
    }

    /// The frames of a page from an offset on, up to the first hole.
    fn frames_of(&self, from: u64, page: &[Publication]) -> Vec<(u64, Bytes)> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let mut next = from;
        for publication in page {
            // Of two with the same offset the first is taken: the same for everybody.
            if publication.offset < next {
                continue;
            }
            if publication.offset > next || bytes >= PAGE_BYTES_MAX {
                break;
            }
            let mut json = Vec::new();
            (self.encode)(&mut json, publication);
            bytes += json.len();
            frames.push((next, Bytes::from(json)));
            next += 1;
        }
        frames
    }

    /// Nobody has what was wanted; perhaps something behind it.
    fn lose_past(&mut self, want: PageWant) {
        let waiting = self.past.wants.get(&want);
        let first = waiting.and_then(|waiting| waiting.first);
        self.answer_past(want, Found::Lost(first));
    }

    fn answer_past(&mut self, want: PageWant, found: Found) {
        let Some(waiting) = self.past.wants.remove(&want) else {
            return;
        };
        if waiting.is_sought {
            let sought = match &found {
                Found::Streamed(frames) => Sought::Streamed(frames.clone()),
                Found::Stored(frames) => Sought::Stored(want.from + frames.len() as u64),
                Found::Lost(_) => Sought::Lost,
                Found::Failed(why) => Sought::Failed(why.clone()),
            };
            let resumes = &mut self.past.resumes;
            resumes.on_sought(&want.room, want.epoch, want.from, sought);
        }
        if waiting.is_read {
            let page = match found {
                Found::Stored(frames) | Found::Streamed(frames) => Ok(frames),
                // What is behind the hole is read when it is asked for.
                Found::Lost(first) => {
                    let first = first.map(|offset| (offset, Bytes::new()));
                    Ok(first.into_iter().collect())
                }
                Found::Failed(why) => Err(why),
            };
            self.push_page(want, page);
        }
    }

    /// The commands wire is gone, and with it what was asked; or Redis is away.
    pub(super) fn lose_floors(&mut self) {
        self.past.delivered = None;
        let (mut wants, mut look) = self.past.flooring.take().unwrap_or_default();
        wants.append(&mut self.past.unfloored);
        look.append(&mut self.past.look);
        let why = "Redis is away; try again when it is back";
        if !look.is_empty() {
            self.past.resumes.on_looked(Err(why.into()));
        }
        for want in wants {
            self.answer_past(want, Found::Failed(why.into()));
        }
    }

    pub(in crate::backplane) fn ends(&mut self, room: &RoomName, epoch: Epoch) {
        if self.past.has_store {
            let ask = HistoryAsk::Ends(room.clone(), epoch);
            self.asks.push(Ask::History(ask));
        } else {
            let ends = Ok(EpochEnds::default());
            self.outcomes.push(Outcome::Ends(room.clone(), epoch, ends));
        }
    }
}

fn entry_of(text: &Bytes) -> Option<EntryId> {
    EntryId::parse(std::str::from_utf8(text).ok()?)
}

fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}
