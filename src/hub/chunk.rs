//! A run of frames, contiguous in memory and in offsets.
//!
//! ```text
//! bytes  │ frame first │ frame first+1 │ … │ frame after-1 │
//!        0          ends[0]         ends[1]             ends[n-1] = bytes.len()
//! ```
//!
//! What a room log is made of, and what one page of a resume is. It knows nothing of what a frame
//! is. Invariants: `ends` never falls; the last of it is `bytes.len()`; a chunk that is appended to
//! never grows beyond the capacity it was made with, so appending moves no frame.

/// Frames `first .. after`, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    first: u64,
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Chunk {
    /// An empty chunk whose first frame will have the offset `first`, with room for `capacity`
    /// bytes.
    pub fn with_capacity(first: u64, capacity: usize) -> Self {
        Self {
            first,
            ends: Vec::new(),
            bytes: Vec::with_capacity(capacity),
        }
    }

    /// The offset of the first frame.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The offset after the last frame.
    pub fn after(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    /// Whether no frame is in it.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether a frame of `bytes` fits without growing.
    pub fn fits(&self, bytes: usize) -> bool {
        self.bytes.len() + bytes <= self.bytes.capacity()
    }

    /// Bytes it holds in memory.
    pub fn footprint(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>() + size_of::<Self>()
    }

    /// Bytes its buffer was made for.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends
            .push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// Moves the frames from `offset` on to an empty chunk with room for `capacity` bytes; `offset`
    /// must be covered.
    pub fn split_off(&mut self, offset: u64, capacity: usize) -> Self {
        let start = self.start(offset);
        let mut tail = Self::with_capacity(offset, capacity);
        tail.bytes.extend_from_slice(&self.bytes[start..]);
        let ends = self.ends.drain((offset - self.first) as usize..);
        tail.ends.extend(ends.map(|end| end - start as u32));
        self.bytes.truncate(start);
        tail
    }

    /// Whether the frame at `offset` is in it.
    pub fn covers(&self, offset: u64) -> bool {
        (self.first..self.after()).contains(&offset)
    }

    /// The bytes of all frames from `offset` on; `offset` must be covered.
    pub fn from(&self, offset: u64) -> &[u8] {
        &self.bytes[self.start(offset)..]
    }

    /// The bytes of the frames `offset .. until`; both must be covered, or `until` be `after`.
    pub fn range(&self, offset: u64, until: u64) -> &[u8] {
        &self.bytes[self.start(offset)..self.start(until)]
    }

    /// The bytes of the frame at `offset`; it must be covered.
    pub fn frame(&self, offset: u64) -> &[u8] {
        &self.bytes[self.start(offset)..self.ends[(offset - self.first) as usize] as usize]
    }

    /// After `sent` bytes of the frames from `offset` on: the offset of the next frame of which
    /// nothing was sent, and what is left of the frame before it.
    pub fn cut(&self, offset: u64, sent: usize) -> (u64, &[u8]) {
        let at = self.start(offset) + sent;
        let whole = self.ends.partition_point(|&end| (end as usize) <= at);
        let edge = if whole == 0 {
            0
        } else {
            self.ends[whole - 1] as usize
        };
        if edge == at || whole == self.ends.len() {
            (self.first + whole as u64, &[])
        } else {
            (
                self.first + whole as u64 + 1,
                &self.bytes[at..self.ends[whole] as usize],
            )
        }
    }

    fn start(&self, offset: u64) -> usize {
        match (offset - self.first) as usize {
            0 => 0,
            index => self.ends[index - 1] as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_finds_the_next_whole_frame_and_the_rest() {
        let mut chunk = Chunk::with_capacity(5, 64);
        for frame in [&b"aaa"[..], b"b", b"cccc"] {
            chunk.push(frame);
        }
        assert_eq!((chunk.first(), chunk.after()), (5, 8));
        for (offset, sent, next, rest) in [
            (5, 0, 5, &b""[..]),
            (5, 1, 6, b"aa"),
            (5, 3, 6, b""),
            (5, 4, 7, b""),
            (5, 5, 8, b"ccc"),
            (5, 8, 8, b""),
            (6, 0, 6, b""),
            (6, 1, 7, b""),
            (7, 2, 8, b"cc"),
        ] {
            assert_eq!(chunk.cut(offset, sent), (next, rest), "{offset} {sent}");
        }
        assert_eq!(chunk.from(6), b"bcccc");
        assert_eq!(chunk.frame(5), b"aaa");
        assert_eq!(chunk.frame(7), b"cccc");
        let tail = chunk.split_off(6, 16);
        assert_eq!(
            (tail.first(), tail.after(), tail.from(6)),
            (6, 8, &b"bcccc"[..])
        );
        assert_eq!((chunk.after(), chunk.from(5)), (6, &b"aaa"[..]));
    }
}
