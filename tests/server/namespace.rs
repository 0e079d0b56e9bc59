//! Networks of a test's own.

use std::fs::File;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::support::{eventually, skip};

/// A network namespace, held by a process that does nothing.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// `None`, and a word of it, where it may not be made.
    pub(crate) fn make() -> Option<Self> {
        let made = Self::try_make();
        if made.is_none() {
            skip("this needs ip, unshare, and to be allowed network namespaces");
        }
        made
    }

    fn try_make() -> Option<Self> {
        Command::new("ip").arg("-V").output().ok()?;
        let mut holder = Command::new("unshare");
        // It reads until its input ends, at the latest with this process.
        holder.args(["--net", "cat"]).stdin(Stdio::piped());
        holder.stdout(Stdio::null()).stderr(Stdio::null());
        let mut made = Self {
            holder: holder.spawn().ok()?,
        };
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        let is_there = eventually("a namespace, or that there is none", || {
            if made.holder.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let its = std::fs::read_link(made.path());
            its.is_ok_and(|its| its != ours).then_some(true)
        });
        is_there.then_some(made)
    }

    /// The process that holds it.
    pub(crate) fn id(&self) -> u32 {
        self.holder.id()
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Does `work` in it. Sockets and processes made there stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            // By its name it is known whose it is.
            let named = thread::Builder::new();
            let named = named.name(thread::current().name().unwrap_or_default().to_owned());
            let work = || {
                let namespace = File::open(self.path()).unwrap();
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                work()
            };
            let thread = named.spawn_scoped(scope, work).unwrap();
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Configures the namespace that this thread is in.
pub(crate) fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}
