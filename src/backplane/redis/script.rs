//! The Lua scripts: their arguments and replies.
