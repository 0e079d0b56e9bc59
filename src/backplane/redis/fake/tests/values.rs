//! Replies as they are on the wire, told apart by their first byte, and made comparable: entry ids
//! and times differ from one Redis to another.

use std::collections::BTreeMap;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Parsed {
    Line(char, String),
    Bulk(Vec<u8>),
    List(char, Vec<Parsed>),
}

/// Reads one reply off `bytes`; all of it must be there.
pub(super) fn parse(bytes: &mut impl std::io::BufRead) -> Parsed {
    let mut line = String::new();
    bytes.read_line(&mut line).unwrap();
    let line = line.trim_end_matches("\r\n");
    assert!(!line.is_empty(), "a reply is missing");
    let (kind, rest) = line.split_at(1);
    let kind = kind.chars().next().unwrap();
    match kind {
        '$' if rest != "-1" => {
            let mut bulk = vec![0; rest.parse::<usize>().unwrap() + 2];
            bytes.read_exact(&mut bulk).unwrap();
            bulk.truncate(bulk.len() - 2);
            Parsed::Bulk(bulk)
        }
        '*' | '>' | '%' | '~' if rest != "-1" => {
            let count = rest.parse::<usize>().unwrap() * if kind == '%' { 2 } else { 1 };
            Parsed::List(kind, (0..count).map(|_| parse(bytes)).collect())
        }
        _ => Parsed::Line(kind, rest.into()),
    }
}

/// The entry ids that one Redis gave, in the order in which they were first seen.
#[derive(Default)]
pub(super) struct Ids {
    by_text: BTreeMap<String, usize>,
    pub(super) in_order: Vec<String>,
}

impl Ids {
    /// The reply with entry ids as `#n`, and times and large numbers as `T`.
    pub(super) fn comparable(&mut self, reply: Parsed) -> Parsed {
        match reply {
            Parsed::Line(kind, text) => {
                let text = self.replace(text.as_bytes());
                Parsed::Line(kind, String::from_utf8_lossy(&text).into())
            }
            Parsed::Bulk(text) => Parsed::Bulk(self.replace(&text)),
            Parsed::List(kind, list) => {
                let list = list.into_iter().map(|item| self.comparable(item));
                Parsed::List(kind, list.collect())
            }
        }
    }

    fn replace(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        let mut at = 0;
        while at < text.len() {
            let end = at + digits(&text[at..]);
            if end - at < 10 || end - at > 13 {
                let end = end.max(at + 1);
                out.extend_from_slice(&text[at..end]);
                at = end;
                continue;
            }
            let n = match text.get(end) {
                Some(b'-') => digits(&text[end + 1..]),
                _ => 0,
            };
            if n == 0 {
                out.push(b'T');
                at = end;
                continue;
            }
            let id = String::from_utf8_lossy(&text[at..end + 1 + n]).into_owned();
            let next = self.in_order.len();
            let number = *self.by_text.entry(id.clone()).or_insert(next);
            if number == next {
                self.in_order.push(id);
            }
            out.extend_from_slice(format!("#{number}").as_bytes());
            at = end + 1 + n;
        }
        out
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The pairs of a list sorted: hashes have no order that both keep.
pub(super) fn sorted_pairs(reply: Parsed) -> Parsed {
    let Parsed::List(kind, list) = reply else {
        return reply;
    };
    let mut pairs: Vec<_> = list.chunks(2).map(<[_]>::to_vec).collect();
    pairs.sort();
    Parsed::List(kind, pairs.concat())
}
