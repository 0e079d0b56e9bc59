//! TLS served directly: stock clients, half and broken handshakes, certificates that are changed
//! under way, and slow readers, who meet the same rules as without it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

use crate::sealed::{Authority, Sealed, Wss};
use crate::support::{
    PATIENCE, all, connect, connect_narrow, eventually, post, read_to_end, ringcast, skip,
    upgrade_head,
};

/// Runs a program; what it printed. `None`: it is not here.
fn run(command: &mut Command) -> Option<String> {
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}\n{errors}");
    Some(said)
}

#[test]
fn curl_gets_pages_by_each_version_of_tls_and_http_1_1() {
    let sealed = Sealed::start(&[]);
    for (version, spoken) in [("1.2", "--tls-max"), ("1.3", "--tlsv1.3")] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http2", "--cacert"])
            .arg(sealed.file("ca.pem"));
        curl.arg(spoken);
        if spoken == "--tls-max" {
            curl.arg(version);
        }
        curl.args(["-w", "\n%{http_version} %{http_code}"]);
        curl.arg(format!("https://localhost:{}/health", sealed.server.port));
        let said = run(&mut curl).unwrap();
        assert!(said.contains("\"status\":\"ok\""), "{said}");
        assert!(said.ends_with("\n1.1 200"), "{said}");
    }
    let page = sealed.get("/");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    assert!(page.len() > 1000 && page.contains("<html"));
}

/// A chat by npm's `ws`, which knows the authority and nothing else.
#[test]
fn a_stock_websocket_client_chats_by_wss() {
    let ws = match crate::npm::package("ws") {
        Ok(dir) if dir.exists() => dir,
        Ok(_) => return skip("npm's ws is not among what was installed"),
        Err(why) => return skip(&why),
    };
    let sealed = Sealed::start(&[]);
    let script = "
        const WebSocket = require(process.argv[1]);
        const ca = require('fs').readFileSync(process.argv[2]);
        const ws = new WebSocket(process.argv[3], { ca });
        let n = 0;
        ws.on('message', (data) => {
          const frame = JSON.parse(data);
          if (frame.type === 'joined')
            for (let i = 0; i < 100; i++)
              ws.send(JSON.stringify({ type: 'publish', room: 'r', payload: 'x'.repeat(i * 300) }));
          const is = (f) => f.offset === ++n && f.payload.length === 300 * (n - 1);
          if (frame.type === 'message' && !is(frame))
            throw new Error(JSON.stringify(frame).slice(0, 200));
          if (n === 100) ws.close(1000);
        });
        ws.on('open', () => ws.send(JSON.stringify({ type: 'join', room: 'r' })));
        ws.on('close', (code) => console.log('closed', code, n));
    ";
    let mut node = Command::new("node");
    node.args(["-e", script]).arg(ws).arg(sealed.file("ca.pem"));
    node.arg(format!("wss://localhost:{}/ws", sealed.server.port));
    assert_eq!(run(&mut node).unwrap().trim(), "closed 1000 100");
}

#[test]
fn the_health_check_speaks_tls_too() {
    let sealed = Sealed::start(&[]);
    let port = sealed.server.port.to_string();
    let path = |name: &str| sealed.file(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let args = [
        "health",
        "--port",
        &port,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ];
    let said = run(&mut ringcast(&args)).unwrap();
    assert!(said.contains("\"status\":\"ok\""), "{said}");
}

/// What a room had while one was away comes again over TLS, whole; and all that is published comes
/// to members on both shards.
#[test]
fn resume_and_fan_out_go_by_tls() {
    let sealed = Sealed::start(&[]);
    let mut publisher = Wss::open(&sealed);
    let epoch = publisher.join("r")["epoch"].clone();
    let payload = "y".repeat(2_000);
    for n in 0..500 {
        publisher.send(&json!({"type":"publish","room":"r","payload":payload,"ref":n}));
    }
    for n in 1..=500_u64 {
        assert_eq!(publisher.next("message")["offset"], n);
    }
    let mut members: Vec<_> = (0..10).map(|_| Wss::open(&sealed)).collect();
    for member in &mut members {
        let since = json!({"epoch":epoch,"offset":3});
        member.send(&json!({"type":"join","room":"r","since":since}));
        assert_eq!(member.next("joined")["recovered"], true);
    }
    for _ in 0..200 {
        publisher.send(&json!({"type":"publish","room":"r","payload":payload}));
    }
    for member in &mut members {
        for n in 4..=700_u64 {
            assert_eq!(member.next("message")["offset"], n);
        }
    }
}

/// FAULTS C1, C2: over TLS as without: who does not read is told by `gap` once it reads on, or
/// closed with 4002 when it takes no byte for 10 s, and costs bounded memory.
#[test]
fn slow_readers_meet_the_same_rules() {
    let flags = [
        "--shards",
        "1",
        "--room-log-bytes",
        "1MiB",
        "--store",
        "memory",
    ];
    let sealed = Sealed::start(&flags);
    let mut slow = Wss::over(&sealed, connect_narrow(sealed.server.port));
    slow.join("r");
    let mut never = Wss::over(&sealed, connect_narrow(sealed.server.port));
    never.join("r");
    let mut publisher = Wss::open(&sealed);
    let before = sealed.server.memory_kib();
    let payload = "z".repeat(8_000);
    let publish = |publisher: &mut Wss, count: u64| {
        for n in 0..count {
            publisher.send(&json!({"type":"publish","room":"r","payload":payload,"ref":n}));
            assert_eq!(publisher.next("ack")["ref"], n);
        }
    };
    publish(&mut publisher, 3_000);
    let grown = sealed.server.memory_kib().saturating_sub(before);
    assert!(
        grown < 10 * 1024 + 2 * 1024,
        "{grown} KiB for 24 MB that nobody read"
    );
    // What was on its way comes whole and in order, then what was missed is told.
    let mut next = 1;
    loop {
        let frame = slow.recv();
        match frame["type"].as_str().unwrap() {
            "message" => {
                assert_eq!(frame["offset"], next);
                next += 1;
            }
            "gap" => {
                assert_eq!(frame["from"], next);
                next = frame["to"].as_u64().unwrap() + 1;
            }
            other => panic!("{other}"),
        }
        if next == 3_001 {
            break;
        }
    }
    // The other one is closed by the clock; it was full all the time.
    eventually("a slow consumer is closed", || {
        let page = sealed.get("/metrics");
        let line = "ringcast_slow_consumers_total{action=\"disconnect\"} 1";
        page.contains(line).then_some(())
    });
    drop(never);
}

/// One who reads a little at a time is not closed: it takes bytes.
#[test]
fn who_takes_bytes_is_not_closed() {
    let sealed = Sealed::start(&["--shards", "1", "--store", "memory"]);
    let socket = connect_narrow(sealed.server.port);
    let mut slow = Wss::over(&sealed, socket);
    slow.join("r");
    let mut publisher = Wss::open(&sealed);
    let payload = "z".repeat(30_000);
    for n in 0..30 {
        publisher.send(&json!({"type":"publish","room":"r","payload":payload,"ref":n}));
        publisher.next("ack");
    }
    // Longer than who takes nothing may take.
    let pause = Duration::from_millis(if all() { 600 } else { 20 });
    for n in 1..=30_u64 {
        thread::sleep(pause);
        assert_eq!(slow.next("message")["offset"], n);
    }
    assert_eq!(sealed.metric("panics_total"), 0);
}

/// FAULTS B10, B19: half a handshake, or none, is ended by the handshake's deadline; bytes that are
/// no TLS at once, with a line in the log for each, short and escaped; others are served meanwhile.
#[test]
fn broken_handshakes_end_by_themselves() {
    let sealed = Sealed::start(&["--handshake-timeout", "1s", "--shards", "1"]);
    let files = sealed.server.files_at_rest();
    let hello = client_hello(&sealed);
    let mut half: Vec<_> = [0, 1, 5, hello.len() / 2, hello.len() - 1, hello.len()]
        .into_iter()
        .map(|bytes| {
            let mut socket = connect(sealed.server.port);
            socket.write_all(&hello[..bytes]).unwrap();
            socket
        })
        .collect();
    let garbage: [&[u8]; 5] = [
        b"\x00\x01\x02\x03 what is this\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\xff\xff\x01",
        b"\x16\x03\x01\x00\x02\x01\x00\x15\x03\x01\x00\x02\x02\x28",
        &[0x80; 4096],
    ];
    for bytes in garbage {
        let mut socket = connect(sealed.server.port);
        socket.write_all(bytes).unwrap();
        read_to_end(&mut socket);
    }
    assert!(sealed.get("/health").contains("\"status\":\"ok\""));
    for socket in &mut half {
        let answered = read_to_end(socket);
        assert!(answered.len() < 8 * 1024);
    }
    let log = eventually("each is logged", || {
        let log = sealed.server.log();
        let count = log.matches("a connection was refused").count();
        (count == garbage.len()).then_some(log)
    });
    let lines = log
        .lines()
        .filter(|line| line.contains("a connection was refused"));
    for line in lines {
        assert!(line.contains("127.0.0.1") && line.len() < 400, "{line}");
        assert!(!line.contains(char::is_control), "{line}");
    }
    eventually("all files are closed", || {
        (sealed.server.files() <= files).then_some(())
    });
}

/// The first message of a client.
fn client_hello(sealed: &Sealed) -> Vec<u8> {
    let mut hello = Vec::new();
    sealed.session().write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn http_without_tls_is_told_so() {
    let sealed = Sealed::start(&[]);
    let answer = sealed.server.get("/health");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("https://"), "{answer:?}");
    eventually("it is logged", || {
        let log = sealed.server.log();
        log.contains("speaks TLS, and this is none").then_some(())
    });
}

/// A client that trusts nobody ends the handshake; that is logged and costs nothing more.
#[test]
fn who_does_not_trust_us_goes() {
    let sealed = Sealed::start(&[]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(RootCertStore::empty());
    let name = ServerName::try_from("localhost").unwrap();
    let config = Arc::new(builder.with_no_client_auth());
    let client = ClientConnection::new(config, name).unwrap();
    let mut stream = StreamOwned::new(client, connect(sealed.server.port));
    let error = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    drop(stream);
    eventually("the alert is logged", || {
        let log = sealed.server.log();
        log.contains("a connection was refused").then_some(())
    });
}

/// The certificate that a new connection is shown.
fn shown(sealed: &Sealed) -> CertificateDer<'static> {
    let mut stream = sealed.over(connect(sealed.server.port));
    stream
        .write_all(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    stream.conn.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

/// SIGHUP under load: connections stay, none is lost that is being made; the new certificate is
/// shown from then on. A broken file changes nothing and is logged.
#[test]
fn a_certificate_is_replaced_under_load() {
    let sealed = Sealed::start(&[]);
    assert_eq!(shown(&sealed), sealed.certificate);
    let (stopped, made) = (AtomicBool::new(false), AtomicU64::new(0));
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut chatter = Wss::open(&sealed);
            let mut offset = chatter.join("r")["offset"].as_u64().unwrap();
            while !stopped.load(Ordering::Relaxed) {
                offset += 1;
                chatter.send(&json!({"type":"publish","room":"r","payload":"x"}));
                assert_eq!(chatter.next("message")["offset"], offset);
            }
        });
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                assert!(sealed.get("/ready").starts_with("HTTP/1.1 200 "));
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = Stop(&stopped);
        for n in 0..5 {
            let (certificate, key, der) = sealed.authority.sign();
            std::fs::write(sealed.file("cert.pem"), certificate).unwrap();
            std::fs::write(sealed.file("key.pem"), key).unwrap();
            sealed.server.signal(Signal::HUP);
            eventually("the new certificate", || {
                (shown(&sealed) == der).then_some(())
            });
            let before = made.load(Ordering::Relaxed);
            eventually("more connections", || {
                (made.load(Ordering::Relaxed) > before + 1).then_some(())
            });
            // The next is broken in its own way, and the good one stays.
            let (cert, broken) = (
                sealed.file("cert.pem"),
                ["", "no PEM", "-----BEGIN "][n % 3],
            );
            let good = std::fs::read(&cert).unwrap();
            std::fs::write(&cert, broken).unwrap();
            sealed.server.signal(Signal::HUP);
            eventually("the log says so", || {
                let log = sealed.server.log();
                let told = log.matches("the certificate stays as it was").count();
                (told == n + 1).then_some(())
            });
            assert_eq!(shown(&sealed), der);
            std::fs::write(&cert, good).unwrap();
        }
    });
    let log = sealed.server.log();
    assert!(
        log.contains("--tls-cert") && log.contains("cert.pem"),
        "{log}"
    );
}

/// What is wrong with the files is named at the start, with the setting and the file.
#[test]
fn bad_files_are_named_at_the_start() {
    let authority = Authority::new();
    let (certificate, key, _) = authority.sign();
    let (_, other_key, _) = authority.sign();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cert = write("cert.pem", &certificate);
    let (good, other) = (write("key.pem", &key), write("other.pem", &other_key));
    let empty = write("empty.pem", "");
    let missing = dir.path().join("missing.pem").to_str().unwrap().to_owned();
    let data = dir.path().join("data");
    for (cert, key, words) in [
        (
            &cert,
            &other,
            &["--tls-key", "other.pem", "not the key", "cert.pem"][..],
        ),
        (&missing, &good, &["--tls-cert", "missing.pem"]),
        (&cert, &missing, &["--tls-key", "missing.pem"]),
        (
            &empty,
            &good,
            &["--tls-cert", "empty.pem", "no certificate"],
        ),
        (&cert, &empty, &["--tls-key", "empty.pem", "no private key"]),
        (&cert, &cert, &["--tls-key", "cert.pem", "no private key"]),
        (&good, &good, &["--tls-cert", "key.pem", "no certificate"]),
    ] {
        let line = start_fails(&data, &["--tls-cert", cert, "--tls-key", key]);
        for word in words {
            assert!(line.contains(word), "{word} in {line}");
        }
    }
    let line = start_fails(&data, &["--tls-cert", &cert]);
    assert!(
        line.contains("--tls-cert") && line.contains("needs --tls-key"),
        "{line}"
    );
    let line = start_fails(&data, &["--tls-key", &good]);
    assert!(
        line.contains("--tls-key") && line.contains("needs --tls-cert"),
        "{line}"
    );
}

fn start_fails(data: &Path, flags: &[&str]) -> String {
    let mut command = ringcast(&["serve", "--port", "0", "--shards", "1"]);
    let output = command
        .arg("--data-dir")
        .arg(data)
        .args(flags)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// What an idle connection costs over TLS; without it nothing of this is there.
#[test]
fn an_idle_connection_holds_its_session_and_no_buffer() {
    let count = if all() { 2_000 } else { 400 };
    let sealed = Sealed::start(&["--shards", "1", "--store", "memory"]);
    let config = Arc::new(sealed.config());
    let open = || {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(config.clone(), name).unwrap();
        let stream = StreamOwned::new(client, connect(sealed.server.port));
        let (mut ws, _) = tungstenite::client("wss://localhost/ws", stream).unwrap();
        assert!(ws.read().unwrap().is_text());
        ws
    };
    // What the first ones take is taken once.
    let _first: Vec<_> = (0..100).map(|_| open()).collect();
    let before = sealed.server.memory_kib();
    let began = Instant::now();
    let all: Vec<_> = (0..count).map(|_| open()).collect();
    let grown = sealed.server.memory_kib().saturating_sub(before) * 1024 / count;
    println!(
        "{grown} bytes a connection; {:?} for {count}",
        began.elapsed()
    );
    assert!(grown < 10 * 1024, "{grown} bytes a connection");
    assert!(sealed.metric("connections") > count && began.elapsed() < 60 * PATIENCE);
    drop(all);
}

/// By a `close_notify`, and the end of its bytes: what it has asked is answered.
#[test]
fn who_says_that_it_sends_nothing_more_is_answered() {
    let sealed = Sealed::start(&[]);
    for n in 1..=20 {
        let mut stream = sealed.over(connect(sealed.server.port));
        let request = post("a", "{\"payload\":1}");
        stream.write_all(request.as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        assert!(answer.contains(&format!("\"offset\":{n}}}")), "{answer:?}");
    }
    eventually("all of them to be gone", || {
        (sealed.metric("connections") == 1).then_some(())
    });
}

/// Who says that it sends nothing more is told that nothing more comes, whatever it did before:
/// else it could not tell an answer's end from one that was cut off (RFC 8446, 6.1).
#[test]
fn whoever_ends_its_side_hears_the_end_of_ours() {
    let sealed = Sealed::start(&[]);
    let answered = post("a", "{\"payload\":1}");
    let events = "GET /api/rooms/a/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let asked = [
        ("answered", &answered[..], "\"offset\":1}"),
        ("a WebSocket", &upgrade_head("/ws"), "\"welcome\""),
        ("a stream", events, "\n\n"),
        ("asked", &answered, ""),
        ("nothing", "", ""),
        ("half a head", &answered[..20], ""),
        ("half a body", &answered[..answered.len() - 1], ""),
    ];
    for (what, request, until) in asked {
        for fin in [false, true] {
            let mut stream = sealed.over(connect(sealed.server.port));
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            // If nothing is to be heard first, its end goes with it.
            stream.conn.writer().write_all(request.as_bytes()).unwrap();
            let until = until.replace('1', if fin { "2" } else { "1" });
            let mut heard = String::new();
            while !heard.contains(&until) {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).unwrap();
                assert_ne!(count, 0, "{what}: {heard}");
                heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            if fin {
                stream.sock.shutdown(Shutdown::Write).unwrap();
            }
            let rest = stream.read_to_end(&mut Vec::new());
            assert!(rest.is_ok(), "{what}, {fin}: {rest:?}");
        }
    }
    eventually("all of them to be gone", || {
        (sealed.metric("connections") == 1).then_some(())
    });
}
