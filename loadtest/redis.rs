//! As much of Redis as a load tool needs: RESP2 replies read and commands written, and what `INFO`
//! says of commands and calls. Bytes <-> values, and one blocking connection for `INFO`.
//!
//! ```text
//! command  *2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n
//! reply    +text\r\n | -error\r\n | :number\r\n | $len\r\nbytes\r\n | $-1\r\n | *n\r\nreply…
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Lists in lists: a push is one list of three.
const DEPTH_MAX: usize = 4;
const LIST_MAX: usize = 1 << 16;
const BULK_BYTES_MAX: usize = 64 << 20;

/// One reply, within the bytes that it was read from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<'a> {
    Text(&'a [u8]),
    Error(&'a [u8]),
    Number(i64),
    Nil,
    List(Vec<Reply<'a>>),
}

/// Appends a command.
pub(crate) fn write_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads one reply and says how many bytes it took; `None`: more are needed.
pub(crate) fn read_reply(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, &'static str> {
    read_at_depth(bytes, 0)
}

fn read_at_depth(bytes: &[u8], depth: usize) -> Result<Option<(Reply<'_>, usize)>, &'static str> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
        return Ok(None);
    };
    let (kind, line, after) = (bytes[0], bytes.get(1..end).unwrap_or_default(), end + 2);
    let number = || {
        let text = std::str::from_utf8(line).ok();
        text.and_then(|text| text.parse::<i64>().ok())
            .ok_or("not a number")
    };
    match kind {
        b'+' => Ok(Some((Reply::Text(line), after))),
        b'-' => Ok(Some((Reply::Error(line), after))),
        b':' => Ok(Some((Reply::Number(number()?), after))),
        b'$' | b'*' if number()? < 0 => Ok(Some((Reply::Nil, after))),
        b'$' => {
            let length = number()? as usize;
            if length > BULK_BYTES_MAX {
                return Err("a bulk of over 64 MiB");
            }
            let text = bytes.get(after..after + length);
            let is_whole = bytes.len() >= after + length + 2;
            let text = text.filter(|_| is_whole);
            Ok(text.map(|text| (Reply::Text(text), after + length + 2)))
        }
        b'*' => {
            let count = number()? as usize;
            if depth == DEPTH_MAX || count > LIST_MAX {
                return Err("a list too deep or too long");
            }
            let (mut list, mut used) = (Vec::with_capacity(count), after);
            for _ in 0..count {
                let Some((reply, more)) = read_at_depth(&bytes[used..], depth + 1)? else {
                    return Ok(None);
                };
                list.push(reply);
                used += more;
            }
            Ok(Some((Reply::List(list), used)))
        }
        _ => Err("not a reply"),
    }
}

/// The address in `HOST:PORT` or `redis://HOST:PORT`.
pub(crate) fn address(of: &str) -> Result<SocketAddr, String> {
    let host = of.strip_prefix("redis://").unwrap_or(of);
    host.to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| format!("Redis at {of}: HOST:PORT is wanted"))
}

/// What Redis counted since its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counters {
    /// All commands, those that scripts ran too.
    pub(crate) commands: u64,
    /// By name, lower case.
    pub(crate) calls: BTreeMap<String, u64>,
}

impl Counters {
    /// Asks the Redis at `address`.
    pub(crate) fn ask(address: SocketAddr) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("Redis at {address}: {error}");
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        let mut request = Vec::new();
        write_command(&mut request, &[b"INFO", b"stats"]);
        write_command(&mut request, &[b"INFO", b"commandstats"]);
        stream.write_all(&request).map_err(failed)?;
        let (mut bytes, mut texts) = (Vec::new(), String::new());
        for _ in 0..2 {
            loop {
                let reply = read_reply(&bytes).map_err(|e| format!("Redis at {address}: {e}"))?;
                let used = match reply {
                    Some((Reply::Text(text), used)) => {
                        texts += &String::from_utf8_lossy(text);
                        used
                    }
                    Some((other, _)) => return Err(format!("Redis at {address}: {other:?}")),
                    None => {
                        let mut piece = [0; 16384];
                        match stream.read(&mut piece).map_err(failed)? {
                            0 => return Err(format!("Redis at {address} hung up")),
                            count => bytes.extend_from_slice(&piece[..count]),
                        }
                        continue;
                    }
                };
                bytes.drain(..used);
                break;
            }
        }
        Ok(Self::read(&texts))
    }

    /// Reads the text of `INFO`.
    fn read(text: &str) -> Self {
        let mut counters = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            if name == "total_commands_processed" {
                counters.commands = value.trim().parse().unwrap_or(0);
            } else if let Some(command) = name.strip_prefix("cmdstat_") {
                let calls = value.strip_prefix("calls=");
                let calls = calls.and_then(|calls| calls.split(',').next()?.parse().ok());
                counters.calls.insert(command.into(), calls.unwrap_or(0));
            }
        }
        counters
    }

    /// What came since `before`, without the two questions themselves; a restart begins anew.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let grown = |(name, calls): (&String, &u64)| {
            let before = before.calls.get(name).copied().unwrap_or(0);
            let more = calls.checked_sub(before).unwrap_or(*calls);
            (more > 0 && name != "info").then(|| (name.clone(), more))
        };
        let commands = self.commands.checked_sub(before.commands);
        Self {
            commands: commands.unwrap_or(self.commands).saturating_sub(2),
            calls: self.calls.iter().filter_map(grown).collect(),
        }
    }

    /// Calls that read the stream.
    pub(crate) fn stream_reads(&self) -> u64 {
        let names = ["xrange", "xrevrange", "xread"];
        let calls = names.iter().filter_map(|name| self.calls.get(*name));
        calls.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_split_anywhere_read_the_same() {
        let push = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n";
        let list = vec![
            Reply::Text(b"message"),
            Reply::Text(b"c"),
            Reply::Text(b"a\r\nb"),
        ];
        assert_eq!(read_reply(push), Ok(Some((Reply::List(list), push.len()))));
        for end in 0..push.len() {
            assert_eq!(read_reply(&push[..end]), Ok(None), "{end}");
        }
        let check = |bytes: &'static [u8], reply| {
            assert_eq!(read_reply(bytes), Ok(Some((reply, bytes.len()))));
        };
        check(b"+OK\r\n", Reply::Text(b"OK"));
        check(b"-ERR x\r\n", Reply::Error(b"ERR x"));
        check(b":-7\r\n", Reply::Number(-7));
        check(b"$-1\r\n", Reply::Nil);
        check(b"*0\r\n", Reply::List(vec![]));
        for bad in [
            &b"?\r\n"[..],
            b":x\r\n",
            b"$99999999999\r\n",
            b"*99999999\r\n",
        ] {
            assert!(read_reply(bad).is_err(), "{bad:?}");
        }
        assert!(read_reply(&b"*1\r\n".repeat(9)).is_err());
    }

    #[test]
    fn counters_are_told_apart() {
        let before = "total_commands_processed:10\r\ncmdstat_publish:calls=4,usec=1\r\n";
        let after = "# Stats\r\ntotal_commands_processed:32\r\ncmdstat_publish:calls=14,usec=2\r\n\
                     cmdstat_xrange:calls=3,usec=2\r\ncmdstat_info:calls=2,usec=2\r\n";
        let since = Counters::read(after).since(&Counters::read(before));
        assert_eq!((since.commands, since.stream_reads()), (20, 3));
        assert_eq!(since.calls.len(), 2);
        assert_eq!(since.calls["publish"], 10);
    }
}
