//! The Lua scripts as the fake Redis runs them: each does step by step what the script of its name
//! does, and `tests` holds it to that.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::data::Value;
use super::streams::{Fields, Keep, LAST};
use super::wire::Reply;
use super::{Context, Kind};
use crate::backplane::redis::script::Script;
use crate::model::EntryId;

const HEADER: usize = 9;
const FIELDS: usize = 10;
const MESSAGES_MAX: usize = 1000;
const PRODUCERS_MAX: usize = 1000;
const PRODUCER_SILENT_MS: u64 = 86_400_000;

/// Runs a script: `args` are the number of keys, the keys, the arguments.
pub(crate) fn run(
    context: &mut Context<'_>,
    script: Script,
    args: &[Bytes],
) -> Result<Reply, String> {
    let count = std::str::from_utf8(&args[0]).ok();
    let count: usize = count
        .and_then(|count| count.parse().ok())
        .ok_or("ERR value is not an integer or out of range")?;
    if count > args.len() - 1 {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    let (keys, args) = args[1..].split_at(count);
    match script {
        Script::Publish => Publish::read(context, keys, args)?.run(context),
        Script::Hello => hello(context, keys, args),
        Script::Trim => trim(context, &keys[0], args),
        Script::Lease => lease(context, &keys[0], args),
    }
}

/// `publish.lua`, between reading and writing.
struct Publish<'a> {
    keys: &'a [Bytes],
    args: &'a [Bytes],
    now_ms: u64,
    had_epoch: bool,
    epoch: Bytes,
    seq: u64,
    last: u64,
    offsets: BTreeMap<Bytes, u64>,
    remembered: BTreeMap<Bytes, u64>,
    generation: usize,
    generation_at: u64,
    has_generation: bool,
    generation_len: u64,
    producers: Option<Vec<Bytes>>,
    forgotten: Vec<Bytes>,
    /// The last one stored.
    entry: String,
}

impl<'a> Publish<'a> {
    fn read(
        context: &mut Context<'_>,
        keys: &'a [Bytes],
        args: &'a [Bytes],
    ) -> Result<Self, String> {
        let messages = args.len().saturating_sub(HEADER);
        if messages == 0 || !messages.is_multiple_of(FIELDS) || messages / FIELDS > MESSAGES_MAX {
            return Err("ERR publish.lua takes 1 to 1000 messages a call".into());
        }
        let data = &mut *context.data;
        let producer = join(&[b"p:", &args[4]]);
        let fields = ["epoch", "seq", "ids", "ids_at"].map(Bytes::from);
        let known = data.fields(&keys[0], &fields)?;
        let last = data
            .fields(&keys[0], std::slice::from_ref(&producer))?
            .remove(0);
        let (mut offsets, mut given) = (BTreeMap::new(), vec![]);
        for message in args[HEADER..].chunks(FIELDS) {
            let field = [join(&[b"o:", &message[0]])];
            let offset = data.fields(&keys[0], &field)?.remove(0);
            offsets.insert(message[0].clone(), count(offset.as_deref())?);
            if &*message[6] == b"1" {
                given.push(join(&[&message[0], b"\0", &message[5]]));
            }
        }
        let mut this = Self {
            keys,
            args,
            now_ms: data.now_ms,
            had_epoch: known[0].is_some(),
            epoch: known[0].clone().unwrap_or_else(|| args[3].clone()),
            seq: 0,
            last: 0,
            offsets,
            remembered: BTreeMap::new(),
            generation: 0,
            generation_at: data.now_ms,
            has_generation: known[3].is_some(),
            generation_len: 0,
            producers: None,
            forgotten: vec![],
            entry: String::new(),
        };
        if !given.is_empty() {
            this.generation = usize::from(known[2].as_deref() == Some(b"1"));
            let at = known[3].as_deref().map(|at| count(Some(at))).transpose()?;
            this.generation_at = at.unwrap_or(this.now_ms);
            for key in &keys[2..4] {
                let found = data.fields(key, &given)?;
                for (id, offset) in given.iter().zip(found) {
                    if let Some(offset) = offset {
                        this.remembered.insert(id.clone(), count(Some(&offset))?);
                    }
                }
            }
            let generation = data.hash(&keys[2 + this.generation])?;
            this.generation_len = generation.map_or(0, |hash| hash.len() as u64);
        }
        if last.is_none() {
            this.read_producers(context)?;
        }
        if this.had_epoch {
            this.seq = count(known[1].as_deref())?;
        }
        this.last = match last {
            Some(last) => count(last.split(|byte| *byte == b' ').next())?,
            None => 0,
        };
        Ok(this)
    }

    fn read_producers(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let (state, producer) = (&self.keys[0], &self.args[4]);
        let list = context
            .data
            .fields(state, &[Bytes::from("producers")])?
            .remove(0);
        let list = list.unwrap_or_default();
        let names = list.split(|byte| *byte == b' ');
        let mut names: Vec<_> = names
            .filter(|name| !name.is_empty() && name != producer)
            .take(PRODUCERS_MAX)
            .map(|name| (0, Bytes::copy_from_slice(name)))
            .collect();
        for (at, name) in &mut names {
            let number = context
                .data
                .fields(state, &[join(&[b"p:", name])])?
                .remove(0);
            let when = number
                .as_deref()
                .and_then(|n| n.split(|byte| *byte == b' ').nth(1));
            *at = count(when).unwrap_or(0);
        }
        let excess = names.len().saturating_sub(PRODUCERS_MAX - 1);
        if excess > 0 {
            names.sort();
        }
        let mut producers = vec![];
        for (i, (at, name)) in names.into_iter().enumerate() {
            if self.now_ms.saturating_sub(at) > PRODUCER_SILENT_MS || i < excess {
                self.forgotten.push(join(&[b"p:", &name]));
            } else {
                producers.push(name);
            }
        }
        producers.push(producer.clone());
        self.producers = Some(producers);
        Ok(())
    }

    fn run(mut self, context: &mut Context<'_>) -> Result<Reply, String> {
        let (base, first) = (count(Some(&self.args[5]))?, count(Some(&self.args[6]))?);
        let last_before = self.last.max(base.saturating_sub(1));
        let mut last = last_before;
        let (mut status, mut why) = ("ok", String::new());
        let (mut results, mut envelopes) = (vec![], vec![]);
        let (mut changed, mut new_ids) = (BTreeMap::new(), vec![]);
        for (i, message) in self.args[HEADER..].chunks(FIELDS).enumerate() {
            let number = first + i as u64;
            if number > last + 1 {
                status = "behind";
                break;
            }
            if number <= last {
                results.push(Reply::Number(0));
                continue;
            }
            let id = (&*message[6] == b"1").then(|| join(&[&message[0], b"\0", &message[5]]));
            if let Some(offset) = id.as_ref().and_then(|id| self.remembered.get(id)) {
                results.push(Reply::Number(-(*offset as i64)));
            } else {
                let envelope = match self.store(context, message) {
                    Ok(envelope) => envelope,
                    Err(error) => {
                        (status, why) = ("error", error);
                        break;
                    }
                };
                envelopes.push(envelope);
                let offset = self.offsets[&message[0]];
                changed.insert(message[0].clone(), offset);
                results.push(Reply::Number(offset as i64));
                if let Some(id) = id {
                    self.remembered.insert(id.clone(), offset);
                    new_ids.push((id, text(offset)));
                }
            }
            last += 1;
        }
        let taken = last > last_before;
        if !taken && status == "error" && !self.had_epoch {
            return Err(why);
        }
        if taken || !self.had_epoch {
            self.count_in(context, taken.then_some(last), &changed, &new_ids)?;
        }
        let channel = &self.args[0];
        let envelopes = envelopes.into_iter();
        context
            .published
            .extend(envelopes.map(|envelope| (channel.clone(), envelope)));
        self.remember(context, new_ids, taken)?;
        let mut reply = vec![
            Reply::bulk(&self.epoch),
            Reply::Number(self.seq as i64),
            Reply::text(status),
            Reply::text(&why),
            Reply::text(&self.entry),
        ];
        reply.extend(results);
        Ok(Reply::List(reply))
    }

    /// XADD; returns the envelope, and notes the entry.
    fn store(&mut self, context: &mut Context<'_>, message: &[Bytes]) -> Result<Bytes, String> {
        context.guard.check(Kind::Grow)?;
        let Some(offset) = self.offsets.get_mut(&message[0]) else {
            return Err("ERR the model lost a room".into());
        };
        let (offset_text, seq_text) = (text(*offset + 1), text(self.seq + 1));
        let [
            room,
            user_id,
            username,
            payload,
            metadata,
            id,
            _,
            sent_at,
            head,
            mid,
        ] = message
        else {
            return Err("ERR the model lost a message".into());
        };
        let fields = [
            ("room_name", room),
            ("user_id", user_id),
            ("username", username),
            ("payload", payload),
            ("metadata", metadata),
            ("id", id),
            ("epoch", &self.epoch),
            ("offset", &offset_text),
            ("seq", &seq_text),
            ("sent_at", sent_at),
            ("instance_id", &self.args[2]),
        ];
        let fields = fields.map(|(name, value)| (Bytes::from(name), value.clone()));
        let stream = context.data.stream_or_new(&self.keys[1])?;
        let entry = stream.add(self.now_ms, None, fields.into())?.to_string();
        self.entry.clone_from(&entry);
        *offset += 1;
        self.seq += 1;
        let metadata = match &**metadata {
            b"" => Bytes::new(),
            metadata => join(&[b",\"metadata\":", metadata]),
        };
        Ok(join(&[
            b"{\"instance_id\":",
            &self.args[1],
            b",\"epoch\":\"",
            &self.epoch,
            b"\",\"seq\":",
            &seq_text,
            b",\"entry\":\"",
            entry.as_bytes(),
            b"\",\"payload\":",
            head,
            &offset_text,
            mid,
            payload,
            &metadata,
            b",\"sent_at\":\"",
            sent_at,
            b"\"}}",
        ]))
    }

    /// The one HSET of a call.
    fn count_in(
        &mut self,
        context: &mut Context<'_>,
        last: Option<u64>,
        changed: &BTreeMap<Bytes, u64>,
        new_ids: &[(Bytes, Bytes)],
    ) -> Result<(), String> {
        let mut written = vec![
            (Bytes::from("epoch"), self.epoch.clone()),
            (Bytes::from("seq"), text(self.seq)),
        ];
        if !self.entry.is_empty() {
            let place = format!(" {} {}", self.seq, self.entry);
            written.push(("place".into(), join(&[&self.epoch, place.as_bytes()])));
        }
        if let Some(last) = last {
            let value = format!("{last} {}", self.now_ms);
            written.push((join(&[b"p:", &self.args[4]]), value.into()));
            if let Some(producers) = &self.producers {
                written.push(("producers".into(), producers.join(&b' ').into()));
            }
        }
        for (room, offset) in changed {
            written.push((join(&[b"o:", room]), text(*offset)));
        }
        let rotates = self.rotates(new_ids.len());
        if !new_ids.is_empty() && (rotates || !self.has_generation) {
            let generation = if rotates {
                1 - self.generation
            } else {
                self.generation
            };
            let at = if rotates {
                self.now_ms
            } else {
                self.generation_at
            };
            written.push(("ids".into(), text(generation as u64)));
            written.push(("ids_at".into(), text(at)));
        }
        context.guard.check(Kind::Grow)?;
        context.data.set_fields(&self.keys[0], written).map(|_| ())
    }

    fn rotates(&self, new_ids: usize) -> bool {
        let (window, ids_max) = (count(Some(&self.args[7])), count(Some(&self.args[8])));
        let age = self.now_ms.abs_diff(self.generation_at);
        age > window.unwrap_or(0) || self.generation_len + new_ids as u64 > ids_max.unwrap_or(0)
    }

    fn remember(
        &self,
        context: &mut Context<'_>,
        new_ids: Vec<(Bytes, Bytes)>,
        taken: bool,
    ) -> Result<(), String> {
        if !new_ids.is_empty() {
            let rotates = self.rotates(new_ids.len());
            let generation = if rotates {
                1 - self.generation
            } else {
                self.generation
            };
            let key = &self.keys[2 + generation];
            if rotates {
                context.data.remove(key);
            }
            context.data.set_fields(key, new_ids)?;
            let window = count(Some(&self.args[7]))?;
            if let Some(expires_at) = context.data.expires_at(key) {
                *expires_at = Some(self.now_ms + 2 * window);
            }
        }
        if taken && !self.forgotten.is_empty() {
            context.data.drop_fields(&self.keys[0], &self.forgotten)?;
        }
        Ok(())
    }
}

/// `hello.lua`
fn hello(context: &mut Context<'_>, keys: &[Bytes], args: &[Bytes]) -> Result<Reply, String> {
    let [
        candidate,
        partitions,
        known_epoch,
        known_seq,
        known_entry,
        room,
        reached,
    ] = args
    else {
        return Err("ERR hello.lua takes 7 arguments".into());
    };
    let [state, stream] = keys else {
        return Err("ERR hello.lua takes 2 keys".into());
    };
    let data = &mut *context.data;
    let fields = ["epoch", "seq", "partitions"].map(Bytes::from);
    let had = data.fields(state, &fields)?;
    let offset = data.fields(state, &[join(&[b"o:", room])])?.remove(0);
    let offset = count(offset.as_deref()).unwrap_or(0);
    let entries = data.stream(stream)?.map(|stream| &stream.entries);
    let newest = entries.and_then(|entries| entries.keys().next_back().copied());
    let oldest = entries.and_then(|entries| entries.keys().next().copied());
    let mut seq = count(had[1].as_deref()).unwrap_or(0);
    if let Some(recorded) = had[2].as_ref().filter(|recorded| *recorded != partitions) {
        return Err(format!("PARTITIONS {}", String::from_utf8_lossy(recorded)));
    }
    let known_seq = count(Some(known_seq))?;
    let entry_is_lost = || {
        let Some(known) = std::str::from_utf8(known_entry)
            .ok()
            .and_then(EntryId::parse)
        else {
            return false;
        };
        let place = |fields: &Fields| {
            let field = |name: &str| fields.iter().find(|(is, _)| is == name).map(|(_, v)| v);
            let seq = field("seq").and_then(|seq| count(Some(seq)).ok());
            field("epoch").map(|epoch| (epoch == known_epoch, seq))
        };
        let Some(entries) = entries else { return false };
        let Some((id, fields)) = entries.range(..=known).next_back() else {
            let first = entries.values().take(100).find_map(place);
            return first.is_some_and(|(is_known, seq)| is_known && seq <= Some(known_seq));
        };
        let is_it = place(fields).is_none_or(|place| place == (true, Some(known_seq)));
        *id != known || !is_it
    };
    let is_lost = match &had[0] {
        Some(epoch) if epoch == known_epoch => {
            let reached = count(Some(reached))?;
            seq < known_seq || entry_is_lost() || (!room.is_empty() && offset < reached)
        }
        Some(epoch) => epoch < known_epoch,
        None => false,
    };
    let (mut epoch, mut made) = (had[0].clone().unwrap_or_default(), 0);
    if is_lost && (*candidate <= epoch || candidate <= known_epoch) {
        made = -1;
    } else if is_lost || had[0].is_none() {
        context.guard.check(Kind::Grow)?;
        let fresh = [
            (Bytes::from("epoch"), candidate.clone()),
            (Bytes::from("seq"), Bytes::from("0")),
            (Bytes::from("partitions"), partitions.clone()),
        ];
        data.set_fields(state, fresh)?;
        if let Some(hash) = data.hash(state)? {
            hash.retain(|field, _| !field.starts_with(b"o:"));
        }
        (epoch, seq, made) = (candidate.clone(), 0, 1);
    } else if had[2].is_none() {
        context.guard.check(Kind::Grow)?;
        data.set_fields(state, [(Bytes::from("partitions"), partitions.clone())])?;
    }
    let id = |id: Option<EntryId>| id.map_or(Reply::text(""), |id| Reply::text(&id.to_string()));
    Ok(Reply::List(vec![
        Reply::bulk(&epoch),
        Reply::Number(seq as i64),
        id(newest),
        id(oldest),
        Reply::Number(made),
        Reply::Number(data.now_ms as i64),
    ]))
}

/// `trim.lua`
fn trim(context: &mut Context<'_>, key: &Bytes, args: &[Bytes]) -> Result<Reply, String> {
    let (retention, bytes_max) = (count(args.first().map(|a| &**a))?, count(Some(&args[1]))?);
    let limit = count(Some(&args[2]))?;
    let now_ms = context.data.now_ms;
    let Some(stream) = context.data.stream(key)? else {
        return Ok(Reply::Number(0));
    };
    if !stream.groups.is_empty() {
        return Ok(Reply::Number(-1));
    }
    let mut removed = 0;
    if retention > 0 {
        context.guard.check(Kind::Write)?;
        let first = EntryId {
            ms: now_ms.saturating_sub(retention),
            n: 0,
        };
        removed += stream.trim(Keep::From(first), limit);
    }
    let bytes = stream.bytes();
    if bytes_max > 0 && bytes > bytes_max {
        context.guard.check(Kind::Write)?;
        let kept = stream.entries.len() as u128 * u128::from(bytes_max) / u128::from(bytes);
        removed += stream.trim(Keep::Entries(kept as u64), limit);
    }
    debug_assert!(stream.last < LAST);
    Ok(Reply::Number(removed))
}

/// `lease.lua`
fn lease(context: &mut Context<'_>, key: &Bytes, args: &[Bytes]) -> Result<Reply, String> {
    let now_ms = context.data.now_ms;
    let holder = context.data.text(key)?.cloned();
    if let Some(holder) = holder.filter(|holder| *holder != args[0]) {
        let expires_at = context.data.expires_at(key).copied().flatten();
        let ttl = expires_at.map_or(-1, |at| (at - now_ms) as i64);
        let status = Reply::text("other");
        return Ok(Reply::List(vec![
            status,
            Reply::bulk(&holder),
            Reply::Number(ttl),
        ]));
    }
    context.guard.check(Kind::Grow)?;
    let ttl = count(Some(&args[1]))?;
    let nonce = Value::Text(args[0].clone());
    context.data.set(key, nonce, Some(now_ms + ttl));
    let (status, nobody) = (Reply::text("held"), Reply::text(""));
    Ok(Reply::List(vec![status, nobody, Reply::Number(ttl as i64)]))
}

/// What is counted: 0 if there is nothing.
fn count(text: Option<&[u8]>) -> Result<u64, String> {
    let Some(text) = text else { return Ok(0) };
    let text = String::from_utf8_lossy(text);
    let number = text.parse().ok();
    number.ok_or_else(|| format!("ERR the state holds no number but {text}"))
}

fn text(number: u64) -> Bytes {
    number.to_string().into()
}

fn join(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}
