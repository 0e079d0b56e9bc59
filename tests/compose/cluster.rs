//! A cluster of containers with names and ports of its own, which goes with its guard.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::engine::{Engine, IMAGE, docker, output, root};
pub(crate) use super::redis::STREAM;
use super::redis::free_port;
use super::support::{Answer, Client, PATIENCE, connect_to};

/// Who takes what is published into PostgreSQL.
pub(crate) const GROUP: &str = "persist-workers";
/// The servers that have names.
pub(crate) const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];
/// All is healthy so long after the command, the image being there.
const UP: Duration = Duration::from_secs(60);
/// A container is started and ready so long after it was stopped.
const BEGIN: Duration = Duration::from_secs(20);
/// The port of servers and of nginx inside of their containers.
const PORT: u16 = 8080;
/// That of workers.
const WORKER_PORT: u16 = 9090;

/// Asks until there is an answer; how long that took.
pub(crate) fn within(limit: Duration, what: &str, mut ask: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !ask() {
        assert!(began.elapsed() < limit, "not in {limit:?}: {what}");
        // Only so that asking does not take the core from who is asked.
        thread::sleep(Duration::from_millis(10));
    }
    began.elapsed()
}

/// One GET; status 0: nobody answers.
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    let nobody = Answer {
        status: 0,
        head: String::new(),
        body: String::new(),
    };
    let Ok(mut socket) = TcpStream::connect(address) else {
        return nobody;
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    match socket.write_all(request.as_bytes()) {
        Ok(()) => Answer::read(&mut socket),
        Err(_) => nobody,
    }
}

pub(crate) fn client(address: SocketAddr) -> Client {
    Client::over(connect_to(address), "/ws")
}

/// See the module.
pub(crate) struct Cluster<'a> {
    engine: &'a Engine,
    files: Vec<String>,
    project: String,
    env: Vec<(&'static str, String)>,
    nginx_port: u16,
    /// Holds an empty `.env`: that of whoever runs the test is not the test's business.
    dir: TempDir,
}

impl<'a> Cluster<'a> {
    /// Of these files, with these variables; nothing is started yet.
    pub(crate) fn new(engine: &'a Engine, files: &[&str], env: &[(&'static str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("env"), "").unwrap();
        let project = format!("ringcast-test-{}", std::process::id());
        let nginx_port = free_port();
        let mut all = vec![
            ("IMAGE", IMAGE.to_owned()),
            ("CONTAINER_PREFIX", project.clone()),
            ("NGINX_PORT", nginx_port.to_string()),
        ];
        for name in ["SERVER_1_PORT", "SERVER_2_PORT", "SERVER_3_PORT"] {
            all.push((name, free_port().to_string()));
        }
        all.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Self {
            engine,
            files: files.iter().map(|&file| file.to_owned()).collect(),
            project,
            env: all,
            nginx_port,
            dir,
        }
    }

    /// A command of compose.
    pub(crate) fn compose(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.engine.compose[0]);
        command
            .args(&self.engine.compose[1..])
            .current_dir(root())
            .args(["--project-name", &self.project, "--env-file"])
            .arg(self.dir.path().join("env"));
        for file in &self.files {
            command.args(["-f", file]);
        }
        for name in variables() {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.args(args);
        command
    }

    /// Starts all of it, and waits until it is healthy.
    pub(crate) fn up(&self, args: &[&str]) {
        output(&mut self.compose(&["build"]));
        let began = Instant::now();
        output(&mut self.compose(&[&["up", "-d"], args].concat()));
        let rest = UP.saturating_sub(began.elapsed());
        within(rest, "all services to be healthy", || {
            self.all().iter().all(Container::is_healthy)
        });
        eprintln!("up and healthy after {:.1?}", began.elapsed());
    }

    /// The containers that have this label of compose.
    fn labelled(&self, label: &str) -> Vec<Container> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let label = format!("label=com.docker.compose.{label}");
        let filters = ["--filter", &project, "--filter", &label];
        let said = docker(&[&["ps", "-aq", "--no-trunc"], &filters[..]].concat());
        let ids = said.lines().map(str::to_owned);
        ids.map(|id| Container { id }).collect()
    }

    /// All that is there.
    pub(crate) fn all(&self) -> Vec<Container> {
        self.labelled("service")
    }

    /// The containers of a service.
    pub(crate) fn containers(&self, service: &str) -> Vec<Container> {
        self.labelled(&format!("service={service}"))
    }

    /// The only container of a service.
    pub(crate) fn container(&self, service: &str) -> Container {
        let mut containers = self.containers(service);
        assert_eq!(containers.len(), 1, "{service}");
        containers.remove(0)
    }

    /// Where nginx is reached from this machine.
    pub(crate) fn entry(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.nginx_port))
    }

    /// What Redis says to a command.
    pub(crate) fn redis(&self, words: &[&str]) -> String {
        let container = self.container("redis");
        container.exec(&[&["redis-cli"], words].concat())
    }

    /// The entries of the stream in Redis.
    pub(crate) fn stream_len(&self) -> u64 {
        self.redis(&["XLEN", STREAM]).parse().unwrap()
    }

    /// The number that PostgreSQL answers SQL with.
    pub(crate) fn count(&self, sql: &str) -> u64 {
        let psql = ["psql", "-XAtq", "-U", "gosocket", "-d", "gosocket", "-c"];
        let said = self
            .container("postgres")
            .exec(&[&psql[..], &[sql]].concat());
        said.parse().unwrap_or_else(|_| panic!("{sql}: {said}"))
    }

    /// A file of this cluster's own.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Adds a compose file.
    pub(crate) fn push_file(&mut self, path: &Path) {
        self.files.push(path.to_str().unwrap().to_owned());
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for args in [&["ps"][..], &["logs", "--no-color", "--tail", "60"]] {
                if let Ok(output) = self.compose(args).output() {
                    eprintln!("{}", String::from_utf8_lossy(&output.stdout));
                }
            }
        }
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "10"];
        if let Ok(output) = self.compose(&down).output()
            && !output.status.success()
        {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// The variables that the compose files take, by `.env.example`.
pub(crate) fn variables() -> Vec<String> {
    let text = std::fs::read_to_string(root().join(".env.example")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.split_once('='));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// A container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    id: String,
}

impl Container {
    /// What `docker inspect` says of it.
    pub(crate) fn inspect(&self) -> Value {
        let said = docker(&["inspect", &self.id]);
        let mut all: Value = serde_json::from_str(&said).unwrap();
        all[0].take()
    }

    /// Runs a program in it; what it printed.
    pub(crate) fn exec(&self, words: &[&str]) -> String {
        docker(&[&["exec", &self.id], words].concat())
    }

    /// The service that it is of.
    pub(crate) fn service(&self) -> String {
        let labels = &self.inspect()["Config"]["Labels"];
        labels["com.docker.compose.service"]
            .as_str()
            .unwrap()
            .into()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.inspect()["State"]["Health"]["Status"] == "healthy"
    }

    pub(crate) fn started_at(&self) -> String {
        self.inspect()["State"]["StartedAt"]
            .as_str()
            .unwrap()
            .into()
    }

    /// Its first process, as this machine numbers it.
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.inspect()["State"]["Pid"].as_i64().unwrap();
        Pid::from_raw(pid as i32).unwrap()
    }

    /// A file of that process below `/proc`.
    pub(crate) fn proc(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.pid().as_raw_nonzero());
        std::fs::read_to_string(path).unwrap()
    }

    /// Where a server is reached from this machine: in the network of what is in front.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_in("front", PORT)
    }

    /// Where a worker is.
    pub(crate) fn worker_address(&self) -> SocketAddr {
        self.address_in("back", WORKER_PORT)
    }

    fn address_in(&self, network: &str, port: u16) -> SocketAddr {
        let networks = &self.inspect()["NetworkSettings"]["Networks"];
        let mut networks = networks.as_object().unwrap().iter();
        let one = networks.find(|(name, _)| name.ends_with(network)).unwrap();
        let ip: IpAddr = one.1["IPAddress"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(ip, port)
    }

    /// Where a published port of it is reached.
    pub(crate) fn published(&self) -> SocketAddr {
        let ports = &self.inspect()["HostConfig"]["PortBindings"];
        let binding = &ports[format!("{PORT}/tcp")][0];
        assert_eq!(binding["HostIp"], "127.0.0.1", "{ports}");
        let port = binding["HostPort"].as_str().unwrap().parse().unwrap();
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Ends its process from outside, as a crash would. (`docker kill` would not do: whom a person
    /// has killed by it is not started again, whatever the restart policy.)
    pub(crate) fn crash(&self) {
        kill_process(self.pid(), Signal::KILL).unwrap();
    }

    /// Stops it as compose would, which waits for its drain.
    pub(crate) fn stop(&self) {
        docker(&["stop", &self.id]);
    }

    /// Starts it again.
    pub(crate) fn start(&self) {
        docker(&["start", &self.id]);
    }

    /// Starts it again; the time from the start of its process to a good answer of `/ready`.
    pub(crate) fn start_until_ready(&self) -> Duration {
        let address = self.published();
        let ready_at = thread::scope(|scope| {
            scope.spawn(|| self.start());
            within(BEGIN, "/ready", || get(address, "/ready").status == 200);
            SystemTime::now()
        });
        let started_at = humantime::parse_rfc3339(&self.started_at()).unwrap();
        ready_at.duration_since(started_at).unwrap()
    }
}
