//! Bringing the tables up to date: `migrations/`, in order, each once, under an advisory lock.
//!
//! ```text
//! begin; lock ─▶ is ringcast_schema there? ─▶ its version ─▶ files above it ─▶ commit
//! ```
//!
//! All in one transaction: what fails leaves nothing. Whoever comes second waits for the lock and
//! then finds nothing to do. It only goes forward; a version above ours is let be.

use crate::pg::{Answer, Request};

/// The files, by the version that they make.
pub static FILES: &[(i64, &str)] = &[(1, include_str!("../../migrations/init.sql"))];

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Lock,
    Version,
    File(usize),
    Commit,
    Done,
}

/// See the module.
#[derive(Debug)]
pub struct Migration {
    step: Step,
    applied: Vec<i64>,
}

impl Migration {
    /// Not begun.
    pub fn new() -> Self {
        Self {
            step: Step::Begin,
            applied: Vec::new(),
        }
    }

    /// The versions that it has made.
    pub fn applied(&self) -> &[i64] {
        &self.applied
    }

    /// What to ask next; `None`: it is done. `answer` is of the last request, and the default
    /// before the first. If one fails, roll back and begin anew.
    pub fn next(&mut self, answer: &Answer) -> Option<Request> {
        let (step, request) = match self.step {
            Step::Begin => (
                Step::Lock,
                Request::simple(
                    "begin; select pg_advisory_xact_lock(8243108, 1); \
                     select to_regclass('ringcast_schema') is not null",
                ),
            ),
            Step::Lock if answer.rows.last().and_then(|row| row.bool(0)) == Some(true) => (
                Step::Version,
                Request::simple("select coalesce(max(version), 0) from ringcast_schema"),
            ),
            Step::Lock => self.file(0),
            Step::Version => {
                let version = answer.rows.first().and_then(|row| row.int(0)).unwrap_or(0);
                self.file(FILES.iter().filter(|(of, _)| *of <= version).count())
            }
            Step::File(at) => {
                self.applied.push(FILES[at].0);
                self.file(at + 1)
            }
            Step::Commit => {
                self.step = Step::Done;
                return None;
            }
            Step::Done => return None,
        };
        self.step = step;
        Some(request)
    }

    fn file(&self, at: usize) -> (Step, Request) {
        match FILES.get(at) {
            Some((version, text)) => {
                let note = "insert into ringcast_schema (version) values";
                let sql = format!("{text};\n{note} ({version}) on conflict do nothing");
                (Step::File(at), Request::simple(sql))
            }
            None => (Step::Commit, Request::simple("commit")),
        }
    }
}

impl Default for Migration {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_by_one() {
        let versions: Vec<_> = FILES.iter().map(|(version, _)| *version).collect();
        let want: Vec<_> = (1..=FILES.len() as i64).collect();
        assert_eq!(versions, want);
        let nothing = Answer::default();
        let mut migration = Migration::new();
        let mut asked = Vec::new();
        while let Some(request) = migration.next(&nothing) {
            asked.push(format!("{request:?}"));
        }
        // An empty database: the lock, every file, the end.
        assert_eq!(asked.len(), FILES.len() + 2);
        assert!(asked[0].contains("lock") && asked[1].contains("create table"));
        assert_eq!(migration.applied(), want);
    }
}
