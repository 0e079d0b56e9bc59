//! The records of what is held on disk while Redis is away.
