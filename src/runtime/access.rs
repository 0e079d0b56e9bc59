//! The keys of tokens: from the settings and a file, read at the start and on SIGHUP.
//!
//! A file that can't be read, or is broken, ends a start; later it changes nothing: the keys that
//! there were are kept, and the log says why. What it says never has a byte of the file in it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::mailbox::{Letter, Post};
use super::signals::Reload;
use crate::access::{Access, Keys};
use crate::config::Config;
use crate::model::limits::TOKEN_KEY_FILE_BYTES_MAX;

/// What the settings, and the file that they name, take as proof.
///
/// # Errors
/// One line: what is wrong with the file.
pub(super) fn read(config: &Config) -> Result<Access, String> {
    let secret = config.jwt_secret.as_ref();
    let secret = secret.map(|secret| Keys::from_secret(secret.reveal()));
    let file = config.jwt_key_file.as_deref().map(read_file).transpose()?;
    let keys = match (secret, file) {
        (Some(secret), Some(file)) => Some(secret.and(file)),
        (secret, file) => secret.or(file),
    };
    Ok(Access {
        keys,
        api_keys: config.api_keys.clone(),
    })
}

fn read_file(path: &Path) -> Result<Keys, String> {
    let explain = |why: String| format!("--jwt-key-file {}: {why}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| explain(error.to_string()))?;
    let mut file = file.take(TOKEN_KEY_FILE_BYTES_MAX + 1);
    file.read_to_end(&mut bytes)
        .map_err(|error| explain(error.to_string()))?;
    if bytes.len() as u64 > TOKEN_KEY_FILE_BYTES_MAX {
        return Err(explain("it is too large to be a file of keys".to_owned()));
    }
    Keys::from_file(&bytes).map_err(|error| explain(error.to_string()))
}

/// What SIGHUP does, if there is a file.
pub(super) fn reload(config: &Config, post: Post) -> Option<Reload> {
    config.jwt_key_file.as_ref()?;
    let config = config.clone();
    Some(Box::new(move || match read(&config) {
        Ok(access) => {
            tracing::info!(keys = ?access.keys, "the keys of tokens were read again");
            let access = Arc::new(access);
            post.send_all(|| Letter::Access(access.clone()));
        }
        Err(why) => tracing::error!("{why}; the keys that there were are kept"),
    }))
}
