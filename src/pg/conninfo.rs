//! Where a PostgreSQL is, and as whom to log in: `POSTGRES_URL` and the `PG*` variables.
//!
//! ```text
//! postgres[ql]://[user[:password]@][host[:port],…][/database][?name=value&…]    parts %-encoded
//! host=a,b port=5432 user=me password='with space' dbname=chat …
//! ```
//!
//! Names and meanings are libpq's (PostgreSQL documentation, "Connection Strings"). What the string
//! leaves out is taken from the variables, which are passed in: nothing is read here. A parameter
//! that libpq knows and that changes nothing here is passed over ([`IDLE`]); one that would change
//! something and is not built is refused by name. No error, `Display` or `Debug` shows a password.

mod keywords;
#[cfg(test)]
mod tests;
mod url;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::session::Login;
use crate::model::limits::{PG_CONNECT_MS, PG_HOSTS_MAX};

/// The port of PostgreSQL where none is given.
const PORT: u16 = 5432;
/// Where its socket is where no host is given: Debian's and the packages' place.
pub(super) const SOCKET_DIR: &str = "/var/run/postgresql";

/// What a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A name or an IP address, the latter without brackets.
    Tcp(String),
    /// The directory of a socket of this machine; a leading `@`: an abstract one.
    Unix(PathBuf),
}

/// One of the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where.
    pub place: Place,
    /// The port; of a socket a part of its name.
    pub port: u16,
}

impl Host {
    /// The path of its socket, if it has one.
    pub fn socket(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Tcp(_) => None,
            Place::Unix(dir) => Some(dir.join(format!(".s.PGSQL.{}", self.port))),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Place::Tcp(host) => write!(f, "{host}:{}", self.port),
            Place::Unix(dir) => write!(f, "{}:{}", dir.display(), self.port),
        }
    }
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only if the server does not do without: taken as `Prefer`, which is safer.
    Allow,
    /// TLS if the server has it; the certificate is not looked at.
    #[default]
    Prefer,
    /// TLS; the certificate is looked at if `sslrootcert` is given, as libpq does.
    Require,
    /// TLS by a certificate of an authority that is trusted.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

/// `target_session_attrs`: which of the hosts will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionAttrs {
    /// Whichever answers first.
    #[default]
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that does not.
    ReadOnly,
    /// One that is no standby.
    Primary,
    /// One that is.
    Standby,
    /// A standby; if there is none, any.
    PreferStandby,
}

/// A file with passwords: [`super::passfile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassFile {
    /// Where.
    pub path: PathBuf,
    /// Whether somebody named it; else it need not be there.
    pub is_named: bool,
}

/// A connection string, read and not completed yet. Its `Debug` and `Display` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    parameters: BTreeMap<&'static str, String>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// In the order in which they are tried; one at least.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<String>,
    /// Where it may stand if it is not given.
    pub pass_file: Option<PassFile>,
    /// The database.
    pub database: String,
    /// Whether TLS is spoken, and what of the certificate is checked.
    pub ssl_mode: SslMode,
    /// The file of the authorities trusted; none: those that this machine trusts.
    pub ssl_root_cert: Option<PathBuf>,
    /// Which host will do.
    pub session_attrs: SessionAttrs,
    /// How long a connect to one host may take, in ms.
    pub connect_timeout_ms: u64,
    /// What `pg_stat_activity` is to show; none: what the program chooses.
    pub application_name: Option<String>,
    /// The startup parameter `options`.
    pub options: Option<String>,
}

/// The parameters that do something, and the variables that stand for them (libpq, "Environment
/// Variables").
const KNOWN: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("dbname", "PGDATABASE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("application_name", "PGAPPNAME"),
    ("options", "PGOPTIONS"),
];

/// Parameters of libpq that change nothing here: passed over.
pub(super) const IDLE: &[&str] = &[
    "fallback_application_name",
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "gssencmode",
    "krbsrvname",
    "sslcompression",
    "sslsni",
    "load_balance_hosts",
    "ssl_min_protocol_version",
];

impl Given {
    /// Reads a connection string as a setting has it.
    ///
    /// # Errors
    /// One line that says what is wrong, without the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let pairs = match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) => url::parse(rest)?,
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                return Err(format!("{scheme}:// is not known; write {FORM}"));
            }
            _ => keywords::parse(text)?,
        };
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            // A JDBC-ism that many write.
            let (name, value) = match (name.as_str(), value.as_str()) {
                ("ssl", "true") => ("sslmode".to_owned(), "require".to_owned()),
                _ => (name, value),
            };
            match KNOWN.iter().find(|(known, _)| *known == name) {
                Some((known, _)) => {
                    parameters.insert(*known, value);
                }
                None if IDLE.contains(&name.as_str()) => {}
                None => return Err(unknown(&name)),
            }
        }
        // What is no host may be a password that lacks its @: so it is looked at here already.
        let of = |name: &str| parameters.get(name).cloned();
        hosts(of("host"), of("hostaddr"), of("port"))?;
        Ok(Self { parameters })
    }

    /// Completes it by the variables that `variable` looks up, and by what is usual.
    ///
    /// # Errors
    /// One line that says what is wrong or missing, without the password.
    pub fn complete(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Conninfo, String> {
        let of = |name: &str| {
            let given = self.parameters.get(name).filter(|text| !text.is_empty());
            given.cloned().or_else(|| {
                let (_, env) = KNOWN.iter().find(|(known, _)| *known == name)?;
                variable(env).filter(|text| !text.is_empty())
            })
        };
        let hosts = hosts(of("host"), of("hostaddr"), of("port"))?;
        let os_user = || variable("USER").or_else(|| variable("LOGNAME"));
        let user = of("user").or_else(os_user).filter(|user| !user.is_empty());
        let user = user.ok_or("there is no user in it: write one, or set PGUSER")?;
        let ssl_root_cert = of("sslrootcert");
        let ssl_mode = match of("sslmode").as_deref() {
            None if ssl_root_cert.as_deref() == Some("system") => SslMode::VerifyFull,
            None => SslMode::default(),
            Some(text) => word(
                "sslmode",
                text,
                &[
                    ("disable", SslMode::Disable),
                    ("allow", SslMode::Allow),
                    ("prefer", SslMode::Prefer),
                    ("require", SslMode::Require),
                    ("verify-ca", SslMode::VerifyCa),
                    ("verify-full", SslMode::VerifyFull),
                ],
            )?,
        };
        let session_attrs = match of("target_session_attrs").as_deref() {
            None => SessionAttrs::default(),
            Some(text) => word(
                "target_session_attrs",
                text,
                &[
                    ("any", SessionAttrs::Any),
                    ("read-write", SessionAttrs::ReadWrite),
                    ("read-only", SessionAttrs::ReadOnly),
                    ("primary", SessionAttrs::Primary),
                    ("standby", SessionAttrs::Standby),
                    ("prefer-standby", SessionAttrs::PreferStandby),
                ],
            )?,
        };
        let connect_timeout_ms = match of("connect_timeout").map(|text| text.trim().parse::<u64>())
        {
            None | Some(Ok(0)) => PG_CONNECT_MS,
            // libpq takes 1 for 2.
            Some(Ok(seconds @ 1..=600)) => seconds.max(2) * 1000,
            Some(_) => return Err("connect_timeout must be seconds, at most 600".into()),
        };
        let pass_file = |path: String, is_named| PassFile {
            path: path.into(),
            is_named,
        };
        let named = of("passfile").map(|path| pass_file(path, true));
        let usual = || Some(pass_file(variable("HOME")? + "/.pgpass", false));
        Ok(Conninfo {
            hosts,
            password: of("password"),
            pass_file: named.or_else(usual),
            database: of("dbname").unwrap_or_else(|| user.clone()),
            user,
            ssl_mode,
            ssl_root_cert: ssl_root_cert
                .filter(|file| file != "system")
                .map(PathBuf::from),
            session_attrs,
            connect_timeout_ms,
            application_name: of("application_name"),
            options: of("options"),
        })
    }
}

impl Conninfo {
    /// Reads and completes a connection string: [`Given::parse`], [`Given::complete`].
    ///
    /// # Errors
    /// One line that says what is wrong, without the password.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        Given::parse(text)?.complete(variable)
    }

    /// How to log in; `settings` are `SET` first, such as `("statement_timeout", "10000")`.
    pub fn login(&self, name: &str, settings: Vec<(String, String)>) -> Login {
        Login {
            user: self.user.clone(),
            password: self.password.clone(),
            database: self.database.clone(),
            application_name: self.application_name.clone().unwrap_or_else(|| name.into()),
            options: self.options.clone(),
            settings,
        }
    }
}

const FORM: &str = "postgres://[user[:password]@]host[:port][/database][?name=value] or \
                    `host=… user=… dbname=…`";

fn unknown(name: &str) -> String {
    let name: String = name.chars().take(40).collect();
    match name.as_str() {
        "service"
        | "servicefile"
        | "sslcert"
        | "sslkey"
        | "sslpassword"
        | "sslcrl"
        | "sslcrldir"
        | "requirepeer"
        | "require_auth"
        | "channel_binding"
        | "replication"
        | "sslnegotiation"
        | "ssl_max_protocol_version" => {
            format!("{name} is not supported by this build: leave it out")
        }
        // It may be a password whose quotes are missing.
        _ => format!(
            "{} parameter in it is not known; write {FORM}",
            match name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                true => format!("the {name}"),
                false => "a".to_owned(),
            }
        ),
    }
}

fn word<T: Copy>(name: &str, text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|&(_, value)| value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("{name} must be one of {}", words.join(", "))
    })
}

fn hosts(
    host: Option<String>,
    addresses: Option<String>,
    ports: Option<String>,
) -> Result<Vec<Host>, String> {
    // An address is where to go; the name, if given too, is only the certificate's: not built.
    let text = addresses.or(host).unwrap_or_else(|| SOCKET_DIR.into());
    let places: Vec<_> = text.split(',').map(str::trim).collect();
    if places.len() > PG_HOSTS_MAX {
        return Err(format!("at most {PG_HOSTS_MAX} hosts may be given"));
    }
    let ports = ports.unwrap_or_default();
    let ports: Vec<_> = ports.split(',').map(str::trim).collect();
    if ports.len() > 1 && ports.len() != places.len() {
        return Err("there must be one port, or as many as there are hosts".into());
    }
    let port_of = |index: usize| match *ports.get(index).unwrap_or(&ports[0]) {
        "" => Ok(PORT),
        text => text
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or("the port must be a number from 1 to 65535"),
    };
    let mut hosts = Vec::new();
    for (index, &place) in places.iter().enumerate() {
        let port = port_of(index)?;
        let place = match place {
            "" if places.len() > 1 => return Err("a host of the list is empty".into()),
            "" => Place::Unix(SOCKET_DIR.into()),
            path if path.starts_with(['/', '@']) => Place::Unix(path.into()),
            name => Place::Tcp(host_name(name)?),
        };
        hosts.push(Host { place, port });
    }
    Ok(hosts)
}

/// A name or an address. What is no such may be a password that lacks its @: it isn't shown.
fn host_name(name: &str) -> Result<String, String> {
    let name = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    let is_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    match name.chars().all(is_host) {
        true => Ok(name.to_owned()),
        false => Err(format!("a host in it is none; write {FORM}")),
    }
}

/// As a URL, the password masked.
impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |name: &str| self.parameters.get(name).map(String::as_str);
        f.write_str("postgres://")?;
        if let Some(user) = of("user") {
            url::encode(f, user)?;
        }
        if of("password").is_some() {
            f.write_str(":***")?;
        }
        if of("user").is_some() || of("password").is_some() {
            f.write_str("@")?;
        }
        let host = of("hostaddr").or(of("host")).unwrap_or_default();
        let ports: Vec<_> = of("port").unwrap_or_default().split(',').collect();
        for (index, host) in host.split(',').enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match host.contains(':') && !host.starts_with('[') {
                true => write!(f, "[{host}]")?,
                false => url::encode(f, host)?,
            }
            let port = *ports.get(index).unwrap_or(&ports[0]);
            if !port.is_empty() {
                write!(f, ":{port}")?;
            }
        }
        if let Some(database) = of("dbname") {
            f.write_str("/")?;
            url::encode(f, database)?;
        }
        let mut sign = '?';
        let shown = ["host", "hostaddr", "port", "user", "password", "dbname"];
        for (name, value) in &self.parameters {
            if !shown.contains(name) {
                write!(f, "{sign}{name}=")?;
                url::encode(f, value)?;
                sign = '&';
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Given({self})")
    }
}

/// Where it goes, without the password: `me@a:5432,b:5433/chat`.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.user)?;
        for (index, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if index == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.database)
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Conninfo({self}, {:?}, {:?})",
            self.ssl_mode, self.session_attrs
        )
    }
}
