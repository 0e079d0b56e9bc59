//! The thread that owns a spool's files, so that no shard waits for the disk.
//!
//! It does what [`SpoolAsk`] says, in order, and answers each through a function; what is to be
//! done and when is decided by [`crate::backplane::redis::spool::SpoolState`], which has one append
//! under way and gathers the next meanwhile: one `fdatasync` for all of it. One thread for each
//! partition that is at home here. It ends when the [`SpoolHandle`] is dropped.

mod files;

use std::path::Path;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

use self::files::{Files, failure};
use crate::backplane::redis::spool::{SpoolAsk, SpoolEvent};

/// The way to the thread.
#[derive(Debug)]
pub(super) struct SpoolHandle {
    asks: Sender<SpoolAsk>,
}

impl SpoolHandle {
    /// Passes an ask on; its answer comes by the function given to [`start`].
    pub(super) fn ask(&self, ask: SpoolAsk) {
        // The thread ends only when the handle is gone.
        let _ = self.asks.send(ask);
    }
}

/// Starts the thread on the directory of one partition, `spool/<partition>` of the data directory,
/// which is made if need be. The first answer is [`SpoolEvent::Opened`].
///
/// # Errors
///
/// What can't be opened, and what to do.
pub(super) fn start(
    dir: &Path,
    answer: impl Fn(SpoolEvent) + Send + 'static,
) -> Result<(SpoolHandle, JoinHandle<()>), String> {
    let files = Files::open(dir).map_err(|error| {
        let dir = dir.display();
        format!("the spool in {dir} can't be opened: {}", failure(&error))
    })?;
    let (asks, queue) = unbounded();
    let run = super::or_abort(move || work(files, &queue, &answer));
    let thread = thread::Builder::new().name("spool".into()).spawn(run);
    let thread = thread.map_err(|error| format!("cannot start the spool's thread: {error}"))?;
    Ok((SpoolHandle { asks }, thread))
}

fn work(mut files: Files, queue: &Receiver<SpoolAsk>, answer: &impl Fn(SpoolEvent)) {
    let (records, bytes) = files.left();
    answer(SpoolEvent::Opened { records, bytes });
    let mut failed = false;
    for ask in queue {
        match ask {
            SpoolAsk::Append(records) => {
                let result = files.append(&records).map_err(|error| failure(&error));
                match &result {
                    Err(error) if !failed => {
                        tracing::error!(%error, "publishes to the spool get unavailable");
                    }
                    Ok(()) if failed => tracing::info!("the spool takes records again"),
                    _ => {}
                }
                failed = result.is_err();
                let count = records.len();
                answer(SpoolEvent::Appended { count, result });
            }
            SpoolAsk::Read { after } => {
                let result = files.page(after).map_err(|error| failure(&error));
                if let Err(error) = &result {
                    tracing::warn!(%error, "the spool could not be read; it is tried again");
                }
                answer(SpoolEvent::Read { after, result });
            }
            SpoolAsk::Release { upto } => files.release(upto),
        }
    }
    files.save_position();
}

#[cfg(test)]
mod tests;
