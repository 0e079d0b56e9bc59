//! One process per data directory: a lock on a file in it, held for the life of the process.
//!
//! The lock is the kernel's (`flock`), so it ends with the process, however that ends; the file
//! stays, and its text (the holder's process id) is only a hint for the message. It guards against
//! a second ringcast, not against other programs: SQLite's own locks do that.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::{LOCK_FILE, OpenError};

/// The right to a data directory, as long as it lives.
#[derive(Debug)]
pub struct DataDirLock(#[allow(dead_code, reason = "held for its lock")] File);

impl DataDirLock {
    /// Makes the directory if need be (readable by this user only: messages are private) and
    /// locks it.
    ///
    /// # Errors
    ///
    /// [`OpenError::InUse`] if another process, or another lock of this one, has it;
    /// [`OpenError::Directory`] if it can't be made or written.
    pub fn acquire(data_dir: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory {
            dir: data_dir.to_owned(),
            source,
        };
        create(data_dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(data_dir.join(LOCK_FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(OpenError::InUse {
                    dir: data_dir.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // A hint only: a full disk must not keep the server from its start.
        let _ = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

/// Makes `dir`, and its name durable in its parent, without which a power cut could take it away
/// with all that is synced in it.
fn create(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let parent = dir.canonicalize()?;
    match parent.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
