//! Where a Redis is, and as whom to log in: `REDIS_URL`.
//!
//! ```text
//! host[:port]
//! redis[s]://[[user]:password@]host[:port][/database]      user and password are %-encoded
//! ```
//!
//! An IPv6 address stands in brackets. No error and no `Display` or `Debug` shows a password.

use std::fmt;

use super::session::Login;
use crate::model::percent;

/// The port of Redis where none is given.
const PORT: u16 = 6379;

/// See the module.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, the latter without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The ACL user; none: the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database.
    pub database: u32,
}

impl Address {
    /// Reads an address as a setting has it.
    ///
    /// # Errors
    /// One line that says what is wrong, without the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut addresses = split(text.trim()).into_iter().map(parse_one);
        let first = addresses.next().unwrap_or_else(|| parse_one(""))?;
        if let Some(second) = addresses.next() {
            second?;
            return Err(
                "more than one address stands for a Redis Cluster, which this build does not \
                 support yet: give one"
                    .into(),
            );
        }
        Ok(first)
    }

    /// How to log in there, as the client of that name.
    pub fn login(&self, name: impl Into<String>) -> Login {
        Login {
            user: self.user.clone(),
            password: self.password.clone(),
            database: self.database,
            name: name.into(),
        }
    }
}

/// The addresses of a list. A comma before an `@` may be a password's.
fn split(text: &str) -> Vec<&str> {
    let mut parts = vec![];
    let mut rest = text;
    let mut from = 0;
    while let Some(at) = rest[from..].find(',').map(|at| from + at) {
        let behind = rest[at + 1..].trim_start();
        let begins = behind.starts_with("redis://") || behind.starts_with("rediss://");
        if begins || !rest[at..].contains('@') {
            parts.push(rest[..at].trim());
            rest = behind;
            from = 0;
        } else {
            from = at + 1;
        }
    }
    parts.push(rest);
    parts
}

fn parse_one(text: &str) -> Result<Address, String> {
    let (tls, rest) = match text.split_once("://") {
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            return Err(format!("{scheme}:// is not known; write {FORM}"));
        }
        _ if text.contains('@') => {
            return Err(format!("a user and password need the whole form: {FORM}"));
        }
        _ => (false, text),
    };
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let (place, database) = match place.split_once('/') {
        Some((place, "")) => (place, 0),
        Some((place, database)) => (
            place,
            decimal(database).ok_or_else(|| format!("the database is no number; write {FORM}"))?,
        ),
        None => (place, 0),
    };
    let (host, port) = host_and_port(place)?;
    let (user, password) = match credentials.map(|it| it.split_once(':')) {
        None | Some(Some(("", ""))) => (None, None),
        Some(Some((user, password))) => (some(decode(user)?), Some(decode(password)?)),
        Some(None) => {
            return Err("what stands before the @ is user:password, or :password alone".into());
        }
    };
    Ok(Address {
        host,
        port,
        tls,
        user,
        password,
        database,
    })
}

const FORM: &str = "redis[s]://[[user]:password@]host[:port][/database]";

fn host_and_port(place: &str) -> Result<(String, u16), String> {
    // What is taken for a place may be a password that lacks its @: it isn't shown.
    let wrong = |what: &str| format!("{what}; write host:port or {FORM}");
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| wrong("the bracket is not closed"))?;
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| wrong("no IPv6 address stands in the brackets"))?;
            match rest.strip_prefix(':') {
                _ if rest.is_empty() => (host, None),
                Some(port) => (host, Some(port)),
                None => return Err(wrong("what follows the bracket is no port")),
            }
        }
        None => match place.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(wrong("an IPv6 address stands in brackets: [::1]:6379"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(is_host) {
        return Err(wrong("there is no host"));
    }
    let port = match port {
        None => PORT,
        Some(port) => decimal(port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|&port| port != 0)
            .ok_or_else(|| wrong("the port is no number from 1 to 65535"))?,
    };
    Ok((host.to_owned(), port))
}

fn decimal(text: &str) -> Option<u32> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Takes the %-encoding off.
fn decode(text: &str) -> Result<String, String> {
    let bytes = percent::decode(text).ok_or("a % in a user or password is written %25")?;
    String::from_utf8(bytes).map_err(|_| "the user or password is not UTF-8".into())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss://" } else { "redis://" })?;
        if self.user.is_some() || self.password.is_some() {
            f.write_str(self.user.as_deref().unwrap_or_default())?;
            f.write_str(if self.password.is_some() {
                ":***@"
            } else {
                "@"
            })?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)?;
        } else {
            write!(f, "{}:{}", self.host, self.port)?;
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, want: &str, user: Option<&str>, password: Option<&str>| {
            let address = Address::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(address.to_string(), want, "{text}");
            assert_eq!(format!("{address:?}"), format!("Address({want})"));
            assert_eq!(address.user.as_deref(), user, "{text}");
            assert_eq!(address.password.as_deref(), password, "{text}");
        };
        check("cache", "redis://cache:6379", None, None);
        check(" cache:7000 ", "redis://cache:7000", None, None);
        check("redis://10.0.0.1/", "redis://10.0.0.1:6379", None, None);
        check("rediss://h:1/15", "rediss://h:1/15", None, None);
        check("[::1]:7000", "redis://[::1]:7000", None, None);
        check(
            "redis://[fe80::1]/3",
            "redis://[fe80::1]:6379/3",
            None,
            None,
        );
        check("redis://:pw@h", "redis://:***@h:6379", None, Some("pw"));
        check(
            "redis://me:pw@h",
            "redis://me:***@h:6379",
            Some("me"),
            Some("pw"),
        );
        check("redis://:@h", "redis://h:6379", None, None);
        check(
            "redis://me:@h",
            "redis://me:***@h:6379",
            Some("me"),
            Some(""),
        );
        // Encoded, and written as it is where that can be told apart.
        check(
            "redis://a%40b:%2f%25%C3%A9@h",
            "redis://a@b:***@h:6379",
            Some("a@b"),
            Some("/%é"),
        );
        check(
            "redis://:a:b/c@d,e+#@h:1/2",
            "redis://:***@h:1/2",
            None,
            Some("a:b/c@d,e+#"),
        );
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for (text, want) in [
            ("", "there is no host"),
            ("redis://", "there is no host"),
            (":6379", "there is no host"),
            ("h:0", "1 to 65535"),
            ("h:65536", "1 to 65535"),
            ("h:+1", "1 to 65535"),
            ("h:", "1 to 65535"),
            ("::1", "in brackets"),
            ("[::1", "not closed"),
            ("[h]:1", "no IPv6"),
            ("[::1]7", "no port"),
            ("http://h", "http:// is not known"),
            ("redis://h/x", "no number"),
            ("redis://h/-1", "no number"),
            ("redis://h/1?a=b", "no number"),
            ("me:secret@h", "the whole form"),
            ("redis://secret@h", "user:password"),
            ("redis://:secret%@h", "%25"),
            ("redis://:secret%zz@h", "%25"),
            ("redis://:secret%ff@h", "UTF-8"),
            ("redis://:secret@", "there is no host"),
            ("redis://:secret@h h", "there is no host"),
            ("redis://me:secret", "1 to 65535"),
            ("redis://:secret", "there is no host"),
            ("a:1,b:2", "Redis Cluster"),
            ("redis://:secret@a,redis://:secret@b", "Redis Cluster"),
            ("redis://:secret@a:1, b:2, c", "Redis Cluster"),
            ("a:1,", "there is no host"),
        ] {
            let why = Address::parse(text).unwrap_err();
            assert!(why.contains(want), "{text}: {why}");
            assert!(
                !why.contains("secret") && !why.contains('\n'),
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn a_login_keeps_its_password_to_itself() {
        let login = Address::parse("redis://me:secret@h/4")
            .unwrap()
            .login("ringcast");
        assert_eq!(
            (login.database, login.password.as_deref()),
            (4, Some("secret"))
        );
        assert!(!format!("{login:?}").contains("secret"));
    }
}
