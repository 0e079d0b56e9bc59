//! The same commands through the fake and through a real Redis: the same answers, the same
//! messages on the channel, the same data at the end.
//!
//! A command is words; `#3` in one is the fourth entry id that this Redis gave. Replies are
//! compared with entry ids as such numbers and times left out.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::real::{Connection, RealRedis};
use super::values::{Ids, Parsed, parse, sorted_pairs};
use super::*;

const SEQUENCES: u64 = 300;
const COMMANDS: usize = 60;
/// Ids of the fake's scripts are its own, so the real one's are asked for by this.
const SCRIPTS: [&str; 4] = ["PUBLISH.LUA", "HELLO.LUA", "TRIM.LUA", "LEASE.LUA"];
const KEYS: [&str; 7] = ["state", "stream", "ids:0", "ids:1", "lease", "h", "s"];
const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";
const READONLY: &str = "READONLY You can't write against a read only replica.";

struct Both {
    fake: FakeRedis,
    fake_ids: [u32; 2],
    fake_shas: [String; 4],
    real: [Connection; 2],
    real_shas: [String; 4],
    ids: [Ids; 2],
    history: Vec<String>,
    /// How often each kind of answer of the scripts was seen.
    seen: BTreeMap<String, u64>,
}

impl Both {
    /// Two empty ones, a subscriber on each.
    fn new(server: &RealRedis, is_resp3: bool) -> Self {
        let mut fake = FakeRedis::new();
        let fake_ids = [fake.connect(), fake.connect()];
        let mut both = Self {
            fake,
            fake_ids,
            fake_shas: Default::default(),
            real: [server.connect(), server.connect()],
            real_shas: Default::default(),
            ids: Default::default(),
            history: vec![],
            seen: BTreeMap::new(),
        };
        both.same("FLUSHALL");
        for (i, script) in Script::ALL.into_iter().enumerate() {
            let mut load = vec![];
            script.push_load(&mut load);
            let [fake, real] = both.exchange(&load, &load);
            let sha = |reply: Parsed| match reply {
                Parsed::Bulk(sha) => String::from_utf8(sha).unwrap(),
                other => panic!("{other:?}"),
            };
            (both.fake_shas[i], both.real_shas[i]) = (sha(fake), sha(real));
        }
        if is_resp3 {
            let mut hello = vec![];
            push_command(&mut hello, &[b"HELLO", b"3"]);
            both.exchange(&hello, &hello);
        }
        let mut subscribe = vec![];
        push_command(&mut subscribe, &[b"SUBSCRIBE", b"broadcast"]);
        both.fake.on_bytes(both.fake_ids[1], &subscribe);
        both.fake.take(both.fake_ids[1]);
        both.real[1].send(&subscribe);
        both.real[1].read();
        both
    }

    fn exchange(&mut self, fake: &[u8], real: &[u8]) -> [Parsed; 2] {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.fake.set_now(now.as_millis() as u64);
        self.fake.on_bytes(self.fake_ids[0], fake);
        let bytes = self.fake.take(self.fake_ids[0]);
        let mut rest = &*bytes;
        let reply = parse(&mut rest);
        assert!(rest.is_empty(), "one command, one reply: {}", text(&bytes));
        self.real[0].send(real);
        [reply, self.real[0].read()]
    }

    /// Sends a command to both; the reply must be the same.
    fn same(&mut self, command: &str) -> Parsed {
        self.history.push(command.into());
        let words: Vec<_> = command.split(' ').collect();
        let bytes = [0, 1].map(|side| {
            let shas = [&self.fake_shas, &self.real_shas][side];
            let mut args = vec![];
            for word in &words {
                let script = SCRIPTS.iter().position(|script| script == word);
                if let Some(script) = script {
                    args.extend([b"EVALSHA".to_vec(), shas[script].clone().into_bytes()]);
                } else {
                    args.push(self.word(side, word));
                }
            }
            let args: Vec<_> = args.iter().map(Vec::as_slice).collect();
            let mut out = vec![];
            push_command(&mut out, &args);
            out
        });
        let [fake, real] = self.exchange(&bytes[0], &bytes[1]);
        let fake = arranged(words[0], self.ids[0].comparable(fake));
        let real = arranged(words[0], self.ids[1].comparable(real));
        assert_eq!(fake, real, "{}", self.history.join("\n"));
        self.same_on_the_channel();
        self.tally(words[0], &real);
        if command == "FLUSHALL" {
            // In the same millisecond, ids begin anew.
            self.ids = Default::default();
        }
        fake
    }

    fn tally(&mut self, command: &str, reply: &Parsed) {
        let mut see = |what: String| *self.seen.entry(what).or_default() += 1;
        match (command, reply) {
            ("PUBLISH.LUA", Parsed::List(_, parts)) => {
                see(format!("publish {:?}", parts[2]));
                let results = parts[4..].iter().filter_map(|part| match part {
                    Parsed::Line(_, number) => Some(number.parse::<i64>().unwrap().signum()),
                    _ => None,
                });
                results.for_each(|sign| see(format!("result {sign}")));
            }
            ("HELLO.LUA", Parsed::List(_, parts)) => see(format!("hello {:?}", parts[4])),
            (script, Parsed::Line('-', why)) if script.ends_with(".LUA") => {
                see(format!(
                    "{script} {}",
                    why.split(' ').next().unwrap_or_default()
                ));
            }
            _ => {}
        }
    }

    /// A word as that side has it: `#3` an entry id, `_` the empty text, `^` a space.
    fn word(&self, side: usize, word: &str) -> Vec<u8> {
        let is_open = word.starts_with("(#");
        match word.trim_start_matches('(').strip_prefix('#') {
            Some(number) => {
                let known = self.ids[side]
                    .in_order
                    .get(number.parse::<usize>().unwrap());
                let id = known.map_or("9999999999999-0", String::as_str);
                format!("{}{id}", if is_open { "(" } else { "" }).into_bytes()
            }
            None if word == "_" => vec![],
            None => word.replace('^', " ").into_bytes(),
        }
    }

    fn same_on_the_channel(&mut self) {
        let bytes = self.fake.take(self.fake_ids[1]);
        let mut rest = &*bytes;
        while !rest.is_empty() {
            let fake = self.ids[0].comparable(parse(&mut rest));
            let real = self.real[1].read();
            let real = self.ids[1].comparable(real);
            assert_eq!(fake, real, "{}", self.history.join("\n"));
        }
    }

    /// All data, and nothing more on the channel.
    fn same_at_the_end(&mut self) {
        for key in KEYS {
            for ask in ["GET", "HGETALL", "XLEN"] {
                self.same(&format!("{ask} {key}"));
            }
            for ask in [format!("XRANGE {key} - +"), format!("XREVRANGE {key} + -")] {
                self.same(&ask);
            }
            self.same(&format!("PTTL {key}"));
        }
        let mut unsubscribe = vec![];
        push_command(&mut unsubscribe, &[b"UNSUBSCRIBE", b"broadcast"]);
        self.real[1].send(&unsubscribe);
        let last = format!("{:?}", self.real[1].read());
        assert!(!last.contains("109, 101, 115, 115"), "{last}");
    }
}

/// What has no order that both keep, or is not modelled.
fn arranged(command: &str, reply: Parsed) -> Parsed {
    match (command, reply) {
        ("HGETALL", reply) => sorted_pairs(reply),
        ("HSCAN", Parsed::List(kind, parts)) => {
            Parsed::List(kind, parts.into_iter().map(sorted_pairs).collect())
        }
        // What a group has read is a worker's business.
        ("XINFO", Parsed::List(kind, groups)) => {
            let told = |group| match group {
                Parsed::List(kind, parts) => Parsed::List(kind, parts[..8].to_vec()),
                other => other,
            };
            Parsed::List(kind, groups.into_iter().map(told).collect())
        }
        (_, reply) => reply,
    }
}

/// Makes commands by chance, with some sense for which ones are interesting.
struct Chance {
    rng: fastrand::Rng,
    next: [u64; 3],
    epochs: u64,
    ids_max: u64,
    refused: bool,
}

impl Chance {
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(..of.len())]
    }

    fn entry(&mut self) -> String {
        let number = self.rng.usize(..30);
        match self.rng.u8(..10) {
            0 => "-".into(),
            1 => "+".into(),
            2 => "5-1".into(),
            3 => format!("(#{number}"),
            _ => format!("#{number}"),
        }
    }

    fn epoch(&mut self) -> String {
        if self.rng.u8(..4) == 0 {
            self.epochs += 1;
        }
        let back = if self.rng.u8(..8) == 0 { 1 } else { 0 };
        format!("{:020x}", (self.epochs - back) << 60)
    }

    fn publish(&mut self) -> String {
        let producer = self.rng.usize(..3);
        let next = self.next[producer];
        let count = self.rng.u64(1..5);
        let first = match self.rng.u8(..10) {
            0 => next + self.rng.u64(1..3),
            1 | 2 => next.saturating_sub(self.rng.u64(1..6)).max(1),
            _ => next,
        };
        let base = match self.rng.u8(..4) {
            0 => 1,
            1 => next,
            _ => self.rng.u64(1..=first),
        };
        self.next[producer] = next.max(first + count);
        let epoch = self.epoch();
        let mut command = format!(
            "PUBLISH.LUA 4 state stream ids:0 ids:1 broadcast \"me\" me {epoch} p{producer} \
             {base} {first} 100000000000 {}",
            self.ids_max
        );
        for number in first..first + count {
            let room = self.pick(&["a", "b", "c"]);
            let metadata = self.pick(&["_", "{}"]);
            let username = self.pick(&["_", "Bob"]);
            let (id, given) = match self.rng.u8(..3) {
                0 => (format!("id{}", self.rng.u8(..6)), 1),
                _ => (format!("own{producer}-{number}"), 0),
            };
            command += &format!(
                " {room} u {username} \"{number}\" {metadata} {id} {given} 2026 \
                 {{\"room\":\"{room}\",\"offset\": ,\"payload\":"
            );
        }
        command
    }

    fn hello(&mut self) -> String {
        let (candidate, known) = (self.epoch(), self.epoch());
        let partitions = if self.rng.u8(..20) == 0 { 2 } else { 1 };
        let known = match self.rng.u8(..5) {
            0 => "_ 0 _".into(),
            1 => format!("{known} 0 _"),
            _ => {
                let number = self.rng.u64(..20);
                format!("{known} {} #{number}", number + 1)
            }
        };
        let room = self.pick(&["_ 0", "_ 0", "a 1", "a 9", "z 1"]);
        format!("HELLO.LUA 2 state stream {candidate} {partitions} {known} {room}")
    }

    fn plain(&mut self) -> String {
        let key = self.pick(&["h", "h", "h", "s", "s", "stream", "lease", "none"]);
        let hash = self.pick(&["h", "h", "h", "state", "ids:0", "s", "none"]);
        let stream = self.pick(&["stream", "stream", "stream", "s", "h", "none"]);
        let field = self.pick(&["f1", "f2", "f3", "epoch", "seq", "o:a"]);
        let value = self.rng.u8(..50);
        let (from, to) = (self.entry(), self.entry());
        match self.rng.u8(..40) {
            0..4 => format!("HSET h {field} {value}"),
            4 => format!("HSET h {field}"),
            5 => format!("HDEL {hash} x{field}"),
            6 => format!("HDEL h {field} {field} f1"),
            7 => format!("HGET {hash} {field}"),
            8 => format!("HMGET {hash} {field} f1 none"),
            9 => format!("HLEN {hash}"),
            10 => format!("HINCRBY h {field} {value}"),
            11 => format!("HSCAN {hash} 0 COUNT 5"),
            12 => format!("HSCAN {hash} 0 MATCH f* COUNT 5"),
            13 => format!("SET s {value} PX 5000000000"),
            14 => format!("SET s {value} NX"),
            15 => format!(
                "{} {key}",
                self.pick(&["GET", "PTTL", "EXISTS", "EXISTS s"])
            ),
            16 => format!("{} s", self.pick(&["DEL", "UNLINK", "DEL h"])),
            17 => format!("PEXPIRE {key} 5000000000"),
            18 => format!("XADD stream * k {value}"),
            19 => format!("XADD {stream} {from} k {value}"),
            20..24 => format!("XRANGE {stream} {from} {to}"),
            24..27 => format!("XREVRANGE {stream} {from} {to} COUNT {}", value % 4),
            27 => format!("XDEL {stream} {from} {to}"),
            28 => format!("XTRIM {stream} MAXLEN {value}"),
            29 => format!("XTRIM {stream} MINID = {from}"),
            30 => format!("XTRIM stream MINID ~ {from} LIMIT {}", value % 5),
            31 => format!("XTRIM stream MAXLEN 3 LIMIT {value}"),
            32 => format!("XLEN {stream}"),
            33 => format!("PUBLISH broadcast {value}"),
            34 => format!(
                "{} x y",
                self.pick(&["GET", "NOSUCH", "XRANGE", "SET x", "PTTL"])
            ),
            35 => "XINFO GROUPS stream".into(),
            36 if value < 5 => "XGROUP CREATE stream g 0".into(),
            37 if value < 5 => "XGROUP CREATE stream g $ MKSTREAM".into(),
            38 if value < 10 => format!("SET {} x", self.pick(&["state", "stream", "ids:1"])),
            39 if value < 10 => "FLUSHALL".into(),
            _ => format!("HGETALL {hash}"),
        }
    }

    fn special(&mut self) -> String {
        match self.rng.u8(..5) {
            // As if time had gone by: the ids' generation is old, a producer has been silent.
            0 => "HSET state ids_at 1".into(),
            1 => format!("HSET state p:p{} 1^1", self.rng.u8(..3)),
            2 => format!("LEASE.LUA 1 lease {} 5000000000", self.pick(&["me", "you"])),
            3 => "DEL state".into(),
            _ => {
                let retention = self.pick(&["0", "3600000"]);
                let bytes = self.pick(&["0", "0", "0", "1"]);
                format!(
                    "TRIM.LUA 1 stream {retention} {bytes} {}",
                    self.rng.u8(..20)
                )
            }
        }
    }

    fn step(&mut self, both: &mut Both) {
        let command = match self.rng.u8(..40) {
            0..16 => self.publish(),
            16..22 => self.hello(),
            22..25 => self.special(),
            25 => return self.refuse(both),
            _ => self.plain(),
        };
        both.same(&command);
    }

    /// Lets both refuse writes, or take them again.
    fn refuse(&mut self, both: &mut Both) {
        let mut tell = |command: &str| {
            let mut out = vec![];
            push_command(
                &mut out,
                &command.split(' ').map(str::as_bytes).collect::<Vec<_>>(),
            );
            both.real[0].send(&out);
            let reply = both.real[0].read();
            assert_eq!(reply, Parsed::Line('+', "OK".into()));
            both.history.push(format!("[real] {command}"));
        };
        if self.refused {
            tell("CONFIG SET maxmemory 0");
            tell("REPLICAOF NO ONE");
            both.fake.refuse_writes(None);
        } else if self.rng.bool() {
            tell("CONFIG SET maxmemory 1");
            both.fake.refuse_writes(Some(OOM));
        } else {
            tell("REPLICAOF 127.0.0.1 1");
            both.fake.refuse_writes(Some(READONLY));
        }
        self.refused = !self.refused;
    }
}

#[test]
fn the_fake_answers_as_a_real_one() {
    let server = RealRedis::start();
    let mut seen = BTreeMap::new();
    for seed in 0..SEQUENCES {
        let mut both = Both::new(&server, seed % 2 == 0);
        let mut chance = Chance {
            rng: fastrand::Rng::with_seed(seed),
            next: [1; 3],
            epochs: 1,
            ids_max: [2, 5, 1000][seed as usize % 3],
            refused: false,
        };
        both.history.push(format!("seed {seed}"));
        for _ in 0..COMMANDS {
            chance.step(&mut both);
        }
        if chance.refused {
            chance.refuse(&mut both);
        }
        both.same_at_the_end();
        for (what, count) in both.seen {
            *seen.entry(what).or_insert(0) += count;
        }
    }
    // Chance met what matters: each status, each kind of result, each refusal.
    for (what, least) in [
        ("result -1", 30),
        ("result 0", 300),
        ("result 1", 1000),
        ("PUBLISH.LUA OOM", 1),
        ("PUBLISH.LUA WRONGTYPE", 10),
        ("HELLO.LUA PARTITIONS", 10),
        ("HELLO.LUA READONLY", 1),
    ] {
        let count = seen.get(what).copied().unwrap_or(0);
        assert!(count >= least, "{what}: {count} of {seen:#?}");
    }
    let kinds = |of: &str| seen.keys().filter(|what| what.starts_with(of)).count();
    assert_eq!((kinds("publish "), kinds("hello ")), (3, 3), "{seen:#?}");
}
