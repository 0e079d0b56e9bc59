//! Which text each setting has, where it came from, and whether all of them fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::flags::{self, Typed};
use super::later::{LATER, LaterSetting};
use super::report;
use super::settings::{ECHO_MESSAGE_BYTES, HOST_NAME, HOST_NAME_AND_PID, SETTINGS, Setting};
use super::{
    Config, ConfigErrors, DeadAsk, Driver, LogFormat, Mode, SlowConsumer, StoreKind, TlsFiles,
};
use crate::access::ApiKeys;
use crate::model::{EntryId, Name};
use crate::net::{Networks, OriginPolicy};

/// Where the text of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    Env(String),
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A setting, its text and its source, and what is wrong with it.
pub(super) struct Resolved {
    pub(super) setting: &'static Setting,
    pub(super) text: String,
    pub(super) source: Source,
    pub(super) error: Option<String>,
}

type Env = BTreeMap<String, String>;
type Flags = BTreeMap<&'static str, String>;

impl Config {
    /// The mode and the settings that `args` (the program's name first) and `env` ask for.
    /// `host_name` is the default of `--instance-id`, and with `pid` of
    /// `--worker-id`. An empty variable counts as not set.
    ///
    /// # Errors
    /// All that is wrong, one line each; but of a command line that can't be read the first only.
    pub fn from_args_and_env(
        args: impl Iterator<Item = OsString>,
        env: &BTreeMap<String, String>,
        host_name: &str,
        pid: u32,
    ) -> Result<(Mode, Self), ConfigErrors> {
        let mut config = unset();
        let (command, words, flags) = match flags::read(args) {
            Ok(Typed::Run {
                command,
                words,
                flags,
            }) => (command, words, flags),
            Ok(Typed::Print(text)) => return Ok((Mode::Print(text), config)),
            Err(line) => {
                return Err(ConfigErrors {
                    report: None,
                    lines: vec![line],
                });
            }
        };
        // What is checked is another process than the one that will work.
        let worker_name = match command.as_str() {
            "check-config" => format!("{host_name}-PID"),
            _ => format!("{host_name}-{pid}"),
        };
        let mut settings: Vec<_> = SETTINGS
            .iter()
            .map(|setting| look_up(setting, &flags, env, (host_name, &worker_name)))
            .collect();
        for one in &mut settings {
            one.error = (one.setting.set)(&mut config, &one.text).err();
        }
        complete_postgres(&mut config, &mut settings, env);
        check_together(&config, &mut settings);
        config.tls = tls_files(&config, &mut settings);
        let message_bytes_are_set = settings
            .iter()
            .any(|one| one.setting.flag == "max-message-bytes" && one.source != Source::Default);
        config.echo_message_bytes_max = if message_bytes_are_set {
            config.max_message_bytes
        } else {
            ECHO_MESSAGE_BYTES
        };
        config.warnings = unknown_variables(env);
        let store_is_set = settings
            .iter()
            .any(|one| one.setting.flag == "store" && one.source != Source::Default);
        let mode = match command.as_str() {
            "health" => Mode::Health,
            "drain" => Mode::Drain,
            "worker" => Mode::Work,
            "migrate" => Mode::Migrate,
            "dead" => Mode::Dead(dead_ask(&words).map_err(ConfigErrors::one)?),
            _ if config.worker_enabled => Mode::Work,
            _ => Mode::Serve,
        };
        if config.redis.is_some() && store_is_set {
            let line = "--store is of an instance that runs alone; with a Redis it has no effect";
            config.warnings.push(line.into());
        }
        if config.trusted_proxies.is_everybody() {
            let line = "--trusted-proxies: everybody may say who it is";
            config.warnings.push(line.into());
        }
        if !matches!(mode, Mode::Work | Mode::Migrate | Mode::Dead(_)) {
            config.warnings.extend(openness(&config));
        }

        let mut lines: Vec<_> = settings.iter().filter_map(report::error_line).collect();
        lines.extend(
            LATER
                .iter()
                .filter_map(|setting| later_error(setting, &flags, env)),
        );
        if command != "check-config" {
            lines.extend(missing(&mode, &settings));
        }
        let check = command == "check-config";
        let report = check.then(|| report::check_config(&settings, &config.warnings));
        if !lines.is_empty() {
            return Err(ConfigErrors { report, lines });
        }
        Ok((report.map_or(mode, Mode::Print), config))
    }
}

/// What the settings are written into; each of them is, so none of these values is ever seen.
fn unset() -> Config {
    Config {
        port: 0,
        instance_id: Name::default(),
        redis: None,
        postgres: None,
        postgres_given: None,
        postgres_pool: 0,
        worker_enabled: false,
        worker_id: Name::default(),
        batch_size: 0,
        batch_timeout: Duration::ZERO,
        worker_port: 0,
        worker_partitions: None,
        key_prefix: String::new(),
        spool_bytes: 0,
        stream_retention: Duration::ZERO,
        stream_bytes: 0,
        ack_replicas: 0,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        data_dir: PathBuf::new(),
        store: StoreKind::Sqlite,
        retention: None,
        shards: None,
        pin_cores: false,
        driver: Driver::Auto,
        ring_entries: None,
        flush_interval: Duration::ZERO,
        max_message_bytes: 0,
        echo_message_bytes_max: 0,
        max_fragments: None,
        max_connections: None,
        max_connections_per_address: 0,
        rate_limit: 0,
        rate_limit_bytes: 0,
        rate_limit_address: 0,
        max_rooms: 0,
        max_rooms_per_connection: 0,
        room_log_bytes: 0,
        room_linger: Duration::ZERO,
        slow_consumer: SlowConsumer::Gap,
        handshake_timeout: Duration::ZERO,
        heartbeat: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        drain_window: Duration::ZERO,
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
        dedupe_window: Duration::ZERO,
        log_format: LogFormat::Text,
        log_level: tracing::Level::INFO,
        warnings: Vec::new(),
    }
}

fn look_up(
    setting: &'static Setting,
    flags: &Flags,
    env: &Env,
    (host_name, worker_name): (&str, &str),
) -> Resolved {
    let name = setting.env();
    let (text, source) = if let Some(text) = flags.get(setting.flag) {
        (text.as_str(), Source::Flag)
    } else if let Some(text) = env.get(&name).filter(|text| !text.is_empty()) {
        (text.as_str(), Source::Env(name))
    } else if setting.default == HOST_NAME {
        (host_name, Source::Default)
    } else if setting.default == HOST_NAME_AND_PID {
        (worker_name, Source::Default)
    } else {
        (setting.default, Source::Default)
    };
    Resolved {
        setting,
        text: text.to_owned(),
        source,
        error: None,
    }
}

/// What `POSTGRES_URL` leaves out is filled in from the `PG*` variables.
fn complete_postgres(config: &mut Config, settings: &mut [Resolved], env: &Env) {
    let Some(given) = &config.postgres_given else {
        return;
    };
    match given.complete(|name| env.get(name).cloned()) {
        Ok(info) => config.postgres = Some(info),
        Err(why) => {
            let of = |one: &&mut Resolved| one.setting.flag == "postgres-url";
            if let Some(one) = settings.iter_mut().find(of) {
                one.error.get_or_insert(why);
            }
        }
    }
}

/// Both files of TLS, or none.
fn tls_files(config: &Config, settings: &mut [Resolved]) -> Option<TlsFiles> {
    let (lonely, other) = match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.clone(), key.clone());
            return Some(TlsFiles { certificate, key });
        }
        (Some(_), None) => ("tls-cert", "tls-key"),
        (None, Some(_)) => ("tls-key", "tls-cert"),
        (None, None) => return None,
    };
    if let Some(one) = settings.iter_mut().find(|one| one.setting.flag == lonely) {
        one.error = Some(format!("needs --{other} beside it"));
    }
    None
}

/// A line for each setting without which a mode can't be.
fn missing(mode: &Mode, settings: &[Resolved]) -> Vec<String> {
    let (who, needed): (_, &[&str]) = match mode {
        Mode::Work => ("a worker", &["redis-url", "postgres-url"]),
        Mode::Migrate => ("migrate", &["postgres-url"]),
        Mode::Dead(DeadAsk::Retry(_)) => ("dead retry", &["redis-url", "postgres-url"]),
        Mode::Dead(_) => ("dead", &["redis-url"]),
        _ => return Vec::new(),
    };
    let is_missing = |one: &&Resolved| {
        needed.contains(&one.setting.flag) && one.text == "none" && one.error.is_none()
    };
    let line = |one: &Resolved| {
        let (flag, env) = (one.setting.flag, one.setting.env());
        format!("--{flag} ({env}): must be set: {who} needs it")
    };
    settings.iter().filter(is_missing).map(line).collect()
}

/// What `ringcast dead …` says.
fn dead_ask(words: &[String]) -> Result<DeadAsk, String> {
    let ids = |words: &[String]| {
        let id = |word: &String| {
            let why = || format!("dead: {word:?} is no id such as `ringcast dead list` shows");
            EntryId::parse(word).ok_or_else(why)
        };
        words.iter().map(id).collect::<Result<Vec<_>, _>>()
    };
    match words.split_first() {
        Some((word, [])) if word == "list" => Ok(DeadAsk::List),
        Some((word, [all])) if word == "drop" && all == "all" => Ok(DeadAsk::DropAll),
        Some((word, [all])) if word == "retry" && all == "all" => Ok(DeadAsk::Retry(vec![])),
        Some((word, rest)) if word == "retry" => Ok(DeadAsk::Retry(ids(rest)?)),
        Some((word, rest @ [_, ..])) if word == "drop" => Ok(DeadAsk::Drop(ids(rest)?)),
        _ => Err("dead: takes list, retry [ID…|all], or drop ID…|all".into()),
    }
}

/// What an operator of a server should know of who is let in.
fn openness(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    let is_open = !config.takes_tokens() && config.allowed_origins == OriginPolicy::SameHost;
    if !config.bind.is_loopback() && is_open {
        lines.push(format!(
            "--bind {}: whoever reaches this address may join and publish; take tokens \
             (--jwt-secret, --jwt-key-file), or say by --allowed-origins whose pages may connect",
            config.bind
        ));
    }
    let secret = config.jwt_secret.as_ref();
    if secret.is_some_and(|secret| secret.reveal().len() < SECRET_BYTES_GOOD) {
        lines.push(format!(
            "--jwt-secret has less than {SECRET_BYTES_GOOD} bytes and can be guessed (RFC 7518, \
             3.2); take one such as `openssl rand -base64 32` makes"
        ));
    }
    lines
}

/// Bytes of a good secret: as many as the hash has.
const SECRET_BYTES_GOOD: usize = 32;

/// What no setting can say of itself alone; only of those that are good by themselves.
fn check_together(config: &Config, settings: &mut [Resolved]) {
    let bad: BTreeSet<_> = settings
        .iter()
        .filter(|one| one.error.is_some())
        .map(|one| one.setting.flag)
        .collect();
    let mut must = |holds: bool, flag: &str, other: &str, words: &str| {
        if holds || bad.contains(flag) || bad.contains(other) {
            return;
        }
        let of_other = settings.iter().find(|one| one.setting.flag == other);
        let other_text = of_other.map_or_else(String::new, |one| one.text.clone());
        if let Some(one) = settings.iter_mut().find(|one| one.setting.flag == flag) {
            one.error = Some(format!("must be {words} --{other}, which is {other_text}"));
        }
    };
    must(
        config.heartbeat < config.idle_timeout,
        "heartbeat",
        "idle-timeout",
        "less than",
    );
    must(
        config.max_message_bytes <= config.room_log_bytes,
        "max-message-bytes",
        "room-log-bytes",
        "at most",
    );
    // Of a larger message the rest would not count.
    must(
        config.rate_limit_bytes == 0 || config.max_message_bytes <= 60 * config.rate_limit_bytes,
        "rate-limit-bytes",
        "max-message-bytes",
        "0, or at least a 60th of",
    );
    must(
        config.max_rooms_per_connection <= config.max_rooms,
        "max-rooms-per-connection",
        "max-rooms",
        "at most",
    );
}

/// The line for a setting of a later stage that is set; its value is not in it.
fn later_error(setting: &LaterSetting, flags: &Flags, env: &Env) -> Option<String> {
    let name = setting.env();
    let (text, source) = match flags.get(setting.flag) {
        Some(text) => (text, format!("--{} (flag)", setting.flag)),
        None => (
            env.get(&name).filter(|text| !text.is_empty())?,
            format!("{name} (env)"),
        ),
    };
    let asks = !setting.inert.contains(&text.as_str());
    asks.then(|| format!("{source}: this build does not have this setting yet"))
}

/// A line for each variable that looks like a setting and is none.
fn unknown_variables(env: &Env) -> Vec<String> {
    let known: BTreeSet<_> = SETTINGS
        .iter()
        .map(Setting::env)
        .chain(LATER.iter().map(LaterSetting::env))
        .collect();
    let ours = env.keys().filter(|name| name.starts_with("RINGCAST_"));
    let line = |name: &String| {
        let nearest = known.iter().min_by_key(|known| distance(known, name));
        let nearest = nearest.map_or("", String::as_str);
        format!(
            "{}: no such setting; did you mean {nearest}?",
            report::escaped(name)
        )
    };
    ours.filter(|name| !known.contains(*name))
        .map(line)
        .collect()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
