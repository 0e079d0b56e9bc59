//! Counters of everything at one moment, and the figures of the window between two of them: of the
//! fleet, of the servers' processes, of Redis, of the load generator itself.

use crate::poll::Traffic;
use crate::redis::Counters;
use crate::report::{Report, round};
use crate::scenario::World;
use crate::stat;

/// Counters at one moment. To ask Redis takes a moment too: where latencies are measured, mark
/// before they begin and after they ended.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) now: u64,
    pub(crate) delivered: u64,
    pub(crate) published: u64,
    pub(crate) acked: u64,
    pub(crate) traffic: Traffic,
    /// Of all `--pid`s.
    pub(crate) server_cpu: Option<f64>,
    pub(crate) resident: Option<u64>,
    redis_cpu: Option<f64>,
    redis: Option<Counters>,
    pub(crate) own_cpu: f64,
    own_wait: Option<f64>,
}

impl World<'_> {
    /// The counters as they stand.
    pub(crate) fn mark(&self) -> Mark {
        let redis = self.common.redis_address();
        Mark {
            now: self.swarm.now(),
            delivered: self.fleet.checker.tally.delivered,
            published: self.fleet.published,
            acked: self.fleet.acked,
            traffic: self.swarm.traffic,
            server_cpu: self.common.server_cpu(),
            resident: self.common.server_resident(),
            redis_cpu: self.common.redis_pid.and_then(stat::cpu_seconds),
            own_cpu: stat::own_cpu_seconds(),
            own_wait: stat::own_wait_seconds(),
            // Last: it takes longest.
            redis: redis.and_then(|address| Counters::ask(address).ok()),
        }
    }
}

impl Mark {
    /// Deliveries per CPU second of the server since `before`.
    pub(crate) fn deliveries_per_cpu_second(&self, before: &Self) -> Option<f64> {
        let cpu = self.server_cpu? - before.server_cpu?;
        (cpu > 0.0).then(|| (self.delivered - before.delivered) as f64 / cpu)
    }

    /// What Redis was asked since `before`.
    pub(crate) fn redis_since(&self, before: &Self) -> Option<Counters> {
        Some(self.redis.as_ref()?.since(before.redis.as_ref()?))
    }

    /// Adds the figures of the window between the two.
    pub(crate) fn push_since(&self, before: &Self, report: &mut Report) {
        let seconds = (self.now - before.now) as f64 / 1e9;
        let deliveries = (self.delivered - before.delivered) as f64;
        let published = (self.published - before.published) as f64;
        report.push("measured_seconds", round(seconds));
        report.push("deliveries", self.delivered - before.delivered);
        report.push("publishes_per_second", (published / seconds).round());
        if self.acked > before.acked {
            let acked = (self.acked - before.acked) as f64;
            report.push("acked_per_second", (acked / seconds).round());
        }
        report.push("deliveries_per_second", (deliveries / seconds).round());
        if let (Some(after), Some(before)) = (self.server_cpu, before.server_cpu) {
            let cpu = after - before;
            report.push("server_cpu_seconds", round(cpu));
            report.push("server_busy", round(cpu / seconds));
            if deliveries > 0.0 {
                report.push("server_cpu_us_per_delivery", round(cpu / deliveries * 1e6));
            }
            if published > 0.0 {
                report.push("server_cpu_us_per_publish", round(cpu / published * 1e6));
            }
        }
        let rate = self.deliveries_per_cpu_second(before);
        report.push_some("deliveries_per_server_cpu_second", rate.map(f64::round));
        report.push_some("server_resident_bytes_before", before.resident);
        report.push_some("server_resident_bytes_after", self.resident);
        self.push_redis(before, seconds, published, report);
        let reads = self.traffic.reads - before.traffic.reads;
        if reads > 0 {
            let frames = (self.traffic.frames - before.traffic.frames) as f64;
            report.push("frames_per_read", round(frames / reads as f64));
        }
        report.push_own_busy((self.own_cpu - before.own_cpu) / seconds);
        if let (Some(after), Some(before)) = (self.own_wait, before.own_wait) {
            report.push_own_wait((after - before) / seconds);
        }
    }

    fn push_redis(&self, before: &Self, seconds: f64, published: f64, report: &mut Report) {
        if let (Some(after), Some(before)) = (self.redis_cpu, before.redis_cpu) {
            let cpu = after - before;
            report.push("redis_cpu_seconds", round(cpu));
            report.push("redis_busy", round(cpu / seconds));
            if published > 0.0 {
                report.push("redis_cpu_us_per_publish", round(cpu / published * 1e6));
            }
        }
        let Some(since) = self.redis_since(before) else {
            return;
        };
        let commands = since.commands as f64;
        report.push("redis_commands_per_second", (commands / seconds).round());
        if published > 0.0 {
            report.push("redis_commands_per_publish", round(commands / published));
        }
        report.push("redis_stream_reads", since.stream_reads());
        let calls = since.calls.into_iter();
        let calls: serde_json::Map<_, _> = calls.map(|(name, n)| (name, n.into())).collect();
        report.push("redis_calls", calls);
    }
}
