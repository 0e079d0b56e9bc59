//! `docs/openapi.json` against the server: every path, method and status that it documents is
//! asked for and comes, and every answer has the shape that is documented. No route is left out.
//! What proof an operation takes is tried one by one: those that it names, and those that it does
//! not.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

use ringcast::shard::ROUTES;
use serde_json::{Value, json};

use super::support::{Answer, Client, Server, all, connect, eventually, post, upgrade_head};
use super::tokens::Issuer;

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap()
}

/// Whether `value` is as `schema` says. Only the keywords that the document uses are known.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    for (keyword, word) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "description" => {}
            "$ref" => {
                let target = document.pointer(word.as_str().unwrap().trim_start_matches('#'));
                check(document, target.unwrap(), value, at);
            }
            "type" => {
                let is_it = match word.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    other => panic!("{other}"),
                };
                assert!(is_it, "{at}: {value} is no {word}");
            }
            "enum" => assert!(word.as_array().unwrap().contains(value), "{at}: {value}"),
            "required" => {
                for name in word.as_array().unwrap() {
                    assert!(
                        value.get(name.as_str().unwrap()).is_some(),
                        "{at}: no {name}"
                    );
                }
            }
            "properties" => {
                for (name, member) in value.as_object().unwrap() {
                    if let Some(schema) = word.get(name) {
                        check(document, schema, member, &format!("{at}.{name}"));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(*word, false);
                let mut names = value.as_object().unwrap().keys();
                let known = |name: &String| schema["properties"].get(name).is_some();
                assert!(
                    names.all(known),
                    "{at}: {value} has more than is documented"
                );
            }
            "items" => {
                for (n, item) in value.as_array().unwrap().iter().enumerate() {
                    check(document, word, item, &format!("{at}[{n}]"));
                }
            }
            other => panic!("{other} is not known here"),
        }
    }
}

/// What is documented: path, method, status.
fn documented(document: &Value) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method == "parameters" {
                continue;
            }
            for status in operation["responses"].as_object().unwrap().keys() {
                all.insert((path.clone(), method.to_uppercase(), status.clone()));
            }
        }
    }
    all
}

/// What has come so far.
struct Asked {
    document: Value,
    seen: BTreeSet<(String, String, String)>,
}

impl Asked {
    /// Asks; the answer must be documented for the path and have the shape that is.
    fn ask(&mut self, server: &Server, path: &str, request: &str, status: u16) -> Answer {
        let mut socket = connect(server.port);
        socket.write_all(request.as_bytes()).unwrap();
        let goes_on = status == 101 || (status == 200 && path.ends_with("/events"));
        let answer = match goes_on {
            true => Answer::read_head(&mut socket),
            false => Answer::read(&mut socket),
        };
        self.check(path, request, status, &answer);
        answer
    }

    /// What was answered must be documented for the path and have the shape that is.
    fn check(&mut self, path: &str, request: &str, status: u16, answer: &Answer) {
        assert_eq!(answer.status, status, "{request:?}: {answer:?}");
        let method = request.split(' ').next().unwrap();
        let operation = &self.document["paths"][path][method.to_lowercase()];
        let wanted = &operation["responses"][status.to_string()];
        assert!(
            wanted.is_object(),
            "{path} {method} {status} is not documented"
        );
        let kind = answer.header("content-type").unwrap_or_default();
        match wanted["content"].as_object() {
            None => assert!(answer.body.is_empty() && kind.is_empty(), "{answer:?}"),
            Some(content) => {
                let (wanted, media) = content.iter().next().unwrap();
                assert!(
                    kind.starts_with(wanted.as_str()),
                    "{path} {method} {status}: {kind}"
                );
                if wanted == "application/json" {
                    check(&self.document, &media["schema"], &answer.json(), path);
                }
            }
        }
        let status = status.to_string();
        self.seen
            .insert((path.to_owned(), method.to_owned(), status));
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn every_documented_answer_comes_and_has_its_shape() {
    let document = document();
    let mut wanted = documented(&document);
    let seen = BTreeSet::new();
    let mut asked = Asked { document, seen };
    of_one_that_is_well(&mut asked);
    of_one_that_is_full(&mut asked);
    of_one_without_its_redis(&mut asked);
    of_one_with_locks(&mut asked);
    of_one_that_has_enough(&mut asked);
    if all() {
        of_one_that_waits(&mut asked);
    } else {
        // Half a minute of nothing: only where there is time.
        wanted.remove(&(
            "/api/rooms/{room}/messages".into(),
            "POST".into(),
            "408".into(),
        ));
    }
    assert_eq!(asked.seen, wanted, "what came, and what is documented");
}

fn of_one_that_is_well(asked: &mut Asked) {
    let server = Server::start(&[]);
    let mut client = Client::new(&server);
    client.ask(json!({"type":"join","room":"a","username":"ann"}));
    for path in ["/health", "/ready", "/metrics"] {
        asked.ask(&server, path, &get(path), 200);
    }
    let messages = "/api/rooms/{room}/messages";
    let full = json!({
        "payload": [1], "metadata": {}, "user_id": "u", "username": "n",
        "id": "018bcfe5-6800-7000-8000-000000000001",
    });
    asked.ask(&server, messages, &post("a", &full.to_string()), 200);
    asked.ask(&server, messages, &post("a", "{\"payload\":1}"), 200);
    asked.ask(&server, messages, &post("a", "{}"), 400);
    asked.ask(&server, messages, &post("%00", "{}"), 400);
    let long = json!({"payload": 1, "metadata": "x".repeat(20_000)}).to_string();
    asked.ask(&server, messages, &post("a", &long), 413);
    let long = json!({"payload": "x".repeat(70_000)}).to_string();
    asked.ask(&server, messages, &post("a", &long), 413);
    let passed_on = post("a", "{\"payload\":1}").replace("Host: a", "Host: a\r\nVia: p");
    asked.ask(&server, messages, &passed_on, 403);
    let history = asked.ask(&server, messages, &get("/api/rooms/a/messages"), 200);
    assert_eq!(history.json()["messages"].as_array().unwrap().len(), 2);
    asked.ask(
        &server,
        messages,
        &get("/api/rooms/a/messages?limit=x"),
        400,
    );
    asked.ask(&server, messages, &get("/api/rooms/@u/messages"), 403);
    let rooms = asked.ask(&server, "/api/rooms", &get("/api/rooms?limit=1"), 200);
    assert_eq!(rooms.json()["rooms"].as_array().unwrap().len(), 1);
    asked.ask(&server, "/api/rooms", &get("/api/rooms?limit=0"), 400);
    let members = "/api/rooms/{room}/members";
    let who = asked.ask(&server, members, &get("/api/rooms/a/members"), 200);
    assert_eq!(who.json()["count"], 1);
    asked.ask(&server, members, &get("/api/rooms//members"), 400);
    asked.ask(&server, members, &get("/api/rooms/@u/members"), 403);
    let events = "/api/rooms/{room}/events";
    asked.ask(&server, events, &get("/api/rooms/a/events"), 200);
    asked.ask(&server, events, &get("/api/rooms//events"), 400);
    asked.ask(&server, events, &get("/api/rooms/@u/events"), 403);
    let kick = |user: &str| get(&format!("/api/users/{user}/connections")).replace("GET", "DELETE");
    let connections = "/api/users/{user_id}/connections";
    asked.ask(&server, connections, &kick("u"), 200);
    asked.ask(&server, connections, &kick("%00"), 400);
    asked.ask(
        &server,
        connections,
        &kick("u").replace("Host", "Via: p\r\nHost"),
        403,
    );
    let upgrade = upgrade_head("/ws");
    asked.ask(&server, "/ws", &upgrade, 101);
    asked.ask(&server, "/ws", &upgrade.replace("/ws", "/ws?room="), 400);
    asked.ask(
        &server,
        "/ws",
        &upgrade.replace("Host", "Origin: http://b\r\nHost"),
        403,
    );
    asked.ask(&server, "/ws", &get("/ws"), 426);
}

fn of_one_that_is_full(asked: &mut Asked) {
    let server = Server::start(&["--max-connections", "1"]);
    let _client = Client::new(&server);
    asked.ask(&server, "/ws", &upgrade_head("/ws"), 503);
    asked.ask(&server, "/ready", &get("/ready"), 503);
    let events = "/api/rooms/{room}/events";
    asked.ask(&server, events, &get("/api/rooms/a/events"), 503);
}

fn of_one_without_its_redis(asked: &mut Asked) {
    // Nobody listens there any more.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let postgres = format!("postgres://nobody@{address}/none");
    let server = Server::start(&["--redis-url", &address, "--postgres-url", &postgres]);
    asked.ask(&server, "/api/rooms", &get("/api/rooms"), 503);
    asked.ask(
        &server,
        "/api/rooms/{room}/members",
        &get("/api/rooms/a/members"),
        503,
    );
    let messages = "/api/rooms/{room}/messages";
    asked.ask(&server, messages, &get("/api/rooms/a/messages"), 503);
    asked.ask(&server, messages, &post("a", "{\"payload\":1}"), 503);
}

const SECRET: &str = "a secret of the tests, thirty-two bytes long";
const KEY: &str = "a-key-of-the-tests";
const LOCKED: [&str; 6] = [
    "--store",
    "memory",
    "--jwt-secret",
    SECRET,
    "--api-key",
    KEY,
];

/// All that can be done, each by one request, and how it is answered where it may be.
fn operations() -> [(&'static str, String, u16); 7] {
    let kick = get("/api/users/u/connections").replace("GET", "DELETE");
    [
        ("/ws", upgrade_head("/ws"), 101),
        ("/api/rooms", get("/api/rooms"), 200),
        (
            "/api/rooms/{room}/messages",
            get("/api/rooms/a/messages"),
            200,
        ),
        (
            "/api/rooms/{room}/messages",
            post("a", "{\"payload\":1}"),
            200,
        ),
        (
            "/api/rooms/{room}/members",
            get("/api/rooms/a/members"),
            200,
        ),
        ("/api/rooms/{room}/events", get("/api/rooms/a/events"), 200),
        ("/api/users/{user_id}/connections", kick, 200),
    ]
}

fn token() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({"sub": "ann", "exp": since.as_secs() + 600});
    Issuer::secret(SECRET).token(&claims)
}

/// A request with a proof, as the scheme of that name shows it.
fn with_proof(document: &Value, scheme: &str, request: &str) -> String {
    let how = &document["components"]["securitySchemes"][scheme];
    let proof = match scheme {
        "apiKey" => KEY.to_owned(),
        _ => token(),
    };
    if how["type"] == "http" {
        assert_eq!(how["scheme"], "bearer");
        let lines = format!("Host: a\r\nAuthorization: Bearer {proof}");
        return request.replacen("Host: a", &lines, 1);
    }
    assert_eq!(
        (&how["type"], &how["in"]),
        (&json!("apiKey"), &json!("query"))
    );
    let name = how["name"].as_str().unwrap();
    let query = format!("?{name}={proof} HTTP/1.1");
    request.replacen(" HTTP/1.1", &query, 1)
}

/// Whether an operation says that this scheme is enough for it, or, by `""`, nothing at all.
fn takes(document: &Value, path: &str, request: &str, scheme: &str) -> bool {
    let method = request.split(' ').next().unwrap().to_lowercase();
    let ways = document["paths"][path][&method]["security"].as_array();
    let is_it = |way: &Value| {
        let mut names = way.as_object().unwrap().keys();
        names.next().map_or("", String::as_str) == scheme
    };
    ways.unwrap().iter().any(is_it)
}

fn of_one_with_locks(asked: &mut Asked) {
    let server = Server::start(&LOCKED);
    let document = asked.document.clone();
    let schemes = document["components"]["securitySchemes"].as_object();
    for (path, request, good) in operations() {
        asked.ask(&server, path, &request, 401);
        assert!(
            takes(&document, path, &request, ""),
            "{path}: it may be open"
        );
        for scheme in schemes.unwrap().keys() {
            let request = with_proof(&document, scheme, &request);
            if takes(&document, path, &request, scheme) {
                asked.ask(&server, path, &request, good);
            } else {
                let status = server.http(request.as_bytes()).status;
                assert!(matches!(status, 401 | 403), "{path} by {scheme}: {status}");
            }
        }
    }
    // What has no lock is open to all.
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(document["paths"][path]["get"]["security"], Value::Null);
        asked.ask(&server, path, &get(path), 200);
    }
}

fn of_one_that_has_enough(asked: &mut Asked) {
    let flags = [&LOCKED[..], &["--rate-limit-address", "1"]].concat();
    let server = Server::start(&flags);
    let document = asked.document.clone();
    for (path, request, _) in operations() {
        let request = with_proof(&document, "token", &request);
        let request = request.replace("Bearer ", "Bearer not");
        // Two at once, and one a second: which one is too many depends on how fast they come.
        let answer = eventually("the address to be over its limit", || {
            Some(server.http(request.as_bytes())).filter(|answer| answer.status == 429)
        });
        asked.check(path, &request, 429, &answer);
    }
}

fn of_one_that_waits(asked: &mut Asked) {
    let server = Server::start(&[]);
    let request = post("a", "{\"payload\":1}");
    let messages = "/api/rooms/{room}/messages";
    let head = &request[..request.len() - 1];
    let mut socket = connect(server.port);
    let patience = std::time::Duration::from_secs(60);
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.write_all(head.as_bytes()).unwrap();
    let answer = Answer::read(&mut socket);
    assert_eq!(answer.status, 408, "{answer:?}");
    check(
        &asked.document,
        &json!({"$ref": "#/components/schemas/Error"}),
        &answer.json(),
        messages,
    );
    asked
        .seen
        .insert((messages.into(), "POST".into(), "408".into()));
}

#[test]
fn every_route_is_documented_and_no_other() {
    let document = document();
    let mut routes = BTreeSet::new();
    for (path, methods) in ROUTES {
        let is_file = path.contains('.') || *path == "/" || *path == "/echo";
        let methods = methods.iter().filter(|_| !is_file);
        routes.extend(methods.map(|method| (path.to_string(), method.to_string())));
    }
    let documented = documented(&document);
    let documented: BTreeSet<_> = documented
        .into_iter()
        .map(|(path, method, _)| (path, method))
        .collect();
    assert_eq!(documented, routes);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (path, item) in document["paths"].as_object().unwrap() {
        let named = item["parameters"].as_array().into_iter().flatten();
        let named: Vec<_> = named.map(|one| one["name"].as_str().unwrap()).collect();
        let holes: Vec<_> = path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap())
            .collect();
        assert_eq!(named, holes, "{path}");
    }
}
