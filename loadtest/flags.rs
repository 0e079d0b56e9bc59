//! The command line.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::poll::Target;
use crate::{redis, stat, wire};

/// ringcast's load generator and checker. Exit code 0: order proven and nothing lost; 1: not so;
/// 2: the run itself failed.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

/// What every scenario understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The server's WebSocket.
    #[arg(long, global = true, default_value = "ws://127.0.0.1:8080/ws")]
    pub(crate) url: String,
    /// HOST:PORT, in place of --url, with path /ws.
    #[arg(long, global = true)]
    pub(crate) addr: Option<String>,
    /// The server's process, or those of all instances, to read CPU seconds and memory.
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
    /// HOST:PORT of the instances' Redis, to count its commands.
    #[arg(long, global = true)]
    pub(crate) redis: Option<String>,
    /// The process of that Redis, to read its CPU seconds.
    #[arg(long, global = true)]
    pub(crate) redis_pid: Option<u32>,
    /// How long is measured, or held.
    #[arg(long, global = true, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Seconds under load before the measured ones.
    #[arg(long, global = true, default_value_t = 1.0)]
    pub(crate) warmup: f64,
    /// Bytes of a payload, as JSON: with its quotes.
    #[arg(long, global = true, default_value_t = 128)]
    pub(crate) payload: usize,
    /// New connections a second; 0: as fast as it goes.
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) connect_rate: u64,
    /// Addresses to connect from, dealt out over the connections.
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) source_ips: Vec<IpAddr>,
    /// Offer permessage-deflate, which the server must take.
    #[arg(long, global = true)]
    pub(crate) deflate: bool,
    /// Stay on this core.
    #[arg(long, global = true)]
    pub(crate) pin: Option<usize>,
    /// Print one JSON object in place of the table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only these figures, tab-separated, by their names in the JSON object.
    #[arg(long, global = true, value_delimiter = ',', conflicts_with = "json")]
    pub(crate) figures: Vec<String>,
}

impl Common {
    /// Where to connect to.
    pub(crate) fn target(&self) -> Result<Target, String> {
        let (host, path) = match (&self.addr, self.url.strip_prefix("ws://")) {
            (Some(addr), _) => (addr.as_str(), "/ws".to_owned()),
            (None, Some(rest)) => match rest.split_once('/') {
                Some((host, path)) => (host, format!("/{path}")),
                None => (rest, "/ws".to_owned()),
            },
            (None, None) => return Err(format!("--url {}: must begin with ws://", self.url)),
        };
        self.target_at(host, path)
    }

    /// Where several instances are.
    pub(crate) fn targets(&self, to: &[String]) -> Result<Vec<Target>, String> {
        to.iter()
            .map(|host| self.target_at(host, "/ws".into()))
            .collect()
    }

    fn target_at(&self, host: &str, path: String) -> Result<Target, String> {
        let address: SocketAddr = host
            .to_socket_addrs()
            .map_err(|error| format!("{host}: {error} (HOST:PORT is wanted)"))?
            .next()
            .ok_or_else(|| format!("{host}: no address"))?;
        Ok(Target {
            address,
            path,
            sources: self.source_ips.clone(),
            deflate: self.deflate,
        })
    }

    /// Where Redis is, if told.
    pub(crate) fn redis_address(&self) -> Option<SocketAddr> {
        redis::address(self.redis.as_ref()?).ok()
    }

    /// CPU seconds of all servers together.
    pub(crate) fn server_cpu(&self) -> Option<f64> {
        let all = self.pid.iter().map(|pid| stat::cpu_seconds(*pid));
        all.sum::<Option<f64>>().filter(|_| !self.pid.is_empty())
    }

    /// Resident bytes of all servers together.
    pub(crate) fn server_resident(&self) -> Option<u64> {
        let all = self.pid.iter().map(|pid| stat::resident_bytes(*pid));
        all.sum::<Option<u64>>().filter(|_| !self.pid.is_empty())
    }

    /// Refuses what can't be run.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.payload < wire::PAYLOAD_BYTES_MIN {
            return Err(format!("--payload: at least {}", wire::PAYLOAD_BYTES_MIN));
        }
        if !(self.seconds > 0.0 && self.seconds < 1e6 && (0.0..1e6).contains(&self.warmup)) {
            return Err("--seconds, --warmup: out of range".into());
        }
        if let Some(redis) = &self.redis {
            redis::Counters::ask(redis::address(redis)?)?;
        }
        self.target().map(|_| ())
    }
}

/// What is run.
#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Publishers and members of rooms: throughput, latency, order.
    Fanout(Fanout),
    /// Many connections that do nothing: memory of each, and whether all stay alive.
    Idle(Idle),
    /// Connect, join, one message, close, over and over.
    Churn(Churn),
    /// All members gone, messages missed, all back at once with `since`.
    Resume(Resume),
    /// Members that stop reading, or read slowly, and what the others notice.
    Slow(Slow),
    /// Publishers and members on several instances: order on all of them, remote latency.
    Cross(Cross),
    /// Publish with ids and write down what was acked; survives the server's end. With --to: over
    /// several instances, through faults, held against what every client received.
    Ledger(Ledger),
    /// Check a ledger against the server.
    Verify(Verify),
    /// The baseline: a plain loop of sends over all sockets, commanded on stdin.
    BareServer(BareServer),
    /// The yardstick of `cross`: a bare relay of messages over Redis Pub/Sub.
    Relay(Relay),
}

/// Flags of `fanout`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Fanout {
    #[arg(long, default_value_t = 1)]
    pub(crate) rooms: usize,
    /// Of each room; 0, with --separate-publishers: acked publishes alone.
    #[arg(long, default_value_t = 1000)]
    pub(crate) members: usize,
    /// In all, dealt out over the rooms in turn.
    #[arg(long, default_value_t = 1)]
    pub(crate) publishers: usize,
    /// Publishes in flight of each publisher.
    #[arg(long, default_value_t = 1)]
    pub(crate) window: u32,
    /// Open loop: publishes a second in all; latency counts from the intended time.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Publishers are no members, and `ack` closes their windows.
    #[arg(long)]
    pub(crate) separate_publishers: bool,
    /// Compare with a plain loop of sends: bytes and messages a send as the server's.
    #[arg(long, requires = "pid")]
    pub(crate) versus_bare: bool,
    /// The core of the bare server, the same as the server's.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_core: usize,
    /// Compare with the same members without compression, turn by turn; the server runs with
    /// --deflate.
    #[arg(long, requires = "pid", conflicts_with = "versus_bare")]
    pub(crate) versus_plain: bool,
    /// Turns of --versus-bare and --versus-plain.
    #[arg(long, default_value_t = 3)]
    pub(crate) turns: usize,
    /// Messages a send of the bare server, in place of what is observed.
    #[arg(long)]
    pub(crate) batch: Option<f64>,
}

/// Flags of `idle`.
#[derive(Debug, Args)]
pub(crate) struct Idle {
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,
    #[arg(long, default_value_t = 1000)]
    pub(crate) rooms: usize,
}

/// Where `churn --rst` cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// After half of the HTTP head.
    Head,
    /// After the 101.
    Open,
    /// After half of a frame.
    Frame,
    /// After the own message came back.
    Message,
    /// Right after sending the close frame.
    Close,
}

/// Flags of `churn`.
#[derive(Debug, Args)]
pub(crate) struct Churn {
    /// Connections at a time.
    #[arg(long, default_value_t = 64)]
    pub(crate) concurrency: usize,
    /// Connects a second; 0: as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// Stop after so many, in place of --seconds.
    #[arg(long)]
    pub(crate) total: Option<u64>,
    #[arg(long, default_value_t = 100)]
    pub(crate) rooms: usize,
    /// Close by RST (SO_LINGER 0).
    #[arg(long)]
    pub(crate) rst: bool,
    /// When to reset.
    #[arg(long, value_enum, default_value_t = Stage::Message, requires = "rst")]
    pub(crate) stage: Stage,
}

/// Flags of `resume`.
#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[arg(long, default_value_t = 5000)]
    pub(crate) clients: usize,
    #[arg(long, default_value_t = 50)]
    pub(crate) rooms: usize,
    /// Messages in each room before all go.
    #[arg(long, default_value_t = 100)]
    pub(crate) messages: u32,
    /// Messages in each room while all are away.
    #[arg(long, default_value_t = 100)]
    pub(crate) missed: u32,
    /// Come back to this instance, not to that of --addr; to several: to one after the other.
    #[arg(long, value_delimiter = ',')]
    pub(crate) to: Vec<String>,
}

/// Flags of `slow`.
#[derive(Debug, Args)]
pub(crate) struct Slow {
    #[arg(long, default_value_t = 1000)]
    pub(crate) members: usize,
    /// How many of the members are slow.
    #[arg(long, default_value_t = 1)]
    pub(crate) slow: usize,
    /// Bytes a second that each slow one reads; 0: none at all.
    #[arg(long, default_value_t = 0)]
    pub(crate) read_rate: usize,
    /// SO_RCVBUF of the slow ones.
    #[arg(long, default_value_t = 4096)]
    pub(crate) receive_buffer: usize,
    /// Publishes a second in all; 0: closed loop with --window.
    #[arg(long, default_value_t = 1000.0)]
    pub(crate) rate: f64,
    #[arg(long, default_value_t = 16)]
    pub(crate) window: u32,
    #[arg(long, default_value_t = 1)]
    pub(crate) publishers: usize,
    /// Phases without and with slow members, in turn.
    #[arg(long, default_value_t = 1)]
    pub(crate) pairs: usize,
}

/// Flags of `cross`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Cross {
    /// The instances: HOST:PORT each.
    #[arg(long, required = true, value_delimiter = ',')]
    pub(crate) to: Vec<String>,
    #[arg(long, default_value_t = 1)]
    pub(crate) rooms: usize,
    /// Of each room, dealt out over the instances in turn.
    #[arg(long, default_value_t = 200)]
    pub(crate) members: usize,
    /// In all, dealt out over the rooms in turn; 0: one a room, and at least 10.
    #[arg(long, default_value_t = 0)]
    pub(crate) publishers: usize,
    /// The instances that publishers are on, by their place in --to from 0; none said: all.
    #[arg(long, value_delimiter = ',')]
    pub(crate) publishers_on: Vec<usize>,
    /// Who publishes is a member of the room, and gets its own messages.
    #[arg(long)]
    pub(crate) members_publish: bool,
    /// Publishes a second in all; latency counts from the intended time.
    #[arg(long, default_value_t = 1000.0)]
    pub(crate) rate: f64,
    /// Find the highest rate that holds --p99-ms, by doubling from --rate and bisection.
    #[arg(long)]
    pub(crate) find_rate: bool,
    /// Milliseconds that P99 of remote deliveries must stay under.
    #[arg(long, default_value_t = 10.0, requires = "find_rate")]
    pub(crate) p99_ms: f64,
}

/// Flags of `ledger`.
#[derive(Debug, Args)]
pub(crate) struct Ledger {
    /// The ledger: a line `room offset id n` for each ack.
    #[arg(long, required_unless_present = "to")]
    pub(crate) file: Option<PathBuf>,
    /// Several instances: HOST:PORT each, or a proxy before them. Each of --clients is member and
    /// publisher of a room.
    #[arg(long, value_delimiter = ',')]
    pub(crate) to: Vec<String>,
    /// Dealt out over rooms and instances in turn.
    #[arg(long, default_value_t = 60, requires = "to")]
    pub(crate) clients: usize,
    /// Stop after so many publishes in all, in place of --seconds.
    #[arg(long, requires = "to")]
    pub(crate) messages: Option<u64>,
    /// Publish until this file is there, in place of --seconds.
    #[arg(long, requires = "to", conflicts_with = "messages")]
    pub(crate) until: Option<PathBuf>,
    /// Seconds without an ack after which a client tries another instance.
    #[arg(long, default_value_t = 30.0, requires = "to")]
    pub(crate) patience: f64,
    /// Seconds that all may take at the end until everything is acked and received.
    #[arg(long, default_value_t = 30.0, requires = "to")]
    pub(crate) settle: f64,
    #[arg(long, default_value_t = 10)]
    pub(crate) rooms: usize,
    /// Of each room.
    #[arg(long, default_value_t = 10)]
    pub(crate) members: usize,
    /// In all; they are no members.
    #[arg(long, default_value_t = 10)]
    pub(crate) publishers: usize,
    #[arg(long, default_value_t = 16)]
    pub(crate) window: u32,
    /// Open loop: publishes a second in all.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Stop after so many publishes of each publisher, in place of --seconds.
    #[arg(long)]
    pub(crate) count: Option<u32>,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Read the history by HTTP, not by joining with `since`.
    #[arg(long)]
    pub(crate) http: bool,
    /// Read from each of these instances, not from that of --addr.
    #[arg(long, value_delimiter = ',')]
    pub(crate) to: Vec<String>,
}

/// Flags of `bare-server`.
#[derive(Debug, Args)]
pub(crate) struct BareServer {
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    #[arg(long)]
    pub(crate) members: usize,
    /// The name of its room.
    #[arg(long)]
    pub(crate) room: String,
    /// The run that its messages are of.
    #[arg(long)]
    pub(crate) run: u32,
}

/// Flags of `relay`.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// The channel that the relays of one topology share.
    #[arg(long, default_value = "loadtest:relay")]
    pub(crate) channel: String,
    /// Redis keeps each message in a stream, with numbers, before it tells it.
    #[arg(long)]
    pub(crate) stored: bool,
}
