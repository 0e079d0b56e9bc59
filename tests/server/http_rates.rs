//! What comes by HTTP and the limits of its client: publishes, streams of events, and requests
//! without a right.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::support::{
    Answer, Client, Server, connect, connect_from, eventually, post, read_to_end, upgrade_head,
};
use super::tokens::Issuer;

/// One request on a connection of its own.
fn ask_from(from: [u8; 4], server: &Server, request: &str) -> Answer {
    let mut socket = connect_from(from, server.port);
    socket.write_all(request.as_bytes()).unwrap();
    Answer::read(&mut socket)
}

/// It says who is to wait, and for how long.
fn is_limited(answer: &Answer) -> bool {
    if answer.status != 429 {
        return false;
    }
    assert_eq!(answer.header("retry-after").unwrap(), "1", "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], "rate_limited", "{answer:?}");
    true
}

/// What an address may send in a second: so little that any machine sends more.
const RATE: u32 = 4;

fn at_rate() -> [String; 2] {
    ["--rate-limit-address".into(), RATE.to_string()]
}

/// What an address gets through at most: a burst, what the shards do not know of each other, and
/// what time has brought.
fn most(began: Instant) -> f64 {
    let rate = f64::from(RATE);
    2.0 * rate + 3.0 + rate * began.elapsed().as_secs_f64()
}

/// Asks until it is limited, each time on a connection of its own: how many were answered with
/// `status`, which are a burst and no more.
fn spend(from: [u8; 4], server: &Server, request: &str, status: u16) -> u32 {
    let (began, mut taken) = (Instant::now(), 0);
    loop {
        let answer = ask_from(from, server, request);
        if is_limited(&answer) {
            break;
        }
        assert_eq!(answer.status, status, "{answer:?}");
        taken += 1;
    }
    let most = most(began);
    assert!(
        taken >= 2 * RATE && f64::from(taken) <= most,
        "{request}: {taken} of {most}"
    );
    taken
}

#[test]
fn publishes_count_for_their_address_whatever_connection_they_come_by() {
    let server = Server::start(&at_rate().each_ref().map(String::as_str));
    // Their homes are on both shards.
    for last in 2..6 {
        let from = [127, 0, 0, last];
        let room = format!("r{last}");
        let taken = spend(from, &server, &post(&room, "{\"payload\":1}"), 200);
        let began = Instant::now();
        // What was refused is not there.
        assert_eq!(Client::new(&server).join(&room)["offset"], taken);
        // It is the same bucket that a WebSocket's messages are taken from.
        let mut client = Client::over(connect_from(from, server.port), "/ws");
        // So few that what is refused is no reason to close.
        for n in 0..12 {
            client.send(&json!({"type":"ping","ref":n}));
        }
        let answers = (0..12).map(|_| client.recv());
        let taken = answers.filter(|answer| answer["type"] == "pong").count();
        let most = 3.0 + f64::from(RATE) * began.elapsed().as_secs_f64();
        assert!(taken as f64 <= most, "{taken} of {most}");
    }
    let other = ask_from([127, 0, 0, 9], &server, &post("a", "{\"payload\":1}"));
    assert_eq!(other.status, 200);
    server.await_metric_at_least("rate_limited_total{\"address\"", 4);
    server.await_metric_at_least("errors_total{\"rate_limited\"", 4);
    assert!(server.log().contains("--rate-limit-address"));
}

/// Reading costs queries: it counts as writing does, by whatever connection it comes.
#[test]
fn what_is_read_counts_for_its_address() {
    let server = Server::start(&at_rate().each_ref().map(String::as_str));
    let ask = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let reads = [
        ask("GET", "/api/rooms/a/messages?limit=1000"),
        ask("HEAD", "/api/rooms/a/messages"),
        ask("GET", "/api/rooms/a/members"),
        ask("GET", "/api/rooms?prefix=a"),
        ask("DELETE", "/api/users/u/connections"),
    ];
    for (last, request) in (2..).zip(&reads) {
        let from = [127, 0, 0, last];
        if request.starts_with("HEAD") {
            // Its answer has no body: it is refused as the others are.
            eventually("it to be over its limit", || {
                let mut socket = connect_from(from, server.port);
                socket.write_all(request.as_bytes()).unwrap();
                (Answer::read_head(&mut socket).status == 429).then_some(())
            });
            continue;
        }
        spend(from, &server, request, 200);
        for page in ["/", "/health", "/ready", "/metrics"] {
            let answer = ask_from(from, &server, &ask("GET", page));
            assert_eq!(answer.status, 200, "{page}");
        }
    }
    // Through one connection its own limit holds as well, and ends it.
    let server = Server::start(&["--rate-limit", "2"]);
    let mut socket = connect(server.port);
    let (began, mut taken, mut limited) = (Instant::now(), 0, 0);
    loop {
        socket.write_all(reads[2].as_bytes()).unwrap();
        let answer = Answer::read(&mut socket);
        match is_limited(&answer) {
            true => limited += 1,
            false => taken += 1,
        }
        if answer.is_last() {
            break;
        }
    }
    let most = 4.0 + 2.0 * began.elapsed().as_secs_f64();
    assert!(taken >= 4 && f64::from(taken) <= most, "{taken} of {most}");
    assert!(limited >= 8, "{limited}");
    server.await_metric("rate_limited_closes_total", 1);
}

/// Each comes by a connection of its own, so that no connection's limit would hold them.
#[test]
fn the_bytes_of_publishes_count_for_their_address() {
    let limits = ["--rate-limit", "1000", "--rate-limit-bytes", "64KiB"];
    let server = Server::start(&[&limits[..], &["--rate-limit-address", "1000"]].concat());
    let long = json!({"payload": "x".repeat(16_000)}).to_string();
    let began = Instant::now();
    let request = post("a", &long);
    let answers = (0..30).map(|_| ask_from([127, 0, 0, 2], &server, &request));
    let taken = answers.filter(|answer| !is_limited(answer)).count();
    // Of a burst of 128 KiB, and an eighth of it.
    let most = 9.0 + 4.1 * began.elapsed().as_secs_f64();
    assert!(taken >= 8 && taken as f64 <= most, "{taken} of {most}");
    // What is more than a burst passes if nothing else did: this one takes 8 s to work off.
    let limits = ["--rate-limit", "1000", "--rate-limit-bytes", "2KiB"];
    let one = ["--shards", "1", "--rate-limit-address", "1000"];
    let server = Server::start(&[&limits[..], &one].concat());
    let first = ask_from([127, 0, 0, 2], &server, &request);
    assert_eq!(first.status, 200, "{first:?}");
    assert!(is_limited(&ask_from([127, 0, 0, 2], &server, &request)));
}

#[test]
fn a_connections_own_limits_hold_for_what_it_publishes() {
    let server = Server::start(&["--rate-limit", "2"]);
    let mut socket = connect(server.port);
    let request = post("a", "{\"payload\":1}");
    let (mut taken, mut limited) = (0, 0);
    let began = Instant::now();
    let last = loop {
        socket.write_all(request.as_bytes()).unwrap();
        let answer = Answer::read(&mut socket);
        match is_limited(&answer) {
            true => limited += 1,
            false => taken += 1,
        }
        if answer.is_last() {
            break answer;
        }
    };
    let most = 4.0 + 2.0 * began.elapsed().as_secs_f64();
    assert!(taken >= 4 && f64::from(taken) <= most, "{taken} of {most}");
    // Four seconds' worth were refused: it is told, and that is the end.
    assert!(limited >= 8 && is_limited(&last), "{limited}: {last:?}");
    server.await_metric("rate_limited_closes_total", 1);
    server.await_metric("rate_limited_total{\"messages\"", limited);
}

/// A proxy's connection is everybody's: each client is limited for itself.
#[test]
fn through_a_proxy_each_request_counts_for_its_client() {
    let rate = at_rate();
    let flags = [
        "--store",
        "memory",
        "--rate-limit",
        &rate[1],
        &rate[0],
        &rate[1],
    ];
    let proxy = [
        "--trusted-proxies",
        "127.0.0.9",
        "--api-key",
        "a-key-of-the-tests",
    ];
    let server = Server::start(&[&flags[..], &proxy].concat());
    let proxy = || connect_from([127, 0, 0, 9], server.port);
    let ask = |socket: &mut TcpStream, client: &str| {
        let lines = format!(
            "Host: a\r\nX-Forwarded-For: {client}\r\nAuthorization: Bearer a-key-of-the-tests"
        );
        let request = post("a", "{\"payload\":1}").replace("Host: a", &lines);
        socket.write_all(request.as_bytes()).unwrap();
        Answer::read(socket)
    };
    let mut socket = proxy();
    for n in 0..60 {
        let answer = ask(&mut socket, &format!("192.0.2.{n}"));
        assert_eq!(answer.status, 200, "{n}: {answer:?}");
    }
    // Its key is not looked at any more, so that its body is not read: that ends a connection.
    let began = Instant::now();
    let mut taken = 0;
    while !is_limited(&ask(&mut proxy(), "192.0.2.1")) {
        taken += 1;
    }
    let most = most(began);
    assert!(
        taken + 1 >= 2 * RATE && f64::from(taken) <= most,
        "{taken} of {most}"
    );
    assert_eq!(ask(&mut socket, "192.0.2.77").status, 200);
}

fn events_head(room: &str) -> String {
    format!("GET /api/rooms/{room}/events HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A stream of events, or the answer that there is none.
fn follow(from: [u8; 4], server: &Server) -> Result<TcpStream, Answer> {
    let mut socket = connect_from(from, server.port);
    socket.write_all(events_head("a").as_bytes()).unwrap();
    let mut answer = Answer::read_head(&mut socket);
    if answer.status == 200 {
        return Ok(socket);
    }
    answer.body = String::from_utf8(read_to_end(&mut socket)).unwrap();
    Err(answer)
}

#[test]
fn streams_count_as_connections_of_their_address() {
    let server = Server::start(&["--max-connections-per-address", "3"]);
    for last in 2..8 {
        let from = [127, 0, 0, last];
        let mut streams: Vec<_> = (0..2).map(|_| follow(from, &server).unwrap()).collect();
        let _client = Client::over(connect_from(from, server.port), "/ws");
        assert!(is_limited(&follow(from, &server).unwrap_err()));
        assert!(is_limited(&ask_from(from, &server, &upgrade_head("/ws"))));
        // Requests are no connections, nor is one that only asks what a stream would be.
        let head = events_head("a").replace("GET", "HEAD");
        assert_eq!(ask_from(from, &server, &head).status, 200);
        // A place that one leaves is the next one's, of whatever kind.
        streams.pop();
        let socket = eventually("a place for a WebSocket", || {
            let mut socket = connect_from(from, server.port);
            socket.write_all(upgrade_head("/ws").as_bytes()).unwrap();
            let answer = Answer::read_head(&mut socket);
            (answer.status == 101).then_some(socket)
        });
        assert!(is_limited(&follow(from, &server).unwrap_err()));
        drop(socket);
        streams.push(eventually("a place for a stream", || {
            follow(from, &server).ok()
        }));
    }
    server.await_metric_at_least("rate_limited_total{\"connections\"", 6 * 3);
}

/// However streams come and go, their places are given back.
#[test]
fn places_of_streams_are_given_back() {
    let server = Server::start(&["--max-connections-per-address", "20"]);
    let from = [127, 0, 0, 2];
    super::churn::in_turns(0..300, |n| {
        let mut socket = connect_from(from, server.port);
        // A room that nobody else may read is refused, behind the door.
        let room = if n % 3 == 0 { "%40u" } else { "a" };
        socket.write_all(events_head(room).as_bytes()).unwrap();
        if n % 3 > 0 && n % 5 > 0 {
            assert!(matches!(Answer::read_head(&mut socket).status, 200 | 429));
        }
        if n % 2 > 0 {
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        }
    });
    server.await_metric("connections", 1);
    let mut streams = Vec::new();
    eventually("twenty places", || {
        streams.extend(follow(from, &server).ok());
        (streams.len() == 20).then_some(())
    });
    assert!(is_limited(&follow(from, &server).unwrap_err()));
    server.await_metric("members", 20);
}

/// Beginning a stream is a message, as a join is.
#[test]
fn streams_are_begun_within_the_rate_of_their_address() {
    let server = Server::start(&at_rate().each_ref().map(String::as_str));
    let (from, began) = ([127, 0, 0, 2], Instant::now());
    let mut streams = 0;
    while let Ok(_stream) = follow(from, &server) {
        streams += 1;
    }
    let most = most(began);
    assert!(
        streams >= 2 * RATE && f64::from(streams) <= most,
        "{streams} of {most}"
    );
}

/// FAULTS H1, H4: who tries tokens, keys or rooms is bounded as who sends messages is, and then not
/// even a good token is looked at, which others' are.
#[test]
fn guessing_has_a_bound() {
    const SECRET: &str = "a secret of the tests, thirty-two bytes long";
    let flags = ["--store", "memory", "--jwt-secret", SECRET];
    let rate = at_rate();
    let more = ["--api-key", "a-key-of-the-tests", &rate[0], &rate[1]];
    let server = Server::start(&[&flags[..], &more].concat());
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({"sub": "ann", "exp": since.as_secs() + 600, "join": ["a"]});
    let good = Issuer::secret(SECRET).token(&claims);
    let bad = Issuer::secret("another").token(&claims);
    let members = |room: &str, token: &str| {
        let lines = format!("Host: a\r\nAuthorization: Bearer {token}\r\n");
        format!("GET /api/rooms/{room}/members HTTP/1.1\r\n{lines}\r\n")
    };
    let kick = members("a", "no such key")
        .replace("GET", "DELETE")
        .replace("rooms/a/members", "users/u/connections");
    let tries = [
        (members("a", &bad), 401),
        (members("b", &good), 403),
        (upgrade_head(&format!("/ws?token={bad}")), 401),
        (upgrade_head("/ws"), 401),
        (kick, 401),
    ];
    for (last, (request, status)) in (2..).zip(tries) {
        let from = [127, 0, 0, last];
        spend(from, &server, &request, status);
        // Until time has brought one more.
        eventually("the good token not to be looked at", || {
            ask_from(from, &server, &request);
            is_limited(&ask_from(from, &server, &members("a", &good))).then_some(())
        });
        let other = ask_from([127, 0, 0, 90 + last], &server, &members("a", &good));
        assert_eq!(other.status, 200);
        // Pages and health are nobody's secret.
        let health = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(ask_from(from, &server, health).status, 200);
        eventually("the good token to be looked at", || {
            let answer = ask_from(from, &server, &members("a", &good));
            (answer.status == 200).then_some(())
        });
    }
}
