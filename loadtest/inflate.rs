//! Messages that come deflated (RFC 7692), each a stream of its own.
//!
//! All members of a room get the same bytes, so what was inflated last is kept: a message is
//! inflated once, and for the other members its bytes are compared. So every frame is checked, and
//! the generator is not the bottleneck.

use flate2::{Decompress, FlushDecompress};

use crate::wire::FRAME_BYTES_MAX;

/// Messages that are remembered.
const SEEN: usize = 256;
/// Longer ones are not.
const SEEN_BYTES_MAX: usize = 64 << 10;
/// What a sender leaves out (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A message as it came, and what it says.
#[derive(Default)]
struct Seen {
    deflated: Vec<u8>,
    text: Vec<u8>,
}

/// See the module.
pub(crate) struct Inflater {
    stream: Decompress,
    seen: Vec<Seen>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            stream: Decompress::new(false),
            seen: (0..SEEN).map(|_| Seen::default()).collect(),
        }
    }
}

impl Inflater {
    /// What `deflated` says; an error names what is wrong.
    pub(crate) fn inflate(&mut self, deflated: &[u8]) -> Result<&[u8], &'static str> {
        let place = crc32fast::hash(deflated) as usize % SEEN;
        let seen = &mut self.seen[place];
        if seen.deflated == deflated && !deflated.is_empty() {
            return Ok(&seen.text);
        }
        seen.deflated.clear();
        seen.text.clear();
        self.stream.reset(false);
        for part in [deflated, &TAIL] {
            inflate(&mut self.stream, part, &mut seen.text)?;
        }
        if deflated.len() <= SEEN_BYTES_MAX {
            seen.deflated.extend_from_slice(deflated);
        }
        Ok(&seen.text)
    }
}

fn inflate(
    stream: &mut Decompress,
    mut rest: &[u8],
    text: &mut Vec<u8>,
) -> Result<(), &'static str> {
    loop {
        text.reserve(rest.len().max(256) * 4);
        if text.len() > FRAME_BYTES_MAX {
            return Err("a message is longer than 16 MiB");
        }
        let taken = stream.total_in();
        let done = stream.decompress_vec(rest, text, FlushDecompress::Sync);
        done.map_err(|_| "a message is not deflated data")?;
        rest = &rest[(stream.total_in() - taken) as usize..];
        if text.len() < text.capacity() {
            return match rest {
                [] => Ok(()),
                _ => Err("a message is more than one stream"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    #[test]
    fn what_was_deflated_is_told_again_and_again() {
        let mut inflater = Inflater::default();
        let messages: Vec<String> = (0..1000)
            .map(|n| format!("{n} {}", "x".repeat(n * 7)))
            .collect();
        for message in messages.iter().chain(messages.iter().rev()) {
            let mut deflated = Vec::with_capacity(20_000);
            let mut stream = Compress::new(Compression::fast(), false);
            stream
                .compress_vec(message.as_bytes(), &mut deflated, FlushCompress::Sync)
                .unwrap();
            deflated.truncate(deflated.len() - 4);
            for _ in 0..3 {
                assert_eq!(inflater.inflate(&deflated), Ok(message.as_bytes()));
            }
        }
        assert!(inflater.inflate(b"hello").is_err());
    }
}
