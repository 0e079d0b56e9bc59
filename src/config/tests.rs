//! What a command line and an environment come to.

use super::later::LATER;
use super::settings::SETTINGS;
use super::*;

use std::collections::BTreeMap;
use std::ffi::OsString;

fn read(args: &str, env: &[(&str, &str)]) -> Result<(Mode, Config), ConfigErrors> {
    // A blank within an argument is a hard one.
    let args = std::iter::once("ringcast")
        .chain(args.split(' ').filter(|arg| !arg.is_empty()))
        .map(|arg| OsString::from(arg.replace('\u{a0}', " ")));
    let env: BTreeMap<_, _> = env
        .iter()
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .collect();
    Config::from_args_and_env(args, &env, "a-host", 7)
}

/// Reads what must not be read, and gives the lines.
fn refused(args: &str, env: &[(&str, &str)]) -> Vec<String> {
    match read(args, env) {
        Ok(_) => panic!("{args:?} {env:?} was taken"),
        Err(errors) => errors.lines,
    }
}

#[test]
fn nothing_set_is_the_defaults_of_the_protocol() {
    let (mode, config) = read("", &[]).unwrap();
    assert_eq!(mode, Mode::Serve);
    let seconds = Duration::from_secs;
    let want = Config {
        port: 8080,
        instance_id: "a-host".into(),
        redis: None,
        postgres: None,
        postgres_given: None,
        postgres_pool: 4,
        worker_enabled: false,
        worker_id: "a-host-7".into(),
        batch_size: 100,
        batch_timeout: seconds(5),
        worker_port: 9090,
        worker_partitions: None,
        key_prefix: "gosocket".into(),
        spool_bytes: 1 << 30,
        stream_retention: seconds(3600),
        stream_bytes: 1 << 30,
        ack_replicas: 0,
        bind: "127.0.0.1".parse().unwrap(),
        data_dir: "./data".into(),
        store: StoreKind::Sqlite,
        retention: None,
        shards: None,
        pin_cores: true,
        driver: Driver::Auto,
        ring_entries: None,
        flush_interval: Duration::ZERO,
        max_message_bytes: 64 * 1024,
        echo_message_bytes_max: 16 << 20,
        max_fragments: Some(4096),
        max_connections: None,
        max_connections_per_address: 0,
        rate_limit: 1000,
        rate_limit_bytes: 1 << 20,
        rate_limit_address: 10_000,
        max_rooms: 1_000_000,
        max_rooms_per_connection: 128,
        room_log_bytes: 64 << 20,
        room_linger: seconds(300),
        slow_consumer: SlowConsumer::Gap,
        handshake_timeout: seconds(5),
        heartbeat: seconds(25),
        idle_timeout: seconds(60),
        drain_window: seconds(8),
        allowed_origins: OriginPolicy::SameHost,
        trusted_proxies: Networks::default(),
        deflate: false,
        tls: None,
        tls_cert: None,
        tls_key: None,
        metrics_bind: None,
        api_keys: ApiKeys::default(),
        jwt_secret: None,
        jwt_key_file: None,
        echo: false,
        dedupe_window: seconds(600),
        log_format: LogFormat::Text,
        log_level: tracing::Level::INFO,
        warnings: vec![],
    };
    assert_eq!(config, want);
}

#[test]
fn each_setting_is_a_flag_and_a_variable() {
    let values = [
        ("port", "9"),
        ("instance-id", "i"),
        ("redis-url", "h:1"),
        ("postgres-url", "host=h user=u"),
        ("", "true"),
        ("worker-id", "w"),
        ("batch-size", "10000"),
        ("batch-timeout", "1s"),
        ("key-prefix", "p"),
        ("bind", "::"),
        ("data-dir", "/d"),
        ("store", "memory"),
        ("retention", "1h"),
        ("shards", "2"),
        ("pin-cores", "off"),
        ("driver", "epoll"),
        ("ring-entries", "1024"),
        ("flush-interval", "5ms"),
        ("max-message-bytes", "1MiB"),
        ("deflate", "on"),
        ("max-fragments", "0"),
        ("max-connections", "7"),
        ("max-connections-per-address", "10"),
        ("rate-limit", "100"),
        ("rate-limit-bytes", "0"),
        ("rate-limit-address", "1"),
        ("max-rooms", "200"),
        ("max-rooms-per-connection", "3"),
        ("room-log-bytes", "2MiB"),
        ("room-linger", "1s"),
        ("slow-consumer", "disconnect"),
        ("handshake-timeout", "1s"),
        ("heartbeat", "1s"),
        ("idle-timeout", "61s"),
        ("drain-window", "0"),
        ("allowed-origins", "*"),
        ("api-key", "k"),
        ("jwt-secret", "0123456789abcdef0123456789abcdef"),
        ("jwt-key-file", "keys.pem"),
        ("trusted-proxies", "10.0.0.0/8"),
        ("tls-cert", "cert.pem"),
        ("tls-key", "key.pem"),
        ("metrics-bind", "127.0.0.1:9100"),
        ("echo", "on"),
        ("dedupe-window", "0"),
        ("spool-bytes", "1MiB"),
        ("stream-retention", "1m"),
        ("stream-bytes", "0"),
        ("ack-replicas", "1"),
        ("postgres-pool", "9"),
        ("worker-port", "0"),
        ("worker-partitions", "0"),
        ("log-format", "json"),
        ("log-level", "debug"),
    ];
    assert_eq!(values.map(|(flag, _)| flag).to_vec(), flags_of_the_table());
    let (_, default) = read("", &[]).unwrap();
    let mut all = (String::new(), vec![]);
    for (setting, (flag, value)) in SETTINGS.iter().zip(values) {
        if flag.starts_with("tls-") {
            // Neither goes without the other.
            let alone = read("", &[(&setting.env(), value)]).unwrap_err();
            assert!(alone.to_string().contains("needs --tls-"), "{alone}");
            all.0 += &format!("--{flag}={value} ");
            continue;
        }
        let (_, by_env) = read("drain", &[(&setting.env(), value)]).unwrap();
        assert_ne!(by_env, default, "{flag}");
        if flag.is_empty() {
            continue;
        }
        // Values with blanks stand in one argument.
        let arg = format!("--{flag}={value}").replace(' ', "\u{a0}");
        let (_, by_flag) = read(&arg, &[]).unwrap();
        assert_eq!(by_flag, by_env, "{flag}");
        // Of these only whom all the world reaches is warned.
        let warned = usize::from(flag == "bind");
        assert_eq!(by_flag.warnings.len(), warned, "{:?}", by_flag.warnings);
        all.0 += &format!("{arg} ");
        all.1.push((setting.env(), setting.default));
    }
    let (_, every) = read(&all.0, &[]).unwrap();
    // A flag beats the variable.
    let env: Vec<_> = all
        .1
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .collect();
    assert_eq!(read(&all.0, &env).unwrap().1, every);
    assert_eq!(every.max_fragments, None);
    assert_eq!(every.tls.unwrap().key.to_str(), Some("key.pem"));
    assert_eq!(every.bind, "::".parse::<IpAddr>().unwrap());
}

fn flags_of_the_table() -> Vec<&'static str> {
    SETTINGS.iter().map(|setting| setting.flag).collect()
}

#[test]
fn names_of_the_variables() {
    let own: Vec<_> = SETTINGS
        .iter()
        .filter_map(|setting| setting.own_env)
        .collect();
    assert_eq!(
        own,
        [
            "SERVER_PORT",
            "INSTANCE_ID",
            "REDIS_URL",
            "POSTGRES_URL",
            "WORKER_ENABLED",
            "WORKER_ID",
            "BATCH_SIZE",
            "BATCH_TIMEOUT",
            "KEY_PREFIX",
        ]
    );
    let env = |flag| {
        SETTINGS
            .iter()
            .find(|one| one.flag == flag)
            .map(|one| one.env())
    };
    assert_eq!(
        env("max-message-bytes").unwrap(),
        "RINGCAST_MAX_MESSAGE_BYTES"
    );
    assert_eq!(env("port").unwrap(), "SERVER_PORT");
}

#[test]
fn commands() {
    assert_eq!(read("serve", &[]).unwrap().0, Mode::Serve);
    assert_eq!(read("health --port 1", &[]).unwrap().0, Mode::Health);
    assert_eq!(read("--port 1 drain", &[]).unwrap().0, Mode::Drain);
    let both = [("REDIS_URL", "h"), ("POSTGRES_URL", "postgres://u@h")];
    let id = |ms| EntryId { ms, n: 0 };
    for (args, mode) in [
        ("worker", Mode::Work),
        ("migrate", Mode::Migrate),
        ("dead list", Mode::Dead(DeadAsk::List)),
        ("dead retry", Mode::Dead(DeadAsk::Retry(vec![]))),
        ("dead retry all", Mode::Dead(DeadAsk::Retry(vec![]))),
        (
            "dead retry 7-0 8-0",
            Mode::Dead(DeadAsk::Retry(vec![id(7), id(8)])),
        ),
        ("dead drop 7-0", Mode::Dead(DeadAsk::Drop(vec![id(7)]))),
        ("dead drop all", Mode::Dead(DeadAsk::DropAll)),
    ] {
        assert_eq!(read(args, &both).unwrap().0, mode, "{args}");
        let missing = refused(args, &[]).concat();
        assert!(missing.contains("must be set"), "{args}: {missing}");
    }
    for args in [
        "dead",
        "dead drop",
        "dead list 7-0",
        "dead retry x",
        "dead bury",
    ] {
        assert!(refused(args, &both)[0].starts_with("dead: "), "{args}");
    }
    let enabled = [both[0], both[1], ("WORKER_ENABLED", "true")];
    let (mode, config) = read("", &enabled).unwrap();
    assert_eq!((mode, config.health_address().port()), (Mode::Work, 9090));
    assert_eq!(read("serve", &both).unwrap().0, Mode::Serve);
    assert_eq!(read("", &both).unwrap().1.health_address().port(), 8080);
    assert!(refused("sevre", &[])[0].contains("\"sevre\" is no command"));
    assert!(refused("serve now", &[])[0].contains("takes no argument"));
    let line = refused("--prot 1", &[]).concat();
    assert!(
        line.contains("'--prot'") && line.contains("--port") && !line.contains('\n'),
        "{line}"
    );
    assert!(refused("--port", &[])[0].contains("--port"));
}

#[test]
fn echo_is_a_switch_and_has_a_limit_of_its_own() {
    assert!(read("--echo serve", &[]).unwrap().1.echo);
    assert!(
        !read("--echo=off", &[("RINGCAST_ECHO", "on")])
            .unwrap()
            .1
            .echo
    );
    let (_, config) = read("--echo --max-message-bytes 64KiB", &[]).unwrap();
    assert_eq!(config.echo_message_bytes_max, 64 * 1024);
    let (_, config) = read("--echo", &[("RINGCAST_MAX_MESSAGE_BYTES", "1MiB")]).unwrap();
    assert_eq!(config.echo_message_bytes_max, 1 << 20);
}

#[test]
fn every_bad_setting_is_named() {
    let lines = refused(
        "--port 70000 --heartbeat 2m --max-message-bytes 3",
        &[
            ("RINGCAST_BIND", "here"),
            ("INSTANCE_ID", "a\nb"),
            ("RINGCAST_SHARDS", "0"),
        ],
    );
    assert_eq!(
        lines,
        [
            "--port (flag): \"70000\" must be a number from 0 to 65535",
            "--instance-id (env INSTANCE_ID): \"a\\nb\" must be 1 to 128 bytes without control \
             characters",
            "--bind (env RINGCAST_BIND): \"here\" must be an IP address such as 127.0.0.1, \
             0.0.0.0 or ::",
            "--shards (env RINGCAST_SHARDS): \"0\" must be a number from 1 to 256, or all",
            "--max-message-bytes (flag): \"3\" must be from 1KiB to 64MiB",
            "--heartbeat (flag): \"2m\" must be less than --idle-timeout, which is 60s",
        ]
    );
    let lines = refused(
        "--max-rooms 5 --room-log-bytes 1MiB --max-message-bytes 2MiB",
        &[],
    );
    assert_eq!(
        lines,
        [
            "--max-message-bytes (flag): \"2MiB\" must be at most --room-log-bytes, which is 1MiB",
            "--max-rooms-per-connection (default): \"128\" must be at most --max-rooms, which is 5",
        ]
    );
    // A host without a usable name.
    let none = Config::from_args_and_env(std::iter::once("x".into()), &BTreeMap::new(), "", 7);
    assert!(none.unwrap_err().lines[0].starts_with("--instance-id (default)"));
}

#[test]
fn settings_of_later_stages_are_refused_and_their_values_never_shown() {
    for setting in LATER {
        let by_env = refused("", &[(&setting.env(), "hunter2")]);
        let want = format!(
            "{} (env): this build does not have this setting yet",
            setting.env()
        );
        assert_eq!(by_env, [want]);
        if !setting.flag.is_empty() {
            let by_flag = refused(&format!("--{}=hunter2", setting.flag), &[]);
            assert!(by_flag[0].starts_with(&format!("--{} (flag): ", setting.flag)));
            assert!(!by_flag.concat().contains("hunter2"));
        }
        for inert in setting.inert {
            read("", &[(&setting.env(), inert)]).unwrap();
        }
    }
    let env = [
        ("RINGCAST_OTLP_ENDPOINT", "hunter2"),
        ("RINGCAST_PARTITIONS", "2"),
    ];
    let lines = refused(
        "--trace-sample hunter2 --signalr-hub=hunter2 check-config",
        &env,
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(!lines.concat().contains("hunter2"));
    read("", &[("REDIS_URL", ""), ("RINGCAST_RATE_LIMIT", "0")]).unwrap();
}

#[test]
fn check_config_tells_values_and_sources() {
    let env = [
        ("RINGCAST_HEARTBEAT", "5s"),
        ("RINGCAST_HARTBEAT", "hunter2"),
    ];
    let (mode, _) = read("check-config --port 81", &env).unwrap();
    let Mode::Print(report) = mode else {
        panic!("{mode:?}")
    };
    let lines: Vec<Vec<_>> = report
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert!(lines.contains(&vec!["port", "81", "flag"]), "{report}");
    assert!(
        lines.contains(&vec!["heartbeat", "5s", "env", "RINGCAST_HEARTBEAT"]),
        "{report}"
    );
    assert!(
        lines.contains(&vec!["instance-id", "a-host", "default"]),
        "{report}"
    );
    assert_eq!(lines.len(), SETTINGS.len() + 1);
    assert!(report.contains("RINGCAST_HARTBEAT: no such setting; did you mean RINGCAST_HEARTBEAT"));
    assert!(!report.contains("hunter2"));

    let errors = read("check-config --port x", &[]).unwrap_err();
    assert!(errors.report.unwrap().contains("flag  BAD"));
    assert_eq!(errors.lines.len(), 1);
}

#[test]
fn postgres_is_where_the_url_and_the_variables_say() {
    let env = [("PGPASSWORD", "hunter2"), ("PGPORT", "77"), ("USER", "me")];
    let (_, config) = read("--postgres-url postgres://db/chat --postgres-pool 2", &env).unwrap();
    let info = config.postgres.unwrap();
    assert_eq!(info.to_string(), "me@db:77/chat");
    assert_eq!(
        (info.password.as_deref(), config.postgres_pool),
        (Some("hunter2"), 2)
    );
    let url = [("POSTGRES_URL", "host=db user=u password=hunter2 dbname=d")];
    let (mode, _) = read("check-config", &url).unwrap();
    let Mode::Print(report) = mode else {
        panic!("{mode:?}")
    };
    assert!(report.contains("postgres://u:***@db/d"), "{report}");
    assert!(!report.contains("hunter2"));
    for bad in [
        "postgres://u:hunter2@h:x/",
        "postgres://:hunter2@h",
        "host=h password=hunter2 user",
        "host=h password='hunter2",
    ] {
        let lines = refused("", &[("POSTGRES_URL", bad)]);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("--postgres-url (env POSTGRES_URL): "),
            "{lines:?}"
        );
        assert!(!lines[0].contains("hunter2"), "{lines:?}");
    }
}

#[test]
fn the_password_of_redis_is_never_shown() {
    let (_, config) = read("--redis-url rediss://u:hunter2@h:7/3", &[]).unwrap();
    let redis = config.redis.clone().unwrap();
    assert_eq!(redis.password.as_deref(), Some("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    for url in [
        "redis://u:hunter2@h:7/3",
        "redis://u:hunter2@h:x/3",
        "http://u:hunter2@h",
    ] {
        let report = match read("check-config", &[("REDIS_URL", url)]) {
            Ok((Mode::Print(report), _)) => report,
            Ok((mode, _)) => panic!("{mode:?}"),
            Err(errors) => errors.report.unwrap() + &errors.lines.concat(),
        };
        assert!(
            !report.contains("hunter2") && report.contains("***"),
            "{report}"
        );
    }
    for (prefix, is_good) in [("a:b", true), ("", true), ("a b", false), ("{a}", false)] {
        assert_eq!(
            read("", &[("KEY_PREFIX", prefix)]).is_ok(),
            is_good,
            "{prefix}"
        );
    }
}

#[test]
fn the_password_of_postgres_is_never_shown() {
    for url in [
        "postgres://u:hunter2@h/db",
        "postgres://u:hunter2@h:x/db",
        "host=h user=u password=hunter2",
        "password=hunter2",
        "password='hunter2",
        "mysql://u:hunter2@h",
    ] {
        let report = match read("check-config", &[("POSTGRES_URL", url)]) {
            Ok((Mode::Print(report), _)) => report,
            Ok((mode, _)) => panic!("{mode:?}"),
            Err(errors) => errors.report.unwrap() + &errors.lines.concat(),
        };
        assert!(!report.contains("hunter2"), "{report}");
    }
    let env = [
        ("POSTGRES_URL", "host=h"),
        ("PGUSER", "me"),
        ("PGPASSWORD", "hunter2"),
    ];
    let (_, config) = read("", &env).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let postgres = config.postgres.unwrap();
    assert_eq!(
        (&*postgres.user, postgres.password.as_deref()),
        ("me", Some("hunter2"))
    );
    let lines = refused("", &env[..1]);
    assert!(
        lines[0].starts_with("--postgres-url (env POSTGRES_URL): "),
        "{lines:?}"
    );
}

#[test]
fn secrets_of_access_are_never_shown() {
    let env = [
        ("RINGCAST_JWT_SECRET", "hunter2"),
        ("RINGCAST_API_KEY", "hunter3,hunter4"),
    ];
    let (_, config) = read("--jwt-key-file keys.pem", &env).unwrap();
    assert!(config.takes_tokens());
    assert!(config.api_keys.has("hunter3") && config.api_keys.has("hunter4"));
    assert_eq!(config.jwt_secret.as_ref().unwrap().reveal(), "hunter2");
    assert_eq!(config.jwt_key_file, Some("keys.pem".into()));
    assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
    let (mode, _) = read("check-config", &env).unwrap();
    let Mode::Print(report) = mode else {
        panic!("{mode:?}")
    };
    assert!(!report.contains("hunter"), "{report}");
    assert_eq!(report.matches("***").count(), 2, "{report}");
    let lines = refused("--api-key hunter2,", &[]);
    assert!(lines[0].starts_with("--api-key (flag): \"***\" must be none, or"));
}

#[test]
fn who_is_let_in_from_outside_is_warned_of() {
    let warned = |args: &str| {
        let (_, config) = read(args, &[]).unwrap();
        config.warnings.join("\n")
    };
    for quiet in [
        "",
        "--bind ::1",
        "--bind 0.0.0.0 --jwt-key-file f",
        "--bind 0.0.0.0 --allowed-origins https://a.example",
        "--bind 0.0.0.0 --jwt-secret 0123456789abcdef0123456789abcdef",
        "worker --bind 0.0.0.0 --redis-url h --postgres-url postgres://u@h",
    ] {
        assert_eq!(warned(quiet), "", "{quiet}");
    }
    for open in ["--bind 0.0.0.0", "--bind ::", "--bind 10.0.0.1 --api-key k"] {
        assert!(warned(open).starts_with("--bind "), "{open}");
    }
    assert!(warned("--jwt-secret short").contains("can be guessed"));
}

#[test]
fn help_names_every_setting_and_no_later_one() {
    let (mode, _) = read("--help", &[("SERVER_PORT", "garbage")]).unwrap();
    let Mode::Print(help) = mode else {
        panic!("{mode:?}")
    };
    for setting in SETTINGS {
        assert!(
            help.contains(&format!("--{}", setting.flag)),
            "{}",
            setting.flag
        );
        assert!(help.contains(&setting.env()), "{}", setting.flag);
    }
    for setting in LATER.iter().filter(|setting| !setting.flag.is_empty()) {
        assert!(
            !help.contains(&format!("--{} ", setting.flag)),
            "{}",
            setting.flag
        );
    }
    let (mode, _) = read("--version", &[]).unwrap();
    assert_eq!(
        mode,
        Mode::Print(format!("ringcast {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn readme_has_the_table_of_settings() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("<!-- settings:").unwrap();
    let (_, rest) = rest.split_once("-->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /settings -->").unwrap();
    let want = readme_table();
    assert!(table == want, "README's table of settings must be:\n{want}");
}
