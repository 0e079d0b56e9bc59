//! The users of a room whose home is here, each with its name and its connections.
//!
//! They stand side by side, 40 bytes each, and a few are looked through; beyond [`FEW`] an index
//! finds them. A hash table of them would have twice as many places as a room of fifteen has users.
//!
//! Invariants ([`Users::invariants`]): no user is in it twice; the index, if there is one, has the
//! place of each.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::model::Name;

/// How many are looked through.
const FEW: usize = 16;

/// A user in a room.
#[derive(Debug)]
pub(super) struct User {
    pub(super) user_id: Name,
    pub(super) username: Option<Box<Name>>,
    pub(super) connections: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Users {
    list: Vec<User>,
    index: Option<Box<Index>>,
}

#[derive(Debug, Default)]
struct Index {
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Users {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &User> {
        self.list.iter()
    }

    pub(super) fn contains(&self, user_id: &str) -> bool {
        self.place(user_id).is_some()
    }

    pub(super) fn find(&mut self, user_id: &str) -> Option<&mut User> {
        let place = self.place(user_id)?;
        self.list.get_mut(place)
    }

    /// The user, who is new and has no connection if it was not there.
    pub(super) fn find_or_add(&mut self, user_id: &Name) -> &mut User {
        let place = self.place(user_id).unwrap_or_else(|| {
            self.list.push(User {
                user_id: user_id.clone(),
                username: None,
                connections: 0,
            });
            self.note_last();
            self.list.len() - 1
        });
        &mut self.list[place]
    }

    /// Takes a user out.
    pub(super) fn remove(&mut self, user_id: &str) -> Option<User> {
        let place = self.place(user_id)?;
        let last = self.list.len() - 1;
        if let Some(index) = &mut self.index {
            index.forget(&self.list, place);
            if place != last {
                // The last one takes its place.
                index.forget(&self.list, last);
                index.note(&self.list, last, place);
            }
        }
        let removed = self.list.swap_remove(place);
        if self.list.is_empty() {
            // A room that was large may be empty for a while.
            *self = Self::default();
        }
        Some(removed)
    }

    fn place(&self, user_id: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.place(&self.list, user_id),
            None => self.list.iter().position(|user| user.user_id == user_id),
        }
    }

    /// One was added behind the others.
    fn note_last(&mut self) {
        let last = self.list.len() - 1;
        match &mut self.index {
            Some(index) => index.note(&self.list, last, last),
            None if self.list.len() > FEW => {
                let mut index = Box::<Index>::default();
                for place in 0..self.list.len() {
                    index.note(&self.list, place, place);
                }
                self.index = Some(index);
            }
            None => {}
        }
    }

    /// Checks what the module's doc says.
    #[cfg(test)]
    pub(super) fn invariants(&self) {
        for (place, user) in self.list.iter().enumerate() {
            assert_eq!(self.place(&user.user_id), Some(place), "found at its place");
        }
        let noted = self.index.as_ref().map(|index| index.places.len());
        assert!(noted.is_none_or(|noted| noted == self.list.len()));
    }
}

impl Index {
    fn place(&self, list: &[User], user_id: &str) -> Option<usize> {
        let is_it = |&place: &u32| list[place as usize].user_id == user_id;
        let place = self.places.find(self.hasher.hash_one(user_id), is_it);
        place.map(|&place| place as usize)
    }

    /// Notes that the user who stands at `from` is to be found at `place`.
    fn note(&mut self, list: &[User], from: usize, place: usize) {
        let hash = self.hasher.hash_one(list[from].user_id.as_str());
        let hasher = &self.hasher;
        self.places.insert_unique(hash, place as u32, |&other| {
            hasher.hash_one(list[other as usize].user_id.as_str())
        });
    }

    fn forget(&mut self, list: &[User], place: usize) {
        let hash = self.hasher.hash_one(list[place].user_id.as_str());
        if let Ok(entry) = self
            .places
            .find_entry(hash, |&other| other as usize == place)
        {
            entry.remove();
        }
    }
}

const _: () = assert!(size_of::<User>() == 40 && size_of::<Users>() == 32);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the naive model: a map from each user to its connections.
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((0_u8..40, any::<bool>()), 1..300)) {
            let (mut users, mut model) = (Users::default(), BTreeMap::<Name, u32>::new());
            for (user, comes) in steps {
                let user_id = Name::from(format!("user-{user}"));
                if comes {
                    users.find_or_add(&user_id).connections += 1;
                    *model.entry(user_id.clone()).or_default() += 1;
                } else {
                    let removed = users.remove(&user_id).map(|user| user.connections);
                    prop_assert_eq!(removed, model.remove(&user_id));
                }
                users.invariants();
                prop_assert_eq!(users.contains(&user_id), model.contains_key(&user_id));
                prop_assert_eq!((users.len(), users.is_empty()), (model.len(), model.is_empty()));
                let all: BTreeMap<_, _> = users
                    .iter()
                    .map(|user| (user.user_id.clone(), user.connections))
                    .collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }
}
