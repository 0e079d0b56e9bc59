//! A real browser: Chromium, headless, driven by chromedriver over the W3C WebDriver protocol, and
//! windows on the page in it. What needs it is skipped where one of them is missing;
//! `tests/run.sh` installs them where it can.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{PATIENCE, eventually};

/// The member of an object that names an element (W3C WebDriver, 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The key Enter (W3C WebDriver, 17.4.2).
pub(crate) const ENTER: &str = "\u{e007}";

/// A driver with one browser, which both end with it.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Home and profile.
    dir: TempDir,
}

impl Browser {
    /// `None` where there is no browser, or no driver of it.
    pub(crate) fn start() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let is_there = |program| std::env::split_paths(&path).any(|dir| dir.join(program).exists());
        if !is_there("chromedriver") || !is_there("chromium") {
            return None;
        }
        let dir = TempDir::new().unwrap();
        let mut driver = Command::new("chromedriver");
        driver.args(["--port=0", "--log-level=WARNING"]);
        driver.env_clear().env("PATH", path).env("HOME", dir.path());
        driver.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut driver = driver.stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = said.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        // Whatever else it says must not fill the pipe.
        thread::spawn(move || said.for_each(drop));
        // The guard must be there before anything can fail.
        let mut browser = Self {
            driver,
            port: port.unwrap_or(0),
            session: String::new(),
            dir,
        };
        assert!(port.is_some(), "chromedriver does not start");
        browser.session = browser.open_session();
        Some(browser)
    }

    fn open_session(&self) -> String {
        let profile = self.dir.path().join("profile");
        let mut flags = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--no-first-run".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        // Chromium refuses to run its sandbox as root.
        if rustix::process::geteuid().is_root() {
            flags.push("--no-sandbox".to_owned());
        }
        let wanted = json!({"capabilities":{"alwaysMatch":{
            "browserName":"chrome",
            "goog:chromeOptions":{"args":flags},
            "goog:loggingPrefs":{"browser":"ALL"},
        }}});
        let session = self.call("POST", "/session", &wanted);
        session["sessionId"].as_str().unwrap().to_owned()
    }

    /// One call; its value.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        let answer = exchange(self.port, &[head, body].concat()).map_err(|e| e.to_string())?;
        let mut answer: Value = serde_json::from_str(&answer).map_err(|e| e.to_string())?;
        match answer["value"]["error"].is_string() {
            true => Err(answer["value"].to_string()),
            false => Ok(answer["value"].take()),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.call("GET", &path, &Value::Null)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Goes on in that window.
    pub(crate) fn switch(&self, window: &Value) {
        self.post("/window", &json!({"handle":window}));
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({"url":url}));
    }

    /// The element with that id.
    fn element(&self, id: &str) -> String {
        let using = json!({"using":"css selector","value":format!("#{id}")});
        let found = self.post("/element", &using);
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    pub(crate) fn type_into(&self, id: &str, text: &str) {
        let path = format!("/element/{}/value", self.element(id));
        self.post(&path, &json!({"text":text}));
    }

    pub(crate) fn clear(&self, id: &str) {
        let path = format!("/element/{}/clear", self.element(id));
        self.post(&path, &json!({}));
    }

    /// What a script returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script":script,"args":[]}))
    }

    /// What a script gives to the function that is its last argument.
    pub(crate) fn run_async(&self, script: &str) -> Value {
        self.post("/execute/async", &json!({"script":script,"args":[]}))
    }

    /// The screen that the page believes to have, in CSS pixels, as a phone's if it is narrow.
    pub(crate) fn screen(&self, width: u32, height: u32) {
        let metrics =
            json!({"width":width,"height":height,"deviceScaleFactor":1,"mobile":width < 700});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// What the system prefers: `light` or `dark`, and nothing that moves.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([
            {"name":"prefers-color-scheme","value":scheme},
            {"name":"prefers-reduced-motion","value":"reduce"},
        ]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features":features}));
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.post(
            "/goog/cdp/execute",
            &json!({"cmd":command,"params":parameters}),
        );
    }

    /// What is on the screen, as a file for people to look at.
    pub(crate) fn picture(&self, name: &str) -> PathBuf {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}.png"));
        let picture = self.get("/screenshot");
        std::fs::write(&path, from_base64(picture.as_str().unwrap())).unwrap();
        path
    }

    /// What a page has complained about since this was asked last.
    pub(crate) fn complaints(&self) -> Vec<Value> {
        let mut entries = self.post("/se/log", &json!({"type":"browser"}));
        let entries = std::mem::take(entries.as_array_mut().unwrap());
        let severe = |entry: &Value| entry["level"] == "SEVERE" || entry["level"] == "WARNING";
        entries.into_iter().filter(severe).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with its session.
        if !self.session.is_empty() {
            let path = format!("/session/{}", self.session);
            let _ = self.try_call("DELETE", &path, &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The body of the answer to a request.
fn exchange(port: u16, request: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    // Starting a browser may take a while, on a busy machine.
    socket.set_read_timeout(Some(3 * PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    let mut answer = BufReader::new(socket);
    let mut len = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; len];
    answer.read_exact(&mut body)?;
    Ok(String::from_utf8(body).unwrap())
}

/// Base64 (RFC 4648, 4) without a check of it.
fn from_base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => u32::from(letter - b'A'),
        b'a'..=b'z' => u32::from(letter - b'a') + 26,
        b'0'..=b'9' => u32::from(letter - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|&letter| letter != b'=').collect();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in letters.chunks(4) {
        let bits = group
            .iter()
            .fold(0, |bits, &letter| bits << 6 | value(letter));
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// A window on the page.
pub(crate) struct Window<'a> {
    browser: &'a Browser,
    handle: Value,
}

impl<'a> Window<'a> {
    /// The one that a browser begins with.
    pub(crate) fn first(browser: &'a Browser) -> Self {
        let handle = browser.get("/window");
        Self { browser, handle }
    }

    /// One more.
    pub(crate) fn another(browser: &'a Browser) -> Self {
        let made = browser.post("/window/new", &json!({"type":"window"}));
        let handle = made["handle"].clone();
        Self { browser, handle }
    }

    /// Its browser, with this window before it.
    pub(crate) fn browser(&self) -> &Browser {
        self.browser.switch(&self.handle);
        self.browser
    }

    pub(crate) fn open(&self, port: u16) {
        self.open_at(port, "/");
    }

    pub(crate) fn open_at(&self, port: u16, path: &str) {
        let url = format!("http://127.0.0.1:{port}{path}");
        // What one does in each of the tests needs no panel to be opened first.
        self.browser().screen(1180, 760);
        self.browser.open(&url);
    }

    /// From the first look at the page.
    pub(crate) fn join(&self, room: &str, name: &str) {
        let browser = self.browser();
        for (id, text) in [("room", room), ("name", name)] {
            browser.clear(id);
            browser.type_into(id, text);
        }
        browser.type_into("name", ENTER);
        self.await_state("on");
    }

    /// What stands in the first element that a selector finds.
    pub(crate) fn text_of(&self, selector: &str) -> String {
        let ask = format!("return document.querySelector('{selector}').textContent");
        self.browser().run(&ask).as_str().unwrap().to_owned()
    }

    pub(crate) fn await_text(&self, selector: &str, text: &str) {
        let mut last = String::new();
        eventually(&format!("{text:?} in {selector}"), || {
            last = self.text_of(selector);
            last.contains(text).then_some(())
        });
    }

    /// Waits for the state of the connection: `off`, `wait`, `on` or `degraded`.
    pub(crate) fn await_state(&self, state: &str) {
        let ask = "return document.getElementById('state').dataset.state";
        eventually(&format!("the page to be {state}"), || {
            (self.browser().run(ask) == state).then_some(())
        });
    }

    pub(crate) fn say(&self, text: &str) {
        let browser = self.browser();
        browser.type_into("text", text);
        browser.type_into("text", ENTER);
    }

    /// The messages that are shown: who and what.
    pub(crate) fn messages(&self) -> Vec<(String, String)> {
        let ask = "return [...document.querySelectorAll('#log .message')]
                   .map((line) => ['who', 'what'].map((name) =>
                     line.querySelector('.' + name).textContent))";
        let shown = self.browser().run(ask);
        serde_json::from_value(shown).unwrap()
    }

    /// What is not stored yet: each as its text and what is said of it.
    pub(crate) fn waiting(&self) -> Vec<(String, String)> {
        let ask = "return [...document.querySelectorAll('#waiting .message')]
                   .map((line) => ['what', 'when'].map((name) =>
                     line.querySelector('.' + name).textContent))";
        serde_json::from_value(self.browser().run(ask)).unwrap()
    }

    pub(crate) fn await_waiting(&self, wanted: &[(&str, &str)]) {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|&(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        eventually(&format!("{wanted:?} to wait"), || {
            (self.waiting() == wanted).then_some(())
        });
    }

    /// Waits until just these messages are there, and all of them are stored: nothing waits.
    pub(crate) fn await_messages(&self, wanted: &[(&str, &str)]) {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|&(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        let what = format!("{wanted:?} to be shown");
        eventually(&what, || (self.messages() == wanted).then_some(()));
        self.await_waiting(&[]);
    }
}
