//! Heads as browsers send them, and as nobody should.

use super::*;

const GOOD: &str = "GET /ws?room=a&x HTTP/1.1\r\nHost: a.example:80\r\nAccept:*/*\r\n\
    X-Twice: one\r\nx-twice:\t two \r\nConnection: keep-alive, Upgrade\r\n\r\n";

/// `bytes` are refused with `status`, and are so already when cut off behind `needed` bytes.
fn check_refused(bytes: &[u8], status: u16, needed: usize) {
    let told = |bytes| {
        parse(bytes)
            .map(|head| head.is_some())
            .map_err(|error| error.status)
    };
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
    assert_eq!(told(bytes), Err(status), "{start:?}");
    assert_eq!(
        told(&bytes[..needed]),
        Err(status),
        "{start:?} cut at {needed}"
    );
    assert_eq!(
        told(&bytes[..needed - 1]),
        Ok(false),
        "{start:?} cut before {needed}"
    );
}

/// `text` is refused with 400 once its part before the `^` is there; the `^` is not sent.
fn check(text: &str) {
    let needed = text.find('^').unwrap();
    check_refused(text.replacen('^', "", 1).as_bytes(), 400, needed);
}

#[test]
fn a_good_head() {
    let (head, used) = parse(GOOD.as_bytes()).unwrap().unwrap();
    assert_eq!(used, GOOD.len());
    assert_eq!(
        (head.method, head.path, head.query),
        ("GET", "/ws", "room=a&x")
    );
    assert_eq!((head.http11, head.body), (true, Body::None));
    assert_eq!(head.header("HOST"), Some("a.example:80"));
    assert_eq!(head.header("accept"), Some("*/*"));
    assert_eq!(head.header("none"), None);
    assert_eq!(head.count("X-TWICE"), 2);
    assert_eq!(head.all("x-twice").collect::<Vec<_>>(), ["one", "two"]);
    assert!(head.has_token("connection", "upgrade") && !head.has_token("connection", "up"));
    for cut in 0..GOOD.len() {
        assert!(parse(&GOOD.as_bytes()[..cut]).unwrap().is_none(), "{cut}");
    }
    let behind = format!("{GOOD}\0behind");
    assert_eq!(parse(behind.as_bytes()).unwrap().unwrap().1, GOOD.len());
}

#[test]
fn bodies() {
    for (lines, body) in [
        ("", Ok(Body::None)),
        ("Content-Length: 0\r\n", Ok(Body::None)),
        ("Content-Length: 17\r\n", Ok(Body::Length(17))),
        ("Transfer-Encoding: Chunked\r\n", Ok(Body::Chunked)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
        ("Transfer-Encoding: xchunked\r\n", Err(501)),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Err(400),
        ),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Err(400),
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Err(400),
        ),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(400)),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(400)),
        ("Content-Length: 5, 5\r\n", Err(400)),
        ("Content-Length: +5\r\n", Err(400)),
        ("Content-Length: -1\r\n", Err(400)),
        ("Content-Length: 0x10\r\n", Err(400)),
        ("Content-Length:\r\n", Err(400)),
        ("Content-Length: 99999999999999999999\r\n", Err(400)),
        ("Content-Length : 5\r\n", Err(400)),
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let got = parse(text.as_bytes()).map(|head| head.unwrap().0.body);
        assert_eq!(got.map_err(|error| error.status), body, "{lines:?}");
    }
}

#[test]
fn other_protocols() {
    check_refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, 1); // TLS
    check_refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 4);
    check_refused(b"*1\r\n$4\r\nPING\r\n", 400, 3); // Redis
    check_refused(b"PING\r\n", 400, 5);
    check_refused(b"EHLO mail.example\r\n", 400, 6); // SMTP
    check_refused(b"\0\0\0\x08\x04\xd2\x16\x2f", 400, 1); // PostgreSQL
    check_refused(b"THISISNOMETHODATALL", 400, 17);
}

#[test]
fn request_lines() {
    check(" ^GET / HTTP/1.1\r\n");
    check("\r^\nGET / HTTP/1.1\r\n");
    check("CONNECT ^a.example:443 HTTP/1.1\r\n");
    check("GET h^ttp://a.example/ HTTP/1.1\r\n");
    check("OPTIONS *^ HTTP/1.1\r\n");
    check("GET  ^/ HTTP/1.1\r\n");
    check("GET /a\t^b HTTP/1.1\r\n");
    check("GET /\0^ HTTP/1.1\r\n");
    check(
        "GET /\u{e9}^ HTTP/1.1\r\n"
            .replacen("\u{e9}^", "\u{7f}^", 1)
            .as_str(),
    );
    check("GET /#a ^HTTP/1.1\r\n");
    check("GET /\r^\n");
    check("GET / HTTP/2^.0\r\n");
    check("GET / HTTP/1.2^\r\n");
    check("GET / HTTP/1.1 ^\r\n");
    check("GET / HTTP/1.1\n^");
    check("GET / http^/1.1\r\n".replacen("http^", "h^ttp", 1).as_str());
    let old = "GET / HTTP/1.0\r\n\r\n";
    assert!(!parse(old.as_bytes()).unwrap().unwrap().0.http11);
}

#[test]
fn field_lines() {
    let check = |lines: &str| check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}"));
    check("A: b\n^C: d\r\n\r\n"); // bare LF
    check("A: b\rC^: d\r\n\r\n"); // bare CR
    check("A: b\r\r^\n\r\n");
    check("A: \0^\r\n\r\n");
    check("A: \x7f^\r\n\r\n");
    check("A: b\r\n ^folded\r\n\r\n");
    check("A: b\r\n\t^folded\r\n\r\n");
    check("A ^: b\r\n\r\n");
    check(":^ b\r\n\r\n");
    check("A\r^\n\r\n");
    check("A(^: b\r\n\r\n");
    check("Host: a\r\n^\r\n");
    check("\rX^");
    let check_host = |host: &str, good: bool| {
        let text = format!("GET / HTTP/1.1\r\n{host}\r\n");
        assert_eq!(parse(text.as_bytes()).is_ok(), good, "{host}");
    };
    check_host("", false);
    check_host("Host:\r\n", false);
    check_host("Host: a, b\r\n", false);
    check_host("Host: a/b\r\n", false);
    check_host("Host: u@a\r\n", false);
    check_host("Host: [::1]:8080\r\n", true);
    // Not UTF-8: there, but equal to nothing.
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: \xff\r\n\r\n";
    assert_eq!(
        parse(text).unwrap().unwrap().0.header("origin"),
        Some("\u{fffd}")
    );
}

#[test]
fn too_long() {
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(len - 1));
    assert!(
        parse(target(TARGET_BYTES_MAX).as_bytes())
            .unwrap()
            .is_some()
    );
    check_refused(
        target(TARGET_BYTES_MAX + 1).as_bytes(),
        414,
        4 + TARGET_BYTES_MAX + 1,
    );
    check_refused(target(64 * 1024).as_bytes(), 414, 4 + TARGET_BYTES_MAX + 1);

    let start = "GET / HTTP/1.1\r\nHost: a\r\n";
    let fields = |n: usize| format!("{start}{}\r\n", "A: b\r\n".repeat(n));
    assert!(parse(fields(HEADERS_MAX - 1).as_bytes()).unwrap().is_some());
    check_refused(
        fields(10_000).as_bytes(),
        431,
        start.len() + 6 * HEADERS_MAX,
    );

    let head = |len: usize| format!("{start}A: {}\r\n\r\n", "x".repeat(len - start.len() - 7));
    let (_, used) = parse(head(HEAD_BYTES_MAX).as_bytes()).unwrap().unwrap();
    assert_eq!(used, HEAD_BYTES_MAX);
    check_refused(head(HEAD_BYTES_MAX + 1).as_bytes(), 431, HEAD_BYTES_MAX);
    check_refused(head(1024 * 1024).as_bytes(), 431, HEAD_BYTES_MAX);
}
