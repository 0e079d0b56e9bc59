//! Who is let in and what it may do: tokens, API keys, origins.
//!
//! Tokens are made by `tokens`, which shares nothing with the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::support::{Answer, Client, Server, eventually, upgrade_head};
use super::tokens::{Issuer, base64url, jwks};

const SECRET: &str = "a secret of the tests, thirty-two bytes long";

fn server(flags: &[&str]) -> Server {
    Server::start(&[&["--store", "memory", "--jwt-secret", SECRET], flags].concat())
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

/// Claims that are good for a while.
fn claims(user: &str, more: Value) -> Value {
    let mut claims = json!({ "sub": user, "name": user.to_uppercase(), "exp": now() + 600 });
    for (claim, value) in more.as_object().unwrap() {
        claims[claim] = value.clone();
    }
    claims
}

fn token(user: &str, more: Value) -> String {
    Issuer::secret(SECRET).token(&claims(user, more))
}

fn enter(server: &Server, token: &str) -> Client {
    Client::open(server, &format!("/ws?token={token}"))
}

/// The answer to an upgrade with these header lines.
fn upgrade(server: &Server, path: &str, lines: &str) -> Answer {
    let head = upgrade_head(path).replace("Host: a\r\n", &format!("Host: a\r\n{lines}"));
    server.http(head.as_bytes())
}

/// The status of a request with this Authorization.
fn ask(server: &Server, request: &str, authorization: &str) -> Answer {
    let line = match authorization {
        "" => String::new(),
        value => format!("Authorization: {value}\r\n"),
    };
    server.http(format!("{request} HTTP/1.1\r\nHost: a\r\n{line}\r\n").as_bytes())
}

/// FAULTS H1: no, expired, forged, `none` and other-key tokens are refused by 401 before 101, at
/// every door; not a byte of them is in the log.
#[test]
fn bad_tokens_are_refused_before_the_upgrade() {
    let server = server(&["--log-level", "trace"]);
    let mut bad = vec![
        String::new(),
        "x".into(),
        Issuer::secret("another").token(&claims("ann", json!({}))),
        Issuer::rsa().token(&claims("ann", json!({}))),
        Issuer::ec().token(&claims("ann", json!({}))),
        Issuer::ed().token(&claims("ann", json!({}))),
        token("ann", json!({ "exp": now() - 1 })),
        token("ann", json!({ "nbf": now() + 600 })),
        token("", json!({})),
        token("ann", json!({ "join": "lobby" })),
        token("ann", json!({ "x": "y".repeat(4_000) })).repeat(2),
    ];
    let good = token("ann", json!({}));
    let body = good.split('.').nth(1).unwrap();
    let none = base64url(json!({ "alg": "none" }).to_string());
    bad.push(format!("{none}.{body}."));
    for bad in &bad {
        let in_query = upgrade(&server, &format!("/ws?token={bad}"), "");
        let in_header = upgrade(&server, "/ws", &format!("Authorization: Bearer {bad}\r\n"));
        let rooms = ask(&server, &format!("GET /api/rooms?token={bad}"), "");
        let history = ask(
            &server,
            "GET /api/rooms/a/messages",
            &format!("Bearer {bad}"),
        );
        for answer in [in_query, in_header, rooms, history] {
            if answer.status == 414 {
                continue;
            }
            assert_eq!(answer.status, 401, "{bad} {answer:?}");
            assert_eq!(answer.json()["error"]["code"], "unauthorized");
            assert!(answer.head.contains("\r\nwww-authenticate: bearer"));
            assert!(bad.len() < 5 || !answer.body.contains(bad.as_str()));
        }
    }
    assert_eq!(upgrade(&server, "/ws", "").status, 401);
    let basic = "Authorization: Basic YTpi\r\n";
    assert_eq!(upgrade(&server, "/ws", basic).status, 401);
    let twice = format!("Authorization: Bearer {good}\r\n").repeat(2);
    assert_eq!(upgrade(&server, "/ws", &twice).status, 401);
    let client = enter(&server, &good);
    assert_eq!(client.welcome["user_id"], "ann");
    assert_eq!(client.close(), 1000);
    // Whatever else it says, it says nothing of these.
    let log = server.log();
    for token in bad.iter().chain([&good]).filter(|token| token.len() > 40) {
        for part in token.split('.').filter(|part| part.len() > 20) {
            assert!(!log.contains(part), "{part} in {log}");
        }
    }
    assert!(!log.contains(SECRET));
}

/// FAULTS H1: a socket whose token expires is closed with 4001 within the sweep; until then, and
/// with a new token beyond it, it goes on.
#[test]
fn an_open_connection_ends_with_its_token() {
    let server = server(&[]);
    let ends = now() + 3;
    let mut left = enter(&server, &token("ann", json!({ "exp": ends })));
    let mut stays = enter(&server, &token("bob", json!({ "exp": ends })));
    left.join("r");
    stays.join("r");
    assert_eq!(stays.publish("r", json!(1)), 1);
    let refreshed = stays.ask(json!({"type":"refresh","token":token("bob", json!({}))}));
    assert_eq!(refreshed["type"], "refreshed");
    assert_eq!(left.closed(), 4001);
    assert!(now() >= ends, "not before its time");
    // The token is used up for good, and the other connection is where it was.
    assert_eq!(stays.publish("r", json!(2)), 2);
    stays.messages("r", 1, 2);
    server.await_metric("closes_total{code=\"4001\"", 1);
}

/// FAULTS H2: joins, publishes, signals, member lists, personal rooms and history outside of the
/// claims are refused by `forbidden`; the token of a user is not another's.
#[test]
fn claims_bound_what_a_connection_may_do() {
    let server = server(&[]);
    let mut reader = enter(
        &server,
        &token("ann", json!({ "join": ["lobby", "team-*"] })),
    );
    let mut writer = enter(
        &server,
        &token("bob", json!({ "publish": ["lobby", "@ann"] })),
    );
    for room in ["lobby", "team-a", "team-", "@ann"] {
        reader.join(room);
    }
    for room in ["lobbyist", "team", "other", "@bob", "@"] {
        for kind in ["join", "members"] {
            let code = reader.ask_error(json!({"type":kind,"room":room}));
            assert_eq!(code, "forbidden", "{kind} {room}");
        }
    }
    for room in ["lobby", "team-a", "@ann"] {
        for kind in ["publish", "signal"] {
            let code = reader.ask_error(json!({"type":kind,"room":room,"payload":1}));
            assert_eq!(code, "forbidden", "{kind} {room}");
        }
    }
    assert_eq!(
        writer.ask_error(json!({"type":"join","room":"lobby"})),
        "forbidden"
    );
    let code = writer.ask_error(json!({"type":"publish","room":"team-a","payload":1}));
    assert_eq!(code, "forbidden");
    assert_eq!(writer.publish("lobby", json!(1)), 1);
    assert_eq!(writer.publish("@ann", json!(1)), 1);
    reader.messages("lobby", 1, 1);
    reader.messages("@ann", 1, 1);
    // A room in the upgrade's query is a join like any other.
    let of_bob = token("bob", json!({ "join": [] }));
    let mut client = Client::open(&server, &format!("/ws?room=lobby&token={of_bob}"));
    assert_eq!(client.next("error")["code"], "forbidden");
    let of_ann = token("ann", json!({ "join": ["lobby"] }));
    for (path, token, status) in [
        ("/api/rooms/lobby/messages", &of_ann, 200),
        ("/api/rooms/%40ann/messages", &of_ann, 200),
        ("/api/rooms/%40bob/messages", &of_ann, 403),
        ("/api/rooms/other/messages", &of_ann, 403),
        ("/api/rooms/lobby/messages", &of_bob, 403),
    ] {
        let by_header = ask(&server, &format!("GET {path}"), &format!("bearer {token}"));
        let by_query = ask(&server, &format!("GET {path}?token={token}"), "");
        for answer in [by_header, by_query] {
            assert_eq!(answer.status, status, "{path} {answer:?}");
        }
    }
    assert_eq!(server.get("/api/rooms/lobby/messages").status, 401);
}

/// FAULTS H2: who somebody is comes from its token: none of the names that its frames, its query
/// and its payloads give is ever seen as its own, in 0 of 1,000 messages.
#[test]
fn nobody_speaks_under_another_s_name() {
    let server = server(&[]);
    let mut watcher = enter(&server, &token("ann", json!({})));
    watcher.join("r");
    let of_eve = token("eve", json!({}));
    let path = format!("/ws?user_id=ann&username=ann&name=ann&sub=ann&token={of_eve}");
    let mut eve = Client::open(&server, &path);
    assert_eq!(eve.welcome["user_id"], "eve");
    let presence = json!({"type":"join","room":"r","username":"ann","user_id":"ann"});
    assert_eq!(eve.ask(presence)["type"], "joined");
    for n in 0..1_000 {
        eve.send(&json!({
            "type":"publish","room":"r","payload":{"user_id":"ann","username":"ann"},
            "user_id":"ann","username":"ann","sub":"ann","client_id":watcher.id,"ref":n
        }));
        if n % 100 == 99 {
            (0..100).for_each(|_| drop(eve.next("ack")));
        }
    }
    eve.send(&json!({"type":"signal","room":"r","payload":1,"user_id":"ann","username":"ann"}));
    for message in watcher.messages("r", 1, 1_000) {
        assert_eq!(
            (&message["user_id"], &message["username"]),
            (&json!("eve"), &json!("EVE"))
        );
    }
    let signal = watcher.next("signal");
    assert_eq!(
        (&signal["user_id"], &signal["username"]),
        (&json!("eve"), &json!("EVE"))
    );
    let members = watcher.ask(json!({"type":"members","room":"r"}));
    assert_eq!(members["count"], 2);
    let eves = members["members"].as_array().unwrap().iter();
    let eves: Vec<_> = eves.filter(|member| member["user_id"] == "eve").collect();
    assert_eq!(eves, [&json!({"user_id":"eve","username":"EVE"})]);
}

/// FAULTS H2: a user's connections are one user, on whatever shard: one member, one personal room.
#[test]
fn connections_of_one_user_are_one_user() {
    let server = server(&["--api-key", "the-key"]);
    let of_ann = token("ann", json!({}));
    let mut anns: Vec<_> = (0..8).map(|_| enter(&server, &of_ann)).collect();
    let mut bob = enter(&server, &token("bob", json!({})));
    for ann in &mut anns {
        ann.join("r");
    }
    let members = bob.ask(json!({"type":"members","room":"r"}));
    assert_eq!(members["count"], 1);
    assert_eq!(bob.publish("@ann", json!("hello")), 1);
    for ann in &mut anns {
        ann.messages("@ann", 1, 1);
    }
    let kick = "DELETE /api/users/ann/connections";
    for (authorization, status) in [
        (String::new(), 401),
        ("Bearer the-ke".into(), 401),
        ("Bearer the-keyy".into(), 401),
        (format!("Bearer {of_ann}"), 403),
    ] {
        assert_eq!(
            ask(&server, kick, &authorization).status,
            status,
            "{authorization}"
        );
    }
    assert_eq!(
        ask(&server, &format!("{kick}?token=the-key"), "").status,
        401
    );
    assert_eq!(ask(&server, kick, "Bearer the-key").status, 200);
    for ann in &mut anns {
        assert_eq!(ann.closed(), 4003);
    }
    assert_eq!(bob.publish("@ann", json!(2)), 2);
}

#[test]
fn a_refresh_takes_effect_and_is_no_way_to_become_another() {
    let server = server(&[]);
    let mut ann = enter(&server, &token("ann", json!({})));
    ann.join("a");
    ann.join("b");
    ann.join("@ann");
    let refresh =
        |client: &mut Client, token: &str| client.ask(json!({"type":"refresh","token":token}));
    for bad in [
        token("bob", json!({})),
        token("ann", json!({ "exp": now() - 1 })),
        Issuer::secret("other").token(&claims("ann", json!({}))),
        "x".repeat(20_000),
        String::new(),
    ] {
        let answer = refresh(&mut ann, &bad);
        assert_eq!(answer["code"], "unauthorized", "{answer}");
    }
    assert_eq!(ann.publish("a", json!(1)), 1);
    // Narrower: what may not be joined any more is left, at once and told.
    let narrow = token(
        "ann",
        json!({ "name": "Anna", "join": ["a"], "publish": ["a", "b"] }),
    );
    assert_eq!(refresh(&mut ann, &narrow)["type"], "refreshed");
    let left = ann.next("left");
    assert_eq!((&left["room"], &left["ref"]), (&json!("b"), &Value::Null));
    assert_eq!(
        ann.ask_error(json!({"type":"join","room":"b"})),
        "forbidden"
    );
    assert_eq!(ann.publish("b", json!(1)), 1);
    assert_eq!(ann.publish("a", json!(2)), 2);
    let messages = ann.messages("a", 1, 2);
    assert_eq!(messages[1]["username"], "Anna");
    assert!(
        ann.settle().iter().all(|frame| frame["room"] != "b"),
        "nothing of b"
    );
    // Wider again.
    ann.send(&json!({"type":"refresh","token":token("ann", json!({}))}));
    ann.join("b");
}

#[test]
fn where_no_tokens_are_taken_none_is_looked_at() {
    let server = Server::start(&["--store", "memory"]);
    let mut client = Client::open(&server, "/ws?token=x&username=me");
    assert_eq!(client.welcome["user_id"], json!(client.id));
    let code = client.ask_error(json!({"type":"refresh","token":token("ann", json!({}))}));
    assert_eq!(code, "forbidden");
    assert_eq!(ask(&server, "GET /api/rooms", "Bearer x").status, 200);
}

#[test]
fn rooms_are_listed_that_may_be_joined() {
    let server = server(&["--api-key", "the-key"]);
    let mut all = enter(&server, &token("ann", json!({})));
    let rooms = ["a", "b", "b1", "b2", "c", "d-1", "d-2", "d-3", "secret"];
    for room in rooms {
        assert_eq!(all.publish(room, json!(1)), 1);
    }
    let list = |query: &str, authorization: &str| {
        let mut names = Vec::new();
        let mut cursor = String::new();
        for page in 0.. {
            assert!(page < 20, "it comes to an end");
            let path = format!("GET /api/rooms?{query}&cursor={cursor}");
            let answer = ask(&server, &path, authorization);
            assert_eq!(answer.status, 200, "{answer:?}");
            let body = answer.json();
            let rooms = body["rooms"].as_array().unwrap().iter();
            names.extend(rooms.map(|room| room["room"].as_str().unwrap().to_owned()));
            match body["cursor"].as_str() {
                Some(last) => cursor = last.to_owned(),
                None => break,
            }
            assert_eq!(Some(&cursor), names.last(), "no name but those listed");
        }
        names
    };
    let some = token(
        "bob",
        json!({ "join": ["d-*", "b", "nothing", "zzz*", "a"] }),
    );
    let some = format!("Bearer {some}");
    for (query, authorization, want) in [
        (
            "limit=100",
            some.as_str(),
            &["a", "b", "d-1", "d-2", "d-3"][..],
        ),
        ("limit=1", &some, &["a", "b", "d-1", "d-2", "d-3"]),
        ("limit=2", &some, &["a", "b", "d-1", "d-2", "d-3"]),
        ("prefix=d-2", &some, &["d-2"]),
        ("prefix=b", &some, &["b"]),
        ("prefix=secret", &some, &[]),
        ("limit=4", "Bearer the-key", &rooms),
    ] {
        assert_eq!(list(query, authorization), want, "{query}");
    }
    let none = format!("Bearer {}", token("eve", json!({ "publish": ["*"] })));
    assert_eq!(list("limit=10", &none), Vec::<String>::new());
    // As many grants as a token has room for are asked one after the other.
    let many: Vec<_> = (0..900).map(|n| format!("{n:x}")).collect();
    let many = format!("Bearer {}", token("eve", json!({ "join": many })));
    assert_eq!(list("limit=10", &many), ["a", "b", "b1", "b2", "c"]);
    assert_eq!(server.get("/api/rooms").status, 401);
}

/// FAULTS H1: the keys' file is read again on SIGHUP: the new key counts and the old one does not;
/// a broken file changes nothing and is told.
#[test]
fn a_key_file_is_read_again() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("keys");
    let (old, new) = (Issuer::ec().named("old"), Issuer::ed().named("new"));
    std::fs::write(&path, old.pem()).unwrap();
    let file = path.to_str().unwrap();
    let server = Server::start(&["--store", "memory", "--jwt-key-file", file]);
    let status = |issuer: &Issuer| {
        let token = issuer.token(&claims("ann", json!({})));
        ask(&server, "GET /api/rooms", &format!("Bearer {token}")).status
    };
    assert_eq!((status(&old), status(&new)), (200, 401));
    let mut client = enter(&server, &old.token(&claims("ann", json!({}))));
    let logged = AtomicU64::new(0);
    let reload = |text: &str, line: &str| {
        std::fs::write(&path, text).unwrap();
        server.signal(Signal::HUP);
        let count = logged.fetch_add(1, Ordering::Relaxed) + 1;
        eventually(line, || {
            let log = server.log();
            let told = log.matches("read again").count() + log.matches("are kept").count();
            (told as u64 == count && log.contains(line)).then_some(())
        });
    };
    for broken in [
        "",
        "{",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ] {
        reload(broken, "the keys that there were are kept");
        assert_eq!((status(&old), status(&new)), (200, 401), "{broken}");
    }
    reload(&jwks(&[&old, &new]), "[ES256, EdDSA]");
    eventually("both keys on both shards", || {
        let seen: Vec<_> = (0..10).map(|_| (status(&old), status(&new))).collect();
        seen.iter().all(|seen| *seen == (200, 200)).then_some(())
    });
    reload(&jwks(&[&new]), "[EdDSA]");
    eventually("the new key alone on both shards", || {
        let seen: Vec<_> = (0..10).map(|_| (status(&old), status(&new))).collect();
        seen.iter().all(|seen| *seen == (401, 200)).then_some(())
    });
    // Who is here stays until its token ends, and goes on with a new one.
    assert_eq!(client.publish("r", json!(1)), 1);
    let fresh = new.token(&claims("ann", json!({})));
    assert_eq!(
        client.ask(json!({"type":"refresh","token":fresh}))["type"],
        "refreshed"
    );
}

#[test]
fn a_bad_key_file_ends_the_start_with_one_line() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("keys");
    let missing = dir.path().join("missing");
    std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").unwrap();
    for (file, why) in [(&missing, "No such file"), (&path, "private key")] {
        let mut command = super::support::ringcast(&["serve", "--port", "0", "--store", "memory"]);
        command.arg("--jwt-key-file").arg(file);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("--jwt-key-file") && text.contains(why),
            "{text}"
        );
        assert!(!text.contains("c2VjcmV0"), "{text}");
    }
}

/// FAULTS B14: of foreign, `null`, missing, suffixed, differently written, ported and user-bearing
/// origins only listed ones get 101: 12 of 12 cases, with and without a list, token or not.
#[test]
fn only_listed_origins_come_in() {
    let listed = ["--allowed-origins", "https://good.example,http://a:8080"];
    let open = Server::start(&[&["--store", "memory"][..], &listed].concat());
    let closed = server(&listed);
    let good = token("ann", json!({}));
    let path = format!("/ws?token={good}");
    for (origin, status) in [
        ("", 101),
        ("https://good.example", 101),
        ("https://GOOD.example", 101),
        ("https://good.example:443", 101),
        ("http://a:8080", 101),
        ("https://evil.test", 403),
        ("null", 403),
        ("https://good.example.evil.test", 403),
        ("https://evilgood.example", 403),
        ("http://good.example", 403),
        ("https://good.example:8443", 403),
        ("https://good.example@evil.test", 403),
    ] {
        let line = match origin {
            "" => String::new(),
            origin => format!("Origin: {origin}\r\n"),
        };
        for (server, path) in [(&open, "/ws"), (&closed, path.as_str())] {
            assert_eq!(status_of_upgrade(server, path, &line), status, "{origin}");
        }
        // The page's origin is looked at first: it learns nothing of tokens.
        let without = status_of_upgrade(&closed, "/ws", &line);
        assert_eq!(without, if status == 101 { 401 } else { 403 }, "{origin}");
        // Nobody's page may read what is answered, unless it is listed.
        let answer = ask(&closed, &format!("GET /api/rooms?token={good}"), "");
        assert!(!answer.head.contains("access-control"), "{answer:?}");
    }
}

/// The status of an upgrade, whether the connection then stays open or not.
fn status_of_upgrade(server: &Server, path: &str, lines: &str) -> u16 {
    use std::io::{Read as _, Write as _};
    let head = upgrade_head(path).replace("Host: a\r\n", &format!("Host: a\r\n{lines}"));
    let mut socket = super::support::connect(server.port);
    socket.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    socket.read_exact(&mut status).unwrap();
    std::str::from_utf8(&status[9..]).unwrap().parse().unwrap()
}
