//! Links against a real Redis, on io_uring and on epoll.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command as Process, Stdio};
use std::time::Instant;

use super::*;
use crate::resp::{Address, Input, Kind, Login, Session, Value, push_command};
use crate::runtime::driver::on_each_driver;
use crate::runtime::told::{PATIENCE, Told};

/// A redis-server of its own, ended with it.
struct Server {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[], "--port")
    }

    /// `port`: the option that is given the port.
    fn start_with(options: &[&str], port_option: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let port = free_port();
            let mut process = Process::new("redis-server")
                .args(["--save", "", "--bind", "127.0.0.1", "--dir"])
                .arg(dir.path())
                .args(options)
                .args([port_option, &port.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .expect("redis-server is missing: install redis-server");
            let output = BufReader::new(process.stdout.take().unwrap());
            let mut lines = output.lines().map_while(Result::ok);
            if lines.any(|line| line.contains("eady to accept connections")) {
                // It must not come to wait for who reads its log.
                std::thread::spawn(move || lines.for_each(drop));
                return Self {
                    process,
                    port,
                    _dir: dir,
                };
            }
            // Somebody else was faster to take the port.
            process.wait().unwrap();
        }
        panic!("redis-server does not start");
    }

    fn target(&self) -> Target {
        target(self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn address(port: u16) -> Address {
    Address::parse(&format!("redis://localhost:{port}")).unwrap()
}

fn target(port: u16) -> Target {
    Target::new(address(port)).unwrap()
}

/// Links and what they told.
struct Room {
    links: Links,
    events: Told<LinkEvent>,
}

const COMMANDS: LinkId = LinkId {
    link: Link::Commands,
    life: 1,
};
const SUBSCRIBER: LinkId = LinkId {
    link: Link::Subscriber,
    life: 1,
};

impl Room {
    fn new(target: Target) -> Self {
        let events = Told::new();
        Self {
            links: Links::new(target, events.teller()),
            events,
        }
    }

    async fn event(&mut self) -> LinkEvent {
        self.events.next().await
    }

    async fn broken(&mut self, id: LinkId) -> String {
        loop {
            match self.event().await {
                LinkEvent::Broken(of, why) if of == id => return why,
                LinkEvent::Broken(..) | LinkEvent::Connected(_) => panic!("another event"),
                LinkEvent::Bytes(..) => {}
            }
        }
    }

    /// Connects and logs in.
    async fn open(&mut self, id: LinkId) -> Session {
        self.links.ask(LinkAsk::Connect(id));
        assert_eq!(self.event().await, LinkEvent::Connected(id));
        let kind = match id.link {
            Link::Commands => Kind::Commands,
            Link::Subscriber => Kind::Subscriber,
        };
        let login = Login {
            name: format!("{kind:?}"),
            ..Login::default()
        };
        let mut session = Session::new(login, kind);
        let mut out = Vec::new();
        session.begin(&mut out);
        self.links.ask(LinkAsk::Send(id, out));
        let inputs = self.inputs(id, &mut session, 1).await;
        assert!(matches!(&inputs[..], [Input::Ready { resp3: true, .. }]));
        session
    }

    /// The next `count` inputs.
    async fn inputs(&mut self, id: LinkId, session: &mut Session, count: usize) -> Vec<Input> {
        let (mut out, mut inputs) = (Vec::new(), Vec::new());
        while inputs.len() < count {
            match self.event().await {
                LinkEvent::Bytes(of, mut bytes) if of == id => {
                    session.on_bytes(&mut bytes, &mut out, &mut inputs).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(inputs.len(), count);
        inputs
    }

    fn send(&mut self, id: LinkId, args: &[&str]) {
        let args: Vec<_> = args.iter().map(|arg| arg.as_bytes()).collect();
        let mut out = Vec::new();
        push_command(&mut out, &args);
        self.links.ask(LinkAsk::Send(id, out));
    }
}

/// Lets other tasks run until `is_so`.
async fn until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it does not come to be so");
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What real ones answer to logins, right and wrong.
#[test]
fn logins() {
    let server = Server::start_with(&["--requirepass", "p w"], "--port");
    on_each_driver(async || {
        for (login, want) in [
            ("", "Refused(Refusal { cause: NoAuth"),
            (":wrong@", "Refused(Refusal { cause: WrongPass"),
            ("default:p%20w@", "Ready { version: Some(\"7"),
            (":p%20w@", "role: Some(\"master\"), resp3: true }"),
        ] {
            let text = format!("redis://{login}localhost:{}/3", server.port);
            let address = Address::parse(&text).unwrap();
            let mut session = Session::new(address.login("with blanks"), Kind::Commands);
            let mut room = Room::new(Target::new(address).unwrap());
            room.links.ask(LinkAsk::Connect(COMMANDS));
            assert_eq!(room.event().await, LinkEvent::Connected(COMMANDS));
            let (mut out, mut inputs) = (Vec::new(), Vec::new());
            session.begin(&mut out);
            while inputs.is_empty() {
                room.links
                    .ask(LinkAsk::Send(COMMANDS, std::mem::take(&mut out)));
                let LinkEvent::Bytes(_, mut bytes) = room.event().await else {
                    panic!("another event");
                };
                session.on_bytes(&mut bytes, &mut out, &mut inputs).unwrap();
            }
            let told = format!("{inputs:?}");
            assert!(told.contains(want), "{login}: {told}");
            if session.is_ready() {
                assert_eq!(session.mode(), Some("standalone"));
                room.send(COMMANDS, &["CLIENT", "INFO"]);
                let inputs = room.inputs(COMMANDS, &mut session, 1).await;
                let told = format!("{inputs:?}");
                assert!(
                    told.contains("name=with-blanks") && told.contains("db=3"),
                    "{told}"
                );
            }
        }
    });
}

#[test]
fn commands_and_messages() {
    const MESSAGES: usize = 10_000;
    let server = Server::start();
    on_each_driver(async || {
        let mut room = Room::new(server.target());
        let mut commands = room.open(COMMANDS).await;
        // Many asks, large and small.
        for _ in 0..500 {
            room.send(COMMANDS, &["PING"]);
        }
        let large = "x".repeat(3_000_000);
        room.send(COMMANDS, &["ECHO", &large]);
        let inputs = room.inputs(COMMANDS, &mut commands, 501).await;
        let pong = Input::Reply(Value::Text("PONG".into()));
        assert!(inputs[..500].iter().all(|input| *input == pong));
        assert!(
            matches!(&inputs[500], Input::Reply(Value::Text(text)) if text[..] == *large.as_bytes())
        );

        let mut subscriber = room.open(SUBSCRIBER).await;
        room.send(SUBSCRIBER, &["SUBSCRIBE", "room"]);
        let inputs = room.inputs(SUBSCRIBER, &mut subscriber, 1).await;
        assert_eq!(inputs, [Input::Subscribed("room".into())]);
        for n in 0..MESSAGES {
            room.send(COMMANDS, &["PUBLISH", "room", &format!("message {n}")]);
        }
        let (mut replies, mut messages) = (Vec::new(), Vec::new());
        while replies.len() < MESSAGES || messages.len() < MESSAGES {
            let LinkEvent::Bytes(id, mut bytes) = room.event().await else {
                panic!("another event");
            };
            let (session, inputs) = match id {
                COMMANDS => (&mut commands, &mut replies),
                _ => (&mut subscriber, &mut messages),
            };
            session
                .on_bytes(&mut bytes, &mut Vec::new(), inputs)
                .unwrap();
        }
        for (n, input) in messages.iter().enumerate() {
            let payload = format!("message {n}").into();
            let channel = "room".into();
            assert_eq!(*input, Input::Message { channel, payload });
        }
        assert!(
            replies
                .iter()
                .all(|input| *input == Input::Reply(Value::Number(1)))
        );
        assert_eq!((replies.len(), messages.len()), (MESSAGES, MESSAGES));
    });
}

/// What is flushed and what the writer sends is one stream, however full the socket is.
#[test]
fn flushes_keep_the_order() {
    const COMMANDS_SENT: usize = 300;
    let server = Server::start();
    let padding = "x".repeat(100_000);
    on_each_driver(async || {
        let mut room = Room::new(server.target());
        let mut session = room.open(COMMANDS).await;
        for n in 0..COMMANDS_SENT {
            let text = format!("{n} {}", if n % 3 == 0 { "" } else { &padding });
            room.send(COMMANDS, &["ECHO", &text]);
            if n % 2 == 0 {
                room.links.flush();
            }
            if n % 5 == 0 {
                // The writer runs, and its write stays under way.
                monoio::spawn(async {}).await;
            }
        }
        room.links.flush();
        let inputs = room.inputs(COMMANDS, &mut session, COMMANDS_SENT).await;
        for (n, input) in inputs.iter().enumerate() {
            let Input::Reply(Value::Text(text)) = input else {
                panic!("{input:?}");
            };
            let head = text.split(|&b| b == b' ').next().unwrap();
            assert_eq!(head, n.to_string().as_bytes());
        }
        // Nothing waits: it goes at once, without the writer.
        room.send(COMMANDS, &["PING"]);
        room.links.flush();
        let wire = room.links.wire(Link::Commands).clone().unwrap();
        assert!(wire.queue.borrow().is_empty());
        let inputs = room.inputs(COMMANDS, &mut session, 1).await;
        assert_eq!(inputs, [Input::Reply(Value::Text("PONG".into()))]);
    });
}

#[test]
fn a_closed_link_leaves_nothing() {
    let server = Server::start();
    on_each_driver(async || {
        let mut room = Room::new(server.target());
        room.open(SUBSCRIBER).await;
        let mut commands = room.open(COMMANDS).await;
        let wire = Rc::downgrade(room.links.wire(Link::Subscriber).as_ref().unwrap());
        room.links.ask(LinkAsk::Close(SUBSCRIBER));
        // Both tasks held it, and with it their halves of the stream.
        until(|| wire.strong_count() == 0).await;
        // Redis sees it go.
        loop {
            room.send(COMMANDS, &["CLIENT", "LIST"]);
            let inputs = room.inputs(COMMANDS, &mut commands, 1).await;
            let list = format!("{inputs:?}");
            assert!(list.contains("name=Commands"), "{list}");
            if !list.contains("name=Subscriber") {
                break;
            }
        }
        // What is late is for nobody; the next life is another one.
        room.links.ask(LinkAsk::Send(SUBSCRIBER, b"x".to_vec()));
        room.links.ask(LinkAsk::Close(SUBSCRIBER));
        let next = LinkId {
            life: 2,
            ..SUBSCRIBER
        };
        room.open(next).await;
        // A connect ends the life before; one that is under way is ended as well.
        let wire = Rc::downgrade(room.links.wire(Link::Subscriber).as_ref().unwrap());
        for life in 3..6 {
            room.links.ask(LinkAsk::Connect(LinkId { life, ..next }));
        }
        until(|| wire.strong_count() == 0).await;
        assert_eq!(
            room.event().await,
            LinkEvent::Connected(LinkId { life: 5, ..next })
        );
        // With the links all of it ends.
        let wire = Rc::downgrade(room.links.wire(Link::Commands).as_ref().unwrap());
        let Room { links, events } = room;
        drop(links);
        until(|| wire.strong_count() == 0).await;
        assert_eq!(events.rest(), []);
    });
}

#[test]
fn nobody_listens() {
    let port = free_port();
    on_each_driver(async || {
        let mut room = Room::new(target(port));
        room.links.ask(LinkAsk::Connect(COMMANDS));
        let why = room.broken(COMMANDS).await;
        assert!(
            why.contains("nothing listens there") && why.contains(&port.to_string()),
            "{why}"
        );
        assert!(!why.contains('\n'), "{why}");
    });
}

#[test]
fn no_such_name() {
    on_each_driver(async || {
        let address = Address::parse("redis://:secret@no-such-host.invalid").unwrap();
        let mut room = Room::new(Target::new(address).unwrap());
        room.links.ask(LinkAsk::Connect(COMMANDS));
        let why = room.broken(COMMANDS).await;
        assert!(
            why.contains("no-such-host.invalid") && !why.contains("secret"),
            "{why}"
        );
    });
}

/// A listener whose queue is full answers no SYN.
#[test]
fn nobody_answers() {
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    let listener = listener.unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&listener, &any).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let place = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = StdStream::connect_timeout(&place, Duration::from_millis(200)) {
        queued.push(stream);
    }
    on_each_driver(async || {
        let mut room = Room::new(target(place.port()));
        let began = Instant::now();
        room.links.ask(LinkAsk::Connect(COMMANDS));
        let why = room.broken(COMMANDS).await;
        assert!(why.contains("firewall"), "{why}");
        let took = began.elapsed().as_millis() as u64;
        assert!(
            (LINK_CONNECT_MS - 100..LINK_CONNECT_MS + 1500).contains(&took),
            "{took} ms"
        );
    });
}

#[test]
fn a_killed_server_breaks_its_links() {
    on_each_driver(async || {
        let mut server = Server::start();
        let mut room = Room::new(server.target());
        room.open(COMMANDS).await;
        server.process.kill().unwrap();
        let why = room.broken(COMMANDS).await;
        assert!(why.contains("closed") || why.contains("broken"), "{why}");
        let wire = Rc::downgrade(room.links.wire(Link::Commands).as_ref().unwrap());
        room.links.ask(LinkAsk::Close(COMMANDS));
        until(|| wire.strong_count() == 0).await;
    });
}

#[test]
fn what_is_not_taken_has_a_bound() {
    on_each_driver(async || {
        // Connections are made, and nobody reads.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut room = Room::new(target(listener.local_addr().unwrap().port()));
        room.links.ask(LinkAsk::Connect(COMMANDS));
        assert_eq!(room.event().await, LinkEvent::Connected(COMMANDS));
        for _ in 0..2 {
            room.links
                .ask(LinkAsk::Send(COMMANDS, vec![0; LINK_QUEUE_BYTES_MAX]));
            // The first is in the writer's hands before the second comes.
            monoio::spawn(async {}).await;
        }
        room.links.ask(LinkAsk::Send(COMMANDS, vec![0; 1]));
        let why = room.broken(COMMANDS).await;
        assert!(why.contains("takes less than it is sent"), "{why}");
    });
}

/// A Redis that speaks TLS only, and what a client must trust.
fn server_of_tls() -> (Server, rustls::RootCertStore) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate", "key"].map(|name| dir.path().join(name));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let [certificate, key] = [&certificate, &key].map(|path| path.to_str().unwrap());
    let options = [
        ["--port", "0"],
        ["--tls-cert-file", certificate],
        ["--tls-key-file", key],
        ["--tls-ca-cert-file", certificate],
        ["--tls-auth-clients", "no"],
    ];
    let server = Server::start_with(options.as_flattened(), "--tls-port");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    (server, roots)
}

#[test]
fn tls() {
    let (server, roots) = server_of_tls();
    on_each_driver(async || {
        let mut room = Room::new(Target::trusting(address(server.port), roots.clone()));
        let mut commands = room.open(COMMANDS).await;
        let large = "x".repeat(1_000_000);
        for _ in 0..3 {
            room.send(COMMANDS, &["ECHO", &large]);
        }
        for input in room.inputs(COMMANDS, &mut commands, 3).await {
            assert!(
                matches!(input, Input::Reply(Value::Text(text)) if text[..] == *large.as_bytes())
            );
        }
        // Whom we do not trust.
        let (_, others) = &server_of_tls();
        let mut room = Room::new(Target::trusting(address(server.port), others.clone()));
        room.links.ask(LinkAsk::Connect(COMMANDS));
        let why = room.broken(COMMANDS).await;
        assert!(
            why.contains("certificate") && why.contains("SSL_CERT_FILE"),
            "{why}"
        );
    });
}

#[test]
fn tls_where_there_is_none() {
    let server = Server::start();
    let (of_tls, roots) = server_of_tls();
    on_each_driver(async || {
        let mut room = Room::new(Target::trusting(address(server.port), roots.clone()));
        room.links.ask(LinkAsk::Connect(COMMANDS));
        let why = room.broken(COMMANDS).await;
        assert!(why.contains("TLS"), "{why}");
        // And the other way round: what its session says of the alert.
        let mut room = Room::new(of_tls.target());
        room.links.ask(LinkAsk::Connect(COMMANDS));
        assert_eq!(room.event().await, LinkEvent::Connected(COMMANDS));
        room.send(COMMANDS, &["PING"]);
        let mut session = Session::new(Login::default(), Kind::Commands);
        session.begin(&mut Vec::new());
        match room.event().await {
            LinkEvent::Bytes(_, mut bytes) => {
                let result = session.on_bytes(&mut bytes, &mut Vec::new(), &mut Vec::new());
                assert!(result.unwrap_err().to_string().contains("rediss://"));
            }
            // Redis has closed it without an alert.
            LinkEvent::Broken(..) => {}
            LinkEvent::Connected(_) => panic!("connected twice"),
        }
    });
}
