//! The forms in which members get a room's frames, and who makes them.
//!
//! What is published comes in the plain form, and nearly all members get it so. A room that has a
//! member of another form has a second log beside the first, made once for all of them and only
//! as long as there is one; what a form looks like is for the [`Encode`] to know, and the hub sees
//! bytes.
//!
//! Invariant: an offset stands for the same publication in all forms, so that a cursor is one
//! number and the logs of a room all end at the same offset.

use std::fmt;
use std::sync::{Arc, Weak};

use super::chunk::Chunk;
use crate::model::Position;

/// A form of a room's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// As they are published.
    #[default]
    Plain,
    /// Compressed, each by itself; the plain form is understood too.
    Deflate,
    /// As events of an HTTP response.
    Events,
}

/// How many forms there are beside the plain one.
pub(super) const OTHERS: usize = 2;

impl Encoding {
    /// All but [`Encoding::Plain`].
    pub const OTHERS: [Self; OTHERS] = [Self::Deflate, Self::Events];

    /// Whether who takes this form takes frames of the plain form as well. It gets the past so,
    /// which is for few and would have to be made for each.
    pub fn takes_plain(self) -> bool {
        match self {
            Self::Plain | Self::Deflate => true,
            Self::Events => false,
        }
    }

    /// Its place among the others; `None`: it is the plain one.
    pub(super) fn other(self) -> Option<usize> {
        (self as usize).checked_sub(1)
    }
}

/// Makes the other forms of frames.
pub trait Encode: fmt::Debug + Send {
    /// Appends to `out` the form `encoding` of the publication at `position`, whose plain frame is
    /// `plain`.
    fn encode(&mut self, encoding: Encoding, position: Position, plain: &[u8], out: &mut Vec<u8>);
}

/// For hubs whose members all take the plain form.
#[derive(Debug)]
pub struct PlainOnly;

impl Encode for PlainOnly {
    fn encode(&mut self, _: Encoding, _: Position, plain: &[u8], out: &mut Vec<u8>) {
        debug_assert!(false, "no member takes another form");
        out.extend_from_slice(plain);
    }
}

/// Pages whose other forms are remembered while somebody reads them.
const PAGES_REMEMBERED_MAX: usize = 64;

/// The encoder of a hub, and which pages of the past it has made that are still in use: many come
/// back for the same page.
#[derive(Debug)]
pub(super) struct Encoder {
    encode: Box<dyn Encode>,
    frame: Vec<u8>,
    pages: Vec<(Encoding, Weak<Chunk>, Weak<Chunk>)>,
}

impl Encoder {
    pub(super) fn new(encode: Box<dyn Encode>) -> Self {
        Self {
            encode,
            frame: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// One frame; it is overwritten by the next.
    pub(super) fn frame(&mut self, encoding: Encoding, position: Position, plain: &[u8]) -> &[u8] {
        self.frame.clear();
        self.encode
            .encode(encoding, position, plain, &mut self.frame);
        &self.frame
    }

    /// A page of the past for who takes `encoding`; `at` is the position of its first frame.
    pub(super) fn page(
        &mut self,
        encoding: Encoding,
        at: Position,
        plain: &Arc<Chunk>,
    ) -> Arc<Chunk> {
        if encoding.takes_plain() {
            return plain.clone();
        }
        self.pages
            .retain(|(_, plain, made)| plain.strong_count() > 0 && made.strong_count() > 0);
        let is_it = |(form, from, made): &(Encoding, Weak<Chunk>, Weak<Chunk>)| {
            let same = *form == encoding && std::ptr::eq(from.as_ptr(), Arc::as_ptr(plain));
            same.then(|| made.upgrade()).flatten()
        };
        if let Some(made) = self.pages.iter().find_map(is_it) {
            return made;
        }
        let mut made = Chunk::with_capacity(plain.first(), 0);
        for offset in plain.first()..plain.after() {
            let position = Position { offset, ..at };
            made.push(self.frame(encoding, position, plain.frame(offset)));
        }
        let made = Arc::new(made);
        if self.pages.len() < PAGES_REMEMBERED_MAX {
            let page = (encoding, Arc::downgrade(plain), Arc::downgrade(&made));
            self.pages.push(page);
        }
        made
    }
}
