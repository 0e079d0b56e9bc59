//! Instances that are not there: nobody waits for them, and who comes is found.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::dns::Dns;
use super::front::{Balance, Nginx};
use super::redis::free_port;
use super::support::{Client, Server, eventually};

/// An instance of its own, with that name.
fn instance(id: &str, flags: &[&str]) -> Server {
    Server::start(&[&["--store", "memory", "--instance-id", id], flags].concat())
}

/// Which instances have the connections that come from several networks.
fn instances_met(nginx: &Nginx) -> BTreeSet<String> {
    let clients = (1..=12).map(|n| Client::over(nginx.connect_from([127, 0, n, 1]), "/ws"));
    let id = |client: Client| client.welcome["instance_id"].as_str().unwrap().to_owned();
    clients.map(id).collect()
}

#[test]
fn one_that_was_never_there_is_passed_over() {
    let (a, b) = (instance("a", &[]), instance("b", &[]));
    for balance in [Balance::IpHash, Balance::LeastConn] {
        let nginx = Nginx::before(&[a.port, free_port(), b.port], balance);
        assert_eq!(instances_met(&nginx), ["a", "b"].map(String::from).into());
        let log = nginx.file("access.log");
        let upgrades = log.lines().filter(|line| line.contains("\"GET /ws\" 101"));
        // One more may be under way at the time of each look.
        eventually("the lines", || {
            (upgrades.clone().count() >= 11).then_some(())
        });
    }
}

/// FAULTS F4: new connections do not wait for one that takes none.
#[test]
fn one_that_takes_no_connection_is_given_up_at_once() {
    // Its queue is full: what comes is not answered, as by a machine that is gone.
    let hole = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    rustix::net::listen(&hole, 0).unwrap();
    let port = hole.local_addr().unwrap().port();
    let _full = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let a = instance("a", &[]);
    let nginx = Nginx::before(&[port, a.port, port], Balance::IpHash);
    assert_eq!(instances_met(&nginx), ["a".to_owned()].into());
    // The tests' patience is shorter than what nginx has for a connect by itself.
    let gave_up = |log: &str| log.contains(" 504, 101") || log.contains(" 504, 504, 101");
    eventually("a line of who was given up", || {
        gave_up(&nginx.file("access.log")).then_some(())
    });
}

#[test]
fn one_that_is_full_or_drains_is_passed_over() {
    let (full, free) = (
        instance("full", &["--max-connections", "1"]),
        instance("free", &[]),
    );
    let _place = Client::new(&full);
    let nginx = Nginx::before(&[full.port, free.port], Balance::LeastConn);
    assert_eq!(instances_met(&nginx), ["free".to_owned()].into());
    assert!(nginx.file("access.log").contains(" 503, 101"));
}

#[test]
fn without_any_it_says_so_and_when_to_come_back() {
    let nginx = Nginx::before(&[free_port(), free_port()], Balance::IpHash);
    for _ in 0..5 {
        let answer = nginx.get("/health?token=hidden");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.head.contains("\r\nretry-after: 1"), "{answer:?}");
        assert!(answer.head.contains("\r\ncontent-type: application/json"));
        assert_eq!(answer.json()["error"]["code"], "unavailable");
    }
    assert!(!nginx.file("error.log").contains("hidden"));
    assert!(!nginx.file("access.log").contains("hidden"));
}

#[test]
fn instances_come_and_go_by_their_name() {
    let addresses = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let first = instance("2", &["--bind", "127.0.0.2"]);
    let port = first.port.to_string();
    let on = |bind: &str, id: &str| instance(id, &["--bind", bind, "--port", &port]);
    let second = on("127.0.0.3", "3");
    let dns = Dns::start(&addresses[..2]);
    let nginx = Nginx::by_dns(dns.address, &format!("server:{port}"));
    let meets = |ids: &[&str]| {
        let ids: BTreeSet<_> = ids.iter().map(|&id| id.to_owned()).collect();
        eventually("these instances to be met", || {
            (instances_met(&nginx) == ids).then_some(())
        });
    };
    meets(&["2", "3"]);
    // One more.
    let _third = on("127.0.0.4", "4");
    dns.set(&addresses);
    meets(&["2", "3", "4"]);
    // One is gone before its address is: each connection still finds another.
    drop(second);
    meets(&["2", "4"]);
    dns.set(&[addresses[2]]);
    meets(&["4"]);
    dns.set(&addresses[..1]);
    meets(&["2"]);
}
