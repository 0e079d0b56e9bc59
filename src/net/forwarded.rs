//! Whose request it is where proxies stand before us: X-Forwarded-For, of those that are trusted.
//!
//! Each proxy appends the address that it was connected from, so the header is as good as who wrote
//! its last entry, and what stands left of an entry is as good as that entry:
//!
//! ```text
//!   X-Forwarded-For: 203.0.113.9, 198.51.100.7, 10.0.0.2         peer: 10.0.0.3
//!                    └ anybody's  └ the client  └── trusted proxies ──┘
//! ```
//!
//! The client is the rightmost address that is no trusted proxy's. A peer that is not trusted is
//! the client, whatever it sends. Nothing here decides what an address may do.

use std::net::IpAddr;

use super::head::Head;

/// Networks whose word on who was connected to them counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    /// All bits behind the prefix are 0.
    address: IpAddr,
    /// How many bits.
    prefix: u32,
}

impl Networks {
    /// Networks written as `10.0.0.0/8` or, for one address, `10.0.0.2`, separated by commas.
    ///
    /// # Errors
    /// The first part that is none, or that has bits set behind its prefix: it is not known which
    /// of the two was meant.
    pub fn parse(list: &str) -> Result<Self, &str> {
        let parts = list.split(',').map(str::trim);
        let networks = parts.map(|part| Network::parse(part).ok_or(part));
        networks.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `address` is in one of them. An IPv4 address in IPv6's clothes is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whether any address at all is in one of them, so that anybody may say who it is.
    pub fn is_everybody(&self) -> bool {
        self.0.iter().any(|network| network.prefix == 0)
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = width(address);
        let prefix = match prefix {
            // `parse` would take a sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => width,
        };
        let network = Self { address, prefix };
        let fits = prefix <= width && address == address.to_canonical();
        (fits && bits(address) == bits(address) & network.mask()).then_some(network)
    }

    /// The bits of the prefix, at the low end of as many as an address has.
    fn mask(self) -> u128 {
        let (width, all) = match self.address {
            IpAddr::V4(_) => (32, u128::from(u32::MAX)),
            IpAddr::V6(_) => (128, u128::MAX),
        };
        all & all.checked_shl(width - self.prefix).unwrap_or(0)
    }

    fn contains(self, address: IpAddr) -> bool {
        width(address) == width(self.address) && bits(address) & self.mask() == bits(self.address)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of the client that a request on a connection from `peer` comes from.
///
/// An entry that is no address ends the walk: then it is the proxy that wrote it, for who was
/// behind that one is not known.
pub fn client_address(head: &Head<'_>, peer: IpAddr, trusted: &Networks) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contains(client) {
        return client;
    }
    let lines: Vec<_> = head.all("x-forwarded-for").collect();
    let entries = lines.iter().rev().flat_map(|line| line.rsplit(','));
    for entry in entries {
        match parse_entry(entry.trim()) {
            Some(address) => client = address,
            None => break,
        }
        if !trusted.contains(client) {
            break;
        }
    }
    client
}

/// Whether somebody has passed the request on, trusted or not.
pub fn is_passed_on(head: &Head<'_>) -> bool {
    ["x-forwarded-for", "forwarded", "x-real-ip", "via"]
        .iter()
        .any(|name| head.count(name) > 0)
}

/// An address, to which some proxies add the port.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let bare = entry.parse().ok();
    let bracketed = || {
        let inner = entry.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse().ok().map(IpAddr::V6)
    };
    let with_port = || {
        let address: std::net::SocketAddr = entry.parse().ok()?;
        Some(address.ip())
    };
    bare.or_else(bracketed)
        .or_else(with_port)
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::head;

    fn networks(list: &str) -> Networks {
        Networks::parse(list).unwrap()
    }

    fn client_of(peer: &str, lines: &[&str], trusted: &Networks) -> String {
        let lines: String = lines
            .iter()
            .map(|line| format!("X-Forwarded-For: {line}\r\n"))
            .collect();
        let text = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let (head, _) = head::parse(text.as_bytes()).unwrap().unwrap();
        client_address(&head, peer.parse().unwrap(), trusted).to_string()
    }

    #[test]
    fn networks_are_checked() {
        for (list, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.2", "10.0.0.2", "10.0.0.3"),
            ("10.0.0.2/31", "::ffff:10.0.0.3", "10.0.0.4"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("::/0", "fd00::1", "10.0.0.1"),
            ("::1", "::1", "::2"),
            ("192.0.2.0/24, fd00::/8", "fdff::1", "192.0.3.0"),
        ] {
            let networks = networks(list);
            assert!(
                networks.contains(inside.parse().unwrap()),
                "{list} {inside}"
            );
            assert!(
                !networks.contains(outside.parse().unwrap()),
                "{list} {outside}"
            );
            assert_eq!(networks.is_everybody(), list.ends_with("/0"));
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::1/129",
            "fd00::1/8",
            "10.0.0",
            "host",
            "10.0.0.0/8,",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(Networks::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Networks::parse("10.0.0.1, nonsense"), Err("nonsense"));
    }

    #[test]
    fn the_rightmost_that_is_not_trusted_is_the_client() {
        let trusted = networks("10.0.0.0/8,fd00::/8");
        for (peer, lines, client) in [
            ("203.0.113.9", &[][..], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.7"], "203.0.113.9"),
            ("10.0.0.3", &[], "10.0.0.3"),
            ("10.0.0.3", &[""], "10.0.0.3"),
            ("10.0.0.3", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.3", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.3", &["127.0.0.1, 198.51.100.7"], "198.51.100.7"),
            (
                "10.0.0.3",
                &["127.0.0.1,198.51.100.7, 10.0.0.2"],
                "198.51.100.7",
            ),
            (
                "10.0.0.3",
                &["127.0.0.1", "198.51.100.7", "fd00::1"],
                "198.51.100.7",
            ),
            ("10.0.0.3", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            ("10.0.0.3", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.3", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.3", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.3", &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("10.0.0.3", &["127.0.0.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.3", &["127.0.0.1,"], "10.0.0.3"),
        ] {
            assert_eq!(client_of(peer, lines, &trusted), client, "{peer} {lines:?}");
        }
        assert_eq!(
            client_of("127.0.0.1", &["198.51.100.7"], &Networks::default()),
            "127.0.0.1"
        );
    }

    #[test]
    fn who_passes_on_is_known_by_any_of_its_headers() {
        for (line, passed_on) in [
            ("X-FORWARDED-FOR:", true),
            ("Forwarded: for=127.0.0.1", true),
            ("X-Real-IP: 127.0.0.1", true),
            ("Via: 1.1 a", true),
            ("X-Forwarded-Proto: http", false),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
            let (head, _) = head::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!(is_passed_on(&head), passed_on, "{line}");
        }
    }

    proptest! {
        /// Whatever the client itself sends, on one line or many.
        #[test]
        fn nobody_can_say_that_it_is_somebody_else(
            forged in proptest::collection::vec("[ -~&&[^\\\\]]{0,40}", 0..5),
            client in any::<u32>(),
            hops in proptest::collection::vec(any::<u8>(), 0..4),
            own_line in any::<bool>(),
        ) {
            let trusted = networks("10.0.0.0/8");
            let client = IpAddr::from(client.to_be_bytes());
            prop_assume!(!trusted.contains(client));
            // Each trusted proxy appends who is connected to it.
            let mut appended = vec![client.to_string()];
            appended.extend(hops.iter().map(|hop| format!("10.0.0.{hop}")));
            let appended = appended.join(", ");
            let mut lines: Vec<_> = forged.iter().map(String::as_str).collect();
            let joined;
            match lines.pop().filter(|_| !own_line) {
                Some(last) => {
                    joined = format!("{last}, {appended}");
                    lines.push(&joined);
                }
                None => lines.push(&appended),
            }
            prop_assert_eq!(client_of("10.1.2.3", &lines, &trusted), client.to_string());
            prop_assert_eq!(client_of("192.0.2.1", &lines, &trusted), "192.0.2.1");
        }
    }
}
