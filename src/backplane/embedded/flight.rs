//! What is known of a batch that is being committed, besides its publications, which are with the
//! store meanwhile.
//!
//! Invariants: `whose[i]` is of the batch's publication `i`; each of `repeats` names one of them.

use crate::model::Publication;

/// Who is to hear what becomes of a publication.
#[derive(Debug)]
pub(super) struct Whose<T> {
    pub(super) origin: T,
    /// Whether they want it themselves.
    pub(super) echo: bool,
    /// When it came, as [`Publish::arrived_us`](crate::backplane::Publish::arrived_us).
    pub(super) arrived_us: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flight<T> {
    pub(super) whose: Vec<Whose<T>>,
    /// Repeats of an id within the batch: which publication it repeats.
    pub(super) repeats: Vec<(usize, T)>,
}

impl<T> Flight<T> {
    /// That of a batch without publications.
    pub(super) fn new() -> Self {
        Self {
            whose: Vec::new(),
            repeats: Vec::new(),
        }
    }

    /// Takes a publication out of the batch, and closes the hole in the offsets of its room. It,
    /// and whose it and its repeats are.
    pub(super) fn take_out(
        &mut self,
        batch: &mut Vec<Publication>,
        index: usize,
    ) -> (Publication, Vec<T>) {
        let publication = batch.remove(index);
        for later in &mut batch[index..] {
            later.offset -= u64::from(later.room == publication.room);
        }
        let mut origins = vec![self.whose.remove(index).origin];
        for (of, origin) in std::mem::take(&mut self.repeats) {
            if of == index {
                origins.push(origin);
            } else {
                self.repeats.push((of - usize::from(of > index), origin));
            }
        }
        (publication, origins)
    }
}
