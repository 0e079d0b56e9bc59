//! The machine room: threads, sockets, mailboxes, clocks, signals. Only here is anything `async`.
//!
//! | file | what |
//! |---|---|
//! | `core`, `tasks` | one shard's thread: its turn, and the tasks that feed it |
//! | `sockets`, `listen` | the two calls that every message goes through; listening |
//! | `clock` | what time it is, and how busy a thread was |
//! | `mailbox`, `outbox` | mail between threads, and whom to wake; what had no room there yet |
//! | `store` | the threads that wait for the disk |
//! | `redis` | the sockets of the links to Redis |
//! | [`worker`] | the worker's thread: its links, its port |
//! | `spool` | the thread and the files of what is held while Redis is away |
//! | `access` | the file with the keys of tokens |
//! | `stats` | counters for whoever asks, `/health`, `/ready`, `/metrics` |
//! | `signals`, [`ask`] | being asked to end; asking |
//! | `lines` | what is logged of connections |
//! | `tls` | TLS, both sides |
//! | `driver` | io_uring or epoll |

mod access;
pub mod ask;
mod clock;
mod core;
mod driver;
mod handoff;
mod history;
mod lines;
mod listen;
/// Reachable only because its bench must be.
#[doc(hidden)]
pub mod mailbox;
mod outbox;
mod pg;
mod redis;
mod signals;
mod sockets;
mod spool;
mod stats;
mod store;
mod tasks;
mod tls;
#[cfg(test)]
mod told;
pub mod worker;

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::core::{Core, HistorySeed, Seed};
use driver::{Kind, ShardRuntime, Wanted};
use mailbox::{Letter, Post, mailboxes};
use redis::Target;
use stats::Stats;
use store::wall_clock;
use tls::server::Acceptor;

use crate::access::Access;
use crate::backplane::{Answer, redis as redis_settings};
use crate::config::{Config, Driver, SlowConsumer, StoreKind};
use crate::model::limits::{NO_PROGRESS_MS, READY_BYTES_MAX, REMEMBERED_IDS_MAX};
use crate::model::{Epoch, Timestamp};
use crate::shard::{Keeping, Options, Rates, Shard, ShardId, SlowConsumer as Slow};
use crate::store::{DataDirLock, Store};

/// Shards at most: a bit each in a room's set of subscribers.
const SHARDS_MAX: usize = 64;
/// Entries of a shard's ring, unless set.
const RING_ENTRIES: u32 = 4096;
/// Open files that are not connections, or connections that only ask for a page: listeners, rings,
/// the store, the log.
const FILES_RESERVED: u64 = 64;

/// Serves until it is told to drain.
pub fn serve(config: &Config) -> ExitCode {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.redis.is_none() && config.ack_replicas > 0 {
        tracing::warn!("--ack-replicas has no effect without --redis-url: there is no replica");
    }
    match Instance::start(config).and_then(Instance::wait) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a thread's work; if it panics, the process ends: nothing acked is lost, and the supervisor
/// starts it anew. Going on without one of the threads would be a server that hangs.
fn or_abort(run: impl FnOnce() + Send + 'static) -> impl FnOnce() + Send + 'static {
    struct Abort;
    impl Drop for Abort {
        fn drop(&mut self) {
            if thread::panicking() {
                std::process::abort();
            }
        }
    }
    move || {
        let guard = Abort;
        run();
        drop(guard);
    }
}

/// How long a peer may acknowledge nothing of what it was sent: one that is gone is found out
/// within `--idle-timeout`, since something is sent each heartbeat; but one that takes nothing is
/// closed as a slow consumer before.
fn silence(config: &Config) -> Duration {
    let silence = config.idle_timeout.saturating_sub(config.heartbeat);
    silence.max(Duration::from_millis(NO_PROGRESS_MS + 1_000))
}

/// A running instance.
struct Instance {
    shards: Vec<JoinHandle<()>>,
    store: Vec<JoinHandle<()>>,
    _drain_socket: Option<signals::DrainSocket>,
    _lock: Option<DataDirLock>,
}

/// The store, its threads' handle, and the ids to be remembered.
struct Opened {
    store: Store,
    remembered: Vec<crate::store::RememberedId>,
}

impl Instance {
    fn start(config: &Config) -> Result<Self, String> {
        let began = Instant::now();
        let cores = sched_getaffinity(None).map_err(|error| error.to_string())?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&core| cores.is_set(core))
            .collect();
        let shards = config.shards.unwrap_or(cores.len()).clamp(1, SHARDS_MAX);
        let entries = config.ring_entries.unwrap_or(RING_ENTRIES);
        let wanted = match config.driver {
            Driver::Auto => Wanted::Auto,
            Driver::IoUring => Wanted::Uring,
            Driver::Epoll => Wanted::Epoll,
        };
        let (kind, why_not) = driver::choose(wanted, entries, shards)?;
        if let Some(why) = why_not {
            tracing::warn!("running on epoll: {why}");
        }
        let connections_max = connections_max(config.max_connections)?;
        let address = SocketAddr::new(config.bind, config.port);
        let (listeners, address) = listen::listen_all(address, shards, silence(config))?;
        let lock = match &config.redis {
            Some(_) => Some(DataDirLock::acquire(&config.data_dir).map_err(|e| e.to_string())?),
            None => None,
        };
        let opened = open_store(config, shards)?;
        let (keeping, target) = keeping(config)?;
        let access = Arc::new(access::read(config)?);
        let history = history_seed(config)?;
        let tls = config.tls.clone().map(Acceptor::new).transpose()?;
        let tls = tls.map(Arc::new);
        let mut metrics = config.metrics_bind.map(listen_for_metrics).transpose()?;

        let instance_id = config.instance_id.to_string();
        let mut stats = Stats::new(instance_id, kind.as_str(), connections_max, shards);
        stats.has_metrics = metrics.is_none();
        let stats = Arc::new(stats);
        let (post, boxes) = mailboxes(shards);
        let drain = drain_once(config, post.clone(), stats.clone());
        let _drain_socket = match opened.is_some() || lock.is_some() {
            true => Some(signals::listen(&config.data_dir, drain.clone())?),
            false => None,
        };
        let mut reloads: Vec<_> = tls.iter().map(reload_tls).collect();
        reloads.extend(access::reload(config, post.clone()));
        signals::watch(drain, reloads)?;

        let (store, store_threads, remembered) = match opened {
            Some(Opened { store, remembered }) => {
                let (post, stats) = (post.clone(), stats.clone());
                let (handle, threads) = store::start(store, config.retention, post, stats)?;
                (Some(handle), threads, remembered)
            }
            None => (None, Vec::new(), Vec::new()),
        };
        let options = Arc::new(options(config, shards, keeping, access));
        // With one partition its home is the first shard.
        let mut spools = Vec::new();
        let mut store_threads = store_threads;
        if target.is_some() {
            let (dir, post) = (config.data_dir.join("spool/0"), post.clone());
            let answer = move |event| post.send(0, Letter::Answer(Answer::Spool(event)));
            let (handle, thread) = spool::start(&dir, answer)?;
            spools.push(handle);
            store_threads.push(thread);
        }
        let mut threads = Vec::new();
        let (begun, begins) = mpsc::channel();
        for (id, (listener, mailbox)) in listeners.into_iter().zip(boxes).enumerate() {
            let mut shard = Shard::new(id as ShardId, options.clone(), fastrand::u64(..));
            for known in remembered
                .iter()
                .rev()
                .filter(|k| k.room.home(shards) == id)
            {
                shard.remember(known.at, &known.room, known.id, known.offset);
            }
            let seed = Seed {
                shard,
                id: id as ShardId,
                shards: shards as u16,
                mailbox,
                post: post.clone(),
                store: store.clone(),
                stats: stats.clone(),
                flush_interval: config.flush_interval,
                began,
                redis: target.clone().filter(|_| id == 0),
                spool: spools.pop(),
                history: history.clone().filter(|_| id == 0),
                tls: tls.clone(),
                metrics: metrics.take(),
            };
            let core = config.pin_cores.then(|| cores[id % cores.len()]);
            threads.push(start_shard(
                seed,
                listener,
                kind,
                entries,
                core,
                begun.clone(),
            )?);
        }
        // Who is told that the instance serves may come to any shard. One that can't run has ended
        // the process.
        drop(begun);
        begins.iter().take(shards).for_each(drop);
        stats.serving.store(true, Ordering::Release);
        tracing::info!(
            %address, shards, driver = kind.as_str(), instance_id = %config.instance_id,
            tls = config.tls.is_some(), "serving"
        );
        Ok(Self {
            shards: threads,
            store: store_threads,
            _drain_socket,
            _lock: lock,
        })
    }

    /// Waits until all shards have drained and the store has written what it was given.
    fn wait(self) -> Result<(), String> {
        for thread in self.shards.into_iter().chain(self.store) {
            thread
                .join()
                .map_err(|_| "a thread has failed".to_owned())?;
        }
        tracing::info!("drained");
        Ok(())
    }
}

fn start_shard(
    mut seed: Seed,
    listener: TcpListener,
    kind: Kind,
    entries: u32,
    core: Option<usize>,
    begun: mpsc::Sender<()>,
) -> Result<JoinHandle<()>, String> {
    let id = seed.id;
    let run = move || {
        if let Some(core) = core {
            let mut set = CpuSet::new();
            set.set(core);
            if let Err(error) = sched_setaffinity(None, &set) {
                tracing::warn!(shard = id, core, %error, "it can't be pinned; see --pin-cores");
            }
        }
        // epoll must never wait in accept, and io_uring would not wait at all.
        let ready = listener.set_nonblocking(kind == Kind::Epoll);
        let runtime = ready.and_then(|()| ShardRuntime::build(kind, entries));
        let ended = runtime.and_then(|mut runtime| {
            // Whether anybody still waits for it does not matter.
            let _ = begun.send(());
            let redis = seed.redis.take();
            let history = seed.history.take();
            let (metrics, stats) = (seed.metrics.take(), seed.stats.clone());
            let core = Rc::new(RefCell::new(Core::new(seed)));
            if let Some(target) = redis {
                Core::open_links(&core, target);
            }
            runtime.block_on(async {
                if let Some(listener) = metrics {
                    let answer = move |path: &str| match path {
                        "/metrics" => Some(stats.metrics()),
                        _ => None,
                    };
                    worker::http::serve(listener, answer)?;
                }
                if let Some(history) = history {
                    Core::open_history(&core, history);
                }
                tasks::run(core, listener).await
            })
        });
        if let Err(error) = ended {
            // Without one of its shards an instance can't keep what it promises.
            tracing::error!(shard = id, %error, "the shard can't run");
            std::process::exit(1);
        }
    };
    let thread = thread::Builder::new().name(format!("shard-{id}"));
    thread
        .spawn(or_abort(run))
        .map_err(|error| format!("cannot start a shard's thread: {error}"))
}

/// SIGHUP: shows another certificate, if that is a good one.
fn reload_tls(acceptor: &Arc<Acceptor>) -> signals::Reload {
    let acceptor = acceptor.clone();
    Box::new(move || match acceptor.reload() {
        Ok(()) => tracing::info!("SIGHUP: the certificate was read again"),
        Err(why) => tracing::error!("SIGHUP: the certificate stays as it was: {why}"),
    })
}

/// Listens where the metrics are asked for.
fn listen_for_metrics(address: SocketAddr) -> Result<TcpListener, String> {
    let (listener, address) = worker::http::listen(address, "--metrics-bind")?;
    tracing::info!(%address, "serving metrics");
    Ok(listener)
}

/// Asks all shards to drain, once.
fn drain_once(config: &Config, post: Post, stats: Arc<Stats>) -> signals::Drain {
    let window_ms = config.drain_window.as_millis() as u64;
    Arc::new(move |by: &str| {
        if !stats.draining.swap(true, Ordering::AcqRel) {
            tracing::info!(by, window_ms, "draining");
            post.send_all(|| Letter::Drain(window_ms));
        }
    })
}

fn open_store(config: &Config, shards: usize) -> Result<Option<Opened>, String> {
    if config.store == StoreKind::Memory || config.redis.is_some() {
        return Ok(None);
    }
    let now = wall_clock();
    let mut store = Store::open(&config.data_dir, Epoch::new(now.0, fastrand::u32(..)))
        .map_err(|error| error.to_string())?;
    let since = Timestamp(
        now.0
            .saturating_sub(config.dedupe_window.as_millis() as u64),
    );
    let remembered = store
        .recent_client_ids(since, REMEMBERED_IDS_MAX * shards)
        .map_err(|error| error.to_string())?;
    Ok(Some(Opened { store, remembered }))
}

/// What orders and keeps publications, and where Redis is if it does.
fn keeping(config: &Config) -> Result<(Keeping, Option<Target>), String> {
    let Some(address) = &config.redis else {
        let keeping = match config.store {
            StoreKind::Sqlite => Keeping::Store,
            StoreKind::Memory => Keeping::Memory,
        };
        return Ok((keeping, None));
    };
    let settings = redis_settings::Settings {
        prefix: config.key_prefix.clone(),
        partition: 0,
        partitions: 1,
        instance_id: config.instance_id.clone(),
        nonce: nonce(config)?,
        login: address.login(format!("ringcast-{}", config.instance_id)),
        dedupe_ms: config.dedupe_window.as_millis() as u64,
        retention_ms: config.stream_retention.as_millis() as u64,
        stream_bytes_max: config.stream_bytes as u64,
        ack_replicas: config.ack_replicas,
        has_store: config.postgres.is_some(),
        log_bytes_max: config.room_log_bytes / 2,
        turn_bytes_max: config.room_log_bytes / 4,
        ready_bytes_max: READY_BYTES_MAX,
        spool_bytes_max: config.spool_bytes as u64,
    };
    let target = Target::new(address.clone())?;
    Ok((Keeping::Redis(vec![settings]), Some(target)))
}

/// How history is read from PostgreSQL; only in a cluster, as only its stream has a worker.
fn history_seed(config: &Config) -> Result<Option<HistorySeed>, String> {
    let Some(info) = &config.postgres else {
        return Ok(None);
    };
    if config.redis.is_none() {
        tracing::warn!("POSTGRES_URL has no effect without REDIS_URL: history is in --data-dir");
        return Ok(None);
    }
    let target = pg::Target::new(info.clone());
    Ok(Some(HistorySeed {
        target: target.map_err(|why| format!("--postgres-url: {why}"))?,
        name: format!("ringcast-{}", config.instance_id),
        links_max: config.postgres_pool,
    }))
}

/// Who this data directory is to the lease of the INSTANCE_ID: a restarted instance takes its own
/// over at once.
fn nonce(config: &Config) -> Result<String, String> {
    let path = config.data_dir.join("nonce");
    let known = std::fs::read_to_string(&path).ok();
    if let Some(known) = known.filter(|text| text.len() == 32) {
        return Ok(known);
    }
    let nonce = format!("{:032x}", fastrand::u128(..));
    std::fs::write(&path, &nonce)
        .map_err(|error| format!("{}: {error}; see --data-dir", path.display()))?;
    Ok(nonce)
}

/// What the limit on open files allows, or less. Raises the limit as far as it goes.
fn connections_max(wanted: Option<usize>) -> Result<usize, String> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit on open files can't be raised");
            limit = getrlimit(Resource::Nofile);
        }
    }
    let allowed = limit.current.map_or(usize::MAX, |files| {
        files.saturating_sub(FILES_RESERVED) as usize
    });
    match wanted {
        Some(wanted) if wanted > allowed => Err(format!(
            "--max-connections {wanted}: the limit on open files allows {allowed}; raise it \
             (ulimit -n, LimitNOFILE)"
        )),
        Some(wanted) => Ok(wanted),
        None => Ok(allowed),
    }
}

/// The settings of a shard.
fn options(config: &Config, shards: usize, keeping: Keeping, access: Arc<Access>) -> Options {
    let ms = |duration: Duration| duration.as_millis() as u64;
    Options {
        instance_id: config.instance_id.to_string(),
        shards: shards as u16,
        keeping,
        message_bytes_max: config.max_message_bytes,
        echo_message_bytes_max: if config.echo {
            config.echo_message_bytes_max
        } else {
            0
        },
        deflate: config.deflate,
        fragments_max: config.max_fragments.unwrap_or(0) as u32,
        rooms_max: config.max_rooms.div_ceil(shards),
        rooms_per_connection_max: config.max_rooms_per_connection,
        log_bytes_max: config.room_log_bytes,
        linger_ms: ms(config.room_linger),
        slow_consumer: match config.slow_consumer {
            SlowConsumer::Gap => Slow::Gap,
            SlowConsumer::Disconnect => Slow::Disconnect,
        },
        handshake_ms: ms(config.handshake_timeout),
        heartbeat_ms: ms(config.heartbeat),
        idle_ms: ms(config.idle_timeout),
        dedupe_ms: ms(config.dedupe_window),
        rates: Rates {
            messages: config.rate_limit,
            bytes: config.rate_limit_bytes as u64,
            address_messages: config.rate_limit_address,
            address_connections: config.max_connections_per_address,
        },
        access,
        origins: config.allowed_origins.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
    }
}
