//! Who takes part in a run, on which instance, and when publishers publish: plain values.

/// Who takes part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) run: u32,
    pub(crate) rooms: Vec<String>,
    /// The room of each member.
    pub(crate) members: Vec<usize>,
    /// Connection and room of each publisher.
    pub(crate) publishers: Vec<(usize, usize)>,
    /// The instance of each connection at first, by its place among the targets; of those that
    /// are not told: the first.
    pub(crate) instances: Vec<usize>,
    /// Bytes of a payload, quotes included.
    pub(crate) payload: usize,
    /// Publishes ask for an `ack`, and that is what closes the window.
    pub(crate) acked: bool,
    /// Publishes bear an id.
    pub(crate) ids: bool,
    /// Receipts of all members, and acks, are held against each other
    /// ([`crate::agreement::Agreement`]).
    pub(crate) agreement: bool,
    /// What was not acked is sent again with its id: after a reconnect, or when it was refused for
    /// now. Wants `acked` and `ids`.
    pub(crate) retry: bool,
}

impl Plan {
    /// How many connections it needs.
    pub(crate) fn connections(&self) -> usize {
        let last = self
            .publishers
            .iter()
            .map(|(connection, _)| connection + 1)
            .max();
        self.members.len().max(last.unwrap_or(0))
    }

    /// The instance that a connection starts at.
    pub(crate) fn instance(&self, connection: usize) -> usize {
        self.instances.get(connection).copied().unwrap_or(0)
    }
}

/// When publishers publish.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Not at all.
    Paused,
    /// So many in flight each.
    Window(u32),
    /// All together one every so many nanoseconds, from a time on.
    Every { nanos: f64, start: u64 },
}
