//! The wire of browsers: HTTP/1.1 request heads and WebSocket frames, bytes <-> values.
//!
//! Everything here is a pure function or a small state machine: bytes go in, values or bytes come
//! out. No sockets, no clock, no JSON (but for the error body of an HTTP answer). What a frame
//! says is the business of `protocol`; what a path means that of whoever routes requests.
//!
//! | file | what |
//! |---|---|
//! | [`frame`], `header` | WebSocket decoding, server side (RFC 6455, 5) |
//! | [`encode`] | WebSocket encoding, server side |
//! | [`deflate`] | permessage-deflate (RFC 7692): offers, and both directions |
//! | [`mask`], [`utf8`] | unmasking; text that comes in pieces |
//! | [`head`], [`target`] | HTTP request heads (RFC 9112); paths and queries |
//! | [`body`] | what follows a head |
//! | [`upgrade`], [`origin`] | the answer to an upgrade; who may ask for one |
//! | [`forwarded`] | whose request it is where proxies stand before us |
//! | [`response`] | small HTTP answers |

pub mod body;
pub mod deflate;
pub mod encode;
pub mod forwarded;
pub mod frame;
pub mod head;
mod header;
pub mod mask;
pub mod origin;
pub mod response;
pub mod target;
pub mod upgrade;
pub mod utf8;

pub use body::BodyReader;
pub use encode::{begin_text, end_text, push_close, push_compressed, push_frame, push_text};
pub use forwarded::{Networks, client_address, is_passed_on};
pub use frame::{Decoder, DecoderLimits, Message, Violation};
pub use head::{Body, Head, HeadError};
pub use origin::{Origin, OriginPolicy, origin_allowed, shared_with};
pub use response::{Delivery, Response};
