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
    epoch: String,
    newest: u64,
}

#[derive(Debug, Default)]
struct Member {
    room: usize,
    /// `None`: not joined.
    next: Option<u64>,
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
            epoch: String::new(),
            newest: 0,
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
        if room.epoch != epoch {
            room.epoch = epoch.into();
            room.newest = offset;
        }
        room.newest = room.newest.max(offset);
        match (since, recovered) {
            (Some(since), Some(true)) if since != offset => self.tally.resumed_elsewhere += 1,
            (Some(_), Some(true)) => {}
            (Some(_), _) => self.tally.unrecovered += 1,
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
        known.newest = known.newest.max(offset);
        let Some(marker) = marker.filter(|marker| marker.run == self.run) else {
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
        if to >= next {
            self.tally.gap_offsets += to + 1 - next.max(from);
            member.slack += to + 1 - next;
            member.next = Some(to + 1);
        }
        let room = &mut self.rooms[member.room];
        room.newest = room.newest.max(to);
    }

    /// The server acked `offset` in `room`: whoever is there must get it.
    pub(crate) fn on_ack(&mut self, room: usize, offset: u64) {
        let room = &mut self.rooms[room];
        room.newest = room.newest.max(offset);
    }

    /// The member's connection is gone: it will get no more.
    pub(crate) fn on_left(&mut self, member: usize) {
        self.members[member].next = None;
    }

    /// The last offset that the member has seen, while it is joined.
    pub(crate) fn seen(&self, member: usize) -> Option<u64> {
        self.members[member].next.map(|next| next - 1)
    }

    /// The member's room: its index and epoch.
    pub(crate) fn room_of(&self, member: usize) -> (usize, &str) {
        let room = self.members[member].room;
        (room, &self.rooms[room].epoch)
    }

    /// How many messages the joined members still have to get.
    pub(crate) fn outstanding(&self) -> u64 {
        let behind = |member: &Member| {
            member.next.map_or(0, |next| {
                (self.rooms[member.room].newest + 1).saturating_sub(next)
            })
        };
        self.members.iter().map(behind).sum()
    }

    /// Ends the run: what is still outstanding is lost.
    pub(crate) fn finish(&mut self) {
        self.tally.lost += self.outstanding();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset, publisher, sequence; or what a gap skipped.
    type Event = Result<(u64, u32, u32), (u64, u64)>;

    /// Plays events for one member of room `r` (joined at 0) and two publishers.
    fn play(events: &[Event]) -> Tally {
        let mut checker = Checker::new(5, &["r".into()], &[0], &[0, 0]);
        checker.on_joined(0, "e", 0, None, None);
        for event in events {
            match *event {
                Ok((offset, publisher, sequence)) => {
                    let marker = Some(Marker {
                        run: 5,
                        publisher,
                        sequence,
                        time: 0,
                    });
                    checker.on_message(0, b"r", offset, marker);
                }
                Err((from, to)) => checker.on_gap(0, from, to),
            }
        }
        checker.finish();
        checker.tally
    }

    fn check(events: &[Event], expect: Tally, proven: bool) {
        let tally = play(events);
        let messages = events.iter().filter(|event| event.is_ok()).count() as u64;
        assert_eq!(
            tally,
            Tally {
                delivered: messages,
                ..expect
            }
        );
        assert_eq!(tally.is_proven(0), proven, "{tally:?}");
    }

    #[test]
    fn what_the_checker_counts() {
        let none = Tally::default();
        check(&[Ok((1, 0, 1)), Ok((2, 1, 1)), Ok((3, 0, 2))], none, true);
        check(
            &[Ok((1, 0, 1)), Ok((3, 0, 3))],
            Tally { lost: 1, ..none },
            false,
        );
        check(
            &[Ok((1, 0, 1)), Ok((1, 0, 1))],
            Tally { doubled: 1, ..none },
            false,
        );
        let swapped = [Ok((1, 0, 1)), Ok((3, 0, 3)), Ok((2, 0, 2))];
        check(
            &swapped,
            Tally {
                misordered: 1,
                ..none
            },
            false,
        );
        let gap = [Ok((1, 0, 1)), Err((2, 4)), Ok((5, 0, 5))];
        check(
            &gap,
            Tally {
                gaps: 1,
                gap_offsets: 3,
                ..none
            },
            true,
        );
        let short_gap = [Ok((1, 0, 1)), Err((3, 4)), Ok((5, 0, 5))];
        check(
            &short_gap,
            Tally {
                gaps: 1,
                gap_offsets: 2,
                lost: 1,
                ..none
            },
            false,
        );
        let hole = [Ok((1, 0, 1)), Ok((2, 0, 3))];
        check(
            &hole,
            Tally {
                publisher_holes: 1,
                ..none
            },
            false,
        );
        let disorder = [Ok((1, 0, 2)), Ok((2, 0, 1))];
        check(
            &disorder,
            Tally {
                publisher_disorder: 1,
                ..none
            },
            false,
        );
        let swapped_in_gap = [Ok((1, 0, 1)), Err((2, 2)), Ok((3, 0, 4))];
        let expect = Tally {
            gaps: 1,
            gap_offsets: 1,
            publisher_holes: 1,
            ..none
        };
        check(&swapped_in_gap, expect, false);
    }

    #[test]
    fn the_tail_counts_as_lost() {
        let mut checker = Checker::new(5, &["r".into()], &[0, 0], &[0]);
        checker.on_joined(0, "e", 7, None, None);
        checker.on_joined(1, "e", 7, None, None);
        checker.on_message(0, b"r", 8, None);
        checker.on_ack(0, 9);
        assert_eq!(checker.outstanding(), 3);
        checker.on_left(0);
        checker.finish();
        assert_eq!(checker.tally.lost, 2);
        assert_eq!(checker.tally.foreign, 1);
    }

    #[test]
    fn a_wrong_room_and_an_unjoined_member_are_misrouted() {
        let mut checker = Checker::new(5, &["r".into()], &[0], &[0]);
        checker.on_message(0, b"r", 1, None);
        checker.on_joined(0, "e", 0, None, None);
        checker.on_message(0, b"s", 1, None);
        assert_eq!(checker.tally.misrouted, 2);
    }

    #[test]
    fn resume_is_exact_or_told() {
        let mut checker = Checker::new(5, &["r".into()], &[0], &[0]);
        checker.on_joined(0, "e", 0, None, None);
        checker.on_joined(0, "e", 4, Some(true), Some(4));
        assert!(checker.tally.is_proven(0));
        checker.on_joined(0, "e", 9, Some(false), Some(4));
        assert_eq!(checker.tally.unrecovered, 1);
        checker.on_joined(0, "f", 0, Some(false), None);
        assert_eq!(checker.tally.epoch_changes, 1);
        checker.on_joined(0, "f", 3, Some(true), Some(2));
        assert!(!checker.tally.is_proven(0));
    }
}
