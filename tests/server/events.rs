//! Server-sent events: a room over HTTP, from anywhere in its past, in curl and in a browser too.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::browser::Browser;
use super::support::{Answer, Client, Server, connect, connect_narrow, eventually, skip, talking};
use super::tokens::Issuer;

/// One event: its name, id and data.
#[derive(Clone, Debug, Default, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// A stream of events.
struct Stream {
    reader: BufReader<TcpStream>,
    /// The last id that was told, with an event or without.
    id: String,
    /// Whether it may end within an event: its connection is cut, and clients drop what is
    /// unfinished.
    may_be_cut: bool,
}

impl Stream {
    fn open(server: &Server, room: &str, fields: &str) -> Self {
        Self::over(connect(server.port), room, fields)
    }

    fn over(mut socket: TcpStream, room: &str, fields: &str) -> Self {
        let head = format!("GET /api/rooms/{room}/events HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let answer = Answer::read_head(&mut socket);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type").unwrap(), "text/event-stream");
        assert_eq!(answer.header("cache-control").unwrap(), "no-store");
        assert!(answer.is_last() && answer.header("content-length").is_none());
        let mut stream = Self {
            reader: BufReader::new(socket),
            id: String::new(),
            may_be_cut: false,
        };
        let begin = stream.block().unwrap();
        assert_eq!(begin[0], "retry: 1000");
        stream.id = begin[1].strip_prefix("id: ").unwrap().to_owned();
        stream
    }

    /// The lines up to an empty one; none at the end of the stream.
    fn block(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap() == 0 {
                let is_whole = lines.is_empty() || self.may_be_cut;
                assert!(is_whole, "it ends within an event: {lines:?}");
                return None;
            }
            let Some(line) = line.strip_suffix('\n') else {
                assert!(self.may_be_cut, "it ends within a line: {line}");
                return None;
            };
            assert!(!line.contains('\r'));
            if line.is_empty() {
                return Some(lines);
            }
            lines.push(line.to_owned());
        }
    }

    /// The next event, comments passed by.
    fn try_next(&mut self) -> Option<Event> {
        loop {
            let mut event = Event::default();
            for line in self.block()? {
                match line.split_once(": ") {
                    Some(("id", id)) => self.id = id.to_owned(),
                    Some(("event", name)) => event.name = name.to_owned(),
                    Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                    _ => assert!(line.starts_with(':'), "{line}"),
                }
            }
            if !event.data.is_null() {
                event.id = self.id.clone();
                return Some(event);
            }
        }
    }

    fn next(&mut self) -> Event {
        self.try_next().unwrap()
    }

    /// The messages `from ..= to`, each once and in order.
    fn messages(&mut self, from: u64, to: u64) -> Vec<Value> {
        let one = |offset: u64| {
            let event = self.next();
            assert_eq!(event.name, "message", "{event:?}");
            assert_eq!(event.data["offset"], offset, "in order and once");
            let (_, of_id) = event.id.split_once(':').unwrap();
            assert_eq!(of_id, offset.to_string());
            event.data
        };
        (from..=to).map(one).collect()
    }
}

/// The same messages as over a WebSocket, on every shard; back with the last id, what was missed,
/// from the room log and from the store.
#[test]
fn a_room_as_events_and_its_past_by_the_last_id() {
    for flags in [&[][..], &["--room-log-bytes", "1MiB"]] {
        let server = Server::start(flags);
        let mut clients = [0, 1].map(|shard| Client::on_shard(&server, shard));
        let epoch = clients[0].join("a b")["epoch"].clone();
        let mut streams: Vec<_> = (0..6).map(|_| Stream::open(&server, "a%20b", "")).collect();
        server.await_metric("members", 7);
        for stream in &streams {
            assert_eq!(stream.id, format!("{}:0", epoch.as_str().unwrap()));
        }
        // JSON in more than one line is one line of data.
        clients[1].send_text("{\"type\":\"publish\",\"room\":\"a b\",\"payload\":[1,\r\n 2]}");
        clients[1].publish_all("a b", 0..20, |n| json!({"n": n, "x": "y".repeat(50)}));
        let said = clients[0].messages("a b", 1, 21);
        for stream in &mut streams {
            assert_eq!(stream.messages(1, 21), said);
        }
        let id = streams[0].id.clone();
        drop(streams);
        server.await_metric("members", 1);
        clients[1].publish_all("a b", 0..2_000, |n| json!({"n": n, "x": "y".repeat(600)}));
        let missed = clients[0].messages("a b", 22, 2_021);
        for _ in 0..3 {
            let mut back = Stream::open(&server, "a%20b", &format!("Last-Event-ID: {id}\r\n"));
            assert_eq!(back.messages(22, 2_021), missed);
            let offset = clients[1].publish("a b", json!("live"));
            assert_eq!(
                back.messages(2_022, offset).len(),
                (offset - 2_021) as usize
            );
        }
        assert_eq!(server.metric("panics_total"), 0);
    }
}

/// An id of another epoch, or none of ours: it says so, and goes on with what is new.
#[test]
fn what_cannot_be_resumed_is_told_by_reset() {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    let epoch = client.join("a")["epoch"].clone();
    client.publish_all("a", 0..3, |n| json!(n));
    let epoch = epoch.as_str().unwrap();
    for id in [
        "018bcfe5680000000001:1",
        "nonsense",
        &format!("{epoch}:900"),
    ] {
        let mut stream = Stream::open(&server, "a", &format!("Last-Event-ID: {id}\r\n"));
        let event = stream.next();
        assert_eq!(event.name, "reset", "{event:?}");
        assert_eq!(event.data["recovered"], false);
        let newest = client.publish("a", json!("next"));
        assert_eq!(event.id, format!("{epoch}:{}", newest - 1));
        stream.messages(newest, newest);
    }
    // An id of nothing is none: no past, and no reset.
    let mut stream = Stream::open(&server, "a", "Last-Event-ID: \r\n");
    let newest = client.publish("a", json!("next"));
    stream.messages(newest, newest);
}

/// Who reads too slowly is told by `gap`, or closed, as WebSockets are; others miss nothing.
#[test]
fn a_slow_reader_is_told_or_closed() {
    for (mode, is_closed) in [("gap", false), ("disconnect", true)] {
        let server = Server::start(&["--slow-consumer", mode, "--room-log-bytes", "1MiB"]);
        let mut stream = Stream::over(connect_narrow(server.port), "a", "");
        stream.may_be_cut = is_closed;
        let mut client = Client::member(&server, "a");
        let mut sent = 0;
        // Until it has fallen off the log, beyond what the sockets hold. That is noticed when its
        // socket takes bytes again, unless such are closed.
        eventually("the stream to be too slow", || {
            client.publish_all("a", 0..200, |_| json!("x".repeat(4_000)));
            sent += 200;
            client.messages("a", sent - 199, sent);
            let told = server.metric("slow_consumers_total");
            let is_slow = if is_closed { told > 0 } else { sent >= 4_000 };
            is_slow.then_some(())
        });
        let mut at = 0;
        let mut gaps = 0;
        while let Some(event) = stream.try_next() {
            if event.name == "gap" {
                assert_eq!(event.data["from"], at + 1);
                at = event.data["to"].as_u64().unwrap();
                gaps += 1;
            } else {
                at += 1;
                assert_eq!(
                    event.data["offset"], at,
                    "none twice, none left out without a gap"
                );
            }
            if at == sent {
                break;
            }
        }
        assert_eq!(
            (at < sent, gaps == 0),
            (is_closed, is_closed),
            "{mode}: {at} of {sent}"
        );
    }
}

#[test]
fn a_silent_stream_has_a_heartbeat_and_ends_when_its_user_is_kicked() {
    let server = Server::start(&["--heartbeat", "200ms", "--idle-timeout", "1s"]);
    let mut stream = Stream::open(&server, "a", "");
    for _ in 0..6 {
        assert_eq!(
            stream.block().unwrap(),
            [":"],
            "longer than a WebSocket may be silent"
        );
    }
    let members = server.get("/api/rooms/a/members").json();
    assert_eq!(members["count"], 1);
    let user = members["members"][0]["user_id"].as_str().unwrap();
    let head = format!("DELETE /api/users/{user}/connections HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(server.http(head.as_bytes()).status, 200);
    assert_eq!(stream.try_next(), None);
    server.await_metric("members", 0);
    server.await_metric("connections", 1);
}

/// FAULTS H1, H2: with tokens a stream is of the token's user, of rooms that its claims allow, and
/// ends with it.
#[test]
fn a_stream_is_its_tokens_users_and_ends_with_it() {
    const SECRET: &str = "a secret of the tests, thirty-two bytes long";
    let server = Server::start(&["--store", "memory", "--jwt-secret", SECRET]);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = since.unwrap().as_secs();
    let token = |user: &str, ends: u64| {
        let claims = json!({"sub": user, "exp": ends, "join": ["a"]});
        Issuer::secret(SECRET).token(&claims)
    };
    let lasting = token("bob", now + 600);
    let ask = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        server.http(head.as_bytes()).status
    };
    assert_eq!(ask("/api/rooms/a/events"), 401);
    assert_eq!(ask(&format!("/api/rooms/b/events?token={lasting}")), 403);
    assert_eq!(
        ask(&format!("/api/rooms/%40ann/events?token={lasting}")),
        403
    );

    let ending = token("ann", now + 3);
    let mut own = Stream::open(
        &server,
        "%40ann",
        &format!("Authorization: Bearer {ending}\r\n"),
    );
    let mut stream = Stream::open(&server, "a", &format!("Authorization: Bearer {ending}\r\n"));
    let members = format!("/api/rooms/a/members?token={lasting}");
    let head = format!("GET {members} HTTP/1.1\r\nHost: a\r\n\r\n");
    let members = server.http(head.as_bytes()).json();
    assert_eq!(members["members"][0]["user_id"], "ann");
    assert_eq!(stream.try_next(), None);
    assert_eq!(own.try_next(), None);
    server.await_metric("closes_total{code=\"4001\"", 2);
}

#[test]
fn a_drain_ends_streams_between_events() {
    let server = Server::start(&["--drain-window", "1s"]);
    let mut streams: Vec<_> = (0..20).map(|_| Stream::open(&server, "a", "")).collect();
    talking(&server, "a", 100, || {
        streams.iter_mut().for_each(|stream| {
            stream.next();
        });
    });
    server.stop();
    for stream in &mut streams {
        while stream.try_next().is_some() {}
    }
}

#[test]
fn what_is_no_stream_is_answered_like_any_other() {
    let server = Server::start(&["--max-connections", "2"]);
    let ask = |path: &str| server.get(path);
    assert_eq!(ask("/api/rooms//events").status, 400);
    assert_eq!(ask("/api/rooms/@u/events").status, 403);
    // Who asked before counts until it is closed on both sides.
    let (socket, head) = eventually("room for one more", || {
        let mut socket = connect(server.port);
        socket
            .write_all(b"HEAD /api/rooms/a/events HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let head = Answer::read(&mut socket);
        (head.status != 503).then_some((socket, head))
    });
    assert_eq!((head.status, &*head.body), (200, ""));
    assert_eq!(head.header("content-type").unwrap(), "text/event-stream");
    drop(socket);
    // It counts until it is closed on both sides, and so does who asks for the metric.
    server.await_metric("connections", 1);
    let _client = Client::new(&server);
    let _stream = Stream::open(&server, "a", "");
    let answer = ask("/api/rooms/a/events");
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (503, Some("overloaded"))
    );
}

/// Stock curl: `curl -N`.
#[test]
fn curl_follows_a_room() {
    let server = Server::start(&[]);
    let url = format!("http://127.0.0.1:{}/api/rooms/a/events", server.port);
    let mut curl = Command::new("curl");
    curl.args(["-sSN", "--max-time", "30", &url])
        .stdout(Stdio::piped());
    let Ok(mut curl) = curl.spawn() else {
        return skip("this needs curl");
    };
    server.await_metric("members", 1);
    assert_eq!(server.post("a", "{\"payload\":\"hello\"}").status, 200);
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    let mut data = lines.find_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_owned));
    let data: Value = serde_json::from_str(&data.take().unwrap()).unwrap();
    assert_eq!(data["payload"], "hello");
    curl.kill().unwrap();
    curl.wait().unwrap();
    server.await_metric("members", 0);
}

/// A browser's own EventSource: it follows, comes back by itself when the server was killed, and
/// has missed nothing.
#[test]
fn an_event_source_comes_back_by_itself() {
    let Some(browser) = Browser::start() else {
        return skip("this needs chromium and chromedriver");
    };
    let server = Server::start(&[]);
    let port = server.port;
    browser.open(&format!("http://127.0.0.1:{port}/"));
    browser.run(
        "window.seen = []; window.resets = 0;
         window.source = new EventSource('/api/rooms/a/events');
         source.addEventListener('message', (event) =>
           seen.push([event.lastEventId.split(':')[1], JSON.parse(event.data).payload]));
         source.addEventListener('reset', () => { resets += 1; });",
    );
    server.await_metric("members", 1);
    let said = |server: &Server, from: u64, to: u64| {
        for n in from..=to {
            assert_eq!(
                server.post("a", &json!({"payload": n}).to_string()).json()["offset"],
                n
            );
        }
    };
    let await_seen = |to: u64| {
        let wanted: Vec<_> = (1..=to).map(|n| json!([n.to_string(), n])).collect();
        eventually("the events in the browser", || {
            (browser.run("return seen") == json!(wanted)).then_some(())
        });
    };
    said(&server, 1, 3);
    await_seen(3);
    let port = server.port.to_string();
    let dir = server.kill();
    let server = Server::start_on(dir, &["--port", &port]);
    said(&server, 4, 6);
    await_seen(6);
    assert_eq!(browser.run("return resets"), 0);
    browser.run("source.close()");
    server.await_metric("members", 0);
}
