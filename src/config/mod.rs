//! The settings: flags and environment, as typed, made into one checked, immutable [`Config`].
//!
//! [`Config::from_args_and_env`] is a pure function of what it is given: it reads no file, asks
//! for no host name, opens nothing. One table ([`settings::SETTINGS`]) is the source of the flags,
//! of the variables, of `--help`, of `check-config` and of README's table. A setting that a later
//! stage brings is in [`later::LATER`]: setting it is an error, as ignoring it would be a lie.
//!
//! Not here: what a setting does. Rooms below `runtime` own their options and never see this.
//!
//! ```text
//! args ─▶ flags (clap, all text) ─┐
//! env ────────────────────────────┼─▶ a text and its source for each setting ─▶ parsed, checked
//! defaults of the table ──────────┘
//! ```

mod flags;
pub mod later;
mod report;
mod resolve;
pub mod settings;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::access::ApiKeys;
use crate::model::{EntryId, Name};
use crate::net::{Networks, OriginPolicy};
use crate::pg::{Conninfo, Given};
use crate::resp::Address;

pub use report::readme_table;
pub use values::Secret;

/// What the program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Be the server.
    Serve,
    /// Be the worker.
    Work,
    /// Bring the tables up to date.
    Migrate,
    /// Look after the entries that were set aside.
    Dead(DeadAsk),
    /// Ask the instance of this machine how it is; of a worker, the worker.
    Health,
    /// Ask the instance of this data dir to drain.
    Drain,
    /// Print this and be done: the report of `check-config`, the help, the version.
    Print(String),
}

/// What `ringcast dead` is to do. Ids are those that `list` shows, as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadAsk {
    /// Show them all.
    List,
    /// Try to store these; none: all.
    Retry(Vec<EntryId>),
    /// Remove these.
    Drop(Vec<EntryId>),
    /// Remove all.
    DropAll,
}

/// Every setting, parsed and checked. Nothing in it changes while the program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Port of HTTP and WebSocket; 0 takes any free one.
    pub port: u16,
    /// This instance, unique in the cluster.
    pub instance_id: Name,
    /// The Redis of the cluster; `None`: alone.
    pub redis: Option<Address>,
    /// The PostgreSQL that a worker stores in, and servers read history from.
    pub postgres: Option<Conninfo>,
    /// The same as it was typed.
    pub(super) postgres_given: Option<Given>,
    /// A server's connections for history.
    pub postgres_pool: usize,
    /// Whether `ringcast` alone is a worker.
    pub(super) worker_enabled: bool,
    /// This worker, unique among them.
    pub worker_id: Name,
    /// Rows of one COPY at most.
    pub batch_size: usize,
    /// Age of a batch's oldest row at most.
    pub batch_timeout: Duration,
    /// Port of a worker's `/health` and `/metrics`; 0 takes any free one.
    pub worker_port: u16,
    /// The partitions that a worker consumes; `None`: all.
    pub worker_partitions: Option<Vec<u16>>,
    /// First part of every name in Redis.
    pub key_prefix: String,
    /// Bytes of what is held while Redis is away.
    pub spool_bytes: usize,
    /// What stays in the stream at least; zero: no limit by age.
    pub stream_retention: Duration,
    /// What stays in it at most where nothing consumes it, in bytes; 0: no limit.
    pub stream_bytes: usize,
    /// How many replicas of Redis must have what is acked.
    pub ack_replicas: u32,
    /// The address that is listened on.
    pub bind: IpAddr,
    /// Where the embedded store, the lock and the drain socket are.
    pub data_dir: PathBuf,
    /// Where publications are kept.
    pub store: StoreKind,
    /// Age after which stored publications are deleted; `None` keeps them.
    pub retention: Option<Duration>,
    /// Shards; `None`: one for each core.
    pub shards: Option<usize>,
    /// Whether each shard's thread is pinned to a core.
    pub pin_cores: bool,
    /// What does the I/O.
    pub driver: Driver,
    /// Entries of each shard's ring; `None`: what was measured to be good.
    pub ring_entries: Option<u32>,
    /// How long a shard may gather what goes to a connection.
    pub flush_interval: Duration,
    /// Bytes of one WebSocket message.
    pub max_message_bytes: usize,
    /// The same for `/echo`.
    pub echo_message_bytes_max: usize,
    /// Fragments of one WebSocket message; `None`: no cap.
    pub max_fragments: Option<usize>,
    /// Connections; `None`: what the limit on open files allows.
    pub max_connections: Option<usize>,
    /// Connections of one address at a time; 0: no limit.
    pub max_connections_per_address: u32,
    /// Messages a second of one connection; 0: no limit.
    pub rate_limit: u32,
    /// Bytes a second of one connection; 0: no limit.
    pub rate_limit_bytes: usize,
    /// Messages a second of one address; 0: no limit.
    pub rate_limit_address: u32,
    /// Rooms of this instance.
    pub max_rooms: usize,
    /// Rooms of one connection.
    pub max_rooms_per_connection: usize,
    /// Budget of one shard's room logs, in bytes.
    pub room_log_bytes: usize,
    /// How long an empty room keeps its log.
    pub room_linger: Duration,
    /// What becomes of a slow consumer.
    pub slow_consumer: SlowConsumer,
    /// From accept to the end of the request's head.
    pub handshake_timeout: Duration,
    /// Between two pings to a silent connection.
    pub heartbeat: Duration,
    /// Silence after which a connection is closed.
    pub idle_timeout: Duration,
    /// How long a drain may take.
    pub drain_window: Duration,
    /// Pages that may open a WebSocket.
    pub allowed_origins: OriginPolicy,
    /// Proxies whose X-Forwarded-For counts.
    pub trusted_proxies: Networks,
    /// Whether permessage-deflate is agreed to.
    pub deflate: bool,
    /// The certificate and its key, if TLS is spoken.
    pub tls: Option<TlsFiles>,
    /// As they were typed.
    pub(super) tls_cert: Option<PathBuf>,
    /// See `tls_cert`.
    pub(super) tls_key: Option<PathBuf>,
    /// Where `/metrics` is, if it has an address of its own.
    pub metrics_bind: Option<SocketAddr>,
    /// Keys of backends.
    pub api_keys: ApiKeys,
    /// What tokens are signed with by HS256.
    pub jwt_secret: Option<Secret>,
    /// Where the public keys of tokens are.
    pub jwt_key_file: Option<PathBuf>,
    /// Whether `GET /echo` is there.
    pub echo: bool,
    /// How long a client's own message ids are remembered.
    pub dedupe_window: Duration,
    /// How the log is written.
    pub log_format: LogFormat,
    /// What the log leaves out: all below this.
    pub log_level: tracing::Level,
    /// Lines to log at the start: variables that look like a setting and are none.
    pub warnings: Vec<String>,
}

impl Config {
    /// Whether clients must show a token.
    pub fn takes_tokens(&self) -> bool {
        self.jwt_secret.is_some() || self.jwt_key_file.is_some()
    }

    /// Where `ringcast health` asks: a worker's environment has WORKER_ENABLED.
    pub fn health_address(&self) -> SocketAddr {
        let port = match self.worker_enabled {
            true => self.worker_port,
            false => self.port,
        };
        SocketAddr::new(self.bind, port)
    }

    /// Whether TLS is spoken there.
    pub fn health_is_sealed(&self) -> bool {
        self.tls.is_some() && !self.worker_enabled
    }
}

/// The files of TLS, PEM both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then those of its issuers.
    pub certificate: PathBuf,
    /// The key of the first.
    pub key: PathBuf,
}

/// `--store`: where an instance that runs alone keeps its publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// The embedded store in the data dir; an ack means committed.
    Sqlite,
    /// The room logs only; an ack means accepted.
    Memory,
}

/// `--driver`: what does the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring where the kernel lets us, else epoll with one warning.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// `--slow-consumer`: what becomes of a member whose cursor fell off the room log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// It is told what it missed, and goes on.
    Gap,
    /// It is closed with 4002.
    Disconnect,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no [`Config`]: one line for each thing that is wrong. The program exits 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// What `check-config` prints nevertheless: every setting, the bad ones among them.
    pub report: Option<String>,
    /// The lines. None holds a secret.
    pub lines: Vec<String>,
}

impl ConfigErrors {
    /// One line, and no report.
    pub(super) fn one(line: String) -> Self {
        let lines = vec![line];
        Self {
            report: None,
            lines,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}
