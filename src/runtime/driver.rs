//! Which way of I/O the kernel lets us have: io_uring with the flags that measured best, a plain
//! ring, or epoll.
//!
//! A container's seccomp profile answers EPERM, an old kernel ENOSYS, `kernel.io_uring_disabled`
//! EPERM, a tight memlock ENOMEM, an older ring EINVAL for the flags. All of them lead one step
//! down, said once. Not DEFER_TASKRUN: with it completions starve while tasks keep each other
//! runnable.
//!
//! Kernels from 6.14 on count rings as locked memory of the *user*, over all its processes: 8 MiB
//! hold six rings of the best size. So whom that limit binds makes do with smaller ones, which
//! leave room for others, and with still smaller ones where even these do not fit. What does not
//! fit a completion queue the kernel keeps aside.

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// What a shard does its I/O by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// io_uring with SINGLE_ISSUER, COOP_TASKRUN and SUBMIT_ALL.
    Uring,
    /// io_uring without flags.
    PlainUring,
    /// epoll.
    Epoll,
}

impl Kind {
    /// As `/health` names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Uring | Self::PlainUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// How large a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    /// Entries of its submission queue at most.
    entries_max: u32,
    /// Entries of its completion queue at least.
    completions: u32,
    /// What it takes of the kernel's memory, roughly, with as many entries as are the default.
    bytes: u64,
}

/// The sizes, best first.
const SIZES: [Size; 3] = [
    Size {
        entries_max: u32::MAX,
        completions: 65_536,
        bytes: 1_400_000,
    },
    Size {
        entries_max: 1_024,
        completions: 8_192,
        bytes: 210_000,
    },
    Size {
        entries_max: 256,
        completions: 1_024,
        bytes: 40_000,
    },
];
const LEAST: Size = SIZES[2];
/// The share of its user's locked memory that an instance takes at most of its own accord.
const SHARE: u64 = 8;
/// How long a ring may not fit before a smaller one is taken: the kernel takes those apart that are
/// gone, and gives their memory back, in its own time.
const PATIENCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(5);

/// The sizes to be tried, best first. What was found for so many rings at first is for all.
fn sizes(rings: usize) -> &'static [Size] {
    static FOUND: OnceLock<&[Size]> = OnceLock::new();
    FOUND.get_or_init(|| {
        let its = capabilities(None);
        let is_free = its.is_ok_and(|its| its.effective.contains(CapabilitySet::IPC_LOCK));
        match getrlimit(Resource::Memlock).current {
            Some(limit) if !is_free => within(limit, rings),
            _ => &SIZES,
        }
    })
}

/// Those sizes of which so many rings take no more than a share of the locked memory.
fn within(limit: u64, rings: usize) -> &'static [Size] {
    let fits = |size: &Size| size.bytes * rings as u64 <= limit / SHARE;
    let first = SIZES.iter().position(fits).unwrap_or(SIZES.len() - 1);
    &SIZES[first..]
}

/// A ring's parameters.
fn ring(kind: Kind, entries: u32, size: Size) -> (io_uring::Builder, u32) {
    let entries = entries.min(size.entries_max);
    let mut ring = io_uring::IoUring::builder();
    if kind == Kind::Uring {
        ring.setup_single_issuer()
            .setup_coop_taskrun()
            .setup_submit_all();
        ring.setup_clamp()
            .setup_cqsize(size.completions.max(entries));
    }
    (ring, entries)
}

/// A shard's runtime.
pub(super) enum ShardRuntime {
    Uring(Runtime<TimeDriver<IoUringDriver>>),
    Epoll(Runtime<TimeDriver<LegacyDriver>>),
}

impl ShardRuntime {
    /// Makes the runtime of this thread, with a ring of so many entries or, where there is not
    /// memory for it, a smaller one. May wait some hundred milliseconds for that.
    pub(super) fn build(kind: Kind, entries: u32) -> io::Result<Self> {
        if kind == Kind::Epoll {
            let builder = RuntimeBuilder::<LegacyDriver>::new();
            return Ok(Self::Epoll(builder.enable_timer().build()?));
        }
        let mut result = Err(io::ErrorKind::OutOfMemory.into());
        for &size in sizes(1) {
            result = patiently(|| {
                let (ring, entries) = ring(kind, entries, size);
                let builder = RuntimeBuilder::<IoUringDriver>::new();
                let builder = builder.uring_builder(ring).with_entries(entries);
                Ok(Self::Uring(builder.enable_timer().build()?))
            });
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::OutOfMemory) {
                break;
            }
        }
        result
    }

    /// Runs a future to its end.
    pub(super) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

/// Does it again for a while where there is no memory for it.
fn patiently<T>(mut build: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match build() {
            Err(error)
                if error.kind() == io::ErrorKind::OutOfMemory && began.elapsed() < PATIENCE =>
            {
                thread::sleep(LOOK);
            }
            other => return other,
        }
    }
}

/// Whether a kind can be had: of rings so many at a time, if of the least size.
fn try_kind(kind: Kind, entries: u32, rings: usize) -> io::Result<()> {
    if kind == Kind::Epoll {
        return ShardRuntime::build(kind, entries).map(drop);
    }
    let (ring, entries) = ring(kind, entries, LEAST);
    let all: io::Result<Vec<_>> = (0..rings)
        .map(|_| patiently(|| ring.build(entries)))
        .collect();
    all.map(drop)
}

/// Which kinds a setting allows, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Auto,
    Uring,
    Epoll,
}

/// Finds the best kind that so many runtimes can have at a time, by trying. The second value says
/// why it is not the best.
///
/// # Errors
/// One line: nothing that is wanted can be had.
pub(super) fn choose(
    wanted: Wanted,
    entries: u32,
    rings: usize,
) -> Result<(Kind, Option<String>), String> {
    let kinds: &[Kind] = match wanted {
        Wanted::Auto => &[Kind::Uring, Kind::PlainUring, Kind::Epoll],
        Wanted::Uring => &[Kind::Uring, Kind::PlainUring],
        Wanted::Epoll => &[Kind::Epoll],
    };
    sizes(rings);
    let mut refused = None;
    for &kind in kinds {
        match try_kind(kind, entries, rings) {
            Ok(()) => {
                return Ok((kind, refused.filter(|_| kind == Kind::Epoll)));
            }
            Err(error) => refused = Some(explain(&error)),
        }
    }
    let why = refused.unwrap_or_default();
    Err(match wanted {
        Wanted::Epoll => format!("--driver epoll: {why}"),
        Wanted::Auto | Wanted::Uring => {
            format!("--driver: {why}; --driver epoll does without io_uring")
        }
    })
}

/// The likely cause, and what mends it.
fn explain(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "a seccomp profile (Docker's default since 25) or the sysctl kernel.io_uring_disabled \
             refuses it"
        }
        io::ErrorKind::Unsupported => "this kernel has no io_uring",
        io::ErrorKind::OutOfMemory => {
            "raise the locked-memory limit (ulimit -l), which all of this user's processes share"
        }
        _ => "see the kernel's log",
    };
    format!("io_uring is refused ({error}): {hint}")
}

/// Runs a test on each driver there is.
#[cfg(test)]
pub(super) fn on_each_driver<F: Future<Output = ()>>(test: impl Fn() -> F) {
    for wanted in [Wanted::Auto, Wanted::Epoll] {
        let (kind, _) = choose(wanted, 256, 1).unwrap();
        println!("on {}", kind.as_str());
        ShardRuntime::build(kind, 256).unwrap().block_on(test());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_leave_room_for_others() {
        let best = |limit: u64, shards| within(limit, shards)[0];
        assert_eq!(best(u64::MAX, 256), SIZES[0]);
        assert_eq!(best(8 << 20, 1), SIZES[1]);
        assert_eq!(best(8 << 20, 2), SIZES[1]);
        assert_eq!(best(8 << 20, 16), SIZES[2]);
        assert_eq!(best(64 << 10, 1), SIZES[2]);
        assert_eq!(best(0, 1), SIZES[2]);
        for limit in [0, 1 << 16, 8 << 20, 64 << 20, 1 << 30] {
            let sizes = within(limit, 4);
            assert!(sizes.windows(2).all(|two| two[0].bytes > two[1].bytes));
            assert_eq!(sizes.last(), Some(&LEAST));
        }
    }
}
