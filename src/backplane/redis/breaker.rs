//! Whether Redis is to be asked: closed, open, half-open.
//!
//! ```text
//!            a refusal; silence; no connection
//!   closed ────────────────────────────────────▶ open ◀──────────────┐
//!     ▲                                           │ connected, and   │ refused, silent,
//!     │                                           ▼ the pause over   │ disconnected
//!     └────────────── the probe succeeds ───── half-open: one probe ─┘
//! ```
//!
//! It decides and does nothing: the caller connects when [`Breaker::poll_connect`] says so, probes
//! when [`Breaker::poll_probe`] does, and calls [`Breaker::poll_change`] whenever something
//! happened and at [`Breaker::wake_at`]. A connection that breaks is tried again at once the first
//! time, so that one reset opens nothing. A probe is whatever proves that Redis takes writes again;
//! a mere PING does not.
//!
//! Pauses double from the shortest to the longest of `BREAKER_PAUSES_MS`, each between half of
//! itself and itself by chance, so that instances do not come all at once.
//!
//! # Invariants
//!
//! - [`Change::Opened`] and [`Change::Closed`] alternate, beginning with `Opened`.
//! - A probe goes out only while connected, and none while another is awaited (half-open).
//! - `now_ms` never falls.

use crate::model::limits::{BREAKER_AWAY_MS, BREAKER_PAUSES_MS, BREAKER_SILENCE_MS};

/// What the breaker did. Each is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Redis counts as away: what comes goes to the spool. Why, in words.
    Opened(String),
    /// Redis takes writes again.
    Closed,
}

/// For the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Redis is asked.
    Closed,
    /// Redis is not asked.
    Open,
    /// One probe is under way.
    HalfOpen,
}

/// Whether there is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Connected,
    /// A connection is being made.
    Connecting,
    /// The next try may begin then.
    Pausing {
        until: u64,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    link: Link,
    /// Since when there has been no connection.
    away_since: Option<u64>,
    /// Since when the oldest call has been unanswered.
    waiting_since: Option<u64>,
    /// When the probe went out, in the state half-open.
    probed_at: u64,
    /// The next probe may go out then.
    probe_at: u64,
    connect_pause: u64,
    probe_pause: u64,
    /// Why there is no connection, in the words of the last try.
    away_why: String,
    changes: Vec<Change>,
}

impl Breaker {
    /// Closed, not connected yet: it opens if there is no connection in time.
    pub fn new(now_ms: u64) -> Self {
        Self {
            state: State::Closed,
            link: Link::Pausing { until: now_ms },
            away_since: Some(now_ms),
            waiting_since: None,
            probed_at: 0,
            probe_at: 0,
            connect_pause: 0,
            probe_pause: 0,
            away_why: String::new(),
            changes: Vec::new(),
        }
    }

    /// Whether publications are to be sent.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Closed, open or half-open.
    pub fn state(&self) -> State {
        self.state
    }

    /// The connection is ready for commands. Pauses between connects begin anew only when a probe
    /// or a call has succeeded.
    pub fn on_connected(&mut self, now_ms: u64) {
        self.link = Link::Connected;
        self.away_since = None;
        self.waiting_since = None;
        self.probe_at = self.probe_at.max(now_ms);
    }

    /// A connection broke, or could not be made. `random` is from 0 to 1.
    pub fn on_disconnected(&mut self, now_ms: u64, why: &str, random: f64) {
        self.waiting_since = None;
        self.away_since.get_or_insert(now_ms);
        self.away_why = why.into();
        let until = now_ms + jittered(self.connect_pause, random);
        self.link = Link::Pausing { until };
        self.connect_pause = longer(self.connect_pause);
        if self.state == State::HalfOpen {
            self.reopen(now_ms, random);
        }
    }

    /// Redis refused a call or a probe for what ails itself (OOM, MISCONF, READONLY, LOADING,
    /// NOAUTH, …). `is_passing`: it ends by itself and soon (LOADING, BUSY), so it is asked again
    /// soon; else the pauses are long from the beginning. `random` is from 0 to 1.
    pub fn on_refused(&mut self, now_ms: u64, is_passing: bool, why: &str, random: f64) {
        if !is_passing {
            self.probe_pause = BREAKER_PAUSES_MS.1;
        }
        match self.state {
            State::Closed => self.open(now_ms, format!("Redis refuses: {why}"), random),
            State::HalfOpen => self.reopen(now_ms, random),
            State::Open => {}
        }
    }

    /// When the oldest call went out that is unanswered; `None`: there is none.
    pub fn on_waiting_since(&mut self, ms: Option<u64>) {
        self.waiting_since = ms;
    }

    /// A call was answered well.
    pub fn on_answered(&mut self) {
        self.connect_pause = 0;
    }

    /// A probe succeeded, however late.
    pub fn on_probe_ok(&mut self) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.waiting_since = None;
            (self.connect_pause, self.probe_pause) = (0, 0);
            self.changes.push(Change::Closed);
        }
    }

    /// Whether to connect now. `true` is said once: the answer is [`Breaker::on_connected`] or
    /// [`Breaker::on_disconnected`].
    pub fn poll_connect(&mut self, now_ms: u64) -> bool {
        let due = matches!(self.link, Link::Pausing { until } if until <= now_ms);
        if due {
            self.link = Link::Connecting;
        }
        due
    }

    /// Whether to send a probe now. `true` is said once: the answer is [`Breaker::on_probe_ok`],
    /// [`Breaker::on_refused`] or [`Breaker::on_disconnected`].
    pub fn poll_probe(&mut self, now_ms: u64) -> bool {
        let may = self.state == State::Open && self.link == Link::Connected;
        let due = may && self.probe_at <= now_ms;
        if due {
            self.state = State::HalfOpen;
            self.probed_at = now_ms;
        }
        due
    }

    /// What it did since it was asked last, by what happened and by the time. `random` is from 0
    /// to 1.
    pub fn poll_change(&mut self, now_ms: u64, random: f64) -> Option<Change> {
        let passed = |since: Option<u64>, ms| since.is_some_and(|since| since + ms <= now_ms);
        match self.state {
            State::Closed if passed(self.away_since, BREAKER_AWAY_MS) => {
                let why = match self.away_why.as_str() {
                    "" => "no connection to Redis".to_owned(),
                    why => format!("no connection to Redis: {why}"),
                };
                self.open(now_ms, why, random);
            }
            State::Closed if passed(self.waiting_since, BREAKER_SILENCE_MS) => {
                let why = format!("Redis has not answered for {BREAKER_SILENCE_MS} ms");
                self.open(now_ms, why, random);
            }
            State::HalfOpen if passed(Some(self.probed_at), BREAKER_SILENCE_MS) => {
                self.reopen(now_ms, random);
            }
            _ => {}
        }
        (!self.changes.is_empty()).then(|| self.changes.remove(0))
    }

    /// When time alone will change an answer of one of the `poll_`s.
    pub fn wake_at(&self) -> Option<u64> {
        let connect = match self.link {
            Link::Pausing { until } => Some(until),
            Link::Connected | Link::Connecting => None,
        };
        let away = self.away_since.map(|since| since + BREAKER_AWAY_MS);
        let silence = self.waiting_since.map(|since| since + BREAKER_SILENCE_MS);
        let probe = (self.link == Link::Connected).then_some(self.probe_at);
        let of_state = match self.state {
            State::Closed => [away, silence].into_iter().flatten().min(),
            State::Open => probe,
            State::HalfOpen => Some(self.probed_at + BREAKER_SILENCE_MS),
        };
        [connect, of_state].into_iter().flatten().min()
    }

    fn open(&mut self, now_ms: u64, why: String, random: f64) {
        self.changes.push(Change::Opened(why));
        self.reopen(now_ms, random);
    }

    fn reopen(&mut self, now_ms: u64, random: f64) {
        self.state = State::Open;
        self.probe_pause = longer(self.probe_pause);
        self.probe_at = now_ms + jittered(self.probe_pause, random);
    }
}

/// The pause that follows upon this one.
fn longer(pause_ms: u64) -> u64 {
    (pause_ms * 2).clamp(BREAKER_PAUSES_MS.0, BREAKER_PAUSES_MS.1)
}

/// From half of it to all of it.
fn jittered(pause_ms: u64, random: f64) -> u64 {
    (pause_ms as f64 * (0.5 + random.clamp(0.0, 1.0) / 2.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, and what must be the case.
    enum Step {
        Connected,
        Disconnected,
        Refused(bool),
        Waiting(Option<u64>),
        Answered,
        ProbeOk,
        Connect(bool),
        Probe(bool),
        Opened(&'static str),
        Closed,
        Nothing,
        Wake(Option<u64>),
    }

    use Step::*;

    /// Runs steps at times; chance is at its highest, so pauses are whole.
    fn check(name: &str, steps: &[(u64, Step)]) {
        let mut breaker = Breaker::new(0);
        for (i, (now, step)) in steps.iter().enumerate() {
            let now = *now;
            let at = format!("{name}, step {i} at {now} ms: {breaker:?}");
            match step {
                Connected => breaker.on_connected(now),
                Disconnected => breaker.on_disconnected(now, "reset", 1.0),
                Refused(passing) => breaker.on_refused(now, *passing, "OOM", 1.0),
                Waiting(since) => breaker.on_waiting_since(*since),
                Answered => breaker.on_answered(),
                ProbeOk => breaker.on_probe_ok(),
                Connect(want) => assert_eq!(breaker.poll_connect(now), *want, "{at}"),
                Probe(want) => assert_eq!(breaker.poll_probe(now), *want, "{at}"),
                Opened(want) => match breaker.poll_change(now, 1.0) {
                    Some(Change::Opened(why)) => assert!(why.contains(want), "{at}: {why}"),
                    change => panic!("{at}: {change:?}"),
                },
                Closed => assert_eq!(breaker.poll_change(now, 1.0), Some(Change::Closed), "{at}"),
                Nothing => assert_eq!(breaker.poll_change(now, 1.0), None, "{at}"),
                Wake(want) => assert_eq!(breaker.wake_at(), *want, "{at}"),
            }
        }
    }

    #[test]
    fn no_connection_opens_it_and_a_quick_reconnect_does_not() {
        let start = || [(0, Connect(true)), (0, Connect(false)), (1, Connected)];
        check(
            "never there",
            &[
                (0, Connect(true)),
                (999, Nothing),
                (999, Wake(Some(1000))),
                (1000, Opened("no connection")),
                (1000, Nothing),
                (5000, Wake(None)),
            ],
        );
        let mut killed = Vec::from(start());
        for at in [2000, 4000, 6000] {
            killed.extend([
                (at, Disconnected),
                (at, Wake(Some(at))),
                (at, Connect(true)),
                (at + 5, Connected),
                (at + 6, Answered),
                (at + 1500, Nothing),
            ]);
        }
        check("CLIENT KILL", &killed);
        let mut gone = Vec::from(start());
        gone.extend([
            (100, Disconnected),
            (100, Connect(true)),
            (110, Disconnected),
            (110, Wake(Some(210))),
            (210, Connect(true)),
            (220, Disconnected),
            (419, Connect(false)),
            (420, Connect(true)),
            (1099, Nothing),
            (1100, Opened("reset")),
            (1200, Connected),
            (1200, Probe(true)),
            (1200, Probe(false)),
            (1201, ProbeOk),
            (1201, Closed),
            (1201, Nothing),
            (1300, Disconnected),
            (1300, Connect(true)),
        ]);
        check("gone", &gone);
    }

    #[test]
    fn a_refusal_opens_it_at_once_and_probes_go_one_by_one() {
        check(
            "passing",
            &[
                (0, Connect(true)),
                (0, Connected),
                (5, Refused(true)),
                (5, Refused(true)),
                (5, Opened("OOM")),
                (5, Nothing),
                (5, Wake(Some(105))),
                (104, Probe(false)),
                (105, Probe(true)),
                (105, Probe(false)),
                (106, Refused(true)),
                (106, Nothing),
                (305, Probe(false)),
                (306, Probe(true)),
                (307, ProbeOk),
                (307, ProbeOk),
                (307, Closed),
                (307, Nothing),
                (400, Refused(true)),
                (400, Opened("OOM")),
                (500, Probe(true)),
            ],
        );
        check(
            "for an operator",
            &[
                (0, Connected),
                (5, Refused(false)),
                (5, Opened("OOM")),
                (2004, Probe(false)),
                (2005, Probe(true)),
                (2006, Refused(false)),
                (4006, Probe(true)),
            ],
        );
    }

    #[test]
    fn silence_opens_it() {
        check(
            "calls",
            &[
                (0, Connected),
                (0, Wake(None)),
                (10, Waiting(Some(10))),
                (10, Wake(Some(2010))),
                (1000, Waiting(Some(900))),
                (2899, Nothing),
                (2900, Opened("not answered for 2000 ms")),
            ],
        );
        check(
            "answered",
            &[
                (0, Connected),
                (10, Waiting(Some(10))),
                (20, Waiting(None)),
                (9000, Nothing),
            ],
        );
        check(
            "the probe",
            &[
                (0, Connected),
                (0, Refused(true)),
                (0, Opened("OOM")),
                (100, Probe(true)),
                (100, Wake(Some(2100))),
                (2100, Nothing),
                (2299, Probe(false)),
                (2300, Probe(true)),
                (2300, Disconnected),
                (2300, Connect(true)),
                (2310, Connected),
                (2699, Probe(false)),
                (2700, Probe(true)),
                (4700, Nothing),
                (4701, ProbeOk),
                (4701, Closed),
            ],
        );
    }

    #[test]
    fn pauses_grow_to_their_end_and_vary() {
        let mut pause = 0;
        let pauses: Vec<_> = (0..7)
            .map(|_| {
                pause = longer(pause);
                pause
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        for (random, want) in [(0.0, 50), (0.5, 75), (1.0, 100)] {
            assert_eq!(jittered(100, random), want, "{random}");
        }
    }
}
