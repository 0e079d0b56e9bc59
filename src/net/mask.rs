//! Unmasking (RFC 6455, 5.3): byte `i` of a payload is xored with byte `i mod 4` of the key.
//!
//! Eight bytes at a time, which the compiler widens to whole vectors. No alignment is asked for:
//! on the machines that matter an unaligned load costs nothing.

/// Unmasks `piece` in place. `offset` is where it begins in its frame's payload, so that a payload
/// may come in pieces of any size.
pub fn unmask(piece: &mut [u8], key: [u8; 4], offset: usize) {
    let turned: [u8; 4] = std::array::from_fn(|i| key[(offset + i) & 3]);
    let [a, b, c, d] = turned;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = piece.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let chunk: &mut [u8; 8] = match chunk.try_into() {
            Ok(chunk) => chunk,
            // chunks_exact_mut gives chunks of 8; the compiler drops this arm.
            Err(_) => continue,
        };
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    // A chunk is two whole turns of the key, so the rest begins at its first byte again.
    for (byte, key) in chunks
        .into_remainder()
        .iter_mut()
        .zip(turned.iter().cycle())
    {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_equal_the_whole() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let plain: Vec<u8> = (0..100).collect();
        let masked: Vec<u8> = plain
            .iter()
            .enumerate()
            .map(|(i, b)| b ^ key[i % 4])
            .collect();
        for cut in 0..=masked.len() {
            let mut bytes = masked.clone();
            let (left, right) = bytes.split_at_mut(cut);
            unmask(left, key, 0);
            unmask(right, key, cut);
            assert_eq!(bytes, plain, "cut at {cut}");
        }
    }
}
