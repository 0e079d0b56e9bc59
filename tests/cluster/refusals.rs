//! A Redis that is there and refuses: the log says why within seconds, `/health` shows it, and all
//! is well again soon after the cause has ended.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::instances::{acked, await_degraded, await_up, begin, begin_publish, pair, start};
use super::namespace::{Namespace, ip};
use super::redis::Redis;
use super::support::{Client, Server, eventually};

/// How soon the log names the cause, and how soon all is well after it has ended (FAULTS D12).
const SAID: Duration = Duration::from_secs(5);
const HEALED: Duration = Duration::from_secs(10);

/// Waits until the log has all of `words` in one line.
fn await_log(server: &Server, words: &[&str]) {
    let began = Instant::now();
    eventually(&format!("{words:?} in the log"), || {
        let log = server.log();
        let mut lines = log.lines();
        lines
            .any(|line| words.iter().all(|word| line.contains(word)))
            .then_some(())
    });
    assert!(began.elapsed() < SAID, "said after {:?}", began.elapsed());
}

fn await_healed(server: &Server) {
    let began = Instant::now();
    await_up(server);
    assert!(
        began.elapsed() < HEALED,
        "healed after {:?}",
        began.elapsed()
    );
}

/// A publish that Redis refuses to store is held, and stored when it no longer does.
fn check_held(server: &Server, words: &[&str], heal: impl FnOnce()) {
    let mut client = Client::new(server);
    begin_publish(&mut client, "r", json!("held"), "held");
    await_degraded(server);
    await_log(server, words);
    assert_eq!(server.get("/ready").status, 200);
    heal();
    await_healed(server);
    let offset = acked(&mut client, "held");
    assert_eq!(client.publish("r", json!("after")), offset + 1);
}

/// FAULTS D12: a wrong password; it is not in the log.
#[test]
fn a_wrong_password() {
    let redis = Redis::start(&["--requirepass", "right"]);
    let address = format!("redis://:wrong-4711@{}", redis.address());
    let server = begin("a", &address, &[]);
    await_degraded(&server);
    await_log(&server, &["password"]);
    let set = ["AUTH", "right"];
    assert_eq!(
        redis.ask_with(&set, &["CONFIG", "SET", "requirepass", "wrong-4711"]),
        "OK"
    );
    await_healed(&server);
    assert!(!server.log().contains("wrong-4711"), "no secret in the log");
}

/// FAULTS D12: no password.
#[test]
fn no_password_where_one_is_wanted() {
    let redis = Redis::start(&["--requirepass", "right"]);
    let server = begin("a", &redis.address(), &[]);
    await_degraded(&server);
    await_log(&server, &["password"]);
    assert_eq!(
        redis.ask_with(&["AUTH", "right"], &["CONFIG", "SET", "requirepass", ""]),
        "OK"
    );
    await_healed(&server);
}

/// FAULTS D12: no right to XADD: said once, ready, held, and stored afterwards.
#[test]
fn a_user_without_the_right_to_write() {
    let redis = Redis::start(&[]);
    redis.ask(&[
        "ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all", "-xadd",
    ]);
    let address = format!("redis://app:word@{}", redis.address());
    let server = begin("a", &address, &[]);
    await_up(&server);
    check_held(&server, &["ACL SETUSER"], || {
        // It stays degraded, though the lease may be written.
        let mut client = Client::new(&server);
        assert_eq!(client.next("degraded")["degraded"], true);
        let pause = Duration::from_secs(4);
        std::thread::sleep(pause);
        assert_eq!(client.settle(), Vec::<Value>::new(), "no second word of it");
        redis.ask(&["ACL", "SETUSER", "app", "+xadd"]);
    });
}

/// FAULTS D12: no right at all.
#[test]
fn a_user_without_any_right() {
    let redis = Redis::start(&[]);
    redis.ask(&["ACL", "SETUSER", "app", "on", ">word"]);
    let address = format!("redis://app:word@{}", redis.address());
    let server = begin("a", &address, &[]);
    await_degraded(&server);
    await_log(&server, &["NOPERM"]);
    redis.ask(&["ACL", "SETUSER", "app", "~*", "&*", "+@all"]);
    await_healed(&server);
}

/// Since Redis 7 a new user may use no channel unless it is said.
///
/// FAULTS D12: no right to the channels, from the start and later: said, held, stored afterwards.
#[test]
fn a_user_without_the_right_to_the_channels() {
    let redis = Redis::start(&[]);
    let user = ["ACL", "SETUSER", "app", "on", ">word", "~*", "+@all"];
    redis.ask(&[&user[..], &["resetchannels"]].concat());
    let address = format!("redis://app:word@{}", redis.address());
    let server = begin("a", &address, &[]);
    await_degraded(&server);
    await_log(&server, &["NOPERM", "channel"]);
    assert_eq!(server.get("/ready").status, 200);
    redis.ask(&["ACL", "SETUSER", "app", "&*"]);
    await_healed(&server);
    redis.ask(&["ACL", "SETUSER", "app", "resetchannels"]);
    check_held(&server, &["NOPERM", "channel"], || {
        redis.ask(&["ACL", "SETUSER", "app", "&*"]);
    });
}

/// FAULTS D12: a replica: said once.
#[test]
fn a_replica_from_the_start() {
    let redis = Redis::start(&[]);
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let server = begin("a", &redis.address(), &[]);
    await_degraded(&server);
    await_log(&server, &["replica"]);
    eventually("a fourth connection", || {
        (server.metric("redis_connects_total") >= 4).then_some(())
    });
    let log = server.log();
    let told = log.lines().filter(|line| line.contains("name the primary"));
    assert_eq!(told.count(), 1, "{log}");
    redis.ask(&["REPLICAOF", "NO", "ONE"]);
    await_healed(&server);
}

/// FAULTS D12: a primary that becomes one.
#[test]
fn a_primary_that_becomes_a_replica() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut elsewhere = Client::member(&b, "r");
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    check_held(&a, &["replica"], || {
        redis.ask(&["REPLICAOF", "NO", "ONE"]);
    });
    elsewhere.messages("r", 1, 2);
}

/// FAULTS D12: MISCONF, by a snapshot that fails and not by a full disk.
#[test]
fn a_disk_that_takes_nothing() {
    let redis = Redis::start(&["--save", "3600 1"]);
    let server = start("a", &redis, &[]);
    // What is to be replaced by the snapshot can't be.
    let place = redis.path("dump.rdb");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("file"), "").unwrap();
    redis.ask(&["SET", "k", "v"]);
    redis.ask(&["BGSAVE"]);
    eventually("the snapshot to fail", || {
        let info = redis.ask(&["INFO", "persistence"]);
        let info = info.as_str()?;
        info.contains("rdb_last_bgsave_status:err").then_some(())
    });
    check_held(&server, &["MISCONF"], || {
        std::fs::remove_dir_all(&place).unwrap();
        redis.ask(&["SAVE"]);
    });
}

/// FAULTS D12: no memory.
#[test]
fn no_memory() {
    let redis = Redis::start(&[]);
    let server = start("a", &redis, &[]);
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    check_held(&server, &["maxmemory"], || {
        redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    });
}

#[test]
fn memory_that_throws_away_is_warned_of() {
    let redis = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    let server = start("a", &redis, &[]);
    await_log(&server, &["maxmemory-policy", "noeviction"]);
}

/// Redis answers, but with LOADING, for longer than anything is retried at once.
///
/// FAULTS D12: LOADING for seconds.
#[test]
fn a_redis_that_loads_for_long() {
    let mut redis = Redis::lasting(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut member = Client::member(&b, "r");
    let mut client = Client::new(&a);
    client.publish_all("r", 0..500, |n| json!(n));
    // Half of what is behind the base file, so that it takes seconds: 500 calls at the most.
    redis.push_flags(&["--key-load-delay", "5000"]);
    redis.kill();
    redis.begin();
    await_degraded(&a);
    begin_publish(&mut client, "r", json!("held"), "held");
    eventually("the end of loading", || {
        let answer = redis.try_ask(&["PING"])?;
        (answer == "PONG").then_some(())
    });
    await_healed(&a);
    await_healed(&b);
    assert_eq!(acked(&mut client, "held"), 501);
    member.messages("r", 1, 501);
}

/// It has no password and speaks to its own machine only, by loopback.
///
/// FAULTS D12: protected mode, seen from another address.
#[test]
fn a_redis_in_protected_mode() {
    let Some(network) = Namespace::make() else {
        return;
    };
    network.within(|| {
        ip("link set lo up");
        ip("link add outside type veth peer name beyond");
        ip("addr add 10.0.0.1/24 dev outside");
        ip("link set outside up");
        let redis = Redis::start(&["--protected-mode", "yes"]);
        let server = begin("a", &format!("10.0.0.1:{}", redis.port), &[]);
        await_degraded(&server);
        await_log(&server, &["protected mode"]);
        assert_eq!(server.get("/ready").status, 200);
        redis.ask(&["CONFIG", "SET", "protected-mode", "no"]);
        await_healed(&server);
    });
}

/// FAULTS D12: NOREPLICAS.
#[test]
fn too_few_replicas_to_write() {
    let redis = Redis::start(&[]);
    let server = start("a", &redis, &[]);
    redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    check_held(&server, &["min-replicas-to-write"], || {
        redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    });
}

/// FAULTS D12: no more clients.
#[test]
fn as_many_clients_as_redis_takes() {
    let redis = Redis::start(&[]);
    // Who sets it is the one that is taken.
    let mut line = redis.line();
    assert_eq!(line.ask(&["CONFIG", "SET", "maxclients", "1"]), "OK");
    let server = begin("a", &redis.address(), &[]);
    await_degraded(&server);
    await_log(&server, &["maxclients"]);
    assert_eq!(line.ask(&["CONFIG", "SET", "maxclients", "100"]), "OK");
    await_healed(&server);
}
