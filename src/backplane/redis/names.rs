//! The names in Redis, by prefix and partition (PROTOCOL 5).
