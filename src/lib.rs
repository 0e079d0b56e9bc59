//! ringcast: a real-time message server.

pub mod model;
pub mod store;
