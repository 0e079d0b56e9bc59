//! What the metrics of two instances say of how long messages take, by where they came in.

use serde_json::json;

use super::instances::pair;
use super::redis::Redis;
use super::support::{Client, PATIENCE, Server};

/// The sum of a histogram with this label, in seconds.
fn sum(server: &Server, histogram: &str, label: &str) -> f64 {
    let page = server.get("/metrics").body;
    let name = format!("ringcast_{histogram}_sum{{");
    let mut lines = page.lines().filter(|line| line.starts_with(&name));
    let line = lines.find(|line| line.contains(label)).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Each message counts once on each instance: as local where it came in, with all its hops, and as
/// remote on the other, which sees none of these.
#[test]
fn deliveries_are_timed_by_where_the_message_came_in() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let (mut on_a, mut on_b) = (Client::member(&a, "r"), Client::member(&b, "r"));
    let (of_a, of_b) = (30, 50);
    for n in 0..of_b {
        if n < of_a {
            on_a.publish("r", json!(n));
        }
        on_b.publish("r", json!(n));
    }
    let all = of_a + of_b;
    assert_eq!(on_a.messages("r", 1, all), on_b.messages("r", 1, all));
    for (server, own, others) in [(&a, of_a, of_b), (&b, of_b, of_a)] {
        for (origin, count) in [("local", own), ("remote", others)] {
            server.await_metric(
                &format!("delivery_seconds_count{{origin=\"{origin}\""),
                count,
            );
            // None took longer than the longest bound.
            server.await_metric(
                &format!("delivery_seconds_bucket{{origin=\"{origin}\",le=\"10\""),
                count,
            );
            let mean = sum(server, "delivery_seconds", origin) / count as f64;
            assert!(mean < PATIENCE.as_secs_f64(), "{origin}: {mean} s");
        }
        for hop in ["home", "stored", "envelope"] {
            server.await_metric(&format!("hop_seconds_count{{hop=\"{hop}\""), own);
        }
        // It is stored no earlier than it was at home, and back from Redis by way of that.
        let hops = ["home", "stored"].map(|hop| sum(server, "hop_seconds", hop));
        assert!(hops[0] <= hops[1] && hops[1] > 0.0, "{hops:?}");
    }
}

/// Where nobody is in the room nothing is delivered, and nothing timed; who comes later and reads
/// the past is no delivery of now.
#[test]
fn what_nobody_hears_is_not_timed() {
    let redis = Redis::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut on_a = Client::new(&a);
    let epoch = on_a.join("r")["epoch"].clone();
    for n in 0..20 {
        on_a.publish("r", json!(n));
    }
    on_a.messages("r", 1, 20);
    a.await_metric("delivery_seconds_count{origin=\"local\"", 20);
    let mut on_b = Client::new(&b);
    on_b.resume("r", &epoch, 0, 20);
    assert_eq!(b.metric("delivery_seconds_count"), 0);
    on_b.publish("r", json!("now"));
    b.await_metric("delivery_seconds_count{origin=\"local\"", 1);
    a.await_metric("delivery_seconds_count{origin=\"remote\"", 1);
}
