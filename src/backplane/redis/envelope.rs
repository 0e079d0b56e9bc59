//! Envelopes of the channel and entries of the stream, read into items.
