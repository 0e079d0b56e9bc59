//! Which rooms a claim grants: names, and prefixes that end in `*` (PROTOCOL 2).
//!
//! ```text
//! ["lobby", "team-*", "team-a"]  ─▶  names: lobby      prefixes: team-
//! ```
//!
//! Invariants: both lists are sorted; no prefix begins with another one, and no name with a prefix.
//! So of all prefixes only the last that is not above a room's name can be one of it, and a look
//! is two binary searches, however many grants a token has.

use compact_str::CompactString;

/// The rooms of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    names: Box<[CompactString]>,
    prefixes: Box<[CompactString]>,
}

impl Grants {
    /// Every room.
    pub fn every() -> Self {
        Self::new(["*"])
    }

    /// No room.
    pub fn none() -> Self {
        Self::new([])
    }

    /// What a claim's texts grant.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut names, mut prefixes) = (Vec::new(), Vec::new());
        for text in texts {
            match text.strip_suffix('*') {
                Some(prefix) => prefixes.push(CompactString::from(prefix)),
                None => names.push(CompactString::from(text)),
            }
        }
        prefixes.sort_unstable();
        // Behind a prefix stands all that begins with it.
        prefixes.dedup_by(|later, kept| later.starts_with(kept.as_str()));
        let prefixes = prefixes.into_boxed_slice();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !is_within(&prefixes, name));
        Self {
            names: names.into_boxed_slice(),
            prefixes,
        }
    }

    /// Whether it is every room.
    pub fn is_every(&self) -> bool {
        self.prefixes
            .first()
            .is_some_and(|prefix| prefix.is_empty())
    }

    /// The parts of it that begin with `prefix`, in order: names (`true`), and prefixes.
    pub fn within(&self, prefix: &str) -> impl Iterator<Item = (String, bool)> {
        let names = self.names.iter().filter(|name| name.starts_with(prefix));
        let mut parts: Vec<_> = names.map(|name| (name.to_string(), true)).collect();
        for granted in &self.prefixes {
            if granted.starts_with(prefix) {
                parts.push((granted.to_string(), false));
            } else if prefix.starts_with(granted.as_str()) {
                parts.push((prefix.to_owned(), false));
            }
        }
        parts.sort_unstable();
        parts.into_iter()
    }

    /// Whether `room` is one of them.
    pub fn has(&self, room: &str) -> bool {
        is_within(&self.prefixes, room)
            || self
                .names
                .binary_search_by(|name| name.as_str().cmp(room))
                .is_ok()
    }
}

/// Whether one of `prefixes`, sorted and none the beginning of another, begins `room`.
fn is_within(prefixes: &[CompactString], room: &str) -> bool {
    let behind = prefixes.partition_point(|prefix| prefix.as_str() <= room);
    behind
        .checked_sub(1)
        .is_some_and(|at| room.starts_with(prefixes[at].as_str()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_prefixes() {
        for (grants, room, has) in [
            (&["lobby"][..], "lobby", true),
            (&["lobby"], "lobb", false),
            (&["lobby"], "lobby2", false),
            (&["lobby"], "Lobby", false),
            (&["team-*"], "team-", true),
            (&["team-*"], "team-a", true),
            (&["team-*"], "team", false),
            (&["team-*"], "steam-a", false),
            (&["a*", "ab*", "b"], "abc", true),
            (&["*"], "anything", true),
            (&["*"], "@bob", true),
            (&["@*"], "@bob", true),
            (&["a**"], "a*b", true),
            (&["a**"], "ab", false),
            (&["*a"], "ba", false),
            (&["*a"], "*a", true),
            (&[""], "", true),
            (&[], "a", false),
            (&["ü*"], "über", true),
            (&["u*"], "über", false),
        ] {
            let found = Grants::new(grants.iter().copied()).has(room);
            assert_eq!(found, has, "{grants:?} {room}");
        }
        assert!(Grants::every().is_every() && !Grants::none().is_every());
        assert!(Grants::new(["x", "*"]).is_every());
        assert_eq!(
            Grants::new(["ab*", "a*", "abc", "b", "b"]),
            Grants::new(["a*", "b"])
        );
    }

    /// What PROTOCOL 2 says, word by word.
    fn naive(grants: &[String], room: &str) -> bool {
        grants.iter().any(|grant| match grant.strip_suffix('*') {
            Some(prefix) => room.starts_with(prefix),
            None => grant == room,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn grants_are_as_the_naive_ones(
            grants in prop::collection::vec("[ab*é@]{0,4}", 0..12),
            rooms in prop::collection::vec("[ab*é@]{0,5}", 1..12),
        ) {
            let fast = Grants::new(grants.iter().map(String::as_str));
            for room in &rooms {
                prop_assert_eq!(fast.has(room), naive(&grants, room), "{:?} {}", &grants, room);
            }
            for prefix in &rooms {
                let parts: Vec<_> = fast.within(prefix).collect();
                prop_assert!(parts.windows(2).all(|two| two[0].0 < two[1].0));
                for room in &rooms {
                    let is_in = |(part, exact): &(String, bool)| match exact {
                        true => part == room,
                        false => room.starts_with(part.as_str()),
                    };
                    let has = room.starts_with(prefix.as_str()) && fast.has(room);
                    let found = parts.iter().filter(|part| is_in(part)).count();
                    prop_assert_eq!(found, usize::from(has));
                }
            }
            let sorted = |all: &[CompactString]| all.windows(2).all(|two| two[0] < two[1]);
            prop_assert!(sorted(&fast.names) && sorted(&fast.prefixes));
        }
    }
}
