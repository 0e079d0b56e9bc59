//! The names in Redis, by prefix and partition (PROTOCOL 5).
//!
//! ```text
//! one partition:  gosocket:state        more:  gosocket:{3}:state
//! ```
//!
//! The braces are Redis Cluster's hash tag: the names of one partition share a slot, so that a
//! script may touch them all.

/// The names of one partition. What each is: see the module above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    root: String,
    /// The channel of envelopes.
    pub broadcast: String,
    /// The stream of publications.
    pub stream: String,
    /// The stream of entries that can't be stored.
    pub dead: String,
    /// The hash of the epoch and all counters.
    pub state: String,
    /// The channel of the roster.
    pub control: String,
    /// The two generations of ids that clients supplied.
    pub ids: [String; 2],
}

impl Names {
    /// The names of partition `partition` of `partitions`.
    pub fn new(prefix: &str, partition: u16, partitions: u16) -> Self {
        if partitions <= 1 {
            Self::below(prefix.into())
        } else {
            Self::below(format!("{prefix}:{{{partition}}}"))
        }
    }

    fn below(root: String) -> Self {
        let name = |of: &str| format!("{root}:{of}");
        Self {
            broadcast: name("broadcast"),
            stream: name("messages:stream"),
            dead: name("messages:dead"),
            state: name("state"),
            control: name("control"),
            ids: [name("ids:0"), name("ids:1")],
            root,
        }
    }

    /// The hash of the members on that instance.
    pub fn members(&self, instance: &str) -> String {
        format!("{}:members:{instance}", self.root)
    }

    /// The lease of that INSTANCE_ID.
    pub fn instance(&self, instance: &str) -> String {
        format!("{}:instance:{instance}", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_protocol() {
        let check = |partition, partitions, root: &str| {
            let names = Names::new("gosocket", partition, partitions);
            for (name, want) in [
                (&names.broadcast, "broadcast"),
                (&names.stream, "messages:stream"),
                (&names.dead, "messages:dead"),
                (&names.state, "state"),
                (&names.control, "control"),
                (&names.ids[0], "ids:0"),
                (&names.ids[1], "ids:1"),
                (&names.members("a"), "members:a"),
                (&names.instance("a"), "instance:a"),
            ] {
                assert_eq!(*name, format!("{root}:{want}"));
            }
        };
        check(0, 1, "gosocket");
        check(3, 4, "gosocket:{3}");
    }
}
