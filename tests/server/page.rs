//! The page at `/`, on one server: people talk in rooms, in any words; keyboard, screen, and
//! whether everybody can use it. Skipped, by name, where there is no browser.

use serde_json::{Value, json};

use super::browser::{Browser, ENTER, Window};
use super::npm;
use super::support::{Client, Server, eventually, skip};

const MARKUP: &str =
    "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>";

/// A browser, or the word that there is none.
fn browser() -> Option<Browser> {
    let browser = Browser::start();
    if browser.is_none() {
        skip("this needs chromium and chromedriver");
    }
    browser
}

/// Nothing was complained of, and what is complained of is seen.
fn expect_no_complaints(window: &Window<'_>) {
    let complaints = window.browser().complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
    window.browser().run("console.error('seen')");
    let complaints = window.browser().complaints();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].to_string().contains("seen"));
}

/// Two people talk, one of them in markup; both reload.
#[test]
fn two_windows_talk_and_markup_stays_text() {
    let Some(browser) = browser() else { return };
    let server = Server::start(&[]);
    let (first, second) = (Window::first(&browser), Window::another(&browser));
    let windows = [&first, &second];
    let name = "<b>bob</b>";
    for (window, name) in [(&first, "ann"), (&second, name)] {
        window.open(server.port);
        window.join("<i>lobby</i>", name);
    }
    first.say("hello");
    second.await_messages(&[("ann", "hello")]);
    second.say(MARKUP);
    let said = [("ann", "hello"), (name, MARKUP)];
    for window in windows {
        window.await_messages(&said);
        let made = "return document.querySelectorAll('body :is(img, script, b, i)').length";
        assert_eq!(window.browser().run(made), 0);
        assert_eq!(window.text_of("title"), "<i>lobby</i> · ringcast");
        window.await_text("#people", name);
        window.await_text("#here", "2 here");
        assert_eq!(window.text_of("#instance"), "test");
    }
    assert_eq!(server.metric("messages_stored_total"), 2);

    // Loaded again it is where it was, with what was said.
    for window in windows {
        window.browser().post("/refresh", &json!({}));
        window.await_state("on");
        window.await_messages(&said);
    }
    first.say("again");
    for window in windows {
        window.await_messages(&[said[0], said[1], ("ann", "again")]);
    }
    server.await_metric("members", 2);
    windows.into_iter().for_each(expect_no_complaints);
    assert_eq!(server.metric("errors_total"), 0);
    assert_eq!(server.metric("panics_total"), 0);
}

#[test]
fn rooms_are_joined_switched_and_left_by_keyboard_and_unread_ones_are_told() {
    let Some(browser) = browser() else { return };
    let server = Server::start(&[]);
    let (first, second) = (Window::first(&browser), Window::another(&browser));
    for (window, name) in [(&first, "ann"), (&second, "bob")] {
        window.open(server.port);
        window.join("lobby", name);
        window
            .browser()
            .type_into("more-room", &format!("games{ENTER}"));
        window.await_text("#title", "games");
        window.await_text("#here", "here");
    }
    let open = |window: &Window<'_>, room: &str| {
        // As the keyboard does it: focus, and Enter.
        let focus = format!(
            "[...document.querySelectorAll('.room .open')]
               .find((one) => one.title === '{room}').focus();
             document.activeElement.click()"
        );
        window.browser().run(&focus);
        window.await_text("#title", room);
        let active = "return document.activeElement.id";
        assert_eq!(
            window.browser().run(active),
            "text",
            "where one goes on to write"
        );
    };
    second.say("in games");
    second.await_messages(&[("bob", "in games")]);
    first.await_messages(&[("bob", "in games")]);
    open(&second, "lobby");
    second.say("in the lobby");
    second.say("twice");
    first.await_text(".room:first-child .badge", "2");
    assert_eq!(first.text_of("title"), "(2) games · ringcast");
    first.browser().type_into("text", "a draft");
    first.await_messages(&[("bob", "in games")]);
    open(&first, "lobby");
    first.await_messages(&[("bob", "in the lobby"), ("bob", "twice")]);
    assert_eq!(first.text_of("title"), "lobby · ringcast");
    open(&first, "games");
    let draft = "return document.getElementById('text').value";
    assert_eq!(first.browser().run(draft), "a draft");

    // Typing is told, and ends with the message.
    open(&second, "games");
    second.browser().type_into("text", "hm");
    first.await_text("#typing", "bob is typing");
    second.browser().type_into("text", ENTER);
    first.await_messages(&[("bob", "in games"), ("bob", "hm")]);
    assert_eq!(first.text_of("#typing"), "");
    // What a screen reader is told.
    first.await_text("#says", "bob: hm");

    let leave = "document.querySelector('.leave[aria-label=\"Leave games\"]').click()";
    first.browser().run(leave);
    first.await_text("#title", "lobby");
    second.await_text("#here", "1 here");
    server.await_metric("members", 3);
    [&first, &second].into_iter().for_each(expect_no_complaints);
    assert_eq!(server.metric("errors_total"), 0);
}

/// The page asks for what was said before only when one scrolls there, and only as long as the
/// server has such. The server's part in it is played in the page, so that all answers can be had.
#[test]
fn the_past_is_looked_at_by_scrolling_and_the_list_has_a_bound() {
    let Some(browser) = browser() else { return };
    let server = Server::start(&[]);
    let mut client = Client::member(&server, "lobby");
    client.publish_all("lobby", 0..200, |n| json!(format!("number {}", n + 1)));
    let window = Window::first(&browser);
    window.open(server.port);
    window.browser().run(
        "window.asked = [];
         window.fetch = async (url) => {
           asked.push(url.pathname + url.search);
           if (asked.length === 1) throw new TypeError('no connection');
           const before = Number(url.searchParams.get('before'));
           const messages = Array.from({ length: 50 }, (_, n) => before - 50 + n).map((offset) => ({
             room: 'lobby', offset, id: `id-${offset}`, user_id: 'u', username: 'old',
             payload: `number ${offset}`, sent_at: '2026-01-01T00:00:00.000Z' }));
           return Response.json({ epoch: url.searchParams.get('epoch'), messages });
         }",
    );
    window.join("lobby", "ann");
    let shown = || -> Vec<String> {
        let messages = window.messages().into_iter();
        messages.map(|(_, what)| what).collect()
    };
    let numbers =
        |from: u64| -> Vec<String> { (from..=200).map(|n| format!("number {n}")).collect() };
    eventually("what was said last", || {
        (shown() == numbers(151)).then_some(())
    });
    assert_eq!(
        window.browser().run("return asked.length"),
        0,
        "nobody has scrolled"
    );
    let scroll = "const at = document.getElementById('scroll');
                  at.dispatchEvent(new Event('wheel'));
                  at.scrollTop = at.scrollTop > 50 ? 0 : 60";
    eventually("all that was said before", || {
        window.browser().run(scroll);
        (shown() == numbers(1)).then_some(())
    });
    // The first question failed; another scroll asked again.
    let asked = window
        .browser()
        .run("return asked.map((path) => path.split('epoch=')[1])");
    let asked: Vec<String> = serde_json::from_value(asked).unwrap();
    let before = asked.iter().map(|path| path.split_once('&').unwrap().1);
    let wanted = [151, 151, 101, 51].map(|before| format!("before={before}&limit=50"));
    assert_eq!(before.collect::<Vec<_>>(), wanted);
    window.await_text("#past", "Here the conversation begins");

    // Many messages: the list keeps the last ones, and fewer when one is back at their end.
    let count = "return document.getElementById('log').childElementCount";
    client.publish_all("lobby", 200..1_400, |n| json!(n));
    eventually("the list to be full", || {
        let last = shown().last().cloned();
        (last.as_deref() == Some("1399")).then_some(())
    });
    assert_eq!(window.browser().run(count), 1_000);
    window
        .browser()
        .run("document.getElementById('to-end').click()");
    client.publish("lobby", json!("the end"));
    eventually("the end", || (shown().last()? == "the end").then_some(()));
    assert_eq!(window.browser().run(count), 500);
    expect_no_complaints(&window);

    // A server that keeps none is asked once.
    window
        .browser()
        .run("window.fetch = async () => (asked.push(''), new Response('', { status: 404 }))");
    window
        .browser()
        .type_into("more-room", &format!("empty{ENTER}"));
    client.publish_all("empty", 0..100, |n| json!(n));
    eventually("the other room", || (shown().last()? == "99").then_some(()));
    window
        .browser()
        .run("document.querySelector('.leave[aria-label=\"Leave empty\"]').click()");
    window
        .browser()
        .type_into("more-room", &format!("empty{ENTER}"));
    eventually("the last of the other room", || {
        (shown().len() == 50).then_some(())
    });
    eventually("the page to ask", || {
        window.browser().run(scroll);
        (window.browser().run("return asked.length") == 5).then_some(())
    });
    for _ in 0..10 {
        window.browser().run(scroll);
    }
    assert_eq!(window.browser().run("return asked.length"), 5);
}

/// The same with the server's own answers: all that was said is found by scrolling, once and in
/// order, also where the room log does not reach back to.
#[test]
fn the_past_comes_from_the_server_by_scrolling() {
    let Some(browser) = browser() else { return };
    let server = Server::start(&["--room-log-bytes", "1MiB"]);
    let mut client = Client::member(&server, "lobby");
    client.publish_all("lobby", 0..330, |n| json!(format!("number {}", n + 1)));
    // What is said elsewhere takes the room log's place.
    client.publish_all("other", 0..300, |_| json!("x".repeat(4_000)));
    let window = Window::first(&browser);
    window.open(server.port);
    window.join("lobby", "ann");
    let shown = || -> Vec<String> {
        let messages = window.messages().into_iter();
        messages.map(|(_, what)| what).collect()
    };
    eventually("what was said last", || {
        (shown().last()? == "number 330").then_some(())
    });
    assert!(shown().len() < 330, "nobody has scrolled");
    let scroll = "const at = document.getElementById('scroll');
                  at.dispatchEvent(new Event('wheel'));
                  at.scrollTop = at.scrollTop > 50 ? 0 : 60";
    let all: Vec<_> = (1..=330).map(|n| format!("number {n}")).collect();
    eventually("all that was said", || {
        window.browser().run(scroll);
        (shown() == all).then_some(())
    });
    window.await_text("#past", "Here the conversation begins");
    // And what is said now comes behind it.
    client.publish("lobby", json!("and on"));
    eventually("the next one", || {
        (shown().last()? == "and on").then_some(())
    });
    assert_eq!(shown().len(), 331);
    expect_no_complaints(&window);
}

/// What axe-core finds that is serious or worse, on the whole page as it is.
fn barriers(window: &Window<'_>, axe: &str) -> Vec<String> {
    let browser = window.browser();
    browser.run(axe);
    let found = browser.run_async(
        "const done = arguments[arguments.length - 1];
         axe.run(document, { resultTypes: ['violations'] }).then(
           ({ violations, passes }) => done([passes.length, violations.map((one) =>
             [one.impact, one.id, ...one.nodes.map((node) => node.html)])]),
           (error) => done([0, [['critical', String(error)]]]))",
    );
    assert!(
        found[0].as_u64().unwrap() > 10,
        "it was not looked at: {found}"
    );
    let found = found[1].as_array().unwrap();
    let is_serious = |one: &&Value| one[0] == "serious" || one[0] == "critical";
    found
        .iter()
        .filter(is_serious)
        .map(Value::to_string)
        .collect()
}

/// Everybody can use it: wide and narrow, light and dark, with the panels that slide in. The
/// pictures are for people to look at.
#[test]
fn no_barrier_is_found_in_any_shape_of_the_page() {
    let Some(browser) = browser() else { return };
    let axe = match npm::package("axe-core") {
        Ok(dir) => std::fs::read_to_string(dir.join("axe.min.js")).unwrap(),
        Err(why) => return skip(&why),
    };
    let server = Server::start(&["--instance-id", "server-1"]);
    let (first, second) = (Window::first(&browser), Window::another(&browser));
    first.open(server.port);
    for (shape, width, height) in [("wide", 1180, 760), ("narrow", 390, 780)] {
        first.browser().screen(width, height);
        first.browser().picture(&format!("hello-{shape}"));
        assert_eq!(
            barriers(&first, &axe),
            Vec::<String>::new(),
            "hello, {shape}"
        );
    }
    first.browser().screen(1180, 760);
    second.open(server.port);
    first.join("lobby", "Ann");
    second.join("lobby", "Ben");
    for room in ["release-42", "games"] {
        first
            .browser()
            .type_into("more-room", &format!("{room}{ENTER}"));
        second
            .browser()
            .type_into("more-room", &format!("{room}{ENTER}"));
    }
    talk(&first, &second);
    first
        .browser()
        .run("document.querySelector('.open[title=\"lobby\"]').click()");
    first.await_text("#title", "lobby");
    second.browser().type_into("text", "and");
    first.await_text("#typing", "Ben is typing");
    for scheme in ["light", "dark"] {
        for (shape, width, height) in [("wide", 1180, 760), ("narrow", 390, 780)] {
            let browser = first.browser();
            browser.prefer(scheme);
            browser.screen(width, height);
            let name = format!("{shape}-{scheme}");
            browser.picture(&name);
            assert_eq!(barriers(&first, &axe), Vec::<String>::new(), "{name}");
            let wider = "return document.documentElement.scrollWidth > innerWidth";
            assert_eq!(
                browser.run(wider),
                false,
                "{name}: it must not scroll sideways"
            );
        }
        for panel in ["rooms", "people"] {
            let browser = first.browser();
            browser.run(&format!("document.getElementById('{panel}-open').click()"));
            let focus = "return document.activeElement.id";
            eventually("the panel's way out to have the focus", || {
                (browser.run(focus) == format!("{panel}-close")).then_some(())
            });
            browser.picture(&format!("narrow-{scheme}-{panel}"));
            assert_eq!(
                barriers(&first, &axe),
                Vec::<String>::new(),
                "{panel}, {scheme}"
            );
            browser.type_into(&format!("{panel}-close"), "\u{e00c}"); // Escape.
            assert_eq!(browser.run(focus), format!("{panel}-open"));
        }
    }
    expect_no_complaints(&first);
}

/// Something to look at.
fn talk(ann: &Window<'_>, ben: &Window<'_>) {
    for window in [ann, ben] {
        window
            .browser()
            .run("document.querySelector('.open[title=\"lobby\"]').click()");
        window.await_text("#title", "lobby");
    }
    let said = [
        (ann, "Morning! Is everybody here?"),
        (
            ben,
            "Yes. I have moved to server-2, and nothing was missed on the way.",
        ),
        (
            ben,
            "Offsets are under each message, the same for all of us.",
        ),
        (
            ann,
            "Then let us roll it out \u{2014} one instance after the other.",
        ),
        (
            ben,
            "If Redis goes away meanwhile, what we write is held and shown as held.",
        ),
        (ann, "And stored, in order, once it is back. Good."),
    ];
    for (n, (who, what)) in said.iter().enumerate() {
        who.say(what);
        for window in [ann, ben] {
            eventually("what was said", || {
                (window.messages().len() == n + 1).then_some(())
            });
        }
    }
    ben.browser()
        .run("document.querySelector('.open[title=\"games\"]').click()");
    ben.say("Who plays?");
    ann.await_text(".room:nth-child(3) .badge", "1");
    ben.browser()
        .run("document.querySelector('.open[title=\"lobby\"]').click()");
}
