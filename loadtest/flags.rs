//! The command line.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::poll::Target;
use crate::wire;

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
    /// The server's process, to read its CPU seconds and its memory.
    #[arg(long, global = true)]
    pub(crate) pid: Option<u32>,
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
    /// Addresses to connect from, in turn.
    #[arg(long, global = true, value_delimiter = ',')]
    pub(crate) source_ips: Vec<IpAddr>,
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
        let address: SocketAddr = host
            .to_socket_addrs()
            .map_err(|error| format!("{host}: {error} (HOST:PORT is wanted)"))?
            .next()
            .ok_or_else(|| format!("{host}: no address"))?;
        Ok(Target {
            address,
            path,
            sources: self.source_ips.clone(),
        })
    }

    /// Refuses what can't be run.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.payload < wire::PAYLOAD_BYTES_MIN {
            return Err(format!("--payload: at least {}", wire::PAYLOAD_BYTES_MIN));
        }
        if !(self.seconds > 0.0 && self.seconds < 1e6 && (0.0..1e6).contains(&self.warmup)) {
            return Err("--seconds, --warmup: out of range".into());
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
    /// Publish with ids and write down what was acked; survives the server's end.
    Ledger(Ledger),
    /// Check a ledger against the server.
    Verify(Verify),
    /// The baseline: a plain loop of sends over all sockets, commanded on stdin.
    BareServer(BareServer),
}

/// Flags of `fanout`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Fanout {
    #[arg(long, default_value_t = 1)]
    pub(crate) rooms: usize,
    /// Of each room.
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
    /// Turns of --versus-bare.
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

/// Flags of `ledger`.
#[derive(Debug, Args)]
pub(crate) struct Ledger {
    /// The ledger: a line `room offset id n` for each ack.
    #[arg(long)]
    pub(crate) file: PathBuf,
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
