//! What fails again and again: told once, tried again after pauses that grow.
//!
//! A first failure is told at once; another cause soon; the same one once a minute; and the end of
//! it. Pauses double, each between half of itself and itself by chance.

use super::pipeline::Level;
use crate::model::limits::{TROUBLE_AGAIN_MS, WORKER_PAUSES_MS};

/// See the module.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Whose.
    name: &'static str,
    /// Since when, and what was said last.
    current: Option<(u64, String)>,
    said_ms: u64,
    failures: u32,
}

/// A line for the log.
pub(super) type Line = (Level, String);

impl Trouble {
    /// None so far.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            current: None,
            said_ms: 0,
            failures: 0,
        }
    }

    /// What is the matter, if anything is.
    pub(super) fn why(&self) -> Option<&str> {
        self.current.as_ref().map(|(_, why)| why.as_str())
    }

    /// It has failed: how long to pause before the next try, in ms, and what to say. `random` is
    /// from 0 to 1.
    pub(super) fn failed(&mut self, now_ms: u64, why: &str, random: f64) -> (u64, Option<Line>) {
        let (again_ms, other_ms) = TROUBLE_AGAIN_MS;
        let since_said = now_ms.saturating_sub(self.said_ms);
        let is_told = match &self.current {
            None => true,
            Some((_, before)) if before == why => since_said >= again_ms,
            Some(_) => since_said >= other_ms,
        };
        let since_ms = self.current.as_ref().map_or(now_ms, |(since, _)| *since);
        let seconds = now_ms.saturating_sub(since_ms) / 1000;
        let line = is_told.then(|| {
            self.said_ms = now_ms;
            let text = match seconds {
                0 => format!("{}: {why}", self.name),
                _ => format!("{}, for {seconds} s: {why}", self.name),
            };
            (Level::Warn, text)
        });
        if is_told || self.current.is_none() {
            self.current = Some((since_ms, why.to_owned()));
        }
        let (first, longest) = WORKER_PAUSES_MS;
        let pause = (first << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        let pause = (pause as f64 * (0.5 + random.clamp(0.0, 1.0) / 2.0)) as u64;
        (pause, line)
    }

    /// It has gone well.
    pub(super) fn ended(&mut self, now_ms: u64) -> Option<Line> {
        self.failures = 0;
        let (since_ms, _) = self.current.take()?;
        let seconds = now_ms.saturating_sub(since_ms) as f64 / 1000.0;
        Some((
            Level::Info,
            format!("{} again, after {seconds:.1} s", self.name),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_pauses_grow() {
        let mut trouble = Trouble::new("PostgreSQL");
        let mut check = |now, why: &str, want: Option<&str>| {
            let (pause, line) = trouble.failed(now, why, 1.0);
            assert_eq!(line.map(|(_, text)| text).as_deref(), want, "{now} {why}");
            pause
        };
        assert_eq!(check(1_000, "away", Some("PostgreSQL: away")), 100);
        assert_eq!(check(1_100, "away", None), 200);
        assert_eq!(check(1_300, "full", None), 400);
        let line = "PostgreSQL, for 3 s: full";
        assert_eq!(check(4_000, "full", Some(line)), 800);
        assert_eq!(check(5_000, "full", None), 1_600);
        assert_eq!(check(6_000, "full", None), 3_000);
        let line = "PostgreSQL, for 63 s: full";
        assert_eq!(check(64_000, "full", Some(line)), 3_000);
        assert_eq!(trouble.why(), Some("full"));
        let (_, text) = trouble.ended(65_500).unwrap();
        assert_eq!(text, "PostgreSQL again, after 64.5 s");
        assert_eq!(trouble.ended(65_501), None);
        assert_eq!(trouble.failed(70_000, "away", 0.0).0, 50);
    }
}
