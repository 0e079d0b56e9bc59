//! From the backplane's outcomes to the members' logs, on this shard and on the others.

use bytes::Bytes;

use super::connection::{Membership, Phase};
use super::event::{Delivery, Effect, Lost, Reply, ShardId, StoreRequest};
use super::home::{Origin, shards_of};
use super::lanes::Behind;
use super::{ConnId, Mail, Shard};
use crate::backplane::{CommitFailure, Outcome};
use crate::hub::{ConnIndex, Member, RoomKey};
use crate::model::{Epoch, MessageId, Publication, RoomName};
use crate::protocol::event;

impl Shard {
    /// Hands over what was published in this turn.
    pub(super) fn drive_backplane(&mut self) {
        let mut outcomes = Vec::new();
        let (now, rng) = (self.now.wall, &mut self.rng);
        let mut ids = || {
            let mut random = [0; 10];
            rng.fill(&mut random);
            uuid::Builder::from_unix_timestamp_millis(now.0, &random).into_uuid()
        };
        if let Some(batch) = self.home.backplane.drive(now, &mut ids, &mut outcomes) {
            self.effects
                .push(Effect::Store(StoreRequest::Commit(batch)));
        }
        self.deliver_outcomes(outcomes);
    }

    pub(super) fn on_committed(
        &mut self,
        batch: Vec<Publication>,
        result: Result<(), CommitFailure>,
    ) {
        let mut outcomes = Vec::new();
        self.home
            .backplane
            .on_committed(batch, result, &mut outcomes);
        self.deliver_outcomes(outcomes);
    }

    fn deliver_outcomes(&mut self, outcomes: Vec<Outcome<Origin>>) {
        for outcome in outcomes {
            match outcome {
                Outcome::Published {
                    publication,
                    origin,
                } => {
                    self.counters.stored += 1;
                    self.deliver_publication(&publication, &origin);
                    let Publication {
                        room, id, offset, ..
                    } = publication;
                    self.ack(origin, room, id, offset);
                }
                Outcome::Repeated {
                    room,
                    id,
                    offset,
                    origin,
                } => {
                    self.counters.repeated += 1;
                    self.ack(origin, room, id, offset);
                }
                Outcome::Refused {
                    room,
                    code,
                    why,
                    origin,
                } => {
                    self.settle(origin, |asker, _| Reply::Refused {
                        asker,
                        join: None,
                        room,
                        code,
                        why,
                    });
                }
            }
        }
    }

    fn ack(&mut self, origin: Origin, room: RoomName, id: MessageId, offset: u64) {
        self.settle(origin, |asker, echo| Reply::Published {
            asker,
            room,
            id,
            offset,
            echo,
        });
    }

    fn settle(&mut self, origin: Origin, reply: impl FnOnce(super::Asker, bool) -> Reply) {
        let Origin {
            from,
            key,
            asker,
            echo,
        } = origin;
        if let Some(room) = self.home.rooms.get_mut(&key) {
            room.publishing -= 1;
        }
        self.reply(from, reply(asker, echo));
    }

    /// Encodes once; into the log here, and to the shards that have members.
    fn deliver_publication(&mut self, publication: &Publication, origin: &Origin) {
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        event::message(&mut frame, publication);
        let Publication {
            room,
            epoch,
            offset,
            ..
        } = publication;
        let skip = (!origin.echo).then_some(origin.asker.conn);
        let subscribers = match room.personal_user() {
            // Its user may be anywhere, without having joined.
            Some(_) => others(self.id, self.options.shards),
            None => self
                .home
                .rooms
                .get(&origin.key)
                .map_or(0, |room| room.subscribers),
        };
        if subscribers != 0 {
            let shared = Bytes::copy_from_slice(&frame);
            for to in shards_of(subscribers) {
                let delivery = Delivery {
                    room: room.clone(),
                    epoch: *epoch,
                    offset: *offset,
                    frame: shared.clone(),
                    skip: skip.filter(|_| origin.from == to),
                };
                self.lanes.post_delivery(to, origin.key, delivery);
            }
        }
        let skip = skip.filter(|_| origin.from == self.id);
        self.deliver(origin.key, *epoch, *offset, &frame, skip);
        self.scratch = frame;
    }

    /// A publication from the home shard of its room.
    pub(super) fn on_delivery(&mut self, delivery: &Delivery) {
        let Delivery {
            room,
            epoch,
            offset,
            frame,
            skip,
        } = delivery;
        if let Some(key) = self.room_of_delivery(room) {
            self.deliver(key, *epoch, *offset, frame, *skip);
        }
    }

    /// Publications that will not be delivered: the members are told.
    pub(super) fn on_lost(&mut self, lost: &Lost) {
        if let Some(key) = self.room_of_delivery(&lost.room) {
            self.add_personal(key, lost.epoch, lost.from);
            self.hub.lose(key, lost.epoch, lost.next);
        }
    }

    /// The room if it is here, or is its user's personal one and the user is.
    fn room_of_delivery(&mut self, room: &RoomName) -> Option<RoomKey> {
        self.hub.find(room.as_str()).or_else(|| {
            let user = room.personal_user()?;
            (!self.connections_of(user).is_empty()).then(|| self.hub.find_or_make(room))
        })
    }

    fn deliver(
        &mut self,
        key: RoomKey,
        epoch: Epoch,
        offset: u64,
        frame: &[u8],
        skip: Option<ConnId>,
    ) {
        self.add_personal(key, epoch, offset);
        if self.hub.room(key).is_none_or(|room| room.log().is_none()) {
            // Where no member is yet a log begins with the answer to a join. This was meant for
            // members who have left, and what comes next may not follow it.
            return;
        }
        if let Some(id) = skip
            && let Some(conn) = self.find_conn(id)
            && let Some(place) = conn.membership(key).and_then(|membership| membership.place)
            && let Some(room) = self.hub.room_mut(key)
        {
            room.skip(place as usize, offset);
        }
        self.hub.publish(key, epoch, offset, frame);
    }

    /// A personal room's user gets what is published there without joining: its connections become
    /// members when the first publication comes.
    fn add_personal(&mut self, key: RoomKey, epoch: Epoch, offset: u64) {
        let Some(room) = self.hub.room(key) else {
            return;
        };
        let Some(user) = room.name.personal_user() else {
            return;
        };
        let connections = self.connections_of(user);
        if connections.is_empty() {
            return;
        }
        self.hub.begin_log(key, epoch, offset);
        for index in connections {
            let is_new = self
                .conn(index)
                .is_some_and(|conn| conn.phase == Phase::Open && conn.membership(key).is_none());
            let (true, Some(room)) = (is_new, self.hub.room_mut(key)) else {
                continue;
            };
            let place = room.add(Member::new(index, offset));
            room.set_flags(place, false, true);
            self.counters.members += 1;
            let place = Some(place as u32);
            if let Some(conn) = self.conn_mut(index) {
                conn.memberships.push(Membership {
                    room: key,
                    place,
                    ticket: 0,
                    username: None,
                });
            }
        }
    }

    /// The open connections of a user on this shard.
    fn connections_of(&self, user: &str) -> Vec<ConnIndex> {
        let hash = self.hash_user(user);
        self.users
            .iter_hash(hash)
            .copied()
            .filter(|&index| self.conn(index).is_some_and(|conn| conn.user_id == user))
            .collect()
    }

    /// Takes the mail for another shard whose mailbox has room: what waits in its lane, and the
    /// continuation of rooms that are behind.
    pub fn carry(&mut self, to: ShardId) -> Vec<Mail> {
        let mut mail = self.lanes.take(to);
        for (key, behind) in self.lanes.take_behind(to) {
            self.read_on(to, key, behind);
        }
        mail.extend(self.lanes.take(to));
        mail
    }

    /// Puts a room that is behind for a shard back into its lane, as far as there is room.
    fn read_on(&mut self, to: ShardId, key: RoomKey, behind: Behind) {
        let Behind { mut offset, skips } = behind;
        let Some(room) = self.hub.room(key) else {
            return;
        };
        let (Some(log), Some(epoch)) = (room.log(), room.epoch()) else {
            return;
        };
        if offset < log.first() {
            // What fell off the log: perhaps no later one is left, which would show the hole.
            let (room, from, next) = (room.name.clone(), offset, log.first());
            let lost = Lost {
                room,
                epoch,
                from,
                next,
            };
            self.lanes.post(to, Mail::Lost(lost));
            offset = next;
        }
        while let Some(chunk) = log.chunk(offset) {
            let frame = chunk.frame(offset);
            if !self.lanes.has_room(to, frame.len()) {
                self.lanes.set_behind(to, key, Behind { offset, skips });
                return;
            }
            let frame = Bytes::copy_from_slice(frame);
            let room = room.name.clone();
            let delivery = Delivery {
                room,
                epoch,
                offset,
                frame,
                skip: skips
                    .iter()
                    .find(|&&(at, _)| at == offset)
                    .map(|&(_, conn)| conn),
            };
            self.lanes.post_delivery(to, key, delivery);
            offset += 1;
        }
    }
}

/// The bits of all shards but one.
fn others(own: ShardId, shards: u16) -> u64 {
    let all = if shards >= 64 {
        u64::MAX
    } else {
        (1 << shards) - 1
    };
    all & !(1 << own)
}
