//! A real Redis of the test's own: on a socket in a folder of its own, gone with the test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::values::{Parsed, parse};

pub(super) struct RealRedis {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

pub(super) struct Connection(BufReader<UnixStream>);

impl RealRedis {
    /// Starts one and waits until it is ready. A node of a stream holds one entry there, so that
    /// trimming is exact.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut child = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--stream-node-max-entries",
                "1",
            ])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is missing: tests/run.sh installs it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.unwrap().contains("ready to accept connections"));
        assert!(ready, "redis-server ended at once");
        // What it says from now on nobody reads, but it must be able to say it.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            socket,
            _folder: folder,
        }
    }

    pub(super) fn connect(&self) -> Connection {
        Connection(BufReader::new(UnixStream::connect(&self.socket).unwrap()))
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Connection {
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub(super) fn read(&mut self) -> Parsed {
        parse(&mut self.0)
    }
}
