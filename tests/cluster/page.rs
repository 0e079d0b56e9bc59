//! Three tabs on three instances: everybody sees everything, and misses nothing, whatever ends
//! meanwhile. Each tab reaches its instance through a proxy, which stands for what balances in
//! front of them: after a fault it leads to another one.

use serde_json::Value;

use super::browser::{Browser, Window};
use super::instances::start_all;
use super::proxy::Proxy;
use super::redis::Redis;
use super::support::{eventually, skip};

/// What a page has complained about; that a socket can't be opened is told by the browser itself.
fn complaints(window: &Window<'_>) -> Vec<Value> {
    let mut complaints = window.browser().complaints();
    complaints.retain(|entry| {
        let said = entry["message"].as_str().unwrap();
        !said.contains("WebSocket connection to")
    });
    complaints
}

#[test]
fn three_tabs_on_three_instances_miss_nothing() {
    let Some(browser) = Browser::start() else {
        skip("this needs chromium and chromedriver");
        return;
    };
    let mut redis = Redis::lasting(&[]);
    let mut servers = start_all(3, &redis, &[]);
    let proxies: Vec<_> = servers
        .iter()
        .map(|server| Proxy::to(server.port))
        .collect();
    let tabs = [
        Window::first(&browser),
        Window::another(&browser),
        Window::another(&browser),
    ];
    for ((tab, proxy), name) in tabs.iter().zip(&proxies).zip(["ann", "bob", "<b>cid</b>"]) {
        tab.open(proxy.port);
        tab.join("lobby", name);
    }
    for (tab, instance) in tabs.iter().zip(["a", "b", "c"]) {
        assert_eq!(tab.text_of("#instance"), instance);
        tab.await_text("#here", "3 here");
    }
    let mut said = vec![
        ("ann", "from a"),
        ("bob", "from b"),
        ("<b>cid</b>", "<i>from c</i>"),
    ];
    for (n, tab) in tabs.iter().enumerate() {
        tab.say(said[n].1);
        for tab in &tabs {
            tab.await_messages(&said[..=n]);
        }
    }

    // An instance is killed; its tab keeps what is written, and comes back on another one.
    drop(servers.remove(1).kill());
    tabs[1].await_state("wait");
    tabs[1].say("kept");
    tabs[1].await_waiting(&[("kept", "Waiting for the connection")]);
    tabs[0].say("while b was away");
    said.push(("ann", "while b was away"));
    tabs[2].await_messages(&said);
    tabs[1].await_text("#banner", "What you write is kept");
    tabs[1].browser().picture("away");
    proxies[1].switch(servers[1].port);
    tabs[1].await_state("on");
    said.push(("bob", "kept"));
    for tab in &tabs {
        tab.await_messages(&said);
    }
    assert_eq!(tabs[1].text_of("#instance"), "c");
    tabs[1].await_text("#log", "nothing was missed");

    // Redis goes: what is written is held and shown to those on the same instance; then stored.
    redis.kill();
    tabs.iter().for_each(|tab| tab.await_state("degraded"));
    tabs[1].say("held");
    let held = [("held", "Held until Redis is back")];
    tabs[1].await_waiting(&held);
    tabs[2].await_waiting(&held);
    tabs[0].await_waiting(&[]);
    tabs[2].browser().picture("degraded");
    redis.up();
    tabs.iter().for_each(|tab| tab.await_state("on"));
    said.push(("bob", "held"));
    for tab in &tabs {
        tab.await_messages(&said);
    }

    // An instance drains: its tab is told when to come back, and finds another.
    proxies[0].switch(servers[0].port);
    tabs[0].await_state("on");
    let drained = servers.remove(0);
    proxies[0].lead_to(servers[0].port);
    drained.stop();
    eventually("the tab to be on another instance", || {
        (tabs[0].text_of("#instance") == "c").then_some(())
    });
    tabs[2].say("to all");
    said.push(("<b>cid</b>", "to all"));
    for tab in &tabs {
        tab.await_messages(&said);
        let made = "return document.querySelectorAll('body :is(b, i, img, script)').length";
        assert_eq!(tab.browser().run(made), 0, "text is never markup");
        assert_eq!(complaints(tab), Vec::<Value>::new());
    }
}
