//! Whoever can end the instance from outside: signals, and the drain socket in the data dir.
//!
//! TERM, INT and the socket ask for a drain; a second signal ends the process at once. HUP has
//! files read again; where there are none it must not kill.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::ask::{DRAIN_SOCKET, DRAINING};

/// Asks for a drain; may be called more than once.
pub(super) type Drain = Arc<dyn Fn(&str) + Send + Sync>;

/// Reads a file again. It tells by the log what came of it, and keeps what there was if it can't.
pub(super) type Reload = Box<dyn Fn() + Send>;

/// Starts the thread that waits for signals.
pub(super) fn watch(drain: Drain, reloads: Vec<Reload>) -> Result<(), String> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let run = move || {
        let mut asked = false;
        for signal in &mut signals {
            match signal {
                SIGHUP if reloads.is_empty() => {
                    tracing::info!("SIGHUP: there is nothing to reload");
                }
                SIGHUP => reloads.iter().for_each(|reload| reload()),
                _ if asked => std::process::exit(128 + signal),
                _ => {
                    asked = true;
                    drain("a signal");
                }
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(run);
    thread
        .map(drop)
        .map_err(|error| format!("cannot start a thread: {error}"))
}

/// The drain socket; its file goes when this is dropped.
pub(super) struct DrainSocket(PathBuf);

impl Drop for DrainSocket {
    fn drop(&mut self) {
        // A file that is left behind is replaced at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens on the drain socket of a data dir whose lock is held.
pub(super) fn listen(data_dir: &Path, drain: Drain) -> Result<DrainSocket, String> {
    let path = data_dir.join(DRAIN_SOCKET);
    // Whoever left it is gone: the lock is ours.
    let _ = std::fs::remove_file(&path);
    let explain = |error: std::io::Error| {
        format!(
            "cannot listen on {}: {error}; see --data-dir",
            path.display()
        )
    };
    let listener = UnixListener::bind(&path).map_err(explain)?;
    let run = move || {
        for mut asker in listener.incoming().flatten() {
            drain("ringcast drain");
            // Whether it is still there to read it does not matter.
            let _ = writeln!(asker, "{DRAINING}");
        }
    };
    let thread = thread::Builder::new()
        .name("drain-socket".into())
        .spawn(run);
    thread.map_err(explain)?;
    Ok(DrainSocket(path))
}
