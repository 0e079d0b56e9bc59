//! Links against a real PostgreSQL, on io_uring and on epoll.

use std::net::TcpListener;

use rustix::process::Signal;

use super::*;
use crate::pg::{Answer, Conninfo, CopyBuffer, Param};
use crate::runtime::driver::on_each_driver;
use crate::runtime::told::Told;

mod redis {
    /// A port that nobody has at the moment.
    pub(crate) fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap().port()
    }
}

mod support {
    use std::time::{Duration, Instant};

    pub(super) use crate::runtime::told::PATIENCE;

    /// Asks until there is an answer.
    pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[path = "../../../tests/cluster/postgres.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod postgres;

use postgres::Postgres;

/// A link and what it told.
struct Room {
    link: Link,
    events: Told<Event>,
}

impl Room {
    fn new(url: &str) -> Self {
        Self::with(url, 10_000)
    }

    fn with(url: &str, answer_ms: u64) -> Self {
        let info = Conninfo::parse(url, |_| None).unwrap();
        let target = Target::new(info).unwrap();
        let events = Told::new();
        let options = LinkOptions {
            name: "a link".into(),
            settings: vec![("statement_timeout".into(), "9000".into())],
            answer_ms,
        };
        Self {
            link: Link::open(target, options, events.teller()),
            events,
        }
    }

    async fn event(&mut self) -> Event {
        self.events.next().await
    }

    async fn up(&mut self) -> ServerInfo {
        loop {
            match self.event().await {
                Event::Up(info) => return info,
                Event::Down { why, .. } => println!("{why}"),
                Event::Notice(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn down(&mut self) -> Refusal {
        loop {
            match self.event().await {
                Event::Down { why, .. } => return why,
                Event::Up(_) => panic!("it is up"),
                _ => {}
            }
        }
    }

    async fn answer(&mut self) -> Result<Answer, Refusal> {
        match self.event().await {
            Event::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Answer, Refusal> {
        self.link.send(request).unwrap();
        self.answer().await
    }

    async fn sql(&mut self, sql: &'static str) -> Answer {
        let answer = self.ask(Request::simple(sql)).await;
        answer.unwrap_or_else(|why| panic!("{sql}: {why}"))
    }
}

#[test]
fn every_way_to_be_let_in() {
    let postgres = Postgres::start(&[]);
    postgres.sql(
        "SET password_encryption = 'md5'; CREATE USER md PASSWORD 's3cret';
         SET password_encryption = 'scram-sha-256'; CREATE USER sc PASSWORD 's3cret é';
         CREATE USER cl PASSWORD 's3cret'; CREATE USER tr",
    );
    postgres.set_hba(&[
        "host all md 127.0.0.1/32 md5",
        "host all sc 127.0.0.1/32 scram-sha-256",
        "host all cl 127.0.0.1/32 password",
        "host all tr 127.0.0.1/32 trust",
    ]);
    on_each_driver(async || {
        for user in ["md:s3cret", "sc:s3cret%20%C3%A9", "tr"] {
            let mut room = Room::new(&postgres.url_as(user));
            let info = room.up().await;
            assert!(!info.is_standby && !info.is_read_only && !info.version.is_empty());
            let answer = room.sql("SELECT current_user, current_setting('statement_timeout')");
            let answer = answer.await;
            assert_eq!(answer.rows[0].text(0), Some(&user[..2]));
            assert_eq!(answer.rows[0].text(1), Some("9s"));
        }
        let mut room = Room::new(&postgres.socket_url());
        room.up().await;
        postgres.write("pass", "# of tests\n127.0.0.1:*:*:sc:s3cret \u{e9}\n");
        let path = postgres.path("pass");
        let url = format!("{}?passfile={}", postgres.url_as("sc"), path.display());
        Room::new(&url).up().await;
        for (user, cause, part) in [
            ("sc:wrong", Cause::Login, "password authentication failed"),
            ("md:wrong", Cause::Login, "password authentication failed"),
            ("sc", Cause::Login, "a password is wanted of the user sc"),
            ("cl:s3cret", Cause::Login, "in clear, without TLS"),
            ("nobody", Cause::Login, "no pg_hba.conf entry"),
        ] {
            let why = Room::new(&postgres.url_as(user)).down().await;
            assert_eq!(why.cause, cause, "{user}: {why}");
            let line = why.explain();
            assert!(line.contains(part), "{user}: {line}");
            assert!(!line.contains("s3cret"), "{user}: {line}");
        }
        let url = postgres.url_as("tr");
        let url = url.strip_suffix("postgres").unwrap();
        let why = Room::new(&format!("{url}nowhere")).down().await;
        assert_eq!(why.cause, Cause::NoDatabase, "{why}");
    });
}

/// A certificate and its key for that name, as PEM.
fn certificate(name: &str) -> (String, String) {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (certified.cert.pem(), certified.signing_key.serialize_pem())
}

#[test]
fn tls_as_sslmode_asks_for_it() {
    let postgres = Postgres::start(&[]);
    let (cert, key) = certificate("localhost");
    postgres.set_tls(&cert, &key);
    postgres.write("ca.pem", &cert);
    postgres.write("other.pem", &certificate("localhost").0);
    postgres
        .sql("CREATE USER sc PASSWORD 's3cret'; CREATE USER cl PASSWORD 's3cret'; CREATE USER tls");
    postgres.set_hba(&[
        "hostssl all sc 127.0.0.1/32 scram-sha-256",
        "hostssl all cl 127.0.0.1/32 password",
        "hostssl all tls 127.0.0.1/32 trust",
    ]);
    let url = |user: &str, host: &str, query: &str| {
        let (ca, other) = (postgres.path("ca.pem"), postgres.path("other.pem"));
        let query = query
            .replace("CA", ca.to_str().unwrap())
            .replace("OTHER", other.to_str().unwrap());
        format!(
            "postgres://{user}@{host}:{}/postgres?{query}",
            postgres.port
        )
    };
    let is_tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    on_each_driver(async || {
        for (user, host, query) in [
            ("tls", "127.0.0.1", "sslmode=prefer"),
            ("tls", "127.0.0.1", "sslmode=require"),
            ("cl:s3cret", "127.0.0.1", "sslmode=require"),
            ("sc:s3cret", "127.0.0.1", "sslmode=verify-ca&sslrootcert=CA"),
            (
                "sc:s3cret",
                "localhost",
                "sslmode=verify-full&sslrootcert=CA",
            ),
        ] {
            let mut room = Room::new(&url(user, host, query));
            room.up().await;
            let answer = room.sql(is_tls).await;
            assert_eq!(answer.rows[0].bool(0), Some(true), "{query}");
            // More than a record, both ways.
            let text = "x".repeat(1_000_000);
            let request = Request::query("SELECT $1", vec![Param::Text(text.clone())]);
            let answer = room.ask(request).await.unwrap();
            assert_eq!(answer.rows[0].text(0), Some(&text[..]));
        }
        for (host, query, part) in [
            (
                "127.0.0.1",
                "sslmode=verify-full&sslrootcert=CA",
                "must name the host",
            ),
            (
                "localhost",
                "sslmode=verify-full&sslrootcert=OTHER",
                "TLS with PostgreSQL",
            ),
            (
                "127.0.0.1",
                "sslmode=require&sslrootcert=OTHER",
                "TLS with PostgreSQL",
            ),
        ] {
            let why = Room::new(&url("tls", host, query)).down().await;
            assert_eq!(why.cause, Cause::Tls, "{query}: {why}");
            assert!(why.explain().contains(part), "{query}: {why}");
        }
        let why = Room::new(&url("tls", "127.0.0.1", "sslmode=disable"));
        let why = { why }.down().await;
        assert_eq!(why.cause, Cause::Login, "{why}");
    });
    let plain = Postgres::start(&[]);
    on_each_driver(async || {
        let url = format!("{}?sslmode=require", plain.url());
        let why = Room::new(&url).down().await;
        assert_eq!(why.cause, Cause::Tls);
        assert!(why.explain().contains("speaks no TLS"), "{why}");
    });
}

#[test]
fn the_host_that_will_do_is_found() {
    let (one, two) = (Postgres::start(&[]), Postgres::start(&[]));
    one.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    one.reload();
    let nobody = redis::free_port();
    let url = |attrs: &str| {
        format!(
            "postgres://postgres@127.0.0.1:{nobody},127.0.0.1:{},127.0.0.1:{}/postgres?\
             target_session_attrs={attrs}",
            one.port, two.port
        )
    };
    let at = |postgres: &Postgres| format!("127.0.0.1:{}", postgres.port);
    on_each_driver(async || {
        for (attrs, want) in [
            ("any", at(&one)),
            ("read-only", at(&one)),
            ("read-write", at(&two)),
            ("primary", at(&one)),
            ("prefer-standby", at(&one)),
        ] {
            assert_eq!(Room::new(&url(attrs)).up().await.place, want, "{attrs}");
        }
        let why = Room::new(&url("standby")).down().await;
        assert_eq!(why.cause, Cause::ReadOnly);
        assert!(why.explain().contains("target_session_attrs"), "{why}");
    });
}

#[test]
fn rows_are_copied_and_their_buffer_comes_back() {
    let postgres = Postgres::start(&[]);
    on_each_driver(async || {
        let mut room = Room::new(&postgres.url());
        room.up().await;
        room.sql("CREATE TEMP TABLE t (n bigint, s text)").await;
        let mut buffer = Vec::new();
        let text = "x".repeat(100);
        for round in 1..=3 {
            let mut copy = CopyBuffer::reuse(buffer);
            for n in 0..20_000 {
                copy.row(2).bigint(n).text(&text);
            }
            let rows = copy.finish();
            let place = rows.as_ptr();
            let copy = Request::copy("COPY t FROM STDIN (FORMAT binary)", rows);
            room.link.send(copy).unwrap();
            room.link
                .send(Request::simple("SELECT count(*) FROM t"))
                .unwrap();
            let Event::Returned(back) = room.event().await else {
                panic!("the buffer comes first");
            };
            assert!(back.is_empty() && back.as_ptr() == place);
            buffer = back;
            assert_eq!(room.answer().await.unwrap().affected(0), 20_000);
            let count = room.answer().await.unwrap().rows[0].int(0);
            assert_eq!(count, Some(round * 20_000));
        }
    });
}

#[test]
fn a_server_that_goes_is_told_and_found_again() {
    on_each_driver(async || {
        let mut postgres = Postgres::start(&[]);
        let mut room = Room::new(&postgres.url());
        room.up().await;
        room.link
            .send(Request::simple("SELECT pg_sleep(60)"))
            .unwrap();
        postgres.kill();
        assert_eq!(room.down().await.cause, Cause::Away);
        assert!(room.link.send(Request::simple("SELECT 1")).is_err());
        let why = room.down().await;
        assert!(why.explain().contains("nothing listens there"), "{why}");
        postgres.up();
        room.up().await;
        room.sql("SELECT 1").await;
        postgres.shut_down();
        let why = room.down().await;
        assert_eq!((why.cause, why.sqlstate.as_str()), (Cause::Away, "57P01"));
        postgres.up();
        room.up().await;
        // A backend that is killed takes all others with it.
        let pid = postgres.backend("a link").unwrap();
        postgres.sql(&format!("SELECT pg_terminate_backend({pid})"));
        assert_eq!(room.down().await.cause, Cause::Away);
        room.up().await;
    });
}

#[test]
fn what_is_not_answered_is_cancelled_or_given_up() {
    let postgres = Postgres::start(&[]);
    on_each_driver(async || {
        let mut room = Room::with(&postgres.url(), 200);
        room.up().await;
        let why = room.ask(Request::simple("SELECT pg_sleep(60)")).await;
        assert_eq!(why.unwrap_err().cause, Cause::Cancelled);
        room.sql("SELECT 1").await;
        // One that is stopped hears no cancel either.
        let pid = postgres.backend("a link").unwrap();
        let stopped = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(stopped, Signal::STOP).unwrap();
        room.link.send(Request::simple("SELECT 1")).unwrap();
        assert_eq!(room.down().await.cause, Cause::Silent);
        room.up().await;
        rustix::process::kill_process(stopped, Signal::CONT).unwrap();
        room.sql("SELECT 1").await;
    });
}

#[test]
fn who_does_not_answer_or_is_no_postgres_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let of = |port: u16, query: &str| format!("postgres://me@127.0.0.1:{port}/d?{query}");
    let talker = TcpListener::bind("127.0.0.1:0").unwrap();
    let talks = talker.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in talker.incoming() {
            let mut socket = socket.unwrap();
            let _ = io::Write::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    on_each_driver(async || {
        for mode in ["disable", "prefer"] {
            let query = format!("connect_timeout=2&sslmode={mode}");
            let why = Room::new(&of(port, &query)).down().await;
            assert_eq!(why.cause, Cause::Away);
            assert!(why.explain().contains("has not answered"), "{why}");
            let why = Room::new(&of(talks, &query)).down().await;
            assert_eq!(why.cause, Cause::Protocol, "{why}");
        }
        let why = Room::new("postgres://me@no-such-name.invalid/d")
            .down()
            .await;
        assert!(why.explain().contains("looked up"), "{why}");
    });
}

#[test]
fn as_many_connections_as_there_may_be() {
    let postgres = Postgres::start(&["max_connections=4", "superuser_reserved_connections=1"]);
    postgres.sql("CREATE USER me");
    on_each_driver(async || {
        let mut rooms: Vec<_> = (0..3).map(|_| Room::new(&postgres.url_as("me"))).collect();
        for room in &mut rooms {
            room.up().await;
        }
        let mut room = Room::new(&postgres.url_as("me"));
        let why = room.down().await;
        assert_eq!(why.cause, Cause::TooManyConnections, "{why}");
        drop(rooms);
        room.up().await;
    });
}
