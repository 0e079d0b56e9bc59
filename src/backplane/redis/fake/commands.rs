//! The commands of the fake Redis that are about its data.

use bytes::Bytes;

use super::data::{Data, Value};
use super::streams::{Keep, LAST, parse_id, parse_range};
use super::wire::Reply;
use super::{Context, Kind};
use crate::model::EntryId;

/// The version whose words these are.
pub(crate) const VERSION: &str = "7.0.15";

/// Name, words (its own included; below zero: at least), what it does.
pub(crate) const COMMANDS: &[(&str, isize, Kind)] = &[
    ("AUTH", -2, Kind::Read),
    ("CLIENT", -2, Kind::Read),
    ("CONFIG", -2, Kind::Read),
    ("DEL", -2, Kind::Write),
    ("EVAL", -3, Kind::Read),
    ("EVALSHA", -3, Kind::Read),
    ("EXISTS", -2, Kind::Read),
    ("FLUSHALL", -1, Kind::Write),
    ("GET", 2, Kind::Read),
    ("HDEL", -3, Kind::Write),
    ("HELLO", -1, Kind::Read),
    ("HGET", 3, Kind::Read),
    ("HGETALL", 2, Kind::Read),
    ("HINCRBY", 4, Kind::Grow),
    ("HLEN", 2, Kind::Read),
    ("HMGET", -3, Kind::Read),
    ("HSCAN", -3, Kind::Read),
    ("HSET", -4, Kind::Grow),
    ("INFO", -1, Kind::Read),
    ("MEMORY", -2, Kind::Read),
    ("PEXPIRE", -3, Kind::Write),
    ("PING", -1, Kind::Read),
    ("PTTL", 2, Kind::Read),
    ("PUBLISH", 3, Kind::Read),
    ("SCRIPT", -2, Kind::Read),
    ("SELECT", 2, Kind::Read),
    ("SET", -3, Kind::Grow),
    ("SUBSCRIBE", -2, Kind::Read),
    ("TIME", 1, Kind::Read),
    ("UNLINK", -2, Kind::Write),
    ("UNSUBSCRIBE", -1, Kind::Read),
    ("WAIT", 3, Kind::Read),
    ("XADD", -5, Kind::Grow),
    ("XDEL", -3, Kind::Write),
    ("XGROUP", -2, Kind::Grow),
    ("XINFO", -2, Kind::Read),
    ("XLEN", 2, Kind::Read),
    ("XRANGE", -4, Kind::Read),
    ("XREVRANGE", -4, Kind::Read),
    ("XTRIM", -4, Kind::Write),
];

pub(crate) fn unknown(command: &[Bytes]) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let args: String = command[1..]
        .iter()
        .map(|arg| format!("'{}' ", text(arg)))
        .collect();
    let name = text(&command[0]);
    format!("ERR unknown command '{name}', with args beginning with: {args}")
}

pub(crate) fn wrong_number(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    format!("ERR wrong number of arguments for '{name}' command")
}

const SYNTAX: &str = "ERR syntax error";
const NO_INTEGER: &str = "ERR value is not an integer or out of range";

/// Runs a command that has as many words as it needs; `args` are without its name.
pub(crate) fn run(context: &mut Context<'_>, name: &str, args: &[Bytes]) -> Result<Reply, String> {
    let data = &mut *context.data;
    let key = args.first().cloned().unwrap_or_default();
    match name {
        "PUBLISH" => {
            context.published.push((key, args[1].clone()));
            Ok(Reply::Number(0))
        }
        "FLUSHALL" => {
            data.clear();
            Ok(Reply::OK)
        }
        "TIME" => Ok(Reply::texts([
            &(data.now_ms / 1000).to_string(),
            &(data.now_ms % 1000 * 1000).to_string(),
        ])),
        "INFO" => Ok(Reply::text(&format!(
            "# Server\r\nredis_version:{VERSION}\r\nredis_mode:standalone\r\nloading:0\r\n\
             role:master\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
        ))),
        "CONFIG" => Ok(Reply::Map(match args {
            [get, name] if is(get, "GET") && is(name, "maxmemory-policy") => {
                vec![(Reply::text("maxmemory-policy"), Reply::text("noeviction"))]
            }
            _ => vec![],
        })),
        "DEL" | "UNLINK" => Ok(counted(args.iter().filter(|key| data.remove(key)))),
        "EXISTS" => Ok(counted(args.iter().filter(|key| data.value(key).is_some()))),
        "GET" => Ok(Reply::maybe(data.text(&key)?)),
        "SET" => set(data, args),
        "PEXPIRE" => {
            let (now_ms, ttl) = (data.now_ms, number(&args[1])?);
            let Some(expires_at) = data.expires_at(&key) else {
                return Ok(Reply::Number(0));
            };
            *expires_at = Some(now_ms.saturating_add_signed(ttl));
            Ok(Reply::Number(1))
        }
        "PTTL" => {
            let now_ms = data.now_ms;
            Ok(Reply::Number(match data.expires_at(&key) {
                None => -2,
                Some(None) => -1,
                Some(Some(at)) => (*at - now_ms) as i64,
            }))
        }
        _ if name.starts_with('H') => hashes(data, name, &key, &args[1..]),
        "MEMORY" => match (is(&key, "USAGE"), args.get(1)) {
            (true, Some(key)) => memory(data, key),
            _ => Err(SYNTAX.into()),
        },
        _ => streams(data, name, &key, args),
    }
}

fn hashes(data: &mut Data, name: &str, key: &Bytes, args: &[Bytes]) -> Result<Reply, String> {
    match name {
        "HGET" => Ok(Reply::maybe(data.fields(key, &args[..1])?[0].as_ref())),
        "HMGET" => {
            let values = data.fields(key, args)?;
            let values = values.iter().map(|value| Reply::maybe(value.as_ref()));
            Ok(Reply::List(values.collect()))
        }
        "HSET" if args.len() % 2 == 1 => Err(wrong_number("HSET")),
        "HSET" => {
            let pairs = args
                .chunks(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()));
            data.set_fields(key, pairs).map(Reply::Number)
        }
        "HDEL" => data.drop_fields(key, args).map(Reply::Number),
        "HGETALL" => {
            let pairs = data.hash(key)?.into_iter().flatten();
            let pairs = pairs.map(|(field, value)| (Reply::bulk(field), Reply::bulk(value)));
            Ok(Reply::Map(pairs.collect()))
        }
        "HLEN" => Ok(counted(data.hash(key)?.into_iter().flatten())),
        "HINCRBY" => {
            let by = number(&args[1])?;
            let hash = data.hash_or_new(key)?;
            let old = hash.get(&args[0]).map_or(Ok(0), |value| number(value));
            let old = old.map_err(|_| "ERR hash value is not an integer")?;
            let Some(new) = old.checked_add(by) else {
                return Err("ERR increment or decrement would overflow".into());
            };
            hash.insert(args[0].clone(), new.to_string().into());
            Ok(Reply::Number(new))
        }
        _ => scan(data, key, args),
    }
}

/// HSCAN. In the order of a hash of the fields, so that a cursor stays right whatever is set and
/// dropped between pages. A small one comes at once, as those do that Redis keeps packed.
fn scan(data: &mut Data, key: &Bytes, args: &[Bytes]) -> Result<Reply, String> {
    const PACKED_MAX: usize = 128;
    let cursor = std::str::from_utf8(&args[0]).ok();
    let cursor: u64 = cursor
        .and_then(|cursor| cursor.parse().ok())
        .ok_or("ERR invalid cursor")?;
    let (mut pattern, mut count) = (None, 10);
    for option in args[1..].chunks(2) {
        match option {
            [name, value] if is(name, "MATCH") => pattern = Some(value.clone()),
            [name, value] if is(name, "COUNT") => count = number(value)?.max(1) as usize,
            _ => return Err(SYNTAX.into()),
        }
    }
    let Some(hash) = data.hash(key)? else {
        return Ok(Reply::List(vec![Reply::text("0"), Reply::List(vec![])]));
    };
    if hash.len() <= PACKED_MAX {
        count = PACKED_MAX;
    }
    let place = |field: &[u8]| {
        let hash = field.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // Few places, so that several fields share one; 0 is the beginning.
        1 + (hash >> 32) % 0xffff
    };
    let mut fields: Vec<_> = hash
        .iter()
        .map(|(field, value)| (place(field), field, value))
        .filter(|(place, ..)| *place > cursor)
        .collect();
    fields.sort();
    let end = fields.get(count - 1).map_or(u64::MAX, |(place, ..)| *place);
    let page = fields.iter().take_while(|(place, ..)| *place <= end);
    let len = page.clone().count();
    let next = if len < fields.len() { end } else { 0 };
    let matches = |field: &[u8]| match pattern.as_deref().map(|p| (p, p.strip_suffix(b"*"))) {
        None => true,
        Some((_, Some(start))) => field.starts_with(start),
        Some((whole, None)) => field == whole,
    };
    let page = page.filter(|(_, field, _)| matches(field));
    let page = page.flat_map(|(_, field, value)| [Reply::bulk(field), Reply::bulk(value)]);
    let page = Reply::List(page.collect());
    Ok(Reply::List(vec![Reply::text(&next.to_string()), page]))
}

fn streams(data: &mut Data, name: &str, key: &Bytes, args: &[Bytes]) -> Result<Reply, String> {
    match name {
        "XADD" => add(data, key, &args[1..]),
        "XLEN" => {
            let stream = data.stream(key)?;
            Ok(Reply::Number(stream.map_or(0, |s| s.entries.len() as i64)))
        }
        "XRANGE" => range(data, key, &args[1], &args[2], &args[3..], false),
        "XREVRANGE" => range(data, key, &args[2], &args[1], &args[3..], true),
        "XTRIM" => {
            let (keep, limit, rest) = trimming(&args[1..])?;
            if !rest.is_empty() {
                return Err(SYNTAX.into());
            }
            let stream = data.stream(key)?;
            Ok(Reply::Number(stream.map_or(0, |s| s.trim(keep, limit))))
        }
        "XDEL" => {
            // An id that is none only counts where there is a stream.
            let Some(stream) = data.stream(key)? else {
                return Ok(Reply::Number(0));
            };
            let ids = args[1..].iter().map(|id| parse_id(id));
            let ids = ids.collect::<Result<Vec<_>, _>>()?;
            Ok(Reply::Number(stream.delete(&ids)))
        }
        "XINFO" => match args {
            [what, key] if is(what, "GROUPS") => groups(data, key),
            [what, key] if is(what, "STREAM") => about(data, key),
            _ => Err(SYNTAX.into()),
        },
        "XGROUP" => match args {
            [create, key, group, start, rest @ ..] if is(create, "CREATE") => {
                let make = rest.iter().any(|option| is(option, "MKSTREAM"));
                create_group(data, key, group, start, make)
            }
            _ => Err(SYNTAX.into()),
        },
        _ => Err(format!("ERR {name} is not known here")),
    }
}

fn add(data: &mut Data, key: &Bytes, args: &[Bytes]) -> Result<Reply, String> {
    let mut args = args;
    let mut trim = None;
    if is(&args[0], "MAXLEN") || is(&args[0], "MINID") {
        let (keep, limit, rest) = trimming(args)?;
        (trim, args) = (Some((keep, limit)), rest);
    }
    let Some((id, fields)) = args.split_first() else {
        return Err(wrong_number("XADD"));
    };
    let id = match &**id {
        b"*" => None,
        id => Some(parse_id(id)?),
    };
    if fields.is_empty() || fields.len() % 2 == 1 {
        return Err(wrong_number("XADD"));
    }
    if id == Some(EntryId::default()) {
        // Before it looks for the stream, which does not begin by it.
        return Err("ERR The ID specified in XADD must be greater than 0-0".into());
    }
    let now_ms = data.now_ms;
    let fields = fields
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()));
    let stream = data.stream_or_new(key)?;
    let id = stream.add(now_ms, id, fields.collect())?;
    if let Some((keep, limit)) = trim {
        stream.trim(keep, limit);
    }
    Ok(Reply::text(&id.to_string()))
}

/// `MAXLEN|MINID [=|~] threshold [LIMIT n]`, and what follows.
fn trimming(args: &[Bytes]) -> Result<(Keep, u64, &[Bytes]), String> {
    let (what, mut rest) = args.split_first().ok_or(SYNTAX)?;
    let mut is_about = false;
    if let Some(sign) = rest.first().filter(|sign| is(sign, "=") || is(sign, "~")) {
        is_about = is(sign, "~");
        rest = &rest[1..];
    }
    let (threshold, mut rest) = rest.split_first().ok_or(SYNTAX)?;
    let keep = if is(what, "MAXLEN") {
        let entries = u64::try_from(number(threshold)?);
        Keep::Entries(entries.map_err(|_| "ERR The MAXLEN argument must be >= 0.")?)
    } else if is(what, "MINID") {
        Keep::From(parse_id(threshold)?)
    } else {
        return Err(SYNTAX.into());
    };
    let mut limit = 0;
    if let [word, value, more @ ..] = rest
        && is(word, "LIMIT")
    {
        let value = u64::try_from(number(value)?);
        limit = value.map_err(|_| "ERR The LIMIT argument must be >= 0.")?;
        if !is_about {
            return Err(
                "ERR syntax error, LIMIT cannot be used without the special ~ option".into(),
            );
        }
        rest = more;
    }
    Ok((keep, limit, rest))
}

fn range(
    data: &mut Data,
    key: &Bytes,
    start: &[u8],
    end: &[u8],
    options: &[Bytes],
    back: bool,
) -> Result<Reply, String> {
    let range = parse_range(start, end)?;
    let count = match options {
        [] => usize::MAX,
        [word, count] if is(word, "COUNT") => number(count)?.max(0) as usize,
        _ => return Err(SYNTAX.into()),
    };
    let Some(stream) = data.stream(key)? else {
        return Ok(Reply::List(vec![]));
    };
    // One of Redis' ways: a COUNT of 0 is no list at all.
    if count == 0 {
        return Ok(Reply::NilList);
    }
    Ok(match range {
        Some(range) => stream.range(range, count, back),
        None => Reply::List(vec![]),
    })
}

fn groups(data: &mut Data, key: &Bytes) -> Result<Reply, String> {
    let stream = data.stream(key)?.ok_or("ERR no such key")?;
    let group = |(name, last): (&Bytes, &EntryId)| {
        Reply::Map(vec![
            (Reply::text("name"), Reply::bulk(name)),
            (Reply::text("consumers"), Reply::Number(0)),
            (Reply::text("pending"), Reply::Number(0)),
            (
                Reply::text("last-delivered-id"),
                Reply::text(&last.to_string()),
            ),
            (Reply::text("entries-read"), Reply::Nil),
            (Reply::text("lag"), Reply::Nil),
        ])
    };
    Ok(Reply::List(stream.groups.iter().map(group).collect()))
}

fn about(data: &mut Data, key: &Bytes) -> Result<Reply, String> {
    let stream = data.stream(key)?.ok_or("ERR no such key")?;
    let end = |back| match stream.range(EntryId::default()..=LAST, 1, back) {
        Reply::List(mut list) => list.pop().unwrap_or(Reply::Nil),
        other => other,
    };
    let first = stream.entries.keys().next().copied().unwrap_or_default();
    let id = |id: EntryId| Reply::text(&id.to_string());
    Ok(Reply::Map(vec![
        (
            Reply::text("length"),
            Reply::Number(stream.entries.len() as i64),
        ),
        (Reply::text("radix-tree-keys"), Reply::Number(1)),
        (Reply::text("radix-tree-nodes"), Reply::Number(2)),
        (Reply::text("last-generated-id"), id(stream.last)),
        (Reply::text("max-deleted-entry-id"), id(stream.max_deleted)),
        (
            Reply::text("entries-added"),
            Reply::Number(stream.added as i64),
        ),
        (Reply::text("recorded-first-entry-id"), id(first)),
        (
            Reply::text("groups"),
            Reply::Number(stream.groups.len() as i64),
        ),
        (Reply::text("first-entry"), end(false)),
        (Reply::text("last-entry"), end(true)),
    ]))
}

fn create_group(
    data: &mut Data,
    key: &Bytes,
    group: &Bytes,
    start: &[u8],
    make: bool,
) -> Result<Reply, String> {
    if data.stream(key)?.is_none() && !make {
        return Err(
            "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE \
                    you may want to use the MKSTREAM option to create an empty stream \
                    automatically."
                .into(),
        );
    }
    let id = match start {
        b"$" => None,
        start => Some(parse_id(start)?),
    };
    let stream = data.stream_or_new(key)?;
    if stream.groups.contains_key(group) {
        return Err("BUSYGROUP Consumer Group name already exists".into());
    }
    stream
        .groups
        .insert(group.clone(), id.unwrap_or(stream.last));
    Ok(Reply::OK)
}

fn set(data: &mut Data, args: &[Bytes]) -> Result<Reply, String> {
    let (mut only_new, mut expires_at) = (false, None);
    let mut options = &args[2..];
    while let Some((option, rest)) = options.split_first() {
        options = match rest {
            [ttl, rest @ ..] if is(option, "PX") => {
                let ttl = u64::try_from(number(ttl)?).ok().filter(|ttl| *ttl > 0);
                let ttl = ttl.ok_or("ERR invalid expire time in 'set' command")?;
                expires_at = Some(data.now_ms + ttl);
                rest
            }
            rest if is(option, "NX") => {
                only_new = true;
                rest
            }
            _ => return Err(SYNTAX.into()),
        };
    }
    if only_new && data.value(&args[0]).is_some() {
        return Ok(Reply::Nil);
    }
    data.set(&args[0], Value::Text(args[1].clone()), expires_at);
    Ok(Reply::OK)
}

fn memory(data: &mut Data, key: &Bytes) -> Result<Reply, String> {
    let len = |(field, value): (&Bytes, &Bytes)| field.len() + value.len() + 16;
    Ok(data.value(key).map_or(Reply::Nil, |value| {
        Reply::Number(match value {
            Value::Text(text) => 64 + text.len() as i64,
            Value::Hash(hash) => 128 + hash.iter().map(len).sum::<usize>() as i64,
            Value::Stream(stream) => stream.bytes() as i64,
        })
    }))
}

fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

fn number(arg: &[u8]) -> Result<i64, String> {
    let text = std::str::from_utf8(arg).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| NO_INTEGER.into())
}

fn counted(items: impl Iterator) -> Reply {
    Reply::Number(items.count() as i64)
}
