//! Publications on their way into Redis: numbered, called, repeated, settled.
