//! What the system and the server say about themselves: CPU seconds and memory from `/proc`, and
//! counters from the server's `/metrics`. Every figure is optional: a missing one is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_BYTES_MAX: u64 = 64 << 20;

/// User and system seconds of a process, all its threads.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// CPU seconds of this process, to the nanosecond.
pub(crate) fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds that this process was ready to run and had no core.
pub(crate) fn own_wait_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/schedstat").ok()?;
    let nanos: u64 = stat.split(' ').nth(1)?.parse().ok()?;
    Some(nanos as f64 / 1e9)
}

/// Resident bytes of a process.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}

/// Open files of a process.
pub(crate) fn open_files(pid: u32) -> Option<u64> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64)
}

/// The server's counters, label values added up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks the server; empty when it has none.
    pub(crate) fn scrape(address: SocketAddr) -> Self {
        match http_get(address, "/metrics") {
            Ok((200, body)) => Self::read(&body),
            _ => Self::default(),
        }
    }

    /// Reads Prometheus text.
    fn read(text: &str) -> Self {
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let name = series.split('{').next().unwrap_or(series).trim();
            if let Ok(value) = value.parse::<f64>() {
                *sums.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
        Self(sums)
    }

    /// How much `name` grew since `before`.
    pub(crate) fn since(&self, before: &Self, name: &str) -> Option<f64> {
        Some(self.0.get(name)? - before.0.get(name).unwrap_or(&0.0))
    }
}

/// One blocking GET: status and body.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let failed = |error: std::io::Error| format!("GET {path}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT).map_err(failed)?;
    stream
        .set_read_timeout(Some(HTTP_TIMEOUT))
        .map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        let mut piece = [0; 65536];
        match stream.read(&mut piece).map_err(failed)? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
        if answer.len() as u64 > HTTP_BYTES_MAX {
            return Err(format!("GET {path}: an answer over 64 MiB"));
        }
    }
    read_answer(&answer).ok_or_else(|| format!("GET {path}: not an HTTP answer"))
}

fn split_answer(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n")?;
    Some((
        String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase(),
        &answer[end + 4..],
    ))
}

fn is_whole(answer: &[u8]) -> bool {
    split_answer(answer).is_some_and(|(head, body)| {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse::<usize>().ok());
        match length {
            Some(length) => body.len() >= length,
            None => body.ends_with(b"\r\n0\r\n\r\n"),
        }
    })
}

fn read_answer(answer: &[u8]) -> Option<(u16, String)> {
    let (head, body) = split_answer(answer)?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = String::from_utf8_lossy(body).into_owned();
    if !head.contains("transfer-encoding: chunked") {
        return Some((status, body));
    }
    let (mut whole, mut rest) = (String::new(), body.as_str());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            break;
        }
        whole.push_str(after.get(..size)?);
        rest = after.get(size + 2..)?;
    }
    Some((status, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_up() {
        let before = Metrics::read("x_total 1\n");
        let after = Metrics::read("# HELP x\nx_total{a=\"b c\"} 2\nx_total{a=\"d\"} 3.5\nbad\n");
        assert_eq!(after.since(&before, "x_total"), Some(4.5));
        assert_eq!(after.since(&before, "y_total"), None);
    }

    #[test]
    fn answers_are_read() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert!(is_whole(plain) && !is_whole(&plain[..plain.len() - 1]));
        assert_eq!(read_answer(plain), Some((200, "hi".into())));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert!(is_whole(chunked));
        assert_eq!(read_answer(chunked), Some((200, "hi!".into())));
    }

    #[test]
    fn this_process_has_figures() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).is_some());
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
    }
}
