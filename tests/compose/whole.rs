//! The cluster: what it does, how it is confined, what it survives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{Cluster, Container, SERVERS, client, get, within};
use super::engine::{Engine, IMAGE, docker, root};
use super::instances::{Ledger, Plan};
use super::support::Server;

/// Whatever was killed serves again within this.
const BACK: Duration = Duration::from_secs(10);
/// From the start of a server's container to its `/ready`.
const READY: Duration = Duration::from_secs(1);
/// Bytes that the image has beyond its base.
const IMAGE_BYTES_MAX: u64 = 40_000_000;
const URING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

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
}

/// The other file, with more servers than three; and a profile that has no io_uring.
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
    cluster.up(&["--scale", "server=4"]);

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
    is_confined(&cluster);
    let mut ways: Vec<_> = servers.iter().map(Container::address).collect();
    ways.push(cluster.entry());
    all_see_all(&ways);
    is_killed(&cluster, &ways, &servers[2]);
    is_killed(&cluster, &ways, &cluster.container("redis"));
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
}
