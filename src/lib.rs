//! ringcast: a real-time message server.

pub mod model;
pub mod net;
pub mod protocol;
