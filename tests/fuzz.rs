//! A seeded mutational fuzzer of the three parsers that strangers reach, and of what Redis says.
//!
//! Samples lie in `tests/corpus/`. `RINGCAST_FUZZ_SECONDS` sets how long each target runs (2),
//! `RINGCAST_FUZZ_SEED` the seed, which is printed, and with it the round and input when a check
//! fails. Round n of a seed is the same whatever the rounds before it were.
//! `RINGCAST_FUZZ_FRAMES` is how many rounds of frames there are at least.

#![expect(
    clippy::unwrap_used,
    reason = "a harness: what fails here is to end the test"
)]

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/naive.rs"]
mod naive;

use std::time::{Duration, Instant};

use fastrand::Rng;
use proptest::prelude::*;
use ringcast::model::ErrorCode;
use ringcast::net::deflate::{Inflater, Terms, negotiate};
use ringcast::net::{Body, Decoder, DecoderLimits, head, upgrade};
use ringcast::protocol::{Command, command, storable};
use ringcast::resp::{Input, Kind, Login, Session};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::HeaderMap;

/// Says what failed, and how to have it again.
struct Round<'a> {
    target: &'a str,
    seed: u64,
    round: u64,
    input: &'a [u8],
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self {
                target,
                seed,
                round,
                input,
            } = self;
            eprintln!(
                "{target}: RINGCAST_FUZZ_SEED={seed} round {round}: {}",
                input.escape_ascii()
            );
        }
    }
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, it is {value}")),
    )
}

/// Runs `check` on each sample of `target` as it is, and then on changed ones until time is up.
fn fuzz(target: &str, check: impl Fn(&mut Rng, &[u8])) {
    let seed = setting("RINGCAST_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = setting("RINGCAST_FUZZ_SECONDS").unwrap_or(2.0);
    let folder = format!("{}/tests/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let samples: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(samples.len() > 5, "the corpus of {target} is missing");
    println!(
        "{target}: RINGCAST_FUZZ_SEED={seed}, {} samples",
        samples.len()
    );
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let at_least = match target {
        "frames" => setting("RINGCAST_FUZZ_FRAMES").unwrap_or(0),
        _ => 0,
    };
    let mut round = 0;
    while round < at_least.max(samples.len() as u64) || Instant::now() < end {
        let mut rng = Rng::with_seed(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let changed;
        let input = match samples.get(round as usize) {
            Some(sample) => sample,
            None => {
                let [sample, other] = [(); 2].map(|()| &samples[rng.usize(0..samples.len())]);
                changed = mutate::mutate(&mut rng, sample, other);
                &changed
            }
        };
        let _round = Round {
            target,
            seed,
            round,
            input,
        };
        check(&mut rng, input);
        round += 1;
    }
    println!("{target}: {round} rounds");
}

/// What the decoder makes of `bytes` shown in pieces that end at `ends`, as text to compare;
/// `inflates`: where compression was agreed on.
fn decode(bytes: &[u8], ends: &[usize], inflates: bool) -> Vec<String> {
    let limits = DecoderLimits {
        message_bytes_max: 1000,
        fragments_max: 20,
        binary_taken: true,
    };
    let (mut decoder, mut inflater) = (Decoder::new(), Inflater::new(false));
    let mut told = Vec::new();
    let mut start = 0;
    for &end in ends.iter().chain([&bytes.len()]) {
        let mut piece = bytes[start..end].to_vec();
        start = end;
        let mut at = 0;
        loop {
            let next = match inflates {
                false => decoder.next(&limits, &mut piece, &mut at),
                true => decoder.next_inflating(&limits, &mut inflater, &mut piece, &mut at),
            };
            match next {
                Ok(Some(message)) => told.push(format!("{message:?}")),
                Ok(None) => break,
                Err(violation) => {
                    told.push(violation.to_string());
                    return told;
                }
            }
        }
        assert_eq!(at, piece.len());
        assert!(inflater.buffered_bytes() <= limits.message_bytes_max + 1);
        assert!(
            decoder.buffered_bytes() < 3000,
            "{} bytes held",
            decoder.buffered_bytes()
        );
    }
    told.push(format!("idle: {}", decoder.is_idle()));
    told
}

/// FAULTS A8: as many as there is time for, cut at random and at every byte; with --all 10,000,000.
#[test]
fn frames() {
    fuzz("frames", |rng, bytes| {
        for inflates in [false, true] {
            let whole = decode(bytes, &[], inflates);
            let mut ends: Vec<usize> = (0..rng.usize(0..6))
                .map(|_| rng.usize(0..=bytes.len()))
                .collect();
            ends.sort_unstable();
            assert_eq!(decode(bytes, &ends, inflates), whole, "cut at {ends:?}");
            let every: Vec<usize> = (0..bytes.len()).collect();
            assert_eq!(decode(bytes, &every, inflates), whole, "cut everywhere");
        }
    });
}

#[test]
fn heads() {
    fuzz("heads", |rng, bytes| {
        let told = |bytes| head::parse(bytes).map(|head| head.map(|(_, used)| used));
        let whole = told(bytes);
        let cut = rng.usize(0..=bytes.len());
        match told(&bytes[..cut]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "what is decided at {cut} must stay so"),
        }
        let Ok(Some((head, used))) = head::parse(bytes) else {
            return;
        };
        assert_eq!(told(&bytes[..used]), whole);
        assert_eq!(told(&bytes[..used - 1]), Ok(None));
        // Another parser sees the same fields, and the same end.
        let line = bytes.iter().position(|&b| b == b'\n').unwrap() + 1;
        let (size, fields) = HeaderMap::try_parse(&bytes[line..used]).unwrap().unwrap();
        assert_eq!((size, fields.len()), (used - line, head.fields().count()));
        if let Ok(Some(agreed)) = negotiate(&head, Terms::Own) {
            let bits = 8..=15;
            assert!(bits.contains(&agreed.server_bits));
            assert!(
                agreed
                    .client_bits
                    .is_none_or(|client| bits.contains(&client))
            );
            assert!(agreed.answer().starts_with("permessage-deflate"));
        }
        if let Ok(answer) = upgrade::accept(&head, &bytes[used..], Some(upgrade::SUBPROTOCOL)) {
            assert!(answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n"));
            assert_eq!(
                (head.method, head.body, used),
                ("GET", Body::None, bytes.len())
            );
        }
    });
}

#[test]
fn commands() {
    fuzz("commands", |_, bytes| {
        // The decoder lets only UTF-8 through.
        let text = String::from_utf8_lossy(bytes);
        let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        let expected = is_json && naive::storable(&text);
        if is_json {
            assert_eq!(storable::check(&text).is_ok(), expected);
        }
        match command::parse(&text) {
            Ok(request) => {
                assert!(expected, "taken, but not storable");
                if let Command::Publish { payload, .. } | Command::Signal { payload, .. } =
                    request.command
                {
                    assert!(serde_json::from_str::<&RawValue>(payload).is_ok());
                }
            }
            Err(refusal) => {
                let object = text.trim_start().starts_with('{');
                let bad_json = refusal.code == ErrorCode::BadJson;
                assert_eq!(bad_json, !(expected && object), "{refusal:?}");
                if let Some(reference) = refusal.reference {
                    assert!(serde_json::from_str::<&RawValue>(reference).is_ok());
                }
            }
        }
    });
}

/// What a session makes of `bytes` behind its login, shown in pieces that end at `ends`.
fn session(kind: Kind, bytes: &[u8], ends: &[usize]) -> (Vec<Input>, bool) {
    let mut session = Session::new(Login::default(), kind);
    let (mut out, mut inputs) = (Vec::new(), Vec::new());
    session.begin(&mut out);
    let mut start = 0;
    for &end in ends.iter().chain([&bytes.len()]) {
        let piece = &bytes[start..end];
        start = end;
        let taken = session.on_bytes(&mut piece.into(), &mut out, &mut inputs);
        assert!(out.len() < 100, "it says more than a login takes");
        if taken.is_err() {
            return (inputs, false);
        }
    }
    (inputs, true)
}

#[test]
fn replies() {
    fuzz("replies", |rng, bytes| {
        let kind = rng.choice([Kind::Commands, Kind::Subscriber]).unwrap();
        let whole = session(kind, bytes, &[]);
        let mut ends: Vec<usize> = (0..rng.usize(0..6))
            .map(|_| rng.usize(0..=bytes.len()))
            .collect();
        ends.sort_unstable();
        assert_eq!(session(kind, bytes, &ends), whole, "cut at {ends:?}");
        let every: Vec<usize> = (0..bytes.len()).collect();
        assert_eq!(session(kind, bytes, &every), whole, "cut everywhere");
    });
}

/// Numbers, strings and brackets near the limits.
fn any_json() -> impl Strategy<Value = String> {
    let digits = prop_oneof![
        4 => "0|[1-9][0-9]{0,3}",
        1 => (131_070..131_075_usize).prop_map(|n| "7".repeat(n)),
    ];
    let behind = prop_oneof![
        3 => "(\\.[0-9]{1,4})?",
        1 => (16_380..16_386_usize).prop_map(|n| format!(".{}", "0".repeat(n))),
    ];
    let exponent = prop_oneof![
        2 => Just(String::new()),
        1 => (0..20_i64).prop_map(|n| format!("e{n}")),
        1 => (131_065..131_080_i64).prop_map(|n| format!("E+{n}")),
        1 => (16_375..16_390_i64).prop_map(|n| format!("e-{n}")),
        1 => any::<i64>().prop_map(|n| format!("e{n}")),
    ];
    let number = (digits, behind, exponent).prop_map(|(a, b, c)| format!("{a}{b}{c}"));
    let piece = prop::sample::select(vec![
        "a",
        "é",
        "😀",
        "\\n",
        "\\\\",
        "\\\"",
        "\\u0000",
        "\\u0001",
        "\\ud83d",
        "\\uDE00",
        "\\ud83d\\ude00",
        "u0000",
        "{[",
        "1e999999",
    ]);
    let string =
        prop::collection::vec(piece, 0..5).prop_map(|parts| format!("\"{}\"", parts.concat()));
    let leaf = prop_oneof![number, string, Just("null".to_owned())];
    let depth = prop_oneof![3 => 0..4_usize, 1 => 125..131_usize];
    (prop::collection::vec(leaf, 1..3), depth).prop_map(|(leaves, depth)| {
        format!(
            "{}[{}]{}",
            "[".repeat(depth),
            leaves.join(","),
            "]".repeat(depth)
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn storable_is_what_the_model_says(text in any_json()) {
        prop_assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{}", text);
        prop_assert_eq!(storable::check(&text).is_ok(), naive::storable(&text));
    }
}
