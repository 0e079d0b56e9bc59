//! What nginx passes on, what it keeps to itself, and what an instance makes of it.

use std::io::Write;
use std::net::TcpStream;

use serde_json::json;

use super::front::{Balance, Nginx};
use super::support::{
    Answer, Client, Raw, Server, all, connect_from, eventually, frame, upgrade_head,
};
use super::tokens::Issuer;

fn alone(flags: &[&str]) -> (Server, Nginx) {
    let server = Server::start(&[&["--store", "memory"], flags].concat());
    let nginx = Nginx::before(&[server.port], Balance::IpHash);
    (server, nginx)
}

/// The status of an upgrade with these header lines in place of `Host: a`.
fn upgrade(mut socket: TcpStream, path: &str, lines: &str) -> u16 {
    let head = upgrade_head(path).replace("Host: a\r\n", lines);
    socket.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    std::io::Read::read_exact(&mut socket, &mut status).unwrap();
    std::str::from_utf8(&status[9..]).unwrap().parse().unwrap()
}

#[test]
fn messages_pass_both_ways() {
    let (_server, nginx) = alone(&[]);
    let connect = || Client::over(super::support::connect(nginx.port), "/ws");
    let (mut one, mut other) = (connect(), connect());
    one.join("r");
    other.join("r");
    let long = "x".repeat(60_000);
    for n in 1..=20 {
        assert_eq!(one.publish("r", json!({"n": n, "fill": long})), n);
    }
    assert_eq!(other.messages("r", 1, 20), one.messages("r", 1, 20));
    assert_eq!(one.close(), 1000);
}

#[test]
fn compression_passes_both_ways() {
    let (_server, nginx) = alone(&["--deflate"]);
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    let head = upgrade_head("/ws").replace("\r\n\r\n", offer);
    let (mut raw, answer) = Raw::over_with(super::support::connect(nginx.port), &head);
    let answer = answer.to_ascii_lowercase();
    assert!(
        answer.contains("\r\nsec-websocket-extensions: permessage-deflate; server_no_context"),
        "{answer}"
    );
    assert!(raw.frame().is_some(), "welcome");
    raw.send(&frame(0x81, br#"{"type":"join","room":"r"}"#));
    assert!(raw.frame().is_some(), "joined");
    // Deflated by hand: a stored block, and a sender's empty one (RFC 7692, 7.2.3.3).
    let long = "the same words ".repeat(200);
    let publish = json!({"type":"publish","room":"r","payload":long}).to_string();
    let len = (publish.len() as u16).to_le_bytes();
    let not = (!(publish.len() as u16)).to_le_bytes();
    let stored = [&[0][..], &len, &not, publish.as_bytes(), &[0]].concat();
    raw.send(&frame(0xc1, &stored));
    let (first, payload) = raw.frame_and_bits().unwrap();
    assert_eq!(first, 0xc1);
    assert!(payload.len() < long.len() / 5, "{} bytes", payload.len());
}

#[test]
fn a_page_may_connect_to_its_own_host_only() {
    let (_server, nginx) = alone(&[]);
    let port = nginx.port;
    for (origin, status) in [
        (format!("http://localhost:{port}"), 101),
        ("http://localhost".into(), 403),
        (format!("http://localhost:{}", port.wrapping_add(1)), 403),
        ("http://evil.test".into(), 403),
        ("null".into(), 403),
    ] {
        let lines = format!("Host: localhost:{port}\r\nOrigin: {origin}\r\n");
        let socket = nginx.connect_from([127, 0, 0, 1]);
        assert_eq!(upgrade(socket, "/ws", &lines), status, "{origin}");
    }
}

#[test]
fn the_client_s_address_comes_from_a_trusted_proxy_only() {
    let trusts = ["--trusted-proxies", "127.0.0.1", "--log-level", "debug"];
    let (server, nginx) = alone(&trusts);
    let forged = "Host: a\r\nX-Forwarded-For: 10.9.8.7, 127.0.0.1\r\nX-Real-IP: 10.9.8.7\r\n\
                  Forwarded: for=10.9.8.7\r\n";
    // Through nginx, beside it, and from the proxy's own address, which may say so.
    for (socket, address) in [
        (nginx.connect_from([127, 0, 3, 1]), "127.0.3.1"),
        (connect_from([127, 0, 4, 1], server.port), "127.0.4.1"),
        (connect_from([127, 0, 0, 1], server.port), "10.9.8.7"),
    ] {
        assert_eq!(upgrade(socket, "/ws", forged), 101);
        eventually("the line of the connection", || {
            let line = format!("address={address}");
            server.log().contains(&line).then_some(())
        });
    }
    assert_eq!(server.log().matches("address=10.9.8.7").count(), 1);
}

/// FAULTS H4: through nginx, too, nobody is counted as another by what it says of itself.
#[test]
fn a_forged_address_gets_round_no_limit() {
    let tries = if all() { 10_000 } else { 300 };
    let flags = [
        "--trusted-proxies",
        "127.0.0.1",
        "--max-connections-per-address",
        "1",
    ];
    let (_server, nginx) = alone(&flags);
    let mut kept = Client::over(nginx.connect_from([127, 0, 0, 2]), "/ws");
    for n in 0..tries {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + n);
        let forged = match n % 3 {
            0 => format!("Host: a\r\nX-Forwarded-For: {address}\r\n"),
            1 => format!("Host: a\r\nX-Forwarded-For: {address}, 127.0.0.1\r\n"),
            _ => format!("Host: a\r\nX-Real-IP: {address}\r\nForwarded: for={address}\r\n"),
        };
        let socket = nginx.connect_from([127, 0, 0, 2]);
        assert_eq!(upgrade(socket, "/ws", &forged), 429, "{forged}");
    }
    // Its neighbour is another.
    let mut other = Client::over(nginx.connect_from([127, 0, 0, 3]), "/ws");
    other.join("r");
    kept.join("r");
}

#[test]
fn what_is_private_stays_inside() {
    let (server, nginx) = alone(&[]);
    for request in [
        "GET /metrics",
        "HEAD /metrics",
        "GET /metrics?x=1",
        "GET /%6detrics",
        "GET //metrics",
        "GET /x/../metrics",
        "DELETE /api/users/ann/connections",
        "DELETE /api%2Fusers/ann/connections",
        "GET /api/users/ann/connections",
        "DELETE /",
    ] {
        let answer = nginx.ask(request, "");
        assert_eq!(answer.status, 403, "{request} {answer:?}");
    }
    assert_eq!(nginx.get("/health").status, 200);
    assert_eq!(server.get("/metrics").status, 200, "from inside");
}

/// A backend closes a user's connections from outside too: by its API key, which the instance looks
/// at, and by nothing else.
#[test]
fn who_has_an_api_key_kicks_through_nginx() {
    const KEY: &str = "a-key-of-the-tests";
    const SECRET: &str = "a secret of the tests, thirty-two bytes long";
    let trusts = ["--trusted-proxies", "127.0.0.1"];
    let (server, nginx) =
        alone(&[&trusts[..], &["--api-key", KEY, "--jwt-secret", SECRET]].concat());
    let token = Issuer::secret(SECRET).token(&json!({"sub": "ann/b", "exp": 4_000_000_000_u64}));
    let mut client = Client::open(&server, &format!("/ws?token={token}"));
    let kick = "DELETE /api/users/ann%2Fb/connections";
    for (proof, status) in [
        ("", 403),
        ("Authorization: Basic YTpi\r\n", 403),
        ("Authorization: Bearer \r\n", 403),
        ("Authorization: Bearer another\r\n", 401),
        (&format!("Authorization: Bearer {token}\r\n"), 403),
    ] {
        assert_eq!(nginx.ask(kick, proof).status, status, "{proof}");
    }
    let by_query = format!("{kick}?token={KEY}").replace(' ', "%20");
    assert_eq!(nginx.ask(&by_query.replacen("%20", " ", 1), "").status, 403);
    assert!(client.settle().is_empty(), "nobody was kicked");
    let proof = format!("Authorization: Bearer {KEY}\r\n");
    // The key opens this one door.
    for request in [
        "GET /metrics",
        "DELETE /",
        "DELETE /api/users/ann",
        "GET /api/users/ann/connections",
    ] {
        assert_eq!(nginx.ask(request, &proof).status, 403, "{request}");
    }
    assert_eq!(nginx.ask(kick, &proof).status, 200);
    assert_eq!(client.closed(), 4003);
    let logged = nginx.file("access.log") + &nginx.file("error.log");
    assert!(!logged.contains(KEY) && !server.log().contains(KEY));
}

/// Were it not for the rule in nginx, an instance beside it would still not take the request for
/// one of its own machine's: it came through somebody.
#[test]
fn an_instance_takes_no_kick_through_nginx() {
    for trusted in ["none", "127.0.0.1", "127.0.0.0/8"] {
        let (server, nginx) = alone(&["--trusted-proxies", trusted]);
        nginx.edit("if ($is_private)", "if ($request_method = NEVER)");
        nginx.reload();
        let mut client = Client::new(&server);
        let path = format!("/api/users/{}/connections", client.id);
        for lines in ["", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-For:\r\n"] {
            let answer = nginx.ask(&format!("DELETE {path}"), lines);
            assert_eq!(answer.status, 403, "{trusted} {lines} {answer:?}");
            assert_eq!(answer.json()["error"]["code"], "forbidden");
        }
        client.join("still here");
        let head = format!("DELETE {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(server.http(head.as_bytes()).status, 200, "from inside");
        assert_eq!(client.closed(), 4003);
    }
}

/// FAULTS B12: requests that two parsers may read as two, through nginx: what is hidden in one gets
/// to no route, neither to one that is kept inside nor to any other.
#[test]
fn no_request_is_smuggled_through() {
    let (server, nginx) = alone(&[]);
    let mut client = Client::new(&server);
    client.join("r");
    let hidden = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let kick = format!(
        "DELETE /api/users/{}/connections HTTP/1.1\r\nHost: a\r\n\r\n",
        client.id
    );
    let last = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let upgrade = upgrade_head("/ws");
    for hidden in [hidden, &kick] {
        let length = hidden.len();
        for lines in [
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
            format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
            format!("Content-Length: 5\r\nContent-Length: {length}"),
            "Content-Length: 5\r\nTransfer-Encoding : chunked".to_owned(),
            "Content-Length: 5\r\nTransfer-Encoding: xchunked".to_owned(),
            "Content-Length: 5\r\nX: a\n Transfer-Encoding: chunked".to_owned(),
            "Transfer-Encoding: chunked".to_owned(),
            "Content-Length: 5".to_owned(),
        ] {
            for head in [
                format!("POST /api/rooms/r/messages HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"),
                format!("GET /ready HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"),
                upgrade.replace("Host: a", &format!("Host: a\r\n{lines}")),
            ] {
                let mut socket = nginx.connect_from([127, 0, 0, 1]);
                let request = format!("{head}0\r\n\r\n{hidden}{last}");
                let _ = socket.write_all(request.as_bytes());
                let text = super::support::read_to_end(&mut socket);
                let text = String::from_utf8_lossy(&text);
                assert!(!text.contains("ringcast_connections"), "{head:?}: {text}");
            }
        }
    }
    assert!(client.settle().is_empty(), "nobody was kicked");
    let said = server.get("/api/rooms/r/messages").json();
    assert_eq!(said["messages"], json!([]));
}

/// A room as server-sent events, as they come.
#[test]
fn events_pass_as_they_come() {
    use std::io::{BufRead, BufReader};
    let (server, nginx) = alone(&[]);
    let url = format!("http://127.0.0.1:{}/api/rooms/r/events", nginx.port);
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sSN", "--max-time", "30", &url]);
    let Ok(mut curl) = curl.stdout(std::process::Stdio::piped()).spawn() else {
        return super::support::skip("this needs curl");
    };
    server.await_metric("members", 1);
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    for n in 1..=3 {
        // Each must have come before the next is sent.
        let body = json!({"payload": n}).to_string();
        assert_eq!(server.post("r", &body).json()["offset"], n);
        let data = lines.find_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_owned));
        assert!(data.unwrap().contains(&format!("\"payload\":{n}")));
    }
    curl.kill().unwrap();
    curl.wait().unwrap();
    server.await_metric("members", 0);
}

#[test]
fn tokens_are_in_no_log() {
    let (server, nginx) = alone(&["--log-level", "trace"]);
    let mut client = Client::over(super::support::connect(nginx.port), "/ws?token=hidden");
    client.join("r");
    drop(client);
    let referer = "Referer: http://a/?token=hidden\r\n";
    assert_eq!(nginx.ask("GET /?token=hidden", referer).status, 200);
    assert_eq!(nginx.ask("GET /nothing?token=hidden", referer).status, 404);
    assert_eq!(nginx.ask("GET /metrics?token=hidden", referer).status, 403);
    // What is no request at all, and an instance that goes away in the midst of one.
    let mut bad = nginx.connect_from([127, 0, 0, 1]);
    bad.write_all(b"GET /ws?token=hidden HTTP/1.1\r\nHost: a\r\nHost: hidden\r\n\r\n")
        .unwrap();
    assert_eq!(Answer::read(&mut bad).status, 400);
    let client = Client::over(super::support::connect(nginx.port), "/ws?token=hidden");
    let log = server.log();
    server.kill();
    assert_eq!(client.close(), 1006);
    assert_eq!(nginx.get("/health?token=hidden").status, 503);
    eventually("the lines of all", || {
        let access = nginx.file("access.log");
        let lines = [
            "\"GET /ws\" 101",
            "\"GET /\" 200",
            "\"GET /nothing\" 404",
            "\"GET /health\" 503",
        ];
        lines.iter().all(|line| access.contains(line)).then_some(())
    });
    for text in [nginx.file("access.log"), nginx.file("error.log"), log] {
        assert!(!text.contains("hidden"), "{text}");
    }
}

/// FAULTS H1: tokens that are looked at, good and bad ones, by query and by header: no part of any
/// is in a log of nginx's or of an instance's (0 hits).
#[test]
fn tokens_that_count_are_in_no_log() {
    let secret = "a secret of the tests, thirty-two bytes long";
    let (server, nginx) = alone(&["--jwt-secret", secret, "--log-level", "trace"]);
    let until = std::time::SystemTime::now() + std::time::Duration::from_secs(600);
    let until = until.duration_since(std::time::UNIX_EPOCH).unwrap();
    let claims = |more: u64| json!({"sub": "ann", "exp": until.as_secs() - more});
    let good = Issuer::secret(secret).token(&claims(0));
    let expired = Issuer::secret(secret).token(&claims(1200));
    let foreign = Issuer::ec().token(&claims(0));
    let mut client = Client::over(
        super::support::connect(nginx.port),
        &format!("/ws?token={good}"),
    );
    assert_eq!(client.welcome["user_id"], "ann");
    let refreshed = client.ask(json!({"type":"refresh","token":good}));
    assert_eq!(refreshed["type"], "refreshed");
    for bad in [&expired, &foreign] {
        let code = client.ask_error(json!({"type":"refresh","token":bad}));
        assert_eq!(code, "unauthorized");
    }
    for (token, status) in [(&good, 200), (&expired, 401), (&foreign, 401)] {
        let by_query = nginx.get(&format!("/api/rooms?token={token}"));
        let line = format!("Authorization: Bearer {token}\r\nReferer: http://a/?token={token}\r\n");
        let by_header = nginx.ask("GET /api/rooms", &line);
        assert_eq!((by_query.status, by_header.status), (status, status));
        if status == 401 {
            let socket = nginx.connect_from([127, 0, 0, 1]);
            let path = format!("/ws?token={token}");
            assert_eq!(upgrade(socket, &path, "Host: a\r\n"), 401);
        }
    }
    let log = server.log();
    server.kill();
    assert_eq!(client.close(), 1006);
    let answer = nginx.get(&format!("/api/rooms?token={good}"));
    assert_eq!(answer.status, 503);
    eventually("the lines of all", || {
        let access = nginx.file("access.log");
        let lines = [
            "\"GET /ws\" 101",
            "\"GET /ws\" 401",
            "\"GET /api/rooms\" 503",
        ];
        lines.iter().all(|line| access.contains(line)).then_some(())
    });
    for text in [nginx.file("access.log"), nginx.file("error.log"), log] {
        for token in [&good, &expired, &foreign] {
            // The header is alike in all, and is no secret.
            for part in token.split('.').skip(1) {
                assert!(!text.contains(part), "{part} in {text}");
            }
        }
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn the_page_is_kept_for_a_moment() {
    let (server, nginx) = alone(&[]);
    let first = nginx.get("/");
    assert_eq!(first.status, 200, "{first:?}");
    assert!(first.head.contains("\r\ncontent-type: text/html"));
    assert!(
        first.head.contains("\r\ncache-control: no-cache"),
        "for browsers: {first:?}"
    );
    assert_eq!(first.body, server.get("/").body);
    for path in ["/page.js", "/page.css", "/ringcast.js"] {
        assert_eq!(nginx.get(path).body, server.get(path).body, "{path}");
    }
    // Many at once are one for the instance: those that it did not see have no instance's name.
    for _ in 0..100 {
        assert_eq!(nginx.get("/").status, 200);
    }
    let log = eventually("all lines", || {
        let log = nginx.file("access.log");
        (log.matches("\"GET /\" 200").count() == 101).then_some(log)
    });
    let spared = log
        .lines()
        .filter(|line| line.contains("\"GET /\" 200") && line.ends_with("- -"));
    assert!(spared.count() > 10, "{log}");
    // By its tag it is known, whichever instance the tag is of.
    let (_, tag) = first.head.split_once("\r\netag: ").unwrap();
    let tag = tag.split("\r\n").next().unwrap();
    for known in [
        tag.to_owned(),
        format!("W/{tag}"),
        format!("\"other\", {tag}"),
    ] {
        let answer = nginx.ask("GET /", &format!("If-None-Match: {known}\r\n"));
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{known}");
    }
    let answer = nginx.ask("GET /", "If-None-Match: \"other\"\r\n");
    assert_eq!((answer.status, &answer.body), (200, &first.body));
    // Who takes it gets it compressed.
    let answer = nginx.ask("GET /ringcast.js", "Accept-Encoding: gzip\r\n");
    assert!(
        answer.head.contains("\r\ncontent-encoding: gzip"),
        "{}",
        answer.head
    );
    // And when no instance is there, there is still the page.
    server.kill();
    assert_eq!(nginx.get("/").body, first.body);
    assert_eq!(nginx.get("/health").status, 503);
}

/// What nginx and an instance could read differently never gets to another route (FAULTS B12).
///
/// FAULTS B12: none gets to another route through nginx.
#[test]
fn no_request_hides_behind_another() {
    let (server, nginx) = alone(&[]);
    let hidden = "DELETE /api/users/x/connections HTTP/1.1\r\nHost: a\r\n\r\n";
    let ask = |head: String| {
        let mut socket = nginx.connect_from([127, 0, 0, 1]);
        let _ = socket.write_all(head.as_bytes());
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut socket, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    let long = hidden.len();
    for lines in [
        format!("Content-Length: {long}\r\nTransfer-Encoding: chunked\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\nContent-Length: {long}\r\n\r\n{hidden}"),
        format!("Content-Length: {long}\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding:\tchunked\r\n\r\n{long:x}\r\n{hidden}\r\n0\r\n\r\n"),
        format!("Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n{hidden}"),
    ] {
        let text = ask(format!("GET /health HTTP/1.1\r\nHost: a\r\n{lines}"));
        assert!(!text.contains("\"user_id\""), "{lines} {text}");
        assert!(!text.starts_with("HTTP/1.1 101"), "{lines} {text}");
    }
    // None is left open, but for the one that asks.
    eventually("all others to be closed", || {
        (server.metric("connections") <= 1).then_some(())
    });
}
