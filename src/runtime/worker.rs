//! The worker's machine room: one thread, its links to Redis and PostgreSQL, its clock, its port.
//!
//! ```text
//! links, ticks, signals ─▶ inbox ─▶ Worker::handle ─▶ effects ─▶ links, log
//!                                        └▶ Status ◀─ http
//! ```
//!
//! Events are taken one after the other by one task; the others only put them into the inbox. The
//! inbox is bounded by what was asked: a read, a request to PostgreSQL, the commands of a second.
//!
//! | file | what |
//! |---|---|
//! | `wire` | one connection to Redis |
//! | `http` | `/health` and `/metrics` |
//! | `once` | `ringcast migrate` and `ringcast dead` |

mod http;
mod once;
mod wire;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::driver::{self, ShardRuntime, Wanted};
use super::pg::{Link as PgLink, LinkOptions, Target as PgTarget};
use super::redis::Target as RedisTarget;
use super::signals;
use crate::backplane::link::LinkEvent;
use crate::backplane::redis::names::Names;
use crate::config::{Config, Driver};
use crate::pg;
use crate::resp::Address;
use crate::telemetry::worker::Status;
use crate::worker::{Effect, Event, Level, Settings, Side, Stream, Worker};
pub use once::{dead, migrate};
use wire::Wire;

/// How often time passes.
const TICK: Duration = Duration::from_millis(20);
/// Entries of its ring: a handful of sockets.
const RING_ENTRIES: u32 = 256;
/// How long PostgreSQL may not answer before a request is cancelled, in ms.
const PG_ANSWER_MS: u64 = 10_000;

/// What comes into the inbox.
enum In {
    Tick,
    Redis(Side, LinkEvent),
    Pg(pg::Event),
}

/// See the module.
#[derive(Default)]
struct Inbox {
    events: RefCell<VecDeque<In>>,
    sleeper: RefCell<Option<Waker>>,
}

impl Inbox {
    fn put(&self, event: In) {
        self.events.borrow_mut().push_back(event);
        let sleeper = self.sleeper.borrow_mut().take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    async fn take(&self) -> In {
        poll_fn(|context| {
            if let Some(event) = self.events.borrow_mut().pop_front() {
                return Poll::Ready(event);
            }
            *self.sleeper.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Works until it is told to end.
pub fn work(config: &Config) -> ExitCode {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match begin(config) {
        Ok(()) => {
            tracing::info!("ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn begin(config: &Config) -> Result<(), String> {
    let redis = config.redis.clone();
    let redis = redis.ok_or_else(|| "--redis-url is not set: a worker needs it".to_owned())?;
    let postgres = pg_target(config)?;
    let settings = settings(config);
    let (listener, address) = http::listen(config.bind, config.worker_port)?;
    let mut runtime = runtime(config)?;
    let is_told = Arc::new(AtomicBool::new(false));
    let told = is_told.clone();
    signals::watch(
        Arc::new(move |by: &str| {
            tracing::info!(by, "ending: what was read is stored first");
            told.store(true, Ordering::Release);
        }),
        Vec::new(),
    )?;
    let worker_id = config.worker_id.to_string();
    runtime.block_on(async {
        let status = Rc::new(RefCell::new(Status::new(worker_id.clone())));
        http::serve(listener, status.clone())?;
        tracing::info!(%address, %worker_id, "serving");
        let room = Room::open(settings, redis, postgres, status, is_told)?;
        room.run().await;
        Ok(())
    })
}

/// The runtime of this thread.
fn runtime(config: &Config) -> Result<ShardRuntime, String> {
    let wanted = match config.driver {
        Driver::Auto => Wanted::Auto,
        Driver::IoUring => Wanted::Uring,
        Driver::Epoll => Wanted::Epoll,
    };
    let (kind, why_not) = driver::choose(wanted, RING_ENTRIES, 1)?;
    if let Some(why) = why_not {
        tracing::warn!("running on epoll: {why}");
    }
    ShardRuntime::build(kind, RING_ENTRIES).map_err(|error| error.to_string())
}

/// Where PostgreSQL is.
fn pg_target(config: &Config) -> Result<PgTarget, String> {
    let info = config.postgres.clone();
    let info = info.ok_or_else(|| "--postgres-url is not set: a worker needs it".to_owned())?;
    PgTarget::new(info)
}

/// The stream, as this worker consumes it.
fn stream(config: &Config) -> Stream {
    let names = Names::new(&config.key_prefix, 0, 1);
    let retention_ms = config.stream_retention.as_millis() as u64;
    let consumer = config.worker_id.to_string();
    Stream::new(names.stream, names.dead, consumer, retention_ms)
}

fn settings(config: &Config) -> Settings {
    Settings {
        stream: stream(config),
        batch_rows: config.batch_size,
        batch_ms: config.batch_timeout.as_millis() as u64,
        retention_ms: config.retention.map(|age| age.as_millis() as u64),
        drain_ms: config.drain_window.as_millis() as u64,
    }
}

/// All that the one task works with.
struct Room {
    worker: Worker,
    effects: Vec<Effect>,
    inbox: Rc<Inbox>,
    reader: Wire,
    commands: Wire,
    pg: PgLink,
    status: Rc<RefCell<Status>>,
    is_told: Arc<AtomicBool>,
    began: Instant,
    failpoint: Option<Failpoint>,
}

impl Room {
    fn open(
        settings: Settings,
        redis: Address,
        postgres: PgTarget,
        status: Rc<RefCell<Status>>,
        is_told: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        let login = redis.login(format!("ringcast-{}", settings.stream.consumer));
        let target = RedisTarget::new(redis)?;
        let inbox = Rc::new(Inbox::default());
        let wire = |side| {
            let there = Rc::downgrade(&inbox);
            let put = move |event| {
                if let Some(inbox) = there.upgrade() {
                    inbox.put(In::Redis(side, event));
                }
            };
            let (target, login) = (target.clone(), login.clone());
            Wire::new(target, login, settings.stream.clone(), Rc::new(put))
        };
        let (reader, commands) = (wire(Side::Reader), wire(Side::Commands));
        let there = Rc::downgrade(&inbox);
        let put = move |event| {
            if let Some(inbox) = there.upgrade() {
                inbox.put(In::Pg(event));
            }
        };
        let options = LinkOptions {
            name: format!("ringcast-{}", settings.stream.consumer),
            settings: Vec::new(),
            answer_ms: PG_ANSWER_MS,
        };
        let pg = PgLink::open(postgres, options, Rc::new(put));
        monoio::spawn(tick(Rc::downgrade(&inbox)));
        Ok(Self {
            worker: Worker::new(settings, fastrand::u64(..)),
            effects: Vec::new(),
            inbox,
            reader,
            commands,
            pg,
            status,
            is_told,
            began: Instant::now(),
            failpoint: Failpoint::of_env(),
        })
    }

    async fn run(mut self) {
        let mut events = Vec::new();
        loop {
            match self.inbox.clone().take().await {
                In::Tick => {
                    let stops = self.is_told.swap(false, Ordering::AcqRel);
                    events.push(if stops { Event::Stop } else { Event::Tick });
                }
                In::Redis(side, event) => self.wire(side).on_event(side, event, &mut events),
                In::Pg(event) => events.push(Event::Pg(event)),
            }
            for event in events.drain(..) {
                let is_tick = matches!(event, Event::Tick);
                let now = self.began.elapsed().as_millis() as u64;
                let mut effects = std::mem::take(&mut self.effects);
                self.worker.handle(now, event, &mut effects);
                if is_tick {
                    self.status.borrow_mut().report = self.worker.report();
                }
                for effect in effects.drain(..) {
                    if self.perform(effect) {
                        return;
                    }
                }
                self.effects = effects;
            }
        }
    }

    fn wire(&mut self, side: Side) -> &mut Wire {
        match side {
            Side::Reader => &mut self.reader,
            Side::Commands => &mut self.commands,
        }
    }

    /// Does what is asked; whether that was the end.
    fn perform(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Connect(side) => self.wire(side).connect(),
            Effect::Close(side) => self.wire(side).close(),
            Effect::Ask(side, ask) => self.wire(side).ask(ask),
            Effect::Pg(request) => {
                if let Err(refused) = self.pg.send(request) {
                    // As if it had been asked and refused: the link tells of its end by itself.
                    self.inbox.put(In::Pg(pg::Event::Answer(Err(refused.1))));
                }
            }
            Effect::Say(Level::Info, text) => tracing::info!("{text}"),
            Effect::Say(Level::Warn, text) => tracing::warn!("{text}"),
            Effect::Committed => {
                if let Some(failpoint) = &mut self.failpoint {
                    failpoint.reach();
                }
            }
            Effect::End => return true,
        }
        false
    }
}

/// Lets time pass as long as somebody listens.
async fn tick(inbox: std::rc::Weak<Inbox>) {
    loop {
        monoio::time::sleep(TICK).await;
        let Some(inbox) = inbox.upgrade() else {
            return;
        };
        inbox.put(In::Tick);
    }
}

/// Ends the process between a commit and the XACK that follows: for tests, in debug builds only.
/// `RINGCAST_FAILPOINT=committed:7`: at the seventh commit.
struct Failpoint {
    left: u64,
}

impl Failpoint {
    fn of_env() -> Option<Self> {
        if !cfg!(debug_assertions) {
            return None;
        }
        let text = std::env::var("RINGCAST_FAILPOINT").ok()?;
        let left = text.strip_prefix("committed:")?.parse().ok()?;
        Some(Self { left })
    }

    fn reach(&mut self) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            std::process::abort();
        }
    }
}
