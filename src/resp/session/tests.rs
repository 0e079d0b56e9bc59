//! Sessions: login by RESP3 and RESP2, what is refused, pushes among replies, every cut.

use super::*;

const HELLO: &str = "%3\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n\
                     $6\r\nmaster\r\n";

fn login(user: Option<&str>, password: Option<&str>, database: u32) -> Login {
    Login {
        user: user.map(Into::into),
        password: password.map(Into::into),
        database,
        name: "ringcast a".into(),
    }
}

/// Speaks to a session in turns: what must come from it, and what it is then told. Returns what
/// came of it. Whether each turn is cut somewhere changes nothing.
fn talk(login: &Login, kind: Kind, turns: &[(&str, &str)]) -> Vec<String> {
    let longest = turns.iter().map(|turn| turn.1.len()).max().unwrap();
    let whole = talk_cut(login, kind, turns, usize::MAX);
    for cut in 0..longest {
        let told = talk_cut(login, kind, turns, cut);
        assert_eq!(told, whole, "each answer cut at {cut}");
    }
    whole
}

fn talk_cut(login: &Login, kind: Kind, turns: &[(&str, &str)], cut: usize) -> Vec<String> {
    let mut session = Session::new(login.clone(), kind);
    let (mut out, mut inputs, mut told) = (Vec::new(), Vec::new(), Vec::new());
    session.begin(&mut out);
    for (sent, answer) in turns {
        assert_eq!(commands(&out), *sent);
        out.clear();
        let answer = answer.as_bytes();
        let (first, second) = answer.split_at(cut.min(answer.len()));
        for piece in [first, second] {
            let result = session.on_bytes(&mut piece.into(), &mut out, &mut inputs);
            told.extend(inputs.drain(..).map(|input| short(&input)));
            // How much of the garbage it shows depends on the cut.
            let error = result.err().map(|error| error.to_string());
            told.extend(error.map(|text| text.split(':').next().unwrap().to_owned()));
        }
    }
    assert_eq!(commands(&out), "", "nothing is sent behind");
    told
}

/// Commands as words.
fn commands(out: &[u8]) -> String {
    let text = std::str::from_utf8(out).unwrap();
    let lines = text.split("\r\n").filter(|line| !line.starts_with('$'));
    let mut words = String::new();
    for line in lines.filter(|line| !line.is_empty()) {
        match line.strip_prefix('*') {
            Some(_) if words.is_empty() => {}
            Some(_) => words.push(';'),
            None => {
                words.push_str(if words.is_empty() || words.ends_with(';') {
                    ""
                } else {
                    " "
                });
                words.push_str(line);
            }
        }
    }
    words
}

fn short(input: &Input) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match input {
        Input::Ready {
            version,
            role,
            resp3,
        } => {
            let version = version.as_deref().unwrap_or("?");
            let role = role.as_deref().unwrap_or("?");
            format!("ready {version} {role} {}", if *resp3 { 3 } else { 2 })
        }
        Input::Refused(refusal) => format!("refused {:?}", refusal.cause),
        Input::Reply(value) => format!("{value:?}"),
        Input::Message { channel, payload } => format!("{}: {}", text(channel), text(payload)),
        Input::Subscribed(channel) => format!("+{}", text(channel)),
        Input::Unsubscribed(channel) => format!("-{}", text(channel)),
    }
}

#[test]
fn login_by_hello() {
    let ready = ["ready 7.0.15 master 3"];
    let check = |login: Login, turns: &[(&str, &str)]| {
        assert_eq!(talk(&login, Kind::Commands, turns), ready);
        assert_eq!(talk(&login, Kind::Subscriber, turns), ready);
    };
    check(
        login(None, None, 0),
        &[("HELLO 3 SETNAME ringcast-a", HELLO)],
    );
    check(
        login(None, Some("pw"), 0),
        &[("HELLO 3 AUTH default pw SETNAME ringcast-a", HELLO)],
    );
    check(
        login(Some("me"), Some("pw"), 3),
        &[
            ("HELLO 3 AUTH me pw SETNAME ringcast-a", HELLO),
            ("SELECT 3", "+OK\r\n"),
        ],
    );
    let nameless = Login {
        name: String::new(),
        ..login(None, None, 0)
    };
    check(nameless, &[("HELLO 3", HELLO)]);
}

#[test]
fn login_without_hello() {
    let check = |login: Login, turns: &[(&str, &str)], want: &str| {
        assert_eq!(talk(&login, Kind::Commands, turns), [want]);
    };
    let hello = "HELLO 3 SETNAME ringcast-a";
    let unknown = "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n";
    let ready = "ready ? ? 2";
    let name = "CLIENT SETNAME ringcast-a";
    check(
        login(None, None, 0),
        &[(hello, unknown), (name, "+OK\r\n")],
        ready,
    );
    check(
        login(None, None, 0),
        &[(hello, "-NOPROTO unsupported\r\n"), (name, "+OK\r\n")],
        ready,
    );
    // Nobody's name hinders.
    check(
        login(None, None, 2),
        &[
            (hello, unknown),
            (name, "-NOPERM no client\r\n"),
            ("SELECT 2", "+OK\r\n"),
        ],
        ready,
    );
    let hello = "HELLO 3 AUTH me pw SETNAME ringcast-a";
    for first in [unknown, "-NOAUTH Authentication required.\r\n"] {
        check(
            login(Some("me"), Some("pw"), 0),
            &[(hello, first), ("AUTH me pw", "+OK\r\n"), (name, "+OK\r\n")],
            ready,
        );
    }
    let hello = "HELLO 3 AUTH default pw SETNAME ringcast-a";
    let needless = "-ERR Client sent AUTH, but no password is set\r\n";
    for answer in ["+OK\r\n", needless] {
        check(
            login(None, Some("pw"), 0),
            &[(hello, unknown), ("AUTH pw", answer), (name, "+OK\r\n")],
            ready,
        );
    }
    check(
        login(None, Some("pw"), 0),
        &[(hello, unknown), ("AUTH pw", "-ERR invalid password\r\n")],
        "refused WrongPass",
    );
}

#[test]
fn login_refused() {
    let check = |answer: &str, want: &str| {
        let turns = [("HELLO 3 SETNAME ringcast-a", answer)];
        assert_eq!(talk(&login(None, None, 0), Kind::Commands, &turns), [want]);
    };
    check(
        "-NOAUTH HELLO must be called with …\r\n+x\r\n",
        "refused NoAuth",
    );
    check(
        "-ERR max number of clients reached\r\n",
        "refused MaxClients",
    );
    check(
        "-DENIED Redis is running in protected mode\r\n!",
        "refused ProtectedMode",
    );
    check("-LOADING Redis is loading\r\n", "refused Loading");
    let turns = [
        ("HELLO 3 AUTH default pw SETNAME ringcast-a", HELLO),
        ("SELECT 99", "-ERR DB index is out of range\r\n+x\r\n"),
    ];
    let told = talk(&login(None, Some("pw"), 99), Kind::Commands, &turns);
    assert_eq!(told, ["refused Other"]);
    let turns = [(
        "HELLO 3 AUTH default pw SETNAME ringcast-a",
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    )];
    let told = talk(&login(None, Some("pw"), 0), Kind::Commands, &turns);
    assert_eq!(told, ["refused WrongPass"]);
}

/// What comes behind login, which RESP and kind it is.
fn behind(resp3: bool, kind: Kind, answer: &str) -> Vec<String> {
    let unknown = "-ERR unknown command\r\n";
    let name = ("CLIENT SETNAME ringcast-a", "+OK\r\n");
    let first = (
        "HELLO 3 SETNAME ringcast-a",
        if resp3 { HELLO } else { unknown },
    );
    let mut turns = vec![first];
    turns.extend((!resp3).then_some(name));
    turns.push(("", answer));
    let mut told = talk(&login(None, None, 0), kind, &turns);
    assert!(told.remove(0).starts_with("ready"));
    told
}

#[test]
fn pushes_among_replies() {
    let answer = ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n+PONG\r\n\
        >3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n:1\r\n\
        >3\r\n$8\r\nsmessage\r\n$1\r\nd\r\n$0\r\n\r\n>2\r\n+invalidate\r\n*0\r\n\
        *3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n\
        >4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$2\r\nho\r\n\
        >3\r\n$12\r\nsunsubscribe\r\n$1\r\nd\r\n:0\r\n>3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n";
    for kind in [Kind::Commands, Kind::Subscriber] {
        let list = r#"List([Text(b"message"), Text(b"c"), Text(b"hi")])"#;
        let want = [
            "+c",
            r#"Text(b"PONG")"#,
            "c: hi",
            "Number(1)",
            "d: ",
            list,
            "c: ho",
            "-d",
            "-",
        ];
        assert_eq!(behind(true, kind, answer), want);
    }
}

#[test]
fn messages_of_resp2_are_arrays() {
    let answer = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n\
        *3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n\
        *3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n-ERR no\r\n*0\r\n";
    let told = behind(false, Kind::Subscriber, answer);
    let refused = r#"Error(Refusal { cause: Other, text: "ERR no" })"#;
    let pong = r#"List([Text(b"pong"), Text(b"")])"#;
    assert_eq!(told, ["+c", pong, "c: hi", "-", refused, "List([])"]);
    // To one that sends commands an array is a reply.
    let told = behind(false, Kind::Commands, answer);
    assert!(told.len() == 6 && told[2].starts_with("List("), "{told:?}");
}

#[test]
fn garbage_ends_a_session() {
    let told = behind(true, Kind::Commands, "+a\r\n?x\r\n+b\r\n");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("not Redis's protocol"), "{told:?}");
}

#[test]
fn what_is_taken_is_taken_out() {
    let mut session = Session::new(login(None, None, 0), Kind::Commands);
    let (mut out, mut inputs) = (Vec::new(), Vec::new());
    session.begin(&mut out);
    assert!(!session.is_ready());
    for piece in HELLO.as_bytes().chunks(10) {
        let mut bytes = BytesMut::from(piece);
        session.on_bytes(&mut bytes, &mut out, &mut inputs).unwrap();
        assert!(bytes.is_empty());
    }
    assert!(session.is_ready() && session.is_resp3() && inputs.len() == 1);
    assert!(!format!("{session:?}").contains("secret"));
}
