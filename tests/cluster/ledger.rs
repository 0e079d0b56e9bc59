//! Faults of Redis and of the way to it, under load: what was acked is there, once, in order.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::instances::{Ledger, Plan, Verdict, await_up, begin, command, health, pair, start_all};
use super::namespace::{Namespace, ip};
use super::proxy::Proxy;
use super::redis::{Redis, STREAM};
use super::support::{Client, Server, all, eventually, skip};

const SECOND: Duration = Duration::from_secs(1);

/// Three instances over a Redis, a ledger, and in its midst what goes wrong.
fn check(redis: &mut Redis, plan: &Plan, fault: impl FnOnce(&mut Redis, &[Server])) -> Verdict {
    let servers = start_all(3, redis, &[]);
    check_over(redis, &servers, plan, fault)
}

fn check_over(
    redis: &mut Redis,
    servers: &[Server],
    plan: &Plan,
    fault: impl FnOnce(&mut Redis, &[Server]),
) -> Verdict {
    let mut ledger = Ledger::start(servers, plan);
    redis.await_stream(plan.before_fault());
    fault(redis, servers);
    assert!(ledger.is_running(), "the fault came in its midst");
    let verdict = ledger.verdict();
    eprintln!("{verdict:?}");
    for server in servers {
        eprintln!("{}", server.log());
    }
    verdict
}

/// Three instances, each behind a proxy of its own.
fn behind_proxies(redis: &Redis) -> (Vec<Proxy>, Vec<Server>) {
    behind_proxies_with(redis, &[])
}

fn behind_proxies_with(redis: &Redis, flags: &[&str]) -> (Vec<Proxy>, Vec<Server>) {
    let proxies: Vec<_> = (0..3).map(|_| Proxy::to(redis.port)).collect();
    let servers = proxies.iter().zip(["a", "b", "c"]).map(|(proxy, id)| {
        let server = begin(id, &format!("127.0.0.1:{}", proxy.port), flags);
        await_up(&server);
        server
    });
    let servers = servers.collect();
    (proxies, servers)
}

/// Does it again and again, until the time is over.
fn again(plan: &Plan, pause: Duration, mut what: impl FnMut()) {
    let end = Instant::now() + plan.fault;
    while Instant::now() < end {
        what();
        thread::sleep(pause);
    }
}

/// FAULTS D1: ended as an operator does it, and started at once.
#[test]
fn redis_restarts() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_000, SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        redis.shut_down();
        redis.up();
    });
    verdict.expect_whole().expect_connected();
}

/// FAULTS D1: killed, back after 2 s (10 s), with what it acks on disk: all of it is there, in
/// order, and told.
#[test]
fn redis_is_killed_and_comes_back_later() {
    // While its disk is slow, a Redis that syncs every second acks what it has not written yet.
    let mut redis = Redis::lasting(&["--appendfsync", "always"]);
    let plan = Plan::new(3_500, 2 * SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        redis.kill();
        thread::sleep(plan.fault);
        redis.up();
    });
    verdict
        .expect_whole()
        .expect_connected()
        .expect_told_degraded();
}

/// FAULTS D2: for 3 s (10 s): nothing lost or doubled, clients are told; memory is not looked at.
#[test]
fn redis_stands_still() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(4_500, 3 * SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        redis.signal(Signal::STOP);
        thread::sleep(plan.fault);
        redis.signal(Signal::CONT);
    });
    verdict
        .expect_whole()
        .expect_connected()
        .expect_told_degraded();
}

/// FAULTS D2: DEBUG SLEEP for 1.5 s (5 s): nothing lost or doubled.
#[test]
fn redis_is_busy_with_something_else() {
    let mut redis = Redis::lasting(&["--enable-debug-command", "local"]);
    let plan = Plan::new(4_500, 3 * SECOND);
    let seconds = if all() { "5" } else { "1.5" };
    let verdict = check(&mut redis, &plan, |redis, _| {
        redis.ask(&["DEBUG", "SLEEP", seconds]);
    });
    verdict.expect_whole().expect_connected();
}

/// FAULTS D5: four times a second (every 2 s): all gaps that are counted are mended, nothing lost;
/// how soon each is subscribed again is not looked at.
#[test]
fn subscribers_are_killed_again_and_again() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_500, 2 * SECOND);
    let pause = if all() { 2 * SECOND } else { SECOND / 4 };
    let servers = start_all(3, &redis, &[]);
    let verdict = check_over(&mut redis, &servers, &plan, |redis, _| {
        again(&plan, pause, || {
            redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        });
    });
    verdict.expect_whole().expect_connected();
    let sum = |name: &str| {
        servers
            .iter()
            .map(|server| server.metric(name))
            .sum::<u64>()
    };
    let seen = sum("redis_gaps_seen_total");
    assert_ne!(seen, 0);
    assert_eq!(sum("redis_gaps_mended_total"), seen);
    assert_eq!(sum("redis_messages_lost_total"), 0);
}

/// FAULTS D6: ten times a second (every 2 s): all acked, none doubled.
#[test]
fn callers_are_killed_again_and_again() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_500, 2 * SECOND);
    let pause = if all() { 2 * SECOND } else { SECOND / 10 };
    let verdict = check(&mut redis, &plan, |redis, _| {
        again(&plan, pause, || {
            redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        });
    });
    verdict.expect_whole().expect_connected();
}

/// FAULTS D8: cut every 100 kB or so.
#[test]
fn connections_are_cut_in_the_midst_of_a_frame() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_500, 2 * SECOND);
    let (proxies, servers) = behind_proxies(&redis);
    let verdict = check_over(&mut redis, &servers, &plan, |_, _| {
        proxies.iter().for_each(|proxy| proxy.cut_after(100_000));
        thread::sleep(plan.fault);
        proxies.iter().for_each(|proxy| proxy.cut_after(0));
    });
    let cuts: u64 = proxies.iter().map(Proxy::cuts).sum();
    assert!(cuts > 3, "{cuts} cuts");
    verdict.expect_whole().expect_connected();
}

/// FAULTS D8: 200 ms longer, each way.
#[test]
fn the_way_to_redis_is_long() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_000, 2 * SECOND);
    let (proxies, servers) = behind_proxies(&redis);
    let verdict = check_over(&mut redis, &servers, &plan, |_, _| {
        for proxy in &proxies {
            proxy.delay(SECOND / 5);
        }
        thread::sleep(plan.fault);
        for proxy in &proxies {
            proxy.delay(Duration::ZERO);
        }
    });
    verdict.expect_whole().expect_connected();
}

/// FAULTS D2, D8: nothing passes, and nothing is told, for one of three: the others go on, and it
/// has all of it afterwards.
#[test]
fn the_way_of_one_instance_is_a_black_hole() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(5_500, 4 * SECOND);
    let (proxies, servers) = behind_proxies(&redis);
    let verdict = check_over(&mut redis, &servers, &plan, |_, servers| {
        proxies[0].pause();
        thread::sleep(plan.fault);
        assert_eq!(health(&servers[1])["redis"], "up");
        proxies[0].go_on();
    });
    verdict.expect_whole().expect_connected();
    verdict.expect_some("degraded_told");
}

/// FAULTS D8: 50 kB a second pass, for one of three.
#[test]
fn the_way_of_one_instance_is_narrow() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_500, 2 * SECOND);
    let (proxies, servers) = behind_proxies(&redis);
    let verdict = check_over(&mut redis, &servers, &plan, |_, _| {
        proxies[0].throttle(50_000);
        thread::sleep(plan.fault);
        proxies[0].throttle(0);
    });
    verdict.expect_whole().expect_connected();
}

/// FAULTS D7: until Redis gives it up, and a while longer: the gap is mended, nobody is
/// disconnected.
#[test]
fn an_instance_stands_still_until_redis_gives_it_up() {
    let limit = ["--client-output-buffer-limit", "pubsub 1mb 1mb 1"];
    let mut redis = Redis::lasting(&limit);
    let mut plan = Plan::new(5_500, 4 * SECOND);
    // What the system buffers for a socket is full before Redis has anything to keep.
    plan.payload = if all() { 2_000 } else { 8_000 };
    let verdict = check(&mut redis, &plan, |redis, servers| {
        servers[2].signal(Signal::STOP);
        eventually("Redis to give the instance up", || {
            redis.log().contains("output buffer limits").then_some(())
        });
        thread::sleep(plan.fault / 4);
        servers[2].signal(Signal::CONT);
    });
    verdict.expect_whole().expect_connected();
}

/// FAULTS D3: FLUSHALL: what is lost is told by a new epoch, what comes later is stored.
#[test]
fn everything_is_flushed() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_000, SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        redis.ask(&["FLUSHALL"]);
    });
    verdict
        .expect_honest()
        .expect_connected()
        .expect_told_epoch();
}

/// FAULTS D3: killed, and back with nothing.
#[test]
fn redis_comes_back_with_nothing() {
    let mut redis = Redis::start(&[]);
    let plan = Plan::new(3_500, 2 * SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        redis.kill();
        thread::sleep(plan.fault);
        redis.up();
    });
    verdict
        .expect_honest()
        .expect_connected()
        .expect_told_epoch();
}

/// FAULTS D3: back without what it acked last.
#[test]
fn redis_comes_back_without_its_last_second() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_000, SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        let old = tempfile::TempDir::new().unwrap();
        redis.copy_files(old.path());
        thread::sleep(SECOND);
        redis.kill();
        redis.put_files(old.path());
        redis.up();
    });
    verdict
        .expect_honest()
        .expect_connected()
        .expect_told_epoch();
}

/// What is behind the address is replaced while all connections stay, as some proxies do it.
///
/// FAULTS D13: it misses a second and goes on within the epoch, and no connection breaks: found by
/// numbers that are given twice, told by a new epoch.
#[test]
fn redis_goes_on_without_its_last_second_and_no_connection_breaks() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(3_000, SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        copy(redis, NAMES, COPIES);
        thread::sleep(SECOND);
        copy(redis, COPIES, NAMES);
    });
    verdict
        .expect_honest()
        .expect_connected()
        .expect_told_epoch();
}

const NAMES: [&str; 2] = [STREAM, "gosocket:state"];
const COPIES: [&str; 2] = ["old:stream", "old:state"];

fn copy(redis: &Redis, from: [&str; 2], to: [&str; 2]) {
    let copy = "for i = 1, 2 do redis.call('COPY', KEYS[i], KEYS[i + 2], 'REPLACE') end";
    redis.ask(&[&["EVAL", copy, "4"], &from[..], &to[..]].concat());
}

/// The same in silence: as many others were stored there as it misses, and none of them is heard.
///
/// FAULTS D13: it has another line that is exactly as long: found by the place of the last one,
/// told by a new epoch.
#[test]
fn redis_has_another_line_exactly_as_long_and_no_connection_breaks() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut members = [Client::new(&a), Client::new(&b)];
    let epochs = members
        .each_mut()
        .map(|member| member.join("r")["epoch"].clone());
    members[0].publish("r", json!(1));
    copy(&redis, NAMES, COPIES);
    for n in 2..=3 {
        assert_eq!(members[0].publish("r", json!(n)), n);
    }
    for member in &mut members {
        member.messages("r", 1, 3);
    }
    copy(&redis, COPIES, NAMES);
    let script = include_str!("../../src/backplane/redis/publish.lua");
    let keys = [NAMES[1], NAMES[0], "gosocket:ids:0", "gosocket:ids:1"];
    let head = [
        "unheard", "\"x\"", "x", "0", "x", "1", "1", "600000", "1000",
    ];
    let message = ["r", "x", "", "0", "", "id", "", "2026", "", ""];
    let call = [&["EVAL", script, "4"], &keys[..], &head, &message, &message].concat();
    assert_eq!(redis.ask(&call)[1], 3, "it is as long");
    for (member, epoch) in members.iter_mut().zip(epochs) {
        let joined = member.next("joined");
        assert_eq!(
            (&joined["recovered"], &joined["offset"]),
            (&json!(false), &json!(0))
        );
        assert!(joined["epoch"].as_str() > epoch.as_str(), "{joined}");
    }
    assert_eq!(members[1].publish("r", json!(4)), 1);
}

/// FAULTS D12: no memory for 2 s (10 s), under load: nothing lost, all acked in the end.
#[test]
fn redis_is_full() {
    let mut redis = Redis::lasting(&["--maxmemory-policy", "noeviction"]);
    let plan = Plan::new(3_500, 2 * SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        redis.ask(&["CONFIG", "SET", "maxmemory", "1mb"]);
        thread::sleep(plan.fault);
        redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    verdict
        .expect_whole()
        .expect_connected()
        .expect_told_degraded();
}

/// FAULTS D11: the second one ends, by one line of the log, and the first goes on.
#[test]
fn a_second_instance_takes_an_id_that_is_taken() {
    let mut redis = Redis::lasting(&[]);
    let plan = Plan::new(10_000, SECOND);
    let verdict = check(&mut redis, &plan, |redis, _| {
        let dir = tempfile::TempDir::new().unwrap();
        let address = redis.address();
        let output = command(dir.path(), "b", &address, &[]).output().unwrap();
        assert!(!output.status.success());
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines = log.lines().filter(|line| line.contains("INSTANCE_ID"));
        assert_eq!(lines.count(), 1, "{log}");
    });
    verdict.expect_whole().expect_connected();
}

/// A Redis, and its replica behind a proxy that keeps what is on its way.
fn with_replica() -> (Redis, Proxy, Redis) {
    let redis = Redis::lasting(&["--repl-diskless-sync-delay", "0"]);
    let proxy = Proxy::to(redis.port);
    let replica = replica_of(proxy.port);
    (redis, proxy, replica)
}

/// A replica that follows whoever is behind that port.
fn replica_of(port: u16) -> Redis {
    let replica = Redis::start(&["--replicaof", &format!("127.0.0.1 {port}")]);
    eventually("the replica to follow", || {
        let info = replica.ask(&["INFO", "replication"]);
        let follows = info.as_str()?.contains("master_link_status:up");
        follows.then_some(())
    });
    replica
}

/// The primary is killed, and the replica takes its place with what it has.
fn check_replica(is_late: bool, flags: &[&str]) -> Verdict {
    let (mut redis, way, replica) = with_replica();
    let plan = Plan::new(3_000, SECOND);
    let (proxies, servers) = behind_proxies_with(&redis, flags);
    let mut next = None;
    check_over(&mut redis, &servers, &plan, |redis, _| {
        if is_late {
            way.pause();
            thread::sleep(SECOND);
        }
        redis.kill();
        way.cut();
        replica.ask(&["REPLICAOF", "NO", "ONE"]);
        proxies.iter().for_each(|proxy| proxy.switch(replica.port));
        // Who acks only what a replica has needs one again.
        next = (!flags.is_empty()).then(|| replica_of(replica.port));
    })
}

/// FAULTS D13: what was on its way to the replica, if anything, is told; nothing doubled.
#[test]
fn a_replica_takes_over() {
    // What was on its way to it, if anything was, is told.
    check_replica(false, &[]).expect_honest().expect_connected();
}

/// FAULTS D13: it misses a second, which a new epoch tells.
#[test]
fn a_replica_takes_over_that_misses_a_second() {
    let verdict = check_replica(true, &[]);
    verdict.expect_honest().expect_connected();
    verdict.expect_told_epoch();
}

/// What members have seen may be lost, and is told; what was acked is not.
///
/// FAULTS D13: with --ack-replicas 1 nothing acked is lost.
#[test]
fn what_a_replica_had_to_have_outlives_the_primary() {
    for is_late in [false, true] {
        let verdict = check_replica(is_late, &["--ack-replicas", "1"]);
        verdict.expect_honest().expect_connected();
        assert_eq!(verdict.count("lost_told"), 0, "{verdict:?}");
    }
}

/// Too few replicas are a Redis that is away: nothing is acked, and all is later.
///
/// FAULTS D13: with --ack-replicas 1 and none there nothing is acked, and all is later.
#[test]
fn no_replica_is_there_for_a_while() {
    let (mut redis, way, _replica) = with_replica();
    let plan = Plan::new(4_500, 3 * SECOND);
    let servers = start_all(3, &redis, &["--ack-replicas", "1"]);
    let verdict = check_over(&mut redis, &servers, &plan, |_, _| {
        way.pause();
        thread::sleep(plan.fault);
        way.go_on();
    });
    verdict
        .expect_whole()
        .expect_connected()
        .expect_told_degraded();
}

/// A network that loses one packet of twenty, both ways.
///
/// FAULTS D8: one of twenty, both ways, in a network of its own.
#[test]
fn packets_are_lost() {
    if !all() {
        // Retransmissions take their time.
        return;
    }
    let Some(network) = Namespace::make() else {
        return;
    };
    network.within(|| {
        ip("link set lo up");
        let mut redis = Redis::lasting(&[]);
        let plan = Plan::new(3_000, 2 * SECOND);
        let servers = start_all(3, &redis, &[]);
        let port = redis.port.to_string();
        let rules = |what: &str| {
            for side in ["--dport", "--sport"] {
                let of_redis = [what, "INPUT", "-i", "lo", "-p", "tcp", side, &port];
                let lossy = [
                    "-m",
                    "statistic",
                    "--mode",
                    "random",
                    "--probability",
                    "0.05",
                ];
                let mut command = Command::new("iptables");
                command.args(of_redis).args(lossy).args(["-j", "DROP"]);
                if !command.status().is_ok_and(|status| status.success()) {
                    return false;
                }
            }
            true
        };
        if !rules("-A") {
            skip("this needs iptables with its match `statistic`");
            return;
        }
        let verdict = check_over(&mut redis, &servers, &plan, |_, _| {
            thread::sleep(plan.fault);
            assert!(rules("-D"));
        });
        verdict.expect_whole().expect_connected();
    });
}
