//! The mailboxes of the shards: bounded channels, and a bell that is rung only for who sleeps.
//!
//! Waking a sleeping thread costs the waker some 7 µs, mail to one that is awake a hundredth of it.
//! So a shard says when it goes to sleep, and the first letter after that wakes it; nobody rings
//! while it runs. Invariant: a shard looks into its mailbox once more after it said that it sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Waker;

use atomic_waker::AtomicWaker;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::access::Access;
use crate::backplane::Answer;
use crate::model::limits::MAILBOX_BATCHES;
use crate::shard::{Mail, ShardId};

/// What comes into a mailbox.
pub enum Letter {
    /// Mail of another shard, in order.
    Mail(ShardId, Vec<Mail>),
    /// What a backplane asked for is answered.
    Answer(Answer),
    /// What is taken as proof from now on.
    Access(Arc<Access>),
    /// Drain over so many milliseconds.
    Drain(u64),
}

#[derive(Default)]
struct Bell {
    sleeping: AtomicBool,
    waker: AtomicWaker,
}

/// The way into every mailbox of the instance.
#[derive(Clone)]
pub struct Post {
    boxes: Arc<[(Sender<Letter>, Arc<Bell>)]>,
}

/// A shard's own mailbox.
pub struct Mailbox {
    letters: Receiver<Letter>,
    bell: Arc<Bell>,
}

/// Mailboxes for so many shards.
pub fn mailboxes(shards: usize) -> (Post, Vec<Mailbox>) {
    let (mut boxes, mut owned) = (Vec::new(), Vec::new());
    for _ in 0..shards {
        let (sender, letters) = bounded(MAILBOX_BATCHES);
        let bell = Arc::new(Bell::default());
        boxes.push((sender, bell.clone()));
        owned.push(Mailbox { letters, bell });
    }
    (
        Post {
            boxes: boxes.into(),
        },
        owned,
    )
}

impl Post {
    /// Sends without waiting; gives the letter back if the mailbox is full.
    pub fn try_send(&self, to: ShardId, letter: Letter) -> Result<(), Letter> {
        let (sender, bell) = &self.boxes[usize::from(to)];
        match sender.try_send(letter) {
            Ok(()) => {
                bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(letter)) => Err(letter),
            // The shard has ended, and nobody waits for what it would have done.
            Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Sends, and waits while the mailbox is full: for threads that are no shards. A shard always
    /// empties its mailbox, so this ends.
    pub fn send(&self, to: ShardId, letter: Letter) {
        let (sender, bell) = &self.boxes[usize::from(to)];
        if sender.send(letter).is_ok() {
            bell.ring();
        }
    }

    /// Sends to all shards.
    pub fn send_all(&self, letter: impl Fn() -> Letter) {
        for to in 0..self.boxes.len() {
            self.send(to as ShardId, letter());
        }
    }
}

impl Bell {
    fn ring(&self) {
        // Pairs with the fence in `sleep`: either we see that it sleeps, or it sees the letter.
        fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Mailbox {
    /// The next letter, if there is one.
    pub fn take(&self) -> Option<Letter> {
        self.letters.try_recv().ok()
    }

    /// Says that the shard goes to sleep, and is to be woken by `waker`. `false`: there is mail, it
    /// must not.
    pub fn sleep(&self, waker: &Waker) -> bool {
        self.bell.waker.register(waker);
        self.bell.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.letters.is_empty() {
            return true;
        }
        self.bell.sleeping.store(false, Ordering::SeqCst);
        false
    }
}
