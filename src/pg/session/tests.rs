//! A session against a server of a few lines.

use super::*;
use crate::pg::Param;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn auth_ok() -> Vec<u8> {
    message(b'R', &0i32.to_be_bytes())
}

fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

fn tag(text: &str) -> Vec<u8> {
    message(b'C', format!("{text}\0").as_bytes())
}

fn error(severity: &str, state: &str, text: &str) -> Vec<u8> {
    message(
        b'E',
        format!("S{severity}\0V{severity}\0C{state}\0M{text}\0\0").as_bytes(),
    )
}

fn row(columns: &[&[u8]]) -> Vec<u8> {
    let mut body = (columns.len() as u16).to_be_bytes().to_vec();
    for column in columns {
        body.extend_from_slice(&(column.len() as u32).to_be_bytes());
        body.extend_from_slice(column);
    }
    message(b'D', &body)
}

fn login() -> Login {
    Login {
        user: "me".into(),
        password: Some("hunter2".into()),
        database: "chat".into(),
        application_name: "ringcast".into(),
        settings: vec![("statement_timeout".into(), "10000".into())],
        ..Login::default()
    }
}

/// What a server says until a session is ready.
fn welcome() -> Vec<u8> {
    [
        auth_ok(),
        message(b'S', b"server_version\x0015.4\0"),
        message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]),
        ready(b'I'),
        tag("SET"),
        row(&[b"f", b"off"]),
        tag("SELECT 1"),
        ready(b'I'),
    ]
    .concat()
}

/// What a session gives for bytes that come in pieces of that size.
fn feed(session: &mut Session, bytes: &[u8], size: usize) -> (Vec<Input>, Result<(), WireError>) {
    let (mut out, mut inputs) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(size) {
        let result = session.on_bytes(&mut BytesMut::from(piece), &mut out, &mut inputs);
        if result.is_err() {
            return (inputs, result);
        }
    }
    (inputs, Ok(()))
}

fn ready_session() -> Session {
    let mut session = Session::new(login(), Secrecy::Plain);
    session.begin(&mut BytesMut::new()).unwrap();
    let (inputs, result) = feed(&mut session, &welcome(), usize::MAX);
    assert_eq!(result, Ok(()));
    let want = ServerInfo {
        version: "15.4".into(),
        process_id: 7,
        ..ServerInfo::default()
    };
    assert_eq!(inputs, [Input::Ready(want)]);
    assert_eq!(session.cancel_key(), Some((7, 9)));
    session
}

#[test]
fn a_session_becomes_ready_and_says_how_it_is_to_be() {
    let mut session = Session::new(login(), Secrecy::Plain);
    let mut out = BytesMut::new();
    session.begin(&mut out).unwrap();
    assert_eq!(out[4..8], [0, 3, 0, 0]);
    let text = String::from_utf8_lossy(&out).into_owned();
    assert!(text.contains("user\0me\0database\0chat\0"), "{text}");
    assert!(!text.contains("hunter2"));
    out.clear();
    let mut inputs = Vec::new();
    let mut bytes = BytesMut::from(&welcome()[..]);
    session.on_bytes(&mut bytes, &mut out, &mut inputs).unwrap();
    let text = String::from_utf8_lossy(&out).into_owned();
    assert!(
        text.contains("SET statement_timeout = '10000';SELECT"),
        "{text}"
    );
    assert!(session.is_ready());
    assert!(!format!("{session:?}").contains("hunter2"));
}

#[test]
fn requests_are_answered_in_order_wherever_reads_cut() {
    let script = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'T', &[0, 0]),
        row(&[&7i64.to_be_bytes(), b"seven"]),
        tag("SELECT 1"),
        ready(b'I'),
        message(b'G', &[1, 0, 0]),
        error("ERROR", "22P05", "no"),
        ready(b'I'),
        message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mmind\0\0"),
        tag("BEGIN"),
        tag("COPY 5"),
        ready(b'T'),
        message(b'I', b""),
        ready(b'I'),
    ]
    .concat();
    let mut first = None;
    for size in [1, 2, 3, 5, 7, 11, 64, 4096] {
        let mut session = ready_session();
        let mut out = BytesMut::new();
        let params = vec![Param::Int(7), Param::Null, Param::Texts(vec!["a".into()])];
        for request in [
            Request::query("SELECT $1, 'seven'", params),
            Request::copy("COPY a FROM STDIN", vec![1]),
            Request::copy("BEGIN; COPY a FROM STDIN", vec![]),
            Request::simple(""),
        ] {
            session.send(&request, &mut out).unwrap();
        }
        assert_eq!(session.unanswered(), 4);
        let (inputs, result) = feed(&mut session, &script, size);
        assert_eq!(result, Ok(()));
        let [
            Input::Answer(Ok(one)),
            Input::Answer(Err(two)),
            Input::Notice(notice),
            Input::Answer(Ok(three)),
            Input::Answer(Ok(four)),
        ] = &inputs[..]
        else {
            panic!("{inputs:?}");
        };
        assert_eq!(
            (one.rows[0].int(0), one.rows[0].text(1)),
            (Some(7), Some("seven"))
        );
        assert_eq!(two.cause, Cause::Data);
        assert_eq!(notice.message, "mind");
        assert_eq!(
            (three.affected(1), three.transaction),
            (5, Transaction::Open)
        );
        assert_eq!((four.tag(), four.transaction), ("", Transaction::Idle));
        assert_eq!(session.unanswered(), 0);
        assert_eq!(*first.get_or_insert(inputs.clone()), inputs);
    }
}

#[test]
fn passwords_go_only_where_they_may() {
    let clear = message(b'R', &3i32.to_be_bytes());
    let md5 = [&5i32.to_be_bytes()[..], b"salt"].concat();
    let md5 = message(b'R', &md5);
    let gss = message(b'R', &7i32.to_be_bytes());
    for (secrecy, challenge, sends) in [
        (Secrecy::Plain, &clear, false),
        (Secrecy::Local, &clear, true),
        (Secrecy::Tls(None), &clear, true),
        (Secrecy::Plain, &md5, true),
        (Secrecy::Tls(None), &gss, false),
    ] {
        for has_password in [true, false] {
            let mut login = login();
            login.password = login.password.filter(|_| has_password);
            let mut session = Session::new(login, secrecy.clone());
            session.begin(&mut BytesMut::new()).unwrap();
            let (mut out, mut inputs) = (BytesMut::new(), Vec::new());
            let mut bytes = BytesMut::from(&challenge[..]);
            session.on_bytes(&mut bytes, &mut out, &mut inputs).unwrap();
            let sends = sends && has_password;
            assert_eq!(!out.is_empty(), sends, "{secrecy:?}");
            match &inputs[..] {
                [] => assert!(sends),
                [Input::Refused(refusal)] => {
                    assert!(!sends && refusal.cause == Cause::Login);
                    assert!(!refusal.explain().contains("hunter2"));
                }
                other => panic!("{other:?}"),
            }
            if challenge == &md5 {
                assert!(!String::from_utf8_lossy(&out).contains("hunter2"));
            }
        }
    }
}

#[test]
fn scram_that_is_cut_short_lets_nobody_in() {
    let mechanisms = [&10i32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
    let script = [message(b'R', &mechanisms), auth_ok()].concat();
    let mut session = Session::new(login(), Secrecy::Plain);
    session.begin(&mut BytesMut::new()).unwrap();
    let (inputs, _) = feed(&mut session, &script, usize::MAX);
    let [Input::Refused(refusal)] = &inputs[..] else {
        panic!("{inputs:?}");
    };
    assert!(refusal.message.contains("proven"), "{refusal}");
    assert!(!session.is_ready());
}

#[test]
fn what_ends_a_session() {
    // Login refused.
    let mut session = Session::new(login(), Secrecy::Plain);
    session.begin(&mut BytesMut::new()).unwrap();
    let refused = error("FATAL", "28P01", "password authentication failed");
    let (inputs, _) = feed(&mut session, &[refused, welcome()].concat(), usize::MAX);
    assert!(matches!(&inputs[..], [Input::Refused(it)] if it.cause == Cause::Login));

    // A shutdown, with a request under way and without.
    for asks in [true, false] {
        let mut session = ready_session();
        if asks {
            let request = Request::simple("SELECT pg_sleep(9)");
            session.send(&request, &mut BytesMut::new()).unwrap();
        }
        let bye = error("FATAL", "57P01", "terminating connection");
        let (inputs, _) = feed(&mut session, &bye, usize::MAX);
        assert!(matches!(&inputs[..], [Input::Ended(it)] if it.cause == Cause::Away));
        assert!(!session.is_ready());
    }

    // Not PostgreSQL, or not as it should be.
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"-ERR unknown command\r\n",
        &[b'R', 0, 0, 0, 3],
        &[b'R', 0xff, 0xff, 0xff, 0xff],
        &message(b'R', &[0, 0, 0, 99]),
        &message(b'?', b""),
        &ready(b'I'),
    ] {
        let mut session = Session::new(login(), Secrecy::Plain);
        session.begin(&mut BytesMut::new()).unwrap();
        let (inputs, result) = feed(&mut session, bytes, usize::MAX);
        assert!(
            result.is_err() && inputs.is_empty(),
            "{bytes:?}: {inputs:?}"
        );
    }
    for bytes in [
        row(&[b"1"]),
        ready(b'I'),
        message(b'D', &[0, 1, 0, 0, 0, 9, 1]),
    ] {
        let (_, result) = feed(&mut ready_session(), &bytes, usize::MAX);
        assert!(result.is_err(), "{bytes:?}");
    }
}

#[test]
fn a_statement_with_a_nul_is_not_sent() {
    let mut session = ready_session();
    let mut out = BytesMut::new();
    for request in [Request::simple("SELECT '\0'"), Request::query("\0", vec![])] {
        assert!(session.send(&request, &mut out).is_err());
        assert!(out.is_empty() && session.unanswered() == 0);
    }
}

#[test]
fn too_long_an_answer_is_an_error_and_the_session_goes_on() {
    let mut session = ready_session();
    let mut out = BytesMut::new();
    session.send(&Request::simple("SELECT"), &mut out).unwrap();
    let big = vec![b'x'; 64 << 20];
    let piece = row(&[&big]);
    for _ in 0..5 {
        let (inputs, result) = feed(&mut session, &piece, usize::MAX);
        assert!(inputs.is_empty() && result.is_ok());
    }
    let (inputs, _) = feed(&mut session, &[tag("SELECT 5"), ready(b'I')].concat(), 100);
    assert!(matches!(&inputs[..], [Input::Answer(Err(_))]), "too much");
    assert!(session.has_room());
}

/// With TLS whose certificate is known the login is bound to it if the server offers that; if it
/// does not, it is told that it could have been.
#[test]
fn a_login_is_bound_to_tls_where_it_can_be() {
    let offers = |names: &[&str]| {
        let mut body = 10i32.to_be_bytes().to_vec();
        for name in names {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
        }
        body.push(0);
        message(b'R', &body)
    };
    let (plus, plain) = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256");
    let bound = Secrecy::Tls(Some(vec![7; 32]));
    for (secrecy, names, want) in [
        (
            &bound,
            &[plus, plain][..],
            "SCRAM-SHA-256-PLUS\0\0\0\0Cp=tls-server-end-point,,n=",
        ),
        (&bound, &[plain], "SCRAM-SHA-256\0\0\0\0 y,,n="),
        (
            &Secrecy::Tls(None),
            &[plus, plain],
            "SCRAM-SHA-256\0\0\0\0 n,,n=",
        ),
        (&Secrecy::Plain, &[plain], "SCRAM-SHA-256\0\0\0\0 n,,n="),
        (&Secrecy::Plain, &[plus], ""),
        (&bound, &["SCRAM-SHA-512"], ""),
    ] {
        let mut session = Session::new(login(), secrecy.clone());
        session.begin(&mut BytesMut::new()).unwrap();
        let (mut out, mut inputs) = (BytesMut::new(), Vec::new());
        let mut bytes = BytesMut::from(&offers(names)[..]);
        session.on_bytes(&mut bytes, &mut out, &mut inputs).unwrap();
        let sent = String::from_utf8_lossy(&out[5.min(out.len())..]).into_owned();
        let mechanism = want.split('\0').next().unwrap();
        let header = want
            .rsplit('\0')
            .next()
            .unwrap()
            .get(1..)
            .unwrap_or_default();
        assert!(
            sent.starts_with(mechanism) && sent.contains(header),
            "{sent}"
        );
        assert_eq!(inputs.is_empty(), !want.is_empty(), "{inputs:?}");
    }
}
