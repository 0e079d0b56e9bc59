//! Offers, and both directions of the streams against the library and a naive reader.

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::*;
use crate::model::CloseCode;
use crate::net::head;

mod naive;
mod offers;

/// What a client deflates, with zlib and all that it can be set to.
struct Client {
    stream: Compress,
    takeover: bool,
}

impl Client {
    fn new(level: u32, bits: u8, takeover: bool) -> Self {
        let stream = Compress::new_with_window_bits(Compression::new(level), false, bits.max(9));
        Self { stream, takeover }
    }

    fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        if !self.takeover {
            self.stream.reset();
        }
        let mut out = Vec::with_capacity(payload.len() * 2 + 100);
        let flush = FlushCompress::Sync;
        self.stream.compress_vec(payload, &mut out, flush).unwrap();
        assert!(out.len() < out.capacity());
        match out.strip_suffix(&[0, 0, 0xff, 0xff]) {
            Some(deflated) => deflated.to_vec(),
            None => vec![0],
        }
    }
}

/// Text of words, which repeats itself near and far.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "{\"type\":\"message\",",
        "\"room\":\"lobby\",",
        "payload",
        "Grüße",
        "0123456789",
        " ",
    ]);
    let text = prop::collection::vec(words, 0..400).prop_map(|words| words.concat().into_bytes());
    prop_oneof![
        4 => text,
        2 => prop::collection::vec(any::<u8>(), 0..2000),
        1 => (any::<u8>(), 0..70_000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// What we deflate, a reader with a window of so many bits gets, and no smaller one is needed.
    #[test]
    fn what_is_deflated_can_be_read_with_the_window_agreed_on(
        payloads in prop::collection::vec(payload(), 1..6),
        bits in 8..=15_u8,
        takeover in any::<bool>(),
    ) {
        let mut deflater = Deflater::new(bits, takeover);
        let mut reader = naive::Reader::new(1 << bits, takeover);
        for payload in payloads {
            let mut out = b"before".to_vec();
            deflater.deflate(&payload, &mut out);
            let deflated = out.strip_prefix(b"before").unwrap();
            prop_assert!(deflated.len() <= compressed_bytes_max(payload.len()));
            prop_assert_eq!(reader.read(deflated), Ok(payload));
        }
    }

    /// What a client deflates we get, whatever it is set to.
    #[test]
    fn what_clients_deflate_is_inflated(
        payloads in prop::collection::vec(payload(), 1..6),
        level in 0..=9_u32,
        bits in 8..=15_u8,
        takeover in any::<bool>(),
    ) {
        let mut client = Client::new(level, bits, takeover);
        let mut inflater = Inflater::new(takeover);
        for payload in payloads {
            let deflated = client.deflate(&payload);
            prop_assert_eq!(inflater.inflate(&deflated, 70_000), Ok(&payload[..]));
        }
    }

    /// A reader without bounds and the inflater say the same of any bytes.
    #[test]
    fn any_bytes_are_read_as_a_naive_reader_does(
        mut bytes in prop::collection::vec(any::<u8>(), 0..60),
        payload in payload(),
        change in any::<(prop::sample::Index, u8)>(),
        whole in any::<bool>(),
    ) {
        if whole {
            bytes = Client::new(6, 15, false).deflate(&payload);
            let at = change.0.index(bytes.len());
            bytes[at] ^= change.1 & 1;
        }
        let mut reader = naive::Reader::new(1 << 15, false);
        let mut inflater = Inflater::new(false);
        match (reader.read(&bytes), inflater.inflate(&bytes, 1 << 20)) {
            (Ok(theirs), ours) => prop_assert_eq!(ours, Ok(&theirs[..])),
            (Err(_), ours) => prop_assert!(ours.is_err(), "{:?}", ours),
        }
    }
}

#[test]
fn the_rfc_s_examples() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let mut inflater = Inflater::new(true);
    assert_eq!(inflater.inflate(&hello, 5), Ok(&b"Hello"[..]));
    // 7.2.3.2: the same again, by reference to the one before.
    let again = [0xf2, 0x00, 0x11, 0x00, 0x00];
    assert_eq!(inflater.inflate(&again, 5), Ok(&b"Hello"[..]));
    // 7.2.3.3: stored.
    let stored = [
        0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
    ];
    assert_eq!(inflater.inflate(&stored, 5), Ok(&b"Hello"[..]));
    // 7.2.3.4: the last block of a stream; the reader begins anew behind it.
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    assert_eq!(inflater.inflate(&last, 5), Ok(&b"Hello"[..]));
    assert_eq!(inflater.inflate(&last[..7], 5), Ok(&b"Hello"[..]));
    // 7.2.3.5: two blocks. 7.2.3.6: an empty one.
    let two = [
        0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
    ];
    for takeover in [true, false] {
        let mut inflater = Inflater::new(takeover);
        assert_eq!(inflater.inflate(&two, 5), Ok(&b"Hello"[..]));
        assert_eq!(inflater.inflate(&[0], 5), Ok(&b""[..]));
        assert_eq!(inflater.inflate(&hello, 5), Ok(&b"Hello"[..]));
    }
    let mut out = Vec::new();
    Deflater::new(15, true).deflate(b"", &mut out);
    assert_eq!(out, [0]);
}

#[test]
fn what_is_no_deflated_data_is_refused() {
    let code = |inflater: &mut Inflater, bytes: &[u8]| {
        let inflated = inflater.inflate(bytes, 1000).map(<[u8]>::len);
        inflated.map_err(|violation| violation.code)
    };
    let mut inflater = Inflater::new(false);
    let bad = Err(CloseCode::BAD_UTF8);
    assert_eq!(
        code(&mut inflater, b"\x07"),
        bad,
        "a block type that is not"
    );
    assert_eq!(code(&mut inflater, b"hello"), bad);
    // Refers back to a message before, which was agreed not to be kept.
    assert_eq!(code(&mut inflater, &[0xf2, 0x00, 0x11, 0x00, 0x00]), bad);
    // Cut in the middle of a block.
    let whole = Client::new(6, 15, false).deflate(&b"cut in the middle ".repeat(20));
    assert_eq!(code(&mut inflater, &whole), Ok(360));
    assert_eq!(code(&mut inflater, &whole[..whole.len() - 4]), bad);
    // Streams behind streams, of which each costs something to begin.
    assert_eq!(code(&mut inflater, &[3, 0].repeat(10)), Ok(0));
    assert_eq!(code(&mut inflater, &[3, 0].repeat(1000)), bad);
    assert_eq!(
        code(&mut inflater, &whole),
        Ok(360),
        "it goes on for others"
    );
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let limit = 64 * 1024;
    let bomb = Client::new(9, 15, false).deflate(&vec![0; 64 << 20]);
    assert!(bomb.len() < compressed_bytes_max(limit), "{}", bomb.len());
    let mut inflater = Inflater::new(false);
    let refused = inflater.inflate(&bomb, limit).unwrap_err();
    assert_eq!(refused.code, CloseCode::TOO_BIG);
    assert!(inflater.buffered_bytes() <= limit + 1);
    let exact = Client::new(9, 15, false).deflate(&vec![7; limit]);
    assert_eq!(inflater.inflate(&exact, limit).map(<[u8]>::len), Ok(limit));
    assert_eq!(inflater.buffered_bytes(), limit + 1);
    assert_eq!(
        inflater.inflate(&exact, limit - 1).unwrap_err().code,
        CloseCode::TOO_BIG
    );
    inflater.release();
    assert!(inflater.buffered_bytes() <= limit + 1, "kept for the next");
    let large = Client::new(9, 15, false).deflate(&vec![7; 1 << 20]);
    assert!(inflater.inflate(&large, 1 << 20).is_ok());
    inflater.release();
    assert_eq!(inflater.buffered_bytes(), 0);
}
