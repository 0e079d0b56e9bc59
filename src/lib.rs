//! ringcast: a real-time message server.

pub mod hub;
pub mod model;
