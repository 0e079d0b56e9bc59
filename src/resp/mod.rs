//! The wire of Redis: commands out, replies and pushes in, the state of a session. No I/O.
