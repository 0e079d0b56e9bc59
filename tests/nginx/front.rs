//! An nginx of a test, with what `nginx/local.sh` makes of the shipped configuration.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::redis::free_port;
use super::support::{Answer, PATIENCE, connect_from, eventually};

/// How clients are spread over instances.
#[derive(Clone, Copy)]
pub(crate) enum Balance {
    IpHash,
    LeastConn,
}

/// An nginx that ends with its guard. It keeps its port over restarts.
pub(crate) struct Nginx {
    child: Option<Child>,
    pub(crate) port: u16,
    dir: TempDir,
}

impl Nginx {
    /// One before the instances on these ports.
    pub(crate) fn before(ports: &[u16], balance: Balance) -> Self {
        let instances = ports.iter().map(|port| format!("127.0.0.1:{port}"));
        Self::start(&instances.collect::<Vec<_>>(), balance)
    }

    /// One before all addresses that the resolver has for `name`, which is with a port.
    pub(crate) fn by_dns(resolver: SocketAddr, name: &str) -> Self {
        let where_to = ["--dns".into(), resolver.to_string(), name.into()];
        Self::start(&where_to, Balance::IpHash)
    }

    fn start(where_to: &[String], balance: Balance) -> Self {
        let mut nginx = Self {
            child: None,
            port: 0,
            dir: TempDir::new().unwrap(),
        };
        // Somebody else may take the port between the two looks at it.
        for _ in 0..10 {
            nginx.port = free_port();
            nginx.configure(where_to, balance);
            nginx.spawn();
            if nginx.is_serving() {
                return nginx;
            }
        }
        panic!("no nginx can be started: {}", nginx.file("error.log"));
    }

    fn configure(&self, where_to: &[String], balance: Balance) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/nginx/local.sh");
        let mut command = Command::new(script);
        command.arg(self.dir.path()).arg(self.port.to_string());
        if let Balance::LeastConn = balance {
            command.env("BALANCE", "least_conn");
        }
        assert!(command.args(where_to).status().unwrap().success());
    }

    /// Changes the configuration, from the next start or reload on.
    pub(crate) fn edit(&self, what: &str, by_what: &str) {
        let path = self.dir.path().join("nginx.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(what), "{what}");
        std::fs::write(path, text.replace(what, by_what)).unwrap();
    }

    fn spawn(&mut self) {
        // It is where not everybody's PATH leads.
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("nginx");
        command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
        command.arg("-c").arg(self.dir.path().join("nginx.conf"));
        command.args(["-g", "daemon off;"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let spawned = command.stderr(Stdio::null()).spawn();
        self.child = Some(spawned.expect("nginx is missing: install it"));
    }

    /// Waits until it answers, or has ended.
    fn is_serving(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            // What it answers itself.
            let asked = TcpStream::connect(("127.0.0.1", self.port));
            if asked.is_ok() && self.get("/metrics").status == 403 {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        false
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.as_ref().unwrap().id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Reloads its configuration, and waits until the new workers are there.
    pub(crate) fn reload(&self) {
        let done = || self.file("error.log").matches("reconfiguring").count();
        let started = || {
            self.file("error.log")
                .matches("start worker process ")
                .count()
        };
        let (before, workers) = (done(), started());
        self.signal(Signal::HUP);
        eventually("the reload", || {
            (done() > before && started() > workers).then_some(())
        });
    }

    /// Ends it at once, with all its connections, and starts it anew.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.spawn();
        assert!(self.is_serving(), "{}", self.file("error.log"));
    }

    fn stop(&mut self) {
        self.signal(Signal::TERM);
        let mut child = self.child.take().unwrap();
        eventually("the end of nginx", || child.try_wait().unwrap());
    }

    /// What it has written to a file.
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// A connection to it from this address.
    pub(crate) fn connect_from(&self, address: [u8; 4]) -> TcpStream {
        connect_from(address, self.port)
    }

    /// The answer to a request without a body, such as `GET /`, with further header lines.
    pub(crate) fn ask(&self, request: &str, lines: &str) -> Answer {
        use std::io::Write;
        let mut socket = super::support::connect(self.port);
        let head = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        Answer::read(&mut socket)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Were the master killed, its workers would stay.
            self.stop();
        }
        if std::thread::panicking() {
            eprintln!("nginx:\n{}", self.file("error.log"));
            let access = self.file("access.log");
            let lines: Vec<_> = access.lines().rev().take(20).collect();
            eprintln!("the newest lines of its access log:\n{}", lines.join("\n"));
        }
    }
}
