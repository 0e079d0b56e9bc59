//! ringcast: a real-time message server.

pub mod backplane;
pub mod hub;
pub mod model;
pub mod net;
pub mod protocol;
pub mod shard;
pub mod store;
