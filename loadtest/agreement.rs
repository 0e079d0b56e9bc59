//! What all instances say, held together: the same offset is the same publication at every member,
//! and every acked publication was received. Nothing here knows a socket.
//!
//! A *life* is one epoch of a room, numbered as the [`crate::checker::Checker`] met it.
//!
//! ```text
//! rooms[room][life].keys[offset - first] = publication         who came first says which
//! publications[publisher][sequence - 1]  = sent, acked, seen   each with life and offset
//! ```
//!
//! | a message says | means |
//! |---|---|
//! | another publication than the first receipt of its offset | disagreement |
//! | a publication that was seen at another offset of this life | doubled |
//! | one that was seen in an earlier life | doubled, told: the members were told of a new epoch |
//! | a sequence number that was not sent | phantom |
//!
//! An acked publication that no member of its room ever received is lost. It is *told* if the room
//! got a new epoch since, *skipped* if a `gap` or a `recovered:false` covers its offset. Where no
//! member has come as far as its offset it is *ahead*: whoever looks too early can't tell more.

use crate::wire::Marker;

/// An offset so far above the first of its life is not believed.
const LIFE_OFFSETS_MAX: u64 = 1 << 28;
/// Ranges told as skipped that are remembered for each life; the rest counts as lost.
const SKIPPED_MAX: usize = 4096;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Publications with an ack.
    pub(crate) acked: u64,
    /// Acked, and no member ever got them.
    pub(crate) unseen: u64,
    /// Of an epoch that ended, the same.
    pub(crate) unseen_told: u64,
    /// The same, covered by a `gap` or a `recovered:false`.
    pub(crate) unseen_skipped: u64,
    /// The same, where no member has come as far yet.
    pub(crate) unseen_ahead: u64,
    pub(crate) doubled: u64,
    pub(crate) doubled_told: u64,
    /// An offset was different publications, or an ack said another offset than a receipt.
    pub(crate) disagreements: u64,
    pub(crate) phantom: u64,
}

#[derive(Debug, Default)]
struct Life {
    first: u64,
    /// 0: not seen.
    keys: Vec<u64>,
    skipped: Vec<(u64, u64)>,
}

impl Life {
    /// The publication at `offset`.
    fn at(&self, offset: u64) -> u64 {
        let place = offset.checked_sub(self.first).map(|place| place as usize);
        let key = place.and_then(|place| self.keys.get(place));
        key.copied().unwrap_or(0)
    }

    /// The place of `offset`, made if need be.
    fn slot(&mut self, offset: u64) -> Option<&mut u64> {
        if self.keys.is_empty() {
            self.first = offset;
        }
        if offset < self.first {
            // Someone resumed from before what the first receipt was.
            let missing = self.first - offset;
            if missing > LIFE_OFFSETS_MAX {
                return None;
            }
            self.keys.splice(0..0, (0..missing).map(|_| 0));
            self.first = offset;
        }
        let place = offset - self.first;
        if place > LIFE_OFFSETS_MAX {
            return None;
        }
        if self.keys.len() as u64 <= place {
            self.keys.resize(place as usize + 1, 0);
        }
        self.keys.get_mut(place as usize)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Publication {
    /// Life and offset of its first receipt.
    seen: Option<(u16, u64)>,
    /// The room's latest life when it was acked, and the offset if the ack had one.
    acked: Option<(u16, Option<u64>)>,
    sent_life: u16,
}

/// Receipts and acks of a whole run.
#[derive(Debug)]
pub(crate) struct Agreement {
    rooms: Vec<Vec<Life>>,
    /// Rooms without members can't tell what arrived.
    watched: Vec<bool>,
    publisher_rooms: Vec<usize>,
    publications: Vec<Vec<Publication>>,
    counts: Verdict,
    unseen: u64,
}

impl Agreement {
    /// Nothing was sent yet; members and publishers are given by their rooms.
    pub(crate) fn new(rooms: usize, members: &[usize], publisher_rooms: &[usize]) -> Self {
        let mut watched = vec![false; rooms];
        members.iter().for_each(|&room| watched[room] = true);
        Self {
            rooms: (0..rooms).map(|_| Vec::new()).collect(),
            watched,
            publisher_rooms: publisher_rooms.to_vec(),
            publications: publisher_rooms.iter().map(|_| Vec::new()).collect(),
            counts: Verdict::default(),
            unseen: 0,
        }
    }

    /// A publisher sent its next message, when `life` was the latest of its room.
    pub(crate) fn on_sent(&mut self, publisher: usize, life: usize) {
        self.publications[publisher].push(Publication {
            sent_life: life as u16,
            ..Publication::default()
        });
    }

    /// A publish was acked, when `life` was the latest of its room.
    pub(crate) fn on_ack(
        &mut self,
        publisher: usize,
        sequence: u32,
        life: usize,
        offset: Option<u64>,
    ) {
        let sent = self.publications[publisher].get_mut((sequence as usize).wrapping_sub(1));
        let Some(publication) = sent else {
            self.counts.phantom += 1;
            return;
        };
        let acked = (life as u16, offset);
        match publication.acked {
            Some(before) if before.0 == acked.0 && before.1 != acked.1 => {
                self.counts.disagreements += 1;
            }
            Some(_) => {}
            None => {
                self.counts.acked += 1;
                publication.acked = Some(acked);
                let watched = self.watched[self.publisher_rooms[publisher]];
                self.unseen += u64::from(watched && publication.seen.is_none());
            }
        }
    }

    /// A member of `room` got a message of this run.
    pub(crate) fn on_message(&mut self, room: usize, life: usize, offset: u64, marker: Marker) {
        let (publisher, sequence) = (marker.publisher as usize, marker.sequence as usize);
        let sent = self.publications.get_mut(publisher);
        let Some(publication) = sent.and_then(|sent| sent.get_mut(sequence.wrapping_sub(1))) else {
            self.counts.phantom += 1;
            return;
        };
        let lives = &mut self.rooms[room];
        if lives.len() <= life {
            lives.resize_with(life + 1, Life::default);
        }
        let key = u64::from(marker.publisher) << 32 | u64::from(marker.sequence);
        match lives[life].slot(offset) {
            Some(known) if *known == 0 => *known = key,
            Some(known) if *known == key => return,
            Some(_) | None => {
                self.counts.disagreements += 1;
                return;
            }
        }
        match publication.seen.replace((life as u16, offset)) {
            None => self.unseen -= u64::from(publication.acked.is_some()),
            Some((before, _)) if before as usize == life => self.counts.doubled += 1,
            Some(_) => self.counts.doubled_told += 1,
        }
    }

    /// A member was told that these offsets are not for it.
    pub(crate) fn on_skipped(&mut self, room: usize, life: usize, from: u64, to: u64) {
        let lives = &mut self.rooms[room];
        if lives.len() <= life {
            lives.resize_with(life + 1, Life::default);
        }
        let skipped = &mut lives[life].skipped;
        if from <= to && skipped.len() < SKIPPED_MAX && !skipped.contains(&(from, to)) {
            skipped.push((from, to));
        }
    }

    /// Acked publications that nobody got so far.
    pub(crate) fn unseen(&self) -> u64 {
        self.unseen
    }

    /// What it comes to; `latest` is each room's latest life, and `is_ahead` whether none of its
    /// members has come as far as an offset of that.
    pub(crate) fn verdict(
        &self,
        latest: impl Fn(usize) -> usize,
        is_ahead: impl Fn(usize, u64) -> bool,
    ) -> Verdict {
        let mut verdict = self.counts;
        for (publisher, publications) in self.publications.iter().enumerate() {
            let room = self.publisher_rooms[publisher];
            for (i, publication) in publications.iter().enumerate() {
                let Some((life, offset)) = publication.acked.filter(|_| self.watched[room]) else {
                    continue;
                };
                match (publication.seen, offset) {
                    (Some(seen), Some(offset)) => {
                        let elsewhere = seen.0 == life && seen.1 != offset;
                        verdict.disagreements += u64::from(elsewhere);
                    }
                    (Some(_), None) => {}
                    (None, _) => {
                        let key = (publisher as u64) << 32 | (i as u64 + 1);
                        let why = self.why_unseen(room, publication, key, latest(room));
                        *match why {
                            Why::Told => &mut verdict.unseen_told,
                            Why::Skipped => &mut verdict.unseen_skipped,
                            Why::Unknown if offset.is_some_and(|it| is_ahead(room, it)) => {
                                &mut verdict.unseen_ahead
                            }
                            Why::Unknown => &mut verdict.unseen,
                        } += 1;
                    }
                }
            }
        }
        verdict
    }

    fn why_unseen(&self, room: usize, publication: &Publication, key: u64, latest: usize) -> Why {
        let Some((life, offset)) = publication.acked else {
            return Why::Unknown;
        };
        let lives = &self.rooms[room];
        let at = |life: usize, offset| lives.get(life).map_or(0, |life| life.at(offset));
        // It may have been stored in the life before, and the ack told after the change.
        let older = usize::from(publication.sent_life) != latest
            && offset.is_some_and(|offset| ![0, key].contains(&at(latest, offset)));
        if usize::from(life) != latest || older {
            return Why::Told;
        }
        let skipped = lives.get(latest).map_or(&[][..], |life| &life.skipped);
        let covers = |&(from, to): &(u64, u64)| offset.is_some_and(|o| (from..=to).contains(&o));
        match skipped.iter().any(covers) {
            true => Why::Skipped,
            false => Why::Unknown,
        }
    }
}

/// Why nobody got what was acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Told,
    Skipped,
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Event {
        /// Life.
        Sent(usize),
        /// Sequence, life, offset.
        Ack(u32, usize, u64),
        /// Life, offset, sequence.
        Got(usize, u64, u32),
        /// Life, from, to.
        Gap(usize, u64, u64),
    }
    use Event::{Ack, Gap, Got, Sent};

    /// One room, one publisher; the last life that an event names is the latest.
    fn check(events: &[Event], expect: Verdict) {
        let mut agreement = Agreement::new(1, &[0], &[0]);
        let mut latest = 0;
        for event in events {
            let life = match *event {
                Sent(life) => {
                    agreement.on_sent(0, life);
                    life
                }
                Ack(sequence, life, offset) => {
                    agreement.on_ack(0, sequence, life, Some(offset));
                    life
                }
                Got(life, offset, sequence) => {
                    let (run, publisher, time) = (5, 0, 0);
                    let marker = Marker {
                        run,
                        publisher,
                        sequence,
                        time,
                    };
                    agreement.on_message(0, life, offset, marker);
                    life
                }
                Gap(life, from, to) => {
                    agreement.on_skipped(0, life, from, to);
                    life
                }
            };
            latest = latest.max(life);
        }
        let verdict = agreement.verdict(|_| latest, |_, _| false);
        assert_eq!(verdict, expect);
        let unseen = verdict.unseen + verdict.unseen_told + verdict.unseen_skipped;
        assert_eq!(agreement.unseen(), unseen);
    }

    #[test]
    fn what_it_counts() {
        let none = Verdict::default();
        let acked = Verdict { acked: 1, ..none };
        let two = Verdict { acked: 2, ..none };
        check(&[Sent(0), Ack(1, 0, 1), Got(0, 1, 1)], acked);
        check(&[Sent(0), Got(0, 1, 1), Got(0, 1, 1), Ack(1, 0, 1)], acked);
        // An ack told twice, since the publish was retried.
        check(
            &[Sent(0), Got(0, 1, 1), Ack(1, 0, 1), Ack(1, 0, 1)],
            Verdict { acked: 1, ..none },
        );
        check(&[Sent(0), Ack(1, 0, 1)], Verdict { unseen: 1, ..acked });
        check(
            &[Sent(0), Sent(0), Got(0, 1, 1), Got(0, 1, 2)],
            Verdict {
                disagreements: 1,
                ..none
            },
        );
        check(
            &[Sent(0), Ack(1, 0, 2), Got(0, 1, 1)],
            Verdict {
                disagreements: 1,
                ..acked
            },
        );
        check(
            &[Sent(0), Got(0, 1, 1), Got(0, 2, 1)],
            Verdict { doubled: 1, ..none },
        );
        check(&[Sent(0), Got(0, 1, 2)], Verdict { phantom: 1, ..none });
        // Someone who resumed sees what was before the first receipt.
        check(
            &[
                Sent(0),
                Sent(0),
                Got(0, 7, 2),
                Got(0, 6, 1),
                Ack(1, 0, 6),
                Ack(2, 0, 7),
            ],
            two,
        );
        check(
            &[Sent(0), Ack(1, 0, 4), Gap(0, 3, 4)],
            Verdict {
                unseen_skipped: 1,
                ..acked
            },
        );
    }

    #[test]
    fn what_nobody_has_come_to_is_ahead() {
        let mut agreement = Agreement::new(1, &[0], &[0]);
        for (sequence, offset) in [(1, 7), (2, 8)] {
            agreement.on_sent(0, 0);
            agreement.on_ack(0, sequence, 0, Some(offset));
        }
        let verdict = agreement.verdict(|_| 0, |_, offset| offset >= 8);
        let want = Verdict {
            acked: 2,
            unseen: 1,
            unseen_ahead: 1,
            ..Verdict::default()
        };
        assert_eq!(verdict, want);
    }

    #[test]
    fn a_new_epoch_tells_what_was_lost() {
        let none = Verdict::default();
        let told = Verdict {
            acked: 1,
            unseen_told: 1,
            ..none
        };
        check(&[Sent(0), Ack(1, 0, 1), Sent(1)], told);
        // The ack came after the change, and its offset is another's by now.
        check(
            &[Sent(0), Sent(1), Ack(1, 1, 3), Got(1, 3, 2)],
            Verdict {
                acked: 1,
                unseen_told: 1,
                ..none
            },
        );
        // Of the new life itself: that is no excuse.
        check(
            &[Sent(1), Ack(1, 1, 3)],
            Verdict {
                acked: 1,
                unseen: 1,
                ..none
            },
        );
        check(
            &[Sent(0), Got(0, 9, 1), Got(1, 1, 1), Ack(1, 1, 1)],
            Verdict {
                acked: 1,
                doubled_told: 1,
                ..none
            },
        );
    }
}
