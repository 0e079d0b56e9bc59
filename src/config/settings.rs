//! The table of settings: the single source of flags, variables, defaults and help.
//!
//! Names and defaults are PROTOCOL 1's. A setting is in here once it has something to set.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::values::{
    Secret, address, choice, duration, file, key_prefix, networks, number, number_or, origins,
    partitions, put, size, switch,
};
use super::{Config, Driver, LogFormat, SlowConsumer, StoreKind};
use crate::access::ApiKeys;
use crate::model::limits::BATCH_ROWS_MAX;
use crate::model::name_is_valid;
use crate::pg;
use crate::resp::Address;

/// One setting.
pub struct Setting {
    /// Its flag, without the dashes; empty if it has a variable only.
    pub flag: &'static str,
    /// Its variable, where it is not `RINGCAST_` and the flag's name.
    pub(super) own_env: Option<&'static str>,
    /// What it is when nobody sets it, as one would type it (but see [`HOST_NAME`]).
    pub default: &'static str,
    /// What its value is called; empty for a switch, whose value may be left out.
    pub value: &'static str,
    /// Whether it may hold a secret.
    pub(super) secret: Secrecy,
    /// What it is good for.
    pub help: &'static str,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
}

/// What of a setting's text may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// All of it.
    Open,
    /// What `secretless` leaves: it may hold a password.
    Password,
    /// Nothing: it is a secret itself.
    Whole,
}

/// The defaults that are not in the table: they are looked up, by `main`.
pub const HOST_NAME: &str = "the host's name";
/// See [`HOST_NAME`].
pub const HOST_NAME_AND_PID: &str = "host's name + pid";

impl Setting {
    /// The environment variable.
    pub fn env(&self) -> String {
        self.own_env
            .map_or_else(|| env_of(self.flag), str::to_owned)
    }
}

/// The variable of a flag that has no own one.
pub(super) fn env_of(flag: &str) -> String {
    format!("RINGCAST_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// What may be shown of a secret setting's value.
pub(super) fn secretless(text: &str) -> String {
    let is_of_postgres = text.starts_with("postgres") || text.contains('=');
    let shown = match is_of_postgres {
        true => pg::Given::parse(text).map(|given| given.to_string()),
        false => Address::parse(text).map(|address| address.to_string()),
    };
    match shown {
        Ok(shown) => shown,
        Err(_) if is_of_postgres || text.contains('@') => "***".to_owned(),
        Err(_) => text.to_owned(),
    }
}

/// The name of a consumer, or of an instance.
fn name_of(text: &str) -> Result<crate::model::Name, String> {
    let bad = || "must be 1 to 128 bytes without control characters".to_owned();
    name_is_valid(text).then(|| text.into()).ok_or_else(bad)
}

/// What `--max-message-bytes` is on `/echo` unless it is set.
pub(super) const ECHO_MESSAGE_BYTES: usize = 16 << 20;

const fn setting(
    flag: &'static str,
    default: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
) -> Setting {
    Setting {
        flag,
        own_env: None,
        default,
        value,
        secret: Secrecy::Open,
        help,
        set,
    }
}

const fn ms(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(from)..=Duration::from_millis(to)
}

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
const COUNT: RangeInclusive<u64> = 1..=u32::MAX as u64;

/// Every setting of this build, in the order of help and README.
pub static SETTINGS: &[Setting] = &[
    Setting {
        own_env: Some("SERVER_PORT"),
        ..setting(
            "port",
            "8080",
            "PORT",
            "port of HTTP and WebSocket; 0: any free one",
            |c, t| put(&mut c.port, number(t, 0..=65535)),
        )
    },
    Setting {
        own_env: Some("INSTANCE_ID"),
        ..setting(
            "instance-id",
            HOST_NAME,
            "NAME",
            "this instance, unique in the cluster",
            |c, t| put(&mut c.instance_id, name_of(t)),
        )
    },
    Setting {
        own_env: Some("REDIS_URL"),
        secret: Secrecy::Password,
        ..setting(
            "redis-url",
            "none",
            "URL",
            "`host:port` or `redis[s]://[user[:password]@]host:port[/db]`; none: run alone",
            |c, t| {
                let address = (t != "none").then(|| Address::parse(t));
                put(&mut c.redis, address.transpose())
            },
        )
    },
    Setting {
        own_env: Some("POSTGRES_URL"),
        secret: Secrecy::Password,
        ..setting(
            "postgres-url",
            "none",
            "URL",
            "`postgres://[user[:password]@]host[:port][/database]` or `host=… dbname=…`; `PG*` \
             variables fill in",
            |c, t| {
                let given = (t != "none").then(|| pg::Given::parse(t));
                put(&mut c.postgres_given, given.transpose())
            },
        )
    },
    Setting {
        own_env: Some("WORKER_ENABLED"),
        ..setting(
            "",
            "false",
            "true|false",
            "true: `ringcast` is `ringcast worker`",
            |c, t| {
                let words = [("true", true), ("false", false), ("1", true), ("0", false)];
                put(
                    &mut c.worker_enabled,
                    choice(t, &words).or_else(|_| switch(t)),
                )
            },
        )
    },
    Setting {
        own_env: Some("WORKER_ID"),
        ..setting(
            "worker-id",
            HOST_NAME_AND_PID,
            "NAME",
            "this worker, unique; one that keeps its name goes on with what was pending at once",
            |c, t| put(&mut c.worker_id, name_of(t)),
        )
    },
    Setting {
        own_env: Some("BATCH_SIZE"),
        ..setting(
            "batch-size",
            "100",
            "N",
            "rows in one COPY at most",
            |c, t| put(&mut c.batch_size, number(t, 1..=BATCH_ROWS_MAX as u64)),
        )
    },
    Setting {
        own_env: Some("BATCH_TIMEOUT"),
        ..setting(
            "batch-timeout",
            "5s",
            "TIME",
            "age of a batch's oldest row at most",
            |c, t| put(&mut c.batch_timeout, duration(t, ms(1, 10 * MINUTE))),
        )
    },
    Setting {
        own_env: Some("KEY_PREFIX"),
        ..setting(
            "key-prefix",
            "gosocket",
            "NAME",
            "first part of every name in Redis",
            |c, t| put(&mut c.key_prefix, key_prefix(t)),
        )
    },
    setting(
        "bind",
        "127.0.0.1",
        "ADDRESS",
        "the address to listen on",
        |c, t| {
            let bad = |_| "must be an IP address such as 127.0.0.1, 0.0.0.0 or ::".to_owned();
            put(&mut c.bind, t.parse().map_err(bad))
        },
    ),
    setting(
        "data-dir",
        "./data",
        "DIR",
        "embedded store, spool, lock, drain socket",
        |c, t| put(&mut c.data_dir, Ok(t.into())),
    ),
    setting(
        "store",
        "sqlite",
        "sqlite|memory",
        "`memory`: nothing on disk, an ack means accepted",
        |c, t| {
            let words = [("sqlite", StoreKind::Sqlite), ("memory", StoreKind::Memory)];
            put(&mut c.store, choice(t, &words))
        },
    ),
    setting(
        "retention",
        "0",
        "AGE",
        "stored messages older than this are deleted; 0: none",
        |c, t| {
            let value = duration(t, ms(0, 36_500 * DAY));
            put(
                &mut c.retention,
                value.map(|age| (!age.is_zero()).then_some(age)),
            )
        },
    ),
    setting(
        "shards",
        "all",
        "N",
        "threads, each with its own connections; all: one a core",
        |c, t| put(&mut c.shards, number_or("all", t, 1..=256)),
    ),
    setting(
        "pin-cores",
        "on",
        "on|off",
        "each shard stays on its core",
        |c, t| put(&mut c.pin_cores, switch(t)),
    ),
    setting(
        "driver",
        "auto",
        "auto|io_uring|epoll",
        "what does the I/O; `auto`: io_uring where it is allowed",
        |c, t| {
            let words = [
                ("auto", Driver::Auto),
                ("io_uring", Driver::IoUring),
                ("epoll", Driver::Epoll),
            ];
            put(&mut c.driver, choice(t, &words))
        },
    ),
    setting(
        "ring-entries",
        "auto",
        "N",
        "entries of each shard's ring; auto: as measured",
        |c, t| put(&mut c.ring_entries, number_or("auto", t, 64..=32768)),
    ),
    setting(
        "flush-interval",
        "0",
        "TIME",
        "how long a shard may gather what goes to a connection; 0: at once when idle",
        |c, t| put(&mut c.flush_interval, duration(t, ms(0, 1000))),
    ),
    setting(
        "max-message-bytes",
        "64KiB",
        "SIZE",
        "of one WebSocket message",
        |c, t| put(&mut c.max_message_bytes, size(t, 1 << 10..=64 << 20)),
    ),
    setting(
        "deflate",
        "off",
        "",
        "permessage-deflate where clients offer it; a room's messages are compressed once for all",
        |c, t| put(&mut c.deflate, switch(t)),
    ),
    setting(
        "max-fragments",
        "4096",
        "N",
        "of one WebSocket message; 0: no cap",
        |c, t| {
            let value = number(t, 0..=u64::from(u32::MAX));
            put(&mut c.max_fragments, value.map(|n| (n > 0).then_some(n)))
        },
    ),
    setting(
        "max-connections",
        "auto",
        "N",
        "auto: what the limit on open files allows",
        |c, t| put(&mut c.max_connections, number_or("auto", t, COUNT)),
    ),
    setting(
        "max-connections-per-address",
        "0",
        "N",
        "WebSockets and streams of events of one address (IPv6: of a /64) at a time; 0: no limit",
        |c, t| {
            let most = u64::from(u32::MAX);
            put(&mut c.max_connections_per_address, number(t, 0..=most))
        },
    ),
    setting(
        "rate-limit",
        "1000",
        "N",
        "messages a second of one connection, twice that at once; 0: no limit",
        |c, t| put(&mut c.rate_limit, number(t, 0..=1_000_000)),
    ),
    setting(
        "rate-limit-bytes",
        "1MiB",
        "SIZE",
        "bytes a second of one connection, twice that at once; 0: no limit",
        |c, t| put(&mut c.rate_limit_bytes, size(t, 0..=1 << 40)),
    ),
    setting(
        "rate-limit-address",
        "10000",
        "N",
        "messages a second of one address (IPv6: of a /64), twice that at once; 0: no limit",
        |c, t| put(&mut c.rate_limit_address, number(t, 0..=10_000_000)),
    ),
    setting(
        "max-rooms",
        "1000000",
        "N",
        "rooms of this instance",
        |c, t| put(&mut c.max_rooms, number(t, COUNT)),
    ),
    setting(
        "max-rooms-per-connection",
        "128",
        "N",
        "rooms that one connection joins",
        |c, t| put(&mut c.max_rooms_per_connection, number(t, COUNT)),
    ),
    setting(
        "room-log-bytes",
        "64MiB",
        "SIZE",
        "a shard's budget for the recent frames of its rooms",
        |c, t| put(&mut c.room_log_bytes, size(t, 1 << 20..=1 << 40)),
    ),
    setting(
        "room-linger",
        "5m",
        "TIME",
        "how long an empty room keeps its frames",
        |c, t| put(&mut c.room_linger, duration(t, ms(0, 30 * DAY))),
    ),
    setting(
        "slow-consumer",
        "gap",
        "gap|disconnect",
        "who is too slow is told what it missed, or closed with 4002",
        |c, t| {
            let words = [
                ("gap", SlowConsumer::Gap),
                ("disconnect", SlowConsumer::Disconnect),
            ];
            put(&mut c.slow_consumer, choice(t, &words))
        },
    ),
    setting(
        "handshake-timeout",
        "5s",
        "TIME",
        "from accept to a whole request",
        |c, t| put(&mut c.handshake_timeout, duration(t, ms(100, 10 * MINUTE))),
    ),
    setting(
        "heartbeat",
        "25s",
        "TIME",
        "between two pings to a silent connection",
        |c, t| put(&mut c.heartbeat, duration(t, ms(100, DAY))),
    ),
    setting(
        "idle-timeout",
        "60s",
        "TIME",
        "silence after which a connection is closed",
        |c, t| put(&mut c.idle_timeout, duration(t, ms(100, DAY))),
    ),
    setting(
        "drain-window",
        "8s",
        "TIME",
        "how long a drain may take",
        |c, t| put(&mut c.drain_window, duration(t, ms(0, 60 * MINUTE))),
    ),
    setting(
        "allowed-origins",
        "none",
        "LIST",
        "pages that may connect, comma-separated, `*` for all; none: those of the same host",
        |c, t| put(&mut c.allowed_origins, origins(t)),
    ),
    Setting {
        secret: Secrecy::Whole,
        ..setting(
            "api-key",
            "none",
            "KEYS",
            "of backends, comma-separated; none: only this machine publishes and kicks by HTTP",
            |c, t| {
                let keys = match t {
                    "none" => Ok(ApiKeys::default()),
                    keys => ApiKeys::parse(keys),
                };
                put(&mut c.api_keys, keys)
            },
        )
    },
    Setting {
        secret: Secrecy::Whole,
        ..setting(
            "jwt-secret",
            "none",
            "SECRET",
            "of tokens signed with HS256; none, and no `--jwt-key-file`: clients are anonymous",
            |c, t| {
                let secret = (t != "none").then(|| Secret::from(t));
                put(&mut c.jwt_secret, Ok(secret))
            },
        )
    },
    setting(
        "jwt-key-file",
        "none",
        "FILE",
        "PEM or JWKS: public keys of tokens (RS256, ES256, EdDSA); SIGHUP has it read again",
        |c, t| put(&mut c.jwt_key_file, Ok((t != "none").then(|| t.into()))),
    ),
    setting(
        "trusted-proxies",
        "none",
        "LIST",
        "networks such as `10.0.0.0/8`, comma-separated, whose X-Forwarded-For counts",
        |c, t| put(&mut c.trusted_proxies, networks(t)),
    ),
    setting(
        "tls-cert",
        "none",
        "FILE",
        "PEM: with it https and wss are spoken; its issuers follow in it; read again on SIGHUP",
        |c, t| put(&mut c.tls_cert, Ok(file(t))),
    ),
    setting(
        "tls-key",
        "none",
        "FILE",
        "PEM: the key of the certificate in `--tls-cert`",
        |c, t| put(&mut c.tls_key, Ok(file(t))),
    ),
    setting(
        "metrics-bind",
        "none",
        "ADDRESS",
        "an `address:port` for `/metrics` alone, which then is nowhere else; none: on the port",
        |c, t| put(&mut c.metrics_bind, address(t)),
    ),
    setting(
        "echo",
        "off",
        "",
        "`GET /echo` echoes; its messages may have 16MiB unless `--max-message-bytes` is set",
        |c, t| put(&mut c.echo, switch(t)),
    ),
    setting(
        "dedupe-window",
        "10m",
        "TIME",
        "how long clients' message ids are remembered",
        |c, t| put(&mut c.dedupe_window, duration(t, ms(0, 7 * DAY))),
    ),
    setting(
        "spool-bytes",
        "1GiB",
        "SIZE",
        "what is held on disk at most while Redis is away",
        |c, t| put(&mut c.spool_bytes, size(t, 1 << 16..=1 << 50)),
    ),
    setting(
        "stream-retention",
        "1h",
        "AGE",
        "what stays in the Redis stream at least; 0: no limit by age",
        |c, t| put(&mut c.stream_retention, duration(t, ms(0, 3650 * DAY))),
    ),
    setting(
        "stream-bytes",
        "1GiB",
        "SIZE",
        "what stays in it at most where nothing consumes it; 0: no limit",
        |c, t| put(&mut c.stream_bytes, size(t, 0..=1 << 50)),
    ),
    setting(
        "ack-replicas",
        "0",
        "N",
        "ack only what so many replicas of Redis have (WAIT); 0: none",
        |c, t| put(&mut c.ack_replicas, number(t, 0..=64)),
    ),
    setting(
        "postgres-pool",
        "4",
        "N",
        "connections to PostgreSQL that a server reads history by",
        |c, t| put(&mut c.postgres_pool, number(t, 1..=64)),
    ),
    setting(
        "worker-port",
        "9090",
        "PORT",
        "`/health` and `/metrics` of a worker; 0: any free one",
        |c, t| put(&mut c.worker_port, number(t, 0..=65535)),
    ),
    setting(
        "worker-partitions",
        "all",
        "LIST",
        "the partitions that a worker consumes, such as `0-3,7`; there is one, 0",
        |c, t| put(&mut c.worker_partitions, partitions(t)),
    ),
    setting(
        "log-format",
        "text",
        "text|json",
        "one line an event either way",
        |c, t| {
            let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
            put(&mut c.log_format, choice(t, &words))
        },
    ),
    setting(
        "log-level",
        "info",
        "LEVEL",
        "`error`, `warn`, `info`, `debug` or `trace`",
        |c, t| {
            use tracing::Level;
            let words = [
                ("error", Level::ERROR),
                ("warn", Level::WARN),
                ("info", Level::INFO),
                ("debug", Level::DEBUG),
                ("trace", Level::TRACE),
            ];
            put(&mut c.log_level, choice(t, &words))
        },
    ),
];
