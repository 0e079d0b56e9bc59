//! The cluster: what it does, how it is confined, what it survives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{Cluster, Container, GROUP, SERVERS, STREAM, client, get, within};
use super::engine::{Engine, IMAGE, docker, output, root};
use super::instances::{Ledger, Plan};
use super::support::Server;

/// Whatever was killed serves again within this.
const BACK: Duration = Duration::from_secs(10);
/// What is acked is in PostgreSQL after this, whatever was killed: more than BATCH_TIMEOUT.
const STORED: Duration = Duration::from_secs(30);
/// From the start of a server's container to its `/ready`.
const READY: Duration = Duration::from_secs(1);
/// Bytes that the image has beyond its base.
const IMAGE_BYTES_MAX: u64 = 40_000_000;
const URING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

/// FAULTS F12, H8: all are healthy; each service is killed in turn under load, is back within 10 s,
/// and nothing acked is lost; who runs there, and what it may do.
#[test]
fn what_one_command_starts() {
    let Some(engine) = Engine::find() else { return };
    let cluster = Cluster::new(&engine, &["docker-compose.yml"], &[]);
    cluster.up(&[]);
    let servers = SERVERS.map(|name| cluster.container(name));

    let own = Server::start(&[]).get("/health").json()["driver"].take();
    for (server, name) in servers.iter().zip(SERVERS) {
        let health = get(server.published(), "/health").json();
        assert_eq!(health["instance_id"], name);
        assert_eq!(health["driver"], own, "as without a container");
        assert_eq!(health["redis"], "up");
    }
    is_confined(&cluster);
    is_small();
    let mut ways = vec![cluster.entry()];
    ways.extend(servers.iter().map(Container::published));
    all_see_all(&ways);
    ends_and_begins(&servers[0]);
    for container in cluster.all() {
        is_killed(&cluster, &ways, &container);
    }
    history_is_in_postgres(&cluster, &servers[0], ways.len() as u64);
    serves_without_postgres(&cluster, &servers[0], &ways);
}

/// The other file, with more servers than three; and a profile that has no io_uring.
///
/// FAULTS F12, G1: 4 servers and 3 workers, where io_uring is refused; some are killed.
#[test]
fn any_number_of_servers_without_io_uring() {
    let Some(engine) = Engine::find() else { return };
    let text = std::fs::read_to_string(root().join("seccomp.json")).unwrap();
    let mut profile: Value = serde_json::from_str(&text).unwrap();
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        let names = rule["names"].as_array_mut().unwrap();
        names.retain(|name| !URING.iter().any(|denied| name == denied));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no-io-uring.json");
    std::fs::write(&path, profile.to_string()).unwrap();
    let env = [("SECCOMP_PROFILE", path.to_str().unwrap())];
    let cluster = Cluster::new(&engine, &["docker-compose.scale.yml"], &env);
    cluster.up(&["--scale", "server=4", "--scale", "worker=3"]);

    let servers = cluster.containers("server");
    assert_eq!(servers.len(), 4);
    let mut ids = vec![];
    for server in &servers {
        let health = get(server.address(), "/health").json();
        assert_eq!(
            (&health["driver"], &health["redis"]),
            (&json!("epoll"), &json!("up"))
        );
        ids.push(health["instance_id"].as_str().unwrap().to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
    let mut workers: Vec<_> = cluster.containers("worker").iter().map(worker_id).collect();
    workers.sort();
    workers.dedup();
    assert_eq!(workers.len(), 3, "{workers:?}");
    is_confined(&cluster);
    let mut ways: Vec<_> = servers.iter().map(Container::address).collect();
    ways.push(cluster.entry());
    all_see_all(&ways);
    is_killed(&cluster, &ways, &servers[2]);
    is_killed(&cluster, &ways, &cluster.container("redis"));
    is_killed(&cluster, &ways, &cluster.containers("worker")[0]);
    // Who is one too many goes, and leaves nothing behind.
    let scale = ["up", "-d", "--scale", "server=4", "--scale", "worker=1"];
    output(&mut cluster.compose(&scale));
    assert_eq!(cluster.containers("worker").len(), 1);
    is_killed(&cluster, &ways, &cluster.container("postgres"));
}

/// The name of a worker that stores.
fn worker_id(container: &Container) -> String {
    let mut health = get(container.worker_address(), "/health").json();
    let up = (&health["redis"], &health["postgres"], &health["status"]);
    assert_eq!(up, (&json!("up"), &json!("up"), &json!("ok")));
    health["worker_id"].take().as_str().unwrap().to_owned()
}

/// A client by each way publishes, and all of them get all of it.
fn all_see_all(ways: &[SocketAddr]) {
    let mut clients: Vec<_> = ways.iter().map(|&way| client(way)).collect();
    for client in &mut clients {
        client.join("all");
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.publish("all", json!(n));
    }
    let last = clients.len() as u64;
    let mut first = None;
    for client in &mut clients {
        let messages = client.messages("all", 1, last);
        let ids: Vec<_> = messages.iter().map(|it| it["id"].clone()).collect();
        assert_eq!(*first.get_or_insert(ids.clone()), ids);
    }
}

/// Who runs there, and what it may do.
fn is_confined(cluster: &Cluster<'_>) {
    for container in cluster.all() {
        let (name, about) = (container.service(), container.inspect());
        let host = &about["HostConfig"];
        assert_eq!(host["ReadonlyRootfs"], true, "{name}");
        assert_eq!(host["CapDrop"], json!(["ALL"]), "{name}");
        assert_eq!(host["RestartPolicy"]["Name"], "unless-stopped", "{name}");
        assert!(container.proc("mounts").lines().any(|line| {
            let words: Vec<_> = line.split(' ').collect();
            words[1] == "/" && words[3].split(',').any(|option| option == "ro")
        }));
        let status = container.proc("status");
        assert!(status.contains("NoNewPrivs:\t1"), "{name}: {status}");
        assert!(status.contains("Seccomp:\t2"), "{name}: {status}");
        let ports = about["NetworkSettings"]["Ports"].as_object().unwrap();
        let published = ports.values().any(|port| !port.is_null());
        if name.starts_with("server") || name == "worker" {
            assert!(status.contains("Uid:\t10001\t10001\t10001\t10001"));
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
            assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
        }
        if name == "redis" || name == "postgres" {
            assert!(!published, "{name}");
            let bindings = &host["PortBindings"];
            assert!(bindings.is_null() || *bindings == json!({}), "{name}");
            assert!(!status.contains("Uid:\t0\t"), "{name}: {status}");
        }
    }
}

fn is_small() {
    let size = |image: &str| -> u64 {
        let said = docker(&["image", "inspect", "--format", "{{.Size}}", image]);
        said.parse().unwrap()
    };
    let base = size("debian:bookworm-slim");
    let own = size(IMAGE) - base;
    eprintln!("the image: {own} bytes over its base of {base}");
    assert!(own < IMAGE_BYTES_MAX, "{own} bytes");
}

/// It drains when it is stopped, and is ready soon after it is started: on a machine that has other
/// work, not each time.
fn ends_and_begins(server: &Container) {
    let mut member = client(server.published());
    member.join("a");
    let began = Instant::now();
    let drained = std::thread::scope(|scope| {
        let stop = scope.spawn(|| server.stop());
        assert!(member.next("going_away")["reconnect_in_ms"].is_u64());
        assert_eq!(member.closed(), 1001);
        stop.join().unwrap();
        began.elapsed()
    });
    assert_eq!(server.inspect()["State"]["ExitCode"], 0);
    assert!(drained < BACK, "{drained:?}");
    let mut ready = server.start_until_ready();
    for _ in 0..4 {
        if ready < READY {
            break;
        }
        server.stop();
        ready = ready.min(server.start_until_ready());
    }
    eprintln!("drained in {drained:.1?}; from start to ready {ready:.0?}");
    assert!(ready < READY, "{ready:?}");
}

/// Is killed while clients talk through nginx and through each server: its restart policy brings it
/// back, and nothing that was acked is lost.
fn is_killed(cluster: &Cluster<'_>, ways: &[SocketAddr], container: &Container) {
    let name = container.service();
    let plan = Plan {
        clients: 40,
        rooms: 8,
        rate: 300,
        messages: 3_000,
        payload: 128,
        fault: BACK,
    };
    let before = cluster.stream_len();
    let rows = are_stored(cluster, before);
    let ways: Vec<_> = ways.iter().map(SocketAddr::to_string).collect();
    let messages = plan.messages.to_string();
    let mut ledger = Ledger::over(&ways, &plan, &["--messages", &messages]);
    within(BACK, "the ledger to be kept", || {
        cluster.stream_len() > before + plan.before_fault()
    });
    let started_at = container.started_at();
    let began = Instant::now();
    container.crash();
    within(BACK, &format!("{name} to be back"), || {
        container.started_at() != started_at && container.is_healthy()
    });
    let back = began.elapsed();
    assert!(ledger.is_running(), "it was killed in its midst");
    let verdict = ledger.verdict();
    let acked = verdict.count("acked");
    eprintln!("{name} killed: back after {back:.1?}, {acked} acked, none lost");
    verdict.expect_whole();
    are_stored(cluster, rows + acked);
}

/// So many messages were acked in all: so many are in PostgreSQL, each once, no offset is left out,
/// and nothing waits to be stored. Gives their number.
fn are_stored(cluster: &Cluster<'_>, acked: u64) -> u64 {
    let took = within(STORED, &format!("{acked} rows"), || {
        cluster.count("SELECT count(*) FROM messages") >= acked
    });
    eprintln!("{acked} rows, the last within {took:.1?}");
    within(STORED, "nothing to be pending", || {
        let said = cluster.redis(&["XPENDING", STREAM, GROUP]);
        said.lines().next() == Some("0")
    });
    for (sql, expected) in [
        ("SELECT count(*) FROM messages", acked),
        ("SELECT count(DISTINCT id) FROM messages", acked),
        ("SELECT sum(message_count) FROM room_stats", acked),
        (
            "SELECT count(*) FROM (SELECT FROM messages GROUP BY room_name, epoch \
             HAVING max(\"offset\") <> count(*) OR count(DISTINCT \"offset\") <> count(*)) holes",
            0,
        ),
    ] {
        assert_eq!(cluster.count(sql), expected, "{sql}");
    }
    assert_eq!(cluster.redis(&["EXISTS", "gosocket:messages:dead"]), "0");
    acked
}

/// What is neither in the memory of a server nor in the stream any more is in its history.
fn history_is_in_postgres(cluster: &Cluster<'_>, server: &Container, count: u64) {
    let (path, all) = ("/api/rooms/all/messages", (1..=count).collect::<Vec<_>>());
    assert_eq!(offsets(cluster.entry(), path), all, "through nginx");
    cluster.redis(&["XTRIM", STREAM, "MAXLEN", "1"]);
    server.stop();
    server.start_until_ready();
    assert_eq!(offsets(server.published(), path), all, "of one that is new");
}

/// The offsets of a page of history.
fn offsets(address: SocketAddr, path: &str) -> Vec<u64> {
    let mut page = Value::Null;
    within(BACK, path, || {
        let answer = get(address, path);
        let is_there = answer.status == 200;
        if is_there {
            page = answer.json();
        }
        is_there
    });
    let messages = page["messages"].as_array().unwrap().iter();
    messages.map(|it| it["offset"].as_u64().unwrap()).collect()
}

/// A server starts and serves while PostgreSQL is not to be found, says of what is only there that
/// it can't be had, and what is published meanwhile is stored when it is back.
fn serves_without_postgres(cluster: &Cluster<'_>, server: &Container, ways: &[SocketAddr]) {
    let rows = cluster.count("SELECT count(*) FROM messages");
    let (postgres, worker) = (cluster.container("postgres"), cluster.container("worker"));
    postgres.stop();
    server.stop();
    server.start_until_ready();
    let mut clients: Vec<_> = ways.iter().map(|&way| client(way)).collect();
    for client in &mut clients {
        client.join("without");
    }
    assert_eq!(clients[0].publish("without", json!("here")), 1);
    for client in &mut clients {
        client.messages("without", 1, 1);
    }
    let answer = get(server.published(), "/api/rooms/all/messages");
    assert_eq!(answer.status, 503, "{}", answer.body);
    within(BACK, "the worker to say so", || {
        get(worker.worker_address(), "/health").json()["postgres"] == "down"
    });
    assert!(worker.is_healthy(), "it waits, and needs no restart");
    postgres.start();
    within(BACK, "PostgreSQL to be back", || postgres.is_healthy());
    are_stored(cluster, rows + 1);
}
