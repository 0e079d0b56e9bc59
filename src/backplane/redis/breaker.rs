//! Whether Redis is to be asked: closed, open, half-open.
