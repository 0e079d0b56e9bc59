//! The frame that nearly all bytes of a subscriber are: a message of a channel.
//!
//! ```text
//! >3 $7 message $length channel $length payload      RESP3; RESP2 has * for >
//! ```
//!
//! It is taken apart where it stands, without a walk before and a list between. Nothing is decided
//! here that [`super::frame`] does not decide too: what is not whole yet, or not quite so, is left
//! to it.

use bytes::{Buf, Bytes, BytesMut};

use super::frame::number_of;
use crate::model::limits::RESP_REPLY_BYTES_MAX;

/// The message at the head of `bytes`, its channel and payload, which is taken out of it. `None`:
/// there is none, or it is not whole, or it is larger than a reply may be.
pub(super) fn take(bytes: &mut BytesMut, resp3: bool) -> Option<(Bytes, Bytes)> {
    let head: &[u8] = match resp3 {
        true => b">3\r\n$7\r\nmessage\r\n",
        false => b"*3\r\n$7\r\nmessage\r\n",
    };
    if !bytes.starts_with(head) {
        return None;
    }
    let (channel_at, channel) = bulk(bytes, head.len())?;
    let (payload_at, payload) = bulk(bytes, channel_at + channel + 2)?;
    bytes.advance(channel_at);
    let channel = bytes.split_to(channel).freeze();
    bytes.advance(payload_at - channel_at - channel.len());
    let payload = bytes.split_to(payload).freeze();
    bytes.advance(2);
    Some((channel, payload))
}

/// Where the text of the bulk string at `at` begins, and its length, if all of it is there.
fn bulk(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = bytes.get(at..)?.strip_prefix(b"$")?;
    let digits = rest.iter().take(LENGTH_DIGITS_MAX + 1);
    let digits = digits.take_while(|byte| byte.is_ascii_digit()).count();
    let length = number_of(&rest[..digits])?;
    let begin = at + 1 + digits + 2;
    let end = begin.checked_add(length)?;
    let is_whole = rest[digits..].starts_with(b"\r\n")
        && end + 2 <= RESP_REPLY_BYTES_MAX
        && bytes.get(end..end + 2)? == b"\r\n";
    is_whole.then_some((begin, length))
}

/// Digits of a length that may be taken.
const LENGTH_DIGITS_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] =
        b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$11\r\n{\"a\":\"\r\n\"} \r\n+next\r\n";

    #[test]
    fn a_message_is_taken_and_what_follows_stays() {
        for (first, resp3) in [(b'>', true), (b'*', false)] {
            let mut bytes = BytesMut::from(WHOLE);
            bytes[0] = first;
            let taken = take(&mut bytes, resp3);
            let want = ("news".into(), Bytes::from_static(b"{\"a\":\"\r\n\"} "));
            assert_eq!(taken, Some(want));
            assert_eq!(bytes, "+next\r\n");
        }
    }

    #[test]
    fn what_is_not_quite_a_whole_message_is_left_as_it_is() {
        let whole = WHOLE.len() - b"+next\r\n".len();
        for end in 0..whole {
            let mut bytes = BytesMut::from(&WHOLE[..end]);
            assert_eq!(take(&mut bytes, true), None);
            assert_eq!(bytes, &WHOLE[..end]);
        }
        let too_large = format!("$1\r\na\r\n${RESP_REPLY_BYTES_MAX}\r\n");
        for odd in [
            "$4\r\nnews\r\n:12\r\n",
            "$4\r\nnews\r\n$-1\r\n",
            "$4\r\nnews\r\n$\r\n\r\n",
            "$4\r\nnews\r\n$+1\r\na\r\n",
            "$4\r\nnews\r\n$1\na\r\n",
            "$4\r\nnews\r\n$1\r\nabc",
            "$3\r\nnews\r\n$1\r\na\r\n",
            "$4\r\nnews\r\n$99999999999999999999\r\na\r\n",
            &too_large,
        ] {
            let text = format!(">3\r\n$7\r\nmessage\r\n{odd}");
            let mut bytes = BytesMut::from(&*text);
            assert_eq!(take(&mut bytes, true), None, "{odd:?}");
            assert_eq!(bytes, &*text);
        }
        let mut array = BytesMut::from(WHOLE);
        assert_eq!(take(&mut array, false), None, "a push is none of RESP2's");
    }
}
