//! A worker that is done by hand, so that a test has each step in its hand: read the stream as its
//! group, COPY, acknowledge, trim.

use ringcast::pg::{CopyBuffer, Request};

use super::instances::start;
use super::postgres::{Postgres, TABLES};
use super::redis::{Redis, STREAM};
use super::support::Server;
use super::talk::Talk;

const GROUP: &str = "persist-workers";
const COPY: &str = "COPY messages (room_name, id, epoch, \"offset\", user_id, username, payload, \
                    metadata, created_at) FROM STDIN (FORMAT binary)";

/// A worker whose every step is a test's, and the Redis and the PostgreSQL that it works between.
pub(crate) struct Hand {
    pub(crate) talk: Talk,
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
}

impl Hand {
    pub(crate) fn start() -> Self {
        let (redis, postgres) = (Redis::start(&[]), Postgres::start(&[]));
        let mut talk = Talk::new(&postgres);
        talk.sql(TABLES);
        let hand = Self {
            talk,
            postgres,
            redis,
        };
        hand.begin_group();
        hand
    }

    /// Begins to be a group of the stream, which keeps what it has not had.
    pub(crate) fn begin_group(&self) {
        self.redis
            .ask(&["XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM"]);
    }

    /// An instance that remembers little and reads what is stored.
    pub(crate) fn reader(&self, id: &str) -> Server {
        let url = self.postgres.url();
        let flags = ["--room-log-bytes", "1MiB", "--postgres-url", &url];
        start(id, &self.redis, &flags)
    }

    /// Takes so many entries at most; all that `stores` says is stored and acknowledged, the rest
    /// stays pending. How many were taken.
    pub(crate) fn work(&mut self, count: usize, stores: impl Fn(&str, u64) -> bool) -> usize {
        let count = count.to_string();
        let words = [
            "XREADGROUP",
            "GROUP",
            GROUP,
            "hand",
            "COUNT",
            &count,
            "STREAMS",
            STREAM,
            ">",
        ];
        let answer = self.redis.ask(&words);
        let Some(entries) = answer[0][1].as_array().cloned() else {
            return 0;
        };
        let mut rows = CopyBuffer::default();
        let mut ids = Vec::new();
        for entry in &entries {
            let field = |name: &str| {
                let mut pairs = entry[1].as_array().unwrap().chunks(2);
                let pair = pairs.find(|pair| pair[0] == name).unwrap();
                pair[1].as_str().unwrap().to_owned()
            };
            let some = |name: &str| Some(field(name)).filter(|text| !text.is_empty());
            let (room, offset) = (field("room_name"), field("offset").parse().unwrap());
            if !stores(&room, offset) {
                continue;
            }
            let sent_at = entry[0].as_str().unwrap().split('-').next().unwrap();
            rows.row(9)
                .text(&room)
                .uuid(field("id").parse().unwrap())
                .text(&field("epoch"))
                .bigint(offset as i64)
                .text(&field("user_id"))
                .optional_text(some("username").as_deref())
                .jsonb(field("payload").as_bytes())
                .optional_jsonb(some("metadata").as_ref().map(String::as_bytes))
                .timestamptz(sent_at.parse().unwrap());
            ids.push(entry[0].as_str().unwrap().to_owned());
        }
        if !ids.is_empty() {
            self.talk.ask(Request::copy(COPY, rows.finish())).unwrap();
            let words = [&["XACK", STREAM, GROUP][..], &texts(&ids)].concat();
            self.redis.ask(&words);
        }
        entries.len()
    }

    /// Acknowledges what was taken and not stored.
    pub(crate) fn set_aside(&self) {
        let pending = self
            .redis
            .ask(&["XPENDING", STREAM, GROUP, "-", "+", "1000"]);
        let ids = pending.as_array().unwrap().iter();
        let ids: Vec<_> = ids.map(|it| it[0].as_str().unwrap().to_owned()).collect();
        self.redis
            .ask(&[&["XACK", STREAM, GROUP][..], &texts(&ids)].concat());
    }

    /// Takes all that is there.
    pub(crate) fn work_all(&mut self) {
        while self.work(500, |_, _| true) > 0 {}
    }

    /// Takes all that is there, and leaves nothing of it in the stream.
    pub(crate) fn store_all(&mut self) {
        self.work_all();
        self.trim();
    }

    /// Takes out of the stream what is below the floor.
    pub(crate) fn trim(&self) {
        let pending = self.redis.ask(&["XPENDING", STREAM, GROUP]);
        let groups = self.redis.ask(&["XINFO", "GROUPS", STREAM]);
        let fields = groups[0].as_array().unwrap();
        let at = fields.iter().position(|it| it == "last-delivered-id");
        let delivered = fields[at.unwrap() + 1].as_str().unwrap().to_owned();
        let floor = pending[1].as_str().unwrap_or(&delivered);
        self.redis.ask(&["XTRIM", STREAM, "MINID", floor]);
    }
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
