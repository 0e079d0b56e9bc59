//! Frames of the kinds that nearly all of Redis's replies are made of -> values.
//!
//! ```text
//! +text  -error  :number  $length text  *length elements  %length pairs  _ (nil)
//! ```
//!
//! A worker reads its rows out of maps of lists of texts: a decoder that knows every kind took most
//! of its time. This is a single pass over a frame that [`super::frame`] has walked: whole, within
//! bounds, no deeper than may be. What it can't have found (a number that is none) is `None`.

use bytes::Bytes;

use super::frame::{crlf, number_of};
use super::refusal::Refusal;
use super::value::Value;

/// The value that a frame is.
pub(super) fn decode(frame: &Bytes) -> Option<Value> {
    let mut at = 0;
    let value = next(frame, &mut at)?;
    (at == frame.len()).then_some(value)
}

fn next(frame: &Bytes, at: &mut usize) -> Option<Value> {
    let kind = *frame.get(*at)?;
    let start = *at + 1;
    let end = start + crlf(&frame[start..])?;
    *at = end + 2;
    let line = &frame[start..end];
    Some(match kind {
        b'+' => Value::Text(frame.slice(start..end)),
        b'-' => Value::Error(Refusal::new(std::str::from_utf8(line).ok()?)),
        b':' => Value::Number(std::str::from_utf8(line).ok()?.parse().ok()?),
        b'_' => line.is_empty().then_some(Value::Nil)?,
        b'$' | b'*' if line == b"-1" => Value::Nil,
        b'$' => {
            let (start, end) = (*at, *at + number_of(line)?);
            *at = end + 2;
            (*at <= frame.len()).then(|| Value::Text(frame.slice(start..end)))?
        }
        b'*' => list(frame, at, number_of(line)?)?,
        b'%' => list(frame, at, 2 * number_of(line)?)?,
        _ => return None,
    })
}

fn list(frame: &Bytes, at: &mut usize, length: usize) -> Option<Value> {
    // The walk has seen as many elements, so there are as many bytes at least.
    let mut values = Vec::with_capacity(length.min(frame.len()));
    for _ in 0..length {
        values.push(next(frame, at)?);
    }
    Some(Value::List(values))
}
