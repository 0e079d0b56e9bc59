//! The past beyond memory: PostgreSQL and the stream, joined, for those who come back and over
//! HTTP.
//!
//! What a worker does is done by hand: see `hand`.

use std::io::{BufRead, BufReader, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::hand::Hand;
use super::instances::{await_up, begin};
use super::redis::STREAM;
use super::support::{Answer, Client, Server, all, connect, eventually, talking};
use super::talk::Talk;

/// An instance that remembers little, a member of its room `r`, and the room's epoch.
fn in_room(hand: &Hand) -> (Server, Client, Value) {
    let server = hand.reader("a");
    let mut client = Client::new(&server);
    let epoch = client.join("r")["epoch"].clone();
    (server, client, epoch)
}

/// What is said to who joins from there; it may be refused.
fn ask_since(server: &Server, epoch: &Value, offset: u64) -> Value {
    let since = json!({"epoch": epoch, "offset": offset});
    Client::new(server).ask(json!({"type": "join", "room": "r", "since": since}))
}

/// Waits until PostgreSQL is asked again: who joins from there gets what it has missed.
fn await_resume(server: &Server, epoch: &Value, offset: u64) {
    eventually("PostgreSQL to be asked", || {
        (ask_since(server, epoch, offset)["recovered"] == true).then_some(())
    });
}

fn big(n: u64) -> Value {
    json!({"n": n, "fill": "x".repeat(1_000)})
}

fn get(server: &Server, room: &str, query: &str) -> Value {
    let answer = server.get(&format!("/api/rooms/{room}/messages?{query}"));
    assert_eq!(answer.status, 200, "{query}: {:?}", answer.json());
    answer.json()
}

fn offsets(answer: &Value) -> Vec<u64> {
    let messages = answer["messages"].as_array().unwrap();
    let offset = |message: &Value| message["offset"].as_u64().unwrap();
    messages.iter().map(offset).collect()
}

/// The name of the first event of a room's, for who comes back with an id.
fn first_event(server: &Server, room: &str, id: &str) -> String {
    let mut socket = connect(server.port);
    let head = "HTTP/1.1\r\nHost: a";
    write!(
        socket,
        "GET /api/rooms/{room}/events {head}\r\nLast-Event-ID: {id}\r\n\r\n"
    )
    .unwrap();
    assert_eq!(Answer::read_head(&mut socket).status, 200);
    let lines = BufReader::new(socket).lines().map(Result::unwrap);
    let mut names = lines.filter_map(|line| line.strip_prefix("event: ").map(str::to_owned));
    names.next().unwrap()
}

/// A cold instance answers resumes that span PostgreSQL, stream and memory, while messages keep
/// coming, and are stored and trimmed.
#[test]
fn a_cold_instance_joins_what_is_stored_with_the_stream() {
    let mut hand = Hand::start();
    let (a, mut client, epoch) = in_room(&hand);
    client.publish_all("r", 0..3_000, big);
    client.publish_all("s", 0..200, big);
    while hand.redis.stream_len() > 0 && hand.work(500, |_, _| true) == 500 {}
    hand.trim();
    client.publish_all("r", 3_000..4_000, big);
    client.kept();
    // 3,000 in PostgreSQL only, 1,000 in the stream, the last of them in the memory of `a`.
    assert!(hand.redis.stream_len() >= 1_000);
    let b = hand.reader("b");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let talking = scope.spawn(|| {
            let mut client = Client::new(&a);
            let mut published = 4_000;
            while !stop.load(Ordering::Relaxed) {
                client.publish_all("r", published..published + 50, big);
                client.kept();
                published += 50;
                hand.work(100, |_, _| true);
                hand.trim();
            }
            published
        });
        let resumes: Vec<_> = [0, 1, 999, 1_500, 2_999, 3_000, 3_001, 3_500, 3_999]
            .into_iter()
            .map(|since| {
                let (b, epoch) = (&b, &epoch);
                scope.spawn(move || {
                    let mut client = Client::new(b);
                    let messages = client.resume("r", epoch, since, 4_200);
                    for (message, n) in messages.iter().zip(since..) {
                        assert_eq!(message["payload"]["n"], n);
                    }
                })
            })
            .collect();
        for resume in resumes {
            if resume.join().is_err() {
                stop.store(true, Ordering::Relaxed);
                panic!("a resume failed: {}", b.log());
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(talking.join().unwrap() > 4_200);
    });
    // The other room is stored only.
    let mut client = Client::new(&b);
    client.resume("s", &epoch, 17, 200);
}

/// Workers commit out of order: what one has not stored yet is in the stream, between what is.
#[test]
fn what_is_pending_is_found_between_what_is_stored() {
    let mut hand = Hand::start();
    let (_a, mut client, epoch) = in_room(&hand);
    client.publish_all("r", 0..1_000, big);
    hand.work(1_000, |_, offset| {
        !(400..=420).contains(&offset) && offset != 900
    });
    hand.trim();
    drop(client);
    let b = hand.reader("b");
    for since in [0, 398, 399, 400, 410, 420, 421, 899, 900] {
        let mut client = Client::new(&b);
        client.resume("r", &epoch, since, 1_000);
    }
    let page = get(&b, "r", "after=390&limit=50");
    assert_eq!(offsets(&page), (391..=440).collect::<Vec<_>>());
}

/// What was deleted for its age, or set aside, nobody has: a resume is told, history has the rest.
#[test]
fn a_hole_below_the_floor_is_final() {
    let mut hand = Hand::start();
    let (_a, mut client, epoch) = in_room(&hand);
    client.publish_all("r", 0..2_000, big);
    hand.store_all();
    hand.redis.ask(&["XTRIM", STREAM, "MAXLEN", "0"]);
    hand.talk
        .sql("DELETE FROM messages WHERE \"offset\" <= 100 OR \"offset\" = 150");
    let b = hand.reader("b");
    for (since, recovered) in [
        (0, false),
        (99, false),
        (100, false),
        (149, false),
        (150, true),
        (1_999, true),
    ] {
        let mut client = Client::new(&b);
        match recovered {
            true => drop(client.resume("r", &epoch, since, 2_000)),
            false => drop(client.resume_lost("r", &epoch, since, 2_000)),
        }
    }
    let page = get(&b, "r", "after=0&limit=120");
    assert_eq!(offsets(&page), (101..=120).collect::<Vec<_>>(), "the range");
    let page = get(&b, "r", "before=160&limit=20");
    let want: Vec<u64> = (140..=159).filter(|&offset| offset != 150).collect();
    assert_eq!(offsets(&page), want);
    // Nobody is told that something is gone because nobody answers.
    hand.talk.sql("SELECT 1");
    hand.postgres.signal_all(Signal::STOP);
    let answer = ask_since(&b, &epoch, 500);
    hand.postgres.signal_all(Signal::CONT);
    assert_eq!(answer["code"], "unavailable", "{answer}");
    await_resume(&b, &epoch, 500);
}

/// An entry that PostgreSQL refused, many pages behind where a resume begins: known before
/// `joined`, however many ask at once. Who begins behind it misses nothing.
#[test]
fn a_dead_entry_deep_in_the_past_is_told_by_joined() {
    let mut hand = Hand::start();
    let (_a, mut client, epoch) = in_room(&hand);
    client.publish_all("r", 0..3_000, big);
    // Taken, set aside and acknowledged: the stream has it still, but below the floor.
    hand.work(2_500, |_, offset| offset != 1_500);
    hand.set_aside();
    drop(client);
    let b = hand.reader("b");
    std::thread::scope(|scope| {
        for since in (0..3_000).step_by(100).chain([1_498, 1_499]) {
            let (b, epoch) = (&b, &epoch);
            scope.spawn(move || {
                let mut client = Client::new(b);
                match since >= 1_500 {
                    true => drop(client.resume("r", epoch, since, 3_000)),
                    false => drop(client.resume_lost("r", epoch, since, 3_000)),
                }
            });
        }
    });
    // The same by server-sent events.
    for (since, resets) in [(0, true), (1_499, true), (1_500, false)] {
        let id = format!("{}:{since}", epoch.as_str().unwrap());
        let first = first_event(&b, "r", &id);
        assert_eq!(first == "reset", resets, "since {since}: {first}");
    }
    assert_eq!(b.metric("gaps_told_total"), 0);
}

/// History over HTTP: both ways over PostgreSQL, stream and memory, and on into the epoch before.
#[test]
fn history_goes_through_all_that_keeps_it() {
    let mut hand = Hand::start();
    let (a, mut client, first) = in_room(&hand);
    client.publish_all("r", 0..300, big);
    hand.store_all();
    // Redis has lost all: a new epoch.
    hand.redis.ask(&["FLUSHALL"]);
    let second = eventually("a new epoch", || {
        let mut client = Client::new(&a);
        let epoch = client.join("r")["epoch"].clone();
        (epoch != first).then_some(epoch)
    });
    hand.begin_group();
    let mut client = Client::new(&a);
    client.publish_all("r", 0..500, big);
    client.publish("other", json!(1));
    hand.work(250, |_, _| true);
    hand.trim();
    client.publish_all("r", 500..1_500, big);
    let b = hand.reader("b");
    for server in [&a, &b] {
        let mut found = Vec::new();
        let (mut epoch, mut before) = (second.clone(), u64::MAX);
        loop {
            let text = epoch.as_str().unwrap();
            let page = get(
                server,
                "r",
                &format!("epoch={text}&before={before}&limit=170"),
            );
            assert_eq!(page["epoch"], epoch);
            let offsets = offsets(&page);
            match offsets.first() {
                Some(&first) => {
                    before = first;
                    found.splice(0..0, offsets.into_iter().map(|at| (epoch.clone(), at)));
                }
                None if page["previous_epoch"].is_null() => break,
                None => {
                    before = u64::MAX;
                    epoch = page["previous_epoch"].clone();
                }
            }
        }
        let of =
            |epoch: &Value, last: u64| (1..=last).map(|at| (epoch.clone(), at)).collect::<Vec<_>>();
        let want: Vec<(Value, u64)> = [of(&first, 300), of(&second, 1_500)].concat();
        assert_eq!(found, want);
        let page = get(server, "r", "after=240&limit=30");
        assert_eq!(offsets(&page), (241..=270).collect::<Vec<_>>());
        assert_eq!(page["previous_epoch"], first);
        assert_eq!(page["messages"][0]["payload"], big(240));
        assert!(
            page["messages"][0]["sent_at"]
                .as_str()
                .unwrap()
                .ends_with('Z')
        );
    }
    hand.work_all();
    let rooms = b.get("/api/rooms").json();
    let names: Vec<_> = rooms["rooms"].as_array().unwrap().iter().collect();
    let of = |name: &str| names.iter().find(|room| room["room"] == name).unwrap();
    assert_eq!(of("r")["offset"], 1_500);
    assert_eq!(of("r")["epoch"], second);
    assert_eq!(
        (&of("other")["offset"], &of("other")["members"]),
        (&json!(1), &json!(0))
    );
}

/// FAULTS C8: a hundred at once ask for more than there may be, of a room with very many rows: each
/// gets a page, or is refused; memory stays, and others talk on.
#[test]
fn a_hundred_ask_for_all_of_a_long_past() {
    let count: u64 = if all() { 1_000_000 } else { 20_000 };
    let (_hand, server, epoch) = long_past(count);
    let page = get(&server, "r", &format!("epoch={epoch}&after=0&limit=1000"));
    assert_eq!(offsets(&page), (1..=1_000).collect::<Vec<_>>());
    let before = server.memory_kib();
    let mut longest = Duration::ZERO;
    talking(&server, "elsewhere", 100, || {
        std::thread::scope(|scope| {
            for n in 0..100 {
                let (server, epoch) = (&server, &epoch);
                scope.spawn(move || ask_for_too_much(server, epoch, count, n));
            }
            let mut other = Client::member(&server, "others");
            for n in 0..100 {
                let began = Instant::now();
                other.publish("others", json!(n));
                longest = longest.max(began.elapsed());
            }
        });
    });
    let grown = server.memory_kib().saturating_sub(before) / 1024;
    eprintln!("{grown} MiB more; another's publish took {longest:?} at most");
    assert!(grown < 50, "{grown} MiB");
}

/// What an instance reads, the instance, and the epoch of a room that has so many messages in
/// PostgreSQL.
fn long_past(count: u64) -> (Hand, Server, String) {
    let hand = Hand::start();
    let first = hand.reader("a");
    let epoch = Client::new(&first).join("s")["epoch"].clone();
    let epoch = epoch.as_str().unwrap().to_owned();
    hand.postgres.sql(&format!(
        "INSERT INTO messages (room_name, id, epoch, \"offset\", user_id, payload, created_at) \
         SELECT 'r', gen_random_uuid(), '{epoch}', n, 'u', to_jsonb(repeat('x', 100)), now() \
         FROM generate_series(1, {count}) n"
    ));
    hand.redis
        .ask(&["HSET", "gosocket:state", "o:r", &count.to_string()]);
    let server = hand.reader("b");
    (hand, server, epoch)
}

/// A past that takes many looks, for many at once and from everywhere in it: each is answered soon,
/// and a hole near its end is known before anything is replayed.
#[test]
fn a_long_past_is_looked_through_before_joined() {
    let count: u64 = if all() { 1_000_000 } else { 120_000 };
    let (hand, server, epoch) = long_past(count);
    let epoch = json!(epoch);
    let resume = |since: u64| {
        let (mut client, began) = (Client::new(&server), Instant::now());
        let joined = client.rejoin("r", &epoch, since);
        (joined["recovered"] == true, began.elapsed())
    };
    let (recovered, took) = resume(0);
    assert!(recovered);
    let hole = count - 100;
    hand.postgres
        .sql(&format!("DELETE FROM messages WHERE \"offset\" = {hole}"));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..30 {
            let resume = &resume;
            scope.spawn(move || assert!(!resume(n * (hole / 30)).0, "{n}"));
        }
    });
    let all_took = began.elapsed();
    assert!(resume(hole).0 && !resume(hole - 1).0);
    eprintln!("{count} messages: one after {took:?}, thirty after {all_took:?}");
    assert_eq!(server.metric("gaps_told_total"), 0);
}

fn ask_for_too_much(server: &Server, epoch: &str, count: u64, n: u64) {
    for limit in ["1000000000", "-1", "1e308", "1001"] {
        let path = format!("/api/rooms/r/messages?limit={limit}");
        assert_eq!(server.get(&path).status, 400, "{limit}");
    }
    let after = n * (count / 100);
    let path = format!("/api/rooms/r/messages?epoch={epoch}&after={after}&limit=1000");
    let answer = server.get(&path);
    // Who would have to wait too long is told to come again.
    if answer.status != 503 {
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        let found = offsets(&answer.json());
        assert!(!found.is_empty() && found.len() <= 1_000);
        assert_eq!(found[0], after + 1);
        assert!(found.is_sorted());
    }
}

/// FAULTS E20: while PostgreSQL is away, stands still, or its table is locked: an answer from what
/// is there, or a clean error, within two seconds; and as soon as it is back all is well.
#[test]
fn history_is_answered_or_refused_in_time() {
    let mut hand = Hand::start();
    let a = hand.reader("a");
    let mut client = Client::new(&a);
    client.publish_all("r", 0..1_500, big);
    hand.store_all();
    client.publish_all("r", 1_500..1_800, big);
    let b = hand.reader("b");
    let ask = |query: &str| {
        let began = Instant::now();
        let answer = b.get(&format!("/api/rooms/r/messages?{query}"));
        // The machine is shared: twice of what is promised.
        assert!(began.elapsed() < Duration::from_secs(4), "{query}");
        let answer = (answer.status, answer.json());
        match answer.0 {
            200 => assert!(answer.1["messages"].is_array()),
            status => {
                assert_eq!(status, 503, "{query}");
                assert_eq!(answer.1["error"]["code"], "unavailable");
            }
        }
        answer
    };
    let is_well = |query: &str| {
        eventually("history", || {
            let (status, answer) = ask(query);
            let count = answer["messages"].as_array().map(Vec::len);
            (status == 200 && count == Some(50)).then_some(())
        });
    };
    is_well("before=101&limit=50");
    let check = |what: &str| {
        // What the stream has is had; what it does not have is not said to be gone.
        let (status, answer) = ask("after=1600&limit=50");
        assert_eq!(status, 200, "{what}: {answer}");
        assert_eq!(offsets(&answer).len(), 50, "{what}");
        for _ in 0..3 {
            assert_eq!(ask("before=101&limit=50").0, 503, "{what}");
        }
        assert!(b.get("/health").status == 200, "{what}");
    };
    let mut lock = Talk::new(&hand.postgres);
    lock.sql("BEGIN; LOCK TABLE messages");
    check("a lock");
    lock.sql("ROLLBACK");
    is_well("before=101&limit=50");
    hand.postgres.signal_all(Signal::STOP);
    check("it stands still");
    hand.postgres.signal_all(Signal::CONT);
    is_well("before=101&limit=50");
    hand.postgres.kill();
    check("it is gone");
    assert!(b.log().contains("history: "), "{}", b.log());
    hand.postgres.up();
    is_well("before=101&limit=50");
}

/// An instance begins without a PostgreSQL as it does with one, and finds it later.
#[test]
fn postgres_may_come_later() {
    let mut hand = Hand::start();
    let (_a, mut client, epoch) = in_room(&hand);
    client.publish_all("r", 0..1_500, big);
    hand.store_all();
    hand.postgres.shut_down();
    let url = hand.postgres.url().replace("postgres@", "postgres:s3cret@");
    let b = begin("b", &hand.redis.address(), &["--postgres-url", &url]);
    await_up(&b);
    hand.postgres.up();
    await_resume(&b, &epoch, 10);
    assert!(!b.log().contains("s3cret"));
}
