//! The page at `/` in a real browser: Chromium, headless, driven by chromedriver over the W3C
//! WebDriver protocol. Skipped where one of them is missing; `tests/run.sh` installs them where it
//! can.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{PATIENCE, Server, eventually};

/// The member of an object that names an element (W3C WebDriver, 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The key Enter (W3C WebDriver, 17.4.2).
const ENTER: &str = "\u{e007}";

/// A driver with one browser, which both end with it.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Home and profile.
    dir: TempDir,
}

impl Browser {
    /// `None` where there is no browser, or no driver of it.
    fn start() -> Option<Self> {
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

    fn get(&self, path: &str) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.call("GET", &path, &Value::Null)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Goes on in that window.
    fn switch(&self, window: &Value) {
        self.post("/window", &json!({"handle":window}));
    }

    fn open(&self, url: &str) {
        self.post("/url", &json!({"url":url}));
    }

    /// The element with that id.
    fn element(&self, id: &str) -> String {
        let using = json!({"using":"css selector","value":format!("#{id}")});
        let found = self.post("/element", &using);
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    fn type_into(&self, id: &str, text: &str) {
        let path = format!("/element/{}/value", self.element(id));
        self.post(&path, &json!({"text":text}));
    }

    fn clear(&self, id: &str) {
        let path = format!("/element/{}/clear", self.element(id));
        self.post(&path, &json!({}));
    }

    /// What a script returns.
    fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script":script,"args":[]}))
    }

    /// What a page has complained about since this was asked last.
    fn complaints(&self) -> Vec<Value> {
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

/// A window on the page.
struct Window<'a> {
    browser: &'a Browser,
    handle: Value,
}

impl<'a> Window<'a> {
    fn new(browser: &'a Browser, handle: Value) -> Self {
        Self { browser, handle }
    }

    /// Its browser, with this window before it.
    fn browser(&self) -> &Browser {
        self.browser.switch(&self.handle);
        self.browser
    }

    fn open(&self, server: &Server) {
        let url = format!("http://127.0.0.1:{}/", server.port);
        self.browser().open(&url);
    }

    fn join(&self, room: &str, name: &str) {
        let browser = self.browser();
        for (id, text) in [("room", room), ("name", name)] {
            browser.clear(id);
            browser.type_into(id, text);
        }
        browser.type_into("name", ENTER);
        self.await_state("on", &format!("in {room}"));
    }

    fn await_state(&self, state: &str, text: &str) {
        let ask = "const s = document.getElementById('state');
                   return [s.dataset.state, s.textContent]";
        eventually(&format!("the page to be {state}: {text}"), || {
            let shown = self.browser().run(ask);
            let is_it = shown[0] == state && shown[1].as_str().unwrap().starts_with(text);
            is_it.then_some(())
        });
    }

    fn say(&self, text: &str) {
        let browser = self.browser();
        browser.type_into("text", text);
        browser.type_into("text", ENTER);
    }

    /// The messages that are shown: who and what.
    fn messages(&self) -> Vec<(String, String)> {
        let ask = "return [...document.querySelectorAll('#log li')]
                   .filter((line) => line.querySelector('.who'))
                   .map((line) => ['who', 'what'].map((name) =>
                     line.querySelector('.' + name).textContent))";
        let shown = self.browser().run(ask);
        serde_json::from_value(shown).unwrap()
    }

    fn await_messages(&self, wanted: &[(&str, &str)]) {
        let as_text = |(who, what): &(String, String)| format!("{who}: {what}");
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(who, what)| format!("{who}: {what}"))
            .collect();
        let mut last = Vec::new();
        let is_there = || {
            last = self.messages().iter().map(as_text).collect();
            (last == wanted).then_some(())
        };
        let what = format!("{wanted:?} to be shown");
        eventually(&what, is_there);
        // All of it is stored, too: nothing waits.
        let waits = "return document.getElementById('sending').childElementCount";
        eventually("nothing to wait for its ack", || {
            (self.browser().run(waits) == 0).then_some(())
        });
    }
}

/// Two people talk, one of them in markup; both reload.
#[test]
fn two_windows_talk_and_markup_stays_text() {
    let Some(browser) = Browser::start() else {
        eprintln!("skipped: this needs chromium and chromedriver");
        return;
    };
    let server = Server::start(&[]);
    let first = Window::new(&browser, browser.get("/window"));
    let made = browser.post("/window/new", &json!({"type":"window"}));
    let second = Window::new(&browser, made["handle"].clone());
    let markup =
        "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>";
    let name = "<b>bob</b>";
    let windows = [&first, &second];

    for (window, name) in [(&first, "ann"), (&second, name)] {
        window.open(&server);
        window.join("lobby", name);
    }
    first.say("hello");
    second.await_messages(&[("ann", "hello")]);
    second.say(markup);
    let said = [("ann", "hello"), (name, markup)];
    for window in windows {
        window.await_messages(&said);
        let made = "return document.querySelectorAll('main img, main script, main b').length";
        assert_eq!(window.browser().run(made), 0);
        assert_eq!(window.browser().run("return document.title"), "ringcast");
    }
    assert_eq!(server.metric("messages_stored_total"), 2);

    // Loaded again it begins anew, and works as before.
    for window in windows {
        window.browser().post("/refresh", &json!({}));
        window.await_state("off", "not connected");
        assert_eq!(window.messages(), []);
    }
    first.join("lobby", "ann");
    second.join("lobby", "bob");
    first.say("again");
    for window in windows {
        window.await_messages(&[("ann", "again")]);
    }
    server.await_metric("members", 2);

    for window in windows {
        let complaints = window.browser().complaints();
        assert!(complaints.is_empty(), "{complaints:?}");
        // And that would have been seen.
        window.browser().run("console.error('seen')");
        let complaints = window.browser().complaints();
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].to_string().contains("seen"));
    }
    assert_eq!(server.metric("errors_total"), 0);
    assert_eq!(server.metric("panics_total"), 0);
}
