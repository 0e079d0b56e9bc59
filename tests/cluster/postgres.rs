//! A PostgreSQL of a test: its processes, its directory, and a word with it.
//!
//! It listens on a free port of loopback and on a socket in its directory, lets everybody in
//! unless [`Postgres::set_hba`] says otherwise, and by default syncs nothing, since no test pulls
//! the plug.
//! PostgreSQL refuses to run as root: then it is `postgres` or `nobody`. All of its processes end
//! with the guard.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use super::redis::free_port;
use super::support::{PATIENCE, eventually};

/// The schema.
pub(crate) const TABLES: &str = include_str!("../../migrations/init.sql");

/// A PostgreSQL that ends with its guard. It keeps its port and its directory over restarts.
pub(crate) struct Postgres {
    child: Option<Child>,
    pub(crate) port: u16,
    dir: TempDir,
    settings: Vec<String>,
}

impl Postgres {
    /// One with settings as in `postgresql.conf`, such as `max_connections=20`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let unsafely = [
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ];
        Self::with(&[&unsafely[..], settings].concat())
    }

    /// One that syncs what it commits, as it does out of the box.
    pub(crate) fn lasting(settings: &[&str]) -> Self {
        Self::with(settings)
    }

    fn with(settings: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        give(dir.path());
        let mut postgres = Self {
            child: None,
            port: 0,
            dir,
            settings: settings.iter().map(|&text| text.to_owned()).collect(),
        };
        let made = command("initdb")
            .arg("-D")
            .arg(postgres.data())
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8"])
            .args(["--locale=C", "--no-sync", "--no-instructions"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb: {said}");
        // Somebody else may take the port between the two looks at it.
        for _ in 0..10 {
            postgres.port = free_port();
            postgres.spawn();
            if postgres.is_serving() {
                return postgres;
            }
        }
        panic!("PostgreSQL can't be started: {}", postgres.log());
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = command("postgres");
        command.arg("-D").arg(self.data());
        command.args(["-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        command.arg("-k").arg(self.dir.path());
        // So many are started at once that their shared memory should be small.
        for setting in ["shared_buffers=16MB", "lc_messages=C", "timezone=UTC"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until it lets in, or has ended.
    fn is_serving(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(child) = &mut self.child
                && child.try_wait().unwrap().is_some()
            {
                self.child = None;
                return false;
            }
            if self.try_sql("SELECT 1").is_ok() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        false
    }

    /// As whom and where, over TCP.
    pub(crate) fn url(&self) -> String {
        self.url_as("postgres")
    }

    /// The same as another user, such as `me:password`.
    pub(crate) fn url_as(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port)
    }

    /// The same by its socket.
    pub(crate) fn socket_url(&self) -> String {
        let dir = self.dir.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{dir}:{}/postgres", self.port)
    }

    /// A file of its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs SQL; rows as lines, columns set apart by `|`. It must be no error.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.try_sql(sql)
            .unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    /// Runs SQL that gives one number.
    pub(crate) fn count(&self, sql: &str) -> u64 {
        let answer = self.sql(sql);
        let number = answer.trim().parse();
        number.unwrap_or_else(|_| panic!("{sql}: {answer}"))
    }

    /// Runs SQL, by `psql` on the socket.
    pub(crate) fn try_sql(&self, sql: &str) -> Result<String, String> {
        self.try_sql_in("postgres", sql)
    }

    /// The same in another database.
    pub(crate) fn try_sql_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(program("psql"));
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
        ]);
        psql.args([
            "-p",
            &self.port.to_string(),
            "-d",
            database,
            "-f",
            "-",
            "-h",
        ]);
        psql.arg(self.dir.path()).env("PGCONNECT_TIMEOUT", "5");
        psql.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = psql.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = psql.stdin.take().unwrap();
        // It may be gone already, and says why.
        let _ = stdin.write_all(sql.as_bytes());
        drop(stdin);
        let output = psql.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Who is let in how, over TCP: lines of `pg_hba.conf`. Its socket stays open to all.
    pub(crate) fn set_hba(&self, lines: &[&str]) {
        let text = format!("local all all trust\n{}\n", lines.join("\n"));
        self.write("data/pg_hba.conf", &text);
        self.reload();
    }

    /// Writes a file of its directory, its own.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        give(&path);
    }

    /// Speaks TLS from now on, with a certificate and its key (PEM).
    pub(crate) fn set_tls(&self, certificate: &str, key: &str) {
        self.write("data/server.crt", certificate);
        self.write("data/server.key", key);
        self.sql("ALTER SYSTEM SET ssl = on");
        self.reload();
        eventually("TLS", || {
            (self.sql("SHOW ssl").trim() == "on").then_some(())
        });
    }

    /// Has it read its settings and `pg_hba.conf` again, and waits until new connections see them.
    pub(crate) fn reload(&self) {
        let before = self.sql("SELECT pg_conf_load_time()");
        self.signal(Signal::HUP);
        eventually("a reload", || {
            let now = self.sql("SELECT pg_conf_load_time()");
            (now != before).then_some(())
        });
    }

    /// Changes what it is started with, from the next start on.
    pub(crate) fn push_settings(&mut self, settings: &[&str]) {
        let settings = settings.iter().map(|&text| text.to_owned());
        self.settings.extend(settings);
    }

    /// The postmaster.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Its children, backends and helpers alike.
    pub(crate) fn children(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    /// The backend of that `application_name`, if there is one.
    pub(crate) fn backend(&self, application: &str) -> Option<u32> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE application_name = '{application}' \
             ORDER BY backend_start LIMIT 1"
        );
        self.sql(&sql).trim().parse().ok()
    }

    /// A signal for the postmaster.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// A signal for it and all its children: `STOP` makes it silent as a whole, `CONT` ends that.
    pub(crate) fn signal_all(&self, signal: Signal) {
        let pids = [vec![self.pid()], self.children()].concat();
        pids.into_iter().for_each(|pid| signal_to(pid, signal));
    }

    /// Ends it as an operator does (a fast shutdown).
    pub(crate) fn shut_down(&mut self) {
        self.signal(Signal::INT);
        self.await_end();
    }

    /// Kills it with all its children.
    pub(crate) fn kill(&mut self) {
        let children = self.children();
        self.signal(Signal::KILL);
        self.await_end();
        for pid in children {
            signal_to(pid, Signal::KILL);
            eventually("the end of a backend", || {
                (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
            });
        }
    }

    /// Starts it anew on what it left.
    pub(crate) fn up(&mut self) {
        self.begin();
        assert!(self.is_serving(), "{}", self.log());
    }

    /// Starts it anew and does not wait for it.
    pub(crate) fn begin(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.spawn();
    }

    fn await_end(&mut self) {
        let mut child = self.child.take().unwrap();
        eventually("the end of PostgreSQL", || child.try_wait().unwrap());
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        let mut log = String::new();
        if let Ok(mut file) = std::fs::File::open(self.log_path()) {
            let _ = file.read_to_string(&mut log);
        }
        log
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let children = children_of(child.id());
            let _ = child.kill();
            let _ = child.wait();
            for pid in children {
                signal_to(pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("the log of PostgreSQL:\n{}", self.log());
        }
    }
}

/// A program of PostgreSQL, which distributions keep out of the way.
fn program(name: &str) -> PathBuf {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    // Of several the newest; else wherever it is found.
    found.pop().unwrap_or_else(|| name.into())
}

/// A program of PostgreSQL as a user that it takes.
fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/");
    command
}

/// As whom it must run: nobody else than we, unless we are root.
fn unprivileged() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(name))?;
        let mut parts = line.split(':').skip(2);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    find("postgres:").or_else(|| find("nobody:"))
}

/// Makes a file its own.
fn give(path: &Path) {
    if let Some((uid, gid)) = unprivileged() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in brackets, may have blanks.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

fn signal_to(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // It may have ended.
        let _ = kill_process(pid, signal);
    }
}
