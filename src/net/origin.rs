//! Who may open a WebSocket from a browser (RFC 6455, 10.2; RFC 6454, 7).
//!
//! Browsers send cookies and network position along with a page of anybody's, and tell by the
//! `Origin` header whose page it is. Other clients send none, and are not held back by this. Who
//! may connect may also read the answers to its requests (CORS; Fetch, 3.2).
//!
//! ```text
//!   scheme "://" host [ ":" port ]      no userinfo, no path; `null` for pages without an origin
//! ```

use super::head::Head;

/// Which origins are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OriginPolicy {
    /// Only pages of the host that the request is addressed to.
    #[default]
    SameHost,
    /// Only these.
    List(Vec<Origin>),
    /// All of them.
    Any,
}

/// A web origin: two are the same if all three parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Lower-cased.
    scheme: String,
    /// Lower-cased.
    host: String,
    /// The default of the scheme if none was given; 0 if the scheme has none.
    port: u16,
}

impl OriginPolicy {
    /// The policy written as a comma-separated list of origins; `*` among them: all.
    ///
    /// # Errors
    /// The first part that is no origin.
    pub fn parse(list: &str) -> Result<Self, &str> {
        let parts = || {
            list.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
        };
        if parts().any(|part| part == "*") {
            return Ok(Self::Any);
        }
        parts()
            .map(|part| Origin::parse(part).ok_or(part))
            .collect::<Result<_, _>>()
            .map(Self::List)
    }
}

impl Origin {
    /// The origin written as `text`; `None` for `null` and for all else that is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme_byte = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(is_scheme_byte) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => 0,
        };
        let (host, port) = split_authority(authority)?;
        Some(Self {
            scheme,
            host,
            port: port.unwrap_or(default_port),
        })
    }

    /// Whether a page of this origin came from `host`, a Host header. A host without a port has the
    /// origin's default one: whether TLS ends before us we can't know.
    fn is_of_host(&self, host: &str) -> bool {
        let default_port = match self.scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        split_authority(host).is_some_and(|(host, port)| {
            host == self.host && port.unwrap_or(default_port) == self.port
        })
    }
}

/// `host[:port]`, the host lower-cased.
fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of [::1] is no port's.
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            (host, Some(port.parse().ok().filter(|_| digits)?))
        }
        _ => (authority, None),
    };
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let valid = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name_byte),
    };
    valid.then(|| (host.to_ascii_lowercase(), port))
}

/// Whether the request may open a WebSocket under `allowed`.
pub fn origin_allowed(head: &Head<'_>, allowed: &OriginPolicy) -> bool {
    let mut origins = head.all("origin");
    let Some(origin) = origins.next() else {
        return true;
    };
    if *allowed == OriginPolicy::Any {
        return true;
    }
    // Two are none of a browser's: nobody can say which one a proxy looked at.
    let Some(origin) = Origin::parse(origin).filter(|_| origins.next().is_none()) else {
        return false;
    };
    match allowed {
        OriginPolicy::Any => true,
        OriginPolicy::List(list) => list.contains(&origin),
        OriginPolicy::SameHost => head
            .header("host")
            .is_some_and(|host| origin.is_of_host(host)),
    }
}

/// To whose pages an answer may be shown: the value of `Access-Control-Allow-Origin` (Fetch, 3.2),
/// if it may be shown to pages of other hosts at all.
pub fn shared_with<'a>(head: &Head<'a>, allowed: &OriginPolicy) -> Option<&'a str> {
    let origin = head.header("origin")?;
    match allowed {
        OriginPolicy::SameHost => None,
        OriginPolicy::Any => Some("*"),
        OriginPolicy::List(_) => Some(origin).filter(|_| origin_allowed(head, allowed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::head;

    fn check(policy: &OriginPolicy, origin: &str, allowed: bool) {
        let lines: String = origin
            .lines()
            .map(|line| format!("Origin: {line}\r\n"))
            .collect();
        let text = format!("GET /ws HTTP/1.1\r\nHost: Chat.example:8080\r\n{lines}\r\n");
        let (head, _) = head::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(
            origin_allowed(&head, policy),
            allowed,
            "{policy:?} {origin:?}"
        );
    }

    #[test]
    fn only_listed_origins_come_in() {
        let policy =
            OriginPolicy::parse("https://good.example, http://other.example:3000,tauri://app")
                .unwrap();
        for origin in [
            "",
            "https://good.example",
            "https://GOOD.example",
            "HTTPS://good.example:443",
            "http://other.example:3000",
            "tauri://app",
        ] {
            check(&policy, origin, true);
        }
        for origin in [
            "null",
            "http://good.example",
            "https://good.example:444",
            "https://good.example.evil.test",
            "https://evil.test/good.example",
            "https://evilgood.example",
            "https://good.example@evil.test",
            "https://evil.test@good.example",
            "https://good.example:443@evil.test",
            "https://good.example/",
            "https://good.example.",
            "https://good.example:+443",
            "https://good.example:",
            "good.example",
            "https://good.example\nhttps://good.example",
            "https://good.example https://evil.test",
            "http://other.example",
            "*",
        ] {
            check(&policy, origin, false);
        }
    }

    #[test]
    fn same_host_means_host_and_port() {
        let policy = OriginPolicy::SameHost;
        check(&policy, "", true);
        check(&policy, "http://chat.example:8080", true);
        check(&policy, "https://CHAT.example:8080", true);
        check(&policy, "http://chat.example", false);
        check(&policy, "tauri://chat.example:8080", false);
        check(&policy, "http://chat.example:8080.evil.test", false);
        check(&policy, "null", false);
        check(&OriginPolicy::Any, "null", true);
    }

    #[test]
    fn answers_are_shared_with_whom_they_may() {
        let list = OriginPolicy::parse("https://good.example").unwrap();
        for (policy, origin, shared) in [
            (
                &list,
                "Origin: https://good.example\r\n",
                Some("https://good.example"),
            ),
            (&list, "Origin: https://evil.example\r\n", None),
            (&list, "Origin: null\r\n", None),
            (&list, "", None),
            (
                &OriginPolicy::Any,
                "Origin: https://evil.example\r\n",
                Some("*"),
            ),
            (&OriginPolicy::SameHost, "Origin: http://a\r\n", None),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{origin}\r\n");
            let (head, _) = head::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!(shared_with(&head, policy), shared, "{policy:?} {origin:?}");
        }
    }

    #[test]
    fn default_ports_are_the_scheme_s() {
        let origin = Origin::parse("https://a.example").unwrap();
        assert!(origin.is_of_host("a.example"));
        assert!(origin.is_of_host("a.example:443"));
        assert!(!origin.is_of_host("a.example:80"));
        let v6 = Origin::parse("http://[::1]:8080").unwrap();
        assert!(v6.is_of_host("[::1]:8080"));
        assert!(!v6.is_of_host("[::1]"));
        assert_eq!(
            OriginPolicy::parse("https://a.example,nonsense"),
            Err("nonsense")
        );
        assert_eq!(
            OriginPolicy::parse("https://a.example,*"),
            Ok(OriginPolicy::Any)
        );
    }
}
