//! History and the list of rooms over HTTP, alone: from the room log and from the embedded store.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Client, PATIENCE, Server, all};

/// The offsets of an answer's messages; each is the frame that a client gets.
fn offsets(answer: &Value) -> Vec<u64> {
    let messages = answer["messages"].as_array().unwrap();
    let offset = |message: &Value| {
        assert_eq!(message["type"], "message");
        message["offset"].as_u64().unwrap()
    };
    messages.iter().map(offset).collect()
}

fn history(server: &Server, room: &str, query: &str) -> Value {
    let answer = server.get(&format!("/api/rooms/{room}/messages?{query}"));
    assert_eq!(answer.status, 200, "{query}");
    answer.json()
}

#[test]
fn pages_go_both_ways_and_join() {
    for flags in [&["--store", "memory"][..], &[]] {
        let server = Server::start(flags);
        let mut client = Client::new(&server);
        let epoch = client.join("caf\u{e9} a/b")["epoch"].clone();
        client.publish_all("caf\u{e9} a/b", 0..250, |n| json!({"n": n}));
        let room = "caf%C3%A9%20a%2Fb";
        let newest = history(&server, room, "");
        assert_eq!(newest["epoch"], epoch);
        assert!(newest.get("previous_epoch").is_none());
        assert_eq!(offsets(&newest), (151..=250).collect::<Vec<_>>());
        assert_eq!(newest["messages"][99]["payload"], json!({"n": 249}));
        assert_eq!(newest["messages"][99]["room"], "caf\u{e9} a/b");
        assert_eq!(newest["messages"][99]["user_id"], client.id.as_str());

        let (mut back, mut before) = (Vec::new(), 251);
        while before > 1 {
            let query = format!("epoch={}&before={before}&limit=60", epoch.as_str().unwrap());
            let page = offsets(&history(&server, room, &query));
            before = page[0];
            back = [page, back].concat();
        }
        assert_eq!(back, (1..=250).collect::<Vec<_>>());
        let (mut on, mut after) = (Vec::new(), 0);
        loop {
            let page = offsets(&history(&server, room, &format!("after={after}&limit=7")));
            if page.is_empty() {
                break;
            }
            after = *page.last().unwrap();
            on.extend(page);
        }
        assert_eq!(on, back);
        for (query, want) in [
            ("before=1", vec![]),
            ("before=0", vec![]),
            ("before=3", vec![1, 2]),
            ("before=18446744073709551615&limit=1", vec![250]),
            ("after=250", vec![]),
            ("after=18446744073709551615", vec![]),
            ("after=10&before=14", vec![11, 12, 13]),
            ("after=10&before=14&limit=2", vec![11, 12]),
            ("after=14&before=10", vec![]),
            ("epoch=018bcfe5680000000000", vec![]),
            ("limit=1", vec![250]),
            (
                "after=&before=&limit=&epoch=&other=1",
                (151..=250).collect(),
            ),
        ] {
            assert_eq!(offsets(&history(&server, room, query)), want, "{query}");
        }
        // A room that nobody knows is empty.
        assert!(offsets(&history(&server, "nowhere", "")).is_empty());
    }
}

#[test]
fn what_is_stored_outlives_the_server_and_its_logs() {
    let server = Server::start(&["--room-log-bytes", "1MiB"]);
    let mut client = Client::new(&server);
    let epoch = client.join("a")["epoch"].clone();
    let fill = "x".repeat(2_000);
    client.publish_all("a", 0..2_000, |n| json!({"n": n, "fill": fill}));
    let check = |server: &Server| {
        // A thousand are more than an answer holds: the nearest come.
        let newest = history(server, "a", "limit=1000");
        assert_eq!(newest["epoch"], epoch);
        let newest = offsets(&newest);
        assert!(newest.len() > 300 && newest.len() < 600, "{}", newest.len());
        assert_eq!(newest.last(), Some(&2_000));
        let first = offsets(&history(server, "a", "after=0&limit=1000"));
        assert!(first.len() > 300 && first.len() < 600, "{}", first.len());
        assert_eq!(first[0], 1);
        let middle = offsets(&history(server, "a", "before=1001&limit=50"));
        assert_eq!(middle, (951..=1000).collect::<Vec<_>>());
    };
    check(&server);
    check(&Server::start_on(server.stop(), &[]));
}

/// FAULTS C8: limits that are none.
#[test]
fn what_is_no_request_for_history_is_refused_by_name() {
    let server = Server::start(&[]);
    for (path, status, code) in [
        ("/api/rooms/a/messages?limit=0", 400, "bad_request"),
        ("/api/rooms/a/messages?limit=1001", 400, "bad_request"),
        ("/api/rooms/a/messages?limit=1000000000", 400, "bad_request"),
        ("/api/rooms/a/messages?limit=-1", 400, "bad_request"),
        ("/api/rooms/a/messages?limit=1e308", 400, "bad_request"),
        ("/api/rooms/a/messages?limit=x", 400, "bad_request"),
        ("/api/rooms/a/messages?before=x", 400, "bad_request"),
        ("/api/rooms/a/messages?after=-1", 400, "bad_request"),
        (
            "/api/rooms/a/messages?after=18446744073709551616",
            400,
            "bad_request",
        ),
        ("/api/rooms/a/messages?epoch=x", 400, "bad_request"),
        ("/api/rooms/%00/messages", 400, "bad_room"),
        ("/api/rooms//messages", 400, "bad_room"),
        ("/api/rooms/%ff/messages", 400, "bad_room"),
        ("/api/rooms/@someone/messages", 403, "forbidden"),
        ("/api/rooms/a/b/messages", 404, "not_found"),
        ("/api/rooms/a", 404, "not_found"),
        ("/api/rooms?limit=0", 400, "bad_request"),
        ("/api/rooms?limit=1001", 400, "bad_request"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.json()["error"]["code"], code, "{path}");
    }
    for path in ["/api/rooms/a/messages", "/api/rooms"] {
        let answer = server.http(format!("DELETE {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(answer.status, 405);
    }
}

/// FAULTS C8: a hundred histories of a room of 6,000 messages (1,000,000) at once, alone: bounded
/// memory, and others talk on (within 200 ms).
#[test]
fn many_at_once_cost_little_and_slow_nobody() {
    let rows = if all() { 1_000_000 } else { 6_000 };
    let server = Server::start(&["--room-log-bytes", "1MiB"]);
    let mut client = Client::new(&server);
    client.publish_all("big", 0..rows, |n| json!(n));
    let before = server.memory_kib();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..100)
            .map(|n| {
                let server = &server;
                scope.spawn(move || {
                    let after = n * (rows / 120);
                    let query = format!("after={after}&limit=1000");
                    let page = offsets(&history(server, "big", &query));
                    assert_eq!(page.first(), Some(&(after + 1)));
                    assert!(page.len() <= 1000);
                })
            })
            .collect();
        let mut took: Vec<_> = (0..100)
            .map(|_| {
                let began = Instant::now();
                client.settle();
                began.elapsed()
            })
            .collect();
        took.sort_unstable();
        println!("others meanwhile: {:?}, {:?} at most", took[50], took[99]);
        let most = if all() {
            Duration::from_millis(200)
        } else {
            PATIENCE
        };
        assert!(took[98] < most, "{took:?}");
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 50 * 1024, "{grown} KiB");
}

#[test]
fn rooms_are_listed_by_name() {
    for flags in [&["--store", "memory"][..], &[]] {
        let server = Server::start(flags);
        let mut client = Client::new(&server);
        for n in 0..25 {
            client.join(&format!("room-{n:02}"));
            client.publish(&format!("room-{n:02}"), json!(n));
        }
        client.publish("other", json!(1));
        client.publish(&format!("@{}", client.id.clone()), json!(1));
        let mut other = Client::new(&server);
        other.join("room-03");
        let list = |query: &str| {
            let answer = server.get(&format!("/api/rooms?{query}"));
            assert_eq!(answer.status, 200, "{query}");
            answer.json()
        };
        let all = list("");
        assert_eq!(all["rooms"].as_array().unwrap().len(), 26, "{all}");
        assert!(all.get("cursor").is_none());
        assert_eq!(all["rooms"][0]["room"], "other");
        assert_eq!(all["rooms"][0]["members"], 0);
        assert_eq!(all["rooms"][4]["room"], "room-03");
        assert_eq!(all["rooms"][4]["members"], 2);
        assert_eq!(all["rooms"][4]["offset"], 1);
        let (mut names, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = list(&format!("prefix=room-&limit=10&cursor={cursor}"));
            let rooms = page["rooms"].as_array().unwrap();
            names.extend(rooms.iter().map(|room| room["room"].clone()));
            match page["cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        let want: Vec<_> = (0..25).map(|n| json!(format!("room-{n:02}"))).collect();
        assert_eq!(names, want);
        assert_eq!(list("prefix=none")["rooms"], json!([]));
        if flags.is_empty() {
            // What nobody has open is in the store.
            let server = Server::start_on(server.stop(), &[]);
            let answer = server.get("/api/rooms?prefix=room-1&limit=1000").json();
            assert_eq!(answer["rooms"].as_array().unwrap().len(), 10);
            assert_eq!(answer["rooms"][9]["offset"], 1);
        }
    }
}
