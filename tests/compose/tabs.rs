//! Three tabs of a browser, through nginx, on three instances: everybody sees everything, and who
//! loses its instance comes back on another and has missed nothing.

use super::browser::{Browser, Window};
use super::cluster::{Cluster, SERVERS};
use super::engine::{Engine, root};
use super::support::skip;

#[test]
fn three_tabs_on_three_instances_miss_nothing() {
    let Some(engine) = Engine::find() else { return };
    let Some(browser) = Browser::start() else {
        skip("this needs chromium and chromedriver");
        return;
    };
    let mut cluster = Cluster::new(&engine, &["docker-compose.yml"], &[]);
    spread_evenly(&mut cluster);
    cluster.up(&[]);
    let tabs = [
        Window::first(&browser),
        Window::another(&browser),
        Window::another(&browser),
    ];
    let names = ["ann", "bob", "cid"];
    for (tab, name) in tabs.iter().zip(names) {
        tab.open(cluster.entry().port());
        tab.join("lobby", name);
    }
    let mut instances = tabs.each_ref().map(|tab| tab.text_of("#instance"));
    let of_second = instances.iter().position(|it| it == SERVERS[1]);
    instances.sort();
    assert_eq!(instances, SERVERS);
    let of_second = of_second.unwrap();

    let mut said = vec![];
    for (tab, name) in tabs.iter().zip(names) {
        tab.say("hello");
        said.push((name, "hello"));
        tabs.iter().for_each(|tab| tab.await_messages(&said));
    }

    cluster.container(SERVERS[1]).crash();
    for other in (0..3).filter(|&other| other != of_second) {
        tabs[other].say("while it was away");
        said.push((names[other], "while it was away"));
        tabs[other].await_messages(&said);
    }
    tabs[of_second].await_state("on");
    tabs[of_second].say("back");
    said.push((names[of_second], "back"));
    tabs.iter().for_each(|tab| tab.await_messages(&said));
    tabs[of_second].await_text("#log", "nothing was missed");
}

/// By their address all tabs of one browser would be on one instance: nginx takes the documented
/// other way.
fn spread_evenly(cluster: &mut Cluster<'_>) {
    let text = std::fs::read_to_string(root().join("nginx/conf.d/ringcast.conf")).unwrap();
    let even = text.replace(" ip_hash;", " least_conn;");
    assert_ne!(even, text);
    let conf = cluster.path("conf.d");
    std::fs::create_dir(&conf).unwrap();
    std::fs::write(conf.join("ringcast.conf"), even).unwrap();
    let volume = format!("{}:/etc/nginx/conf.d:ro", conf.display());
    let file = cluster.path("even.yml");
    let services = format!("services:\n  nginx:\n    volumes: [\"{volume}\"]\n");
    std::fs::write(&file, services).unwrap();
    cluster.push_file(&file);
}
