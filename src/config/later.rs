//! Settings of PROTOCOL 1 that this build does not have yet.
//!
//! To take one and do nothing would be worse than to refuse: an instance that ran alone although
//! `REDIS_URL` is set would split a cluster. So each is known here, and setting it is an error,
//! which names it and never shows its value (many are secrets). A row goes when its stage comes.

use super::settings::env_of;

/// A setting of a later stage.
pub struct LaterSetting {
    /// Its flag, without the dashes; empty if it has a variable only.
    pub flag: &'static str,
    own_env: Option<&'static str>,
    /// Values that ask for nothing which this build lacks; they are let through.
    pub(super) inert: &'static [&'static str],
}

impl LaterSetting {
    /// The environment variable.
    pub fn env(&self) -> String {
        self.own_env
            .map_or_else(|| env_of(self.flag), str::to_owned)
    }
}

const fn named(flag: &'static str, env: &'static str) -> LaterSetting {
    LaterSetting {
        flag,
        own_env: Some(env),
        inert: &[],
    }
}

const fn flag(flag: &'static str) -> LaterSetting {
    LaterSetting {
        flag,
        own_env: None,
        inert: &[],
    }
}

const fn but(flag: &'static str, inert: &'static [&'static str]) -> LaterSetting {
    LaterSetting {
        flag,
        own_env: None,
        inert,
    }
}

/// Every such setting.
pub static LATER: &[LaterSetting] = &[
    LaterSetting {
        inert: &["PubSub", "pubsub"],
        ..named("redis-mode", "Redis__Mode")
    },
    but("partitions", &["1"]),
    flag("signalr-hub"),
    flag("otlp-endpoint"),
    flag("trace-sample"),
];
