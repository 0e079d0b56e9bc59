//! Proves order: every member of a room must see offsets that rise by exactly one from what
//! `joined` said, and every publisher's sequence numbers in order. Nothing here knows a socket.
//!
//! For each member, with `next` the offset it must see next:
//!
//! | offset seen | means |
//! |---|---|
//! | = next | right |
//! | > next | next..offset are lost so far; remembered, up to [`MISSING_MAX`] |
//! | < next, remembered as lost | misordered (and no longer lost) |
//! | < next | doubled |
//!
//! A `gap` frame moves `next` and counts as announced; so does an unasked `joined`.
//!
//! Members of one room may be on several instances, and an epoch's end reaches them one by one: the
//! offsets of each *life* (epoch) of a room are counted apart, and the life with the greatest epoch
//! is where all must come to. What members say is held together by the [`Agreement`], if wanted.

use std::collections::HashSet;

use crate::agreement::{Agreement, Verdict};
use crate::wire::Marker;

/// How many lost offsets a member remembers, to tell disorder from loss.
const MISSING_MAX: usize = 1024;

/// What was counted over all members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Messages received, all of them.
    pub(crate) delivered: u64,
    /// Offsets never seen and never announced as skipped.
    pub(crate) lost: u64,
    /// Offsets seen again.
    pub(crate) doubled: u64,
    /// Offsets seen after a later one.
    pub(crate) misordered: u64,
    /// Messages of a room that the connection is not in.
    pub(crate) misrouted: u64,
    /// A publisher's sequence number that did not rise.
    pub(crate) publisher_disorder: u64,
    /// Sequence numbers left out though the offsets were whole.
    pub(crate) publisher_holes: u64,
    /// Messages that are not of this run.
    pub(crate) foreign: u64,
    /// `gap` frames, and the offsets that they announced as skipped.
    pub(crate) gaps: u64,
    pub(crate) gap_offsets: u64,
    /// Unasked `joined` frames: the epoch changed.
    pub(crate) epoch_changes: u64,
    /// Members that asked to resume and were told that it can't be.
    pub(crate) unrecovered: u64,
    /// Of these, those for whom the epoch was another by then.
    pub(crate) unrecovered_epochs: u64,
    /// Members whose `recovered:true` stood at another offset than asked for.
    pub(crate) resumed_elsewhere: u64,
}

impl Tally {
    /// Whether order is proven and nothing is lost but what was announced.
    pub(crate) fn is_proven(&self, refused: u64) -> bool {
        let bad = self.lost
            + self.doubled
            + self.misordered
            + self.misrouted
            + self.publisher_disorder
            + self.resumed_elsewhere;
        bad == 0 && (self.publisher_holes == 0 || refused > 0)
    }
}

#[derive(Debug)]
struct Room {
    name: String,
    /// In the order in which they were met.
    lives: Vec<Life>,
}

#[derive(Debug)]
struct Life {
    epoch: String,
    newest: u64,
}

impl Room {
    /// The life of `epoch`, which is at least at `offset`.
    fn live(&mut self, epoch: &str, offset: u64) -> usize {
        let known = self.lives.iter().position(|life| life.epoch == epoch);
        let life = known.unwrap_or_else(|| {
            let (epoch, newest) = (epoch.into(), offset);
            self.lives.push(Life { epoch, newest });
            self.lives.len() - 1
        });
        self.reach(life, offset);
        life
    }

    /// Somebody was told of `offset` in that life.
    fn reach(&mut self, life: usize, offset: u64) {
        if let Some(life) = self.lives.get_mut(life) {
            life.newest = life.newest.max(offset);
        }
    }

    /// Epochs sort by time.
    fn latest(&self) -> usize {
        let lives = self.lives.iter().enumerate();
        let latest = lives.max_by(|(_, a), (_, b)| a.epoch.cmp(&b.epoch));
        latest.map_or(0, |(life, _)| life)
    }
}

#[derive(Debug, Default)]
struct Member {
    room: usize,
    /// Of its room.
    life: usize,
    /// `None`: not joined.
    next: Option<u64>,
    /// What `next` was when it was last joined.
    left: Option<u64>,
    /// Offsets announced as skipped that no publisher's jump has been explained by yet.
    slack: u64,
    missing: Vec<u64>,
    /// The last sequence number of each publisher of the room, 0: none yet.
    last: Vec<u32>,
}

/// All rooms and members of a run.
#[derive(Debug)]
pub(crate) struct Checker {
    run: u32,
    rooms: Vec<Room>,
    members: Vec<Member>,
    /// For each publisher its place among those of its room.
    places: Vec<(usize, usize)>,
    publishers: Vec<usize>,
    /// Publishes that were refused for now and sent again after later ones.
    reordered: HashSet<(u32, u32)>,
    /// Receipts and acks held together, if wanted.
    pub(crate) agreement: Option<Agreement>,
    /// What was counted so far.
    pub(crate) tally: Tally,
}

impl Checker {
    /// A checker for members and publishers, each given by its room's index.
    pub(crate) fn new(
        run: u32,
        rooms: &[String],
        members: &[usize],
        publisher_rooms: &[usize],
    ) -> Self {
        let mut publishers = vec![0; rooms.len()];
        let places = publisher_rooms
            .iter()
            .map(|&room| {
                publishers[room] += 1;
                (room, publishers[room] - 1)
            })
            .collect();
        let room = |name: &String| Room {
            name: name.clone(),
            lives: Vec::new(),
        };
        Self {
            run,
            rooms: rooms.iter().map(room).collect(),
            members: members
                .iter()
                .map(|&room| Member {
                    room,
                    ..Member::default()
                })
                .collect(),
            places,
            publishers,
            reordered: HashSet::new(),
            agreement: None,
            tally: Tally::default(),
        }
    }

    /// A `joined` frame. `since`: the offset that the member asked to resume from.
    pub(crate) fn on_joined(
        &mut self,
        member: usize,
        epoch: &str,
        offset: u64,
        recovered: Option<bool>,
        since: Option<u64>,
    ) {
        let member = &mut self.members[member];
        let room = &mut self.rooms[member.room];
        let life = room.live(epoch, offset);
        let was_here = member.next.or(member.left).is_some();
        let changed = std::mem::replace(&mut member.life, life) != life && was_here;
        match (since, recovered) {
            (Some(since), Some(true)) if since != offset || changed => {
                self.tally.resumed_elsewhere += 1;
            }
            (Some(_), Some(true)) => {}
            (Some(since), _) => {
                self.tally.unrecovered += 1;
                self.tally.unrecovered_epochs += u64::from(changed);
                if let Some(agreement) = self.agreement.as_mut().filter(|_| !changed) {
                    agreement.on_skipped(member.room, life, since + 1, offset);
                }
            }
            (None, Some(false)) => self.tally.epoch_changes += 1,
            (None, _) => {}
        }
        if recovered != Some(true) {
            member.slack = 0;
            member.last.clear();
        }
        member.missing.clear();
        member.next = Some(offset + 1);
    }

    /// A `message` frame.
    pub(crate) fn on_message(
        &mut self,
        member_id: usize,
        room: &[u8],
        offset: u64,
        marker: Option<Marker>,
    ) {
        self.tally.delivered += 1;
        let member = &mut self.members[member_id];
        let known = &mut self.rooms[member.room];
        let Some(next) = member.next.filter(|_| known.name.as_bytes() == room) else {
            self.tally.misrouted += 1;
            return;
        };
        let marker = marker.filter(|marker| marker.run == self.run);
        if let (Some(agreement), Some(marker)) = (&mut self.agreement, marker) {
            agreement.on_message(member.room, member.life, offset, marker);
        }
        if offset < next {
            match member.missing.iter().position(|&missing| missing == offset) {
                Some(at) => {
                    member.missing.swap_remove(at);
                    self.tally.lost -= 1;
                    self.tally.misordered += 1;
                }
                None => self.tally.doubled += 1,
            }
            return;
        }
        if offset > next {
            self.tally.lost += offset - next;
            member.slack += offset - next;
            let room_left = MISSING_MAX - member.missing.len().min(MISSING_MAX);
            member.missing.extend((next..offset).take(room_left));
        }
        member.next = Some(offset + 1);
        known.reach(member.life, offset);
        let Some(marker) = marker else {
            self.tally.foreign += 1;
            return;
        };
        self.check_publisher(member_id, marker);
    }

    fn check_publisher(&mut self, member_id: usize, marker: Marker) {
        let member = &mut self.members[member_id];
        let place = self.places.get(marker.publisher as usize);
        let Some(&(_, place)) = place.filter(|(room, _)| *room == member.room) else {
            self.tally.misrouted += 1;
            return;
        };
        let key = (marker.publisher, marker.sequence);
        if !self.reordered.is_empty() && self.reordered.contains(&key) {
            return;
        }
        if member.last.is_empty() {
            member.last.resize(self.publishers[member.room], 0);
        }
        let last = std::mem::replace(&mut member.last[place], marker.sequence);
        if marker.sequence <= last {
            self.tally.publisher_disorder += 1;
            member.last[place] = last;
        } else if last > 0 && marker.sequence > last + 1 {
            let skipped = u64::from(marker.sequence - last - 1);
            let announced = skipped.min(member.slack);
            member.slack -= announced;
            self.tally.publisher_holes += skipped - announced;
        }
    }

    /// A `gap` frame: offsets `from` to `to` were skipped.
    pub(crate) fn on_gap(&mut self, member: usize, from: u64, to: u64) {
        self.tally.gaps += 1;
        let member = &mut self.members[member];
        let Some(next) = member.next.filter(|_| from <= to) else {
            return;
        };
        if from > next {
            self.tally.lost += from - next;
        }
        if let Some(agreement) = &mut self.agreement {
            agreement.on_skipped(member.room, member.life, from, to);
        }
        if to >= next {
            self.tally.gap_offsets += to + 1 - next.max(from);
            member.slack += to + 1 - next;
            member.next = Some(to + 1);
        }
        self.rooms[member.room].reach(member.life, to);
    }

    /// A publisher of `room` sent its next message.
    pub(crate) fn on_sent(&mut self, publisher: usize, room: usize) {
        if let Some(agreement) = &mut self.agreement {
            agreement.on_sent(publisher, self.rooms[room].latest());
        }
    }

    /// The server acked a publish in `room` at `offset`: whoever is there must get it.
    pub(crate) fn on_ack(
        &mut self,
        room: usize,
        publisher: usize,
        sequence: Option<u32>,
        offset: Option<u64>,
    ) {
        let life = self.rooms[room].latest();
        match (&mut self.agreement, sequence) {
            (Some(agreement), Some(sequence)) => {
                agreement.on_ack(publisher, sequence, life, offset);
            }
            // Of which life the ack is, is not told: with several it is for the agreement.
            _ => self.rooms[room].reach(life, offset.unwrap_or(0)),
        }
    }

    /// The publisher's order no longer binds this one: it was refused and will be sent again.
    pub(crate) fn let_reorder(&mut self, publisher: u32, sequence: u32) {
        self.reordered.insert((publisher, sequence));
    }

    /// The member's connection is gone: it will get no more.
    pub(crate) fn on_left(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.left = member.next.take().or(member.left);
    }

    /// The last offset that the member has seen.
    pub(crate) fn seen(&self, member: usize) -> Option<u64> {
        let member = &self.members[member];
        member.next.or(member.left).map(|next| next - 1)
    }

    /// The member's room: its index, and the epoch that the member knows of.
    pub(crate) fn room_of(&self, member: usize) -> (usize, &str) {
        let member = &self.members[member];
        let life = self.rooms[member.room].lives.get(member.life);
        (member.room, life.map_or("", |life| &life.epoch))
    }

    /// How many messages the joined members still have to get.
    pub(crate) fn outstanding(&self) -> u64 {
        let behind = |member: &Member| {
            let room = &self.rooms[member.room];
            let life = room.lives.get(member.life).zip(member.next);
            let missing = life.map_or(0, |(life, next)| (life.newest + 1).saturating_sub(next));
            // Who lives in an older epoch is still to be told.
            missing + u64::from(life.is_some() && member.life != room.latest())
        };
        self.members.iter().map(behind).sum()
    }

    /// What acks and receipts come to together.
    pub(crate) fn verdict(&self) -> Verdict {
        let latest = |room: usize| self.rooms[room].latest();
        let mut reached = vec![0; self.rooms.len()];
        for member in &self.members {
            if member.life == latest(member.room) {
                let next = member.next.or(member.left).unwrap_or(0);
                reached[member.room] = next.max(reached[member.room]);
            }
        }
        let agreement = self.agreement.as_ref();
        agreement.map_or(Verdict::default(), |agreement| {
            agreement.verdict(latest, |room, offset| offset >= reached[room])
        })
    }

    /// Ends the run: what is still outstanding is lost.
    pub(crate) fn finish(&mut self) {
        self.tally.lost += self.outstanding();
    }
}

#[cfg(test)]
mod tests;
