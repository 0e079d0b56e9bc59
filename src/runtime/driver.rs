//! Which way of I/O the kernel lets us have: io_uring with the flags that measured best, a plain
//! ring, or epoll.
//!
//! A container's seccomp profile answers EPERM, an old kernel ENOSYS, `kernel.io_uring_disabled`
//! EPERM, a tight memlock ENOMEM, an older ring EINVAL for the flags. All of them lead one step
//! down, said once. Not DEFER_TASKRUN: with it completions starve while tasks keep each other
//! runnable.

use std::future::Future;
use std::io;

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};

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

/// A shard's runtime.
pub(super) enum ShardRuntime {
    Uring(Runtime<TimeDriver<IoUringDriver>>),
    Epoll(Runtime<TimeDriver<LegacyDriver>>),
}

impl ShardRuntime {
    /// Makes the runtime of this thread.
    pub(super) fn build(kind: Kind, entries: u32) -> io::Result<Self> {
        match kind {
            Kind::Uring | Kind::PlainUring => {
                let mut ring = io_uring::IoUring::builder();
                if kind == Kind::Uring {
                    ring.setup_single_issuer()
                        .setup_coop_taskrun()
                        .setup_submit_all();
                    ring.setup_clamp().setup_cqsize(65_536.max(entries));
                }
                let builder = RuntimeBuilder::<IoUringDriver>::new();
                let builder = builder.uring_builder(ring).with_entries(entries);
                Ok(Self::Uring(builder.enable_timer().build()?))
            }
            Kind::Epoll => {
                let builder = RuntimeBuilder::<LegacyDriver>::new();
                Ok(Self::Epoll(builder.enable_timer().build()?))
            }
        }
    }

    /// Runs a future to its end.
    pub(super) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

/// Which kinds a setting allows, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Auto,
    Uring,
    Epoll,
}

/// Finds the best kind that can be had, by trying. The second value says why it is not the best.
///
/// # Errors
/// One line: nothing that is wanted can be had.
pub(super) fn choose(wanted: Wanted, entries: u32) -> Result<(Kind, Option<String>), String> {
    let kinds: &[Kind] = match wanted {
        Wanted::Auto => &[Kind::Uring, Kind::PlainUring, Kind::Epoll],
        Wanted::Uring => &[Kind::Uring, Kind::PlainUring],
        Wanted::Epoll => &[Kind::Epoll],
    };
    let mut refused = None;
    for &kind in kinds {
        match ShardRuntime::build(kind, entries) {
            Ok(_) => {
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
        io::ErrorKind::OutOfMemory => "raise the locked-memory limit (ulimit -l)",
        _ => "see the kernel's log",
    };
    format!("io_uring is refused ({error}): {hint}")
}
