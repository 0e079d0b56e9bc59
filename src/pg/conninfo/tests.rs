//! Connection strings.

use super::*;

fn none(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Conninfo {
    Conninfo::parse(text, none).unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[test]
fn both_forms_say_the_same() {
    for text in [
        "postgres://me:s%20cret@db.example:5433/chat?sslmode=require&connect_timeout=7",
        "postgresql://me:s%20cret@db.example:5433/chat?connect_timeout=7&sslmode=require",
        "host=db.example port=5433 user=me password='s cret' dbname=chat sslmode = require \
         connect_timeout=7",
        r"host=db.example port=5433 user=me password=s\ cret dbname=chat sslmode=require
          connect_timeout='7' keepalives_idle=3",
    ] {
        let info = parse(text);
        assert_eq!(info.hosts.len(), 1);
        assert_eq!(info.hosts[0].to_string(), "db.example:5433");
        assert_eq!((info.user.as_str(), info.database.as_str()), ("me", "chat"));
        assert_eq!(info.password.as_deref(), Some("s cret"));
        assert_eq!(info.ssl_mode, SslMode::Require);
        assert_eq!(info.connect_timeout_ms, 7000);
        assert!(!format!("{info:?} {info}").contains("cret"));
        let given = Given::parse(text).unwrap();
        assert!(
            given
                .to_string()
                .starts_with("postgres://me:***@db.example:5433/chat?")
        );
        assert!(!format!("{given:?}").contains("cret"));
    }
}

#[test]
fn several_hosts_and_sockets() {
    let hosts = |text: &str| {
        let hosts = parse(text).hosts;
        hosts.iter().map(Host::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        hosts("postgres://u@a,b:1,[::1]:2/d?target_session_attrs=read-write"),
        ["a:5432", "b:1", "[::1]:2"]
    );
    assert_eq!(hosts("host=a,b port=7 user=u"), ["a:7", "b:7"]);
    assert_eq!(hosts("host=a,b port=7,8 user=u"), ["a:7", "b:8"]);
    assert_eq!(hosts("user=u"), ["/var/run/postgresql:5432"]);
    assert_eq!(hosts("postgres://u@/d"), ["/var/run/postgresql:5432"]);
    assert_eq!(hosts("postgres://u@%2Ftmp%2Fpg:77/d"), ["/tmp/pg:77"]);
    let socket = parse("postgres:///d?host=/tmp/pg&user=u").hosts[0].socket();
    assert_eq!(socket, Some("/tmp/pg/.s.PGSQL.5432".into()));
    let attrs = parse("host=a user=u target_session_attrs=read-write").session_attrs;
    assert_eq!(attrs, SessionAttrs::ReadWrite);
}

#[test]
fn variables_fill_in_what_is_left_out() {
    let variables = |name: &str| {
        let value = match name {
            "PGHOST" => "from-env",
            "PGPORT" => "1234",
            "PGUSER" => "env-user",
            "PGPASSWORD" => "env-secret",
            "PGDATABASE" => "",
            "PGSSLMODE" => "verify-full",
            "PGSSLROOTCERT" => "/ca.pem",
            "PGCONNECT_TIMEOUT" => "1",
            "PGAPPNAME" => "app",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let info = Conninfo::parse("postgres://", variables).unwrap();
    assert_eq!(info.to_string(), "env-user@from-env:1234/env-user");
    assert_eq!(info.ssl_mode, SslMode::VerifyFull);
    assert_eq!(info.ssl_root_cert, Some("/ca.pem".into()));
    assert_eq!(info.connect_timeout_ms, 2000);
    let login = info.login("ringcast", vec![]);
    assert_eq!(login.application_name, "app");
    assert_eq!(login.password.as_deref(), Some("env-secret"));
    assert!(!format!("{login:?} {info:?}").contains("secret"));

    let info = Conninfo::parse("postgres://me@here/d?sslmode=disable", variables).unwrap();
    assert_eq!(info.to_string(), "me@here:1234/d");
    assert_eq!(info.ssl_mode, SslMode::Disable);

    let user = |name: &str| (name == "USER").then(|| "os".to_owned());
    assert_eq!(Conninfo::parse("host=h", user).unwrap().user, "os");
}

#[test]
fn what_is_wrong_is_named_and_no_secret_shown() {
    for (text, want) in [
        ("mysql://secret@h", "not known"),
        ("secret", "name=value"),
        ("host=h password=secret ' user=u", "name=value"),
        ("host=h password='secret", "not closed"),
        ("host=h user=u password=secret\\", "at its end"),
        ("host=h", "PGUSER"),
        ("postgres://u:secret@h:0/", "1 to 65535"),
        ("postgres://u:secret@h:secret/", "1 to 65535"),
        ("postgres://u:sec%ret@h", "%25"),
        ("postgres://u:secret@::1/", "brackets"),
        ("postgres://u:secret@[::1/", "bracket"),
        ("postgres://u@se#cret!h/d", "host"),
        ("postgres://u:secret@h/d?sslmode=secret", "verify-full"),
        (
            "postgres://u:secret@h/d?target_session_attrs=x",
            "read-write",
        ),
        ("postgres://u:secret@h/d?connect_timeout=x", "seconds"),
        (
            "postgres://u:secret@h/d?sslcert=x",
            "sslcert is not supported",
        ),
        ("postgres://u:secret@h/d?sslmod=x", "the sslmod parameter"),
        ("postgres://u:secret@h/d?secret", "lacks its ="),
        ("postgres://u:secret@a,,b/d", "empty"),
        ("host=a,b,c port=1,2 user=u password=secret", "as many"),
        ("host=h user=u%00 password=secret%00 dbname=se\0cret", "NUL"),
        ("postgres://u:%00secret@h", "NUL"),
    ] {
        let why = Conninfo::parse(text, none).unwrap_err();
        assert!(why.contains(want), "{text}: {why}");
        assert!(
            !why.contains("secret") && !why.contains('\n'),
            "{text}: {why}"
        );
    }
}
