//! `ringcast migrate` and `ringcast dead`: a few questions to PostgreSQL and Redis, one after the
//! other, in a process that does nothing else. What fails ends it; nothing is tried again.

use std::rc::Rc;

use super::super::pg::{Link as PgLink, LinkOptions, Target as PgTarget};
use super::super::redis::{Links, Target as RedisTarget};
use super::{In, Inbox, PG_ANSWER_MS, pg_target, runtime, stream};
use crate::backplane::link::{Link, LinkAsk, LinkEvent, LinkId};
use crate::config::{Config, DeadAsk};
use crate::model::EntryId;
use crate::pg::{Answer, Event as PgEvent, Refusal, Remedy, Request};
use crate::resp::{Input, Kind, Session, Value};
use crate::worker::dead::{self, Shown};
use crate::worker::schema::Migration;
use crate::worker::{SESSION, Side, Stream, staged};

/// Brings the tables up to date.
///
/// # Errors
/// One line.
pub fn migrate(config: &Config) -> Result<String, String> {
    let target = pg_target(config)?;
    runtime(config)?.block_on(async {
        let pg = Pg::open(target).await?;
        let (mut migration, mut answer) = (Migration::new(), Answer::default());
        while let Some(request) = migration.next(&answer) {
            answer = pg.ask(request).await.map_err(|why| why.explain())?;
        }
        Ok(match migration.applied().last() {
            Some(version) => format!("the tables are at version {version} now"),
            None => "the tables are up to date".to_owned(),
        })
    })
}

/// Lists, retries or drops entries that were set aside; `say` is given each line, and says whether
/// there is anybody to read the next.
///
/// # Errors
/// One line. Of those that are retried, the ones that went well stay done.
pub fn dead(
    config: &Config,
    ask: &DeadAsk,
    say: &mut dyn FnMut(&str) -> bool,
) -> Result<String, String> {
    let address = config.redis.clone();
    let address = address.ok_or_else(|| "--redis-url is not set".to_owned())?;
    let login = address.login("ringcast-dead");
    let stream = stream(config);
    let target = RedisTarget::new(address)?;
    runtime(config)?.block_on(async {
        let mut redis = Redis::open(target, Session::new(login, Kind::Commands)).await?;
        match ask {
            DeadAsk::List => list(&mut redis, &stream, say).await,
            DeadAsk::Retry(ids) => {
                let pg = Pg::open(pg_target(config)?).await?;
                let prepared = pg.ask(Request::simple(SESSION)).await;
                prepared.map_err(|why| why.explain())?;
                retry(&mut redis, &pg, &stream, ids, say).await
            }
            DeadAsk::Drop(ids) => {
                let count = drop_all(&mut redis, &stream, ids).await?;
                Ok(format!("dropped {count} of {}", ids.len()))
            }
            DeadAsk::DropAll => {
                let mut count = 0;
                loop {
                    let ids = page(&mut redis, &stream, EntryId::default()).await?;
                    let ids: Vec<_> = ids.iter().map(|one| one.id).collect();
                    if ids.is_empty() {
                        return Ok(format!("dropped {count}"));
                    }
                    count += drop_all(&mut redis, &stream, &ids).await?;
                }
            }
        }
    })
}

/// All of them, a line of JSON each.
async fn list(
    redis: &mut Redis,
    stream: &Stream,
    say: &mut dyn FnMut(&str) -> bool,
) -> Result<String, String> {
    let (mut after, mut count) = (EntryId::default(), 0);
    loop {
        let page = page(redis, stream, after).await?;
        let Some(last) = page.last() else {
            return Ok(format!("{count} entries"));
        };
        after = last.id;
        count += page.len();
        if !page.iter().all(|one| say(&line(one))) {
            return Ok(String::new());
        }
    }
}

fn line(one: &Shown) -> String {
    let mut object = serde_json::Map::new();
    object.insert("id".into(), one.id.to_string().into());
    let (ours, original) = one.fields.split_at(one.fields.len().min(3));
    for (name, value, _) in ours {
        object.insert(name.clone(), value.clone().into());
    }
    let mut fields = serde_json::Map::new();
    for (name, value, bytes) in original {
        let value = match *bytes as usize > value.len() {
            true => format!("{value}… ({bytes} bytes)"),
            false => value.clone(),
        };
        fields.insert(name.clone(), value.into());
    }
    object.insert("fields".into(), fields.into());
    serde_json::Value::Object(object).to_string()
}

/// Stores those that can be stored now.
async fn retry(
    redis: &mut Redis,
    pg: &Pg,
    stream: &Stream,
    ids: &[EntryId],
    say: &mut dyn FnMut(&str) -> bool,
) -> Result<String, String> {
    let (mut stored, mut left) = (0, 0);
    let mut one = async |redis: &mut Redis, id: EntryId| -> Result<(), String> {
        match retry_one(redis, pg, stream, id).await? {
            Ok(()) => stored += 1,
            Err(why) => {
                left += 1;
                say(&format!("{id}: {why}"));
            }
        }
        Ok(())
    };
    for &id in ids {
        one(redis, id).await?;
    }
    let mut after = EntryId::default();
    while ids.is_empty() {
        let page = page(redis, stream, after).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = last.id;
        for shown in page {
            one(redis, shown.id).await?;
        }
    }
    Ok(format!("stored {stored}, left {left}"))
}

/// One of them: stored and taken out; or why not.
async fn retry_one(
    redis: &mut Redis,
    pg: &Pg,
    stream: &Stream,
    id: EntryId,
) -> Result<Result<(), String>, String> {
    let mut out = Vec::new();
    dead::push_read(&mut out, &stream.dead, id);
    let value = redis.ask(out).await?;
    let row = match dead::row_of(stream.namespace(), &value) {
        None => return Ok(Err("there is no such entry".into())),
        Some(Err(refused)) => return Ok(Err(refused.reason)),
        Some(Ok(row)) => row,
    };
    let request = staged(stream.namespace(), &[row], Vec::new());
    match pg.ask(request).await {
        Ok(_) => {}
        Err(why) if matches!(why.cause.remedy(), Remedy::SetAside | Remedy::Known) => {
            return Ok(Err(why.explain()));
        }
        Err(why) => return Err(why.explain()),
    }
    drop_all(redis, stream, &[id]).await?;
    Ok(Ok(()))
}

async fn page(redis: &mut Redis, stream: &Stream, after: EntryId) -> Result<Vec<Shown>, String> {
    let mut out = Vec::new();
    dead::push_list(&mut out, &stream.dead, after);
    let value = redis.ask(out).await?;
    let odd = || "Redis answered what it was not asked".to_owned();
    dead::page_of(&value).ok_or_else(odd)
}

async fn drop_all(redis: &mut Redis, stream: &Stream, ids: &[EntryId]) -> Result<i64, String> {
    let mut out = Vec::new();
    dead::push_drop(&mut out, &stream.dead, ids);
    let value = redis.ask(out).await?;
    Ok(value.as_number().unwrap_or(0))
}

/// A connection to PostgreSQL that is asked one thing at a time.
struct Pg {
    link: PgLink,
    inbox: Rc<Inbox>,
}

impl Pg {
    async fn open(target: PgTarget) -> Result<Self, String> {
        let inbox = Rc::new(Inbox::default());
        let there = Rc::downgrade(&inbox);
        let put = move |event| {
            if let Some(inbox) = there.upgrade() {
                inbox.put(In::Pg(event));
            }
        };
        let options = LinkOptions {
            name: "ringcast".into(),
            settings: Vec::new(),
            answer_ms: PG_ANSWER_MS,
        };
        let link = PgLink::open(target, options, Rc::new(put));
        loop {
            match inbox.take().await {
                In::Pg(PgEvent::Up(_)) => return Ok(Self { link, inbox }),
                In::Pg(PgEvent::Down { why, .. }) => return Err(why.explain()),
                _ => {}
            }
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer, Refusal> {
        self.link.send(request).map_err(|refused| refused.1)?;
        loop {
            match self.inbox.take().await {
                In::Pg(PgEvent::Answer(answer)) => return answer,
                In::Pg(PgEvent::Down { why, .. }) => return Err(why),
                _ => {}
            }
        }
    }
}

/// A connection to Redis that is asked one thing at a time.
struct Redis {
    links: Links,
    session: Session,
    inbox: Rc<Inbox>,
    inputs: Vec<Input>,
}

const ID: LinkId = LinkId {
    link: Link::Commands,
    life: 1,
};

impl Redis {
    async fn open(target: RedisTarget, session: Session) -> Result<Self, String> {
        let inbox = Rc::new(Inbox::default());
        let there = Rc::downgrade(&inbox);
        let put = move |event| {
            if let Some(inbox) = there.upgrade() {
                inbox.put(In::Redis(Side::Commands, event));
            }
        };
        let mut redis = Self {
            links: Links::new(target, Rc::new(put)),
            session,
            inbox,
            inputs: Vec::new(),
        };
        redis.links.ask(LinkAsk::Connect(ID));
        match redis.next().await? {
            Input::Ready { .. } => Ok(redis),
            Input::Refused(refusal) => Err(refusal.explain()),
            _ => Err("Redis answered what it was not asked".into()),
        }
    }

    async fn ask(&mut self, bytes: Vec<u8>) -> Result<Value, String> {
        self.links.ask(LinkAsk::Send(ID, bytes));
        match self.next().await? {
            Input::Reply(Value::Error(refusal)) => Err(refusal.explain()),
            Input::Reply(value) => Ok(value),
            _ => Err("Redis answered what it was not asked".into()),
        }
    }

    async fn next(&mut self) -> Result<Input, String> {
        while self.inputs.is_empty() {
            let In::Redis(_, event) = self.inbox.take().await else {
                continue;
            };
            let mut out = Vec::new();
            match event {
                LinkEvent::Connected(_) => self.session.begin(&mut out),
                LinkEvent::Bytes(_, mut bytes) => {
                    let taken = self
                        .session
                        .on_bytes(&mut bytes, &mut out, &mut self.inputs);
                    taken.map_err(|error| error.to_string())?;
                }
                LinkEvent::Broken(_, why) => return Err(why),
            }
            if !out.is_empty() {
                self.links.ask(LinkAsk::Send(ID, out));
            }
        }
        Ok(self.inputs.remove(0))
    }
}
