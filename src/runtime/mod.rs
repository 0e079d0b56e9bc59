//! The machine room: sockets, threads, the clock. For now only what asks a running instance.

pub mod ask;
