//! The page at `/` on a server that asks for tokens: where it takes one from, where it leaves it,
//! and how the next one takes its place. Skipped, by name, where there is no browser.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::browser::{Browser, ENTER, Window};
use super::support::{Client, Server, eventually, skip};
use super::tokens::Issuer;

const SECRET: &str = "a secret of the tests, thirty-two bytes long";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

/// A token that ends in so many seconds.
fn token(user: &str, seconds: u64) -> String {
    let name = user.to_uppercase();
    let claims = json!({ "sub": user, "name": name, "exp": now() + seconds });
    Issuer::secret(SECRET).token(&claims)
}

/// Nothing that stays has it: neither the address, nor what a reload would bring, nor the log.
fn is_kept_nowhere(window: &Window<'_>, server: &Server, token: &str) {
    let kept = "return JSON.stringify([location.href, document.documentElement.outerHTML,
                  { ...sessionStorage }, { ...localStorage }, document.cookie, history.state])";
    let kept = window.browser().run(kept);
    assert!(!kept.as_str().unwrap().contains(token), "{kept}");
    assert!(!server.log().contains(token), "{}", server.log());
}

fn is_asked(window: &Window<'_>) -> bool {
    let hidden = "return document.getElementById('token').hidden";
    window.browser().run(hidden) == false
}

/// FAULTS H1: the page's part: it is asked for a token, tells of a bad one, and leaves it nowhere.
#[test]
fn the_page_asks_for_a_token_and_keeps_it_nowhere() {
    let Some(browser) = Browser::start() else {
        return skip("this needs chromium and chromedriver");
    };
    let server = Server::start(&["--jwt-secret", SECRET, "--log-level", "trace"]);
    let window = Window::first(&browser);
    window.open(server.port);
    window.await_text("#token-why", "This server asks for a token");
    assert!(is_asked(&window));
    browser.type_into("new-token", &format!("nonsense{ENTER}"));
    browser.type_into("name", ENTER);
    window.await_text("#token-why", "This token is no good here");
    let good = token("ann", 600);
    browser.type_into("new-token", &format!("{good}{ENTER}"));
    window.await_state("on");
    assert!(!is_asked(&window));
    // Who it is, is said by the token.
    window.await_text("#people", "ANN");
    is_kept_nowhere(&window, &server, &good);
    // A reload knows the rooms, and asks for the token again.
    window.say("before");
    window.await_messages(&[("ANN", "before")]);
    window.browser().post("/refresh", &json!({}));
    window.await_text("#token-why", "This server asks for a token");
    browser.type_into("new-token", &format!("{good}{ENTER}"));
    window.await_state("on");
    window.await_messages(&[("ANN", "before")]);
    assert_eq!(server.metric("panics_total"), 0);

    // A server that takes none does not ask.
    let open = Server::start(&[]);
    window.open(open.port);
    window.join("lobby", "ann");
    assert!(!is_asked(&window));
}

/// By the fragment, and the next one in band: the connection stays.
#[test]
fn a_token_by_the_fragment_and_the_next_one_on_the_same_connection() {
    let Some(browser) = Browser::start() else {
        return skip("this needs chromium and chromedriver");
    };
    let server = Server::start(&["--jwt-secret", SECRET, "--log-level", "trace"]);
    let (first, second) = (Window::first(&browser), Window::another(&browser));
    let ends = now() + 8;
    let (ann, ben) = (token("ann", 8), token("ben", 8));
    for (window, token) in [(&first, &ann), (&second, &ben)] {
        window.open_at(server.port, &format!("/#token={token}"));
        window.join("lobby", "whoever");
        is_kept_nowhere(window, &server, token);
        let href = window.browser().run("return location.href");
        assert_eq!(href, format!("http://127.0.0.1:{}/", server.port));
    }
    // A page around it, or its user, gives the next one in the same way; it must be the same
    // user's.
    let fragment = |token: &str| format!("location.hash = 'token={token}'");
    first.browser().run(&fragment(&token("eve", 600)));
    first.await_text("#token-why", "another user");
    let next = token("ann", 600);
    first.browser().run(&fragment(&next));
    first.await_text("#log", "The token was renewed");
    is_kept_nowhere(&first, &server, &next);
    eventually("the first tokens to have ended", || {
        (now() > ends).then_some(())
    });
    second.await_state("off");
    second.await_text("#banner-text", "The token has ended");
    second.await_text("#token-why", "give the next one");
    server.await_metric("closes_total{code=\"4001\"", 1);
    first.await_state("on");
    assert_eq!(first.text_of("#came-back"), "never");

    // What was said meanwhile is there when the next token is.
    let mut client = Client::open(&server, &format!("/ws?token={}", token("ann", 600)));
    client.publish("lobby", json!("meanwhile"));
    second
        .browser()
        .type_into("new-token", &format!("{}{ENTER}", token("ben", 600)));
    second.await_state("on");
    for window in [&first, &second] {
        window.await_messages(&[("ANN", "meanwhile")]);
    }
    assert_eq!(server.metric("closes_total{code=\"4001\""), 1);
    assert_eq!(server.metric("panics_total"), 0);
}
