//! The call of `hello.lua`: is what is known of a partition still there?

use super::{ReplyError, entry, epoch, list, natural, number, push_call};
use crate::backplane::redis::Place;
use crate::backplane::redis::names::Names;
use crate::model::{EntryId, Epoch, RoomName};
use crate::resp::{Refusal, Value};

/// The question.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// The epoch to begin if there is none or the tail is lost: above every one that is known.
    pub candidate: Epoch,
    /// How many partitions there are.
    pub partitions: u16,
    /// The last place known. Its `entry` is looked for unless `seq` is 0 or it is 0-0, unknown.
    pub known: Option<Place>,
    /// An offset that the room is said to have reached in the known epoch. One above the room's
    /// newest means that a tail was lost, and a new epoch begins: so it must be worth belief.
    pub reached: Option<(&'a RoomName, u64)>,
}

/// Whether the epoch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It does.
    Kept,
    /// It began with this call.
    New,
    /// It must not, but the candidate is not above what there was: ask again with a later one.
    TooEarly,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The epoch.
    pub epoch: Epoch,
    /// The last number given in it.
    pub seq: u64,
    /// The stream's newest entry, of whatever epoch.
    pub newest: Option<EntryId>,
    /// Its oldest.
    pub oldest: Option<EntryId>,
    /// Whether the epoch goes on.
    pub made: Made,
    /// The time by that Redis.
    pub now_ms: u64,
}

impl Hello<'_> {
    /// Appends the call.
    pub fn push(&self, out: &mut Vec<u8>, sha: &[u8], names: &Names) {
        let mut command = push_call(out, sha, &[&names.state, &names.stream], 7);
        command.arg(self.candidate.as_str().as_bytes());
        command.number(self.partitions.into());
        match self.known {
            Some(Place { epoch, seq, entry }) => {
                command.arg(epoch.as_str().as_bytes()).number(seq);
                // Of what was only heard of, the number is known and the entry is not.
                let entry = if seq == 0 || entry == EntryId::default() {
                    String::new()
                } else {
                    entry.to_string()
                };
                command.arg(entry.as_bytes());
            }
            None => {
                command.arg(b"").number(0).arg(b"");
            }
        }
        let (room, reached) = self
            .reached
            .map_or(("", 0), |(room, at)| (room.as_str(), at));
        command.arg(room.as_bytes()).number(reached);
    }
}

impl HelloReply {
    /// Reads a reply.
    pub fn decode(reply: Value) -> Result<Self, ReplyError> {
        if let Value::Error(Refusal { text, .. }) = &reply
            && let Some(partitions) = text.strip_prefix("PARTITIONS ")
        {
            let partitions = partitions.parse();
            return Err(partitions.map_or(
                ReplyError::Malformed("a number of partitions that is none"),
                ReplyError::Partitions,
            ));
        }
        let mut reply = list(reply)?.into_iter();
        Ok(Self {
            epoch: epoch(reply.next())?,
            seq: natural(number(reply.next())?)?,
            newest: entry(reply.next())?,
            oldest: entry(reply.next())?,
            made: match number(reply.next())? {
                0 => Made::Kept,
                1 => Made::New,
                -1 => Made::TooEarly,
                _ => return Err(ReplyError::Malformed("no word on the epoch")),
            },
            now_ms: natural(number(reply.next())?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_says_what_is_known() {
        let candidate = Epoch::new(2, 0);
        let check = |hello: Hello<'_>, want: &str| {
            let mut out = vec![];
            hello.push(&mut out, b"sha", &Names::new("g", 0, 1));
            let got = out.escape_ascii().to_string().replace(r"\r\n", " ");
            let all = format!(
                "*12 $7 EVALSHA $3 sha $1 2 $7 g:state $17 g:messages:stream \
                 $20 {} {want} ",
                candidate.as_str()
            );
            assert_eq!(got, all);
        };
        let hello = Hello {
            candidate,
            partitions: 3,
            known: None,
            reached: None,
        };
        check(hello, "$1 3 $0  $1 0 $0  $0  $1 0");
        let place = Place {
            epoch: Epoch::new(1, 0),
            seq: 7,
            entry: EntryId { ms: 5, n: 6 },
        };
        let room = RoomName::parse("r").unwrap();
        let known = Hello {
            known: Some(place),
            reached: Some((&room, 9)),
            ..hello
        };
        check(known, "$1 3 $20 00000000000100000000 $1 7 $3 5-6 $1 r $1 9");
        let none_yet = Hello {
            known: Some(Place { seq: 0, ..place }),
            ..hello
        };
        check(none_yet, "$1 3 $20 00000000000100000000 $1 0 $0  $0  $1 0");
        let heard_of = Hello {
            known: Some(Place {
                entry: EntryId::default(),
                ..place
            }),
            ..hello
        };
        check(heard_of, "$1 3 $20 00000000000100000000 $1 7 $0  $0  $1 0");
    }

    #[test]
    fn replies_are_checked() {
        let text = |text: &'static str| Value::Text(text.into());
        let reply = |made| {
            Value::List(vec![
                text("00000000000100000000"),
                Value::Number(7),
                text("5-6"),
                text(""),
                Value::Number(made),
                Value::Number(99),
            ])
        };
        let want = HelloReply {
            epoch: Epoch::new(1, 0),
            seq: 7,
            newest: Some(EntryId { ms: 5, n: 6 }),
            oldest: None,
            made: Made::Kept,
            now_ms: 99,
        };
        for (number, made) in [(0, Made::Kept), (1, Made::New), (-1, Made::TooEarly)] {
            let want = HelloReply { made, ..want };
            assert_eq!(HelloReply::decode(reply(number)), Ok(want));
        }
        assert!(HelloReply::decode(reply(2)).is_err());
        let error = |text: &str| HelloReply::decode(Value::Error(Refusal::new(text)));
        assert_eq!(error("PARTITIONS 4"), Err(ReplyError::Partitions(4)));
        assert!(matches!(
            error("PARTITIONS x"),
            Err(ReplyError::Malformed(_))
        ));
        assert!(matches!(error("OOM x"), Err(ReplyError::Refused(_))));
        // Each part wrong in turn.
        for at in 0..6 {
            for wrong in [
                Value::Nil,
                Value::List(vec![]),
                text("?"),
                Value::Number(-7),
            ] {
                let Value::List(mut parts) = reply(0) else {
                    unreachable!()
                };
                parts[at] = wrong;
                assert!(HelloReply::decode(Value::List(parts)).is_err(), "{at}");
            }
            let Value::List(mut parts) = reply(0) else {
                unreachable!()
            };
            parts.truncate(at);
            assert!(HelloReply::decode(Value::List(parts)).is_err(), "{at}");
        }
    }
}
