//! Shards without threads: what broke once.

mod frames;
mod regressions;
