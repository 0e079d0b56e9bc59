//! The way of a shard's mail into the mailboxes of the others, which are bounded.
//!
//! Invariant: mail keeps its order. While a letter for a shard waits here, since there was no room
//! for it, nothing later is taken for that shard: so at most one waits for each.

use super::mailbox::{Letter, Post};
use crate::shard::{Mail, Shard, ShardId};

/// See the module.
pub(super) struct Outbox {
    from: ShardId,
    shards: u16,
    post: Post,
    /// Mail for which a mailbox had no room.
    returned: Vec<(ShardId, Letter)>,
}

impl Outbox {
    /// That of shard `from`, one of `shards`.
    pub(super) fn new(from: ShardId, shards: u16, post: Post) -> Self {
        Self {
            from,
            shards,
            post,
            returned: Vec::new(),
        }
    }

    /// Sends the mail that waits. Returns whether some had to stay.
    pub(super) fn carry(&mut self, shard: &mut Shard) -> bool {
        if self.shards == 1 {
            return false;
        }
        for (to, letter) in std::mem::take(&mut self.returned) {
            self.send(to, letter);
        }
        for to in 0..self.shards {
            let held = self.returned.iter().any(|&(held, _)| held == to);
            if held || !shard.has_mail(to) {
                continue;
            }
            let mail: Vec<Mail> = shard.carry(to);
            if !mail.is_empty() {
                self.send(to, Letter::Mail(self.from, mail));
            }
        }
        !self.returned.is_empty() || (0..self.shards).any(|to| shard.has_mail(to))
    }

    fn send(&mut self, to: ShardId, letter: Letter) {
        if let Err(letter) = self.post.try_send(to, letter) {
            self.returned.push((to, letter));
        }
    }
}
